"""Several data sets in one report, and data sets of one label."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leanmed
from leanmed.errors import DataError
from leanmed.evaluation.answered import check_prevalence
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.beside import carried_set, evaluate_beside, named_sets
from leanmed.evaluation.files import evaluate_answers
from leanmed.evaluation.runs import evaluate_run
from leanmed.figures.bootstrap import difference
from leanmed.report.report import Report, as_json, render
from leanmed.runs import Run
from leanmed.runtime.lines import line_of, write_lines
from leanmed.runtime.predictor import Predictor
from leanmed.tasks import TASKS
from made_hospitals import origin_of, write_hospital

Make = Callable[..., Path]
Refused = Callable[..., AbstractContextManager[None]]
CARRIED = {
    "auc": {"value": 0.9, "low": 0.85, "high": 0.94, "n": 300},
    "recall": {"value": 1.0, "low": None, "high": None, "n": 300},
    "of an older version": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 300},
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mine`, whose labels come true as they are answered, and `north` and `south`, where they do not."""
    root = tmp_path_factory.mktemp("hospitals")
    write_hospital(root / "mine", 90)
    write_hospital(root / "north", 70, shift=2, seed=1)
    write_hospital(root / "south", 50, scale=-1, seed=2)
    return root


@pytest.fixture
def predictor(make_artifact: Make) -> Predictor:
    return leanmed.load(make_artifact(provenance=origin_of(), figures=CARRIED, figures_of="folds"))


def together(predictor: Predictor, hospitals: Path, *names: str) -> Report:
    sets = {name: hospitals / name for name in names}
    return evaluate_beside(sets, lambda folder: evaluate_artifact(predictor, folder), manifest=predictor.manifest)


def test_each_set_has_its_own_figures_and_the_change_from_the_first(predictor: Predictor, hospitals: Path) -> None:
    alone = {name: evaluate_artifact(predictor, hospitals / name) for name in ("mine", "north", "south")}
    report = together(predictor, hospitals, "mine", "north", "south")
    carried, *sets = report.data_sets
    assert (carried.name, carried.images, carried.groups, carried.change) == ("cross-validated", 300, None, {})
    assert [(one.name, one.images, one.compared_with) for one in sets] == [
        ("mine", 90, "cross-validated"),
        ("north", 70, "mine"),
        ("south", 50, "mine"),
    ]
    assert report.figures == alone["mine"].figures
    for one in sets:
        assert one.figures == alone[one.name].figures
    mine, north, south = sets
    assert north.change["auc"] == difference(mine.figures["auc"], north.figures["auc"])
    assert south.change["auc"].value == pytest.approx(south.figures["auc"].value - mine.figures["auc"].value)
    assert south.change["auc"].high < 0 < north.change["recall"].low
    assert mine.change["auc"] == difference(carried.figures["auc"], mine.figures["auc"])
    assert np.isnan(mine.change["recall"].low)  # what is carried has no interval
    assert set(mine.change) == {"auc", "recall"}


def test_a_page_and_json_show_them_beside_each_other(predictor: Predictor, hospitals: Path) -> None:
    report = together(predictor, hospitals, "mine", "north")
    page = render(report)
    assert [page.index(f'<th scope="col">{name}</th>') for name in ("cross-validated", "mine", "north")]
    assert "Changes are from" in page
    rows = as_json(report)["data_sets"]
    assert rows[2]["change"]["auc"]["value"] == report.data_sets[2].change["auc"].value
    assert rows[0]["figures"]["recall"] == CARRIED["recall"]
    assert {row["data_set"] for row in report.answers} == {"mine", "north"}
    assert len(report.answers) == 160
    assert any(note.startswith("north: 70 images in 70 groups") for note in report.notes)


