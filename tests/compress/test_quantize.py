"""The engine: what is tried, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from made_artifacts import made_artifact, made_gate
from made_networks import answer, made_images, made_network
from onnx import TensorProto

from leanmed.compress import fp16
from leanmed.compress.bench import Options
from leanmed.compress.outcome import Comparison
from leanmed.compress.quantize import Quantized, quantize
from leanmed.compress.torch_operators import OPERATORS
from leanmed.errors import ArtifactError, DataError
from leanmed.figures.bootstrap import Figure

ARTIFACT = made_artifact()
IMAGES = made_images(24, seed=7)
ANY = Options(max_drop=1.0, min_agreement=0.0)
IMPOSSIBLE = Options(max_drop=-1.0)


def compress(to: Any, options: Options = ANY) -> Quantized:
    return quantize(ARTIFACT, to, IMAGES, made_gate(ARTIFACT), options)


def stored(graph: bytes, kind: int) -> int:
    """How many constants of a kind a graph holds."""
    return sum(c.data_type == kind for c in onnx.load_model_from_string(graph).graph.initializer)


@pytest.mark.parametrize(("to", "error"), [("fp16", 2e-3), ("int8", 0.1), ("int4", 0.3)])
def test_a_compressed_graph_answers_nearly_as_the_float_one(
    to: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp16, "FLOOR", 200)
    graph = compress(to).graph
    assert stored(graph, {"fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8, "int4": TensorProto.INT4}[to]) > 0
    images = made_images(12, seed=9)
    models = [onnx.load_model_from_string(g) for g in (ARTIFACT.graph, graph)]
    before, after = (answer(model, images) for model in models)
    assert np.abs(before - after).max() < error


def test_unpacked_int4_has_the_same_answers_in_8_bits() -> None:
    packed, unpacked = compress("int4").graph, compress("int4", Options(1.0, 0.0, unpack=True)).graph
    assert stored(packed, TensorProto.INT4) > 0
    assert stored(unpacked, TensorProto.INT4) == 0
    models = [onnx.load_model_from_string(graph) for graph in (packed, unpacked)]
    assert max(entry.version for entry in models[1].opset_import) < 21
    assert np.array_equal(answer(models[0], IMAGES), answer(models[1], IMAGES))


def test_the_gate_says_what_may_be_lost_unless_the_user_does() -> None:
    strict = replace(made_gate(ARTIFACT), max_drop=-1.0)
    assert not quantize(ARTIFACT, "fp16", IMAGES, strict, Options(min_agreement=0.0)).outcome.passed
    assert quantize(ARTIFACT, "fp16", IMAGES, strict, ANY).outcome.passed


def test_a_quiet_first_attempt_that_passes_is_the_only_one() -> None:
    outcome = compress("fp16").outcome
    assert [attempt.techniques for attempt in outcome.attempts] == [("fp16",)]
    assert outcome.passed
    assert outcome.calibration_images == 0


def test_remedies_are_tried_in_order_and_those_that_add_noise_are_dropped() -> None:
    told: list[str] = []
    found = quantize(ARTIFACT, "int4", IMAGES, made_gate(ARTIFACT), IMPOSSIBLE, tell=told.append).outcome
    assert [attempt.techniques[-1] for attempt in found.attempts] == ["gptq", "equalize", "percentile", "exclude"]
    assert not found.passed
    assert found.final is min(found.attempts, key=lambda attempt: attempt.noise)
    assert [line.split(": ")[0] for line in told[::2]] == [f"attempt {k} of at most 4" for k in (1, 2, 3, 4)]
    assert all(line.endswith(" bytes, does not pass") for line in told[1::2])
    noises = [attempt.noise for attempt in found.attempts]
    for before, after, noise in zip(found.attempts[:-1], found.attempts[1:], noises, strict=False):
        best = min(noises[: found.attempts.index(after)])
        assert (before.techniques == after.techniques[:-1]) == (noise == best)


def test_no_more_attempts_are_made_than_were_asked_for() -> None:
    told: list[str] = []
    options = replace(IMPOSSIBLE, attempts=2)
    found = quantize(ARTIFACT, "int4", IMAGES, made_gate(ARTIFACT), options, tell=told.append).outcome
    assert [attempt.techniques[-1] for attempt in found.attempts] == ["gptq", "equalize"]
    assert told[0].startswith("attempt 1 of at most 2: ")


def test_a_network_without_two_layers_to_equalize_is_not_equalized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanmed.compress.precisions.find_pairs", lambda network: [])
    found = quantize(ARTIFACT, "int4", IMAGES, made_gate(ARTIFACT), IMPOSSIBLE).outcome
    assert [attempt.techniques[-1] for attempt in found.attempts] == ["gptq", "percentile", "exclude"]


def test_a_network_too_large_to_fine_tune_is_refused_before_the_first_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    tuned = replace(ANY, epochs=1)
    monkeypatch.setattr("leanmed.compress.finetune.ROOM", 1000)
    with pytest.raises(ArtifactError, match="expected a network whose fine-tuning takes at most"):
        quantize(ARTIFACT, "int8", IMAGES, made_gate(ARTIFACT), tuned, tell=told.append)
    assert told == []
    monkeypatch.undo()
    monkeypatch.delitem(OPERATORS, "Clip")
    with pytest.raises(ArtifactError, match="expected a network of operators that fine-tuning knows, got Clip"):
        quantize(ARTIFACT, "int8", IMAGES, made_gate(ARTIFACT), tuned, tell=told.append)
    assert told == []


def test_fine_tuning_needs_the_attempts_before_it() -> None:
    with pytest.raises(DataError, match="expected room for --finetune, which is tried last of 5, got --attempts 2"):
        quantize(ARTIFACT, "int8", IMAGES, made_gate(ARTIFACT), replace(ANY, epochs=1, attempts=2))


def test_fine_tuning_comes_last_and_quiets_the_answers() -> None:
    options = Options(max_drop=-1.0, ladder=("finetune",), epochs=4)
    first, tuned = quantize(ARTIFACT, "int4", IMAGES, made_gate(ARTIFACT), options).outcome.attempts
    assert tuned.techniques == ("gptq", "finetune")
    assert tuned.noise < first.noise


def judged(drop: float, agreement: float, spread: float = 0.0) -> Comparison:
    """Figures that are known without doubt but for the drop, whose interval reaches so far to either side."""
    before, after, same = (Figure(x, x, x, 40) for x in (0.9, 0.9 - drop, agreement))
    change = Figure(-drop, -drop - spread, -drop + spread, 40)
    return Comparison(40, 40, "auc", {"auc": before}, {"auc": after}, {"auc": change, "agreement": same})


@pytest.mark.parametrize(
    ("drop", "agreement", "passed"),
    [(0.004, 0.96, True), (0.006, 0.96, False), (0.004, 0.94, False), (-0.1, 0.96, True)],
    ids=["both within", "drop", "agreement", "a gain"],
)
def test_an_attempt_passes_within_both_limits(drop: float, agreement: float, passed: bool) -> None:
    """The gate's limit is 0.005 of AUC, and the default one 0.95 of the images."""
    gate = replace(made_gate(ARTIFACT), compare=lambda before, after: judged(drop, agreement))
    assert quantize(ARTIFACT, "fp16", IMAGES, gate).outcome.passed is passed


