"""A whole scan through a detector of slices: candidates in three dimensions, and a picture of the best of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leanmed.reading.ct import Floats, Triple
from leanmed.reading.lung_slices import Pixels, Scan, Slice
from leanmed.tasks.drawing import FAINT, MARKED, NOTICE
from leanmed.tasks.findings import MILLIMETRES, Finding, Findings, Measure
from leanmed.tasks.kind import AnswerValue

Detect = Callable[[Pixels], tuple[NDArray[Any], NDArray[Any]]]
"""Pixels (h, w, 3) of a slice -> boxes (n, 4), xyxy in these pixels, and their scores (n,)."""

OVERLAP = 0.5  # share of the smaller of two boxes that the larger covers, for them to show one thing
REACH = 2.5  # mm along z that a thing may be missed in between two slices that show it
FIELD, ZOOM, CAPTION = 64, 3, 16  # a tile of the montage: mm shown, screen pixels per mm, pixels of text


@dataclass(frozen=True)
class Mark:
    """A box in one slice.

    Args:
        z: the axial slice, from 0 as stored.
        xyxy: in pixels of the slice as it is stored, from its corner (see `Orientation.stored_boxes`).
        score: of the detector.
    """

    z: int
    xyxy: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Candidate:
    """What the detector marks in one place of a scan.

    Args:
        score: the highest of its marks.
        voxel: its centre as a continuous voxel index (x, y, z), the mean over its marks weighted by their scores.
        world: the same place in mm.
        diameter: mm, the mean side of the best mark's box.
        marks: by slice, the best of each.
    """

    score: float
    voxel: Triple
    world: Triple
    diameter: float
    marks: tuple[Mark, ...]

    @property
    def best(self) -> Mark:
        """The mark of the highest score."""
        return max(self.marks, key=lambda mark: mark.score)

    def as_json(self) -> dict[str, Any]:
        """Plain values, coordinates rounded to a hundredth."""
        return {
            "score": round(self.score, 4),
            "voxel_xyz": [round(value, 2) for value in self.voxel],
            "world_mm_xyz": [round(value, 2) for value in self.world],
            "diameter_mm": round(self.diameter, 2),
            "slices": [
                {"z": m.z, "xyxy": [round(value, 2) for value in m.xyxy], "score": round(m.score, 4)}
                for m in self.marks
            ],
        }


@dataclass(frozen=True, eq=False)
class Candidates(AnswerValue):
    """What a detector says of a whole scan.

    Args:
        found: the highest score first, those below the threshold too.
        threshold: the least score that is answered.
        scan: where they were found.
    """

    found: tuple[Candidate, ...]
    threshold: float
    scan: Scan

    def as_json(self) -> dict[str, Any]:
        """`candidates`, each with whether it is answered, `threshold`, how many `slices`, `familiar`, and `notes`."""
        notes = {"notes": list(self.scan.volume.notes)} if self.scan.volume.notes else {}
        return {
            "candidates": [c.as_json() | {"answered": c.score >= self.threshold} for c in self.found],
            "threshold": self.threshold,
            "slices": len(self.scan.searched),
            "familiar": self.familiar,
            **notes,
        }

    def cells(self) -> dict[str, str | float]:
        """How many are answered, these as JSON, and `familiar`."""
        sure = [c.as_json() for c in self.found if c.score >= self.threshold]
        return {"count": len(sure), "candidates": json.dumps(sure), **self.familiar_cell}

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """The candidates that are answered, each where its best mark lies, with its score and diameter.

        Of a scan that is not stored in axial slices, each has its place in the world instead.
        """
        is_axial = self.scan.orientation.is_axial
        sure = [candidate for candidate in self.found if candidate.score >= self.threshold]
        return Findings(tuple(_finding(candidate, labels[0], is_axial) for candidate in sure), self.threshold)

    def picture(self) -> Image.Image:
        """The best of them, each in its slice."""
        return montage(self.scan, self.found, threshold=self.threshold)


def _finding(candidate: Candidate, label: str, is_axial: bool) -> Finding:
    measures = (Measure("Score", candidate.score), Measure("Diameter", candidate.diameter, MILLIMETRES))
    if is_axial:
        return Finding(label, measures, candidate.best.xyxy, candidate.best.z)
    return Finding(label, measures, world=candidate.world)


@dataclass(frozen=True, eq=False)
class _Marks:
    """All boxes of a scan in the order of the patient's axes, best first: slices (n,), boxes (n, 4), scores (n,)."""

    z: NDArray[np.intp]
    xyxy: Floats
    score: Floats


