"""A mask of what is pointed at. numpy and Pillow alone.

Three graphs share the work: `model` embeds an image, once for all prompts; `decoder` takes the embedding with points
or a box to a mask; `localiser` gives the point where nobody points. Points are x, y in pixels of the image
from its top left corner, as `Prompts` has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import ArtifactError, DataError
from leanmed.manifest import Manifest
from leanmed.prompts import BOTTOM_RIGHT, INSIDE, TOP_LEFT, Prompts
from leanmed.tasks.segmentation import answer as masks
from leanmed.tasks.segmentation.answer import MaskedImage
from leanmed.tasks.segmentation.answer import labels_of as labels_of

GRAPHS = {
    "model": ("embedding", "image"),
    "decoder": ("mask", "confidence", "score"),
    "localiser": ("point",),
}
INPUTS = {"decoder": ("embedding", "points", "labels", "canvas"), "localiser": ("image",)}
CROSS = 5  # half the length of its arms in pixels


@dataclass(frozen=True)
class PromptedMask(MaskedImage):
    """A mask, and what was pointed at.

    Args:
        points: x, y of each.
        marks: what each point says: 1 inside the object, 0 outside it, 2 and 3 the corners of a box.
        score: the IoU in [0, 1] that the network expects its mask to have; None: not known.

    Raises:
        DataError: as of `MaskedImage`, or points that are no numbers, without labels, or with others.
    """

    points: tuple[tuple[float, float], ...] = ()
    marks: tuple[int, ...] = ()
    score: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = [number for point in self.points for number in point]
        if len(self.points) != len(self.marks) or not set(self.marks) <= {0, 1, 2, 3}:
            raise DataError(
                f"expected a label of 0 to 3 for each of {len(self.points)} points, got {list(self.marks)}; the line "
                "is unsound"
            )
        if not all(map(math.isfinite, numbers)) or not 0 <= (0.0 if self.score is None else self.score) <= 1:
            raise DataError(
                f"expected points of finite numbers and a score from 0 to 1, got {self.points} and {self.score}; the "
                "model or the line is unsound"
            )

    @classmethod
    def about(
        cls, mask: MaskedImage, points: Sequence[Sequence[float]], marks: Sequence[int], score: float | None
    ) -> PromptedMask:
        """A mask with what was pointed at."""
        placed = tuple((float(x), float(y)) for x, y in points)
        return cls(
            mask.labels,
            mask.packed,
            mask.packed_confidence,
            mask.threshold,
            mask.pieces,
            placed,
            tuple(map(int, marks)),
            score,
            familiar=mask.familiar,
        )

    def as_json(self) -> dict[str, Any]:
        """As of `MaskedImage`, with `pointed` (x, y, label) and `score`."""
        pointed = [[x, y, mark] for (x, y), mark in zip(self.points, self.marks, strict=True)]
        return {**super().as_json(), "pointed": pointed, "score": self.score}

    def cells(self) -> dict[str, str | float]:
        """As of `MaskedImage`, with the score."""
        return {**super().cells(), "score": "" if self.score is None else round(self.score, 4)}

    def draw(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As of `MaskedImage`, with a cross at each point."""
        shown = np.array(pixels[..., :3])
        for x, y in self.points:
            column, row = (
                int(min(max(place, 0), size - 1)) for place, size in zip((x, y), shown.shape[1::-1], strict=True)
            )
            shown[max(row - CROSS, 0) : row + CROSS + 1, column] = (255, 255, 0)
            shown[row, max(column - CROSS, 0) : column + CROSS + 1] = (255, 255, 0)
        return super().draw(shown)

    def placed(self, points: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> PromptedMask:
        """The same answer in another frame."""
        moved = points(np.array(self.points, np.float64).reshape(-1, 2))
        return PromptedMask.about(super().placed(points), moved.tolist(), self.marks, self.score)


def check(labels: tuple[str, ...], threshold: float | None) -> None:
    """One label and a threshold."""
    if len(labels) != 1 or threshold is None:
        raise ValueError(f"expected one label and a threshold, got {', '.join(labels)} and {threshold}")


def fits(shapes: Mapping[str, Sequence[Any]], labels: tuple[str, ...]) -> bool:
    """An embedding (1, c, g, g) and an image (1, 3, s, s)."""
    return [(name, len(shape)) for name, shape in shapes.items()] == [("embedding", 4), ("image", 4)]


def finish(
    outputs: Sequence[NDArray[Any]],
    size: tuple[int, int],
    prompts: Prompts | None,
    run: Callable[[str, Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]],
) -> list[NDArray[Any]]:
    """Embedding and image, with prompts or the localiser's point, to mask, confidence, score, points and labels."""
    embedding, image = outputs
    if prompts is None:
        (point,) = run("localiser", {"image": image})
        points, labels = point[None] * max(size), [INSIDE]
    else:
        corners = [] if prompts.box is None else [prompts.box[:2], prompts.box[2:]]
        points = np.array([*prompts.points, *corners]).reshape(-1, 2)
        labels = [*prompts.labels, *([TOP_LEFT, BOTTOM_RIGHT] if corners else [])]
    feeds = {
        "embedding": embedding,
        "points": np.asarray(points, np.float32),
        "labels": np.array(labels, np.int64),
        "canvas": np.zeros(size, np.uint8),
    }
    return [*run("decoder", feeds), feeds["points"], feeds["labels"]]


def decide(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> PromptedMask:
    """What `finish` gives as a mask, which the threshold decides anew."""
    mask, confidence, score, points, labels = outputs
    value = float(score.reshape(-1)[0])
    return PromptedMask.about(masks.decide([mask, confidence], manifest), points.tolist(), labels.tolist(), value)


def recalibrated(answer: PromptedMask, temperature: float, threshold: float | None) -> PromptedMask:
    """As of masks."""
    mask = masks.recalibrated(answer, temperature, threshold)
    return PromptedMask.about(mask, answer.points, answer.marks, answer.score)


def is_answer(line: Mapping[str, Any]) -> bool:
    """Whether a line holds a mask with prompts."""
    return "mask" in line and "pointed" in line


def answer_of(line: Mapping[str, Any]) -> PromptedMask:
    """Read a line with `mask` as of masks, `pointed`, a list of x, y and label, and `score`."""
    mask = masks.answer_of(line)
    try:
        prompts, score = [(float(x), float(y), int(mark)) for x, y, mark in line["pointed"]], line.get("score")
        return PromptedMask.about(
            mask,
            [prompt[:2] for prompt in prompts],
            [prompt[2] for prompt in prompts],
            None if score is None else float(score),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"expected `pointed`, a list of x, y and label, and a `score`, got {type(error).__name__}: {error}; "
            "correct the line"
        ) from error


def answer_of_row(row: Mapping[str, str], labels: tuple[str, ...], threshold: float | None) -> PromptedMask:
    """Runs of format 1 had no masks."""
    raise DataError("expected a run of format 2 or newer for masks, got an older one; train again")


def apart(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """As of masks, for the same prompts."""
    return masks.apart(one[:2], other[:2])


def search(scan: Any, run: Any, manifest: Manifest, count: int | None) -> Any:
    """There are no prompts for whole volumes."""
    raise ArtifactError(
        "expected an artifact that searches whole volumes, got one that marks what is pointed at in single images; "
        "take another artifact, or give a slice"
    )
