"""Small pictures of images for the report, with boxes where there are any."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leanmed.records import Box
from leanmed.report.plots import PALETTE

SIDE = 240  # pixels, long side
AROUND = 4  # a picture shows so many times a box's size around it
LEAST = 80  # pixels of the image, at least
GREY = (128, 128, 128, 255)
TRUE, PREDICTED = PALETTE[0], PALETTE[4]


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """The picture (h, w, 3 or 4) on neutral grey as a JPEG in base64."""
    shown = _on_grey(pixels)
    shown.thumbnail((SIDE, SIDE))
    return _jpeg(shown)


def close_up(pixels: NDArray[np.uint8], focus: Box, true: Iterable[Box], predicted: Iterable[Box]) -> str:
    """A square around one box, enlarged, with all boxes drawn, as a JPEG in base64.

    Args:
        pixels: (h, w, 3 or 4).
        focus: the box in the middle; xyxy in pixels, as all boxes.
        true: drawn in `TRUE`.
        predicted: drawn in `PREDICTED`.
    """
    x1, y1, x2, y2 = focus
    half = max(AROUND * max(x2 - x1, y2 - y1), LEAST) / 2
    left, top, scale = (x1 + x2) / 2 - half, (y1 + y2) / 2 - half, SIDE / (2 * half)
    window = (left, top, left + 2 * half, top + 2 * half)
    shown = _on_grey(pixels).transform((SIDE, SIDE), Image.Transform.EXTENT, window, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(shown)
    for boxes, colour in ((true, TRUE), (predicted, PREDICTED)):
        for box in boxes:
            corners = [scale * (edge - start) for edge, start in zip(box, (left, top, left, top), strict=True)]
            pen.rectangle(corners, outline=colour, width=2)
    return _jpeg(shown)


def _on_grey(pixels: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(pixels).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, GREY), picture).convert("RGB")


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
