"""One training: a fold, which selects its epoch on validation images, or the refit on all images.

The refit is what `leanmed export` gives by default. No image is left to select its epoch by, so it is trained for as
many epochs as the median fold chose, on the folds' schedule. Temperature and threshold are those of all folds together,
and the figures to state of it are the cross-validated ones: of models that were made in the same way, each on images
new to it.
"""

from __future__ import annotations

import gc
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import lightning
import torch
from safetensors.torch import save

from leanmed.data.splits import Fold
from leanmed.errors import RunError
from leanmed.files import whole_file, write_json
from leanmed.models.familiarity import Descriptor
from leanmed.recipe.recipe import Distillation, Recipe
from leanmed.records import Record
from leanmed.runs import CALIBRATION, FOLD, MODEL, PROGRESS, Run
from leanmed.runtime.lines import line_of, write_lines
from leanmed.tasks.base import Task
from leanmed.tasks.building import build_task
from leanmed.training.batches import Cache, Prepared, answer_part, ordered_batches, training_batches
from leanmed.training.familiarity import keep_familiarity
from leanmed.training.loop import BEST, LAST, Loop, hushed, make_trainer, seed_of
from leanmed.training.machines import Machines
from leanmed.training.ranks import is_first

Tell = Callable[[str], None]


class Teaching(Protocol):
    """Who makes a task one that learns from a teacher too; see `leanmed.compress.distil`."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a run keeps of its teacher; `sha256` tells it from others."""

    def check(self, recipe: Recipe, labels: tuple[str, ...], rows: Sequence[Mapping[str, str]]) -> None:
        """Refuse to teach such a student on such a split, with a RunError."""

    def apply(self, task: Task, fold: int | None, settings: Distillation) -> Task:
        """The task of a fold, or if None of all images, with a teacher's terms added to its loss."""


def teacher_hash(facts: Mapping[str, Any] | None) -> str | None:
    """What tells the teacher of these facts from others; None: there is none."""
    return facts["sha256"] if facts else None


def train_fold(
    run: Run,
    fold: Fold,
    records: Sequence[Record],
    inputs: Cache,
    machines: Machines,
    tell: Tell,
    teacher: Teaching | None = None,
) -> None:
    """Fit, choose the best epoch on validation data, and only then open the test part."""
    if is_first():  # what was made of the answers that this fold will replace
        (run.path / CALIBRATION).unlink(missing_ok=True)
        shutil.rmtree(run.folder(None), ignore_errors=True)
    parts = {name: [records[i] for i in where] for name, where in fold.parts().items()}
    loop, trainer = _fit(run, fold.number, parts["train"], parts["validation"], inputs, machines, tell, teacher)
    if trainer.is_global_zero:
        loop.task.to(trainer.strategy.root_device)
        _finish_fold(run, fold, loop, parts)
    trainer.strategy.barrier()
    del loop, trainer
    gc.collect()  # they refer to each other, and hold a whole model with its optimiser


def refit(
    run: Run,
    records: Sequence[Record],
    machines: Machines | None = None,
    *,
    teacher: Teaching | None = None,
    tell: Tell = print,
) -> None:
    """Train one model on all images of a finished run, unless that was done; a stopped refit goes on.

    Args:
        run: finished and calibrated.
        records: all of its images, as `train` had them.
        machines: where to train; None: one device of this machine.
        teacher: of a run that has one.
        tell: takes one line of progress at a time.

    Raises:
        RunError: a fold is not finished, each is calibrated by itself (an older version did that), or the training has
            diverged.
    """
    chosen = [fold.facts["best_epoch"] + 1 for fold in run.folds()]
    if run.done(None):
        return
    if not run.calibration:
        raise RunError(
            f"{run.path} is of an earlier version, which calibrated each fold by itself, so that nothing calibrates a "
            "model of all images; export one fold with --fold, or train again"
        )
    if run.facts.get("processes", 1) != 1:
        raise RunError(
            f"expected a run trained by one process, got one of {run.facts['processes']}, whose batches a single "
            "process does not repeat; export one fold with --fold"
        )
    if teacher_hash(teacher.facts if teacher else None) != teacher_hash(run.facts.get("teacher")):
        raise RunError(
            f"expected the teacher that {run.path} was trained with, or none if it had none, got another; name the same"
        )
    epochs = max(1, round(statistics.median(chosen)))
    tell(
        f"training on all {len(records)} images for {epochs} epoch(s), the median of the folds' "
        f"({', '.join(map(str, chosen))}); --fold exports one fold without that"
    )
    inputs = Cache(run.recipe.data.cache_bytes)
    loop, _ = _fit(run, None, records, None, inputs, machines or Machines(), tell, teacher, epochs)
    _weights_at(loop, LAST)
    task = loop.task.kept
    if not all(tensor.isfinite().all() for tensor in task.state_dict().values() if tensor.is_floating_point()):
        raise RunError(
            "expected finite weights of the model of all images, got others, so its training has diverged; export one "
            "fold with --fold, or train again with a lower training.learning_rate"
        )
    found = run.calibration
    task.decide_by(found["value"], found["threshold"])
    keep_familiarity(run.folder(None), task, records, {}, run.recipe.training.batch_size)
    facts = {"images": {"train": len(records)}, "epochs": epochs, "epochs_of_folds": chosen}
    _write(run, None, loop, facts, (LAST,))


