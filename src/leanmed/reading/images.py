"""Untrusted files to pixels: the only door through which an image enters at prediction.

JPEG, PNG, TIFF, BMP, WebP, HEIC (`raster.py`) and DICOM (`dicom.py`) are read, and nothing else: a further parser is a
further way in. Whatever is wrong with a file, it ends as one of three errors, never as a crash, a hang or
half a picture.

Every function may be called from several threads at once.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from leanmed.errors import InputError, UnsupportedInput
from leanmed.reading.folders import SUFFIXES, list_behind, list_folder
from leanmed.reading.raster import (
    DEFAULT_LIMITS,
    Limits,
    check_size,
    checked_bytes,
    open_raster,
    scaled_to_eight_bits,
    to_rgba,
    upright_size,
)
from leanmed.reading.source import border, is_dicom, name_of
from leanmed.reading.volume import SUFFIXES as SCANS
from leanmed.reading.volume import is_series, scan_advice
from leanmed.remote import AnyPlace, Place, place_of

__all__ = [
    "DEFAULT_LIMITS",
    "OVERSAMPLE",
    "SUFFIXES",
    "Inputs",
    "Limits",
    "as_pixels",
    "find_inputs",
    "find_places",
    "image_size",
    "read_image",
    "read_reduced",
]

# A reduced decode keeps both sides at least this many times the network's. On 12-megapixel JPEGs, against
# full decode and one antialiased resize to 224 (160) pixels, grey levels differ by 0.20 (0.36) on average at
# 2, 0.18 (0.16) at 3.
OVERSAMPLE = 3


def read_image(source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS, side: int | None = None) -> NDArray[np.uint8]:
    """Read one image file.

    Args:
        source: a file, or the bytes of one. DICOM is known by its content or a suffix such as .dcm (see `is_dicom`).
        limits: caps on bytes and pixels.
        side: the network's input side in pixels. When given, an opaque image may come back at 1/2, 1/3... of
            its scale, as long as both sides stay at least `OVERSAMPLE` x side; a large JPEG then decodes
            faster.

    Returns:
        (h, w, 4) uint8 RGBA, upright; alpha is 255 where the file has none.

    Raises:
        UnreadableInput: missing, not a regular file, empty, truncated, damaged, or no image.
        InputTooLarge: over a cap.
        UnsupportedInput: an image of a kind that has no single right reading here.
    """
    return read_reduced(source, limits=limits, side=side)[0]


def read_reduced(
    source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS, side: int | None = None
) -> tuple[NDArray[np.uint8], int]:
    """As `read_image`, and how many pixels of the whole image a pixel's side is long: 1 where nothing was reduced."""
    with border(name_of(source)):
        _refuse_scan(source)
        data = checked_bytes(source, limits)
        if _is_dicom(source, data):
            from leanmed.reading.dicom import read_dicom  # few need pydicom, which is slow to import

            pixels, decoded = _from_array(read_dicom(data, limits), limits), 1
        else:
            pixels, decoded = _decode(data, limits, side)
        if side is None:
            return pixels, decoded
        reduced = _reduce(pixels, side)
        return reduced, decoded * (len(pixels) // len(reduced))


def image_size(source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height of what `read_image` makes of an image file, from its header.

    Raises: as `read_image`.
    """
    with border(name_of(source)):
        _refuse_scan(source)
        data = checked_bytes(source, limits)
        if _is_dicom(source, data):
            from leanmed.reading.dicom import open_dicom

            dataset = open_dicom(data, limits)
            return int(dataset.Columns), int(dataset.Rows)
        with open_raster(data, limits) as header:
            return upright_size(header)


def _is_dicom(source: Path | bytes, data: bytes) -> bool:
    return is_dicom(data, source.name if isinstance(source, Path) else "")


def _refuse_scan(source: Path | bytes) -> None:
    if isinstance(source, Path) and (advice := scan_advice(source)):
        raise UnsupportedInput(f"expected an image, got a whole scan by its name; {advice}")


def as_pixels(image: NDArray[Any] | Image.Image, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Bring an image that is already in memory to the form that `read_image` gives.

    Args:
        image: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8, uint16 (scaled by 1/257) or bool (0 or
            255); or a Pillow image, whose EXIF orientation is applied.
        limits: caps on pixels.

    Returns:
        (h, w, 4) uint8 RGBA; the very array given if it is one already.

    Raises:
        UnreadableInput: a Pillow image that fails to load.
        InputTooLarge: over `max_pixels`.
        UnsupportedInput: another shape, type or mode.
    """
    with border("image in memory"):
        if isinstance(image, np.ndarray):
            return _from_array(image, limits)
        if isinstance(image, Image.Image):
            check_size(*image.size, limits)
            return to_rgba(image)
        raise UnsupportedInput(f"expected a numpy array or a Pillow image, got {type(image).__name__}; convert it")


class Inputs(list[AnyPlace]):
    """The files that a command line names, and `notes`: what was passed over in its folders, and why."""

    def __init__(self, files: Iterable[AnyPlace], notes: Iterable[str] = ()) -> None:
        super().__init__(files)
        self.notes = tuple(notes)


def find_inputs(patterns: Sequence[str], *, scans: bool = False) -> Inputs[Path]:
    """Expand what a command line names to files: each once, in a stable order.

    Args:
        patterns: files; folders, searched in depth for images as `list_folder` knows them; and globs, with `**`. A
            plain path that does not exist is passed on, so that a batch can list it as failed and go on.
        scans: in folders, seek scans of CT too: `.mhd`, NIfTI, and each folder that itself holds a series in DICOM,
            which then stands for its DICOM files.

    Raises:
        InputError: a folder or glob that holds no file, or a folder that cannot be listed.
    """
    return Inputs(*_gathered(patterns, scans, _expand))


def find_places(patterns: Sequence[str], *, scans: bool = False) -> Inputs[Place]:
    """As `find_inputs`, where a pattern may also be the URL of a file, or of a folder: see `list_behind`.

    Raises:
        InputError: as `find_inputs`.
        RunError: a URL that cannot be reached.
    """
    return Inputs(*_gathered(patterns, scans, _expand_place))


def _gathered(
    patterns: Sequence[str], scans: bool, expand: Callable[[str, bool], Inputs[AnyPlace]]
) -> tuple[Iterable[AnyPlace], Iterable[str]]:
    """The files of all patterns, each once, and the notes on them."""
    found: dict[AnyPlace, None] = {}
    notes: dict[str, None] = {}
    for pattern in patterns:
        inputs = expand(pattern, scans)
        if not inputs:
            raise InputError(
                f"{pattern!r}: expected at least one image, found none; give a glob that matches files, or a "
                f"folder with files ending in {', '.join([*sorted(SUFFIXES), *(SCANS if scans else ())])}"
                f"{''.join(f'. {note}' for note in inputs.notes)}"
            )
        found.update(dict.fromkeys(inputs))
        notes.update(dict.fromkeys(inputs.notes))
    return found, notes


def _decode(data: bytes, limits: Limits, side: int | None) -> tuple[NDArray[np.uint8], int]:
    with open_raster(data, limits) as image:
        whole = max(image.size)
        if side is not None and isinstance(image, JpegImageFile):
            factor = _factor(*image.size, side, (2, 4, 8))
            image.draft(None, (image.width // factor, image.height // factor))
        pixels = to_rgba(image)
        return pixels, whole // max(pixels.shape[:2])


def _factor(width: int, height: int, side: int, factors: Iterable[int]) -> int:
    """The largest factor that leaves OVERSAMPLE x side, and no remainder, which would shift the image."""
    room = min(width, height) // (OVERSAMPLE * side)
    return max((f for f in factors if f <= room and width % f == 0 == height % f), default=1)


def _reduce(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = _factor(width, height, side, range(2, 65))
    # A mask in alpha is not averaged: what its edge means is for the model's own graph to say.
    if factor == 1 or not (pixels[..., 3] == 255).all():
        return pixels
    return np.array(Image.fromarray(pixels).convert("RGB").reduce(factor).convert("RGBA"))


def _from_array(image: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    array = image[..., np.newaxis] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UnsupportedInput(
            f"expected height x width x 1, 3 or 4, got an array of shape {image.shape}; give one image, channels last"
        )
    height, width, channels = array.shape
    check_size(width, height, limits)
    values = _as_uint8(array)
    if channels == 4:
        return np.ascontiguousarray(values)
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[..., :3] = values
    return pixels


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return scaled_to_eight_bits(array)
    holes = " with NaN in it" if array.dtype.kind == "f" and np.isnan(array).any() else ""
    raise UnsupportedInput(
        f"expected uint8, uint16 or bool, got {array.dtype}{holes}, whose range is not known; "
        "scale so that white is 255, round, and convert with .astype(numpy.uint8)"
    )


def _expand(pattern: str, scans: bool) -> Inputs[Path]:
    path = Path(pattern)
    if path.is_dir():
        listing = list_folder(path, scans=scans)
        return Inputs(listing.images, listing.notes())
    if glob.has_magic(pattern) and not path.exists():
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        folders = [path for path in map(Path, matches) if path.is_dir() and not (scans and is_series(path))]
        note = f"{len(folders)} folder(s) that {pattern} matches were passed over: name a folder itself to search it."
        unsearched = [note] * bool(folders and "**" not in pattern)
        return Inputs(sorted(set(map(Path, matches)) - set(folders)), unsearched)
    return Inputs([path])


def _expand_place(pattern: str, scans: bool) -> Inputs[Place]:
    place = place_of(pattern)
    if isinstance(place, Path):
        found = _expand(pattern, scans)
        return Inputs(found, found.notes)
    listing = list_behind(place, scans=scans)
    if place in (*listing.images, *listing.others, *listing.hidden):  # it is a file
        return Inputs([place])
    if not listing.images:
        raise InputError(
            f"{pattern!r}: expected a URL of an image or of a folder of images, which is no pattern, found none"
            f"{''.join(f'. {note}' for note in listing.notes())}"
        )
    return Inputs(listing.images, listing.notes())
