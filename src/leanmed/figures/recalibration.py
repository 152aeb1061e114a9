"""A new calibration of a model that is finished, from labelled images of the place where it is used.

    z_k = slope * ln p_k + intercept_k,    p'_k = exp(z_k) / sum_j exp(z_j)

The intercept of the first label is 0. Of two labels it is logit p' = slope * logit p + intercept: Cox's recalibration
(Cox 1958, Biometrika 45:562, "Two further applications of a model for binary regression"; Platt 1999). The intercept
mends a prevalence that is another one than where the model was made, and the slope answers that are too sure or too
unsure.

How many numbers are fitted depends on how many groups there are (Steyerberg et al. 2004, doi:10.1002/sim.1844, who
recommend to update little on few patients): intercepts alone, unless the rarest label has ten groups for each number,
the usual least (Peduzzi et al. 1996, doi:10.1016/S0895-4356(96)00236-3); then the slope too. Below
`calibration.LEAST_GROUPS` groups nothing is fitted.

What is fitted is pulled towards no change, as a temperature is: a slope or odds that are twice as large are one
standard deviation away before any answer is seen. Answers count as many as there are groups, and as fewer where some
groups have many images and others few (Kish's effective number, 1965).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure, percentiles
from leanmed.figures.calibration import LEAST_GROUPS, PRIOR, Floats, Ints

LEAST = 2.0**-25  # of a probability: in float32, one this near to 1 is 1
EACH = 10  # groups of the rarest label for each number that is fitted
SLOPES = (0.05, 20.0)  # the least and the greatest
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Recalibration:
    """What is done to probabilities.

    Args:
        slope: of their logarithms, above 0, so that the order of the answers stays; 1 where none was fitted.
        intercepts: K of them, the first 0.
    """

    slope: float
    intercepts: tuple[float, ...]

    def applied(self, probabilities: Floats) -> Floats:
        """Probabilities (n, K), each row summing to 1, to the new ones (n, K)."""
        raised = self.slope * _logs(probabilities) + np.array(self.intercepts)
        raised = np.exp(raised - raised.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of images beside what is true of them.

    Args:
        probabilities: (n, K), each row summing to 1.
        truth: (n,) label indices.
        group: (n,) what belongs together, such as the images of one patient.
        labels: K names.

    Raises:
        DataError: too few groups to fit anything to, or a label of which fewer than two groups have an image.
    """

    probabilities: Floats
    truth: Ints
    group: Names
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        few = [f"{n} of {label}" for label, n in zip(self.labels, self.groups_of_each, strict=True) if n < 2]
        if self.groups < LEAST_GROUPS or few:
            raise DataError(
                f"expected labelled images of at least {LEAST_GROUPS} groups (patients or photographs), with each "
                f"label in two or more of them, got {self.groups} groups{', with ' * bool(few)}{' and '.join(few)}; "
                "add labelled images"
            )

    @property
    def groups(self) -> int:
        """How many there are."""
        return np.unique(self.group).size

    @property
    def groups_of_each(self) -> list[int]:
        """Of each label, how many groups have an image."""
        return [np.unique(self.group[self.truth == k]).size for k in range(len(self.labels))]

    @property
    def suffice_for_slope(self) -> bool:
        """Whether the slope is fitted too: K numbers in all."""
        return min(self.groups_of_each) >= EACH * len(self.labels)


