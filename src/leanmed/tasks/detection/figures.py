"""How good a detector's boxes are: figures per image with 95 % intervals over groups.

Two rules say what a box finds. `ap50` follows PASCAL VOC: a box finds the object that it overlaps most, if their
intersection over union (IoU) is at least .5 and no better scored box has found it; every other box is a false
positive. All other figures, but for those of the paper's protocol, follow LUNA16's rule in two dimensions: a box
finds every object within whose radius (half the shorter side of the true box) its centre lies; an object that
several boxes find counts once, with the highest score, and the others count neither way.

```
ap50                 average precision at IoU .5
sensitivity          share of the objects found at one false positive per image
sensitivity@R        the same at R = 1/8, 1/4, 1/2, 2, 4, 8 false positives per image
froc                 mean of the seven, which over scans is LUNA16's CPM
precision, recall, f1   of the boxes answered, those scored at least the decision threshold
top_precision, top_recall, top_f1   the paper's protocol: of images that hold an object, the best box alone, whatever
                     its score, right when its IoU is at least .5
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    changes,
    with_intervals,
)
from leanmed.tasks.detection.boxes import iou
from leanmed.tasks.detection.froc import (
    DIAMETER_EDGES,
    RATES,
    Marks,
    Matched,
    average_precision,
    bands,
    collect,
    count_once,
    rates_of,
    sensitivities,
)

IOU = 0.5
AT_ONE = RATES.index(1.0)
POINT = ("ap50", "froc", "sensitivity", "precision", "recall", "f1")
"""What `point` gives."""
BAND = ("sensitivity", "froc", "recall")
"""What `by_diameter` gives."""


@dataclass(frozen=True, eq=False)
class Detected:
    """A table of n images with what is there and what was found: a sequence of n arrays for each.

    Args:
        truth: per image (t, 4), true boxes xyxy in pixels of the image's own frame.
        boxes: per image (p, 4), predicted boxes in the same frame.
        scores: per image (p,), in [0, 1].
        threshold: (n,) the least score that is answered; carried, as each fold has its own.
        group: (n,) what the split kept whole, and the bootstrap draws whole.
        diameters: per image (t,) in mm, NaN where unknown; none at all if no image has any.
        labels: the name of the object.
        fold: (n,) the fold that answered for the image, or None.

    Raises:
        DataError: no image, lengths that differ, or a value that is no finite number.
    """

    truth: Sequence[Floats]
    boxes: Sequence[Floats]
    scores: Sequence[Floats]
    threshold: Floats
    group: NDArray[np.str_]
    diameters: Sequence[Floats] = ()
    labels: tuple[str, ...] = ("nodule",)
    fold: Ints | None = None

    def __post_init__(self) -> None:
        n = len(self.group)
        for name in ("truth", "boxes", "scores", "threshold", "diameters", "fold"):
            column = getattr(self, name)
            optional = column is None or (name == "diameters" and not len(column))
            if n == 0 or not (optional or len(column) == n):
                raise DataError(f"expected {name} of one or more images, one for each of {n}, got {len(column)}")
        for name in ("truth", "boxes"):
            if not all(b.ndim == 2 and b.shape[1] == 4 and np.isfinite(b).all() for b in getattr(self, name)):
                raise DataError(f"expected {name} of every image to be finite numbers of shape (boxes, 4)")
        if not all(s.shape == (len(b),) and np.isfinite(s).all() for s, b in zip(self.scores, self.boxes, strict=True)):
            raise DataError("expected one finite score for every predicted box")

    @property
    def groups(self) -> int:
        """How many groups the images come from."""
        return np.unique(self.group).size

    @property
    def objects(self) -> int:
        """How many true boxes there are."""
        return sum(map(len, self.truth))

    def subset(self, which: NDArray[np.bool_] | Ints) -> Detected:
        """The table of some of the images, at least one."""
        chosen = np.arange(len(self.group))[which].tolist()
        return Detected(
            truth=[self.truth[i] for i in chosen],
            boxes=[self.boxes[i] for i in chosen],
            scores=[self.scores[i] for i in chosen],
            threshold=self.threshold[which],
            group=self.group[which],
            diameters=[self.diameters[i] for i in chosen] if len(self.diameters) else (),
            labels=self.labels,
            fold=None if self.fold is None else self.fold[which],
        )


def match_overlap(table: Detected) -> Marks:
    """Boxes and objects by PASCAL VOC's rule at IoU .5: each box is a hit or a false positive."""
    return _collect(table, _overlapping)


