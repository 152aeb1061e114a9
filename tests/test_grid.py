"""FP16, INT8, INT4, fine-tuning, distillation and adapters on every kind of task, and pairs of them, on made data.

It is the code of the commands that runs here. One tiny network of each kind is trained, exported, and compressed in
each way; a student learns from it, and adapters go into a network of the kind that has blocks to take them. `export`
itself refuses a graph that answers otherwise than the model in PyTorch, and `quantize_artifact` one that loses more
than it may, which here is anything. The techniques that INT8 may need further are tried in tests/compress.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from grid_fixtures import GRID, KINDS, Place, adapted, recipe
from leanmed.compress.precisions import PRECISIONS
from leanmed.data import read_records
from leanmed.errors import RecipeError
from leanmed.runs import Run
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import load
from leanmed.tasks import TASKS
from leanmed.tasks.building import build_task

SHARES = {"fp16": 0.6, "w8": 0.5, "int8": 0.5, "int4": 0.4}  # of the float file at the most


def is_finite(run: Run) -> bool:
    """Whether a training's losses are numbers."""
    return all(math.isfinite(float(row["train_loss"])) for row in run.fold(0).history)


def test_the_grid_has_a_row_for_every_kind_of_task() -> None:
    assert sorted(TASKS) == KINDS


@pytest.mark.parametrize("to", list(PRECISIONS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_stored_in_fewer_bits(grid: Place, kind: str, to: str) -> None:
    whole, small = (
        read_artifact(grid.artifact(kind, "plain", "fp32")),
        read_artifact(grid.artifact(kind, "plain", to)),
    )
    assert small.manifest.bytes < SHARES.get(to, 1.0) * whole.manifest.bytes
    assert small.manifest.precision == to
    assert small.manifest.provenance.parents == (whole.sha256,)
    assert small.manifest.quantization
    if to == "fp16":
        assert small.manifest.quantization["change"]["agreement"]["value"] > 0.95
    predictor = load(grid.artifact(kind, "plain", to))
    for record in read_records(recipe(kind).data.dataset, grid.data(kind))[:2]:
        assert all(np.isfinite(part).all() for part in predictor.outputs(predictor.frame_of(record).pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_fine_tuned_for_integers(grid: Place, kind: str) -> None:
    small = read_artifact(grid.artifact(kind, "plain", "qat"))
    assert small.manifest.quantization["techniques"] == ["gptq", "finetune"]
    rounded = read_artifact(grid.artifact(kind, "plain", "int8"))
    assert small.manifest.quantization["weight_bits"] == rounded.manifest.quantization["weight_bits"]
    assert small.graph != rounded.graph, "training changes weights or biases"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_from_a_teacher(grid: Place, kind: str) -> None:
    run = grid.run(kind, "distilled")
    assert is_finite(run)
    assert run.facts["teacher"]
    terms = [line for line in grid.told[f"{kind}-distilled"] if "learns from its teacher by terms" in line]
    assert terms, "which terms such outputs allow is told"
    whole = read_artifact(grid.artifact(kind, "distilled", "fp32"))
    assert whole.manifest.provenance.recipe["name"] == f"grid-{kind}"


@pytest.mark.parametrize("method", ["hierarchical", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_where_there_are_blocks_and_are_refused_elsewhere(grid: Place, kind: str, method: str) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    if GRID[kind].blocks is None:
        with pytest.raises(RecipeError, match="expected a network with a sequence of transformer blocks"):
            build_task(adapted(kind, method), recipe(kind).data.labels or ("a", "b"))
        return
    run = grid.run(kind, method)
    assert is_finite(run)
    graph = read_artifact(grid.artifact(kind, method, "fp32"))
    assert graph.manifest.provenance.recipe["adapters"]["method"] == method


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_stored_in_integers(grid: Place, kind: str) -> None:
    whole, small = (
        read_artifact(grid.artifact(kind, "distilled", "fp32")),
        read_artifact(grid.artifact(kind, "distilled", "int8")),
    )
    assert small.manifest.bytes < SHARES["int8"] * whole.manifest.bytes
    assert small.manifest.provenance.parents == (whole.sha256,)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if GRID[kind].blocks is not None])
def test_an_adapted_network_is_merged_and_stored_in_four_bits(grid: Place, kind: str) -> None:
    whole, small = (
        read_artifact(grid.artifact(kind, "hierarchical", "fp32")),
        read_artifact(grid.artifact(kind, "hierarchical", "int4")),
    )
    assert small.manifest.bytes < 0.6 * whole.manifest.bytes
    assert small.manifest.precision == "int4"
