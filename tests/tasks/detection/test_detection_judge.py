from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import leanmed
from artifact_fixtures import basis_of
from detection_fixtures import ALARM, NODULE, constant_graph, planted_run, write_slices
from leanmed.data import read_records
from leanmed.errors import DataError
from leanmed.evaluation.answered import Answered, report_of
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.runs import evaluate_run, fold_figures, run_answers
from leanmed.exporting.card import write_card
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.phantoms.scans import write_luna16
from leanmed.reading.images import read_image
from leanmed.records import Boxes, Record
from leanmed.report.report import Report, write_report
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.tasks.detection.figures import Detected
from leanmed.tasks.detection.judge import mistakes, subgroups, table_of


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("data") / "slices")


@pytest.fixture(scope="module")
def run(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return planted_run(tmp_path_factory.mktemp("run") / "run", slices)


@pytest.fixture(scope="module")
def report(run: Run) -> Report:
    return evaluate_run(run, command="leanmed evaluate run")


def boxes_manifest(**changes) -> dict:
    recipe = {"name": "nodules", "split": {"groups": "reader"}, "evaluation": {"resamples": 100}}
    origin = Provenance(leanmed="0", data_sha256="0" * 64, seed=0, protocol="grouped", fold=0, recipe=recipe)
    content = {"task": "detection", "labels": ("nodule",), "main_score": "ap50"}
    content |= {"input": Input(side=64, kind="slice", slices=1, reduced=False), "threshold": 0.5, "provenance": origin}
    return content | changes


def test_records_and_answers_become_the_table_that_figures_take() -> None:
    records = [
        Record("a", Path("a"), Boxes(((1, 2, 5, 6), (7, 7, 9, 9)), (4.5, 6.0)), "p"),
        Record("b", Path("b"), Boxes(((3, 3, 4, 4),)), "q"),
    ]
    answers = [
        leanmed.Detections(((1, 2, 5, 7),), (0.75,), 0.5, ((0, 0, 3, 3),), (0.25,)),
        leanmed.Detections((), (), 0.25),
    ]
    table = table_of(records, answers, ("nodule",), [0, 2])
    assert [t.tolist() for t in table.truth] == [[[1, 2, 5, 6], [7, 7, 9, 9]], [[3, 3, 4, 4]]]
    assert [b.tolist() for b in table.boxes] == [[[1, 2, 5, 7], [0, 0, 3, 3]], []]
    assert [s.tolist() for s in table.scores] == [[0.75, 0.25], []]
    assert table.group.tolist() == ["p", "q"]
    assert table.labels == ("nodule",)
    assert table.threshold.tolist() == [0.5, 0.25]
    assert table.fold.tolist() == [0, 2]
    assert table.diameters[0].tolist() == [4.5, 6.0]
    assert np.isnan(table.diameters[1]).tolist() == [True]


def test_diameters_that_nobody_knows_are_left_out() -> None:
    records, answers = [Record("a", Path("a"), Boxes(((1, 2, 5, 6),)), "p")], [leanmed.Detections((), (), 0.5)]
    table = table_of(records, answers, ("nodule",))
    assert (table.diameters, table.fold) == ((), None)


def test_a_run_is_judged_on_what_was_planted(report: Report) -> None:
    """Of slices 0 to 59, 40 hold a nodule; every fourth's goes missing, 10 of them; every fifth slice has an alarm."""
    assert report.figures["recall"].value == pytest.approx(30 / 40)
    assert report.figures["precision"].value == pytest.approx(30 / (30 + 12))
    assert report.figures["sensitivity"].value == pytest.approx(30 / 40)
    assert report.figures["top_recall"].value == pytest.approx(30 / 40)
    assert report.main_score == "ap50"
    assert [row.threshold for row in report.folds] == [0.5, 0.5]
    assert report.protocol.startswith("2-fold cross-validation, groups kept whole")


def test_a_fold_is_judged_on_its_own_test_part(run: Run, slices: Path) -> None:
    tested = [row for row in read_csv(run.path / SPLITS) if row["fold_1"] == "test"]
    assert fold_figures(run, read_records("voc", slices), 1)["ap50"].n == len(tested) > 0


def test_figures_are_told_by_diameter(report: Report) -> None:
    rows = [row for row in report.subgroups if row.name == "diameter"]
    assert [row.value for row in rows] == ["< 6 mm", "6 to < 8 mm", "8 to < 15 mm"]
    assert sum(row.positives for row in rows) == 40


def test_the_first_mistakes_are_sure_alarms_and_large_misses_one_of_a_patient(report: Report) -> None:
    alarms = [m for m in report.mistakes if m.answered == "nodule"]
    misses = [m for m in report.mistakes if m.answered == "nothing there"]
    assert {m.places.focus for m in alarms} == {ALARM}
    assert {m.probability for m in alarms} == {0.8}
    assert {m.places.focus for m in misses} == {NODULE}
    assert all(m.places.true == (NODULE,) and set(m.places.predicted) <= {ALARM} for m in misses)
    for kind in (alarms, misses):
        patients = [int(m.image.stem) // 3 for m in kind]
        assert len(set(patients)) == len(patients) == 6


def test_larger_misses_come_first() -> None:
    sizes = (4.0, 9.0)
    truth = [np.array([[0, 0, s, s]]) for s in sizes]
    nothing = [np.empty((0, 4))] * 2
    table = Detected(truth, nothing, [np.empty(0)] * 2, np.full(2, 0.5), np.array(["p", "q"]))
    records = [Record(f"{s:g}", Path("x"), Boxes(), "p") for s in sizes]
    assert [m.id for m in mistakes(table, records, [])] == ["9", "4"]


def test_small_cells_of_an_attribute_have_no_figures(report: Report) -> None:
    site = ["A"] * 55 + ["B"] * 5
    rows = subgroups(report.table, {"site": site}, edges={}, resamples=20)[-2:]
    assert [(row.value, row.n) for row in rows] == [("A", 55), ("B", 5)]
    assert np.isfinite(rows[0].figures["froc"].value)
    assert np.isnan(rows[1].figures["froc"].value)


@pytest.mark.parametrize(("groups", "shown"), [(9, False), (10, True)])
def test_a_cell_with_objects_in_few_groups_has_figures_and_no_intervals(groups: int, shown: bool) -> None:
    nodule, none = np.array([[0.0, 0, 10, 10]]), np.empty((0, 4))
    truth, boxes = [nodule] * 20 + [none] * 10, [nodule, nodule, none, none] * 5 + [none] * 10
    scores = [np.full(len(b), 0.9) for b in boxes]
    group = np.array([f"g{i * groups // 20}" for i in range(20)] + [f"empty{i}" for i in range(10)])
    table = Detected(truth, boxes, scores, np.full(30, 0.5), group)
    (row,) = subgroups(table, {"site": ["A"] * 30}, edges={}, resamples=50)
    assert (row.groups, row.figures["recall"].value) == (groups + 10, 0.5)
    assert np.isfinite(row.figures["recall"].low) == shown


def test_the_page_shows_curves_bands_and_the_places_of_mistakes(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path, report, read=read_image)
    page = (tmp_path / "report.html").read_text()
    for words in ("FROC curve", "Precision and recall", "&lt; 6 mm", "Sensitivity at 1 FP", "Objects</th>"):
        assert words in page
    assert page.count("data:image/jpeg;base64,") == len(report.mistakes) == 12
    assert "Boxes answered: 30 objects found, 12 false positives, 10 objects missed." in page
    assert "Not a medical device" in page


def test_the_json_holds_counts_and_places_but_no_paths(report: Report, tmp_path: Path, slices: Path) -> None:
    write_report(tmp_path, report, overwrite=True)
    text = (tmp_path / "report.json").read_text()
    found = json.loads(text)
    assert found["counts"] == {"answered": {"tp": 30, "fp": 12, "fn": 10}, "top": {"tp": 30, "fp": 10, "fn": 10}}
    assert found["metrics"]["sensitivity@0.125"]["n"] == 60
    assert found["mistakes"][0]["places"]["focus"] == list(ALARM)
    assert str(slices) not in text


def test_without_any_object_there_is_still_a_report(run: Run, report: Report, slices: Path, tmp_path: Path) -> None:
    every = run_answers(run, read_records("voc", slices), run.folds())
    pairs = [pair for pair in zip(every.records, every.answers, strict=True) if not pair[0].boxes.xyxy]
    answered = Answered([r for r, _ in pairs], [a for _, a in pairs], every.labels, every.task)
    about = {"title": "none", "protocol": "none", "main_score": "ap50", "thresholds": {0: 0.5}}
    empty = report_of(answered, run.recipe.evaluation, provenance=report.provenance, **about)
    write_report(tmp_path, empty, overwrite=True)
    page = (tmp_path / "report.html").read_text()
    assert "20 images" in page
    assert "hold 0 objects" in page
    assert np.isnan(empty.figures["ap50"].value)


def test_an_artifact_is_judged_on_all_its_boxes(make_artifact, slices: Path) -> None:
    """It finds every nodule and answers no alarm, but finds one in each of 20 slices without any."""
    predictor = leanmed.load(make_artifact(graph=constant_graph(), **boxes_manifest()))
    report = evaluate_artifact(predictor, slices, dataset="voc")
    assert report.figures["ap50"].value == pytest.approx(40 / 60)
    assert report.figures["recall"].value == 1
    assert report.figures["precision"].value == pytest.approx(40 / 60)
    assert report.title.startswith("mean-red: artifact")


def test_slices_of_a_scan_are_read_and_shown_by_their_number(make_artifact, tmp_path: Path) -> None:
    write_luna16(tmp_path / "luna16", count=2)
    predictor = leanmed.load(make_artifact(graph=constant_graph(), **boxes_manifest()))
    report = evaluate_artifact(predictor, tmp_path / "luna16", dataset="luna16")
    assert not [note for note in report.notes if "Not answered" in note]
    assert all(mistake.frame is not None for mistake in report.mistakes)
    write_report(tmp_path / "out", report, read=read_image)
    assert "cannot be read" not in (tmp_path / "out" / "report.html").read_text()


def test_images_with_labels_are_no_test_for_boxes(make_artifact, made_eyelids: Path, refused) -> None:
    predictor = leanmed.load(make_artifact(graph=constant_graph(), **boxes_manifest()))
    with refused(DataError, "expected boxes, got a class label"):
        evaluate_artifact(predictor, made_eyelids, dataset="folder")


def test_the_card_of_a_detector_tells_what_its_boxes_are(report: Report) -> None:
    figures = {name: vars(figure) for name, figure in report.figures.items()}
    card = write_card(
        Manifest(name="n", temperature=1.0, graphs={}, figures=figures, **boxes_manifest()), basis_of(report), 1e-6
    )
    for words in ("boxes of `nodule`", "at least 0.500", "| AP at IoU 0.5 |", "diameter: < 6 mm", "per slice"):
        assert words in card