def match_centres(table: Detected) -> Marks:
    """Boxes and objects by LUNA16's rule in two dimensions: a hit, a false positive, or not counted."""
    return _collect(table, _centred)


def match_best(table: Detected) -> Marks:
    """The paper's protocol: the best box of every image that holds an object, by PASCAL VOC's rule."""

    def best(truth: Floats, boxes: Floats, scores: Floats) -> Matched:
        first = np.argsort(-scores, kind="stable")[: 1 if len(truth) else 0]
        return _overlapping(truth, boxes[first], scores[first])

    return _collect(table, best)


def _collect(table: Detected, match: Callable[[Floats, Floats, Floats], Matched]) -> Marks:
    rows = zip(table.truth, table.boxes, table.scores, strict=True)
    return collect([match(*row) for row in rows], [len(truth) for truth in table.truth])


def _overlapping(truth: Floats, boxes: Floats, scores: Floats) -> Matched:
    order = np.argsort(-scores, kind="stable")
    finding = np.full(len(boxes), -1)
    if len(truth):
        overlap = iou(boxes[order], truth)  # (p, t)
        enough = np.flatnonzero(overlap.max(axis=1) >= IOU)
        found, first = np.unique(overlap[enough].argmax(axis=1), return_index=True)
        finding[enough[first]] = found
    return scores[order], finding


def _centred(truth: Floats, boxes: Floats, scores: Floats) -> Matched:
    return count_once(centre_hits(truth, boxes), scores)


