"""`train()`: from a recipe and a data folder to a run folder, fold by fold. `leanmed.runs` says what a run folder holds.

A run that was killed at any point goes on with `resume` and ends as an unbroken one does, because all randomness of an
epoch is a function of seed, fold and epoch.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanmed import __version__
from leanmed.config import Recipe, dump_recipe
from leanmed.data import class_labels, content_hashes, data_hash, read_records
from leanmed.data.batches import Prepared, check_readable, ordered_batches, outputs_of, training_batches
from leanmed.data.splits import LEAK, Fold, make_folds
from leanmed.errors import RunError
from leanmed.files import whole_file, write_json, write_text
from leanmed.loop import BEST, LAST, Loop, hushed, make_trainer, seed_of
from leanmed.records import Record
from leanmed.runs import FOLD, MODEL, PREDICTIONS, RECIPE, RUN, SPLITS, Run, open_run, write_csv
from leanmed.tasks import TASKS, Task

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Machines:
    """Where to train, passed through to Lightning."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        if self.devices * self.nodes > 1 and "WORLD_SIZE" not in os.environ:
            raise RunError(
                f"{self.nodes} node(s) x {self.devices} device(s) need one process each; start them with: "
                f"torchrun --nnodes {self.nodes} --nproc-per-node {self.devices} -m leanmed train ..."
            )


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    machines: Machines | None = None,
    tell: Callable[[str], None] = print,
) -> Run:
    """Train every fold of a recipe that is not finished yet.

    Args:
        recipe: what to train.
        data: the data set's folder.
        out: the run folder; new or empty, unless `resume`.
        resume: go on with a run that was stopped.
        machines: where to train; None: one device of this machine.
        tell: takes one line of progress at a time.

    Raises:
        DataError: the data set is unsound, or an image cannot be read.
        RunError: `out` holds another run, or its recipe or data have changed.
    """
    tell = tell if rank_zero_only.rank == 0 else (lambda line: None)
    records = read_records(recipe.data.dataset, data)
    labels = class_labels(recipe.data.dataset, records, recipe.data.labels)
    folds = make_folds(records, recipe.split)
    facts = _facts(recipe, data, records, labels, len(folds))
    if rank_zero_only.rank == 0:
        _open(out, recipe, facts, records, folds, resume)
        tell(f"{len(records)} images, {facts['groups']} groups, {len(folds)} fold(s) -> {out}")
        if facts["leak"]:
            tell(facts["leak"])
        check_readable(records)
    run = Run(out, recipe, facts)
    for fold in folds:
        if not run.done(fold.number):
            _train_fold(run, fold, records, machines or Machines(), tell)
    return run


def _facts(recipe: Recipe, data: Path, records: Sequence[Record], labels: tuple[str, ...], folds: int) -> dict[str, Any]:
    contents = content_hashes(records)
    return {
        "leak": LEAK if recipe.split.protocol == "paper" else None,
        "protocol": recipe.split.protocol,
        "labels": labels,
        "folds": folds,
        "images": len(records),
        "groups": len({r.group for r in records}),
        "data": str(data.resolve()),
        "data_sha256": data_hash(records, contents),
        "leanmed": __version__,
        "packages": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
    }


def _open(
    out: Path, recipe: Recipe, facts: dict[str, Any], records: Sequence[Record], folds: Sequence[Fold], resume: bool
) -> None:
    """Start a new run folder, or check that the old one is of the same recipe and data."""
    if (out / RUN).is_file():
        before = open_run(out)
        if not resume:
            raise RunError(f"{out} holds a run already; add --resume to go on with it, or choose another --out")
        if before.recipe != recipe or before.facts["data_sha256"] != facts["data_sha256"]:
            what = "recipe" if before.recipe != recipe else "data"
            raise RunError(f"{out} was started with another {what}; resume with the same one, or choose another --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"expected --out {out} to be new or empty, but it holds something that is no run")
    parts = {f.number: {i: name for name, where in f.parts().items() for i in where.tolist()} for f in folds}
    rows = [
        {"image": r.id, "label": r.target, "group": r.group} | {f"fold_{k}": parts[k].get(i, "") for k in parts}
        for i, r in enumerate(records)
    ]
    write_csv(out / SPLITS, rows)
    write_text(out / RECIPE, dump_recipe(recipe))
    write_json(out / RUN, facts)


def _train_fold(
    run: Run, fold: Fold, records: Sequence[Record], machines: Machines, tell: Callable[[str], None]
) -> None:
    """Fit, choose the best epoch, calibrate it on validation data, and only then open the test part."""
    started = time.monotonic()
    folder, settings = run.folder(fold.number), run.recipe.training
    lightning.seed_everything(seed_of(settings.seed, fold.number) % 2**32, verbose=False)
    task = TASKS[run.recipe.task](run.recipe, run.labels)
    task.to(memory_format=torch.channels_last)  # on a CPU convolutions run half as long again without it
    parts = {n: Prepared([records[i] for i in w], task, run.recipe.data.cache_bytes) for n, w in fold.parts().items()}
    loop = Loop(task, settings, fold.number, folder, tell)
    with hushed():
        trainer = make_trainer(
            folder,
            settings,
            accelerator=machines.accelerator,
            devices=machines.devices,
            num_nodes=machines.nodes,
            strategy=machines.strategy,
        )
        batches = training_batches(
            parts["train"], settings.batch_size, seed_of(settings.seed, fold.number), trainer.global_rank, trainer.world_size
        )
        last = folder / LAST
        trainer.fit(
            loop,
            batches,
            ordered_batches(parts["validation"], settings.batch_size),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    if trainer.is_global_zero:
        _finish_fold(run, fold, task, loop, parts, time.monotonic() - started)
    trainer.strategy.barrier()


def _finish_fold(run: Run, fold: Fold, task: Task, loop: Loop, parts: dict[str, Prepared], seconds: float) -> None:
    folder, batch_size = run.folder(fold.number), run.recipe.training.batch_size
    best = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    loop.load_state_dict(best["state_dict"])
    task.cpu().eval()
    outputs = {n: outputs_of(task, ordered_batches(parts[n], batch_size)) for n in ("validation", "test")}
    task.calibrate(*outputs["validation"], run.recipe.training.threshold)
    rows = [row for name, (found, _) in outputs.items() for row in _rows(task, parts[name].records, name, found)]
    with whole_file(folder / MODEL) as temporary:
        save_file({k: v.contiguous() for k, v in task.state_dict().items()}, temporary)
    write_csv(folder / PREDICTIONS, rows)
    facts = {
        "fold": fold.number,
        "images": {name: len(where) for name, where in fold.parts().items()},
        "epochs": len(loop.history),
        "best_epoch": best["epoch"],
        "validation": task.score(*outputs["validation"]),
        "manifest": task.manifest(),
        "seconds": round(seconds, 1),
    }
    write_json(folder / FOLD, facts)
    for checkpoint in (BEST, LAST):
        (folder / checkpoint).unlink(missing_ok=True)


def _rows(task: Task, records: Sequence[Record], part: str, outputs: Tensor) -> list[dict[str, Any]]:
    return [
        {"image": record.id, "group": record.group, "part": part, "truth": record.target, **answer}
        for record, answer in zip(records, task.answers(outputs), strict=True)
    ]


def load_task(run: Run, fold: int) -> Task:
    """The trained task of a finished fold, calibrated, in evaluation mode.

    Raises:
        RunError: the fold is not finished.
    """
    run.fold(fold)
    task = TASKS[run.recipe.task](run.recipe, run.labels, pretrained=False)
    task.load_state_dict(load_file(run.folder(fold) / MODEL))
    return task.eval()
