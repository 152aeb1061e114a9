"""What the models of a run answer for their test images when a person who knows the truth tells them where to look.

Such figures say how good a model is where one points well. They are never mixed with those of a model that finds the
place itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import default_collate

from leanmed.errors import RunError
from leanmed.evaluation.answered import Answered
from leanmed.evaluation.runs import run_answers
from leanmed.records import Record
from leanmed.runs import Run
from leanmed.tasks.base import Task
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import Answer
from leanmed.training.batches import Prepared


def oracle_answers(run: Run, records: Sequence[Record], load: Callable[[Run, int], Task] = load_task) -> Answered:
    """As `run_answers`, answered anew by each fold's model with what `Task.told` says of the true targets.

    Images of which there is nothing to tell, since they show no object, are left out: no person would point.

    Args:
        run: finished.
        records: of its data set.
        load: makes the task of a fold.

    Raises:
        RunError: a fold is not finished, or the task takes nothing but the image, or no image shows an object.
    """
    own = run_answers(run, records, run.folds())
    kept = []
    for fold in run.folds():
        task = load(run, fold.number)
        part = own.of_fold(fold.number).records
        kept += [(record, answer, fold.number) for record, answer in _answered(task, part)]
    if not kept:
        raise RunError(
            f"expected a run whose task takes points or boxes beside the image, and test images that show an object, "
            f"got {run.recipe.task} with none; leave out --oracle"
        )
    found, answers, folds = zip(*kept, strict=True)
    return Answered(found, answers, own.labels, own.task, folds)


@torch.inference_mode()
def _answered(task: Task, records: Sequence[Record]) -> Iterator[tuple[Record, Answer]]:
    """Each record of which there is something to tell, with the answer to it, one by one."""
    part = Prepared(records, task, None)
    for index, batch in enumerate(part):
        inputs, targets = (default_collate([named]) for named in batch)
        if told := task.told(targets):
            (answer,) = task.answers(task({**inputs, **told}), [part.size(index)])
            yield records[index], answer
