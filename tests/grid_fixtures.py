"""A tiny network of each kind of task, trained, exported and compressed in each way on made data, each once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.distil import Teacher
from leanmed.exporting.export import export
from leanmed.phantoms.chest import write_slices
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.phantoms.nerves import write_nerves
from leanmed.recipe.recipe import Recipe
from leanmed.runs import Run
from leanmed.tasks.recipes import check_recipe
from leanmed.training.train import train
from training_fixtures import silent

Sections = dict[str, dict[str, Any]]
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
