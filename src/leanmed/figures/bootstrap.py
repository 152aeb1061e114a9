"""Measured values with 95 % intervals, drawn over groups.

Intervals come from a bootstrap over groups (Efron and Tibshirani 1993, chapter 13): a resample draws whole
groups with replacement, so that the images of one patient come and go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Measure = Callable[[Floats], dict[str, Floats]]
"""Weights (b, n), how often each of n images is in each of b resamples, to name -> (b,)."""

SMALL_CELL = 10  # images, or objects: fewer have no figures
SMALL_GROUPS = 10  # groups: of fewer, resamples say next to nothing of how much another draw of patients would differ
MISSING = "not recorded"
_TAIL = 0.025
_CHUNK = 2**19  # weights held at a time, 4 MB an array, of which about ten are alive


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval on n images; NaN stands for what the images cannot tell."""

    value: float
    low: float
    high: float
    n: int

    def of_groups(self, groups: int) -> Figure:
        """The figure without its interval, if fewer than `SMALL_GROUPS` groups stand behind it."""
        return self if groups >= SMALL_GROUPS else replace(self, low=np.nan, high=np.nan)


@dataclass(frozen=True)
class SubgroupRow:
    """The images that share a value of an attribute. `positives` is None with more than two labels."""

    name: str
    value: str
    n: int
    groups: int
    positives: int | None
    figures: Mapping[str, Figure]


def resample_groups(
    group: NDArray[np.str_], resamples: int, seed: int, *, columns: int | None = None
) -> Iterator[Floats]:
    """Draw whole groups with replacement, some resamples at a time: the fewer, the more columns the measure makes.

    Yields:
        (b, n) how often each image is in each of b resamples; the b of all chunks add up to `resamples`.
    """
    names, member = np.unique(group, return_inverse=True)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // (columns or group.size))
    for start in range(0, resamples, step):
        b = min(step, resamples - start)
        drawn = rng.integers(names.size, size=(b, names.size)) + names.size * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * names.size).reshape(b, names.size)
        yield counts[:, member].astype(np.float64)


def resample(
    measures: Sequence[Measure], group: NDArray[np.str_], resamples: int, seed: int, *, columns: int | None = None
) -> dict[str, Floats]:
    """Metric -> (len(measures), resamples), the same resamples for all measures."""
    weights = resample_groups(group, resamples, seed, columns=columns)
    parts = [[measure(w) for measure in measures] for w in weights]
    return {
        name: np.array([np.concatenate([p[i][name] for p in parts]) for i in range(len(measures))])
        for name in parts[0][0]
    }


