"""Untrusted files to pixels: the only door through which an image enters at prediction.

JPEG, PNG, TIFF and DICOM are read, and nothing else: each further parser is a further way in. Whatever is wrong with a
file, it ends as one of three errors (`leanmed.errors`), never as a crash, a hang or half a picture.

Readings that one could choose otherwise:

* EXIF orientation is applied. ICC profiles are not: models are trained on the stored values too.
* 16-bit grey becomes 8-bit as round(v / 257). Pillow itself takes the high byte of 16-bit colour, at most one level away.
* A file of several pages or frames is refused, since which of them is meant is a guess. The second picture that
  telephones hide behind a JPEG (a gain map, a depth map, a film) is not a page and is not read.
* CMYK is converted without a profile; in JPEG it is taken as inverted, as Adobe writes it and everyone reads it.

Every function may be called from several threads at once.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from leanmed.errors import InputError, InputTooLarge, UnreadableInput, UnsupportedInput

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm"})

# A reduced decode keeps both sides at least this many times the network's. Measured on 12-megapixel JPEGs against full
# decode and one antialiased resize to 224 (160) pixels: mean difference 0.20 (0.36) grey levels at 2, 0.18 (0.16) at 3.
OVERSAMPLE = 3

_READERS = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
)
_FOREIGN = ((0, b"GIF8", "GIF"), (0, b"BM", "BMP"), (8, b"WEBP", "WebP"), (4, b"ftyp", "HEIC or AVIF"))

# Pillow mode -> the mode to pass through on the way to RGBA.
_EIGHT_BIT = {m: m for m in ("1", "L", "LA", "P", "PA", "RGB", "RGBA")} | {
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112

_JPEG_SOS, _JPEG_EOI = 0xDA, 0xD9
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that no length follows
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # not a stuffed zero, a restart or a fill byte
# Photographs have ten or so. libjpeg walks the whole image once per scan, so thousands would take hours.
_JPEG_MAX_SCANS = 100

_TIFF_COMPRESSIONS = frozenset({"raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"})
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _TIFF_SAMPLE_FORMAT = (
    258,
    262,
    322,
    323,
    339,
)

_DECODER_MODULES = r"(PIL|pydicom)\."


@dataclass(frozen=True)
class Limits:
    """Caps against hostile or hopeless files.

    Args:
        max_pixels: width x height, checked on the header before anything is decoded.
        max_bytes: size of the file, checked before it is read.
        min_side: shortest side, in pixels, that can still show something.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 256 * 2**20
    min_side: int = 8


DEFAULT_LIMITS = Limits()


def read_image(
    source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS, side: int | None = None
) -> NDArray[np.uint8]:
    """Read one image file.

    Args:
        source: a file, or the bytes of one. DICOM is known by its `DICM` mark or, of a file, the suffix .dcm.
        limits: caps on bytes and pixels.
        side: the network's input side in pixels. When given, an opaque image may come back at 1/2, 1/3... of its scale,
            decoded so if it is a JPEG, as long as both sides stay at least `OVERSAMPLE` x side.

    Returns:
        (h, w, 4) uint8 RGBA, upright; alpha is 255 where the file has none.

    Raises:
        UnreadableInput: missing, not a regular file, empty, truncated, damaged, or no image.
        InputTooLarge: over a cap.
        UnsupportedInput: an image of a kind that has no single right reading here.
    """
    name = "image data" if isinstance(source, bytes) else repr(str(source))
    with _border(name):
        suffix = "" if isinstance(source, bytes) else Path(source).suffix.lower()
        pixels = _decode(_checked_bytes(source, limits), suffix, limits, side)
        return pixels if side is None else _reduced(pixels, side)


