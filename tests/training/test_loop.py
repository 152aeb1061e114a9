from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging

from leanmed.console import in_time
from leanmed.errors import RunError
from leanmed.tasks.base import Batch
from leanmed.tasks.classification.training import Classification
from leanmed.training.loop import (
    BEST,
    LAST,
    OPTIMIZERS,
    Keep,
    Loop,
    Pace,
    Stopping,
    WholeCheckpoints,
    hushed,
    make_trainer,
    seed_of,
)
from training_fixtures import silent, tiny_recipe


def test_a_seed_is_a_function_of_its_parts_and_of_their_order() -> None:
    assert seed_of(0, 1, 2) == seed_of(0, 1, 2)
    assert len({seed_of(0, 1, 2), seed_of(0, 2, 1), seed_of(1, 0, 2), seed_of(0, 12)}) == 4
    assert all(0 <= seed_of(k) < 2**63 for k in range(64))


class Saver(SimpleNamespace):
    """As much of a Trainer as `Keep` asks for; `files` says which epoch each file is of."""

    def __init__(self) -> None:
        super().__init__(callback_metrics={}, files={}, epoch=-1, told=[])

    def save_checkpoint(self, path: Path) -> None:
        self.files[path.name] = self.epoch

    def run(self, keep: Keep, *scores: float) -> dict[str, int]:
        for score in scores:
            self.epoch += 1
            self.callback_metrics["val_f1"] = torch.tensor(score)
            loop = SimpleNamespace(
                line=f"epoch {self.epoch}", tell=lambda line: self.told.append((line, dict(self.files)))
            )
            keep.on_train_epoch_end(self, loop)  # type: ignore[arg-type]
        return dict(self.files)


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 3)])
def test_the_best_epoch_is_the_first_of_equally_good_ones(mode: str, best: int) -> None:
    saved = Saver().run(Keep(Path(), "val_f1", mode), 0.5, 0.9, 0.9, 0.1, 0.4, 0.1)
    assert saved == {BEST: best, LAST: 5}


def test_an_epoch_is_told_when_it_is_kept_so_that_whoever_stops_then_loses_nothing() -> None:
    saver = Saver()
    saver.run(Keep(Path(), "val_f1", "max"), 0.5, 0.9, 0.1)
    assert [(line, files[LAST]) for line, files in saver.told] == [("epoch 0", 0), ("epoch 1", 1), ("epoch 2", 2)]


def test_the_best_score_is_known_again_after_a_resume() -> None:
    before, saver = Keep(Path("old"), "val_f1", "max"), Saver()
    saver.run(before, 0.5, 0.9, 0.2)
    after = Keep(Path("moved"), "val_f1", "max")
    after.load_state_dict(before.state_dict())
    assert saver.run(after, 0.8, 0.85) == {BEST: 1, LAST: 4}


@pytest.mark.parametrize(("waited", "stops"), [(1, False), (2, True)])
def test_a_resumed_run_whose_patience_had_run_out_stops_at_once(waited: int, stops: bool) -> None:
    stopping, trainer = Stopping("val_f1", patience=2, mode="max"), SimpleNamespace(should_stop=False)
    stopping.wait_count = waited
    stopping.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop is stops


def test_a_checkpoint_that_fails_halfway_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    WholeCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / LAST)
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, tmp_path / LAST)
    assert torch.load(tmp_path / LAST, weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def a_loop(folder: Path, **training: Any) -> Loop:
    torch.manual_seed(0)
    recipe = tiny_recipe(training=training)
    return Loop(Classification(recipe, ("no", "yes")), recipe.training, 3, folder, silent, 2)


def test_a_diverged_training_stops_with_a_remedy(tmp_path: Path) -> None:
    loop = a_loop(tmp_path)
    for parameter in loop.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    batch = Batch({"image": torch.zeros(2, 4, 32, 32)}, {"label": torch.tensor([0, 1])})
    with pytest.raises(RunError, match=r"fold 3, epoch 1: .* diverged; .* lower training\.learning_rate"):
        loop.validation_step(batch, 0)


def test_history_and_time_spent_travel_with_the_checkpoint(tmp_path: Path) -> None:
    before, after, checkpoint = a_loop(tmp_path), a_loop(tmp_path), {}
    before.history, before.started = [{"epoch": 0, "val_f1": 0.5}], before.started - 3600
    before.on_save_checkpoint(checkpoint)
    after.on_load_checkpoint(checkpoint)
    assert after.history == before.history
    assert after.started == pytest.approx(before.started, abs=60)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (301, "5 min"), (5400, "90 min"), (12060, "3 h 21 min")]
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert in_time(seconds) == words


