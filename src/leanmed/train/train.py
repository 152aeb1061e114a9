"""`train()`: from a recipe and a data folder to a run folder (see `leanmed.runs`), fold by fold.

A run that was killed at any point goes on with `resume` and ends as an unbroken one does, because what a step
draws is a function of seed, fold, epoch, process and step.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from safetensors.torch import save
from torch import Tensor

from leanmed import __version__
from leanmed.audit.grouping import AUDIT, Grouping, group_records
from leanmed.data import class_labels, content_hashes, data_hash, read_records
from leanmed.data.splits import LEAK, Fold, make_folds
from leanmed.errors import RunError
from leanmed.files import whole_file, write_json, write_text
from leanmed.reading.greys import range_remarks
from leanmed.recipe.recipe import Recipe, dump_recipe
from leanmed.records import Record
from leanmed.runs import FOLD, MODEL, PREDICTIONS, RECIPE, RUN, SPLITS, Run, open_run, read_csv, write_csv
from leanmed.tasks.base import Task
from leanmed.tasks.building import TASKS
from leanmed.train.batches import (
    Cache,
    Prepared,
    check_readable,
    ordered_batches,
    outputs_of,
    training_batches,
)
from leanmed.train.loop import BEST, LAST, Loop, hushed, make_trainer, seed_of

OBJECTS = ("object",)  # what boxes hold, when the recipe does not say
PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Machines:
    """Where to train, passed through to Lightning. Several machines must share the data and the run folder.

    Raises:
        RunError: as many processes are needed as there are devices, and others were started.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))  # as torchrun says
        if processes != self.nodes * self.devices:
            raise RunError(
                f"expected one process for each of {self.nodes} x {self.devices} devices, got {processes}; "
                "set --nodes and --devices to what is there, and start with: "
                f"torchrun --nnodes {self.nodes} --nproc-per-node {self.devices} -m leanmed train ..."
            )

    def options(self) -> dict[str, Any]:
        """As Lightning's Trainer takes them."""
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": self.strategy,
        }


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
        RunError: `out` holds another run, its recipe, data or split have changed, or a training has diverged.
    """
    machines, is_first = machines or Machines(), os.environ.get("RANK", "0") == "0"
    tell = tell if is_first else (lambda line: None)
    if is_first:
        _check_room(out, resume)
    records = read_records(recipe.data.dataset, data)
    data_sha256 = data_hash(records, content_hashes(records))
    with TemporaryDirectory() as scratch:  # only the first process keeps what it finds
        cache = out.parent / AUDIT if is_first else Path(scratch)
        grouping = group_records(records, recipe.split, cache, data_sha256=data_sha256, tell=tell)
    records = grouping.records
    labels = labels_of(recipe, records)
    folds = make_folds(records, recipe.split)
    facts = _facts(recipe, data, grouping, labels, len(folds), data_sha256)
    if is_first:
        _open(out, recipe, facts, records, folds)
        tell(f"{len(folds)} fold(s) -> {out}; {_labels_line(labels)}")
        for line in range_remarks(record.image for record in records):
            tell(line)
        if facts["leak"]:
            tell(facts["leak"])
    run, inputs = Run(out, recipe, facts), Cache(recipe.data.cache_bytes)
    for fold in folds:
        if not run.done(fold.number):
            _train_fold(run, fold, records, inputs, machines, tell)
            gc.collect()  # trainer and loop refer to each other, and hold a whole model with its optimiser
    tell(f"done; now: leanmed evaluate {out} --data {data} --out REPORT")
    return run


def labels_of(recipe: Recipe, records: Sequence[Record]) -> tuple[str, ...]:
    """Class labels as `class_labels` finds them; for detection, the name of what the boxes hold."""
    if recipe.task == "detection":
        return recipe.data.labels or OBJECTS
    return class_labels(recipe.data.dataset, records, recipe.data.labels)


def _labels_line(labels: tuple[str, ...]) -> str:
    names = ", ".join(labels)
    return f"objects: {names}" if len(labels) == 1 else f"labels {names}; of two, the last is the positive one"


def _facts(
    recipe: Recipe, data: Path, grouping: Grouping, labels: tuple[str, ...], folds: int, data_sha256: str
) -> dict[str, Any]:
    return {
        "leak": LEAK if recipe.split.protocol == "paper" else None,
        "protocol": recipe.split.protocol,
        "labels": labels,
        "folds": folds,
        "images": len(grouping.records),
        "grouping": grouping.notes(),
        "data": str(data.resolve()),
        "data_sha256": data_sha256,
        "leanmed": __version__,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
    }


def _check_room(out: Path, resume: bool) -> None:
    """Refuse a folder that cannot become the run's, before any work is done."""
    if (out / RUN).is_file():
        if not resume:
            raise RunError(f"{out} holds a run already; add --resume to go on with it, or choose another --out")
    elif out.exists() and (not out.is_dir() or any(map(_is_strange, out.iterdir()))):
        raise RunError(f"expected --out {out} to be new or empty, but it holds something that is no run")