def centre_hits(truth: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """(p, t) whether the centre of a predicted box lies within half the shorter side of a true one of its centre."""
    apart = (boxes[:, None, :2] + boxes[:, None, 2:] - truth[None, :, :2] - truth[None, :, 2:]) / 2  # (p, t, 2)
    radius = (truth[:, 2:] - truth[:, :2]).min(axis=1, initial=np.inf) / 2
    inside: NDArray[np.bool_] = np.square(apart).sum(axis=2) < np.square(radius)
    return inside


def answered(marks: Marks, table: Detected) -> Marks:
    """Those scored at least their image's decision threshold."""
    return marks.keep(marks.score >= table.threshold[marks.unit])


def point(table: Detected) -> dict[str, float]:
    """The figures of `POINT` without intervals, as quick as a validation epoch needs them."""
    values = _measure(table)(np.ones((1, table.group.size)))
    return {name: float(values[name][0]) for name in POINT}


def score(table: Detected, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """Every figure of a table with its 95 % interval over groups; the module's docstring tells what they are.

    What a table cannot tell is NaN: without objects, all; without a box answered, the precision.
    """
    with_objects = np.array([len(truth) > 0 for truth in table.truth])
    groups = np.unique(table.group[with_objects]).size
    return with_intervals(
        _measure(table),
        table.group,
        evidence=dict.fromkeys(("sensitivity", *map(_at, RATES), "recall"), groups),
        columns=_columns(table),
        resamples=resamples,
        seed=seed,
    )


def _columns(table: Detected) -> int:
    return len(table.group) + 2 * table.objects


def _at(rate: float) -> str:
    return f"sensitivity@{rate:g}"


def _measure(table: Detected) -> Measure:
    """Match once; the function returned turns weights (b, n) into metric -> (b,)."""
    centres = match_centres(table)
    area, at_rates = average_precision(match_overlap(table)), sensitivities(centres)
    of_answers, of_best = rates_of(answered(centres, table)), rates_of(match_best(table))

    def measure(weights: Floats) -> dict[str, Floats]:
        found = at_rates(weights)  # (b, rates)
        values = {"ap50": area(weights), "froc": found.mean(axis=1), "sensitivity": found[:, AT_ONE]}
        values |= {_at(rate): found[:, i] for i, rate in enumerate(RATES) if i != AT_ONE}
        names = ("precision", "recall", "f1")
        values |= dict(zip(names, of_answers(weights), strict=True))
        return values | dict(zip((f"top_{name}" for name in names), of_best(weights), strict=True))

    return measure


def paired(a: Detected, b: Detected, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """How b differs from a on the same images: b - a for each figure, the resamples being shared.

    `agreement` is the share of images on which both answer the same boxes: as many, and each overlapping one of
    the other's with an IoU of at least .5.

    Raises:
        DataError: the tables are not of the same images.
    """
    same = np.array_equal(a.group, b.group) and all(map(np.array_equal, a.truth, b.truth))
    if not same:
        raise DataError("expected two tables of the same images in the same order, got others; detect in the same")
    alike = np.array([_same_boxes(_answers(a, i), _answers(b, i)) for i in range(a.group.size)])
    columns = max(_columns(a), _columns(b))
    return changes(_measure(a), _measure(b), alike, a.group, columns=columns, resamples=resamples, seed=seed)


def _answers(table: Detected, i: int) -> tuple[Floats, Floats]:
    kept = table.scores[i] >= table.threshold[i]
    return table.boxes[i][kept], table.scores[i][kept]


def _same_boxes(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> bool:
    _, found = _overlapping(a[0], *b)
    return len(a[0]) == len(b[0]) == np.count_nonzero(found >= 0)


def counts(table: Detected) -> dict[str, dict[str, int]]:
    """True positives, false positives and missed objects of the boxes answered, and in the paper's protocol (`top`)."""
    found = {"answered": answered(match_centres(table), table), "top": match_best(table)}
    return {name: _counts(marks) for name, marks in found.items()}


def _counts(marks: Marks) -> dict[str, int]:
    hits = int(marks.hit.sum())
    return {"tp": hits, "fp": marks.hit.size - hits, "fn": marks.home.size - hits}


def by_diameter(
    table: Detected, *, edges: Sequence[float] = DIAMETER_EDGES, resamples: int = 2000, seed: int = 0
) -> list[SubgroupRow]:
    """Sensitivity at one false positive per image, `froc` and recall of the objects of each band of diameters.

    A row counts the images that hold such an object, and as positives the objects. With fewer than 10 objects it
    has no figures, and with fewer than 10 groups that hold one no intervals.

    Args:
        edges: mm; a band holds its lower edge.
    """
    if not len(table.diameters):
        return []
    marks, rows = match_centres(table), []
    for name, which in bands(np.concatenate(list(table.diameters)), edges):
        band = marks.only(which)
        images = np.unique(band.home)
        groups = np.unique(table.group[images]).size
        found = {m: f.of_groups(groups) for m, f in _found(band, table, groups, resamples, seed).items()}
        rows.append(SubgroupRow("diameter", name, images.size, groups, band.home.size, found))
    return rows


def _found(band: Marks, table: Detected, groups: int, resamples: int, seed: int) -> dict[str, Figure]:
    """How many of a band's objects are found."""
    if band.home.size < SMALL_CELL:
        return dict.fromkeys(BAND, Figure(np.nan, np.nan, np.nan, table.group.size))
    at_rates, rates = sensitivities(band), rates_of(answered(band, table))

    def measure(weights: Floats) -> dict[str, Floats]:
        found = at_rates(weights)
        values = (found[:, AT_ONE], found.mean(axis=1), rates(weights)[1])
        return dict(zip(BAND, values, strict=True))

    return with_intervals(
        measure,
        table.group,
        evidence={"sensitivity": groups, "recall": groups},
        columns=_columns(table),
        resamples=resamples,
        seed=seed,
    )