def test_one_set_of_an_artifact_without_figures_is_shown_alone(make_artifact: Make, hospitals: Path) -> None:
    bare = leanmed.load(make_artifact(provenance=origin_of()))
    report = together(bare, hospitals, "mine")
    assert report.data_sets == ()
    assert "data_set" not in report.answers[0]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"figures_of": "folds"}, "cross-validated"),
        ({"figures_of": "itself"}, "its own test part"),
        ({"figures_of": "folds", "recalibration": {"slope": 1.0}}, "cross-validated, before its recalibration"),
    ],
)
def test_what_is_carried_says_what_it_was_measured_on(changes: dict[str, Any], name: str, make_artifact: Make) -> None:
    assert carried_set(leanmed.load(make_artifact(figures=CARRIED, **changes)).manifest).name == name


def test_images_in_two_sets_are_told(predictor: Predictor, hospitals: Path, tmp_path: Path) -> None:
    shutil.copytree(hospitals / "mine", tmp_path / "part")
    table = (tmp_path / "part" / "labels.csv").read_text().splitlines()
    (tmp_path / "part" / "labels.csv").write_text("\n".join(table[:31]) + "\n")
    sets = {"mine": hospitals / "mine", "part": tmp_path / "part", "north": hospitals / "north"}
    report = evaluate_beside(sets, lambda folder: evaluate_artifact(predictor, folder))
    assert [note for note in report.notes if "are in mine too" in note] == [
        "30 images of part are in mine too. The interval of the change between the two takes them for different ones, "
        "and is wider than it need be."
    ]


def test_one_file_of_answers_is_judged_on_several_folders(
    predictor: Predictor, hospitals: Path, tmp_path: Path, refused: Refused
) -> None:
    sets = {name: hospitals / name for name in ("mine", "north")}
    files = [path for folder in sets.values() for path in sorted((folder / "images").iterdir())]
    write_lines(tmp_path / "answers.jsonl", (line_of(str(path), predictor.predict(path)) for path in files))

    def judge(folder: Path) -> Report:
        return evaluate_answers(tmp_path / "answers.jsonl", folder, groups="reader", others=tuple(sets.values()))

    report = evaluate_beside(sets, judge)
    assert [(one.name, one.compared_with) for one in report.data_sets] == [("mine", ""), ("north", "mine")]
    by_artifact = together(predictor, hospitals, "mine", "north").data_sets
    assert report.data_sets[1].figures["auc"].value == by_artifact[2].figures["auc"].value
    with refused(DataError, "data set empty: ", "expected the data to be a folder"):
        evaluate_beside(sets | {"empty": tmp_path / "nowhere"}, judge)


def test_sets_are_named_by_the_user_or_by_their_folders(tmp_path: Path, refused: Refused) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    found = named_sets(tmp_path / "mine", [f"north={tmp_path / 'x'}", str(tmp_path / "south"), str(odd)])
    assert list(found.items()) == [
        ("mine", tmp_path / "mine"),
        ("north", tmp_path / "x"),
        ("south", tmp_path / "south"),
        ("a=b", odd),
    ]
    with refused(DataError, "expected a name of its own for each data set, got 'mine'", "--also NAME="):
        named_sets(tmp_path / "mine", [str(tmp_path / "other" / "mine")])
    with refused(DataError, "got 'an empty one'"):
        named_sets(tmp_path / "mine", [f"={tmp_path}"])


