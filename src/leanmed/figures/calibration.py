"""The two numbers fitted on validation data after training: the decision threshold and the temperature.

A temperature is fitted to the answers of all folds together, never to those of one: some dozens of images, which also
chose the epoch, say too little. What is known of it is pulled towards 1 by a prior, the more so the fewer groups there
are, and below `LEAST_GROUPS` none is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_GROUPS = 20  # below which no temperature is fitted
PRIOR = float(np.log(2))  # standard deviation of the logarithm of a temperature, before any answer is seen
BOUNDS = (0.05, 20.0)


@dataclass(frozen=True)
class Evidence:
    """Answers as logits beside what was true.

    Args:
        logits: (n,) of the positive label, for a sigmoid; or (n, K), for a softmax.
        truth: (n,) 0 or 1, or label indices.
        group: (n,) which group an answer is of.
        unfound: objects to which there is no answer at all, and which no threshold can bring back.
    """

    logits: Floats
    truth: Ints
    group: NDArray[np.str_]
    unfound: int = 0

    @property
    def groups(self) -> int:
        """How many groups there are answers to."""
        return np.unique(self.group).size


@dataclass(frozen=True)
class Temperature:
    """A temperature and how sure it is.

    Args:
        value: logits are divided by it.
        low, high: its 95 % interval over groups; equal to the value where none was fitted.
        answers, groups: what it was fitted to.
        unfitted: why none was fitted; empty: it was.
    """

    value: float
    low: float
    high: float
    answers: int
    groups: int
    unfitted: str = ""

    def sentence(self) -> str:
        """What a report says of it."""
        if self.unfitted:
            return f"The probabilities are not calibrated: {self.unfitted}."
        return (
            f"Calibration: temperature {self.value:.3f} (95 % interval {self.low:.3f} to {self.high:.3f}), fitted to "
            f"{self.answers} answers of {self.groups} groups, on validation images of all folds together."
        )


def untouched(answers: int, groups: int, why: str) -> Temperature:
    """The temperature that changes nothing."""
    return Temperature(1.0, 1.0, 1.0, answers, groups, why)


def choose_threshold(truth: Ints, probability: Floats, criterion: str = "f1", *, unfound: int = 0) -> float:
    """The t at which answering positive for probabilities >= t serves best. For validation data only.

    Args:
        truth: (n,) 0 or 1, both present.
        probability: (n,) of the positive label.
        criterion: `f1`; `youden` (sensitivity + specificity - 1); or `sensitivity:x` with 0 < x <= 1, which
            is the highest specificity with at least that sensitivity, or where no threshold has it the highest
            sensitivity there is.
        unfound: positives beside those of `truth` that no threshold finds.

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
    merit = _merit(criterion, tp, fp, positive.size + unfound, negative.size)
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
    enough = sensitivity >= floor
    if not enough.any():
        return sensitivity + specificity / (2 * positives)
    return np.where(enough, specificity + sensitivity / (2 * negatives), -1.0)


def pooled_temperature(seen: Evidence, *, resamples: int = 200, seed: int = 0) -> Temperature:
    """The most probable temperature given answers of all folds, and its interval over groups.

    The mean log loss counts once for each group, and the prior of log T is normal about 0 with `PRIOR`.
    """
    groups, answers = seen.groups, len(seen.truth)
    if groups < LEAST_GROUPS:
        few = f"{groups} groups are too few to fit a temperature, which needs {LEAST_GROUPS}"
        return untouched(answers, groups, few)
    logits, truth, counts = _distinct(seen)

    def fitted(times: Ints) -> float:
        return fit_temperature(logits, truth, strength=groups, weights=(times @ counts).astype(np.float64))

    value = fitted(np.ones(groups, np.int64))
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(resamples))
    drawn = [fitted(times) for times in draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Temperature(value, float(min(low, value)), float(max(high, value)), answers, groups)


def _distinct(seen: Evidence) -> tuple[Floats, Ints, Any]:
    """Each pair of logits and truth once, and how often each group has it, a sparse (groups, pairs).

    Hundreds of thousands of pixels have a few hundred such pairs, since their confidences have 256 levels.
    """
    from scipy.sparse import csr_array

    pairs = np.column_stack([seen.logits, seen.truth])
    kept, which = np.unique(pairs, axis=0, return_inverse=True)
    names, member = np.unique(seen.group, return_inverse=True)
    ones = np.ones(len(pairs), np.int64)
    counts = csr_array((ones, (member, which.reshape(-1))), shape=(names.size, len(kept)))
    logits = kept[:, 0] if seen.logits.ndim == 1 else kept[:, :-1]
    return logits, kept[:, -1].astype(np.int64), counts


def fit_temperature(
    logits: Floats, truth: Ints, *, strength: float | None = None, weights: Floats | None = None
) -> float:
    """The T that minimises the negative log likelihood of logits / T (Guo et al. 2017), within `BOUNDS`.

    Args:
        logits: (n,) of the positive label, for a sigmoid; or (n, K), for a softmax. Of validation data.
        truth: (n,) label indices.
        strength: how many independent answers the mean loss counts as, against the prior; None: there is no prior.
        weights: (n,) how often each counts; None: once.

    Raises:
        DataError: logits that are not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    if not np.isfinite(logits).all():
        raise DataError("fitting the temperature: expected finite logits, got others; the model has diverged")
    columns = np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
    rows, weights = np.arange(truth.size), np.ones(truth.size) if weights is None else weights
    share, doubt = weights / weights.sum(), 0.0 if strength is None else 1 / (2 * PRIOR**2 * strength)

    def loss(log_t: float) -> float:
        surprise = -log_softmax(columns / np.exp(log_t), axis=1)[rows, truth]
        return float(share @ surprise + doubt * log_t**2)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded").x))
