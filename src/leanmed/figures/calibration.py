"""The two numbers fitted on validation data after training: the decision threshold and the temperature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def choose_threshold(truth: Ints, probability: Floats, criterion: str = "f1") -> float:
    """The t at which answering positive for probabilities >= t serves best. For validation data only.

    Args:
        truth: (n,) 0 or 1, both present.
        probability: (n,) of the positive label.
        criterion: `f1`; `youden` (sensitivity + specificity - 1); or `sensitivity:x` with 0 < x <= 1, which
            is the highest specificity with at least that sensitivity.

    Returns:
        In [0, 1], midway between neighbouring scores; of equally good ones, the nearest to .5.

    Raises:
        DataError: one label only, or a criterion of another form.
    """
    positive, negative = np.sort(probability[truth == 1]), np.sort(probability[truth == 0])
    if positive.size == 0 or negative.size == 0:
        raise DataError("choosing a threshold: expected images of both labels, got one label only; add validation data")
    scores = np.unique(probability)
    ends = np.concatenate([[scores[0] / 2], (scores[:-1] + scores[1:]) / 2, [(scores[-1] + 1) / 2]])
    tp = positive.size - np.searchsorted(positive, ends)
    fp = negative.size - np.searchsorted(negative, ends)
    merit = _merit(criterion, tp, fp, positive.size, negative.size)
    best = ends[merit >= merit.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _merit(criterion: str, tp: Ints, fp: Ints, positives: int, negatives: int) -> Floats:
    sensitivity, specificity = tp / positives, 1 - fp / negatives
    if criterion == "f1":
        return 2 * tp / (tp + fp + positives)
    if criterion == "youden":
        return sensitivity + specificity - 1
    name, _, least = criterion.partition(":")
    try:
        floor = float(least)
    except ValueError:
        floor = np.nan
    if name != "sensitivity" or not 0 < floor <= 1:
        raise DataError(f"expected a criterion f1, youden or sensitivity:0.9 (above 0, at most 1), got {criterion!r}")
    # Less than one image's worth of specificity, so that it only decides between equals.
    return np.where(sensitivity >= floor, specificity + sensitivity / (2 * negatives), -1.0)


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """The T that minimises the negative log likelihood of logits / T (Guo et al. 2017), in [0.05, 20].

    Args:
        logits: (n,) of the positive label, for a sigmoid; or (n, K), for a softmax. Of validation data.
        truth: (n,) label indices.

    Raises:
        DataError: logits that are not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    if not np.isfinite(logits).all():
        raise DataError("fitting the temperature: expected finite logits, got others; the model has diverged")
    columns = np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
    rows = np.arange(truth.size)

    def loss(log_t: float) -> float:
        return float(-log_softmax(columns / np.exp(log_t), axis=1)[rows, truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))
