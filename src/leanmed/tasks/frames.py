"""Places of one image in two frames: as a graph saw it, and as it is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leanmed.tasks.kind import Points

Ints = NDArray[np.intp]


def places_of(shape: tuple[int, ...], points: Points) -> tuple[Ints, Ints]:
    """Where in an image each pixel of another frame lies, the nearest one: rows (h', w') and columns (h', w').

    Args:
        shape: (h, w) of the image; what comes after is passed over.
        points: points (n, 2), x and y, in its pixels -> in the other frame, whose axes are those of this one swapped,
            reversed or scaled.
    """
    height, width = shape[:2]
    corners = points(np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64))
    low, high = corners.min(axis=0), corners.max(axis=0)
    columns, rows = (max(1, round(side)) for side in (high - low))
    along = np.stack([corners[1] - corners[0], corners[2] - corners[0]], axis=1) / (width, height)
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    inside = (np.stack([x, y], axis=-1) + low - corners[0]) @ np.linalg.inv(along).T
    column, row = (np.clip(np.floor(inside[..., i]).astype(int), 0, n - 1) for i, n in ((0, width), (1, height)))
    return row, column
