"""What evaluation must know of each task: a module for each, with the functions of `Judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from leanmed.figures.bootstrap import Figure, SubgroupRow
from leanmed.records import Attribute, Record
from leanmed.report.report import Mistake
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.classification import judge as classification
from leanmed.tasks.detection import judge as detection

Rows = Sequence[tuple[int, Mapping[str, str]]]  # fold, row of predictions.csv


class Judge(Protocol):
    """From the answers to one task's images to figures; a `table` is the task's own: `Scored` or `Detected`."""

    def check(self, dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
        """Refuse records that an artifact with these labels cannot be judged on, with a DataError."""

    def answer(self, predictor: Predictor, record: Record) -> dict[str, str]:
        """An artifact's answer as a row of predictions.csv; raises LeanmedError when it has none."""

    def table_of(self, rows: Rows, labels: tuple[str, ...], thresholds: Mapping[int, float]) -> Any:
        """The rows as the value that the metrics take; `thresholds` holds those of the folds that have one."""

    def score(self, table: Any, *, resamples: int) -> dict[str, Figure]:
        """Every figure with its interval."""

    def point(self, table: Any) -> dict[str, float]:
        """The figures of one fold, without intervals."""

    def subgroups(
        self,
        table: Any,
        attributes: Mapping[str, Sequence[Attribute | None]],
        *,
        edges: Mapping[str, Sequence[float]],
        resamples: int,
    ) -> list[SubgroupRow]:
        """Figures for each value of each attribute, and of what the task knows itself."""

    def mistakes(self, table: Any, records: Sequence[Record]) -> list[Mistake]:
        """What to look at first."""


JUDGES: dict[str, Judge] = {"classification": classification, "detection": detection}
