"""Marks matched with what is there, and what follows from them: free-response ROC and average precision.

A free-response ROC curve (FROC) tells how many of the findings are marked (sensitivity) against how many wrong
marks an image or scan gets on average, as the least score that counts falls. Between two operating points it is
a straight line, and to the right of the last one it stays level, as LUNA16's evaluation draws it
(Setio et al. 2017, arXiv:1612.08012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from leanmed.figures.bootstrap import Floats, Ints, divide

DIAMETER_EDGES = (6.0, 8.0, 15.0)  # mm; the first two are those of the Fleischner Society's advice
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per unit at which LUNA16 reads the curve; the mean of the seven sensitivities is its CPM."""


@dataclass(frozen=True, eq=False)
class Marks:
    """m counted marks on n units, images or scans, with f findings in all.

    Args:
        unit: (m,) which unit a mark lies in.
        score: (m,) how sure it is, the higher the surer.
        finding: (m,) which finding it finds, or -1 if it is a false positive. A finding is found once at most:
            what is neither (another hit of the same finding, a hit of an excluded one) is not counted and not here.
        home: (f,) which unit a finding lies in.
        units: n.
    """

    unit: Ints
    score: Floats
    finding: Ints
    home: Ints
    units: int

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(m,) whether a mark finds something."""
        return self.finding >= 0

    def keep(self, marks: NDArray[np.bool_]) -> Marks:
        """Some of the marks, all findings."""
        return replace(self, unit=self.unit[marks], score=self.score[marks], finding=self.finding[marks])

    def only(self, findings: NDArray[np.bool_]) -> Marks:
        """Some of the findings, (f,); hits of the others are not counted, false positives are."""
        number = np.append(np.where(findings, np.cumsum(findings) - 1, -2), -1)  # the last is for false positives
        kept = replace(self, finding=number[self.finding], home=self.home[findings])
        return kept.keep(kept.finding >= -1)

    def per_unit(self) -> tuple[Floats, Floats, Floats]:
        """(n,) true positives, false positives and findings of each unit."""
        parts = (self.unit[self.hit], self.unit[~self.hit], self.home)
        true, false, findings = (np.bincount(part, minlength=self.units).astype(np.float64) for part in parts)
        return true, false, findings


Matched = tuple[Floats, Ints]
"""Of one unit: the scores of the marks that count, and which of its findings each finds, or -1."""


def count_once(hits: NDArray[np.bool_], scores: Floats, ignored: NDArray[np.bool_] | None = None) -> Matched:
    """LUNA16's rule: a finding counts once, with its best mark; a mark that hits nothing is a false positive.

    Args:
        hits: (m, f) whether a mark hits a finding.
        scores: (m,)
        ignored: (m,) marks that are no false positives either; None: no mark is.
    """
    found = np.flatnonzero(hits.any(axis=0))
    best = np.where(hits, scores[:, None], -np.inf).max(axis=0, initial=-np.inf)[found]
    wrong = scores[~hits.any(axis=1) & (True if ignored is None else ~ignored)]
    return np.append(best, wrong), np.append(found, np.full(wrong.size, -1))


def collect(matched: Sequence[Matched], findings: Sequence[int]) -> Marks:
    """The matches of every unit, and how many findings each holds, as one value: findings are numbered through."""
    start = np.cumsum([0, *findings])
    return Marks(
        unit=np.repeat(np.arange(len(matched)), [len(scores) for scores, _ in matched]),
        score=np.concatenate([scores for scores, _ in matched]),
        finding=np.concatenate(
            [np.where(of >= 0, of + first, -1) for (_, of), first in zip(matched, start[:-1], strict=True)]
        ),
        home=np.repeat(np.arange(len(findings)), findings),
        units=len(findings),
    )


def counts(marks: Marks) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Sort once; the function returned turns weights (b, n) into true and false positives, (b, stops) each.

    The counts go up from none to all marks, the highest scores first. With thousands of false positives and a few
    hits, stopping just before and just after each score that has a hit is enough: in between both curves are straight.
    """
    levels = -np.unique(-marks.score[marks.hit])  # from the highest
    above = np.searchsorted(-levels, -marks.score)
    tied = np.append(levels, np.nan)[above] == marks.score
    stop = 1 + 2 * above + tied  # 0 counts no mark
    shape = (2 * levels.size + 2, marks.units)
    true, false = (
        coo_array((np.ones(which.sum()), (stop[which], marks.unit[which])), shape=shape).tocsr()
        for which in (marks.hit, ~marks.hit)
    )
    return lambda weights: ((true @ weights.T).T.cumsum(axis=1), (false @ weights.T).T.cumsum(axis=1))


def curves(marks: Marks) -> Callable[[Floats], tuple[Floats, Floats]]:
    """The function returned turns weights (b, n) into false positives per unit and sensitivity, (b, stops) each."""
    counted, (_, _, findings) = counts(marks), marks.per_unit()

    def curve(weights: Floats) -> tuple[Floats, Floats]:
        true, false = counted(weights)
        return false / weights.sum(axis=1, keepdims=True), divide(true, (weights @ findings)[:, None])

    return curve


def sensitivities(marks: Marks, rates: Sequence[float] | Floats = RATES) -> Callable[[Floats], Floats]:
    """The function returned turns weights (b, n) into sensitivities (b, rates); NaN without findings."""
    curve = curves(marks)
    return lambda weights: np.array([np.interp(rates, x, y) for x, y in zip(*curve(weights), strict=True)])


def average_precision(marks: Marks) -> Callable[[Floats], Floats]:
    """Area under precision over recall; the function returned turns weights (b, n) into (b,), NaN without findings.

    Precision at a recall is the best that any higher recall has as well, and all points count: the definition
    of PASCAL VOC 2010 and later (Everingham et al. 2015, section 2.5).
    """
    counted, (_, _, findings) = counts(marks), marks.per_unit()

    def average(weights: Floats) -> Floats:
        true, false = counted(weights)
        precision = true / np.maximum(true + false, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        return divide((np.diff(true, axis=1) * best[:, 1:]).sum(axis=1), weights @ findings)

    return average


def rates_of(marks: Marks) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """Precision, recall and F1 of all the marks; the function returned turns weights (b, n) into (b,) each.

    Without findings all are NaN, without marks precision is.
    """
    true, false, findings = marks.per_unit()

    def rates(weights: Floats) -> tuple[Floats, Floats, Floats]:
        tp, fp, all_there = weights @ true, weights @ false, weights @ findings
        there = all_there > 0
        precision, recall = divide(tp, (tp + fp) * there), divide(tp, all_there)
        return precision, recall, divide(2 * tp, (tp + fp + all_there) * there)

    return rates


def bands(diameters: Floats, edges: Sequence[float] = DIAMETER_EDGES) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The bands that hold a diameter, by name, each with which of them (m,) it holds; a band holds its lower edge.

    Args:
        diameters: (m,) in mm; NaN where it is not known.
        edges: mm, rising.
    """
    names = [f"< {edges[0]:g} mm", *(f"{a:g} to < {b:g} mm" for a, b in pairwise(edges)), f"≥ {edges[-1]:g} mm"]
    for i, name in enumerate(names):
        which = (np.digitize(diameters, edges) == i) & np.isfinite(diameters)
        if which.any():
            yield name, which
