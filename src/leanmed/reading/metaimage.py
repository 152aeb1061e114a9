"""MetaImage, the form of LUNA16 and PROMISE12: a header `.mhd` with a file of voxels beside it, or one file, `.mha`.

Read are the keys that say where and what the voxels are. One slice of compressed voxels cannot be read without all
before it: these are unpacked and thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import A, Grid, Modality, Triple, Volume
from leanmed.reading.raster import Limits, check_size
from leanmed.reading.voxels import Stored

MAX_HEADER = 2**16  # bytes; they have some hundreds
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# ITK reads each of them under several names.
ORIGIN = ("Offset", "Position", "Origin")
DIRECTION = ("TransformMatrix", "Rotation", "Orientation")
SPACING = ("ElementSpacing",)
DATA = "ElementDataFile"
INSIDE = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*LOCAL[ \t]*\r?\n", re.MULTILINE | re.IGNORECASE)
BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
UNTOLD = ("MET_MOD_OTHER", "MET_MOD_UNKNOWN")  # what the key Modality says of masks, and where it says nothing

Header = Mapping[str, str]


def open_metaimage(path: Path, limits: Limits, modality: Modality) -> Volume:
    """Open an `.mhd` or `.mha` file; voxels of CT must be in Hounsfield units. Its name is the series' identifier.

    Raises:
        UnreadableInput: no header, a missing key, no file of voxels, or one whose size is not that declared.
        UnsupportedInput: other than one 3D scan in one file of voxels; another modality; no direction.
        InputTooLarge: slices over `max_pixels`, a file or voxels over `max_scan_bytes`.
        OSError, ValueError: a file that cannot be read, a number that is none.
    """
    header, length = _header(path)
    files = _files(path, header)
    _check_kind(header, modality)
    columns, rows, count = map(round, _triple(header, ("DimSize",)))
    check_size(columns, rows, limits)
    grid = Grid((count, rows, columns), _triple(header, SPACING), _triple(header, ORIGIN), _direction(header))
    kind = np.dtype(TYPES[header["ElementType"]]).newbyteorder(">" if _is_true(header, BIG_ENDIAN) else "<")
    packed = _is_true(header, ("CompressedData",))
    size = int(header["CompressedDataSize"]) if packed and "CompressedDataSize" in header else None
    stored = Stored(files[-1], length if len(files) == 1 else 0, kind, grid.shape, packed, size)
    return Volume(path.stem, grid, stored.reader(limits), files)


def metaimage_files(path: Path) -> tuple[Path, ...]:
    """The file, and that of its voxels if they are not in it.

    Raises: as `open_metaimage`.
    """
    return _files(path, _header(path)[0])


def _files(path: Path, header: Header) -> tuple[Path, ...]:
    return (path,) if _value(header, (DATA,)).upper() == "LOCAL" else (path, _beside(path, header))


def _header(path: Path) -> tuple[Header, int]:
    """The header, and how many bytes it takes: with the voxels in the same file, it ends with the line that says so."""
    with path.open("rb") as file:
        start = file.read(MAX_HEADER + 1)
    last = INSIDE.search(start)
    length = last.end() if last else len(start)
    if length > MAX_HEADER:
        raise InputTooLarge(
            f"expected a text header of at most {MAX_HEADER:,} bytes, got more; give the .mhd or .mha file"
        )
    lines = [line.partition("=") for line in start[:length].decode("latin-1").splitlines() if line.strip()]
    if not all(equals for _, equals, _ in lines):
        raise UnreadableInput("expected lines `Key = Value`, got others; give the .mhd or .mha file")
    return {key.strip(): value.strip() for key, _, value in lines}, length


def _value(header: Header, names: tuple[str, ...]) -> str:
    found = [header[name] for name in names if name in header]
    if not found:
        raise UnreadableInput(f"expected {names[0]} in the header, got none; export the scan again")
    return found[0]


def _is_true(header: Header, names: tuple[str, ...]) -> bool:
    return any(header.get(name, "False").lower() == "true" for name in names)


def _check_kind(header: Header, modality: Modality) -> None:
    wanted = {"NDims": "3", "BinaryData": "True", "ElementNumberOfChannels": "1", "HeaderSize": "0"}
    for key, value in wanted.items():
        if header.get(key, value).lower() != value.lower():
            raise UnsupportedInput(f"expected {key} = {value}, got {header[key]}; save it so, one scan in one file")
    if header.get("Modality", UNTOLD[0]) not in (f"MET_MOD_{modality}", *UNTOLD):
        raise UnsupportedInput(f"expected {modality}, got Modality = {header['Modality']}; give {A[modality]} scan")
    if _value(header, ("ElementType",)) not in TYPES:
        raise UnsupportedInput(
            f"expected ElementType to be one of {', '.join(TYPES)}, got {header['ElementType']}; save it as MET_SHORT"
        )


def _triple(header: Header, names: tuple[str, ...]) -> Triple:
    numbers = [float(text) for text in _value(header, names).split()]
    if len(numbers) != 3:
        raise UnreadableInput(f"expected {names[0]} to be three numbers, got {len(numbers)}; export the scan again")
    return numbers[0], numbers[1], numbers[2]


def _direction(header: Header) -> tuple[Triple, Triple, Triple]:
    """The file lists one axis after the other, and so has the rows of the direction as its columns."""
    if not any(name in header for name in DIRECTION):
        raise UnsupportedInput(
            f"expected {DIRECTION[0]}, without which left and right are not known, got none; export the scan again"
        )
    numbers = [float(text) for text in _value(header, DIRECTION).split()]
    (a, b, c), (d, e, f), (g, h, i) = numbers[:3], numbers[3:6], numbers[6:]
    return (a, d, g), (b, e, h), (c, f, i)


def _beside(path: Path, header: Header) -> Path:
    name = PurePosixPath(_value(header, (DATA,)).replace("\\", "/"))
    if str(name).upper().startswith("LIST") or "%" in str(name):
        raise UnsupportedInput(f"expected one file of voxels, got {DATA} = {name}; save the scan as one .mha file")
    if name.is_absolute() or ".." in name.parts or ":" in str(name):
        raise UnsupportedInput(
            f"expected ElementDataFile to be a file beside the header, got {name}, which leaves its folder; "
            "put both into one folder"
        )
    if not (path.parent / name).is_file():
        raise UnreadableInput(f"expected the voxels in {name} beside the header, found no such file; copy both")
    return path.parent / name
