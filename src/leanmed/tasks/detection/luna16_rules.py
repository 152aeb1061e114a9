"""Marks on whole scans, judged as LUNA16 judges them (Setio et al. 2017, arXiv:1612.08012, section 4).

* A candidate whose centre lies within half a nodule's diameter of its centre is a hit. Several hits of a nodule count
  once, with the highest score; the others count neither way.
* A candidate that hits an excluded finding is neither a hit nor a false positive. An excluded finding whose diameter
  is unknown (below 0) is taken to have 10 mm.
* Every other candidate is a false positive. Of a scan with more than 100 candidates, those count that are scored
  higher than the 101st.
* All scans of the list count, also those without a nodule or without a candidate; other scans' points are ignored.

The figure is the competition performance metric (CPM): the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false
positives per scan, with an interval over scans.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leanmed.data.luna16 import UNKNOWN_DIAMETER
from leanmed.errors import DataError
from leanmed.figures.bootstrap import SMALL_CELL, Figure, Floats, SubgroupRow, with_intervals
from leanmed.tasks.detection.froc import (
    DIAMETER_EDGES,
    RATES,
    Marks,
    bands,
    collect,
    count_once,
    sensitivities,
)

MOST = 100  # candidates of a scan
RESAMPLES = 1000
BAND = ("sensitivity@1", "sensitivity@4", "cpm")


@dataclass(frozen=True, eq=False)
class Points:
    """m points of scans.

    Args:
        scan: (m,) series UIDs.
        world: (m, 3) x, y, z in mm.
        value: (m,) a candidate's score, or a finding's diameter in mm.

    Raises:
        DataError: columns of other lengths, or a value that is no finite number.
    """

    scan: NDArray[np.str_]
    world: Floats
    value: Floats

    def __post_init__(self) -> None:
        m = len(self.scan)
        if self.world.shape != (m, 3) or self.value.shape != (m,):
            raise DataError(
                f"expected {m} points of 3 coordinates and a value, got {self.world.shape} and {self.value.shape}"
            )
        if not (np.isfinite(self.world).all() and np.isfinite(self.value).all()):
            raise DataError("expected coordinates and values of points to be finite numbers, got others; correct them")

    def by_scan(self) -> dict[str, tuple[Floats, Floats]]:
        """World coordinates and values of each scan that has any."""
        names, start = np.unique(np.sort(self.scan), return_index=True)
        order = np.argsort(self.scan, kind="stable")
        parts = np.split(order, start[1:])
        return {str(name): (self.world[part], self.value[part]) for name, part in zip(names, parts, strict=False)}


NO_POINTS = Points(np.empty(0, np.str_), np.empty((0, 3)), np.empty(0))


def read_points(path: Path, value: str) -> Points:
    """A table as LUNA16 has them: columns seriesuid, coordX, coordY, coordZ and one of values.

    Args:
        path: a CSV such as annotations.csv or annotations_excluded.csv.
        value: the column of values: `diameter_mm`, or a candidate's `probability`.

    Raises:
        DataError: a column is missing, or a cell holds no number.
    """
    columns = ("coordX", "coordY", "coordZ", value)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        numbers = np.array([[float(row[name]) for name in columns] for row in rows]).reshape(-1, 4)
        return Points(np.array([row["seriesuid"] for row in rows], np.str_), numbers[:, :3], numbers[:, 3])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected the columns seriesuid, {', '.join(columns)} with a number in each cell, got {error}; "
            "correct the table"
        ) from error


def match_scans(scans: Sequence[str], candidates: Points, nodules: Points, excluded: Points = NO_POINTS) -> Marks:
    """Candidates against the nodules of the scans listed, by the rules in the module's docstring.

    Raises:
        DataError: no scan, or one listed twice.
    """
    if not scans or len(set(scans)) < len(scans):
        raise DataError(f"expected one or more different scans, got {len(scans)}, {len(set(scans))} of them different")
    found, there, ignored = candidates.by_scan(), nodules.by_scan(), excluded.by_scan()
    none = (np.empty((0, 3)), np.empty(0))
    matched, findings = [], []
    for scan in scans:
        places, scores = _highest(*found.get(scan, none))
        centres, diameters = there.get(scan, none)
        hits = _within(places, centres, diameters)
        excused = _within(places, *ignored.get(scan, none)).sum(axis=1) > 0
        matched.append(count_once(hits, scores, excused))
        findings.append(len(centres))
    return collect(matched, findings)


def _highest(places: Floats, scores: Floats) -> tuple[Floats, Floats]:
    kept = scores > (np.sort(scores)[-MOST - 1] if scores.size > MOST else -np.inf)
    return places[kept], scores[kept]


def _within(places: Floats, centres: Floats, diameters: Floats) -> NDArray[np.bool_]:
    """(m, f) whether a place lies within half a finding's diameter of its centre."""
    radius = np.where(diameters < 0, UNKNOWN_DIAMETER, diameters) / 2
    apart = np.square(places[:, None] - centres[None]).sum(axis=2)
    inside: NDArray[np.bool_] = apart < np.square(radius)
    return inside


def cpm(
    scans: Sequence[str],
    candidates: Points,
    nodules: Points,
    excluded: Points = NO_POINTS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """`cpm` and `sensitivity@R` for each R of `RATES`, with their 95 % intervals over scans.

    Raises:
        DataError: as `match_scans`.
    """
    return _figures(match_scans(scans, candidates, nodules, excluded), scans, resamples, seed)


def by_diameter(
    scans: Sequence[str],
    candidates: Points,
    nodules: Points,
    excluded: Points = NO_POINTS,
    *,
    edges: Sequence[float] = DIAMETER_EDGES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[SubgroupRow]:
    """`BAND` of the nodules of each band of diameters; with fewer than 10 nodules a row has no figures, and
    with nodules in fewer than 10 scans no intervals.

    A row counts the scans that hold such a nodule, and as positives the nodules.

    Args:
        edges: mm; a band holds its lower edge.

    Raises:
        DataError: as `match_scans`.
    """
    marks, there = match_scans(scans, candidates, nodules, excluded), nodules.by_scan()
    diameters = np.concatenate([np.empty(0), *(there[scan][1] for scan in scans if scan in there)])
    rows = []
    for name, which in bands(diameters, edges):
        band = marks.only(which)
        count = np.unique(band.home).size
        found = dict.fromkeys(BAND, Figure(np.nan, np.nan, np.nan, len(scans)))
        if band.home.size >= SMALL_CELL:
            measured = _figures(band, scans, resamples, seed)
            found = {figure: measured[figure].of_groups(count) for figure in BAND}
        rows.append(SubgroupRow("diameter", name, count, count, band.home.size, found))
    return rows


def _figures(marks: Marks, scans: Sequence[str], resamples: int, seed: int) -> dict[str, Figure]:
    at_rates, names = sensitivities(marks), [f"sensitivity@{rate:g}" for rate in RATES]

    def measure(weights: Floats) -> dict[str, Floats]:
        found = at_rates(weights)  # (b, rates)
        return {"cpm": found.mean(axis=1)} | dict(zip(names, found.T, strict=True))

    return with_intervals(
        measure,
        np.array(scans, np.str_),
        evidence=dict.fromkeys(names, np.unique(marks.home).size),
        columns=len(scans) + 2 * marks.home.size,
        resamples=resamples,
        seed=seed,
    )
