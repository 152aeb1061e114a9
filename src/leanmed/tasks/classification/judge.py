"""Judging labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from leanmed.data import class_labels
from leanmed.records import Record
from leanmed.report.report import Mistake, worst_mistakes
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.classification.figures import Scored, point, score, subgroups

__all__ = ["answer", "check", "mistakes", "point", "score", "subgroups", "table_of"]


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """Refuse labels the artifact does not know."""
    class_labels(dataset, records, labels, all_present=False)


def answer(predictor: Predictor, record: Record) -> dict[str, str]:
    """The row of one image."""
    found = predictor.predict(record.image)
    columns = {f"p_{name}": repr(p) for name, p in found.probabilities.items()}
    return {"truth": record.label, "label": found.label, "group": record.group, **columns}


def table_of(
    rows: Sequence[tuple[int, Mapping[str, str]]],
    labels: tuple[str, ...],
    thresholds: Mapping[int, float] | None = None,  # the labels answered stand in the rows
) -> Scored:
    """(fold, row of predictions.csv) pairs as the value that metrics take."""
    probabilities = np.array([[float(row[f"p_{label}"]) for label in labels] for _, row in rows])
    return Scored(
        truth=np.array([labels.index(row["truth"]) for _, row in rows]),
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        predicted=np.array([labels.index(row["label"]) for _, row in rows]),
        group=np.array([row["group"] for _, row in rows]),
        labels=labels,
        fold=np.array([fold for fold, _ in rows]),
    )


def mistakes(table: Scored, records: Sequence[Record]) -> list[Mistake]:
    """The surest wrong answers."""
    return worst_mistakes(table, [r.id for r in records], [r.image for r in records])
