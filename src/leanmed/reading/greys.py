"""Images whose values fill little of the bits that hold them, and so look nearly black.

What is black and what is white is a matter of the bits: 0 and 65535 in 16-bit PNG and TIFF, the bits stored in DICOM
without a window. It is the same in every image, so that one grey means one value; stretching each image to its own
range would throw that away. Cameras of 10, 12 or 14 bits that write files of 16 leave most of the range empty. Nothing
in such a file says so reliably: PNG's sBIT speaks of values that are scaled already, and TIFF's MaxSampleValue must not
change what is shown. So the user is told, and scales a data set once and as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanmed.errors import InputError
from leanmed.reading.raster import (
    DEFAULT_LIMITS,
    Limits,
    checked_bytes,
    is_sixteen_bit,
    open_raster,
    sixteen_bit_values,
)
from leanmed.reading.source import HEAD, border, is_dicom, name_of

NARROW = 4  # a range this many times as wide as the values leaves at most 64 of 256 greys


@dataclass(frozen=True)
class StoredRange:
    """The least and the greatest value in an image, and those that would be shown as black and white.

    Args:
        lowest: in the image.
        highest: in the image.
        black: shown as 0.
        white: shown as 255.
    """

    lowest: int
    highest: int
    black: int
    white: int

    @property
    def is_narrow(self) -> bool:
        """Whether the values, and the 0 from which they are counted, fill no more than a quarter of the range."""
        return (max(self.highest, 0) - min(self.lowest, 0)) * NARROW <= self.white - self.black


def stored_range(source: Path | bytes, limits: Limits = DEFAULT_LIMITS) -> StoredRange | None:
    """The range of the values in an image of more than 8 bits: 16-bit PNG or TIFF, or grey DICOM without a window.

    Args:
        source: a file, or the bytes of one; a scan is none.
        limits: caps on bytes and pixels.

    Returns:
        The range; None for all other files, of which no more than the start is read.

    Raises:
        InputError: an image that cannot be read.
    """
    with border(name_of(source)):
        if not _may_be_wide(source):
            return None
        data = checked_bytes(source, limits)
        if is_dicom(data, source.name if isinstance(source, Path) else ""):
            from leanmed.reading.dicom import open_dicom, stored_range

            found = stored_range(open_dicom(data, limits), limits)
            return found and StoredRange(*found)
        with open_raster(data, limits) as image:
            if not is_sixteen_bit(image):
                return None
            values = sixteen_bit_values(image)
        return StoredRange(int(values.min()), int(values.max()), 0, 0xFFFF)


def range_remarks(images: Iterable[Path], limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """One sentence for each range that some of the images fill by no more than a quarter; none if none does.

    Args:
        images: files; those that cannot be read and scans are passed over, since others tell of them.
        limits: caps on bytes and pixels.
    """
    total, narrow = 0, defaultdict[tuple[int, int], list[StoredRange]](list)
    for path in images:
        total += 1
        try:
            found = stored_range(path, limits)
        except InputError:
            continue
        if found and found.is_narrow:
            narrow[found.black, found.white].append(found)
    return [_remark(alike, total) for alike in narrow.values()]


def _remark(alike: Sequence[StoredRange], total: int) -> str:
    lowest, highest = min(found.lowest for found in alike), max(found.highest for found in alike)
    return (
        f"{len(alike)} of {total} images hold values from {lowest} to {highest} in bits for {alike[0].black} to "
        f"{alike[0].white}, and look nearly black or all one grey: scale the whole data set once, every image by the "
        "same factor, as docs/formats.md says"
    )


def _may_be_wide(source: Path | bytes) -> bool:
    """Whether the start of a file leaves open that it holds more than 8 bits: most images need not be decoded."""
    if isinstance(source, bytes):
        head = source[:HEAD]
    elif source.is_file():
        with source.open("rb") as file:
            head = file.read(HEAD)
    else:
        return False
    png = head.startswith(b"\x89PNG") and head[24:25] == b"\x10"
    return png or head.startswith((b"II*\0", b"MM\0*")) or is_dicom(head)
