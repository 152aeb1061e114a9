"""The one training loop: a thin Lightning shell around any task, and the callbacks that make it resumable."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from leanmed.console import in_time
from leanmed.errors import RunError
from leanmed.files import sha256_bytes, whole_file, write_json
from leanmed.recipe.recipe import Training
from leanmed.runs import HISTORY, PROGRESS, write_csv
from leanmed.tasks.base import Batch, Task

LAST, BEST = "last.ckpt", "best.ckpt"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda parameters, **settings: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings),
}


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a function of its parts alone."""
    return int(sha256_bytes("/".join(map(str, parts)).encode())[:16], 16) >> 1


class Loop(lightning.LightningModule):
    """Training and validation steps of any task.

    Args:
        task: what is trained.
        settings: optimiser, schedule, selection.
        fold: its number, which goes into every seed, so that folds differ; None: the refit on all images.
        folder: of the fold; takes the history and the progress, written whole after every epoch.
        tell: takes one line per epoch.
        epochs: how many there are at most.
    """

    def __init__(
        self, task: Task, settings: Training, fold: int | None, folder: Path, tell: Callable[[str], None], epochs: int
    ) -> None:
        super().__init__()
        self.task, self.settings, self.fold, self.folder, self.tell = task, settings, fold, folder, tell
        self.epochs = epochs
        self.history: list[dict[str, float]] = []
        self.line = ""
        self.started = time.monotonic()
        self._pace = Pace()
        self._scores: dict[str, float] = {}
        self._seen = task.scorer()
        self._losses: list[Tensor] = []

    @property
    def name(self) -> str:
        """What a line calls the training."""
        return "all images" if self.fold is None else f"fold {self.fold}"

    def on_train_start(self) -> None:
        """Tell whoever watches that it has begun."""
        self._write_progress()

    def _write_progress(self) -> None:
        """How far it is, how fast, and which process it is, for `leanmed watch`."""
        if self.trainer.is_global_zero:
            about = {"epoch": len(self.history), "epochs": self.epochs, **self._pace.facts()}
            process = {"written": time.time(), "process": os.getpid(), "host": platform.node()}
            write_json(self.folder / PROGRESS, about | process)

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's losses."""
        self._losses = []
        self._pace.begin_epoch()

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Augment, then the task's loss. Whatever was drawn before, dropout draws as in an unbroken run."""
        seed = seed_of(self.settings.seed, self.fold, self.current_epoch, self.global_rank, step)
        torch.manual_seed(seed)
        loss = self.task.loss(self.task.augment(batch, seed))
        self._losses.append(loss.detach())
        self._pace.saw(len(next(iter(batch.inputs.values()))))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted epoch saw."""
        self._seen = self.task.scorer()

    def validation_step(self, batch: Batch, step: int) -> None:
        """Gather what the figures need; they are of the whole part, never means over batches."""
        outputs = self.task(batch.inputs)
        if not all(tensor.isfinite().all() for tensor in outputs.values()):
            raise RunError(
                f"{self.name}, epoch {self.current_epoch + 1}: expected finite outputs, got others, so the "
                "training has diverged; train again with a lower training.learning_rate"
            )
        self._seen.add(outputs, batch.targets)

    def on_validation_epoch_end(self) -> None:
        """Score by the code that the report uses."""
        seen, self._seen = self._seen, self.task.scorer()
        # The first process decides for all, so that none stops or saves without the others.
        figures = self.trainer.strategy.broadcast(seen.figures())
        self._scores = {f"val_{name}": value for name, value in figures.items()}
        self.log_dict(self._scores)

    def on_train_epoch_end(self) -> None:
        """One line of history, and one for whoever watches, which `KeepLast` tells once the epoch is kept."""
        loss = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.log("train_loss", loss)
        scores = self._scores
        self.history.append({"epoch": self.current_epoch, "train_loss": float(loss), **scores})
        if self.trainer.is_global_zero:
            write_csv(self.folder / HISTORY, self.history)
        self._write_progress()
        names = dict.fromkeys(("val_loss", f"val_{self.settings.select_by}", f"val_{self.task.main_score}"))
        shown = [f"{k} {scores[k]:.4f}" for k in names if k in scores]
        done = self.current_epoch + 1
        epoch = f"epoch {done} of {self.epochs}"
        pace = self._pace.in_words(self.epochs - done)
        self.line = "  ".join([self.name, epoch, f"train_loss {float(loss):.4f}", *shown, *self._best(), pace])

    def _best(self) -> list[str]:
        """Which epoch is the best so far by what selects, where validation images say so."""
        select = f"val_{self.settings.select_by}"
        if select not in self._scores:
            return []
        sign = -1 if self.settings.select_by == "loss" else 1
        best = max(self.history, key=lambda row: sign * row[select])
        return [f"best: epoch {int(best['epoch']) + 1}"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """History and time spent travel with the checkpoint, so that a resumed run has all of them."""
        checkpoint["history"] = self.history
        checkpoint["seconds"] = time.monotonic() - self.started

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.history = checkpoint["history"]
        self.started = time.monotonic() - checkpoint["seconds"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimiser and schedule, stepped every batch."""
        optimizer = OPTIMIZERS[self.settings.optimizer](
            self.task.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)

        def share(step: int) -> float:
            """Of the learning rate, at a step from 0."""
            warm = min(1.0, (step + 1) / (self.settings.warmup_steps + 1))
            return warm * self._shape(step, steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _shape(self, step: int, steps: int) -> float:
        """The schedule's share of the learning rate at a step of so many."""
        settings = self.settings
        if settings.schedule == "cosine":
            return (1 + math.cos(math.pi * step / steps)) / 2
        if settings.schedule == "cyclic":
            least = settings.least_rate / settings.learning_rate
            return least + (1 - least) * (1 - abs(step / settings.cycle_steps % 2 - 1))
        return 1.0


class Pace:
    """How fast a training goes: images a second in its steps, and the time that further epochs will take."""

    def __init__(self) -> None:
        self._began = self._epoch_began = self._last_step = time.monotonic()
        self._epochs = self._images = 0

    def begin_epoch(self) -> None:
        """An epoch begins; the first one that is seen need not be the training's first."""
        self._epoch_began = time.monotonic()
        if not self._epochs:
            self._began = self._epoch_began
        self._epochs += 1
        self._images = 0

    def saw(self, images: int) -> None:
        """A step is over."""
        self._images += images
        self._last_step = time.monotonic()

    def facts(self) -> dict[str, float | None]:
        """Images a second in the last epoch, and seconds an epoch; None before the first is over."""
        if not self._epochs:
            return {"images_per_second": None, "seconds_an_epoch": None}
        stepped = max(self._last_step - self._epoch_began, 1e-9)
        each = (time.monotonic() - self._began) / self._epochs
        return {"images_per_second": self._images / stepped, "seconds_an_epoch": each}

    def in_words(self, further: int) -> str:
        """The last epoch's pace, and how long so many further epochs take if all are needed."""
        facts = self.facts()
        left = f"at most {in_time(further * (facts['seconds_an_epoch'] or 0))} left" if further > 0 else "the last one"
        return f"{facts['images_per_second'] or 0:.3g} images/s, {left}"


class Stopping(EarlyStopping):
    """Early stopping that, resumed after its last epoch, does not run one more."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once when patience had run out before the kill."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class StopAfter(Callback):
    """Ends a training after some epochs, while its schedule is the one of the recipe's `epochs`."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once when the last epoch was over before the kill."""
        trainer.should_stop = trainer.should_stop or trainer.current_epoch >= self.epochs

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop after the last one."""
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 >= self.epochs


class KeepLast(Checkpoint):
    """Writes `last` after every epoch, and then tells of it: whoever stops the training then loses nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See the class."""
        trainer.save_checkpoint(self.folder / LAST)
        loop = cast(Loop, pl_module)
        loop.tell(loop.line)


class Keep(KeepLast):
    """Writes `best` after every epoch better than all before, and `last` after every one.

    Lightning's ModelCheckpoint would forget the best score when the folder is moved before it is resumed.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder)
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.merit = -math.inf

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """`last` comes second: it holds the best score, this epoch's included."""
        merit = self.sign * float(trainer.callback_metrics[self.monitor])
        if merit > self.merit:
            self.merit = merit
            trainer.save_checkpoint(self.folder / BEST)
        super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"merit": self.merit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.merit = state_dict["merit"]


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill in mid-write cannot damage."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside, then rename."""
        with whole_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def make_trainer(folder: Path, settings: Training, epochs: int | None = None, **machines: Any) -> lightning.Trainer:
    """A Trainer that keeps the best epoch and the last one in `folder` and continues from there.

    Args:
        folder: of one fold, or of the refit.
        settings: epochs, patience, what selects.
        epochs: train for so many, without validation, and keep the last; None: stop when validation shows no more gain.
        machines: `accelerator`, `devices`, `num_nodes`, `strategy`, as Lightning takes them.
    """
    monitor = f"val_{settings.select_by}"
    mode = "min" if settings.select_by == "loss" else "max"
    callbacks: list[Callback] = (
        [
            Stopping(monitor, mode=mode, patience=settings.patience, check_on_train_epoch_end=True),
            Keep(folder, monitor, mode),
        ]
        if epochs is None
        else [StopAfter(epochs), KeepLast(folder)]
    )
    if settings.average:
        callbacks.insert(0, EMAWeightAveraging(decay=settings.average))
    return lightning.Trainer(
        max_epochs=settings.epochs,
        precision=settings.precision,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=False,
        **machines,
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Keep Lightning's advice about workers and its banners out of the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning, r"lightning\..*")  # its use of torch
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