def test_of_the_attempts_that_pass_the_least_noisy_is_taken() -> None:
    outcome = compress("int4").outcome
    assert outcome.passed
    assert outcome.final.noise == min(attempt.noise for attempt in outcome.attempts)


def test_an_attempt_whose_drop_may_be_larger_than_allowed_passes_as_open_and_stops_the_search() -> None:
    """The drop measured is within the 0.005 of AUC that the gate allows, and its interval is not."""
    gate = replace(made_gate(ARTIFACT), compare=lambda before, after: judged(0.002, 1.0, spread=0.01))
    outcome = quantize(ARTIFACT, "int8", IMAGES, gate).outcome
    (attempt,) = outcome.attempts
    assert (attempt.verdict, attempt.passed) == ("open", True)
    assert "a drop of up to 0.012, more than the 0.005 allowed, cannot be excluded" in outcome.not_excluded


def test_an_attempt_that_is_shown_is_taken_before_a_quieter_one_that_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanmed.compress.precisions.QUIET", 0.0)
    spreads = iter([0.001, 0.01, 0.01, 0.01])
    gate = replace(made_gate(ARTIFACT), compare=lambda before, after: judged(0.002, 1.0, spread=next(spreads)))
    outcome = quantize(ARTIFACT, "int4", IMAGES, gate).outcome
    assert [attempt.verdict for attempt in outcome.attempts] == ["shown", "open", "open", "open"]
    assert min(attempt.noise for attempt in outcome.attempts[1:]) < outcome.attempts[0].noise
    assert outcome.final is outcome.attempts[0]


