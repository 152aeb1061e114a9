from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

import leanmed
from leanmed.data import content_hashes, data_hash, read_records
from leanmed.errors import DataError, RunError
from leanmed.evaluation.answered import Answered, subgroup_rows
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.runs import evaluate_run, fold_figures, protocol_of, run_answers
from leanmed.manifest import Provenance
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.recipe.recipe import Evaluation, Recipe, Split
from leanmed.records import Record, Records
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.tasks.classification.judge import table_of

LABELS = ("non-anemic", "anemic")


@pytest.fixture
def clinic(tmp_path):
    """A folder of 20 pictures: number k has red 10 * k; from 10 on they are anemic, but for the last one."""
    root = tmp_path / "clinic"
    (root / "images").mkdir(parents=True)
    rows = ["image,label,group,site,age"]
    for k in range(20):
        Image.fromarray(np.full((10, 12, 3), (10 * k, 50, 50), np.uint8)).save(root / "images" / f"{k:02}.png")
        rows.append(f"images/{k:02}.png,{LABELS[10 <= k < 19]},p{k},{'AB'[k % 2]},{k}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Forty made eyelids, a third of them copies of others."""
    return PHANTOMS["eyelids"](tmp_path_factory.mktemp("copied") / "eyelids", count=40, copies=0.35, seed=3)


def made(**changes):
    content = {"leanmed": "0", "data_sha256": "0" * 64, "seed": 4, "protocol": "grouped", "fold": 0}
    recipe = {"name": "x", "evaluation": {"resamples": 100}}
    return Provenance(**(content | {"recipe": recipe} | changes))


def records(count: int) -> list[Record]:
    return [
        Record(f"{k}", Path(f"{k}"), "ab"[k % 2], f"g{k}", "AB"[k % 2], {"code": f"c{k}", "age": k, "sex": "FM"[k % 2]})
        for k in range(count)
    ]


def answered(count: int) -> Answered:
    answers = [leanmed.Prediction("a", {"a": 0.75, "b": 0.25}, 0.5)] * count
    return Answered(records(count), answers, ("a", "b"), "classification", [0] * count)


def test_records_and_answers_become_the_table_that_metrics_take():
    true = [Record("x", Path("x"), "a", "g"), Record("y", Path("y"), "b", "h")]
    given = [
        leanmed.Prediction("b", {"b": 0.75, "a": 0.25}, 0.5),
        leanmed.Prediction("b", {"a": 0.10001, "b": 0.9}, 0.5),
    ]
    table = table_of(true, given, ("a", "b"), [0, 3])
    assert table.probabilities[0].tolist() == [0.25, 0.75]
    assert table.truth.tolist() == [0, 1]
    assert table.predicted.tolist() == [1, 1]
    assert table.group.tolist() == ["g", "h"]
    assert table.fold is not None
    assert table.fold.tolist() == [0, 3]
    assert table.probabilities.sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-15)


def test_a_run_is_judged_on_the_test_parts_of_all_its_folds(finished_run, made_eyelids):
    report = evaluate_run(finished_run, command="leanmed evaluate run")
    assert report.figures["accuracy"].value == pytest.approx(54 / 60)
    assert report.figures["auc"].n == 60
    assert report.table is not None
    rows = read_csv(finished_run.path / SPLITS)
    tested = [sum(row[f"fold_{k}"] == "test" for row in rows) for k in (0, 1)]
    assert np.bincount(report.table.fold).tolist() == tested
    assert report.protocol.startswith("2-fold cross-validation, groups kept whole")
    assert report.leak is None
    assert report.notes == finished_run.facts["grouping"]
    assert [history.chosen for history in report.histories] == [1, 1]
    records = read_records("folder", made_eyelids)
    assert report.provenance.data_hash == data_hash(records, content_hashes(records))
    assert report.provenance.command == "leanmed evaluate run"


def test_validation_images_have_no_part_in_the_figures_of_a_fold(finished_run, made_eyelids):
    known = read_records("folder", made_eyelids)
    fold = finished_run.fold(1)
    tested = {row["image"] for row in read_csv(finished_run.path / SPLITS) if row["fold_1"] == "test"}
    assert {r.id for r in run_answers(finished_run, known, [fold]).records} == tested
    assert fold_figures(finished_run, known, 1)["auc"].n == len(tested)


def test_a_run_is_not_judged_on_other_labels_than_it_was_trained_on(finished_run, made_eyelids, tmp_path, refused):
    root = shutil.copytree(made_eyelids, tmp_path / "moved")
    assert evaluate_run(finished_run, data=root).figures["auc"].n == 60
    table = (root / "labels.csv").read_text().splitlines()
    table[1] = table[1].replace("site-", "ward-")
    (root / "labels.csv").write_text("\n".join(table))
    with refused(RunError, f"expected at {root} the images and labels", "got others; give the same ones with --data"):
        evaluate_run(finished_run, data=root)


def test_a_run_under_the_paper_protocol_says_that_it_leaks(finished_run):
    facts = finished_run.facts | {"protocol": "paper", "leak": "This result LEAKS"}
    report = evaluate_run(replace(finished_run, facts=facts))
    assert report.leak == "This result LEAKS"
    assert report.protocol == "2-fold cross-validation by image, as published"


