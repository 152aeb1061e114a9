"""The engine of compression on a trained artifact: smaller files, nearly the same answers, refusal of bad input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from leanmed.compress.gate import Gate, classification_gate
from leanmed.compress.quantize import Options, quantize
from leanmed.data import read_records
from leanmed.errors import ArtifactError, DataError
from leanmed.export import export
from leanmed.runtime.artifact import Artifact, write_artifact
from leanmed.runtime.input import read_image
from leanmed.runtime.predictor import Predictor
from training_fixtures import made_data, trained_run

Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    run = trained_run(tmp_path_factory.getbasetemp())
    return export(run, tmp_path_factory.mktemp("compress") / "artifact", fold=0)


@pytest.fixture(scope="module")
def gate(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    records = read_records("folder", made_data(tmp_path_factory.getbasetemp()))
    images = [read_image(r.image) for r in records]
    return classification_gate(images, [r.target for r in records], [r.group for r in records], artifact.manifest)


@pytest.mark.parametrize(("to", "share"), [("fp16", 0.75), ("int8", 0.75), ("int4", 0.75)])
def test_a_compressed_artifact_is_smaller_and_answers_alike(
    artifact: Artifact, gate: Gate, to: str, share: float, tmp_path: Path
) -> None:
    """A tiny network has more graph than weights, so that its file shrinks less than that of a real one."""
    made, outcome = quantize(artifact, to, gate.images, gate, Options(max_drop=1.0))
    written = write_artifact(tmp_path / "small", made.manifest, made.graphs, made.card)

    before, after = Predictor(artifact), Predictor(written)
    differences = [np.abs(before.probabilities(i) - after.probabilities(i)).max() for i in gate.images]

    assert outcome.passed
    assert written.manifest.precision == to
    assert len(written.graph) < share * len(artifact.graph)
    assert max(differences) < (0.01 if to == "fp16" else 0.35)


def test_without_calibration_images_the_error_says_what_to_give(
    artifact: Artifact, gate: Gate, refused: Refused
) -> None:
    with refused(DataError, "expected calibration images, got none"):
        quantize(artifact, "int8", [], gate)


def test_what_is_quantized_is_not_quantized_again(
    artifact: Artifact, gate: Gate, tmp_path: Path, refused: Refused
) -> None:
    made, _ = quantize(artifact, "int8", gate.images, gate, Options(max_drop=1.0))
    small = write_artifact(tmp_path / "small", made.manifest, made.graphs, made.card)

    with refused(ArtifactError, "quantized"):
        quantize(small, "int4", gate.images, gate)
