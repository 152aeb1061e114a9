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
from leanmed.train.batches import Prepared, answer_part


def oracle_answers(run: Run, records: Sequence[Record], load: Callable[[Run, int], Task] = load_task) -> Answered:
    """As `run_answers`, answered anew by each fold's model with what `Task.told` says of the true targets.

    Args:
        run: finished.
        records: of its data set.
        load: makes the task of a fold.

    Raises:
        RunError: a fold is not finished, or the task takes nothing but the image.
    """
    folds = run.folds()
    own = run_answers(run, records, folds)
    answers = []
    for fold in folds:
        task = load(run, fold.number)
        part = Prepared(own.of_fold(fold.number).records, task, None)
        _check_takes_prompts(run, task, part)
        answers += [answer for _, answer in answer_part(task, part, run.recipe.training.batch_size, told=True)]
    return Answered(own.records, answers, own.labels, own.task, own.folds)


def _check_takes_prompts(run: Run, task: Task, part: Prepared) -> None:
    """Ask with the first image, before all are answered."""
    one = {name: tensor[None] for name, tensor in part[0].targets.items()}
    if not task.told(one):
        raise RunError(
            f"expected a run whose task takes points or boxes beside the image, got {run.recipe.task}; leave out "
            "--oracle"
        )
