"""JPEG, PNG, TIFF, BMP, WebP and HEIC, opened with care: what a header says is checked before anything is decoded.

Readings that one could choose otherwise:

* EXIF orientation is applied. ICC profiles are not: models are trained on the stored values too.
* 16-bit grey becomes 8-bit as round(v / 257). Of 16-bit colour Pillow takes the high byte, a level off at
  most.
* A file of several pages or frames is refused, since which of them is meant is a guess. What telephones
  append to a JPEG (a gain map, a depth map, a film) is no page, and is not read.
* CMYK is converted without a profile; in JPEG it is taken as inverted, as Adobe writes it.
"""

from __future__ import annotations

import re
import stat
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from leanmed.errors import InputError, InputTooLarge, UnreadableInput, UnsupportedInput

_READERS = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"BM", BmpImageFile),
    (b"RIFF", WebPImageFile),
)
_READ = "JPEG, PNG, TIFF, BMP, WebP or DICOM"
_FOREIGN = ((0, b"GIF8", "GIF"), (4, b"ftyp", "AVIF or a film"))
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})  # brands of what telephones write

# Pillow mode -> the mode to pass through on the way to RGBA.
_EIGHT_BIT = {mode: mode for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA")} | {
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # no stuffed zero, restart or fill byte
_JPEG_START, _JPEG_END, _JPEG_SCAN, _JPEG_TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
# Cameras write about ten. libjpeg walks the whole image once per scan, so thousands of empty ones take hours.
_JPEG_MAX_SCANS = 100

_MAX_METADATA = 16 * 2**20  # depth maps in XMP take some megabytes

_WEBP_ANIMATED = 0x02  # in the flags of an extended header

_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 256, 257, 258, 262, 339
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_TIFF_BYTES, _TIFF_MAX_VALUES = frozenset({1, 2, 6, 7}), 1_000_000  # kinds of tag that stay bytes
_TIFF_COMPRESSIONS = frozenset({"raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"})


@dataclass(frozen=True)
class Limits:
    """Caps against hostile or hopeless files.

    Args:
        max_pixels: width x height, checked on the header before anything is decoded.
        max_bytes: size of a file that is read as a whole (an image, a slice in DICOM), checked before it is read.
        max_scan_bytes: size of a scan that is one file or two, packed or not, checked before its voxels are read.
        min_side: shortest side, in pixels, that can still show something.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 256 * 2**20
    max_scan_bytes: int = 4 * 2**30
    min_side: int = 8


DEFAULT_LIMITS = Limits()


class MeteredBytes(BytesIO):
    """A file in memory that may be read only so often and so much, lest a flood of parts hold its parser."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        # A photograph takes some thousands, an object of several hundred frames some hundred thousand.
        self._reads_left = max(200_000, len(data) // 256)
        self._bytes_left = 4 * len(data) + 2**24

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `BytesIO` does.

        Raises:
            UnreadableInput: too often or too much.
        """
        part = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(part)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise UnreadableInput("expected an image, got a file of far too many parts; copy or export it again")
        return part


def checked_bytes(source: Path | bytes, limits: Limits) -> bytes:
    """The bytes of a file, whose size is checked before it is read, or those given.

    Raises:
        UnreadableInput: missing, not a regular file, or empty.
        InputTooLarge: over `max_bytes`.
    """
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if size > limits.max_bytes:
        raise InputTooLarge(
            f"expected at most {limits.max_bytes:,} bytes, got {size:,}; raise max_bytes if it is trusted"
        )
    if size == 0:
        raise UnreadableInput("expected an image, got an empty file; copy or export it again")
    return source if isinstance(source, bytes) else source.read_bytes()


def _file_size(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UnreadableInput("expected a file, found nothing there; check the path") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UnreadableInput(f"expected a regular file, got {kind}; name an image file")
    return status.st_size


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
    """Open a JPEG, PNG, TIFF, BMP, WebP or HEIC and check all that can be checked before decoding.

    Pillow's readers are called directly: `Image.open` has a cap of its own, global to the process, and warns
    by it.

    Raises:
        UnreadableInput: truncated, or none of these formats.
        InputTooLarge: over `max_pixels`.
        UnsupportedInput: another image format, several pages, or a kind of pixel or compression that is not
            read.
        Exception: whatever Pillow raises on damaged headers.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UnreadableInput(
            "expected PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be off, got it on, set by another package; "
            "set it to False, or half a picture reads as a whole one"
        )
    reader = next((reader for mark, reader in _READERS if data.startswith(mark)), None) or _heic_reader(data)
    if reader is None:
        raise _unknown_format(data)
    if reader is JpegImageFile:
        check_jpeg(data)
    if reader is TiffImageFile:
        _check_tiff_directory(data)
    if reader is WebPImageFile:
        _check_webp(data, limits)
    image = reader(MeteredBytes(data))
    check_size(*image.size, limits)
    if getattr(image, "is_animated", False):
        raise UnsupportedInput("expected one picture, got several pages or frames; save the one that is meant")
    if isinstance(image, TiffImageFile):
        _check_tiff_samples(image, limits)
    return image


def to_rgba(image: Image.Image) -> NDArray[np.uint8]:
    """Decode and turn upright.

    Returns:
        (h, w, 4) uint8 RGBA; alpha is 255 where the image has none.

    Raises:
        UnsupportedInput: floating point, 32-bit integers, CIELab...
        Exception: whatever Pillow raises on damaged pixels.
    """
    image.load()
    turn = _turn(image)
    if image.mode in _SIXTEEN_BIT:
        image = _to_eight_bits(image)
    elif image.mode not in _EIGHT_BIT:
        raise UnsupportedInput(
            f"expected grey, colour or palette pixels of 8 or 16 bits, got Pillow's mode {image.mode}; "
            "bring the values to 0..255 and save as PNG"
        )
    for mode in (_EIGHT_BIT[image.mode], "RGBA"):
        image = image if image.mode == mode else image.convert(mode)
    return np.array(image if turn is None else image.transpose(turn))


def upright(image: Image.Image) -> Image.Image:
    """An opened image turned as its EXIF orientation says, its pixels as they are stored.

    Raises:
        UnsupportedInput: too much EXIF.
        Exception: whatever Pillow raises on damaged pixels.
    """
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def upright_size(header: Image.Image) -> tuple[int, int]:
    """Width and height of what `to_rgba` makes of an opened image, without decoding it.

    Raises: as `to_rgba`.
    """
    width, height = header.size
    return (height, width) if _turn(header) in _SIDEWAYS else (width, height)


def is_sixteen_bit(header: Image.Image) -> bool:
    """Whether an opened image holds samples of 16 bits, grey or colour."""
    if isinstance(header, TiffImageFile):
        return 16 in header.tag_v2.get(_TIFF_BITS, (1,))
    if isinstance(header, PngImageFile):  # of colours Pillow's mode does not tell
        return header.mode in _SIXTEEN_BIT or any("16" in str(tile[3]) for tile in header.tile)
    return False


def stored_bits(header: Image.Image) -> int:
    """Bits of a sample of an opened PNG or TIFF; 8 for other formats.

    Pillow's mode L stands for 2, 4 and 8 of them.
    """
    if isinstance(header, TiffImageFile):
        return int(header.tag_v2.get(_TIFF_BITS, (1,))[0])
    raw = re.search(r";(\d+)", str(header.tile[0][3])) if isinstance(header, PngImageFile) and header.tile else None
    return int(raw[1]) if raw else 8


def sixteen_bit_values(image: Image.Image) -> NDArray[Any]:
    """The samples of an image of 16 bits without alpha; of colours, of which Pillow keeps the high byte, the greatest.

    Raises:
        Exception: whatever Pillow raises on damaged pixels.
    """
    image.load()
    if image.mode in _SIXTEEN_BIT:
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).astype(np.uint16) * 256 + 255


def scaled_to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map 0..65535 to 0..255, as round(v / 257)."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _turn(image: Image.Image) -> Image.Transpose | None:
    if len(image.info.get("exif") or b"") > _MAX_METADATA:
        raise UnsupportedInput(
            f"expected at most {_MAX_METADATA:,} bytes of EXIF, got more; save it anew without metadata"
        )
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # blanked by an anonymiser, or damaged: it says nothing of the pixels
        return None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedInput(
            "expected 16-bit grey, got values outside 0..65535; bring them to 0..255 and save as PNG"
        )
    grey = Image.fromarray(scaled_to_eight_bits(values))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _heic_reader(data: bytes) -> type[ImageFile.ImageFile] | None:
    """The reader of HEIC, which the extra `heic` brings, if data are HEIC."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC:
        return None
    if find_spec("pillow_heif") is None:
        raise UnsupportedInput(
            f"expected {_READ}, got HEIC; install what reads it: pip install 'leanmed[heic]', or save it as JPEG or PNG"
        )
    from pillow_heif import HeifImageFile

    reader: type[ImageFile.ImageFile] = HeifImageFile
    return reader


def _unknown_format(data: bytes) -> InputError:
    for offset, mark, name in _FOREIGN:
        if data.startswith(mark, offset):
            return UnsupportedInput(f"expected {_READ}, got {name}; save it as JPEG or PNG")
    return UnreadableInput(f"expected {_READ}, got a file that begins with {data[:8]!r}; check what it is")


def check_jpeg(data: bytes) -> None:
    """Walk the markers: libjpeg takes a copy that was cut short and padded with zeros for a whole picture.

    Raises:
        UnreadableInput: truncated.
        UnsupportedInput: too many scans or too much metadata.
    """
    position, scans = 2, 0
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _JPEG_END:
            return
        if marker not in (_JPEG_START, _JPEG_TEMPORARY):  # all others are followed by their length
            position += int.from_bytes(data[position : position + 2])
        scans += marker == _JPEG_SCAN
        if scans > _JPEG_MAX_SCANS or (scans == 0 and position > _MAX_METADATA):
            raise UnsupportedInput(
                f"expected a JPEG of at most {_JPEG_MAX_SCANS} scans, {_MAX_METADATA:,} bytes of metadata, "
                "got more; save it anew without metadata"
            )
    raise UnreadableInput("expected a whole JPEG, got one that is truncated; copy or export it again")


def _check_webp(data: bytes, limits: Limits) -> None:
    """Check the size before the reader is made, which at once makes room for two whole pictures."""
    kind, head = data[12:16], data[20:30]
    if data[8:12] != b"WEBP" or kind not in (b"VP8 ", b"VP8L", b"VP8X") or len(head) < 10:
        raise UnreadableInput(f"expected {_READ}, got a RIFF file that holds no WebP; check what it is")
    if kind == b"VP8X" and head[0] & _WEBP_ANIMATED:
        raise UnsupportedInput("expected one picture, got a film; save the frame that is meant")
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[start : start + 3], "little") + 1 for start in (4, 7))
    elif kind == b"VP8L":
        both = int.from_bytes(head[1:5], "little")
        width, height = (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[start : start + 2], "little") & 0x3FFF for start in (6, 8))
    check_size(width, height, limits)


def _check_tiff_directory(data: bytes) -> None:
    """Count the values that the tags claim, since Pillow makes a Python object of each."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    tags = struct.iter_unpack(f"{order}HHII", data[start + 2 : start + 2 + 12 * entries])
    if sum(count for _, kind, count, _ in tags if kind not in _TIFF_BYTES) > _TIFF_MAX_VALUES:
        raise UnsupportedInput(f"expected at most {_TIFF_MAX_VALUES:,} values in TIFF tags, got more; save it anew")


def _check_tiff_samples(image: TiffImageFile, limits: Limits) -> None:
    tags, compression = image.tag_v2, image.info.get("compression")
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedInput(
            f"expected a TIFF that is uncompressed or packed by LZW, deflate or PackBits, got {compression}; "
            "save it so or as PNG"
        )
    bits, formats = set(tags.get(_TIFF_BITS, (1,))), set(tags.get(_TIFF_SAMPLE_FORMAT, (1,)))
    # Pillow would leave 12 bits unscaled, and 16-bit white-is-zero uninverted.
    inverted = image.mode in _SIXTEEN_BIT and tags.get(_TIFF_PHOTOMETRIC) == 0
    if formats != {1} or not bits <= {1, 2, 4, 8, 16} or inverted:
        raise UnsupportedInput(
            f"expected unsigned samples of 8 or 16 bits with black at 0, got bits {sorted(bits)}, sample "
            f"format {sorted(formats)}, {'white' if inverted else 'black'} at 0; bring the values to 0..255 "
            "and save as PNG"
        )
    # Pillow leaves black what no strip or tile covers.
    width, height = tags[_TIFF_WIDTH], tags[_TIFF_LENGTH]
    corners = [extents[2:] for _, extents, *_ in image.tile if extents]
    if not any(right >= width and bottom >= height for right, bottom in corners):
        raise UnreadableInput("expected strips for the whole image, got fewer; copy or export it again")
    # The decoder makes room for a whole tile, however small the image.
    if tags.get(_TIFF_TILE_WIDTH, 0) * tags.get(_TIFF_TILE_LENGTH, 0) > limits.max_pixels:
        raise InputTooLarge(f"expected tiles of at most {limits.max_pixels:,} pixels, got larger; save it anew")