def _fit(
    run: Run,
    fold: int | None,
    training: Sequence[Record],
    validation: Sequence[Record] | None,
    inputs: Cache,
    machines: Machines,
    tell: Tell,
    teacher: Teaching | None,
    epochs: int | None = None,
) -> tuple[Loop, lightning.Trainer]:
    """Train a new task: until validation images show no more gain, or for so many epochs."""
    folder, settings = run.folder(fold), run.recipe.training
    seed, last = seed_of(settings.seed, fold), folder / LAST
    lightning.seed_everything(seed % 2**32, verbose=False)
    task = build_task(run.recipe, run.labels)
    if teacher:
        task = teacher.apply(task, fold, run.recipe.distillation)
        lightning.seed_everything(seed % 2**32, verbose=False)  # whatever was drawn to make the teacher
    task.to(memory_format=torch.channels_last)  # on a CPU convolutions run half as long again without it
    prepared = Prepared(training, task, inputs)
    loop = Loop(task, settings, fold, folder, tell, epochs or settings.epochs)
    for line in [*_trained_share(task.kept), *task.begin(prepared)]:
        tell(f"{loop.name}: {line}")
    with hushed(), _one_image_told():
        trainer = make_trainer(folder, settings, epochs, **machines.options())
        trainer.fit(
            loop,
            training_batches(prepared, settings.batch_size, seed, trainer.global_rank, trainer.world_size),
            ordered_batches(Prepared(validation, task, inputs), settings.batch_size) if validation else None,
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    return loop, trainer


def _trained_share(task: Task) -> list[str]:
    """How little of a task is trained, where a technique has frozen the rest."""
    trained, whole = (
        sum(p.numel() for p in task.parameters() if p.requires_grad or frozen) for frozen in (False, True)
    )
    return [f"trains {trained:,} of {whole:,} parameters"] if trained < whole else []


@contextmanager
def _one_image_told() -> Iterator[None]:
    """Batch normalisation has no variance to learn from one value a channel, and says so in its own words."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            "expected at least two images a batch, since this network's batch normalisation cannot learn from one; set "
            "training.batch_size to 2 or more"
        ) from error


def _finish_fold(run: Run, fold: Fold, loop: Loop, parts: Mapping[str, Sequence[Record]]) -> None:
    task, batch_size = loop.task.kept, run.recipe.training.batch_size
    best = _weights_at(loop, BEST)
    task.eval()
    chosen = next(row for row in loop.history if row["epoch"] == best["epoch"])
    task.decide_by(1.0, 0.0)  # `calibrate` decides when all folds have answered
    unseen: dict[str, tuple[Sequence[Record], list[Descriptor]]] = {k: (parts[k], []) for k in ("validation", "test")}
    for part, (records, seen) in unseen.items():
        answered = answer_part(task, Prepared(records, task, None), batch_size, seen)
        write_lines(run.uncalibrated(fold.number, part), (line_of(record.id, answer) for record, answer in answered))
    keep_familiarity(run.folder(fold.number), task, parts["train"], unseen, batch_size)
    facts = {
        "images": {name: len(where) for name, where in fold.parts().items()},
        "epochs": len(loop.history),
        "best_epoch": best["epoch"],
        "validation": {
            name.removeprefix("val_"): None if math.isnan(value) else value
            for name, value in chosen.items()
            if name.startswith("val_")
        },
    }
    _write(run, fold.number, loop, facts, (BEST, LAST))


def _weights_at(loop: Loop, checkpoint: str) -> dict[str, Any]:
    """Bring the loop's task to the weights of a checkpoint, averaged where the recipe says so; the checkpoint."""
    found: dict[str, Any] = torch.load(loop.folder / checkpoint, map_location="cpu", weights_only=True)
    loop.load_state_dict(found["state_dict"])
    return found


def _write(run: Run, fold: int | None, loop: Loop, facts: dict[str, Any], checkpoints: Sequence[str]) -> None:
    """The weights, then the facts, which make the training a finished one, and no checkpoint any more."""
    folder, task = run.folder(fold), loop.task.kept
    weights = {name: tensor.cpu().contiguous() for name, tensor in task.state_dict().items()}
    with whole_file(folder / MODEL) as temporary:
        temporary.write_bytes(save(weights))
    more = {"manifest": task.manifest(), "seconds": round(time.monotonic() - loop.started, 1)}
    write_json(folder / FOLD, {"fold": fold, **facts, **more})
    for leftover in (*(folder / name for name in (*checkpoints, PROGRESS)), *folder.glob(".*.part")):
        leftover.unlink(missing_ok=True)
