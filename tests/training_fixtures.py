"""The tiny recipe, data and trained run that the tests of training, loop and export share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import load_file
from torch import Tensor

from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.recipe.recipe import Recipe
from leanmed.runs import FOLD, HISTORY, MODEL, Run
from leanmed.tasks.recipes import check_recipe
from leanmed.training import fit
from leanmed.training import train as training
from leanmed.training.loop import Loop

TINY: dict[str, dict[str, Any]] = {
    "split": {"folds": 2, "validation": 0.25, "groups": "reader"},
    "model": {"backbone": "test_efficientnet", "weights": "none", "side": 32},
    "training": {"batch_size": 4, "epochs": 6, "patience": 2, "learning_rate": 4e-3},
    "evaluation": {"resamples": 100},
}


def tiny_recipe(**sections: dict[str, Any]) -> Recipe:
    """A recipe that trains in a second or two; `sections` change values of it."""
    names = TINY | {name: {} for name in sections if name not in TINY}
    changed = {name: TINY.get(name, {}) | sections.get(name, {}) for name in names}
    return check_recipe({"name": "tiny", **changed}, "tiny")


def silent(line: str) -> None:
    """Where nobody watches."""


def made_data(base: Path) -> Path:
    """Forty made eyelids, once for each base folder."""
    return PHANTOMS["eyelids"](base / "eyelids-to-train", count=40, signal=3.0, side=128)


@cache
def trained_run(base: Path) -> Run:
    """Both folds trained without a break, once for each base folder. Look, do not touch."""
    return training.train(tiny_recipe(), made_data(base), base / "trained", tell=silent)


def weights(run: Run, fold: int | None) -> dict[str, Tensor]:
    """What a fold learned, or the model of all images."""
    return load_file(run.folder(fold) / MODEL)


def outcome(run: Run, fold: int) -> tuple[Any, ...]:
    """All that a fold leaves behind but its weights and the time it took."""
    answers = (run.answers(fold, part) for part in ("validation", "test"))
    texts = (path.read_text() for path in (run.folder(fold) / HISTORY, *answers))
    return {k: v for k, v in run.fold(fold).facts.items() if k != "seconds"}, *texts


def train_and_die(point: str, recipe: Recipe, data: Path, out: Path) -> None:
    """Start a run, or go on with it, and die of SIGKILL at `point`; to be called in a process of its own."""
    DEATHS[point]()
    training.train(recipe, data, out, resume=True, tell=silent)


def _die(*arguments: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _in_mid_epoch() -> None:
    step = Loop.training_step

    def mortal(loop: Loop, batch: Any, number: int) -> Tensor:
        return _die() if (loop.fold, loop.current_epoch, number) == (1, 1, 1) else step(loop, batch, number)

    Loop.training_step = mortal  # type: ignore[method-assign]


def _after_early_stopping() -> None:
    Loop.on_train_end = _die  # type: ignore[method-assign]


def _before_the_fold_is_done() -> None:
    write = fit.write_json
    fit.write_json = lambda path, content: _die() if path.name == FOLD else write(path, content)


DEATHS: dict[str, Callable[[], None]] = {
    "right after early stopping ran out in fold 0": _after_early_stopping,
    "in mid-epoch of fold 1": _in_mid_epoch,
    "with all of fold 1 written but fold.json": _before_the_fold_is_done,
}
