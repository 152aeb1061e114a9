"""NRRD, the form of 3D Slicer: a text header and the voxels behind it in one file, `.nrrd`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import Floats, Grid, Triple, Volume
from leanmed.reading.raster import Limits, check_size
from leanmed.reading.voxels import Stored

MAX_HEADER = 2**16  # bytes; they have some hundreds
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
PACKED = {"raw": False, "gzip": True, "gz": True}
# What turns each space into ours: x to the left, y to the back, z to the head.
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
ADVICE = "save the scan as NIfTI or MetaImage, for instance with 3D Slicer"

Header = Mapping[str, str]


def open_nrrd(path: Path, limits: Limits) -> Volume:
    """Open a `.nrrd` file; voxels of CT must be in Hounsfield units. Its name is the series' identifier.

    Raises:
        UnreadableInput: no header, a missing field, or other voxels than declared.
        UnsupportedInput: other than one 3D scan in this file, raw or packed by gzip; no direction.
        InputTooLarge: slices over `max_pixels`, a file or voxels over `max_scan_bytes`.
        OSError, ValueError: a file that cannot be read, a number that is none.
    """
    header, length = _header(path)
    _check_kind(header)
    columns, rows, count = (int(text) for text in _field(header, "sizes").split())
    check_size(columns, rows, limits)
    kind = np.dtype(TYPES[_field(header, "type")]).newbyteorder("<" if header.get("endian") != "big" else ">")
    grid = _grid(header, (count, rows, columns))
    stored = Stored(path, length, kind, grid.shape, PACKED[_field(header, "encoding")])
    return Volume(path.stem, grid, stored.reader(limits), (path,))


def _header(path: Path) -> tuple[Header, int]:
    """The header, and how many bytes it takes: it ends with an empty line."""
    with path.open("rb") as file:
        start = file.read(MAX_HEADER)
    end = re.search(rb"\r?\n\r?\n", start)
    if not start.startswith(b"NRRD000"):
        raise UnreadableInput(f"expected NRRD, got a file that begins with {start[:8]!r}; export the scan again")
    if end is None:
        raise InputTooLarge(f"expected a text header of at most {MAX_HEADER:,} bytes, got more; {ADVICE}")
    lines = [line.strip() for line in start[: end.start()].decode("latin-1").splitlines()[1:]]
    # `key:=value` is a remark, not a field.
    fields = [line.partition(":") for line in lines if not line.startswith("#") and ":=" not in line]
    return {key.strip().lower(): value.strip() for key, _, value in fields}, end.end()


def _field(header: Header, name: str) -> str:
    if name not in header:
        raise UnreadableInput(f"expected the field {name!r} in the header, got none; {ADVICE}")
    return header[name].lower() if name != "sizes" else header[name]


def _check_kind(header: Header) -> None:
    known = {"dimension": ["3"], "type": TYPES, "encoding": PACKED}
    for name, wanted in known.items():
        if _field(header, name) not in wanted:
            raise UnsupportedInput(f"expected {name} to be {' or '.join(wanted)}, got {header[name]}; {ADVICE}")
    for name in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        if header.get(name, "0") != "0":
            raise UnsupportedInput(f"expected the voxels right behind the header, got the field {name!r}; {ADVICE}")


def _grid(header: Header, shape: tuple[int, int, int]) -> Grid:
    space = header.get("space", "").lower()
    if space not in SPACES or "space directions" not in header:
        raise UnsupportedInput(
            f"expected a space among {', '.join(SPACES)} with its directions, without which left and right are not "
            f"known, got {space or 'none'}; {ADVICE}"
        )
    to_ours = np.diag(SPACES[space])
    steps = to_ours @ np.array(_vectors(header["space directions"], 3)).T
    (origin,) = _vectors(_field(header, "space origin"), 1)
    spacing = np.linalg.norm(steps, axis=0)
    rows = steps / np.maximum(spacing, 1e-9)
    return Grid(
        shape,
        _triple(spacing),
        _triple(to_ours @ np.array(origin)),
        (_triple(rows[0]), _triple(rows[1]), _triple(rows[2])),
    )


def _vectors(text: str, count: int) -> list[list[float]]:
    vectors = [[float(number) for number in inner.split(",")] for inner in re.findall(r"\(([^()]*)\)", text)]
    if len(vectors) != count or any(len(vector) != 3 for vector in vectors):
        raise UnreadableInput(f"expected {count} vectors of three numbers, got {text!r}; {ADVICE}")
    return vectors


def _triple(values: Floats) -> Triple:
    x, y, z = values.tolist()
    return x, y, z