def as_pixels(image: NDArray[Any] | Image.Image, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Bring an image that is already in memory to the form that `read_image` gives.

    Args:
        image: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8, uint16 (scaled by 1/257) or bool (0 or 255); or a
            Pillow image, whose EXIF orientation is applied.
        limits: caps on pixels.

    Returns:
        (h, w, 4) uint8 RGBA; the very array given if it is one already.

    Raises:
        UnreadableInput, InputTooLarge, UnsupportedInput: as `read_image`.
    """
    with _border("image in memory"):
        if isinstance(image, Image.Image):
            check_size(*image.size, limits)
            return _from_pillow(image)
        return _from_array(image, limits)


def find_inputs(patterns: Sequence[str]) -> Iterator[Path]:
    """Expand what was named on a command line to files, each once, in a stable order.

    Args:
        patterns: files; folders, searched in depth for the suffixes in `SUFFIXES`, leaving out hidden names and links
            to folders; and globs (`**` too). A plain path that does not exist is passed on, so that a batch can list
            it as failed and go on.

    Raises:
        InputError: a folder or glob that holds no file, or a folder that cannot be listed; raised at once.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = [*_expanded(pattern)]
        if not files:
            raise InputError(
                f"{pattern!r}: expected at least one image, found none; give a folder with files ending in "
                f"{', '.join(sorted(SUFFIXES))}, or a glob that matches files"
            )
        found.update(dict.fromkeys(files))
    return iter(found)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuse a declared size outside the limits.

    Raises:
        InputTooLarge: over `max_pixels`.
        UnsupportedInput: a side under `min_side`.
    """
    if width * height > limits.max_pixels:
        raise InputTooLarge(
            f"expected at most {limits.max_pixels:,} pixels, got {width} x {height} = {width * height:,}; "
            "scale the image down, or raise max_pixels if the file is trusted"
        )
    if min(width, height) < limits.min_side:
        raise UnsupportedInput(
            f"expected both sides to be at least {limits.min_side} pixels, got {width} x {height}; "
            "use the original image"
        )


def open_raster(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Open a JPEG, PNG or TIFF, check all that its header says, and decode nothing yet.

    Pillow's readers are called directly: `Image.open` would warn by a cap of its own, which is global to the process.

    Raises:
        UnreadableInput, InputTooLarge, UnsupportedInput: as `read_image`; damaged files also raise what Pillow raises.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UnreadableInput(
            "another package has set PIL.ImageFile.LOAD_TRUNCATED_IMAGES, with which half a picture reads as a whole "
            "one; set it to False"
        )
    silence_decoders()
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is None:
        raise _unknown_format(data)
    image = reader(BytesIO(data))
    check_size(*image.size, limits)
    if getattr(image, "is_animated", False):
        raise UnsupportedInput(
            "expected one picture, got several pages or frames; save the one that is meant"
        )
    if isinstance(image, JpegImageFile):
        _check_jpeg(data)
    if isinstance(image, TiffImageFile):
        _check_tiff(image, limits)
    return image


def silence_decoders() -> None:
    """Keep Pillow and pydicom from warning of odd files that they read all the same.

    `warnings.catch_warnings` swaps the filters of the whole process and so is not safe in threads. One narrow filter is
    added instead, once, and stays; a test or a host that resets the filters gets it anew with the next file.
    """
    if not any(module == re.compile(_DECODER_MODULES) for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", category=UserWarning, module=_DECODER_MODULES)


@contextmanager
def _border(name: str) -> Iterator[None]:
    """Put the image's name before every message, and turn whatever a decoder raises into an `UnreadableInput`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except Exception as error:
        raise UnreadableInput(
            f"{name}: expected a readable image, but decoding failed ({type(error).__name__}: {error}); "
            "the file is damaged or no image: copy or export it again"
        ) from error


def _checked_bytes(source: Path | bytes, limits: Limits) -> bytes:
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = Path(source).stat()
        except FileNotFoundError as error:
            raise UnreadableInput("expected a file, found nothing there; check the path") from error
        # A pipe or a device may never end.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableInput(f"expected a regular file, got {kind}; name an image file")
        size = status.st_size
    if size > limits.max_bytes:
        raise InputTooLarge(
            f"expected at most {limits.max_bytes:,} bytes, got {size:,}; raise max_bytes if the file is trusted"
        )
    if size == 0:
        raise UnreadableInput("expected an image, got an empty file; copy or export it again")
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _decode(data: bytes, suffix: str, limits: Limits, side: int | None) -> NDArray[np.uint8]:
    if data[128:132] == b"DICM" or suffix == ".dcm":
        from leanmed.runtime.dicom import read_dicom  # pydicom takes a while to import; few need it

        return _from_array(read_dicom(data, limits), limits)
    with open_raster(data, limits) as image:
        if side is not None and isinstance(image, JpegImageFile):
            factor = _factor(*image.size, side, (2, 4, 8))
            image.draft(None, (image.width // factor, image.height // factor))
        return _from_pillow(image)


def _factor(width: int, height: int, side: int, factors: Iterable[int]) -> int:
    """The largest factor that leaves both sides OVERSAMPLE x side and divides them: a remainder would shift the image."""
    room = min(width, height) // (OVERSAMPLE * side)
    return max((f for f in factors if f <= room and width % f == 0 == height % f), default=1)


def _reduced(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = _factor(width, height, side, range(2, 65))
    # A mask in alpha is not averaged: what its edge means is for the model's own graph to say.
    if factor == 1 or not (pixels[..., 3] == 255).all():
        return pixels
    return np.array(Image.fromarray(pixels).convert("RGB").reduce(factor).convert("RGBA"))


def _from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if image.mode in _SIXTEEN_BIT:
        image = _eight_bit(image)
    elif image.mode not in _EIGHT_BIT:
        raise UnsupportedInput(
            f"expected grey, colour or palette pixels of 8 or 16 bits, got Pillow's mode {image.mode}; "
            "bring the values to 0..255 and save as PNG"
        )
    for mode in (_EIGHT_BIT[image.mode], "RGBA"):
        image = image if image.mode == mode else image.convert(mode)
    return np.array(image if turn is None else image.transpose(turn))


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedInput(
            "expected 16-bit grey, got values outside 0..65535; bring them to 0..255 and save as PNG"
        )
    grey = Image.fromarray(_scaled(values))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _scaled(values: NDArray[Any]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(image: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    array = image[..., np.newaxis] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UnsupportedInput(
            f"expected an array of height x width x 1, 3 or 4, got shape {image.shape}; give one image, channels last"
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
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _scaled(array)
    holes = " with NaN in it" if array.dtype.kind == "f" and np.isnan(array).any() else ""
    raise UnsupportedInput(
        f"expected uint8, uint16 or bool, got {array.dtype}{holes}, whose range is not known; "
        "scale so that white is 255, round, and convert with .astype(numpy.uint8)"
    )


def _unknown_format(data: bytes) -> InputError:
    expected = "expected JPEG, PNG, TIFF or DICOM, got"
    for offset, mark, name in _FOREIGN:
        if data[offset:].startswith(mark):
            return UnsupportedInput(f"{expected} {name}; save it as JPEG or PNG")
    return UnreadableInput(f"{expected} a file that begins with {data[:8]!r}; check that it is an image")


def _check_jpeg(data: bytes) -> None:
    """Walk the markers as libjpeg does: a copy cut short and padded with zeros would decode to half a picture."""
    position, scans = 2, 0
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _JPEG_EOI:
            return
        if marker not in _JPEG_BARE:
            position += int.from_bytes(data[position : position + 2])
        scans += marker == _JPEG_SOS
        if scans > _JPEG_MAX_SCANS:
            raise UnsupportedInput(
                f"expected a JPEG of at most {_JPEG_MAX_SCANS} scans, got more, as no camera writes; save it anew"
            )
    raise UnreadableInput(
        "expected a whole JPEG, got one without its end: truncated; copy or export it again"
    )


def _check_tiff(image: TiffImageFile, limits: Limits) -> None:
    tags, compression = image.tag_v2, image.info.get("compression")
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedInput(
            f"expected a TIFF that is uncompressed or compressed by LZW, deflate or PackBits, got {compression}; "
            "save it as one of these or as PNG"
        )
    bits, unsigned = set(tags.get(_TIFF_BITS, (1,))), set(tags.get(_TIFF_SAMPLE_FORMAT, (1,))) == {1}
    # Pillow leaves 12 bits unscaled, and 16-bit white-is-zero uninverted.
    grey16 = image.mode in _SIXTEEN_BIT
    if not unsigned or not bits <= {1, 2, 4, 8, 16} or (grey16 and tags.get(_TIFF_PHOTOMETRIC) == 0):
        raise UnsupportedInput(
            f"expected unsigned samples of 8 or 16 bits, black at 0, got {sorted(bits)} bits of another kind; "
            "bring the values to 0..255 and save as PNG"
        )
    # The decoder makes room for a whole tile, whatever the size of the image.
    if tags.get(_TIFF_TILE_WIDTH, 0) * tags.get(_TIFF_TILE_LENGTH, 0) > limits.max_pixels:
        raise InputTooLarge(
            f"expected tiles of at most {limits.max_pixels:,} pixels, got larger; save it anew"
        )


def _expanded(pattern: str) -> Iterable[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _below(path)
    if glob.has_magic(pattern) and not path.exists():
        return (
            Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if not Path(match).is_dir()
        )
    return [path]


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename!r}: expected a folder that can be listed, got: {error.strerror}"
    ) from error
