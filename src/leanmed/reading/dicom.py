"""Photographs and single grey frames kept in DICOM, to arrays.

Read are the uncompressed transfer syntaxes and JPEG Baseline, which passes the same checks as a JPEG file.
The others are refused by name: their decoders are many and seldom installed, and deflate and RLE unfold
without a bound.

Greys follow the display chain of DICOM PS3.3 C.11: rescale slope and intercept, then the first window.
Without a window the whole range of the stored bits becomes 0..255, not the image's own minimum and maximum,
so that one grey means the same in every image. MONOCHROME1 is inverted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_partial
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from leanmed.errors import UnreadableInput, UnsupportedInput
from leanmed.reading.raster import Limits, MeteredBytes, check_size, open_raster

_UNCOMPRESSED = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422"})
_GREYS = frozenset({"MONOCHROME1", "MONOCHROME2"})
_PALETTE = "PALETTE COLOR"
_MODALITY = 0x00080060


def read_dicom(data: bytes, limits: Limits) -> NDArray[Any]:
    """Read the one frame of a DICOM file.

    Args:
        data: the whole file.
        limits: caps on pixels, checked on Rows and Columns before anything is decoded.

    Returns:
        (h, w), (h, w, 3) or (h, w, 4), uint8 (uint16 for palettes of 16 bits).

    Raises:
        UnreadableInput: no DICOM, or no pixel data.
        InputTooLarge: over `max_pixels`.
        UnsupportedInput: another transfer syntax or photometric interpretation, several frames, or a lookup
            table in place of the rescale or the window.
        Exception: whatever pydicom raises on damaged files, such as less pixel data than declared.
    """
    dataset = open_dicom(data, limits)
    stored = stored_values(dataset, limits)
    if dataset.PhotometricInterpretation in _GREYS:
        return _windowed(stored, dataset)
    if dataset.PhotometricInterpretation == _PALETTE:
        return _palette_colours(stored, dataset)
    return _looked_up(stored, 0, np.linspace(0, 1, 2**dataset.BitsStored))


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
    _check_syntax(data)
    dataset = dcmread(MeteredBytes(data), force=True)
    _check(dataset, limits)
    return dataset


def stored_values(dataset: Dataset, limits: Limits) -> NDArray[Any]:
    """Decode the frame as it is stored, (h, w) or (h, w, 3), without rescale or window.

    Raises: as `read_dicom`.
    """
    jpeg = dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    stored = _jpeg_frame(dataset, limits) if jpeg else pixel_array(dataset)
    if stored.shape[:2] != (dataset.Rows, dataset.Columns):
        raise UnreadableInput(
            f"expected {dataset.Rows} x {dataset.Columns} pixels as declared, got {stored.shape}; export it again"
        )
    return stored


def _check_syntax(data: bytes) -> None:
    """Read the file meta group alone: `dcmread` inflates a deflated file whole before one could refuse it."""
    stream = MeteredBytes(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None:
        raise UnreadableInput("expected a DICOM file that names its transfer syntax, got none; export it again")
    if syntax not in _UNCOMPRESSED and syntax != JPEGBaseline8Bit:
        raise UnsupportedInput(
            f"expected DICOM that is uncompressed or JPEG Baseline, got {syntax.name} ({syntax}); "
            "export it uncompressed, for instance with gdcmconv --raw"
        )


def _check(dataset: Dataset, limits: Limits) -> None:
    if "PixelData" not in dataset:
        raise UnreadableInput("expected DICOM with an image in it, got no pixel data; export the image")
    check_size(int(dataset.Columns), int(dataset.Rows), limits)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnsupportedInput(f"expected one frame, got {dataset.NumberOfFrames}; export the one that is meant")
    photometric = dataset.PhotometricInterpretation
    if photometric not in _GREYS | _COLOURS | {_PALETTE}:
        raise UnsupportedInput(f"expected grey, RGB, YBR_FULL or palette pixels, got {photometric}; export it as RGB")
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated or dataset.BitsAllocated not in (8, 16):
        raise UnsupportedInput(
            f"expected samples of 8 or 16 bits, got {dataset.BitsStored} in {dataset.BitsAllocated}; "
            "export the image as 8-bit"
        )


def _jpeg_frame(dataset: Dataset, limits: Limits) -> NDArray[Any]:
    with open_raster(get_frame(dataset.PixelData, 0, number_of_frames=1), limits) as image:
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


def _windowed(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    if "ModalityLUTSequence" in dataset:
        raise UnsupportedInput("expected a linear rescale, got a modality lookup table; export the image as 8-bit")
    count = 2**dataset.BitsStored
    first = -count // 2 if dataset.PixelRepresentation else 0
    values = np.arange(first, first + count) * _number(dataset, "RescaleSlope", 1.0)
    values += _number(dataset, "RescaleIntercept", 0.0)
    centre, width = _window(dataset) or ((values[0] + values[-1]) / 2, abs(values[-1] - values[0]))
    grey = (values - centre) / max(width, 1e-9) + 0.5  # a width of 0 is a threshold
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return _looked_up(stored, first, grey)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Centre and width such that (value - centre) / width + 0.5 runs from 0 to 1 (PS3.3 C.11.2.1.2, 3)."""
    centre, width = _number(dataset, "WindowCenter", math.nan), _number(dataset, "WindowWidth", math.nan)
    if math.isnan(centre) or math.isnan(width):
        if "VOILUTSequence" in dataset:
            raise UnsupportedInput("expected a window, got a lookup table of values; export the image as 8-bit")
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise UnsupportedInput(f"expected a linear window, got {function}; export the image as 8-bit")
    if width < 0:
        raise UnsupportedInput("expected a window of positive width, got a negative one; export the image as 8-bit")
    return centre, width


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    first = value[0] if isinstance(value, MultiValue) and value else value
    if first is None or first == "":
        return default
    if not abs(number := float(first)) < 1e9:
        raise UnsupportedInput(f"expected a plausible {keyword}, got {number}; export the image as 8-bit")
    return number


def _looked_up(stored: NDArray[Any], first: int, grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Replace each stored value v by 255 x grey[v - first]."""
    table = (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
    index = np.clip(stored.astype(np.int32) - first, 0, len(table) - 1)
    return table[index]


def _palette_colours(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    if "RedPaletteColorLookupTableData" not in dataset:
        raise UnsupportedInput("expected a plain palette, got a segmented one or none; export the image as RGB")
    colours = apply_color_lut(stored, dataset)
    return colours.astype(np.uint8) if dataset.RedPaletteColorLookupTableDescriptor[2] == 8 else colours