def _open(
    out: Path,
    recipe: Recipe,
    facts: dict[str, Any],
    records: Sequence[Record],
    folds: Sequence[Fold],
) -> None:
    """Start a new run folder, or check that the old one is of the same recipe, data and split."""
    rows = _split_rows(records, folds)
    if (out / RUN).is_file():
        _check_same(open_run(out), recipe, facts, rows)
        return
    check_readable(records)
    write_csv(out / SPLITS, rows)
    write_text(out / RECIPE, dump_recipe(recipe))
    write_json(out / RUN, facts)


def _split_rows(records: Sequence[Record], folds: Sequence[Fold]) -> list[dict[str, str]]:
    parts = {f.number: {i: name for name, where in f.parts().items() for i in where.tolist()} for f in folds}
    return [
        {"image": r.id, "label": r.truth, "group": r.group} | {f"fold_{k}": parts[k].get(i, "") for k in parts}
        for i, r in enumerate(records)
    ]


def _check_same(before: Run, recipe: Recipe, facts: dict[str, Any], rows: list[dict[str, str]]) -> None:
    """A fold of another split could train on what another fold was tested on."""
    same = {
        "recipe": before.recipe == recipe,
        "data set": before.facts["data_sha256"] == facts["data_sha256"],
        "number of processes": before.facts.get("processes", 1) == facts["processes"],
        "split": read_csv(before.path / SPLITS) == rows,
    }
    for what, is_same in same.items():
        if not is_same:
            raise RunError(
                f"{before.path} was started with another {what}; resume with the same one, or choose another --out"
            )


def _is_strange(path: Path) -> bool:
    """Whether a file is none of those that a run killed in its first second leaves behind."""
    return path.name not in (SPLITS, RECIPE) and path.suffix != ".part"


def _train_fold(
    run: Run,
    fold: Fold,
    records: Sequence[Record],
    inputs: Cache,
    machines: Machines,
    tell: Callable[[str], None],
) -> None:
    """Fit, choose the best epoch, calibrate it on validation data, and only then open the test part."""
    folder, settings = run.folder(fold.number), run.recipe.training
    seed, last = seed_of(settings.seed, fold.number), folder / LAST
    lightning.seed_everything(seed % 2**32, verbose=False)
    task = TASKS[run.recipe.task](run.recipe, run.labels)
    task.to(memory_format=torch.channels_last)  # on a CPU convolutions run half as long again without it
    parts = {n: Prepared([records[i] for i in where], task, inputs) for n, where in fold.parts().items()}
    for line in task.begin(parts["train"]):
        tell(f"fold {fold.number}: {line}")
    loop = Loop(task, settings, fold.number, folder, tell)
    with hushed():
        trainer = make_trainer(folder, settings, **machines.options())
        rank, world = trainer.global_rank, trainer.world_size
        trainer.fit(
            loop,
            training_batches(parts["train"], settings.batch_size, seed, rank, world),
            ordered_batches(parts["validation"], settings.batch_size),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    if trainer.is_global_zero:
        _finish_fold(run, fold, task, loop, parts)
    trainer.strategy.barrier()


def _finish_fold(run: Run, fold: Fold, task: Task, loop: Loop, parts: dict[str, Prepared]) -> None:
    folder, batch_size = run.folder(fold.number), run.recipe.training.batch_size
    best = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    loop.load_state_dict(best["state_dict"])
    task.cpu().eval()
    outputs, targets = outputs_of(task, ordered_batches(parts["validation"], batch_size))
    task.calibrate(outputs, targets, run.recipe.training.threshold)
    tested, _ = outputs_of(task, ordered_batches(parts["test"], batch_size))
    rows = [
        *_rows(task, parts["validation"], "validation", outputs),
        *_rows(task, parts["test"], "test", tested),
    ]
    with whole_file(folder / MODEL) as temporary:
        temporary.write_bytes(save({k: v.contiguous() for k, v in task.state_dict().items()}))
    write_csv(folder / PREDICTIONS, rows)
    facts = {
        "fold": fold.number,
        "images": {name: len(where) for name, where in fold.parts().items()},
        "epochs": len(loop.history),
        "best_epoch": best["epoch"],
        "validation": {k: None if math.isnan(v) else v for k, v in task.score(outputs, targets).items()},
        "manifest": task.manifest(),
        "seconds": round(time.monotonic() - loop.started, 1),
    }
    write_json(folder / FOLD, facts)
    for leftover in (folder / BEST, folder / LAST, *folder.glob(".*.part")):
        leftover.unlink(missing_ok=True)


def _rows(task: Task, part: Prepared, name: str, outputs: Tensor) -> list[dict[str, Any]]:
    return [
        {"image": record.id, "group": record.group, "part": name, "truth": record.truth, **answer}
        for record, answer in zip(part.records, task.answers(outputs, part.sizes()), strict=True)
    ]
