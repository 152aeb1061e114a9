"""A detector from files to artifact: trained for two short epochs, so that what is tested is never how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import leanmed
from leanmed.data import read_pixels, read_records
from leanmed.evaluation.runs import fold_answers
from leanmed.exporting.export import export
from leanmed.recipe.recipe import Recipe
from leanmed.runs import Run, read_csv
from leanmed.runtime.batch import predict_file
from leanmed.tasks.building import load_task
from leanmed.tasks.detection.answer import apart
from leanmed.tasks.detection.figures import iou
from leanmed.tasks.recipes import load_recipe
from leanmed.training.loop import Loop
from leanmed.training.train import train

SETTINGS = (
    "data.dataset=voc",
    "split.protocol=holdout",
    "model.backbone=test_efficientnet",
    "model.weights=none",
    "model.side=64",
    "detector.width=8",
    "detector.crop=32",
    "training.batch_size=4",
    "training.epochs=2",
    "evaluation.resamples=100",
)


def nodule_recipe(*settings: str) -> Recipe:
    return load_recipe("nodules", [*SETTINGS, *settings])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty dark slices of as many patients, each with one bright nodule but every fifth; the last are larger."""
    root = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir()
    for k in range(20):
        side = 100 if k >= 16 else 56
        pixels = rng.integers(0, 40, (side, side), dtype=np.uint8)
        x, y, d = (int(v) for v in rng.integers((4, 4, 5), (40, 40, 12)))
        pixels[y : y + d, x : x + d] = 220
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{k:02}.png")
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + d, y + d), strict=True)
        box = "<object><name>nodule</name><bndbox>" + "".join(f"<{n}>{v}</{n}>" for n, v in corners)
        found = f"{box}</bndbox></object>" if k % 5 else ""
        (root / "Annotations" / f"{k:02}.xml").write_text(f"<annotation>{found}</annotation>")
    return root


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(data: Path, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(nodule_recipe(), data, tmp_path_factory.mktemp("run") / "run", tell=told.append)


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "artifact"
    export(run, path, fold=0)
    return path


def test_the_share_of_boxes_that_default_boxes_match_is_told_before_training(run: Run, told: list[str]) -> None:
    assert run.labels == ("nodule",)
    share = next(i for i, line in enumerate(told) if "default boxes of" in line)
    assert share < next(i for i, line in enumerate(told) if "epoch 1 of" in line)


def test_the_answers_that_a_run_keeps_are_boxes_in_the_frame_of_each_image(run: Run, data: Path) -> None:
    records = {record.id: record for record in read_records("voc", data)}
    parts = [fold_answers(run, run.fold(0), part) for part in ("validation", "test")]
    splits = {row["image"]: row["fold_0"] for row in read_csv(run.path / "splits.csv")}
    for name, rows in zip(("validation", "test"), parts, strict=True):
        assert [image for image, _ in rows] == [image for image in records if splits[image] == name]
    for image, answer in parts[0] + parts[1]:
        with Image.open(records[image].image) as stored:
            width, height = stored.size
        found = np.array(answer.all_boxes).reshape(-1, 4)
        assert len(found) > 0
        assert (found >= 0).all()
        assert (found[:, [2, 3]] <= [width, height]).all()
        assert (np.diff(answer.all_scores) <= 0).all()
        assert min(answer.scores, default=1.0) >= answer.threshold > max(answer.faint_scores, default=0.0)


def test_a_stopped_run_goes_on_with_the_same_default_boxes_and_ends_with_the_same_weights(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Loop.training_step

    def stopping(loop: Loop, batch: Any, number: int) -> torch.Tensor:
        if loop.current_epoch:
            raise KeyboardInterrupt
        return step(loop, batch, number)

    monkeypatch.setattr(Loop, "training_step", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(run.recipe, data, tmp_path / "run", tell=lambda line: None)
    monkeypatch.undo()
    again = train(run.recipe, data, tmp_path / "run", resume=True, tell=lambda line: None)
    first, second = (load_task(r, 0).state_dict() for r in (run, again))
    assert {name for name, value in first.items() if not torch.equal(value, second[name])} == set()
    assert first["model.sides"].min() > 3


def test_arithmetic_in_half_precision_trains_and_what_is_kept_is_whole(data: Path, tmp_path: Path) -> None:
    recipe = nodule_recipe("training.precision=bf16-mixed", "training.epochs=1")
    task = load_task(train(recipe, data, tmp_path / "run", tell=lambda line: None), 0)
    assert {parameter.dtype.itemsize for parameter in task.parameters()} == {4}


def test_the_papers_own_settings_train_and_export(data: Path, tmp_path: Path) -> None:
    small = [s for s in SETTINGS if not s.startswith(("model.backbone", "detector.crop"))]
    recipe = load_recipe("nodules-paper", [*small, "detector.crop=64", "training.epochs=1"])
    assert (recipe.model.backbone, recipe.training.learning_rate) == ("mobilenetv1", 0.001)
    told: list[str] = []
    run = train(recipe, data, tmp_path / "run", tell=told.append)
    assert any("match 0.0% of" in line and "WARNING" in line for line in told), "boxes of SSD are larger than nodules"
    export(run, tmp_path / "artifact", fold=0)
    assert leanmed.load(tmp_path / "artifact").manifest.task == "detection"


def test_the_artifact_answers_as_the_fold_kept(run: Run, folder: Path, data: Path) -> None:
    predictor = leanmed.load(folder)
    for name, kept in fold_answers(run, run.fold(0), "test"):
        answer = predictor.predict(data / name)
        assert len(answer.boxes) == len(kept.boxes)
        assert apart(arrays(kept), arrays(answer)) < 0.005, "two decimals are written of boxes below the threshold"


def arrays(answer: leanmed.Detections) -> list[np.ndarray]:
    """All boxes and scores as a graph gives them."""
    return [np.array(answer.all_boxes).reshape(-1, 4), np.array(answer.all_scores)]


def test_the_manifest_tells_what_is_found_and_in_what(folder: Path) -> None:
    manifest = leanmed.load(folder).manifest
    assert (manifest.task, manifest.labels) == ("detection", ("nodule",))
    assert (manifest.input.kind, manifest.input.slices, manifest.input.reduced) == ("slice", 1, False)
    assert {"ap50", "froc", "sensitivity"} <= set(manifest.figures)


def test_only_boxes_from_the_threshold_on_are_answered(folder: Path, data: Path) -> None:
    predictor, image = leanmed.load(folder), data / "JPEGImages" / "01.png"
    boxes, scores = predictor.outputs(predictor.read(image))
    found = predictor.predict(image)
    sure = int((scores >= predictor.manifest.threshold).sum())
    assert found.threshold == predictor.manifest.threshold
    assert found.boxes == tuple(map(tuple, boxes[:sure].tolist()))
    assert found.scores == tuple(scores[:sure].tolist())
    assert np.array(found.faint_boxes).reshape(-1, 4) == pytest.approx(boxes[sure:], abs=0.006)
    assert found.faint_scores == pytest.approx(scores[sure:].tolist(), abs=1e-6)
    assert predictor.predict_boxes(image) == found, "an older name"


def test_another_threshold_moves_boxes_among_those_answered(folder: Path, data: Path) -> None:
    image = data / "JPEGImages" / "01.png"
    own, every, none = (leanmed.load(folder, threshold=t).predict(image) for t in (None, 0.0, 1.0))
    assert len(every.boxes) == len(own.all_boxes) > 0
    assert (every.faint_boxes, none.boxes) == ((), ())
    assert len(none.faint_boxes) > 0


def test_a_batch_has_a_line_of_boxes_and_scores_for_each_image(folder: Path, data: Path, tmp_path: Path) -> None:
    images = sorted((data / "JPEGImages").iterdir())[:3]
    predict_file(leanmed.load(folder), images, tmp_path / "answers.jsonl")
    for line in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines()):
        known = {"input", "boxes", "scores", "threshold", "faint", "familiar", "artifact", "version", "seconds"}
        assert set(line) - {"remark"} == known
        assert len(line["boxes"]) == len(line["scores"])
        assert len(line["faint"]["boxes"]) == len(line["faint"]["scores"])


def test_answers_are_apart_by_the_worst_box_that_is_not_faint() -> None:
    boxes, scores = np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), np.array([0.9, 0.01])
    assert apart((boxes, scores), (boxes[::-1], scores[::-1])) == 0
    assert apart((boxes, scores), (boxes + np.array([[1], [9]]), scores)) == pytest.approx(0.1)
    assert apart((boxes, scores), (boxes, scores - 0.005)) == pytest.approx(0.005)
    assert apart((boxes, scores), (boxes[1:], scores[1:])) == 1.0
    assert apart((boxes[1:], scores[1:]), (boxes[:0], scores[:0])) == 0


def test_the_ensemble_scores_a_box_by_the_mean_of_what_the_folds_say_of_its_place(
    run: Run, data: Path, tmp_path: Path
) -> None:
    export(run, tmp_path / "ensemble", ensemble=True)
    pixels = np.ascontiguousarray(read_pixels(read_records("voc", data)[1]))
    boxes, scores = leanmed.load(tmp_path / "ensemble").outputs(pixels)
    members = []
    for fold in range(run.facts["folds"]):
        task = load_task(run, fold)
        task.decide_by(run.calibration["value"], run.calibration["threshold"])
        with torch.inference_mode():
            members.append([part.numpy() for part in task.graph()(torch.from_numpy(pixels))])
    limit = run.recipe.model_dump()["detector"]["nms"]
    assert 0 < len(boxes) <= sum(len(own) for own, _ in members)
    assert (np.diff(scores) <= 1e-6).all()
    for box, score in zip(boxes[:10], scores[:10], strict=True):
        said = [max(own[iou(box[None], places)[0] > limit], default=0.0) for places, own in members]
        assert score == pytest.approx(np.mean(said), abs=1e-4)
    apart_enough = iou(boxes, boxes) - np.eye(len(boxes))
    assert apart_enough.max() <= limit + 1e-6


def test_the_splits_table_tells_the_boxes(run: Run) -> None:
    rows = read_csv(run.path / "splits.csv")
    assert {row["fold_0"] for row in rows} == {"train", "validation", "test"}
    assert any(json.loads(row["label"]) == [] for row in rows)
