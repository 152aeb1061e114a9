"""FP16, INT8, INT4, fine-tuning, distillation and adapters on every kind of task, and pairs of them, on made data.

It is the code of the commands that runs here. One tiny network of each kind is trained, exported, and compressed in
each way; a student learns from it, and adapters go into a network of the kind that has blocks to take them. `export`
itself refuses a graph that answers otherwise than the model in PyTorch, and `quantize_artifact` one that loses more
than it may, which here is anything. The techniques that INT8 may need further are tried in tests/compress.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.distil import Teacher
from leanmed.compress.precisions import PRECISIONS
from leanmed.data import read_records
from leanmed.errors import RecipeError
from leanmed.exporting.export import export
from leanmed.phantoms.chest import write_slices
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.phantoms.nerves import write_nerves
from leanmed.recipe.recipe import Recipe
from leanmed.runs import Run
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import load
from leanmed.tasks import TASKS
from leanmed.tasks.building import build_task
from leanmed.tasks.recipes import check_recipe
from leanmed.training.train import train
from training_fixtures import silent

Sections = dict[str, dict[str, Any]]
SHARES = {"fp16": 0.6, "w8": 0.5, "int8": 0.5, "int4": 0.4}  # of the float file at the most
ANYTHING = {"max_drop": 1.0, "min_agreement": 0.0, "attempts": 1}
BRIEF: Sections = {
    "split": {"protocol": "holdout", "groups": "reader", "validation": 0.25, "test": 0.25},
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
    "evaluation": {"resamples": 100},
}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SAM = {"width": 32, "depth": 4, "heads": 2, "window": 2, "channels": 32}


@dataclass(frozen=True)
class Cell:
    """How the grid tries a kind of task.

    Args:
        data: writes made data to a new folder.
        sections: of the recipe, with its network.
        blocks: what to change so that the network has a sequence of transformer blocks; None: the kind has no such one.
        goes_on: adapters are taken by a network that has learned before, here the plain run's.
    """

    data: Callable[[Path], Path]
    sections: Sections
    blocks: Sections | None
    goes_on: bool = False


def eyelids(root: Path) -> Path:
    return PHANTOMS["eyelids"](root, count=40, signal=3.0, side=128)


def slices(root: Path) -> Path:
    return write_slices(root, count=36)


def nerves(root: Path) -> Path:
    return write_nerves(root, patients=12, frames=2, side=48)


def _network(backbone: str, side: int = 32, **more: Any) -> dict[str, Any]:
    return {"backbone": backbone, "weights": "none", "side": side, **more}


MASKS = {"dataset": "masks", "labels": ["nerve"], "values": {"nerve": []}}
GRID = {
    "classification": Cell(
        eyelids,
        {"model": _network("mobilenetv3_small_050")},
        {"model": _network("vit_tiny_patch16_224", backbone_args=VIT)},
    ),
    "detection": Cell(
        slices,
        {
            "data": {"dataset": "voc", "kind": "slice", "labels": ["nodule"]},
            "model": _network("mobilenetv1", 64),
            "detector": {"levels": [8]},
        },
        None,
    ),
    "segmentation": Cell(
        nerves,
        {"data": MASKS, "model": _network("mobilenetv3_small_050", backbone_args={"width": 32})},
        {
            "model": _network("swinunet", backbone_args={"width": 12}),
            "adapters": {"blocks": "model.encoder.layers.*.blocks"},
        },
    ),
    "prompted": Cell(
        nerves,
        {
            "data": MASKS,
            "model": _network("sam-small", backbone_args=SAM),
            "prompter": {"localiser_backbone": "mobilenetv3_small_050", "checkpointing": "none"},
            "training": {"batch_size": 4},
        },
        {},
        goes_on=True,
    ),
}
KINDS = sorted(GRID)


def recipe(kind: str, **sections: dict[str, Any]) -> Recipe:
    """Of a kind's tiny training, with changes."""
    parts = [BRIEF, GRID[kind].sections, sections]
    names = dict.fromkeys(name for part in parts for name in part)
    merged: dict[str, Any] = {
        name: {key: value for part in parts for key, value in part.get(name, {}).items()} for name in names
    }
    return check_recipe({"name": f"grid-{kind}", "task": kind, **merged}, "the grid")