def test_a_quieter_attempt_that_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanmed.compress.precisions.QUIET", 0.0)  # the first attempt is quiet enough to end the search
    drops = iter([0.0, 0.1, 0.1, 0.1])
    gate = replace(made_gate(ARTIFACT), compare=lambda before, after: judged(next(drops), 1.0))
    outcome = quantize(ARTIFACT, "int4", IMAGES, gate).outcome
    assert [attempt.passed for attempt in outcome.attempts] == [True, False, False, False]
    assert min(attempt.noise for attempt in outcome.attempts[1:]) < outcome.attempts[0].noise
    assert outcome.final is outcome.attempts[0]


def test_layers_tell_their_bits_and_why_they_have_more() -> None:
    rows = {row.name: row for row in compress("int4").outcome.layers}
    assert len(rows) == 8
    for row in rows.values():
        assert (row.weight_bits > 4) == bool(row.why)
    assert rows["head"].weight_bits == 4
    assert rows["head"].low is not None


def test_what_is_left_float_is_named() -> None:
    artifact = made_artifact(made_network(odd=True))
    outcome = quantize(artifact, "int8", IMAGES, made_gate(artifact), ANY).outcome
    assert outcome.warnings == ("net.up stays float: ConvTranspose is not an operator this quantizer handles",)


def test_calibration_images_of_another_kind_are_warned_of() -> None:
    dark = [np.zeros((30, 30, 3), np.uint8)] * 20
    outcome = quantize(ARTIFACT, "int8", dark, made_gate(ARTIFACT), ANY).outcome
    (warning,) = outcome.warnings
    assert "look unlike those measured on" in warning


def test_a_handful_of_calibration_images_is_warned_of() -> None:
    outcome = quantize(ARTIFACT, "int8", IMAGES[:5], made_gate(ARTIFACT), ANY).outcome
    assert "only 5 calibration images" in outcome.warnings[0]


def test_no_calibration_image_is_an_error(refused: Callable[..., Any]) -> None:
    with refused(DataError, "expected calibration images, got none"):
        quantize(ARTIFACT, "int8", [], made_gate(ARTIFACT), ANY)


def test_what_is_quantized_is_not_quantized_again(refused: Callable[..., Any]) -> None:
    small = made_artifact(compress("int8").graph, precision="int8")
    with refused(ArtifactError, "quantized already"):
        quantize(small, "int4", IMAGES, made_gate(small), ANY)
    half = made_artifact(precision="fp16")
    with refused(ArtifactError, "expected an fp32 artifact, got one in fp16"):
        quantize(half, "int8", IMAGES, made_gate(half), ANY)


def test_a_damaged_graph_is_refused(refused: Callable[..., Any]) -> None:
    with refused(ArtifactError, "ONNX graph"):
        quantize(made_artifact(b"no graph"), "int8", IMAGES, made_gate(ARTIFACT), ANY)
