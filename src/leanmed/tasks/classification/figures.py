"""How good a classifier's answers are: figures with 95 % intervals, drawn over groups.

With two labels, label 1 is the positive one, and precision, recall, specificity, F1, ROC-AUC and average
precision are its own. With more, each is the plain mean over the labels of one against the rest (macro). What
a table cannot tell is NaN: AUC with one label only; recall without a positive image and specificity without a negative
one; precision and F1 without one of the two (precision would be 0 or 1 whatever the model does); with two labels ECE
without one of the two, since all that is observed is then a share of 0 or 1; a macro mean when one label's part is
undefined, since leaving that label out would silently change what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.figures.bootstrap import (
    SMALL_CELL,
    Figure,
    Floats,
    Ints,
    Measure,
    SubgroupRow,
    cells,
    changes,
    divide,
    resample_groups,
    with_intervals,
)

SUBGROUP_METRICS = ("recall", "specificity", "auc", "accuracy", "f1")
ECE_BINS = 10


@dataclass(frozen=True, eq=False)
class Scored:
    """A table of n scored images with K labels.

    Args:
        truth: (n,) index of the true label.
        probabilities: (n, K), calibrated, each row summing to 1.
        predicted: (n,) index of the label answered. Carried, as each fold has its own decision threshold.
        group: (n,) what the split kept whole, and the bootstrap draws whole.
        labels: K names; of two, the second is positive.
        fold: (n,) the fold that scored the image, or None.

    Raises:
        DataError: no image, lengths that differ, an index out of range, or rows that are no probabilities.
    """

    truth: Ints
    probabilities: Floats
    predicted: Ints
    group: NDArray[np.str_]
    labels: tuple[str, ...]
    fold: Ints | None = None

    def __post_init__(self) -> None:
        n, k = len(self.truth), len(self.labels)
        if n == 0 or k < 2 or len(set(self.labels)) < k:
            raise DataError(f"expected scored images and two or more different labels, got {n} and {self.labels}")
        shapes = {"predicted": (n,), "group": (n,), "fold": (n,), "probabilities": (n, k)}
        for name, shape in shapes.items():
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise DataError(f"expected {name} of {n} scored images to have shape {shape}, got {column.shape}")
        for name in ("truth", "predicted"):
            low, high = getattr(self, name).min(), getattr(self, name).max()
            if low < 0 or high >= k:
                raise DataError(f"expected {name} to hold label indices 0 to {k - 1}, got {low} to {high}")
        # Written so that NaN fails too.
        if not (self.probabilities.min() >= 0 and np.abs(self.probabilities.sum(axis=1) - 1).max() <= 1e-4):
            raise DataError("expected each row of probabilities to be at least 0 and to sum to 1; apply softmax first")

    @property
    def groups(self) -> int:
        """How many groups the images come from."""
        return np.unique(self.group).size

    def subset(self, which: NDArray[np.bool_] | Ints) -> Scored:
        """The table of some of the images, at least one."""
        fold = None if self.fold is None else self.fold[which]
        columns = (self.truth[which], self.probabilities[which], self.predicted[which], self.group[which])
        return Scored(*columns, self.labels, fold)


def point(table: Scored) -> dict[str, float]:
    """Every metric of `score` without its interval, as quick as a validation epoch needs it."""
    return {name: float(value[0]) for name, value in _measure(table)(np.ones((1, table.truth.size))).items()}


def score(table: Scored, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """Every metric of a table with its 95 % interval over groups.

    loss: mean of -ln of the true label's probability, clipped at 2.2e-16.
    accuracy, precision, recall, specificity, f1: of the labels answered.
    auc: area under the ROC curve, ties counting half.
    average_precision: sum over distinct scores of precision times the gain in recall.
    brier: mean squared error of the positive label's probability, 0 to 1; with more than two labels, summed
    over all of them, 0 to 2 (Brier 1950).
    ece: expected calibration error in 10 bins of equal width (Naeini et al. 2015), of the positive label's
    probability; with more than two labels, of the answered one's (Guo et al. 2017).
    """
    return with_intervals(_measure(table), table.group, evidence=_evidence(table), resamples=resamples, seed=seed)


def paired(a: Scored, b: Scored, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """How b differs from a on the same images: b - a for each metric, the resamples being shared.

    `agreement` is the share of images to which both answer the same label.

    Raises:
        DataError: the tables are not of the same images.
    """
    same = a.labels == b.labels and np.array_equal(a.truth, b.truth) and np.array_equal(a.group, b.group)
    if not same:
        raise DataError("expected two tables of the same images in the same order with the same labels, got others")
    return changes(_measure(a), _measure(b), a.predicted == b.predicted, a.group, resamples=resamples, seed=seed)


def predictive_values(
    table: Scored, prevalence: float | None = None, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Figure]:
    """Of two labels, how often a positive and a negative answer are right, at a prevalence of the positive label.

    ppv: sensitivity * prevalence / (sensitivity * prevalence + (1 - specificity) * (1 - prevalence)).
    npv: specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence).

    This is Bayes' theorem; sensitivity and specificity are taken to be the same at any prevalence. NaN where no image
    is answered so, or the table has images of one label only.

    Args:
        table: of two labels.
        prevalence: in (0, 1); None: that of each resample, so that these are the shares of right answers themselves.
        resamples, seed: of the bootstrap over groups.
    """
    positive, answered = table.truth == 1, table.predicted == 1
    columns = np.stack([positive, ~positive, positive & answered, ~positive & ~answered], axis=1).astype(np.float64)

    def measure(weights: Floats) -> dict[str, Floats]:
        true, false, hit, passed = (weights @ columns).T
        share = true / (true + false) if prevalence is None else prevalence
        sensitivity, specificity = divide(hit, true), divide(passed, false)
        right, wrong = sensitivity * share, (1 - specificity) * (1 - share)
        clear, missed = specificity * (1 - share), (1 - sensitivity) * share
        return {"ppv": divide(right, right + wrong), "npv": divide(clear, clear + missed)}

    return with_intervals(measure, table.group, resamples=resamples, seed=seed)


def decision_curve(table: Scored, *, resamples: int = 500, seed: int = 0) -> dict[str, list[float]] | None:
    """Net benefit by threshold probability (Vickers and Elkin 2006, doi:10.1177/0272989X06295361).

    Of n images, those with a probability of the positive label of at least t are treated: TP true and FP false ones.
    Then the net benefit is TP / n - FP / n * t / (1 - t), in true positives an image. Treating nobody has 0.

    Returns:
        `thresholds` from 0.01 to 0.99, at each the `net_benefit` of the probabilities with the ends `low` and `high` of
        its 95 % interval over groups, and that of treating all, `treat_all`; None of a table without images of two
        labels.
    """
    if len(table.labels) != 2 or np.unique(table.truth).size < 2:
        return None
    thresholds = np.arange(1, 100) / 100
    treated = table.probabilities[:, 1, None] >= thresholds  # (n, t)
    worth = np.where(table.truth[:, None] == 1, 1.0, -thresholds / (1 - thresholds))  # (n, t)
    gained = treated * worth
    drawn = [w @ gained / w.sum(axis=1, keepdims=True) for w in resample_groups(table.group, resamples, seed)]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    found = {"thresholds": thresholds, "net_benefit": gained.mean(axis=0), "low": low, "high": high}
    return {name: values.tolist() for name, values in (found | {"treat_all": worth.mean(axis=0)}).items()}


def _evidence(table: Scored) -> dict[str, int]:
    """How many groups stand behind each figure that is a plain proportion."""
    rows = {"accuracy": np.full(table.truth.size, True)}
    if len(table.labels) == 2:
        rows |= {
            "precision": table.predicted == 1,
            "recall": table.truth == 1,
            "specificity": table.truth == 0,
        }
    return {name: np.unique(table.group[which]).size for name, which in rows.items()}


def _measure(table: Scored) -> Measure:
    """Work out what no resample changes; the function returned turns weights (b, n) into metric -> (b,)."""
    n, k = table.probabilities.shape
    truth, answer = np.eye(k)[table.truth], np.eye(k)[table.predicted]  # (n, k)
    surprise = -np.log(np.clip(table.probabilities[np.arange(n), table.truth], np.finfo(np.float64).eps, 1))
    error = np.square(table.probabilities - truth).sum(axis=1) / (2 if k == 2 else 1)
    gaps = _gaps(table)  # (n, bins)
    areas = [_areas(table.probabilities[:, j], truth[:, j]) for j in ([1] if k == 2 else range(k))]

    def over_labels(of_each: Floats) -> Floats:  # (b, k) -> (b,)
        return of_each[:, 1] if k == 2 else of_each.mean(axis=1)

    def measure(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        hit, true, answered = weights @ (truth * answer), weights @ truth, weights @ answer  # (b, k) each
        negative = total[:, None] - true
        told = (true > 0) & (negative > 0)
        auc, average_precision = np.mean([area(weights) for area in areas], axis=0)
        return {
            "loss": weights @ surprise / total,
            "accuracy": hit.sum(axis=1) / total,
            "precision": over_labels(divide(hit, answered * told)),
            "recall": over_labels(divide(hit, true)),
            "specificity": over_labels(divide(negative - answered + hit, negative)),
            "f1": over_labels(divide(2 * hit, (true + answered) * told)),
            "auc": auc,
            "average_precision": average_precision,
            "brier": weights @ error / total,
            "ece": divide(np.abs(weights @ gaps).sum(axis=1), total * (told[:, 1] if k == 2 else 1)),
        }

    return measure


def _gaps(table: Scored) -> Floats:
    """(n, bins) confidence minus outcome, in the column of the image's bin."""
    confidence, outcome = calibration_pairs(table)
    return np.where(np.arange(ECE_BINS) == ece_bin(confidence)[:, None], (confidence - outcome)[:, None], 0.0)