class Place:
    """What the grid's tests share below one folder, each made once: data, runs and artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: dict[str, list[str]] = {}
        for shared in ("data", "run", "artifact"):
            setattr(self, shared, cache(getattr(self, shared)))

    def data(self, kind: str) -> Path:
        """A kind's made data."""
        return GRID[kind].data(self.root / f"{kind}-data")

    def run(self, kind: str, technique: str) -> Run:
        """A run that was trained plainly, from a teacher or with adapters."""
        if technique == "distilled":
            teacher = Teacher(self.run(kind, "plain"))
            return self._trained(kind, technique, recipe(kind, training={"seed": 1}), teacher)
        if technique in ("hierarchical", "lora"):
            learned = str(self.run(kind, "plain").folder(0)) if GRID[kind].goes_on else "none"
            return self._trained(kind, technique, adapted(kind, technique, learned))
        return self._trained(kind, technique, recipe(kind))

    def _trained(self, kind: str, technique: str, settings: Recipe, teacher: Teacher | None = None) -> Run:
        name = f"{kind}-{technique}"
        lines = self.told.setdefault(name, [])
        return train(settings, self.data(kind), self.root / name, teacher=teacher, tell=lines.append)

    def artifact(self, kind: str, technique: str, to: str) -> Path:
        """A run's artifact in a precision: fp32, one of `PRECISIONS`, or qat, which is int8 with fine-tuning."""
        out = self.root / f"{kind}-{technique}-{to}"
        if to == "fp32":
            export(self.run(kind, technique), out, fold=0, tell=silent)
            return out
        start = ("gptq", "finetune") if to == "qat" else ("gptq",)
        options = Options(**ANYTHING, start=start, ladder=(), epochs=1)
        precision = "int8" if to == "qat" else to
        quantize_artifact(
            self.artifact(kind, technique, "fp32"), precision, self.data(kind), out, options, calibration=8, tell=silent
        )
        return out


def adapted(kind: str, method: str, weights: str = "none") -> Recipe:
    """A recipe with adapters, of a network that can take them if the kind has one."""
    adapters: dict[str, Any] = {"method": method} | ({"ratio": 0.25} if method == "hierarchical" else {"rank": 2})
    changes = GRID[kind].blocks or {}
    model = GRID[kind].sections["model"] | changes.get("model", {}) | {"weights": weights}
    return recipe(kind, model=model, adapters=changes.get("adapters", {}) | adapters)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("grid"))


def is_finite(run: Run) -> bool:
    """Whether a training's losses are numbers."""
    return all(math.isfinite(float(row["train_loss"])) for row in run.fold(0).history)


def test_the_grid_has_a_row_for_every_kind_of_task() -> None:
    assert sorted(TASKS) == KINDS


@pytest.mark.parametrize("to", list(PRECISIONS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_stored_in_fewer_bits(place: Place, kind: str, to: str) -> None:
    whole, small = (
        read_artifact(place.artifact(kind, "plain", "fp32")),
        read_artifact(place.artifact(kind, "plain", to)),
    )
    assert small.manifest.bytes < SHARES.get(to, 1.0) * whole.manifest.bytes
    assert small.manifest.precision == to
    assert small.manifest.provenance.parents == (whole.sha256,)
    assert small.manifest.quantization
    if to == "fp16":
        assert small.manifest.quantization["change"]["agreement"]["value"] > 0.95
    predictor = load(place.artifact(kind, "plain", to))
    for record in read_records(recipe(kind).data.dataset, place.data(kind))[:2]:
        assert all(np.isfinite(part).all() for part in predictor.outputs(predictor.frame_of(record).pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_fine_tuned_for_integers(place: Place, kind: str) -> None:
    small = read_artifact(place.artifact(kind, "plain", "qat"))
    assert small.manifest.quantization["techniques"] == ["gptq", "finetune"]
    rounded = read_artifact(place.artifact(kind, "plain", "int8"))
    assert small.manifest.quantization["weight_bits"] == rounded.manifest.quantization["weight_bits"]
    assert small.graph != rounded.graph, "training changes weights or biases"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_from_a_teacher(place: Place, kind: str) -> None:
    run = place.run(kind, "distilled")
    assert is_finite(run)
    assert run.facts["teacher"]
    terms = [line for line in place.told[f"{kind}-distilled"] if "learns from its teacher by terms" in line]
    assert terms, "which terms such outputs allow is told"
    whole = read_artifact(place.artifact(kind, "distilled", "fp32"))
    assert whole.manifest.provenance.recipe["name"] == f"grid-{kind}"


@pytest.mark.parametrize("method", ["hierarchical", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_where_there_are_blocks_and_are_refused_elsewhere(place: Place, kind: str, method: str) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    if GRID[kind].blocks is None:
        with pytest.raises(RecipeError, match="expected a network with a sequence of transformer blocks"):
            build_task(adapted(kind, method), recipe(kind).data.labels or ("a", "b"))
        return
    run = place.run(kind, method)
    assert is_finite(run)
    graph = read_artifact(place.artifact(kind, method, "fp32"))
    assert graph.manifest.provenance.recipe["adapters"]["method"] == method


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_stored_in_integers(place: Place, kind: str) -> None:
    whole, small = (
        read_artifact(place.artifact(kind, "distilled", "fp32")),
        read_artifact(place.artifact(kind, "distilled", "int8")),
    )
    assert small.manifest.bytes < SHARES["int8"] * whole.manifest.bytes
    assert small.manifest.provenance.parents == (whole.sha256,)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if GRID[kind].blocks is not None])
def test_an_adapted_network_is_merged_and_stored_in_four_bits(place: Place, kind: str) -> None:
    whole, small = (
        read_artifact(place.artifact(kind, "hierarchical", "fp32")),
        read_artifact(place.artifact(kind, "hierarchical", "int4")),
    )
    assert small.manifest.bytes < 0.6 * whole.manifest.bytes
    assert small.manifest.precision == "int4"
