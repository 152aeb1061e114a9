"""Photographs and single grey frames kept in DICOM, to arrays.

Read without extras are the uncompressed transfer syntaxes, deflate, RLE, JPEG Baseline and JPEG 2000; with the extra
`dicom` the other JPEGs, too. Whatever the packing, the frame's own header is compared with what the file declares
before it is unpacked, so that none unfolds beyond the caps. A file without a transfer syntax is read as pydicom
recognises it; the standard's default is implicit little endian.

Greys follow the display chain of DICOM PS3.3 C.11: the modality lookup table or rescale slope and intercept, then the
first VOI lookup table, or else the first window by its function. Without either, the whole range of the stored bits
becomes 0..255, not the image's own minimum and maximum, so that one grey means the same in every image. MONOCHROME1 is
inverted.
"""

from __future__ import annotations

import math
import zlib
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_partial
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading.raster import Limits, MeteredBytes, check_jpeg, check_size, open_raster
from leanmed.reading.source import looks_like_dicom

Greys = NDArray[np.float64]

_DEFLATED = DeflatedExplicitVRLittleEndian
_UNCOMPRESSED = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, _DEFLATED})
_JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000})
_JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_BY_EXTRA = _JPEG_LS | {JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
_SYNTAXES = _UNCOMPRESSED | _JPEG_2000 | _BY_EXTRA | {JPEGBaseline8Bit, RLELossless}
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
_GREYS = frozenset({"MONOCHROME1", "MONOCHROME2"})
_PALETTE = "PALETTE COLOR"
_MODALITY = 0x00080060
_MAX_TILES = 65535  # of a JPEG 2000 codestream, by its standard
_END = b"\xff\xd9"  # the marker that ends every JPEG and JPEG-LS
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # JPEG markers between 0xC0 and 0xCF that are none


def read_dicom(data: bytes, limits: Limits) -> NDArray[Any]:
    """Read the one frame of a DICOM file.

    Args:
        data: the whole file.
        limits: caps on pixels, checked on Rows and Columns before anything is decoded.

    Returns:
        (h, w), (h, w, 3) or (h, w, 4), uint8 (uint16 for palettes of 16 bits).

    Raises:
        UnreadableInput: no DICOM, or no pixel data.
        InputTooLarge: over `max_pixels`, or deflated to more than `max_bytes`.
        UnsupportedInput: another transfer syntax or photometric interpretation, one that needs the extra `dicom` where
            it is not installed, or several frames.
        Exception: whatever pydicom raises on damaged files, such as less pixel data than declared.
    """
    dataset = open_dicom(data, limits)
    stored = stored_values(dataset, limits)
    if dataset.PhotometricInterpretation in _GREYS:
        return _shown(stored, dataset)
    if dataset.PhotometricInterpretation == _PALETTE:
        return _palette_colours(stored, dataset)
    return _looked_up(stored, 0, np.linspace(0, 1, 2**dataset.BitsStored))


def readable_syntaxes() -> frozenset[UID]:
    """The transfer syntaxes that can be read with what is installed."""
    return _SYNTAXES if find_spec("imagecodecs") else _SYNTAXES - _BY_EXTRA


def modality(head: bytes) -> str:
    """What a DICOM file says that it is of: CT, MR...; nothing where it says nothing. Its first elements are enough."""
    try:
        dataset = read_partial(MeteredBytes(head), lambda tag, vr, length: tag > _MODALITY, force=True)
        return str(dataset.get("Modality") or "")
    except Exception:  # whatever pydicom raises on damaged files
        return ""


def open_dicom(data: bytes, limits: Limits) -> Dataset:
    """Parse a file with one frame in it and check all that can be checked before decoding.

    Raises: as `read_dicom`.
    """
    dataset = parse_dicom(data, limits)
    check_image(dataset, limits)
    return dataset


def parse_dicom(data: bytes, limits: Limits) -> Dataset:
    """Parse a file, with or without preamble and file meta group, whatever it holds.

    Returns:
        The dataset, whose `file_meta` names its transfer syntax.

    Raises:
        UnreadableInput: no DICOM.
        InputTooLarge: deflated to more than `max_bytes`.
        Exception: whatever pydicom raises on damaged files.
    """
    if not looks_like_dicom(data):
        raise UnreadableInput(
            f"expected DICOM, got a file that begins with {data[:8]!r} and names no object of DICOM; "
            "check what it is, or export it again"
        )
    stream = MeteredBytes(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    # `dcmread` would inflate a deflated file whole before one could refuse it.
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        dataset = read_dataset(MeteredBytes(_inflated(data[stream.tell() :], limits)), False, True)
        dataset.file_meta = FileMetaDataset(meta)
        return dataset
    dataset = dcmread(MeteredBytes(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        guessed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else guessed
    return dataset


def check_image(dataset: Dataset, limits: Limits) -> None:
    """Refuse a dataset without one frame of a kind that is read.

    Raises: as `read_dicom`.
    """
    _check_syntax(dataset)
    if "PixelData" not in dataset:
        raise UnreadableInput("expected DICOM with an image in it, got no pixel data; export the image")
    check_size(int(dataset.Columns), int(dataset.Rows), limits)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnsupportedInput(
            f"expected one frame, got {dataset.NumberOfFrames}; export the one that is meant, or give enhanced CT or "
            "MR to an artifact for scans"
        )
    photometric = dataset.PhotometricInterpretation
    if photometric not in _GREYS | _COLOURS | {_PALETTE}:
        raise UnsupportedInput(f"expected grey, RGB, YBR_FULL or palette pixels, got {photometric}; export it as RGB")
    if dataset.SamplesPerPixel != (3 if photometric in _COLOURS else 1):
        raise UnreadableInput(
            f"expected as many samples per pixel as {photometric} has, got {dataset.SamplesPerPixel}; export it again"
        )
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated or dataset.BitsAllocated not in (8, 16):
        raise UnsupportedInput(
            f"expected samples of 8 or 16 bits, got {dataset.BitsStored} in {dataset.BitsAllocated}; "
            "export the image as 8-bit"
        )


def stored_values(dataset: Dataset, limits: Limits) -> NDArray[Any]:
    """Decode the frame as it is stored, (h, w) or (h, w, 3), without rescale or window.

    Raises: as `read_dicom`.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _UNCOMPRESSED:
        stored = pixel_array(dataset)
    elif syntax == JPEGBaseline8Bit:
        stored = _jpeg_frame(dataset, limits)
    elif syntax == RLELossless:
        stored = _rle_frame(dataset)
    else:
        stored = _packed_frame(dataset)
    if stored.shape[:2] != (dataset.Rows, dataset.Columns):
        raise UnreadableInput(
            f"expected {dataset.Rows} x {dataset.Columns} pixels as declared, got {stored.shape}; export it again"
        )
    return stored


def stored_range(dataset: Dataset, limits: Limits) -> tuple[int, int, int, int] | None:
    """The least and the greatest value of a grey frame that names no range to show, and of the bits that hold it.

    Returns:
        (lowest stored, highest stored, lowest possible, highest possible); None: not grey, or with a window or a table.

    Raises: as `read_dicom`.
    """
    if dataset.PhotometricInterpretation not in _GREYS or _is_placed(dataset):
        return None
    stored, possible = stored_values(dataset, limits), _possible(dataset)
    return int(stored.min()), int(stored.max()), int(possible[0]), int(possible[-1])


def _inflated(data: bytes, limits: Limits) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = unpacker.decompress(data, limits.max_bytes)
    if unpacker.unconsumed_tail:
        raise InputTooLarge(
            f"expected at most {limits.max_bytes:,} bytes when inflated, got more; raise max_bytes if it is trusted"
        )
    return inflated


def _check_syntax(dataset: Dataset) -> None:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in _SYNTAXES:
        raise UnsupportedInput(
            f"expected DICOM that is uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000, got {syntax.name} ({syntax}); "
            "export it uncompressed, for instance with gdcmconv --raw"
        )
    if syntax in _BY_EXTRA and find_spec("imagecodecs") is None:
        raise UnsupportedInput(
            f"expected DICOM that is uncompressed, RLE, JPEG Baseline or JPEG 2000, got {syntax.name} ({syntax}); "
            "install the decoder of the others with: pip install 'leanmed[dicom]', or export it uncompressed"
        )
    packed = "PixelData" in dataset and dataset["PixelData"].is_undefined_length
    if packed and syntax in _UNCOMPRESSED:
        raise UnreadableInput(
            f"expected pixels that are not packed, as {syntax.name} says or no transfer syntax does, got packed ones; "
            "export the file again, with its file meta group"
        )


def _jpeg_frame(dataset: Dataset, limits: Limits) -> NDArray[Any]:
    with open_raster(_frame(dataset), limits) as image:
        right = isinstance(image, JpegImageFile) and len(image.getbands()) == dataset.SamplesPerPixel
        if not right or dataset.PixelRepresentation != 0:
            raise UnreadableInput(
                f"expected JPEG of {dataset.SamplesPerPixel} unsigned samples as declared, got "
                f"{image.format} {image.mode}; export it again"
            )
        # Without Adobe's marker libjpeg takes three components for YCbCr; if DICOM says RGB, leave them
        # alone.
        if dataset.PhotometricInterpretation == "RGB" and "adobe_transform" not in image.info:
            image.draft("YCbCr", None)
        return np.array(image)


def _rle_frame(dataset: Dataset) -> NDArray[Any]:
    """Unpack PS3.5 Annex G: a segment for each byte of each sample, the highest byte first.

    pydicom's own decoder unpacks a segment whole before it compares its length, which a hostile file makes 64 times
    as long as itself.
    """
    frame, size = _frame(dataset), dataset.Rows * dataset.Columns
    samples, width = dataset.SamplesPerPixel, dataset.BitsAllocated // 8
    count, *starts = np.frombuffer(frame, "<u4", 16).tolist()
    if count != samples * width:
        raise UnreadableInput(f"expected {samples * width} RLE segments as declared, got {count}; export it again")
    planes = [_unpacked(frame[start:], size) for start in starts[:count]]
    bytes_ = np.frombuffer(b"".join(planes), np.uint8).reshape(samples, width, dataset.Rows, dataset.Columns)
    stored = np.ascontiguousarray(bytes_.transpose(2, 3, 0, 1))  # the highest byte first: big endian
    kind = f">{'i' if dataset.PixelRepresentation else 'u'}{width}"
    values = _sign_extended(stored.view(kind)[..., 0].astype(kind[1:]), dataset)
    return _as_rgb(values if samples == 3 else values[..., 0], dataset)


def _as_rgb(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Samples of YBR as RGB, all others as they are."""
    is_ybr = dataset.PhotometricInterpretation.startswith("YBR")
    return convert_color_space(values, "YBR_FULL", "RGB") if is_ybr else values


def _sign_extended(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """What stands in the bits above those stored, such as an overlay, is no part of a value."""
    unused = dataset.BitsAllocated - dataset.BitsStored
    return values << unused >> unused if unused else values


def _unpacked(packed: bytes, size: int) -> bytes:
    """So many bytes of PackBits, and no more than they need of what is packed.

    Raises:
        IndexError: it is too short.
    """
    unpacked, position = bytearray(), 0
    while len(unpacked) < size:
        head = packed[position]
        if head < 128:  # so many bytes and one more as they are
            unpacked += packed[position + 1 : position + 2 + head]
            position += 2 + head
        else:  # the next byte again and again; 128 says nothing
            unpacked += packed[position + 1 : position + 2] * (257 - head) if head > 128 else b""
            position += 2 if head > 128 else 1
    return bytes(unpacked[:size])


def _packed_frame(dataset: Dataset) -> NDArray[Any]:
    """Decode JPEG 2000 with Pillow, and the JPEGs that it does not read with imagecodecs, once the sizes agree."""
    frame, syntax = _frame(dataset), dataset.file_meta.TransferSyntaxUID
    found = _j2k_size(frame) if syntax in _JPEG_2000 else _jpeg_size(frame)
    declared = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    if found != declared:
        raise UnreadableInput(
            f"expected {declared} rows, columns and samples as declared, got {found} in the packed frame; "
            "export it again"
        )
    if syntax in _JPEG_2000:
        return pixel_array(dataset, decoding_plugin="pillow")
    import imagecodecs

    if syntax in _JPEG_LS:
        if not frame.rstrip(b"\0").endswith(_END):  # past the end CharLS counts zeros for seconds
            raise UnreadableInput("expected a whole JPEG-LS, got one that is truncated; copy or export it again")
        values = imagecodecs.jpegls_decode(frame)
    else:
        check_jpeg(frame)
        kept = {1: None, 3: "RGB"}[dataset.SamplesPerPixel]  # of colours: given as they are stored, whatever they are
        values = imagecodecs.jpeg8_decode(frame, colorspace=kept, outcolorspace=kept)
    kind = f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
    return _as_rgb(_sign_extended(values.astype(kind), dataset), dataset)


def _j2k_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG 2000 codestream, from the SIZ segment that must come first."""
    if frame[:4] != b"\xff\x4f\xff\x51" or len(frame) < 42:
        raise UnreadableInput(f"expected a JPEG 2000 codestream, got {frame[:4]!r}; export the file again")
    right, bottom, left, top, across, down, first_x, first_y = np.frombuffer(frame, ">u4", 8, 8).tolist()
    tiles = -(-(right - first_x) // max(across, 1)) * -(-(bottom - first_y) // max(down, 1))
    if tiles > _MAX_TILES:
        raise UnreadableInput(f"expected at most {_MAX_TILES} tiles of JPEG 2000, got {tiles}; export the file again")
    return bottom - top, right - left, int.from_bytes(frame[40:42])


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components of a JPEG or JPEG-LS, from the first frame header."""
    position = 2
    while frame[position : position + 1] == b"\xff" and position + 9 < len(frame):
        marker = frame[position + 1]
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == 0xF7:
            rows, columns = (int.from_bytes(frame[position + at : position + at + 2]) for at in (5, 7))
            return rows, columns, frame[position + 9]
        # Fill bytes stand alone, and all else that may come before is followed by its length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(frame[position + 2 : position + 4])
    raise UnreadableInput("expected a JPEG with a frame header, got none; export the file again")


def _frame(dataset: Dataset) -> bytes:
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _shown(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    possible = _possible(dataset)
    values, low, high = _modality_values(possible, dataset)
    grey = _voi_greys(values, dataset)
    if grey is None:
        grey = (values - low) / ((high - low) or 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return _looked_up(stored, int(possible[0]), grey)


def _possible(dataset: Dataset) -> NDArray[np.int64]:
    """All values that the stored bits can hold, in order."""
    count = 2**dataset.BitsStored
    first = -count // 2 if dataset.PixelRepresentation else 0
    return np.arange(first, first + count)


def _modality_values(stored: NDArray[np.int64], dataset: Dataset) -> tuple[Greys, float, float]:
    """Stored values in the modality's units (PS3.3 C.11.1), and what would be shown as 0 and 1 without a window."""
    if dataset.get("ModalityLUTSequence"):
        entries, first, bits = _table(dataset.ModalityLUTSequence[0], signed=bool(dataset.PixelRepresentation))
        return _through(entries, first, stored), 0.0, 2.0**bits - 1
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    values: Greys = stored.astype(np.float64) * slope + intercept
    return values, float(values.min()), float(values.max())


def _voi_greys(values: Greys, dataset: Dataset) -> Greys | None:
    """Values of interest as grey, 0 to 1 where it is in range (PS3.3 C.11.2): a table goes before a window."""
    if dataset.get("VOILUTSequence"):
        entries, first, bits = _table(dataset.VOILUTSequence[0], signed=bool((values < 0).any()))
        return _through(entries, first, values) / (2.0**bits - 1)
    centre, width = _number(dataset, "WindowCenter", math.nan), _number(dataset, "WindowWidth", math.nan)
    if math.isnan(centre) or math.isnan(width):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if width < 0:
        raise UnsupportedInput("expected a window of positive width, got a negative one; export the image as 8-bit")
    if function == "SIGMOID":
        exponents = np.clip(-4 * (values - centre) / max(width, 1e-9), -700, 700)
        return 1 / (1 + np.exp(exponents))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise UnsupportedInput(
            f"expected a window that is LINEAR, LINEAR_EXACT or SIGMOID, got {function}; export the image as 8-bit"
        )
    return (values - centre) / max(width, 1e-9) + 0.5  # a width of 0 is a threshold


def _is_placed(dataset: Dataset) -> bool:
    """Whether a grey frame names a range to show, by a table or a window."""
    numbers = [_number(dataset, keyword, math.nan) for keyword in ("WindowCenter", "WindowWidth")]
    tables = dataset.get("VOILUTSequence") or dataset.get("ModalityLUTSequence")
    return bool(tables) or not any(map(math.isnan, numbers))


def _table(item: Dataset, *, signed: bool) -> tuple[Greys, int, int]:
    """A lookup table's entries, the value that the first one stands for, and the bits of an entry (PS3.3 C.11.1.1).

    Args:
        item: of a modality or VOI LUT sequence.
        signed: whether the values that are looked up may be negative; files of unknown encoding give the first of
            them without its sign.
    """
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count, first = count or 2**16, first - 2**16 if signed and first >= 2**15 else first
    data = item.LUTData
    if isinstance(data, bytes):
        size = 1 if len(data) <= count + 1 else 2  # 8 bits may be packed without a gap
        order = ">" if item.is_little_endian is False else "<"
        entries = np.frombuffer(data, f"{order}u{size}", min(count, len(data) // size))
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    if not 8 <= bits <= 16 or len(entries) != count:
        raise UnsupportedInput(
            f"expected a lookup table of {count} entries of 8 to 16 bits, got {len(entries)} of {bits} bits; export "
            "the image as 8-bit"
        )
    return entries.astype(np.float64), first, bits


def _through(entries: Greys, first: int, values: NDArray[Any]) -> Greys:
    """The entry of each value; the first or the last for values beyond the table."""
    found: Greys = entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)]
    return found


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    first = value[0] if isinstance(value, MultiValue) and value else value
    if first is None or first == "":
        return default
    if not abs(number := float(first)) < 1e9:
        raise UnsupportedInput(f"expected a plausible {keyword}, got {number}; export the image as 8-bit")
    return number


def _looked_up(stored: NDArray[Any], first: int, grey: Greys) -> NDArray[np.uint8]:
    """Replace each stored value v by 255 x grey[v - first]."""
    table = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    index = np.clip(stored.astype(np.int32) - first, 0, len(table) - 1)
    return table[index]


def _palette_colours(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    if "RedPaletteColorLookupTableData" not in dataset:
        raise UnsupportedInput("expected a plain palette, got a segmented one or none; export the image as RGB")
    colours = apply_color_lut(stored, dataset)
    return colours.astype(np.uint8) if dataset.RedPaletteColorLookupTableDescriptor[2] == 8 else colours