def find_candidates(
    scan: Scan, detect: Detect, *, neighbours: bool = True, count: int | None = None
) -> list[Candidate]:
    """Run a detector over the slices of a scan, and join what it marks in neighbouring slices.

    The best mark starts a candidate; from its slice outwards, marks that overlap its box join it, until for `REACH`
    (and a slice at least) none does, and no further than its box is wide: a vessel may go on where a mass ends. Then
    the best of the marks left starts the next.

    Args:
        scan: made ready by `prepare`.
        detect: the detector.
        neighbours: as for `three_slices`.
        count: the best are found first, and no more than these; None: all.

    Returns:
        The candidates, the highest score first.
    """
    marks = _collect((piece, *detect(piece.pixels)) for piece in scan.slices(neighbours=neighbours))
    across, _, between = scan.grid.spacing
    depth = max(1, int(REACH // between))
    widths = ((marks.xyxy[:, 2] - marks.xyxy[:, 0]) * across + REACH) / between  # of the boxes, in slices
    free = np.ones(len(marks.z), bool)
    found: list[Candidate] = []
    for seed in range(len(marks.z)):
        if len(found) == count:
            break
        if free[seed]:
            close = np.abs(marks.z - marks.z[seed]) <= max(1, widths[seed])
            joined = _joined(marks, seed, free & close, depth)
            free[joined] = False
            found.append(_candidate(scan, marks, joined))
    return found


def _collect(pieces: Iterator[tuple[Slice, NDArray[Any], NDArray[Any]]]) -> _Marks:
    z, boxes, scores = [np.empty(0, np.intp)], [np.empty((0, 4))], [np.empty(0)]
    for piece, xyxy, score in pieces:
        z.append(np.full(len(score), piece.level))
        boxes.append(piece.ordered(np.reshape(xyxy, (-1, 2, 2))).reshape(-1, 4))
        scores.append(np.asarray(score, np.float64))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Marks(np.concatenate(z)[order], np.concatenate(boxes)[order], np.concatenate(scores)[order])


def _joined(marks: _Marks, seed: int, free: NDArray[np.bool_], depth: int) -> NDArray[np.intp]:
    """Indices of the marks that go with a seed, the best first: the run of slices about it with less than a gap."""
    alike = np.flatnonzero(free & (_overlap(marks.xyxy, marks.xyxy[seed]) >= OVERLAP))
    slices = np.unique(marks.z[alike])
    run = np.cumsum(np.diff(slices, prepend=slices[0]) > depth)
    same = run == run[slices == marks.z[seed]]
    return alike[np.isin(marks.z[alike], slices[same])]


def _overlap(boxes: Floats, box: Floats) -> Floats:
    """Share of the smaller of two boxes that both cover: (n, 4) and (4,) -> (n,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    smaller = np.minimum(areas, np.prod(box[2:] - box[:2]))
    share: Floats = np.prod(np.maximum(sides, 0), axis=1) / np.maximum(smaller, 1e-9)
    return share


def _candidate(scan: Scan, marks: _Marks, joined: NDArray[np.intp]) -> Candidate:
    slices, first = np.unique(marks.z[joined], return_index=True)
    kept = joined[first]  # of each slice the best, since they stand in the order of their scores
    boxes, scores = marks.xyxy[kept], marks.score[kept]
    centres = np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5, slices])
    voxel = np.average(centres, axis=0, weights=np.maximum(scores, 1e-9))
    grid, orientation = scan.grid, scan.orientation
    stored = zip(slices.tolist(), orientation.stored_boxes(boxes).tolist(), scores.tolist(), strict=True)
    best = marks.xyxy[joined[0]]
    return Candidate(
        score=float(scores.max()),
        voxel=_triple(orientation.stored(voxel)),
        world=_triple(grid.world(voxel)),
        diameter=float(((best[2:] - best[:2]) * grid.spacing[:2]).mean()),
        marks=tuple(Mark(orientation.level(z), (x1, y1, x2, y2), score) for z, (x1, y1, x2, y2), score in stored),
    )


def _triple(values: Floats) -> Triple:
    x, y, z = values.tolist()
    return x, y, z


def montage(
    scan: Scan, candidates: Sequence[Candidate], *, count: int = 12, threshold: float | None = None
) -> Image.Image:
    """A picture of the best candidates: each in the slice of its best mark, with its box, score and slice.

    Args:
        scan: where they were found.
        candidates: the highest score first.
        count: how many are shown at most.
        threshold: the score from which on a candidate is answered; the others' boxes are grey.
    """
    tiles = [_tile(scan, candidate, threshold) for candidate in candidates[:count]]
    columns = max(1, min(4, len(tiles)))
    side = FIELD * ZOOM + 2  # and a gap
    rows = -(-len(tiles) // columns)
    reach = "" if threshold is None else f", in colour those from {threshold:.3f} on"
    text = f"Candidates: {len(candidates)}, shown: {len(tiles)}{reach}. {NOTICE}"
    width = max(columns * side, 6 + round(ImageFont.load_default().getlength(text)))
    picture = Image.new("RGB", (width, rows * (side + CAPTION) + CAPTION))
    for index, tile in enumerate(tiles):
        picture.paste(tile, (index % columns * side, index // columns * (side + CAPTION)))
    ImageDraw.Draw(picture).text((3, picture.height - CAPTION + 2), text, fill="white")
    return picture


def _tile(scan: Scan, candidate: Candidate, threshold: float | None) -> Image.Image:
    """`FIELD` mm about a candidate in its best slice, box and caption drawn."""
    mark, side = candidate.best, FIELD * ZOOM
    ordered = scan.orientation.ordered_boxes([mark.xyxy])
    box = ordered.reshape(2, 2) * scan.grid.spacing[:2]  # mm are pixels of the scan
    left, top = (box.mean(axis=0) - FIELD / 2).round().astype(int).tolist()
    field = Image.fromarray(scan.grey[scan.orientation.level(mark.z)]).crop((left, top, left + FIELD, top + FIELD))
    tile = Image.new("RGB", (side, side + CAPTION))
    tile.paste(field.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))
    draw = ImageDraw.Draw(tile)
    corners = ((box - (left, top)) * ZOOM + [[-2], [2]]).ravel().tolist()  # around it, not over it
    draw.rectangle(corners, outline=MARKED if candidate.score >= (threshold or 0) else FAINT)
    draw.text((3, side + 2), f"{candidate.score:.3f}  slice {mark.z}  {candidate.diameter:.0f} mm", fill="white")
    return tile
