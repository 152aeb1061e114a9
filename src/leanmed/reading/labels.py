"""Label images: the values that a mask's file stores, and not what they look like.

A palette's colours say nothing of a label, so its indices are read; grey of 2 or 4 bits is not stretched. Whatever
packs with loss smears labels over their edges and is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from leanmed.errors import UnsupportedInput
from leanmed.reading.raster import (
    DEFAULT_LIMITS,
    Limits,
    checked_bytes,
    is_sixteen_bit,
    open_raster,
    stored_bits,
    upright,
    upright_size,
)
from leanmed.reading.source import border, name_of

Labels = NDArray[np.int64]

LOSSLESS = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM")  # how PNG, TIFF and BMP begin
_PLAIN = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOURS = frozenset({"LA", "RGB", "RGBA"})
_AS_PNG = "save the mask as PNG with one channel, each pixel holding the number of its label"


def read_labels(source: Path, *, limits: Limits = DEFAULT_LIMITS) -> Labels:
    """Read one label image, turned upright as `read_image` turns its image.

    Args:
        source: a PNG, TIFF or BMP file of grey or palette pixels; colours are read as grey where their channels are
            equal, and alpha where nothing is transparent.
        limits: caps on its bytes and pixels.

    Returns:
        (h, w) int64, the values that are stored, from 0.

    Raises:
        UnreadableInput: missing, damaged or truncated.
        InputTooLarge: over a cap.
        UnsupportedInput: a format that packs with loss, colours, or values below 0.
    """
    with border(name_of(source), "mask"):
        image = _open(source, limits)
        bits = stored_bits(image)
        image.load()
        values = _values(upright(image), bits)
        if values.min() < 0:
            raise UnsupportedInput(f"expected labels from 0, got {values.min()}; {_AS_PNG}")
        return values


def labels_size(source: Path, *, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height of what `read_labels` gives, from the file's header.

    Raises: as `read_labels`, of what the header tells.
    """
    with border(name_of(source), "mask"):
        return upright_size(_open(source, limits))


def _open(source: Path, limits: Limits) -> ImageFile.ImageFile:
    data = checked_bytes(source, limits)
    if data.startswith((b"\xff\xd8\xff", b"RIFF")):
        name = "WebP" if data.startswith(b"RIFF") else "JPEG"
        raise UnsupportedInput(
            f"expected a mask in a format that keeps every value, got {name}, which "
            "smears labels over their edges; go back to the mask as it was drawn and save that as PNG, since "
            "converting this file would keep what is smeared"
        )
    if not data.startswith(LOSSLESS):
        raise UnsupportedInput(
            f"expected a mask in PNG, TIFF or BMP, got a file that begins with {data[:8]!r}; {_AS_PNG}"
        )
    image = open_raster(data, limits)
    if image.mode not in _PLAIN | _COLOURS or (image.mode in _COLOURS and is_sixteen_bit(image)):
        raise UnsupportedInput(
            f"expected a mask of grey or palette pixels, got {'16 bits in ' * is_sixteen_bit(image)}Pillow's mode "
            f"{image.mode}; {_AS_PNG}"
        )
    return image


def _values(image: Image.Image, bits: int) -> Labels:
    if image.mode in _COLOURS:
        return _one_channel(image)
    values = np.asarray(image)
    if image.mode == "L" and bits in (2, 4):  # Pillow stretches these to 0..255
        values = values // np.uint8(255 // (2**bits - 1))
    return values.astype(np.int64)


def _one_channel(image: Image.Image) -> Labels:
    channels = np.moveaxis(np.asarray(image), 2, 0)
    colours = channels[:-1] if image.mode.endswith("A") else channels
    if image.mode.endswith("A") and channels[-1].min() < 255:
        raise UnsupportedInput(f"expected a mask that is opaque, got transparent pixels; {_AS_PNG}")
    if (colours != colours[0]).any():
        raise UnsupportedInput(f"expected a mask of one channel, got colours, whose meaning is not known; {_AS_PNG}")
    grey: Labels = colours[0].astype(np.int64)
    return grey
