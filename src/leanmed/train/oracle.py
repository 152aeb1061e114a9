"""What the models of a run answer for their test images when a person who knows the truth tells them where to look.

Such figures say how good a model is where one points well. They are never mixed with those of a model that finds the
place itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leanmed.errors import RunError
from leanmed.evaluation.answered import Answered
from leanmed.evaluation.runs import run_answers
from leanmed.records import Record
from leanmed.runs import Run
from leanmed.tasks.base import Task
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import Answer
from leanmed.train.batches import Prepared, answer_part


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
    kept: list[Record] = []
    answers: list[Answer] = []
    folds: list[int] = []
    for fold in run.folds():
        task = load(run, fold.number)
        told = _told(task, own.of_fold(fold.number).records)
        part = Prepared(told, task, None)
        answers += [answer for _, answer in answer_part(task, part, run.recipe.training.batch_size, told=True)]
        kept += told
        folds += [fold.number] * len(told)
    if not kept:
        raise RunError(
            f"expected a run whose task takes points or boxes beside the image, and test images that show an object, "
            f"got {run.recipe.task} with none; leave out --oracle"
        )
    return Answered(kept, answers, own.labels, own.task, folds)


def _told(task: Task, records: Sequence[Record]) -> list[Record]:
    """The records of which there is something to tell."""
    part = Prepared(records, task, None)
    targets = (batch.targets for batch in part)
    alone = ({name: tensor[None] for name, tensor in own.items()} for own in targets)
    return [record for record, own in zip(records, alone, strict=True) if task.told(own)]
