"""Answers drawn over images: what the kinds of task share. numpy and Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

NOTICE = "Research use only, not a medical device"
MARKED, FAINT = (255, 200, 0), (150, 150, 150)  # what is answered, and what lies below the threshold
OUTLINES = ((255, 200, 0), (0, 200, 255), (255, 80, 160), (120, 255, 80))  # of a mask's values, in turn
WIDENED = 800  # pixels of a picture's side for each pixel by which an outline is widened
GREY = (128, 128, 128, 255)
SMALLEST = 11  # pixels, height of letters
LETTERS = 40  # that an image is wide, as a rule


def as_picture(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels (h, w, c) as a picture: of intensities the middle channel, from its least to its greatest, in grey."""
    if pixels.dtype == np.uint8:
        return pixels
    middle = pixels[..., pixels.shape[2] // 2 : pixels.shape[2] // 2 + 1].astype(np.float64)
    low, high = float(middle.min()), float(middle.max())
    return np.repeat(((middle - low) * (255 / max(high - low, 1e-9))).astype(np.uint8), 3, axis=2)


def on_grey(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture (h, w, 3 or 4) on neutral grey, which shows where alpha leaves something out."""
    picture = Image.fromarray(pixels).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, GREY), picture).convert("RGB")


def outlined(
    picture: Image.Image, mask: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]] = OUTLINES
) -> Image.Image:
    """The picture with the outline of what each value of a mask (h, w) marks, in a colour for each.

    An outline lies on the pixels inside that touch other values, and is widened on large pictures.
    """
    shown = np.array(picture)
    around = np.pad(mask, 1)  # what lies beyond the picture is marked by nothing
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    edge = np.any([mask != other for other in neighbours], axis=0)
    for _ in range(max(mask.shape) // WIDENED):
        edge = edge | np.roll(edge, 1, 0) | np.roll(edge, 1, 1)
    for value in np.unique(mask[mask > 0]):
        shown[edge & (mask == value)] = colours[(int(value) - 1) % len(colours)]
    return Image.fromarray(shown)


def font_for(width: int) -> Any:
    """Letters that fit an image of a width in pixels."""
    return ImageFont.load_default(max(SMALLEST, width // LETTERS))


def with_caption(picture: Image.Image, *lines: str) -> NDArray[np.uint8]:
    """The picture with lines of text below it, and the notice: (h', w', 3).

    Lines that are wider than the picture widen it, so that no word is cut off.
    """
    font = font_for(picture.width)
    text = [*lines, NOTICE]
    height = round(1.4 * font.size)
    width = max(picture.width, *(round(font.getlength(line)) + 8 for line in text))
    shown = Image.new("RGB", (width, picture.height + height * len(text) + 4))
    shown.paste(picture, (0, 0))
    pen = ImageDraw.Draw(shown)
    for number, line in enumerate(text):
        pen.text((4, picture.height + 2 + number * height), line, fill="white", font=font)
    return np.asarray(shown)
