"""Small pictures of images for the report, with boxes where there are any."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leanmed.records import Box
from leanmed.report.pages import NOTICE, number
from leanmed.report.plots import PALETTE, short

SIDE = 240  # pixels, long side
TILE, COLUMNS = 160, 8  # of a montage: pixels of a picture's side, pictures in a row
LINE, GAP = 20, 4  # of a montage: pixels of a line of words, pixels between pictures
WORDS = 100  # letters of its title
AROUND = 4  # a picture shows so many times a box's size around it
LEAST = 80  # pixels of the image, at least
GREY = (128, 128, 128, 255)
TRUE, PREDICTED = PALETTE[0], PALETTE[4]


def thumbnail(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """The picture (h, w, 3 or 4) on neutral grey as a JPEG in base64, its longer side at most so many pixels."""
    shown = _on_grey(pixels)
    shown.thumbnail((side, side))
    return _jpeg(shown)


def montage(title: str, pictures: Sequence[str | None], probabilities: Sequence[float]) -> Image.Image:
    """Pictures in rows below a title, with a probability below each, and the notice.

    Args:
        title: a line of words.
        pictures: at least one, as `thumbnail` gives them with a side of `TILE`; None leaves a grey square.
        probabilities: one for each.
    """
    font = ImageFont.load_default(LINE - 6)
    columns, wide, high = min(COLUMNS, len(pictures)), TILE + GAP, TILE + LINE + GAP
    title = short(title, WORDS)
    words = max(round(font.getlength(line)) for line in (title, NOTICE)) + 2 * GAP
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (max(columns * wide - GAP, words), rows * high + 2 * LINE), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 1), title, fill="black", font=font)
    for k, (picture, probability) in enumerate(zip(pictures, probabilities, strict=True)):
        left, top = k % columns * wide, k // columns * high + LINE
        sheet.paste(GREY[:3], (left, top, left + TILE, top + TILE))
        if picture is not None:
            shown = Image.open(io.BytesIO(base64.b64decode(picture)))
            sheet.paste(shown, (left + (TILE - shown.width) // 2, top + (TILE - shown.height) // 2))
        pen.text((left + GAP, top + TILE + 1), number(probability, 2), fill="black", font=font)
    pen.text((GAP, sheet.height - LINE + 1), NOTICE, fill="black", font=font)
    return sheet


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
