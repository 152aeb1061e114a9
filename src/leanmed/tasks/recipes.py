"""Recipes and runs with what the kinds of task say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leanmed import runs
from leanmed.recipe import recipe
from leanmed.recipe.recipe import Recipe, Settings
from leanmed.runs import Run
from leanmed.tasks import TASKS


class _Settings(Mapping[str, Settings]):
    """Each kind's settings, imported when they are asked for."""

    def __getitem__(self, name: str) -> Settings:
        return TASKS[name].settings

    def __iter__(self) -> Iterator[str]:
        return iter(TASKS)

    def __len__(self) -> int:
        return len(TASKS)


KINDS = _Settings()


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """See `recipe.load_recipe`."""
    return recipe.load_recipe(name, overrides, kinds=KINDS)


def check_recipe(content: Any, source: str) -> Recipe:
    """See `recipe.check_recipe`."""
    return recipe.check_recipe(content, source, kinds=KINDS)


def changed_recipe(before: Recipe, settings: Sequence[str], source: str) -> Recipe:
    """A recipe with `key.path=value` put in; `source` is named in the error.

    Raises:
        RecipeError: an unknown key, a key that the kind of task ignores, or a value out of range.
    """
    return check_recipe(recipe.overridden(before.model_dump(mode="json"), settings), source)


def recipe_of_artifact(content: Mapping[str, Any]) -> Recipe:
    """The recipe that an artifact's provenance holds, be it of an older format; see `recipe.stored_recipe`."""
    return recipe.stored_recipe({"name": "unnamed", **content}, "the artifact's recipe", kinds=KINDS)


def open_run(path: Path) -> Run:
    """Open a run folder, be it of an older format.

    Raises:
        RunError: it is none, or its files are damaged.
        RecipeError: its recipe is of a newer format, or has a setting that is no more.
    """
    return runs.open_run(path, lambda file: recipe.read_stored(file, kinds=KINDS))
