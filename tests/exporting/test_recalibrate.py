"""`leanmed recalibrate`: from an artifact and new labelled images to an artifact whose graph has a new end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import leanmed
from artifact_fixtures import LABELS
from leanmed.data import content_hashes, read_records
from leanmed.errors import ArtifactError, DataError, OutputError
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.exporting.recalibrate import recalibrate, remarks
from leanmed.figures.bootstrap import Figure
from leanmed.figures.calibration import choose_threshold
from leanmed.figures.recalibration import Recalibration
from leanmed.manifest import GIVEN, Manifest
from leanmed.runtime.artifact import read_artifact
from leanmed.tasks import TASKS
from made_hospitals import origin_of, write_hospital

Make = Callable[..., Path]
Refused = Callable[..., AbstractContextManager[None]]
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from leanmed.cli import main
main()
"""
PRECISE = {"provenance": origin_of(), "threshold_rule": "youden"}


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred images that the artifact is too sure of, and calls anemic too often: logits 3 z + 1."""
    return write_hospital(tmp_path_factory.mktemp("hospitals") / "north", 200, scale=3, shift=1)


def recalibration_of(manifest: Manifest) -> Recalibration:
    facts = manifest.recalibration
    return Recalibration(facts["slope"], tuple(facts["intercepts"].values()))


def test_the_new_graph_answers_what_was_fitted(make_artifact: Make, north: Path, tmp_path: Path) -> None:
    source = make_artifact(**PRECISE)
    recalibrate(source, north, tmp_path / "new")
    before, after = leanmed.load(source), leanmed.load(tmp_path / "new")
    found = recalibration_of(after.manifest)
    images = sorted((north / "images").iterdir())[::9]
    old, new = ([own.predict(image).probability for image in images] for own in (before, after))
    pairs = np.stack([1 - np.array(old), old], axis=1)
    assert new == pytest.approx(found.applied(pairs)[:, 1], abs=1e-6)
    assert np.argsort(old).tolist() == np.argsort(new).tolist()
    assert found.slope == pytest.approx(1 / 3, abs=0.12)
    assert found.intercepts == pytest.approx((0, -1 / 3), abs=0.35)


def test_what_was_fitted_and_measured_stands_in_the_manifest_and_the_card(
    make_artifact: Make, north: Path, tmp_path: Path
) -> None:
    source = make_artifact(**PRECISE, figures={"auc": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 9}})
    found = recalibrate(source, north, tmp_path / "new")
    old, new = read_artifact(source), read_artifact(tmp_path / "new")
    facts = new.manifest.recalibration
    assert (facts["fitted"], facts["images"], facts["groups"]) == ("slope and intercept", 200, 200)
    assert sum(facts["groups_of_each"].values()) == 200
    slope = facts["parameters"]["slope"]
    assert slope["low"] < slope["value"] == facts["slope"] < slope["high"] < 1
    measured = facts["measured"]
    assert measured["change"]["loss"]["high"] < 0
    assert measured["change"]["ece"]["value"] < -0.05
    for name in ("loss", "brier"):
        gain = measured["after"][name]["value"] - measured["before"][name]["value"]
        assert measured["change"][name]["value"] == pytest.approx(gain)
    assert "auc" not in measured["change"]
    assert new.manifest.provenance.parents == (old.sha256,)
    assert new.manifest.figures == old.manifest.figures
    assert f"on {facts['images']} images" not in old.card
    assert f"Fitted to {facts['images']} images of {facts['groups']} groups" in new.card
    assert new.card.startswith(old.card)
    told = "\n".join(found.lines())
    assert "slope and intercept fitted to 200 images of 200 groups" in told
    assert "loss " in told
    assert "is not shown to fall" not in told


def test_before_is_what_evaluate_says_and_the_images_are_seen_from_then_on(
    make_artifact: Make, north: Path, tmp_path: Path, refused: Refused
) -> None:
    source = make_artifact(**PRECISE)
    measured = evaluate_artifact(leanmed.load(source), north).figures
    found = recalibrate(source, north, tmp_path / "new")
    for name, (before, _, _) in found.changes.items():
        assert before.value == pytest.approx(measured[name].value), name
    with refused(DataError, "expected images new to this artifact"):
        evaluate_artifact(leanmed.load(tmp_path / "new"), north)
    elsewhere = write_hospital(tmp_path / "elsewhere", 80, scale=3, shift=1, seed=9)
    again = evaluate_artifact(leanmed.load(tmp_path / "new"), elsewhere).figures
    old = evaluate_artifact(leanmed.load(source), elsewhere).figures
    assert again["loss"].value < old["loss"].value - 0.1
    assert again["auc"].value == pytest.approx(old["auc"].value)


def test_the_threshold_is_chosen_by_the_artifacts_rule_on_the_new_probabilities(
    make_artifact: Make, north: Path, tmp_path: Path
) -> None:
    source, new = make_artifact(**PRECISE), tmp_path / "new"
    recalibrate(source, north, new)
    manifest = read_artifact(new).manifest
    records = read_records("folder", north)
    answers = [leanmed.load(new).predict_record(record) for record in records]
    truth = np.array([LABELS.index(record.label) for record in records])
    wanted = choose_threshold(truth, np.array([answer.probability for answer in answers]), "youden")
    assert manifest.threshold == pytest.approx(wanted, abs=1e-5)
    assert manifest.recalibration["threshold"] == {"before": 0.5, "after": manifest.threshold, "rule": "youden"}
    assert manifest.threshold_origin.startswith("chosen on the images that it was recalibrated on for the best sum")


@pytest.mark.parametrize(
    ("changes", "asked", "threshold", "rule"),
    [
        ({"threshold_rule": GIVEN, "threshold": 0.25}, None, 0.25, GIVEN),
        ({"threshold_rule": "f1"}, 0.3, 0.3, GIVEN),
        ({"threshold_rule": "f1"}, "sensitivity:1.0", None, "sensitivity:1.0"),
    ],
)
def test_a_number_is_kept_and_another_rule_can_be_asked_for(
    changes: dict[str, Any],
    asked: str | float | None,
    threshold: float | None,
    rule: str,
    make_artifact: Make,
    north: Path,
    tmp_path: Path,
) -> None:
    source = make_artifact(provenance=origin_of(), **changes)
    manifest = recalibrate(source, north, tmp_path / "new", threshold=asked).artifact.manifest
    assert manifest.threshold_rule == rule
    if threshold is not None:
        assert manifest.threshold == threshold
    else:
        assert evaluate_of_all(tmp_path / "new", north)["recall"] == 1


def evaluate_of_all(artifact: Path, data: Path) -> dict[str, float]:
    """Figures on all images, whether the artifact has seen them or not."""
    predictor, records = leanmed.load(artifact), read_records("folder", data)
    judge = TASKS[predictor.manifest.task].judge
    answers = [predictor.predict_record(record) for record in records]
    return judge.point(judge.table_of(records, answers, predictor.manifest.labels))


def test_few_images_give_an_intercept_alone(make_artifact: Make, tmp_path: Path) -> None:
    few = write_hospital(tmp_path / "few", 30, shift=2)
    manifest = recalibrate(make_artifact(**PRECISE), few, tmp_path / "new").artifact.manifest
    assert manifest.recalibration["fitted"] == "intercept"
    assert manifest.recalibration["slope"] == 1
    assert list(manifest.recalibration["parameters"]) == ["intercept of anemic"]
    assert manifest.recalibration["intercepts"]["anemic"] < -1


def test_images_that_the_model_has_seen_are_left_out(make_artifact: Make, north: Path, tmp_path: Path) -> None:
    seen = tuple(content[:16] for content in content_hashes(read_records("folder", north))[:150])
    source = make_artifact(provenance=origin_of(seen_images=seen), threshold_rule="f1")
    found = recalibrate(source, north, tmp_path / "new")
    assert found.artifact.manifest.recalibration["images"] == 50
    assert "150 of 200 images made the artifact, or share a group with one that did; left out." in found.notes
    assert len(found.artifact.manifest.provenance.seen_images) == 200
    assert len(found.artifact.manifest.provenance.selected_images) == 50


def test_images_that_cannot_be_read_are_told(make_artifact: Make, tmp_path: Path) -> None:
    data = write_hospital(tmp_path / "data", 40)
    (data / "images" / "007.png").write_bytes(b"no image")
    found = recalibrate(make_artifact(**PRECISE), data, tmp_path / "new")
    assert found.artifact.manifest.recalibration["images"] == 39
    assert any(line.startswith("Not answered: images/007.png: ") for line in found.lines())


def test_it_can_be_done_twice(make_artifact: Make, north: Path, tmp_path: Path) -> None:
    """The second one of the same kind of images finds nothing left to mend."""
    again = write_hospital(tmp_path / "again", 300, scale=3, shift=1, seed=4)
    recalibrate(make_artifact(**PRECISE), north, tmp_path / "one")
    two = recalibrate(tmp_path / "one", again, tmp_path / "two").artifact
    assert recalibration_of(two.manifest).slope == pytest.approx(1, abs=0.35)
    assert len(two.manifest.provenance.parents) == 2
    image = north / "images" / "003.png"
    one, both = (leanmed.load(tmp_path / name).predict(image).probability for name in ("one", "two"))
    wanted = recalibration_of(two.manifest).applied(np.array([[1 - one, one]]))[0, 1]
    assert both == pytest.approx(wanted, abs=1e-6)


def test_of_three_labels_each_has_an_intercept_and_there_is_no_threshold(
    make_artifact: Make, tmp_path: Path, refused: Refused
) -> None:
    labels = (*LABELS, "unclear")
    data = write_hospital(tmp_path / "data", 120, shift=1)
    rows = (data / "labels.csv").read_text().splitlines()
    changed = [f"{row.split(',')[0]},unclear,{row.split(',')[2]}" if k % 4 == 1 else row for k, row in enumerate(rows)]
    (data / "labels.csv").write_text("\n".join(changed) + "\n")
    source = make_artifact(labels=labels, threshold=None, provenance=origin_of())
    manifest = recalibrate(source, data, tmp_path / "new").artifact.manifest
    assert manifest.threshold is None
    assert list(manifest.recalibration["intercepts"]) == list(labels)
    answer = leanmed.load(tmp_path / "new").predict(data / "images" / "000.png")
    assert answer.probabilities["unclear"] > 0.05  # the graph gave it none
    with refused(DataError, "expected no --threshold with the labels non-anemic, anemic, unclear"):
        recalibrate(source, data, tmp_path / "other", threshold="f1")


@pytest.mark.parametrize(
    ("images", "label", "words"),
    [(19, "", "got 19 groups"), (40, "anemic", "got 40 groups, with 0 of non-anemic")],
)
def test_too_few_images_and_one_label_are_refused_and_nothing_is_written(
    images: int, label: str, words: str, make_artifact: Make, tmp_path: Path, refused: Refused
) -> None:
    data = write_hospital(tmp_path / "data", images)
    if label:
        table = (data / "labels.csv").read_text()
        (data / "labels.csv").write_text(table.replace("non-anemic", label))
    with refused(DataError, "expected labelled images of at least 20 groups (patients or photographs)", words):
        recalibrate(make_artifact(**PRECISE), data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [name for name, kind in TASKS.items() if not kind.probabilities])
def test_kinds_without_a_probability_for_each_label_are_refused(
    name: str, make_artifact: Make, tmp_path: Path, refused: Refused
) -> None:
    source = make_artifact(task=name, labels=("thing",), graph=b"not opened")
    with refused(ArtifactError, "expected an artifact that gives a probability for each label", f"got one for {name}"):
        recalibrate(source, tmp_path, tmp_path / "new")


def test_the_artifact_itself_and_other_folders_are_not_written_over(
    make_artifact: Make, north: Path, tmp_path: Path, refused: Refused
) -> None:
    source = make_artifact(**PRECISE)
    with refused(ArtifactError, "expected --out to be another folder than the artifact"):
        recalibrate(source, north, source)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with refused(OutputError, "to be new or empty, but it holds a.txt"):
        recalibrate(source, north, tmp_path / "notes")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Figure(-0.2, -0.3, -0.1, 9), []),
        (Figure(-0.2, -0.3, 0.1, 9), ["is not shown to fall: the interval of its change includes 0"]),
        (Figure(0.2, 0.1, 0.3, 9), ["rises on new images"]),
    ],
)
def test_it_says_if_no_gain_is_shown(change: Figure, words: list[str]) -> None:
    said = remarks({"loss": (change, change, change), "ece": (change, change, change)})
    assert len(said) == len(words)
    assert all(word in line and "Keep the artifact as it was" in line for word, line in zip(words, said, strict=True))


def test_the_command_needs_no_torch(make_artifact: Make, tmp_path: Path) -> None:
    source, data = make_artifact(**PRECISE), write_hospital(tmp_path / "data", 40)
    arguments = ["recalibrate", source, "--data", data, "--out", tmp_path / "new", "--threshold", "0.3"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "intercept" in done.stdout
    assert "Research use only: not a medical device." in done.stdout
    assert json.loads((tmp_path / "new" / "leanmed.json").read_text())["threshold"] == 0.3


def test_a_picture_that_is_a_copy_of_a_training_image_is_left_out(make_artifact: Make, tmp_path: Path) -> None:
    data = write_hospital(tmp_path / "data", 40)
    record = read_records("folder", data)[3]
    with Image.open(record.image) as picture:
        picture.save(data / "images" / "copy.png")
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(f"{table}images/copy.png,{record.label},patient-99\n")
    seen = (content_hashes([record])[0][:16],)
    source = make_artifact(provenance=origin_of(seen_images=seen), threshold_rule="f1")
    assert recalibrate(source, data, tmp_path / "new").artifact.manifest.recalibration["images"] == 39
