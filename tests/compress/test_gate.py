"""The gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_artifacts import made_manifest, made_records

from leanmed.compress import gate
from leanmed.compress.gate import latency, make_gate, table_of
from leanmed.errors import DataError
from leanmed.records import Boxes, Record

IMAGES = [np.zeros((4, 4, 3), np.uint8)] * 4
TRUTHS = ["non-anemic", "non-anemic", "anemic", "anemic"]


def answered(*positive: float) -> list[Any]:
    return [[np.array([1 - p, p])] for p in positive]


def test_answers_follow_the_artifacts_threshold() -> None:
    table = table_of(made_records(TRUTHS), answered(0.1, 0.35, 0.3, 0.9), made_manifest(threshold=0.3))
    assert table.predicted.tolist() == [0, 1, 1, 1]


def test_without_a_threshold_the_likeliest_label_is_the_answer() -> None:
    table = table_of(made_records(TRUTHS), answered(0.1, 0.35, 0.3, 0.9), made_manifest(threshold=None))
    assert table.predicted.tolist() == [0, 0, 0, 1]


def test_the_drop_is_how_much_the_main_score_fell() -> None:
    gate = make_gate(made_records(TRUTHS), IMAGES, made_manifest())
    found = gate.compare(answered(0.1, 0.2, 0.7, 0.9), answered(0.1, 0.8, 0.7, 0.9))
    assert found.main_score == "auc"
    assert found.drop == pytest.approx(0.25)  # one of four pairs is now in the wrong order
    assert found.agreement == 0.75
    assert (found.before["auc"].value, found.after["auc"].value) == (1.0, pytest.approx(0.75))
    assert (found.images, found.groups) == (4, 4)


@pytest.mark.parametrize(("groups", "has_interval"), [(9, False), (10, True)])
def test_the_changes_of_fewer_than_ten_groups_have_no_interval(groups: int, has_interval: bool) -> None:
    """20 images; the compressed graph answers each a little otherwise."""
    records = [replace(r, group=str(k % groups)) for k, r in enumerate(made_records(TRUTHS * 5))]
    rng = np.random.default_rng(0)
    before, after = (answered(*rng.random(20)) for _ in range(2))
    found = make_gate(records, IMAGES * 5, made_manifest()).compare(before, after)
    assert found.groups == groups
    assert found.has_interval is has_interval


def test_a_main_score_that_is_undefined_is_an_error(refused: Callable[..., Any]) -> None:
    gate = make_gate(made_records(["anemic"] * 4), IMAGES, made_manifest())
    same = answered(0.1, 0.2, 0.7, 0.9)
    with refused(DataError, "auc", "more images"):
        gate.compare(same, same)


@pytest.mark.parametrize(("truths", "words"), [([], ("got none", "--data")), (["ill"], ("images of ill", "anemic"))])
def test_images_that_cannot_measure_are_refused(
    truths: list[str], words: tuple[str, ...], refused: Callable[..., Any]
) -> None:
    with refused(DataError, *words):
        make_gate(made_records(truths), IMAGES, made_manifest())


NODULES = [Record(str(k), Path(f"{k}.png"), Boxes(((10.0, 10.0, 20.0, 20.0),)), f"patient {k}") for k in range(4)]
RIGHT, WRONG = (10.0, 10.0, 20.0, 20.0), (40.0, 40.0, 50.0, 50.0)


def boxed(*rows: tuple[tuple[float, ...], float]) -> list[Any]:
    """One box and its score for each image."""
    return [[np.float32([box]), np.float32([score])] for box, score in rows]


def test_a_detector_is_judged_by_its_boxes_and_agrees_where_those_above_the_threshold_overlap() -> None:
    manifest = made_manifest(task="detection", labels=("nodule",), main_score="ap50", threshold=0.5)
    gate = make_gate(NODULES, IMAGES, manifest)
    near = (12.0, 10.0, 22.0, 20.0)  # an IoU of 80 / 120
    before = boxed((RIGHT, 0.9), (RIGHT, 0.8), (RIGHT, 0.7), (RIGHT, 0.4))
    found = gate.compare(before, boxed((near, 0.9), (WRONG, 0.8), (RIGHT, 0.7), (WRONG, 0.3)))
    assert found.main_score == "ap50"
    assert (found.before["ap50"].value, found.before["recall"].value) == (1.0, 0.75)
    # Of four nodules, the first and third box find two: precision 1 at a quarter, 2/3 at a half.
    assert found.drop == pytest.approx(1 - (1 / 4 + 2 / 3 / 4))
    assert found.agreement == 0.75  # the faint boxes of the last image are answers of neither
    assert (found.images, found.groups) == (4, 4)


def test_images_without_boxes_cannot_measure_a_detector(refused: Callable[..., Any]) -> None:
    manifest = made_manifest(task="detection", labels=("nodule",), main_score="ap50")
    with refused(DataError, "got none", "--data"):
        make_gate([], [], manifest)
    with refused(DataError, "boxes"):
        make_gate(made_records(TRUTHS), IMAGES, manifest)
    empty = [Record("0", Path("0.png"), Boxes(), "patient")]
    with refused(DataError, "ap50", "more images"):
        make_gate(empty, IMAGES[:1], manifest).compare(boxed((RIGHT, 0.9)), boxed((RIGHT, 0.9)))


def test_latency_times_every_graph(tiny_artifact: Any) -> None:
    graph = (tiny_artifact / "model.onnx").read_bytes()
    pixels = {"pixels": IMAGES[0]}
    found = latency({"a": graph, "b": graph}, {"a": pixels, "b": pixels}, rounds=3)
    assert set(found) == {"a", "b"}
    assert min(found.values()) > 0


def test_slow_graphs_are_timed_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    class Session:
        def run(self, outputs: None, feeds: Any) -> None:
            runs.append("run")

    monkeypatch.setattr(gate, "open_session", lambda graph: Session())
    latency({"a": b""}, {"a": {}})
    assert len(runs) == gate.WARM + gate.ROUNDS
    runs.clear()
    monkeypatch.setattr(gate, "MOST_MILLISECONDS", -1.0)
    latency({"a": b""}, {"a": {}})
    assert len(runs) == 2  # the first is not counted
