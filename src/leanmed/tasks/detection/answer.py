"""Boxes with scores. numpy and Pillow alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import ArtifactError, DataError
from leanmed.manifest import Manifest
from leanmed.records import Box, checked_box
from leanmed.tasks.detection.boxes import iou
from leanmed.tasks.detection.candidates import Candidates, find_candidates
from leanmed.tasks.findings import Finding, Findings, Measure
from leanmed.tasks.kind import AnswerValue, Explained, familiar_of

GRAPHS = {"model": ("boxes", "scores")}
LEAST_COMPARED = 0.05  # a box's score
LEAST = 1e-12  # of a score and of what it lacks to one: keeps logarithms finite
FAR = 1e5  # pixels; no image reaches so far


@dataclass(frozen=True)
class Detections(AnswerValue):
    """What a detector says of one image.

    Args:
        boxes: those answered: (x1, y1, x2, y2) each, in pixels of the image's own frame.
        scores: one per box, in [0, 1], descending; calibrated as far as the artifact is.
        threshold: the least score that is answered.
        faint_boxes: those that the threshold leaves out, from which a curve over all thresholds is made.
        faint_scores: theirs, descending.

    Raises:
        DataError: not one score per box, scores outside [0, 1], or a box of no size.
    """

    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    threshold: float = 0.0
    faint_boxes: tuple[Box, ...] = ()
    faint_scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for boxes, scores in ((self.boxes, self.scores), (self.faint_boxes, self.faint_scores)):
            if len(boxes) != len(scores) or not all(0.0 <= s <= 1.0 for s in scores):
                raise DataError(
                    f"expected one score in [0, 1] per box, got {len(boxes)} boxes and scores {list(scores)}; "
                    "the model or the line is unsound"
                )
        for name in ("boxes", "faint_boxes"):
            object.__setattr__(self, name, tuple(checked_box(box) for box in getattr(self, name)))

    @property
    def all_boxes(self) -> tuple[Box, ...]:
        """Those answered, then the faint ones."""
        return self.boxes + self.faint_boxes

    @property
    def all_scores(self) -> tuple[float, ...]:
        """Of `all_boxes`."""
        return self.scores + self.faint_scores

    def as_json(self) -> dict[str, Any]:
        """`boxes` and `scores`, `threshold`, the same of what lies below it as `faint`, and `familiar`."""
        return {
            "boxes": [list(box) for box in self.boxes],
            "scores": list(self.scores),
            "threshold": self.threshold,
            "faint": {"boxes": [list(box) for box in self.faint_boxes], "scores": list(self.faint_scores)},
            "familiar": self.familiar,
        }

    def cells(self) -> dict[str, str | float]:
        """How many boxes are answered, the boxes with their scores as JSON, and `familiar`."""
        rows = [[*box, score] for box, score in zip(self.boxes, self.scores, strict=True)]
        return {"count": len(self.boxes), "boxes": json.dumps(rows), **self.familiar_cell}

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """The boxes that are answered, each with its score."""
        pairs = zip(self.boxes, self.scores, strict=True)
        found = tuple(Finding(labels[0], (Measure("Score", score),), box) for box, score in pairs)
        return Findings(found, self.threshold)

    def draw(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image with the boxes that are answered on it, each with its score."""
        from PIL import ImageDraw

        from leanmed.tasks.drawing import MARKED, font_for, on_grey, with_caption

        shown = on_grey(pixels)
        pen, font = ImageDraw.Draw(shown), font_for(shown.width)
        width = max(1, shown.width // 250)
        for box, score in zip(self.boxes, self.scores, strict=True):
            pen.rectangle(box, outline=MARKED, width=width)
            pen.text((box[0], box[3] + width), f"{score:.2f}", fill=MARKED, font=font)
        return with_caption(shown, f"{len(self.boxes)} found with a score of at least {self.threshold:.3f}")

    def placed(self, points: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Detections:
        """The same boxes in another frame."""

        def moved(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
            corners = points(np.array(boxes, np.float64).reshape(-1, 2)).reshape(-1, 2, 2)
            return tuple(map(checked_box, _upright(corners).tolist()))

        return replace(self, boxes=moved(self.boxes), faint_boxes=moved(self.faint_boxes))


def _upright(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Opposite corners (n, 2, 2), which a frame that runs the other way swaps, to boxes (n, 4)."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def check(labels: tuple[str, ...], threshold: float | None) -> None:
    """One label, and a threshold."""
    if len(labels) != 1:
        raise ValueError(f"expected one label, the name of what the boxes hold, got {list(labels)}")
    if threshold is None:
        raise ValueError("expected a threshold for boxes, got none")


def fits(shapes: Mapping[str, Sequence[Any]], labels: tuple[str, ...]) -> bool:
    """Boxes (n, 4) and scores (n,)."""
    return list(shapes) == ["boxes", "scores"] and [len(shape) for shape in shapes.values()] == [2, 1]


def decide(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> Detections:
    """Boxes (n, 4) with scores (n,), best first: answered are those that reach the threshold.

    What lies below it is rounded to hundredths of a pixel, and down to millionths: it makes curves, and no answers.
    """
    return decided(outputs, manifest.threshold or 0.0)


def decided(outputs: Sequence[NDArray[Any]], threshold: float) -> Detections:
    """See `decide`."""
    boxes, scores = _sound(*outputs)
    sure = scores >= scores.dtype.type(threshold)
    faint = [tuple(round(v, 2) for v in box) for box in boxes[~sure].astype(np.float64).tolist()]
    rounded = (np.floor(scores[~sure].astype(np.float64) * 1e6) / 1e6).tolist()
    kept = [i for i, (x1, y1, x2, y2) in enumerate(faint) if x1 < x2 and y1 < y2]  # some are too small to be rounded
    return Detections(
        tuple(boxes[sure].tolist()),
        tuple(scores[sure].tolist()),
        threshold,
        tuple(faint[i] for i in kept),
        tuple(rounded[i] for i in kept),
    )


def explained(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> Explained:
    """The score of the best box: of the boxes of another answer, the score of the one that is most like it.

    A box is as much like it as its score times its overlap with it (IoU) is: D-RISE, Petsiuk et al. 2021,
    arXiv:2006.03204, section 3.2, for one label. It is 0 throughout where there is no box.
    """
    boxes, scores = _sound(*outputs)
    best = boxes[scores.argmax()].astype(np.float64) if len(boxes) else np.zeros(4)  # without area, it overlaps none

    def likest(others: Sequence[NDArray[Any]]) -> float:
        found, sureness = _sound(*others)
        return float((iou(found.astype(np.float64), best[None])[:, 0] * sureness).max(initial=0.0))

    return Explained(f"Score of the best box ({manifest.labels[0]})", likest)


def log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores in [0, 1] to finite logits."""
    inner = np.clip(scores, LEAST, 1 - LEAST)
    odds: NDArray[np.float64] = np.log(inner) - np.log1p(-inner)
    return odds


def recalibrated(answer: Detections, temperature: float, threshold: float | None) -> Detections:
    """An answer made at a temperature of 1 as it is at another one, decided by a threshold."""
    boxes = np.array(answer.all_boxes, np.float64).reshape(-1, 4)
    odds = log_odds(np.array(answer.all_scores, np.float64)) / temperature
    again = decided([boxes, (1 / (1 + np.exp(-odds))).astype(np.float32)], threshold or 0.0)
    return replace(again, familiar=answer.familiar)


def _sound(boxes: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same, once it is sure that they are boxes and scores."""
    sound = np.abs(boxes).max(initial=0) < FAR and (boxes[:, :2] < boxes[:, 2:]).all()  # neither holds for NaN
    if not (sound and ((scores >= 0) & (scores <= 1)).all()):
        raise DataError(
            "expected boxes with a size near the image and scores in [0, 1], got others; the model is unsound: "
            "export it again"
        )
    return boxes, scores


def is_answer(line: Mapping[str, Any]) -> bool:
    """It has boxes with scores."""
    return "boxes" in line and "scores" in line


def answer_of(line: Mapping[str, Any]) -> Detections:
    """Read back what `Detections.as_json` gave; other people's lines need `boxes` and `scores` only.

    Without a threshold all boxes are answered.
    """
    try:
        faint = line.get("faint") or {"boxes": [], "scores": []}
        return Detections(
            boxes=tuple(map(tuple, line["boxes"])),
            scores=tuple(map(float, line["scores"])),
            threshold=float(line.get("threshold") or 0.0),
            faint_boxes=tuple(map(tuple, faint["boxes"])),
            faint_scores=tuple(map(float, faint["scores"])),
            familiar=familiar_of(line),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "expected `boxes` (x1, y1, x2, y2 each) and `scores` (a number for each box), got "
            f"{type(error).__name__}: {error}; correct the line"
        ) from error


def answer_of_row(row: Mapping[str, str], labels: tuple[str, ...], threshold: float | None) -> Detections:
    """A row with `boxes`: JSON [[x1, y1, x2, y2, score], ...], best first."""
    rows, least = json.loads(row["boxes"]), threshold or 0.0
    sure, faint = [r for r in rows if r[4] >= least], [r for r in rows if r[4] < least]
    return Detections(
        tuple((x1, y1, x2, y2) for x1, y1, x2, y2, _ in sure),
        tuple(r[4] for r in sure),
        least,
        tuple((x1, y1, x2, y2) for x1, y1, x2, y2, _ in faint),
        tuple(r[4] for r in faint),
    )


def labels_of(answers: Sequence[Detections]) -> tuple[str, ...]:
    """Boxes do not say what they hold."""
    return ("object",)


def apart(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """The largest difference between boxes (n, 4) with scores (n,) and others.

    Boxes are compared with those that lie nearest in the other answer, in place (in units of their size) and score; of
    boxes scored below `LEAST_COMPARED` nothing is asked, since there are many as faint as they, and which are kept is
    chance.
    """
    return max(_unmatched(one, other), _unmatched(other, one))


def _unmatched(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    worst = 0.0
    for box, score in zip(*one, strict=True):
        moved = np.abs(other[0] - box).max(axis=1) / max(box[2:] - box[:2])
        nearest = float(np.maximum(moved, np.abs(other[1] - score)).min(initial=1.0))
        worst = max(worst, nearest if score >= LEAST_COMPARED else 0.0)
    return worst


def search(
    scan: Any, run: Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]], manifest: Manifest, count: int | None
) -> Candidates:
    """What is marked in a scan's slices, joined in three dimensions: its candidates, best first.

    Raises:
        ArtifactError: the artifact is none for slices of CT.
        DataError: it gives boxes that are not finite, or scores outside [0, 1].
    """
    if manifest.input.kind != "slice":
        raise ArtifactError(
            f"expected an artifact for slices of CT, got one that gives boxes in a {manifest.input.kind}; take another "
            "artifact"
        )

    def detect(pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        boxes, scores = _sound(*run(pixels))
        return boxes + np.float32(0.5 if manifest.input.origin == "centre" else 0.0), scores

    found = find_candidates(scan, detect, neighbours=manifest.input.slices != 1, count=count)
    return Candidates(tuple(found), manifest.threshold or 0.0, scan)