def test_predictive_values_stand_beside_those_at_the_own_prevalence(predictor: Predictor, hospitals: Path) -> None:
    report = evaluate_artifact(predictor, hospitals / "mine", prevalence=0.05)
    own, stated = report.predictive_values
    truths = [row["truth"] for row in report.answers]
    assert own.prevalence == pytest.approx(truths.count("anemic") / 90)
    assert own.figures["ppv"].value == pytest.approx(report.figures["precision"].value)
    sensitivity, specificity = (report.figures[name].value for name in ("recall", "specificity"))
    wanted = sensitivity * 0.05 / (sensitivity * 0.05 + (1 - specificity) * 0.95)
    assert (stated.prevalence, stated.figures["ppv"].value) == (0.05, pytest.approx(wanted))
    assert as_json(report)["predictive_values"][1]["figures"]["ppv"]["value"] == pytest.approx(wanted)
    assert "Positive predictive value" in render(report)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_prevalence_is_a_share_between_0_and_1(prevalence: float, refused: Refused) -> None:
    with refused(DataError, "expected --prevalence as a share above 0 and below 1, such as 0.05"):
        check_prevalence("classification", ("a", "b"), prevalence)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("classification", ("a", "b", "c")),
        *((name, ("thing",)) for name, kind in TASKS.items() if not kind.probabilities),
        *((name, ("one", "two")) for name, kind in TASKS.items() if not kind.probabilities),
    ],
)
def test_a_prevalence_is_refused_where_answers_are_not_yes_or_no(
    task: str, labels: tuple[str, ...], refused: Refused
) -> None:
    with refused(DataError, "expected answers that are one of two labels with --prevalence", f"got {task} of"):
        check_prevalence(task, labels, 0.1)


def test_a_run_has_predictive_values_too(finished_run: Run) -> None:
    report = evaluate_run(finished_run, prevalence=0.2)
    assert [row.prevalence for row in report.predictive_values] == [pytest.approx(report_share(report)), 0.2]
    assert report.decision_curve is not None


def report_share(report: Report) -> float:
    truths = [row["truth"] for row in report.answers]
    return truths.count("anemic") / len(truths)


@pytest.fixture
def anemic_alone(hospitals: Path, tmp_path: Path) -> Path:
    """The anemic images of `mine`, in a folder that is called so, and nothing else."""
    for row in (hospitals / "mine" / "labels.csv").read_text().splitlines()[1:]:
        name, label, _ = row.split(",")
        if label == "anemic":
            (tmp_path / "one" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(hospitals / "mine" / name, tmp_path / "one" / label)
    return tmp_path / "one"


def test_images_of_one_label_tell_the_sensitivity_alone(
    predictor: Predictor, hospitals: Path, anemic_alone: Path
) -> None:
    report = evaluate_artifact(predictor, anemic_alone)
    told = {name for name, figure in report.figures.items() if figure.value == figure.value}
    assert told == {"recall", "accuracy", "loss", "brier"}
    both = evaluate_artifact(predictor, hospitals / "mine")
    assert report.figures["recall"].value == pytest.approx(both.figures["recall"].value)
    assert report.figures["recall"].low < report.figures["recall"].value < report.figures["recall"].high
    assert report.main_score == "recall"
    assert report.decision_curve is None
    lacking = "Undefined (–) without images of every label: ROC-AUC, Average precision, F1, ECE."
    assert lacking in report.undefined
    page, values = render(report), as_json(report)
    assert lacking in page
    assert lacking in values["remarks"]
    assert any("All are of one label, so that nothing can be said" in remark for remark in values["remarks"])
    assert values["metrics"]["auc"]["value"] is None
    assert not any(title in page for title in ("ROC curve", "Reliability", "Decision curve"))


def test_one_label_beside_both_has_a_change_of_what_both_tell(
    predictor: Predictor, hospitals: Path, anemic_alone: Path
) -> None:
    sets = {"mine": hospitals / "mine", "alone": anemic_alone}
    report = evaluate_beside(sets, lambda folder: evaluate_artifact(predictor, folder))
    change = report.data_sets[1].change
    assert change["recall"].value == pytest.approx(0)
    assert np.isnan(change["auc"].value)
    assert json.dumps(as_json(report))


def test_answers_to_images_of_one_label_are_judged_too(
    predictor: Predictor, anemic_alone: Path, tmp_path: Path
) -> None:
    files = sorted((anemic_alone / "anemic").iterdir())
    write_lines(tmp_path / "answers.jsonl", (line_of(str(path), predictor.predict(path)) for path in files))
    report = evaluate_answers(tmp_path / "answers.jsonl", anemic_alone, groups="reader")
    assert report.main_score == "recall"
    assert report.figures["recall"].n == len(files)
