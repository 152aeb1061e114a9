"""How much boxes overlap. numpy alone."""

from __future__ import annotations

import numpy as np

from leanmed.figures.bootstrap import Floats, divide


def iou(a: Floats, b: Floats) -> Floats:
    """Boxes (p, 4) and (t, 4), xyxy, to intersection over union (p, t)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = _area(np.concatenate([low, high], axis=2))
    return divide(shared, _area(a)[:, None] + _area(b)[None] - shared)


def _area(boxes: Floats) -> Floats:
    width, height = (boxes[..., 2:] - boxes[..., :2]).clip(0).T
    area: Floats = (width * height).T
    return area
