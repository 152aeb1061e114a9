"""The one training loop: a thin Lightning shell around any task, and the callbacks that make it resumable."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from leanmed.config import Training
from leanmed.files import sha256_bytes, whole_file
from leanmed.runs import HISTORY, write_csv
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
        fold: goes into every seed, so that folds differ.
        folder: of the fold; takes the history, written whole after every epoch.
        tell: takes one line per epoch.
    """

    def __init__(
        self, task: Task, settings: Training, fold: int, folder: Path, tell: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.task, self.settings, self.fold, self.folder, self.tell = task, settings, fold, folder, tell
        self.history: list[dict[str, float]] = []
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Whatever was drawn before, this epoch draws (dropout included) what it would draw in an unbroken run."""
        torch.manual_seed(seed_of(self.settings.seed, self.fold, self.current_epoch, self.global_rank))
        self._losses = []

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Augment, then the task's loss."""
        seed = seed_of(self.settings.seed, self.fold, self.current_epoch, self.global_rank, step)
        loss = self.task.loss(self.task.augment(batch, seed))
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, step: int) -> None:
        """Keep outputs; figures are of the whole part, never means over batches."""
        images, targets = batch
        self._seen.append((self.task(images).cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score by the code that the report uses."""
        outputs, targets = (torch.cat(column) for column in zip(*self._seen, strict=True))
        self._seen = []
        if not self.trainer.sanity_checking:
            figures = self.task.score(outputs, targets)
            self.log_dict({f"val_{name}": value for name, value in figures.items()})

    def on_train_epoch_end(self) -> None:
        """One line of history, and one for whoever watches."""
        loss = torch.stack(self._losses).mean()
        self.log("train_loss", loss)
        scores = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val_")}
        self.history.append({"epoch": self.current_epoch, "train_loss": float(loss), **scores})
        if self.trainer.is_global_zero:
            write_csv(self.folder / HISTORY, self.history)
        shown = "  ".join(f"{k} {scores[k]:.4f}" for k in ("val_loss", "val_f1", "val_auc") if k in scores)
        self.tell(f"fold {self.fold}  epoch {self.current_epoch}  train_loss {float(loss):.4f}  {shown}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """History travels with the checkpoint, so that a resumed run has all of it."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimiser and schedule, stepped every batch."""
        optimizer = OPTIMIZERS[self.settings.optimizer](
            self.task.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        if self.settings.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Stopping(EarlyStopping):
    """Early stopping that, resumed after its last epoch, does not run one more."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once when patience had run out before the kill."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill in mid-write cannot damage."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside, then rename."""
        with whole_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def make_trainer(folder: Path, settings: Training, **machines: Any) -> lightning.Trainer:
    """A Trainer that keeps the best epoch and the last one in `folder` and continues from there.

    Args:
        folder: of one fold.
        settings: epochs, patience, what selects.
        machines: `accelerator`, `devices`, `num_nodes`, `strategy`, as Lightning takes them.
    """
    monitor = f"val_{settings.select_by}"
    mode = "min" if settings.select_by == "loss" else "max"
    keep: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [
        Stopping(monitor, mode=mode, patience=settings.patience, check_on_train_epoch_end=True),
        # The order matters: `last` holds the state of `best`, so best must have seen this epoch already.
        ModelCheckpoint(filename="best", monitor=monitor, mode=mode, **keep),
        ModelCheckpoint(filename="last", **keep),
    ]
    if settings.average:
        callbacks.insert(0, EMAWeightAveraging(decay=settings.average))
    return lightning.Trainer(
        max_epochs=settings.epochs,
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
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*(num_workers|log_every_n_steps|Checkpoint directory).*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

