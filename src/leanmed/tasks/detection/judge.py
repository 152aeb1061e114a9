"""Judging boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

import numpy as np

from leanmed.figures.bootstrap import SMALL_CELL, Figure, Floats, SubgroupRow, cells
from leanmed.reading.lung_slices import read_slice
from leanmed.records import Attribute, Box, Record
from leanmed.report.report import Mistake, Places
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.detection.figures import (
    BAND,
    Detected,
    by_diameter,
    centre_hits,
    point,
    score,
)
from leanmed.tasks.detection.froc import DIAMETER_EDGES

__all__ = ["answer", "check", "mistakes", "point", "score", "subgroups", "table_of"]

MISTAKES = 6  # of each kind
NOTHING = "nothing there"


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """Refuse records without boxes."""
    for record in records:
        _ = record.boxes


def answer(predictor: Predictor, record: Record) -> dict[str, str]:
    """The row of one image: every box the graph gives, also those below the threshold."""
    pixels = predictor.read(record.image) if record.frame is None else read_slice(record.image, record.frame)
    boxes, scores = predictor.detect(pixels)
    found = [[*map(float, box), float(s)] for box, s in zip(boxes, scores, strict=True)]
    return {"truth": record.truth, "boxes": json.dumps(found), "group": record.group}


def table_of(
    rows: Sequence[tuple[int, Mapping[str, str]]], labels: tuple[str, ...], thresholds: Mapping[int, float]
) -> Detected:
    """(fold, row of predictions.csv) pairs as the value that the figures of boxes take."""
    truth = [_columns(row["truth"]) for _, row in rows]
    boxes = [_columns(row["boxes"]) for _, row in rows]
    known = any(np.isfinite(t[:, 4]).any() for t in truth)
    return Detected(
        truth=[t[:, :4] for t in truth],
        boxes=[b[:, :4] for b in boxes],
        scores=[b[:, 4] for b in boxes],
        threshold=np.array([thresholds[fold] for fold, _ in rows]),
        group=np.array([row["group"] for _, row in rows]),
        diameters=[t[:, 4] for t in truth] if known else (),
        labels=labels,
        fold=np.array([fold for fold, _ in rows]),
    )


def _columns(text: str) -> Floats:
    """JSON of boxes with a fifth value, a number or null, as (boxes, 5)."""
    return np.array(json.loads(text), dtype=np.float64).reshape(-1, 5)


def subgroups(
    table: Detected,
    attributes: Mapping[str, Sequence[Attribute | None]],
    *,
    edges: Mapping[str, Sequence[float]],
    resamples: int,
) -> list[SubgroupRow]:
    """`BAND` of the objects by diameter, then of the images by attribute, false positives being the cell's own."""
    rows = by_diameter(table, edges=edges.get("diameter", DIAMETER_EDGES), resamples=resamples)
    for name, values in attributes.items():
        for value, which in cells(values, edges.get(name)).items():
            rows.append(_cell(name, value, table.subset(which), resamples))
    return rows


def _cell(name: str, value: str, cell: Detected, resamples: int) -> SubgroupRow:
    n = cell.group.size
    found = score(cell, resamples=resamples) if min(n, cell.objects) >= SMALL_CELL else {}
    undefined, behind = Figure(np.nan, np.nan, np.nan, n), np.unique(cell.group[[len(t) > 0 for t in cell.truth]]).size
    shown = {m: found.get(m, undefined).of_groups(behind) for m in BAND}
    return SubgroupRow(name, value, n, cell.groups, cell.objects, shown)


def mistakes(table: Detected, records: Sequence[Record]) -> list[Mistake]:
    """The surest false positives, then the largest objects missed, at most one of each kind of a group."""
    images = range(len(records))
    alarms = [(-m.probability, table.group[i], m) for i in images for m in _alarms(table, i, records[i])]
    misses = [(-_width(m), table.group[i], m) for i in images for m in _misses(table, i, records[i])]
    return [*_first_of_groups(alarms), *_first_of_groups(misses)]


def _first_of_groups(ranked: list[tuple[float, str, Mistake]]) -> list[Mistake]:
    first: dict[str, Mistake] = {}
    for _, group, mistake in sorted(ranked, key=itemgetter(0)):
        first.setdefault(group, mistake)
    return list(first.values())[:MISTAKES]


def _alarms(table: Detected, i: int, record: Record) -> Iterator[Mistake]:
    boxes, scores = table.boxes[i], table.scores[i]
    wrong = ~centre_hits(table.truth[i], boxes).any(axis=1) & (scores >= table.threshold[i])
    for k in np.flatnonzero(wrong):
        places = _places(table, i, boxes[k])
        yield Mistake(record.id, record.image, NOTHING, table.labels[0], float(scores[k]), places, record.frame)


def _misses(table: Detected, i: int, record: Record) -> Iterator[Mistake]:
    hits = centre_hits(table.truth[i], table.boxes[i])
    best = np.where(hits, table.scores[i][:, None], 0).max(axis=0, initial=0)  # (t,)
    diameters = table.diameters[i] if len(table.diameters) else np.full(len(best), np.nan)
    for k in np.flatnonzero(best < table.threshold[i]):
        size = f", {diameters[k]:.1f} mm" if np.isfinite(diameters[k]) else ""
        places = _places(table, i, table.truth[i][k])
        yield Mistake(record.id, record.image, table.labels[0] + size, NOTHING, float(best[k]), places, record.frame)


def _places(table: Detected, i: int, focus: Floats) -> Places:
    answered = table.boxes[i][table.scores[i] >= table.threshold[i]]
    return Places(_box(focus), tuple(map(_box, table.truth[i])), tuple(map(_box, answered)))


def _box(corners: Floats) -> Box:
    x1, y1, x2, y2 = corners.tolist()
    return x1, y1, x2, y2


def _width(mistake: Mistake) -> float:
    return mistake.places.focus[2] - mistake.places.focus[0] if mistake.places else 0.0