def test_pace_is_of_the_steps_and_the_time_left_of_whole_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of 4 steps of 10 images, a second each, and 16 seconds of validation; then 3 epochs are to come."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("leanmed.training.loop.time.monotonic", lambda: clock.now)
    pace = Pace()
    clock.now = 150.0  # what comes before the first epoch is none
    for _ in range(2):
        pace.begin_epoch()
        for _ in range(4):
            clock.now += 1
            pace.saw(10)
        clock.now += 16
    assert pace.in_words(3) == "10 images/s, at most 60 s left"
    assert pace.in_words(0) == "10 images/s, the last one"


def test_a_line_tells_the_epoch_of_how_many_and_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = a_loop(tmp_path, select_by="f1")
    loop.history = [{"epoch": 0, "train_loss": 1.0, "val_loss": 0.5, "val_f1": 0.75}]
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    trainer = SimpleNamespace(strategy=strategy, is_global_zero=False)
    monkeypatch.setattr(Loop, "current_epoch", 1)
    monkeypatch.setattr(Loop, "trainer", trainer)
    monkeypatch.setattr(loop, "log", lambda *about: None)
    loop._losses, loop._scores = [torch.tensor(0.25)], {"val_loss": 0.6, "val_f1": 0.5, "val_auc": 0.7}
    loop.on_train_epoch_end()
    line = loop.line
    assert line.startswith("fold 3  epoch 2 of 2  train_loss 0.2500  val_loss 0.6000  val_f1 0.5000  val_auc 0.7000")
    assert line.endswith("best: epoch 1  0 images/s, the last one")


def optimizer_and_rates(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, **training: Any) -> tuple[Any, list]:
    """What the loop makes for a training of so many steps, and the learning rate of each and of the one after."""
    monkeypatch.setattr(Loop, "trainer", SimpleNamespace(estimated_stepping_batches=steps))
    made: Any = a_loop(folder, **training).configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(steps + 1):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return made["optimizer"], rates


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_takes_the_recipes_rate_and_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = {"optimizer": name, "learning_rate": 0.02, "weight_decay": 0.3}
    optimizer, rates = optimizer_and_rates(tmp_path, monkeypatch, 3, **settings)
    assert type(optimizer).__name__.lower() == name
    assert rates == pytest.approx([0.02] * 4)
    assert optimizer.defaults["weight_decay"] == 0.3
    assert len(optimizer.param_groups[0]["params"]) > 10


def test_the_cosine_schedule_falls_by_the_step_to_zero_at_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rates = optimizer_and_rates(tmp_path, monkeypatch, 4, schedule="cosine", learning_rate=0.1)
    half = 0.05 * 2**0.5
    assert rates == pytest.approx([0.1, 0.05 + half / 2, 0.05, 0.05 - half / 2, 0.0])


def test_the_rate_rises_evenly_over_the_steps_of_the_warmup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rates = optimizer_and_rates(tmp_path, monkeypatch, 5, learning_rate=0.4, warmup_steps=3)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(("average", "averages"), [(0.0, []), (0.9, [EMAWeightAveraging])])
def test_weights_are_averaged_only_when_asked(tmp_path: Path, average: float, averages: list[type]) -> None:
    with hushed():
        trainer = make_trainer(tmp_path, tiny_recipe(training={"average": average}).training)
    assert [type(c) for c in trainer.callbacks if isinstance(c, WeightAveraging)] == averages


@pytest.mark.parametrize(("select_by", "mode"), [("f1", "max"), ("auc", "max"), ("loss", "min")])
def test_stopping_and_keeping_go_by_the_same_figure(tmp_path: Path, select_by: str, mode: str) -> None:
    settings = tiny_recipe(training={"select_by": select_by, "patience": 7}).training
    with hushed():
        trainer = make_trainer(tmp_path, settings)
    stopping, keep = (next(c for c in trainer.callbacks if isinstance(c, k)) for k in (Stopping, Keep))
    assert (stopping.monitor, stopping.mode, stopping.patience) == (f"val_{select_by}", mode, 7)
    assert (keep.monitor, keep.sign) == (f"val_{select_by}", 1 if mode == "max" else -1)
    assert trainer.callbacks[-1] is keep  # so that `last` holds what all others know of its epoch


def test_advice_is_hushed_and_any_other_warning_is_heard() -> None:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with hushed():
        warnings.warn("more workers would help", PossibleUserWarning, stacklevel=1)
        assert not log.isEnabledFor(logging.WARNING)
        with pytest.raises(UserWarning, match="something is wrong"):
            warnings.warn("something is wrong", UserWarning, stacklevel=1)
    assert log.level == level
    with pytest.raises(PossibleUserWarning):
        warnings.warn("more workers would help", PossibleUserWarning, stacklevel=1)
