"""The gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_artifacts import made_manifest, made_records

from leanmed.compress.gate import classification_gate, latency, scored
from leanmed.errors import DataError

IMAGES = [np.zeros((4, 4, 3), np.uint8)] * 4
TRUTHS = ["non-anemic", "non-anemic", "anemic", "anemic"]


def answered(*positive: float) -> list[Any]:
    return [[np.array([1 - p, p])] for p in positive]


def test_answers_follow_the_artifacts_threshold() -> None:
    table = scored(made_records(TRUTHS), answered(0.1, 0.35, 0.3, 0.9), made_manifest(threshold=0.3))
    assert table.predicted.tolist() == [0, 1, 1, 1]


def test_without_a_threshold_the_likeliest_label_is_the_answer() -> None:
    table = scored(made_records(TRUTHS), answered(0.1, 0.35, 0.3, 0.9), made_manifest(threshold=None))
    assert table.predicted.tolist() == [0, 0, 0, 1]


def test_the_drop_is_how_much_the_main_score_fell() -> None:
    gate = classification_gate(made_records(TRUTHS), IMAGES, made_manifest())
    found = gate.compare(answered(0.1, 0.2, 0.7, 0.9), answered(0.1, 0.8, 0.7, 0.9))
    assert found.main_score == "auc"
    assert found.drop == pytest.approx(0.25)  # one of four pairs is now in the wrong order
    assert found.agreement == 0.75
    assert (found.before["auc"].value, found.after["auc"].value) == (1.0, pytest.approx(0.75))
    assert (found.images, found.groups) == (4, 4)


def test_a_main_score_that_is_undefined_is_an_error(refused: Callable[..., Any]) -> None:
    gate = classification_gate(made_records(["anemic"] * 4), IMAGES, made_manifest())
    same = answered(0.1, 0.2, 0.7, 0.9)
    with refused(DataError, "auc", "more images"):
        gate.compare(same, same)


@pytest.mark.parametrize(("truths", "words"), [([], ("got 0 images",)), (["ill"], ("labelled ill", "anemic"))])
def test_images_that_cannot_measure_are_refused(
    truths: list[str], words: tuple[str, ...], refused: Callable[..., Any]
) -> None:
    with refused(DataError, *words):
        classification_gate(made_records(truths), IMAGES, made_manifest())


def test_latency_times_every_graph(tiny_artifact: Any) -> None:
    graph = (tiny_artifact / "model.onnx").read_bytes()
    pixels = {"pixels": IMAGES[0]}
    found = latency({"a": graph, "b": graph}, {"a": pixels, "b": pixels}, rounds=3)
    assert set(found) == {"a", "b"}
    assert min(found.values()) > 0
