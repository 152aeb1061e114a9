"""What may be tried: networks, each in every precision, with fine-tuning or without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from leanmed.compress.precisions import PRECISIONS
from leanmed.errors import RecipeError
from leanmed.recipe.recipe import Recipe
from leanmed.tasks import TASKS
from leanmed.tasks.recipes import changed_recipe

FLOAT = "fp32"
SHARED = ("data", "split", "evaluation", "task", "name", "format")  # of the recipe, with the run
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Candidate:
    """One artifact that may be made.

    Args:
        network: the run's own backbone, or the name of a student.
        precision: fp32, or a name in `PRECISIONS`.
        tuned: fine-tuned for integers.
    """

    network: str
    precision: str
    tuned: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.network}-{self.precision}{'-tuned' * self.tuned}"


def own_name(recipe: Recipe) -> str:
    """What the run's own network is called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", recipe.model.backbone)


def students_of(recipe: Recipe, asked: Sequence[str]) -> dict[str, Recipe]:
    """The recipes of the students: those that are asked for, else the smaller networks that the kind of task names.

    A student is the run's recipe with another network. Of weights, it takes ImageNet's where the run did, and begins at
    random otherwise, since a file of weights fits one network only.

    Args:
        recipe: of the run.
        asked: `NAME:KEY=VALUE`, of which several may go to one student; empty: the kind's own.

    Raises:
        RecipeError: one that is no student, or that the recipe does not take.
    """
    chosen = _asked(asked) if asked else TASKS[recipe.task].settings.STUDENTS
    taken = own_name(recipe)
    found = {name: changed_recipe(recipe, _settings(recipe, own), f"student {name}") for name, own in chosen.items()}
    if taken in found and asked:
        raise RecipeError(f"expected a student's name unlike that of the run's network, got {taken!r}; choose another")
    return found if asked else {name: own for name, own in found.items() if own.model.backbone != recipe.model.backbone}


def _asked(asked: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in asked:
        name, colon, setting = text.partition(":")
        if not colon or "=" not in setting or not NAME.fullmatch(name):
            raise RecipeError(
                "expected --student as NAME:KEY=VALUE, such as small:model.backbone=mobilenetv3_small_050, where NAME "
                f"is yours, of letters, digits, - and _, got {text!r}; mend it"
            )
        if setting.partition("=")[0].partition(".")[0] in SHARED:
            raise RecipeError(
                f"expected --student to change the network or its training, got {text!r}: a student is trained, chosen "
                f"and tested on the images of the run's fold, so that it shares {', '.join(SHARED)} with the run; "
                "leave it out"
            )
        found.setdefault(name, []).append(setting)
    return found


def _settings(recipe: Recipe, own: Sequence[str]) -> list[str]:
    """With what belongs to the run's network alone taken back, unless the student's settings say it."""
    fresh = {
        "model.weights": "imagenet" if recipe.model.weights == "imagenet" else "none",
        "model.backbone_args": "{}",
        "model.mean": "null",
        "model.std": "null",
        "adapters.method": "none",
    }
    network = any(text.startswith("model.backbone=") for text in own)
    return [*(f"{key}={value}" for key, value in fresh.items() if network), *own]


def space(networks: Sequence[str], epochs: int) -> list[Candidate]:
    """Every candidate: the first network's own first, the smallest change before the others.

    Args:
        networks: the run's own, then students.
        epochs: of fine-tuning; 0: none is fine-tuned.
    """
    tuned = [name for name, precision in PRECISIONS.items() if precision.calibrates and epochs]
    which = [(FLOAT, False), *((name, False) for name in PRECISIONS), *((name, True) for name in tuned)]
    return [Candidate(network, precision, is_tuned) for network in networks for precision, is_tuned in which]
