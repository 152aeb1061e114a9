"""The kinds of question leanmed asks of an image. A new one is one module and one line of `TASKS`."""

from __future__ import annotations

from leanmed.tasks.base import Batch as Batch
from leanmed.tasks.base import Task as Task
from leanmed.tasks.classification import Classification

TASKS = {"classification": Classification}