def test_an_artifact_is_judged_on_what_it_answers(clinic, make_artifact):
    predictor = leanmed.load(make_artifact(threshold=95 / 255, provenance=made()))
    steps: list[tuple[str, int, int]] = []
    report = evaluate_artifact(predictor, clinic, progress=lambda *step: steps.append(step))
    assert report.figures["accuracy"].value == pytest.approx(19 / 20)  # the last one is red and not anemic
    assert report.figures["auc"].value == pytest.approx(1 - 9 / (9 * 11))
    assert report.figures["recall"].value == 1
    assert [(done, total) for stage, done, total in steps if stage == "images"] == [(k, 20) for k in range(1, 21)]
    assert "read" in {stage for stage, _, _ in steps}, "the audit for copies is told too"
    assert [mistake.id for mistake in report.mistakes] == ["images/19.png"]
    assert {row.name for row in report.subgroups} == {"site", "age"}
    assert report.notes[0].startswith("labels.csv is read as text in UTF-8 with commas between its fields: 20 row(s)")
    assert report.notes[1:] == ["20 images in 20 groups; groups: the data set's own joined with an audit for copies."]
    assert report.title == f"mean-red: artifact {predictor.artifact.sha256[:12]} (fp32)"
    assert report.provenance.seeds == [4]


def test_an_artifact_is_not_judged_on_what_it_was_made_from(clinic, make_artifact):
    seen = content_hashes(read_records("folder", clinic))[::2]
    origin = made(seen_images=tuple(digest[:16] for digest in seen))
    report = evaluate_artifact(leanmed.load(make_artifact(provenance=origin)), clinic)
    assert report.figures["auc"].n == 10
    assert report.notes[2:] == ["10 of 20 images made the artifact, or share a group with one that did; left out."]


def test_nor_on_copies_of_what_it_was_made_from(copied, make_artifact, tmp_path):
    """A flipped copy has other contents; the audit, which is kept, knows it."""
    records = read_records("folder", copied)
    families = Counter(record.group for record in records)  # the reader is told the photograph of each
    first = next(record for record in records if families[record.group] > 1)
    seen = tuple(content[:16] for content in content_hashes([first]))
    alone = [replace(record, group=record.id) for record in records]
    predictor = leanmed.load(make_artifact(provenance=made(seen_images=seen)))
    with patch("leanmed.evaluation.artifacts.read_records_for", return_value=Records(alone)):
        report = evaluate_artifact(predictor, copied, cache=tmp_path)
    assert report.figures["auc"].n == len(records) - families[first.group]
    assert len(list(tmp_path.glob("groups-*.csv"))) == 1


def test_an_artifact_that_has_seen_everything_is_not_judged_at_all(clinic, make_artifact, refused):
    seen = tuple(digest[:16] for digest in content_hashes(read_records("folder", clinic)))
    predictor = leanmed.load(make_artifact(provenance=made(seen_images=seen)))
    with refused(DataError, "expected images new to this artifact", "give images that are new to it"):
        evaluate_artifact(predictor, clinic)


def test_images_that_cannot_be_read_are_noted(clinic, make_artifact):
    (clinic / "images" / "03.png").write_bytes(b"")
    report = evaluate_artifact(leanmed.load(make_artifact(provenance=made())), clinic)
    assert report.figures["auc"].n == 19
    assert len(report.notes) == 3
    assert report.notes[2].startswith("Not answered: images/03.png:")
    assert "an empty file" in report.notes[2]


def test_images_of_which_none_can_be_read_are_refused(clinic, make_artifact, refused):
    for number, path in enumerate(sorted((clinic / "images").iterdir())):
        path.write_bytes(b"no image %d" % number)
    with refused(DataError, "expected images to audit, but none of 20 can be read", "00.png"):
        evaluate_artifact(leanmed.load(make_artifact(provenance=made())), clinic)


def test_labels_the_artifact_does_not_know_are_refused(clinic, make_artifact, refused):
    predictor = leanmed.load(make_artifact(labels=("healthy", "anemic"), provenance=made()))
    with refused(DataError, "expected images of the labels healthy, anemic", "got images of non-anemic"):
        evaluate_artifact(predictor, clinic)


def test_an_artifact_of_unknown_recipe_can_be_judged_on_a_named_data_set(clinic, make_artifact):
    predictor = leanmed.load(make_artifact(provenance=made(recipe={})))
    assert evaluate_artifact(predictor, clinic, dataset="folder").figures["auc"].n == 20


def test_what_an_artifact_leaks_stands_in_its_report(clinic, make_artifact):
    predictor = leanmed.load(make_artifact(leak="It LEAKS.", provenance=made()))
    assert evaluate_artifact(predictor, clinic).leak == "It LEAKS. This artifact was made under it."


def test_without_a_choice_subgroups_are_of_numbers_and_of_few_values():
    rows = subgroup_rows(answered(13), answered(13).table(), Evaluation(resamples=100))
    assert {row.name for row in rows} == {"site", "sex", "age"}  # 13 codes are no subgroups


def test_subgroups_can_be_chosen_and_banded():
    settings = Evaluation(resamples=100, subgroups=("age", "nothing"), edges={"age": (4.0, 8.0)})
    rows = subgroup_rows(answered(12), answered(12).table(), settings)
    assert [(row.name, row.value, row.n) for row in rows] == [
        ("age", "< 4", 4),
        ("age", "4 to < 8", 4),
        ("age", "≥ 8", 4),
    ]


def test_the_report_says_how_many_groups_of_a_site_were_learned_from() -> None:
    recipe = Recipe(name="adapted", task="segmentation", split=Split(protocol="adapt", adapt=3))
    said = protocol_of(Run(Path("run"), recipe, {"protocol": "adapt", "folds": 4}))
    assert said.startswith(
        "Adapt to one site: each site is tested by a model that learned from the others and from 3 of"
    )
