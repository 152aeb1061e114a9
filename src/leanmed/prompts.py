"""Prompts: places in an image by which a user says what is meant, or what is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.records import Box, Value, checked_box

Point = tuple[float, float]

# What a point says to a network: nothing (it fills up a batch), that it is beside what is meant, that it is on it, or
# that it is a corner of the box around it.
NO_POINT, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Prompts(Value):
    """Points, a box, or both, in pixels of an image, x to the right and y down from its top left corner.

    Places are in the frame in which answers are: that of the upright image, as viewers show it, or of the slice of a
    scan as it is stored.

    Args:
        points: (x, y) each; may be empty if there is a box.
        labels: 1 for a point on what is meant and 0 for one beside it, one for each point; none: all are 1.
        box: (x1, y1, x2, y2) around what is meant; None: there is none.

    Raises:
        DataError: neither a point nor a box, a number that is not finite, not one label of 0 or 1 for each point, or a
            box without area.
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None

    def __post_init__(self) -> None:
        points = tuple((float(x), float(y)) for x, y in self.points)
        labels = tuple(self.labels) or (1,) * len(points)
        if not points and self.box is None:
            raise DataError("expected at least one point or a box, got neither; give one")
        if not all(math.isfinite(value) for point in points for value in point):
            raise DataError(f"expected points x, y of finite numbers, got {list(points)}; correct them")
        if len(labels) != len(points):
            raise DataError(
                f"expected one label for each of {len(points)} points, or none if all points are on what is meant, got "
                f"{len(labels)}; give 1 for each point on it and 0 for each point beside it"
            )
        if not all(label in (0, 1) for label in labels):
            raise DataError(
                f"expected labels of 1 (a point on what is meant) or 0 (a point beside it), got {list(labels)}; "
                "correct them"
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", tuple(map(int, labels)))
        object.__setattr__(self, "box", None if self.box is None else checked_box(self.box))

    @classmethod
    def parse(cls, points: Sequence[str], labels: Sequence[str] = (), box: str | None = None) -> Prompts:
        """Read `120,88.5` as a point, `1` or `0` as a label, and `10,20,110,90` as a box.

        Raises:
            DataError: one of them is malformed, or as of `Prompts`.
        """
        places = [(x, y) for x, y in (_numbers(text, 2, "a point X,Y such as 120,88.5") for text in points)]
        wrong = [label for label in labels if label not in ("0", "1")]
        if wrong:
            raise DataError(
                f"expected a label of 1 (the point is on what is meant) or 0 (it is beside it), got {wrong[0]!r}; "
                "correct it"
            )
        corners = None if box is None else _numbers(box, 4, "a box X1,Y1,X2,Y2 such as 10,20,110,90")
        return cls(tuple(places), tuple(map(int, labels)), None if corners is None else checked_box(corners))

    def checked(self, size: tuple[int, int]) -> Prompts:
        """The same prompts, once it is sure that they lie inside an image of that height and width.

        Raises:
            DataError: a point or a corner of the box lies outside.
        """
        return self.within((0.0, 0.0, float(size[1]), float(size[0])))

    def within(self, image: Box) -> Prompts:
        """As `checked`, of an image, or a part of one, that is a box itself.

        Raises:
            DataError: a point or a corner of the box lies outside.
        """
        left, top, right, bottom = image
        outside = [(x, y) for x, y in self.points if not (left <= x < right and top <= y < bottom)]
        x1, y1, x2, y2 = self.box or image
        if x1 < left or y1 < top or x2 > right or y2 > bottom:
            outside += [(x1, y1), (x2, y2)]
        if outside:
            raise DataError(
                f"expected points and boxes inside the image, with x from {left:g} to {right:g} and y from {top:g} to "
                f"{bottom:g} pixels, got {' and '.join(f'({x:g}, {y:g})' for x, y in outside)}; correct them"
            )
        return self

    def mapped(self, points: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Prompts:
        """The same prompts in another frame, whose axes are those of this one swapped, reversed, scaled or shifted.

        Args:
            points: points (n, 2), x and y -> the same in the other frame.
        """
        moved = points(np.array(self.points, np.float64).reshape(-1, 2))
        box = None
        if self.box is not None:
            corners = points(np.array(self.box, np.float64).reshape(2, 2))
            box = checked_box((*corners.min(axis=0), *corners.max(axis=0)))
        return Prompts(tuple((float(x), float(y)) for x, y in moved), self.labels, box)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "points": [list(point) for point in self.points],
            "labels": list(self.labels),
            "box": None if self.box is None else list(self.box),
        }


def _numbers(text: str, count: int, wanted: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise DataError(f"expected {wanted}, {count} numbers with commas between them, got {text!r}; correct it")
    return numbers
