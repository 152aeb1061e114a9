"""The kinds of question leanmed asks of an image. A new one is one module and one line of `TASKS`."""

from __future__ import annotations

from safetensors.torch import load_file

from leanmed.runs import MODEL, Run
from leanmed.tasks.base import Batch as Batch
from leanmed.tasks.base import Task as Task
from leanmed.tasks.classification.training import Classification
from leanmed.tasks.detection.training import Detection

TASKS: dict[str, type[Classification] | type[Detection]] = {"classification": Classification, "detection": Detection}


def load_task(run: Run, fold: int) -> Task:
    """The trained task of a finished fold, calibrated, in evaluation mode.

    Raises:
        RunError: the fold is not finished.
    """
    run.fold(fold)
    task = TASKS[run.recipe.task](run.recipe, run.labels, pretrained=False)
    task.load_state_dict(load_file(run.folder(fold) / MODEL))
    return task.eval()
