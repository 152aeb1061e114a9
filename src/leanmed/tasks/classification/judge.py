"""Judging labels: from records and answers to figures, plots, mistakes and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.data import class_labels
from leanmed.errors import ArtifactError, DataError
from leanmed.figures.calibration import Evidence
from leanmed.manifest import Manifest
from leanmed.records import Record
from leanmed.report.glossary import Term, Words
from leanmed.report.pages import number
from leanmed.report.report import Example, Gallery, Mistake, Montage
from leanmed.tasks.classification.answer import LEAST, Prediction
from leanmed.tasks.classification.figures import (
    Scored,
    decision_curve,
    paired,
    point,
    predictive_values,
    score,
    subgroups,
)
from leanmed.tasks.classification.plots import plots_of as plots
from leanmed.tasks.classification.words import (
    SEVERAL,
    TERMS,
    WORDS,
    examples,
    few_errors,
    terms_of_several,
)

__all__ = [
    "TERMS",
    "WORDS",
    "decision_curve",
    "paired",
    "plots",
    "point",
    "predictive_values",
    "score",
    "subgroups",
]

MAIN_SCORE = "auc"
MAX_DROP = 0.005
CALIBRATION = 256
SHOWN = ("accuracy", "auc")
MISTAKES = 12
IN_MONTAGE = 16  # images
WHOLE_MATRIX = 4  # labels: of more, a page shows the commonest errors only
ERRORS = 8  # kinds of them
CARD_COLUMNS = {"auc": "ROC-AUC", "recall": "sensitivity", "specificity": "specificity"}
RECALIBRATED = ("loss", "brier", "ece", "accuracy", "recall", "specificity")  # not AUC: the order of answers stays


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """Refuse labels the model does not know; that one of its labels has no image here is noted, not refused."""
    class_labels(dataset, records, labels, all_present=False)


def table_of(
    records: Sequence[Record],
    answers: Sequence[Prediction],
    labels: tuple[str, ...],
    folds: Sequence[int] | None = None,
) -> Scored:
    """Records and the answers to them as the value that the figures take.

    Raises:
        DataError: an answer without a probability for each label, or a truth that is none of them.
    """
    for record, answer in zip(records, answers, strict=True):
        if set(answer.probabilities) != set(labels) or record.label not in labels:
            raise DataError(
                f"record {record.id}: expected a label among {', '.join(labels)} and a probability for each, got "
                f"{record.label!r} and probabilities of {', '.join(answer.probabilities)}; correct the answers"
            )
    probabilities = np.array([[answer.probabilities[label] for label in labels] for answer in answers])
    return Scored(
        truth=np.array([labels.index(record.label) for record in records]),
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        predicted=np.array([labels.index(answer.label) for answer in answers]),
        group=np.array([record.group for record in records], dtype=np.str_),
        labels=labels,
        fold=None if folds is None else np.array(folds),
    )


def evidence(records: Sequence[Record], answers: Sequence[Prediction], labels: tuple[str, ...]) -> Evidence:
    """Each image's logits: of two labels the second one's, else one for each."""
    probabilities = np.array([[answer.probabilities[label] for label in labels] for answer in answers])
    logits = np.log(np.clip(probabilities, LEAST, 1.0))
    return Evidence(
        logits=logits[:, 1] - logits[:, 0] if len(labels) == 2 else logits,
        truth=np.array([labels.index(record.label) for record in records]),
        group=np.array([record.group for record in records], dtype=np.str_),
    )


def terms(table: Scored) -> Mapping[str, Term]:
    """With more than two labels, figures are means over all of them, and need images of each."""
    return TERMS if len(table.labels) == 2 else terms_of_several(len(table.labels))


def words(table: Scored) -> Words:
    """With more than two labels there is neither a positive one nor a threshold."""
    return WORDS if len(table.labels) == 2 else SEVERAL


def mistakes(table: Scored, records: Sequence[Record], answers: Sequence[Any]) -> list[Mistake]:
    """The wrong answers given with the highest probability, the surest first, at most one of a group."""
    found = []
    for i, sureness in _surest(table, table.truth != table.predicted)[:MISTAKES]:
        truth, answered = table.labels[table.truth[i]], table.labels[table.predicted[i]]
        found.append(Mistake(records[i].id, records[i].image, truth, answered, sureness, frame=records[i].frame))
    return found


def gallery(table: Scored, records: Sequence[Record], answers: Sequence[Any]) -> Gallery | None:
    """A montage for each cell of the confusion matrix that has images: errors first, the commonest kind leading.

    With more than `WHOLE_MATRIX` labels there are too many cells: only the commonest kinds of error are shown.
    """
    k = len(table.labels)
    counts = np.bincount(table.truth * k + table.predicted, minlength=k * k).reshape(k, k)
    cells = [cell for cell in np.ndindex(k, k) if counts[cell]]
    errors = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -counts[cell])
    whole = k <= WHOLE_MATRIX
    shown = [*errors, *(cell for cell in cells if cell[0] == cell[1])] if whole else errors[:ERRORS]
    reading = f"{examples(k, IN_MONTAGE)}{'' if whole else few_errors(k, len(shown), len(errors))}"
    montages = [
        Montage(
            table.labels[truth],
            table.labels[answered],
            int(counts[truth, answered]),
            [
                Example(records[i].id, records[i].image, sureness, records[i].frame)
                for i, sureness in _surest(table, (table.truth == truth) & (table.predicted == answered))[:IN_MONTAGE]
            ],
        )
        for truth, answered in shown
    ]
    return Gallery(reading, montages) if montages else None


def _surest(table: Scored, which: NDArray[np.bool_]) -> list[tuple[int, float]]:
    """Of some images those answered with the highest probability, and that; the surest first, one of a group."""
    sureness = table.probabilities[np.arange(table.truth.size), table.predicted]
    chosen = np.flatnonzero(which)
    seen: dict[str, tuple[int, float]] = {}
    for i in chosen[np.argsort(-sureness[chosen], kind="stable")].tolist():
        seen.setdefault(table.group[i], (i, float(sureness[i])))
    return list(seen.values())


def remarks(table: Scored) -> list[str]:
    """How many images each label has, and what always answering the commonest would reach."""
    counts = np.bincount(table.truth, minlength=len(table.labels))
    each = ", ".join(f"{n} {label}" for n, label in zip(counts, table.labels, strict=True))
    most, share = table.labels[counts.argmax()], number(counts.max() / table.truth.size)
    said = [f"{table.truth.size} images in {table.groups} groups: {each}."]
    if np.count_nonzero(counts) == 1:
        return [
            f"{said[0]} All are of one label, so that nothing can be said of how well labels are told apart, nor of "
            "how often an answer is right."
        ]
    said[0] += f" Always answering {most} would have an accuracy of {share}."
    if len(table.labels) > 2:
        said.append(
            "Accuracy, Brier score, ECE and log loss are of all labels together. Every other figure is a mean over the "
            "labels, each taken as positive against the rest."
        )
    return said


def counts(table: Scored) -> None:
    """The plots and remarks say them all."""


def describe(manifest: Manifest) -> str:
    """What the card says the artifact does."""
    labels, side = manifest.labels, manifest.input.side
    rule = "It answers the likeliest label."
    if manifest.threshold is not None:
        rule = (
            f"It answers `{labels[1]}` when that probability is at least {manifest.threshold:.3f}, a threshold "
            f"{manifest.threshold_origin}."
        )
    return (
        f"From one image (uint8, RGB or RGBA, any size, resized inside to {side} x {side}; what alpha "
        f"leaves out is ignored) it gives calibrated probabilities of {', '.join(f'`{n}`' for n in labels)} "
        f"(temperature {manifest.temperature:.3f}). {rule}"
    )


def judge_scans(manifest: Manifest, name: str, root: Path, answer: Any, **more: Any) -> Any:
    """A label is given to one image.

    Raises:
        ArtifactError: always.
    """
    raise ArtifactError(
        "expected an artifact that finds things in whole scans, got one that gives labels "
        f"({', '.join(manifest.labels)}); leave --scans out"
    )


def limits(manifest: Manifest) -> list[str]:
    """Nothing but what holds for all kinds of task."""
    return []
