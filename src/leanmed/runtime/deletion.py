"""Whether a saliency says what a score depends on: deletion and insertion.

Both are of Petsiuk et al. 2018, RISE, arXiv:1806.07421, section 4.3.

Deletion covers an image bit by bit, what is said to matter most first: the sooner the score falls, the better the
saliency, and the smaller the area under the curve. Insertion begins with a blurred image and gives it back in the same
order: here the area should be large. Neither asks where a person would look. The areas of a random order, which is as
smooth, say what they are to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.runtime.explain import CELLS, Floats, Score, covered, covers, grid, mean_colour, smooth, tissue_of

STEPS = 20


@dataclass(frozen=True, eq=False)
class Curve:
    """A score while an image is covered, or given back.

    Args:
        shares: (n,) of the tissue's pixels that are covered (deletion) or given back (insertion), from 0 to 1.
        scores: (n,) of the image then.
    """

    shares: Floats
    scores: Floats

    @property
    def area(self) -> float:
        """The area under the curve, by the trapezoid rule: the mean score on the way."""
        heights = (self.scores[1:] + self.scores[:-1]) / 2
        return float(np.diff(self.shares) @ heights)


def deletion(score: Score, pixels: NDArray[Any], values: Floats, *, steps: int = STEPS) -> Curve:
    """The score while pixels give way to the mean colour, those of the highest values first.

    Args:
        score: pixels to a number.
        pixels: (h, w, c) of any type; of four channels of uint8 the last is alpha, and what it leaves out stays.
        values: (h, w), such as those of `explain`.
        steps: in so many equal steps; fewer where there are fewer pixels.
    """
    canvas, rank = mean_colour(pixels), _ranked(pixels, values)
    return _curve(rank, steps, lambda gone: score(covered(pixels, canvas, gone.astype(np.float64))))


def insertion(score: Score, pixels: NDArray[Any], values: Floats, *, steps: int = STEPS) -> Curve:
    """The score while a blurred image gets its pixels back, those of the highest values first; as `deletion`."""
    canvas, rank = smooth(pixels), _ranked(pixels, values)
    return _curve(rank, steps, lambda back: score(covered(pixels, canvas, (~back).astype(np.float64))))


def random_values(pixels: NDArray[Any], *, cells: int = CELLS, seed: int = 0) -> Floats:
    """Values (h, w) that say nothing, as smooth as those of `explain`: a random number around each cell's corners."""
    down, across = (covers(length, count) for length, count in zip(pixels.shape[:2], grid(pixels, cells), strict=True))
    drawn = np.random.default_rng(seed).random((down.shape[1], across.shape[1]))
    values: Floats = (down @ drawn @ across.T) / np.outer(down.sum(axis=1), across.sum(axis=1))
    return values


def _ranked(pixels: NDArray[Any], values: Floats) -> NDArray[np.int64]:
    """(h, w) the place of each pixel in the order of the values, from 0 on; -1 outside the tissue."""
    rank = np.full(values.shape, -1)
    rows, columns = np.nonzero(tissue_of(pixels))
    order = np.argsort(-values[rows, columns], kind="stable")
    rank[rows[order], columns[order]] = np.arange(order.size)
    return rank


def _curve(rank: NDArray[np.int64], steps: int, measure: Callable[[NDArray[np.bool_]], float]) -> Curve:
    """Measure with the first pixels in rank marked: none of them, more and more, all."""
    total = int(rank.max()) + 1
    counts = np.unique(np.linspace(0, total, steps + 1).round().astype(np.int64))
    scores = [measure((rank >= 0) & (rank < count)) for count in counts]
    return Curve(counts / max(total, 1), np.array(scores))