def with_intervals(
    measure: Measure,
    group: NDArray[np.str_],
    *,
    evidence: Mapping[str, int] | None = None,
    columns: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Every value of a measure with its 95 % interval over groups.

    Args:
        measure: weights (b, n) to name -> (b,).
        group: (n,) what the bootstrap draws whole.
        evidence: of the values that are plain proportions, how many groups stand behind each, for when one is
            exactly 0 or 1.
        columns: the most values that a measure holds for each resample; None: one for each image.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    values = {name: float(value[0]) for name, value in measure(np.ones((1, group.size))).items()}
    drawn = resample([measure], group, resamples, seed, columns=columns)
    known = evidence or {}
    return {
        name: Figure(value, *bootstrap_interval(name, value, drawn[name][0], known.get(name)), group.size)
        for name, value in values.items()
    }


def changes(
    before: Measure,
    after: Measure,
    same: NDArray[np.bool_],
    group: NDArray[np.str_],
    *,
    columns: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Figure]:
    """How one measure differs from another on the same images: after - before, the resamples being shared.

    Args:
        before, after: weights (b, n) to name -> (b,).
        same: (n,) whether both give the same answer; its share is `agreement`.
        group, columns, resamples, seed: as of `with_intervals`.

    An interval without width means that the difference came out the same in every resample.
    """
    ones = np.ones((1, group.size))
    first, second = before(ones), after(ones)
    found = {}
    for name, (one, other) in resample([before, after], group, resamples, seed, columns=columns).items():
        found[name] = Figure(float(second[name][0] - first[name][0]), *percentiles(other - one), group.size)
    agreed = same.astype(np.float64)
    agreement = with_intervals(
        lambda weights: {"agreement": weights @ agreed / weights.sum(axis=1)},
        group,
        evidence={"agreement": np.unique(group).size},
        resamples=resamples,
        seed=seed,
    )
    return found | agreement


def difference(before: Figure, after: Figure) -> Figure:
    """How a figure of some images differs from that of others which share no group with them: after - before.

    Each side's own interval is kept, and the two are joined as those of independent estimates (MOVER: Zou and Donner
    2008, doi:10.1002/sim.3095, after Newcombe 1998), so that a figure of which only the interval is known, such as one
    in `leanmed.json`, can be compared too. The ends lie at

        d - sqrt((after - after.low)^2 + (before.high - before)^2)
        d + sqrt((after.high - after)^2 + (before - before.low)^2)

    Without one of the intervals there is none of the difference.
    """
    change = after.value - before.value

    def reach(*sides: float) -> float:
        return float(np.hypot(*np.maximum(sides, 0.0)))  # a value may lie beside its own percentiles

    low = change - reach(after.value - after.low, before.high - before.value)
    high = change + reach(after.high - after.value, before.value - before.low)
    return Figure(change, low, high, after.n)


def bootstrap_interval(name: str, value: float, draws: Floats, groups: int | None) -> tuple[float, float]:
    """The 95 % interval of a figure from its bootstrap draws, or (NaN, NaN).

    Resamples that leave the figure undefined are left out; if they are more than a tenth, no interval is
    given. Nor is one given when all resamples say the same (one group, or a perfect AUC), for no spread is no
    proof of certainty. Only a proportion of 0 or 1 has an exact answer then: the Clopper-Pearson bound of its
    `groups`.

    ECE is biased upwards, and its resamples twice so, so that percentiles miss the truth (in simulations with
    100 images, nearly always). It gets the basic interval, which reflects the draws about the value,
    stretched to hold the value.
    """
    low, high = percentiles(draws)
    if high - low > 1e-9:
        return (max(0.0, 2 * value - high), max(value, 2 * value - low)) if name == "ece" else (low, high)
    if groups and value in (0.0, 1.0):
        room = 1 - _TAIL ** (1 / groups)
        return (1 - room, 1.0) if value else (0.0, room)
    return np.nan, np.nan


def percentiles(draws: Floats) -> tuple[float, float]:
    """Where 95 % of the draws lie, or (NaN, NaN) if more than a tenth of them are undefined."""
    defined = draws[np.isfinite(draws)]
    if defined.size == 0 or defined.size < 0.9 * draws.size:
        return np.nan, np.nan
    low, high = np.quantile(defined, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def divide(part: Floats, whole: Floats) -> Floats:
    """NaN where the whole is 0."""
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def cells(values: Sequence[str | float | None], edges: Sequence[float] | None) -> dict[str, NDArray[np.bool_]]:
    """Value or band -> (n,) which images have it, in order."""
    known = [v for v in values if v is not None]
    if not known or any(isinstance(v, str) for v in known):
        names = np.array([MISSING if v is None else str(v) for v in values])
        return {str(name): names == name for name in np.unique(names)}
    numbers = np.array([np.nan if v is None else float(v) for v in values])
    inner = np.unique(edges or np.nanquantile(numbers, [0.25, 0.5, 0.75]))
    middle = [f"{a:g} to < {b:g}" for a, b in pairwise(inner)]
    bands = [f"< {inner[0]:g}", *middle, f"≥ {inner[-1]:g}", MISSING]
    index = np.where(np.isnan(numbers), len(bands) - 1, np.digitize(numbers, inner))
    return {name: index == i for i, name in enumerate(bands) if (index == i).any()}
