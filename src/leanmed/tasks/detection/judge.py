"""Judging boxes: from records and answers to figures, plots, mistakes and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from leanmed.figures.bootstrap import SMALL_CELL, Figure, Floats, SubgroupRow, cells
from leanmed.figures.calibration import Evidence
from leanmed.manifest import Manifest
from leanmed.records import Attribute, Box, Record
from leanmed.report.glossary import Term
from leanmed.report.plots import Plot
from leanmed.report.report import Mistake, Places
from leanmed.tasks.detection.answer import Detections, log_odds
from leanmed.tasks.detection.figures import (
    BAND,
    Detected,
    by_diameter,
    centre_hits,
    counts,
    match_centres,
    paired,
    point,
    score,
)
from leanmed.tasks.detection.froc import DIAMETER_EDGES
from leanmed.tasks.detection.plots import plots_of
from leanmed.tasks.detection.scan_report import judge_scans
from leanmed.tasks.detection.words import TERMS, WORDS

__all__ = ["TERMS", "WORDS", "counts", "judge_scans", "paired", "point", "score"]

MAIN_SCORE = "ap50"
MAX_DROP = 0.01  # AP50
CALIBRATION = 64  # slices are large, and each is thousands of places
SHOWN = ("ap50", "sensitivity")
CARD_COLUMNS = {"sensitivity": "sensitivity at 1 FP", "froc": "FROC score", "recall": "recall"}
MISTAKES = 6  # of each kind
NOTHING = "nothing there"


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """Refuse records without boxes."""
    for record in records:
        _ = record.boxes


def table_of(
    records: Sequence[Record],
    answers: Sequence[Detections],
    labels: tuple[str, ...],
    folds: Sequence[int] | None = None,
) -> Detected:
    """Records and the answers to them as the value that the figures take: every box, also below the threshold."""
    truth = [record.boxes for record in records]
    known = any(boxes.diameters for boxes in truth)
    return Detected(
        truth=[_corners(boxes.xyxy) for boxes in truth],
        boxes=[_corners(answer.all_boxes) for answer in answers],
        scores=[np.array(answer.all_scores, np.float64) for answer in answers],
        threshold=np.array([_cut(answer) for answer in answers]),
        group=np.array([record.group for record in records], dtype=np.str_),
        diameters=[np.array(b.diameters or (np.nan,) * len(b.xyxy), np.float64) for b in truth] if known else (),
        labels=labels,
        fold=None if folds is None else np.array(folds),
    )


def _cut(answer: Detections) -> float:
    """The least score that is answered: graphs decide in single precision, and whoever wrote the line has decided."""
    return min([float(np.float32(answer.threshold)), *answer.scores])


def _corners(boxes: Sequence[Box]) -> Floats:
    return np.array(boxes, np.float64).reshape(-1, 4)


def evidence(records: Sequence[Record], answers: Sequence[Detections], labels: tuple[str, ...]) -> Evidence:
    """The logits of the boxes that count, and whether each finds an object, by the rule of LUNA16."""
    table = table_of(records, answers, labels)
    marks = match_centres(table)
    return Evidence(
        logits=log_odds(marks.score),
        truth=marks.hit.astype(np.int64),
        group=table.group[marks.unit],
        unfound=table.objects - int(marks.hit.sum()),
    )


def terms(table: Detected) -> Mapping[str, Term]:
    """The same for every table."""
    return TERMS


def remarks(table: Detected) -> list[str]:
    """How many objects there are, and the counts behind the rates."""
    empty = sum(not len(truth) for truth in table.truth)
    found, best = counts(table).values()
    return [
        f"{table.group.size} images in {table.groups} groups hold {table.objects} objects; {empty} images hold none.",
        f"Boxes answered: {found['tp']} objects found, {found['fp']} false positives, {found['fn']} objects missed.",
        f"Paper's protocol: {best['tp']} boxes right, {best['fp']} wrong, {best['fn']} objects missed.",
    ]


def plots(table: Detected, thresholds: Sequence[float]) -> list[Plot]:
    """Those that the table allows."""
    return plots_of(table)


def describe(manifest: Manifest) -> str:
    """What the card says the artifact does."""
    (label,) = manifest.labels
    seen = "image (uint8, RGB or RGBA, any size)"
    if manifest.input.kind == "slice":
        seen = (
            "axial slice (uint8, RGB or RGBA, any size, 1 mm per pixel; lung window [-1000, 400] HU over 0 to 255; its "
            "channels are the slice below, the slice itself and the one above, or the slice three times)"
        )
    return (
        f"From one {seen} it gives boxes of `{label}` with scores, in its own pixels. Boxes scored at least "
        f"{manifest.threshold:.3f} are answered, a threshold {manifest.threshold_origin} (temperature "
        f"{manifest.temperature:.3f})."
    )


def limits(manifest: Manifest) -> list[str]:
    """A figure per image is none per scan."""
    if manifest.input.kind != "slice":
        return []
    return ["Its figures are per slice: how many false positives a whole scan gets was not measured here."]


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


def mistakes(table: Detected, records: Sequence[Record], answers: Sequence[Any]) -> list[Mistake]:
    """The surest false positives, then the largest objects missed, at most one of each kind of a group."""
    images = range(len(records))
    alarms = [(-m.probability, table.group[i], m) for i in images for m in _alarms(table, i, records[i])]
    misses = [(-_width(m), table.group[i], m) for i in images for m in _misses(table, i, records[i])]
    return [*_first_of_groups(alarms), *_first_of_groups(misses)]


def gallery(table: Detected, records: Sequence[Record], answers: Sequence[Any]) -> None:
    """Mistakes show all: an image has no cell in a confusion matrix."""


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