def fit(seen: Answers, *, slope: bool, weights: Floats | None = None) -> Recalibration:
    """The most probable recalibration given some answers.

    The mean log loss counts as often as there are groups in effect, and the logarithm of the slope and the intercepts
    are normal about 0 with `calibration.PRIOR`, as the logarithm of a temperature is.

    Args:
        seen: the answers.
        slope: whether it is fitted too.
        weights: (n,) how often each answer counts, the same for all of a group; None: once.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    logs, rows = _logs(seen.probabilities), np.arange(seen.truth.size)
    weights = np.ones(rows.size) if weights is None else weights
    _, member, images = np.unique(seen.group, return_inverse=True, return_counts=True)
    in_effect = weights.sum() ** 2 / (weights @ images[member])  # groups, of equal size all of them
    share, doubt = weights / weights.sum(), 1 / (2 * PRIOR**2 * in_effect)
    is_true = np.eye(logs.shape[1])[seen.truth]

    def loss(numbers: Floats) -> tuple[float, Floats]:
        steep = np.exp(numbers[0])
        raised = steep * logs + np.append(0.0, numbers[1:])
        log_p = raised - logsumexp(raised, axis=1, keepdims=True)
        excess = share[:, None] * (np.exp(log_p) - is_true)  # (n, K), the gradient by `raised`
        by_slope = steep * (excess * logs).sum() if slope else 0.0
        gradient = np.append(by_slope, excess.sum(axis=0)[1:]) + 2 * doubt * numbers
        return float(-share @ log_p[rows, seen.truth] + doubt * numbers @ numbers), gradient

    bounds = [tuple(np.log(SLOPES)) if slope else (0.0, 0.0), *[(None, None)] * (logs.shape[1] - 1)]
    found = minimize(loss, np.zeros(logs.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Recalibration(float(np.exp(found[0])), (0.0, *map(float, found[1:])))


def with_intervals(seen: Answers, found: Recalibration, *, slope: bool, resamples: int = 200) -> dict[str, Figure]:
    """`slope`, if it was fitted, and `intercept of LABEL` of all labels but the first: 95 % intervals over groups."""
    names = ["slope", *(f"intercept of {label}" for label in seen.labels[1:])]
    _, member = np.unique(seen.group, return_inverse=True)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(seen.groups, size=seen.groups), minlength=seen.groups)[member]
        if all(weights[seen.truth == k].any() for k in range(len(seen.labels))):
            drawn.append(_numbers(fit(seen, slope=slope, weights=weights.astype(np.float64))))
    ends = [percentiles(column) for column in np.array(drawn).T]
    every = {
        name: Figure(value, min(low, value), max(high, value), seen.truth.size)
        for name, value, (low, high) in zip(names, _numbers(found), ends, strict=True)
    }
    return {name: figure for name, figure in every.items() if slope or name != "slope"}


def _numbers(found: Recalibration) -> list[float]:
    return [found.slope, *found.intercepts[1:]]


def parts_of(seen: Answers, folds: int, seed: int) -> Ints:
    """(n,) which of some parts an answer is in: groups are whole, and each label is in two parts or more."""
    names, member = np.unique(seen.group, return_inverse=True)
    rarest_first = np.argsort(seen.groups_of_each)
    has = np.array([[np.any(seen.truth[member == g] == k) for k in rarest_first] for g in range(names.size)])
    order = np.random.default_rng(seed).permutation(names.size)
    dealt = order[np.argsort(has[order].argmax(axis=1), kind="stable")]  # those with the rarest label first
    part = np.empty(names.size, np.int64)
    part[dealt] = np.arange(names.size) % folds
    return np.asarray(part[member], np.int64)


def cross_fitted(
    seen: Answers, *, slope: bool, folds: int = 5, repeats: int = 10
) -> Iterator[list[tuple[Ints, Ints, Recalibration]]]:
    """For each repeat, parts of the answers with the recalibration that the other groups' answers give.

    Yields:
        For each part: positions (m,) of its answers, positions of all others, and what was fitted to these.
    """
    for seed in range(repeats):
        part = parts_of(seen, folds, seed)
        yield [(np.flatnonzero(part == k), others, _fit_to(seen, others, slope)) for k, others in _others(part, folds)]


def _others(part: Ints, folds: int) -> Iterator[tuple[int, Ints]]:
    return ((k, np.flatnonzero(part != k)) for k in range(folds))


def _fit_to(seen: Answers, which: Ints, slope: bool) -> Recalibration:
    weights = np.zeros(seen.truth.size)
    weights[which] = 1.0
    return fit(seen, slope=slope, weights=weights)


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Of one figure from several repeats on the same images: the mean value, between the means of its ends.

    Where the same groups were drawn in every repeat, this is no narrower than the interval of the mean would be.
    """
    value, low, high = np.mean([(figure.value, figure.low, figure.high) for figure in figures], axis=0)
    return Figure(float(value), float(low), float(high), figures[0].n)


def _logs(probabilities: Floats) -> Floats:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), LEAST))