def calibration_pairs(table: Scored) -> tuple[Floats, Floats]:
    """(n,) probability of the positive label, or if K > 2 of the one answered; (n,) whether it was right."""
    if len(table.labels) == 2:
        return table.probabilities[:, 1], (table.truth == 1).astype(float)
    answered = table.probabilities[np.arange(table.truth.size), table.predicted]
    return answered, (table.truth == table.predicted).astype(float)


def ece_bin(confidence: Floats) -> Ints:
    """(n,) which of the equal-width bins [0, .1), [.1, .2) ... [.9, 1] a probability falls into."""
    return np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def threshold_counts(probability: Floats, positive: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Sort once; the function returned turns weights (b, n) into true and false positives, (b, u) each.

    Column j counts the images scored at least the j-th highest of u distinct scores: tied images enter
    together.
    """
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))
    is_positive = positive[order]

    def counts(weights: Floats) -> tuple[Floats, Floats]:
        ranked = weights[:, order]
        true = np.cumsum(ranked * is_positive, axis=1)[:, ends]
        return true, np.cumsum(ranked * (1 - is_positive), axis=1)[:, ends]

    return counts


def _areas(probability: Floats, positive: Floats) -> Callable[[Floats], Floats]:
    """Weights (b, n) -> (2, b): area under the ROC curve by trapezia, and average precision."""
    counts = threshold_counts(probability, positive)

    def areas(weights: Floats) -> Floats:
        true, false = counts(weights)
        gain = np.diff(true, axis=1, prepend=0)
        under_roc = (np.diff(false, axis=1, prepend=0) * (true - gain / 2)).sum(axis=1)
        precision = true / np.maximum(true + false, np.finfo(np.float64).tiny)
        under_pr = (gain * precision).sum(axis=1)
        positives, negatives = true[:, -1], false[:, -1]
        return divide(np.stack([under_roc, under_pr * negatives]), positives * negatives)

    return areas


def subgroups(
    table: Scored,
    attributes: Mapping[str, Sequence[str | float | None]],
    *,
    edges: Mapping[str, Sequence[float]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[SubgroupRow]:
    """The figures of `SUBGROUP_METRICS` for each value of each attribute.

    Args:
        attributes: name -> n values. Numbers are banded; None becomes a row of its own.
        edges: name -> inner band edges (a band holds its lower edge); else the quartiles.

    A cell of fewer than 10 images has no figures. One of a single true label has recall or specificity only:
    the rest would say the same again under a better name. A figure has no interval if fewer than 10 groups stand
    behind it: those of the positive images for recall, of the negative ones for specificity, the fewer of both for AUC
    and F1.

    Raises:
        DataError: an attribute without one value per image.
    """
    rows = []
    for name, values in attributes.items():
        if len(values) != table.truth.size:
            raise DataError(f"attribute {name}: expected {table.truth.size} values, one per image, got {len(values)}")
        for value, which in cells(values, (edges or {}).get(name)).items():
            rows.append(_subgroup(name, value, table.subset(which), resamples, seed))
    return rows


def _subgroup(name: str, value: str, cell: Scored, resamples: int, seed: int) -> SubgroupRow:
    n = cell.truth.size
    undefined = dict.fromkeys(SUBGROUP_METRICS, Figure(np.nan, np.nan, np.nan, n))
    kept: tuple[str, ...] = () if n < SMALL_CELL else SUBGROUP_METRICS
    if np.unique(cell.truth).size == 1:
        kept = tuple(m for m in kept if m in ("recall", "specificity"))
    figures = score(cell, resamples=resamples, seed=seed) if kept else {}
    positives = int(cell.truth.sum()) if len(cell.labels) == 2 else None
    behind = _groups_behind(cell)
    found = {m: figures[m].of_groups(behind.get(m, cell.groups)) for m in kept}
    return SubgroupRow(name, value, n, cell.groups, positives, undefined | found)


def _groups_behind(cell: Scored) -> dict[str, int]:
    """How many groups a figure is about, where that is not all of them."""
    if len(cell.labels) > 2:
        fewest = min(np.unique(cell.group[cell.truth == label]).size for label in range(len(cell.labels)))
        return dict.fromkeys(("recall", "specificity", "auc", "f1"), fewest)
    negative, positive = (np.unique(cell.group[cell.truth == label]).size for label in (0, 1))
    fewer = min(negative, positive)
    return {"recall": positive, "specificity": negative, "auc": fewer, "f1": fewer}
