"""A run folder read back: what was trained on what, fold by fold. Torch-free.

```
RUN/recipe.yaml                every value written out
RUN/run.json                   data hash, labels, leak label, versions
RUN/splits.csv                 each image with its part in each fold
RUN/fold-0/history.csv         one line an epoch; TensorBoard events lie in tensorboard/
RUN/fold-0/{last,best}.ckpt    while it trains
RUN/fold-0/progress.json       while it trains: epochs, pace and process, which `leanmed watch` shows
RUN/fold-0/model.safetensors   the weights of the chosen epoch
RUN/fold-0/answers-test.jsonl  each test image answered once, by the line that `predict` writes; -validation likewise
RUN/fold-0/uncalibrated-test.jsonl   the same at a temperature of 1 and a threshold of 0; -validation likewise
RUN/fold-0/familiarity.safetensors   what its network makes of its training images, and in distances.json how far its
                               validation and test images are from these: see `leanmed.training.familiarity`
RUN/fold-0/fold.json           written last: a fold that has one is done
RUN/refit/                     history.csv, model.safetensors, familiarity.safetensors and fold.json of the model of
                               all images, once exported
RUN/calibration.json           when all folds are done: temperature and threshold of each, what they were fitted to, and
                               from which distance on an image looks unfamiliar
```
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmed.errors import RunError
from leanmed.files import whole_file
from leanmed.outputs import Output
from leanmed.recipe.recipe import Recipe

RECIPE, RUN, SPLITS = "recipe.yaml", "run.json", "splits.csv"
MODEL, FOLD, HISTORY = "model.safetensors", "fold.json", "history.csv"
PROGRESS = "progress.json"
CALIBRATION = "calibration.json"
FAMILIARITY, DISTANCES = "familiarity.safetensors", "distances.json"
REFIT = "refit"
PREDICTIONS = "predictions.csv"  # in place of the answers, in runs of format 1
RUN_FOLDER = Output(
    "a run", ("data_sha256", "folds"), RUN, (RECIPE, RUN, SPLITS, CALIBRATION, REFIT, "fold-*"), resumed=True
)
NEEDED = {"data", "data_sha256", "folds", "grouping", "labels", "leak", "protocol"}  # of run.json


@dataclass(frozen=True)
class FoldResult:
    """One finished fold: `fold.json` and its history, as plain rows."""

    number: int
    facts: dict[str, Any]
    history: list[dict[str, str]]


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path
    recipe: Recipe
    facts: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class labels in the order of the outputs."""
        return tuple(self.facts["labels"])

    def folder(self, fold: int | None) -> Path:
        """Where a fold lies, or if None the refit on all images."""
        return self.path / (REFIT if fold is None else f"fold-{fold}")

    def answers(self, fold: int, part: str) -> Path:
        """Where a fold's answers to its `validation` or `test` part lie, as lines."""
        return self.folder(fold) / f"answers-{part}.jsonl"

    def uncalibrated(self, fold: int, part: str) -> Path:
        """Where the same answers lie as the network gave them."""
        return self.folder(fold) / f"uncalibrated-{part}.jsonl"

    @property
    def calibration(self) -> dict[str, Any]:
        """What `calibration.json` says; nothing of a run of format 1, whose folds were calibrated one by one."""
        file = self.path / CALIBRATION
        if not file.is_file():
            return {}
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"{file} is damaged ({error}); remove it, then: leanmed train ... --resume, which writes it again"
            ) from error

    def calibrated_alone(self) -> list[int]:
        """Finished folds that an earlier version calibrated by themselves, whose first answers are not kept."""
        return [k for k in range(self.facts["folds"]) if self.done(k) and not self.uncalibrated(k, "test").is_file()]

    def done(self, fold: int | None) -> bool:
        """Whether a fold is finished, or if None the refit."""
        return (self.folder(fold) / FOLD).is_file()

    def fold(self, number: int) -> FoldResult:
        """Read one finished fold.

        Raises:
            RunError: the run has no such fold, or it is not finished, or damaged.
        """
        last = self.facts["folds"] - 1
        if not 0 <= number <= last:
            raise RunError(f"expected a fold of {self.path} from 0 to {last}, got {number}; name one of these")
        if not self.done(number):
            raise RunError(f"fold {number} of {self.path} is not finished; go on with: leanmed train ... --resume")
        if self.uncalibrated(number, "test").is_file() and not self.calibration:
            raise RunError(f"{self.path} is trained but not calibrated; go on with: leanmed train ... --resume")
        return FoldResult(number, *self._read(number, "train ... --resume"))

    def refit(self) -> dict[str, Any]:
        """What is known of the model of all images.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not self.done(None):
            raise RunError(f"{self.path} has no model of all images yet; make it with: leanmed export")
        return self._read(None, "export")[0]

    def _read(self, fold: int | None, remedy: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
        folder = self.folder(fold)
        try:
            facts = json.loads((folder / FOLD).read_text(encoding="utf-8"))
            return facts, read_csv(folder / HISTORY)
        except (OSError, ValueError) as error:
            raise RunError(f"{folder} is damaged ({error}); remove it, then: leanmed {remedy}") from error

    def folds(self) -> list[FoldResult]:
        """Every fold.

        Raises:
            RunError: one of them is not finished.
        """
        return [self.fold(number) for number in range(self.facts["folds"])]


def open_run(path: Path, read_recipe: Callable[[Path], Recipe]) -> Run:
    """Open a run folder; `read_recipe` reads its recipe, which the kinds of task have a say in.

    Raises:
        RunError: it is none, or its files are damaged.
    """
    if not (path / RUN).is_file() or not (path / RECIPE).is_file():
        raise RunError(
            f"expected a run folder (with {RUN} and {RECIPE}) at {path}, found none; make one: leanmed train"
        )
    try:
        facts = json.loads((path / RUN).read_text(encoding="utf-8"))
        if missing := NEEDED - set(facts):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path / RUN} is damaged ({error}); train again into another folder") from error
    return Run(path, read_recipe(path / RECIPE), facts)


def read_csv(path: Path) -> list[dict[str, str]]:
    """A CSV as plain rows."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Equal rows as a CSV, written whole; without rows, the columns' names alone."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
