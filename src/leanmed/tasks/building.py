"""The only place where tasks are made: for training, from a run, and for export alike."""

from __future__ import annotations

from safetensors.torch import load_file

from leanmed.compress.adapters import adapt, merge
from leanmed.recipe.recipe import Recipe
from leanmed.runs import MODEL, Run
from leanmed.tasks import TASKS
from leanmed.tasks.base import Task


def build_task(recipe: Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> Task:
    """The task that a recipe describes, with every technique that the recipe names applied.

    Args:
        recipe: which kind, which model, which techniques.
        labels: what answers are made of, in the order of the outputs.
        pretrained: load the weights that the recipe names; false when trained ones are loaded afterwards.

    Raises:
        RecipeError: an unknown backbone, weights that are not there or do not fit it, or a technique that does not.
    """
    make = TASKS[recipe.task].training.TASK
    task: Task = make(recipe, labels, pretrained=pretrained)
    if recipe.adapters.method != "none":
        adapt(task, recipe.adapters)
    return task


def task_remarks(recipe: Recipe) -> list[str]:
    """What whoever starts a training by this recipe should know of the task that it describes."""
    method = recipe.adapters.method
    if recipe.model.weights != "none" or method in ("none", "full"):
        return []
    return [
        f"model.weights is none, so that adapters.method {method} adapts a network of random weights; name trained "
        "ones, or train all of it with --set adapters.method=none"
    ]


def load_task(run: Run, fold: int | None) -> Task:
    """The trained task of a finished fold, or if None of the refit on all images, calibrated, in evaluation mode.

    LoRA is merged into the weights that it changes, so that the network has its usual size and speed.

    Raises:
        RunError: it is not finished.
    """
    decided = (run.refit() if fold is None else run.fold(fold).facts)["manifest"]
    task = build_task(run.recipe, run.labels, pretrained=False)
    task.load_state_dict(load_file(run.folder(fold) / MODEL))
    merge(task)
    task.decide_by(decided["temperature"], decided["threshold"])
    return task.eval()
