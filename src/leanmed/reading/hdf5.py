"""Volumes that are data sets of an HDF5 file, as many groups share what they have made ready for training.

`DIR/cases.h5/image0` names the data set `image0` of the file `cases.h5`. Nothing in such a file says how the volume
lies: its axes are taken as (z, y, x), z from the patient's feet, y to the back and x to the left. An attribute
`spacing` of the data set, or of the file, gives mm along (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from leanmed.errors import MissingExtraError, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import Grid, Hounsfield, Triple, Volume
from leanmed.reading.raster import Limits, check_size
from leanmed.reading.voxels import check_scan_bytes

SUFFIXES = (".h5", ".hdf5")
SPACING = "spacing"


def hdf5_parts(path: Path) -> tuple[Path, str] | None:
    """The HDF5 file and the name of the data set in it that a path names; None: it names none."""
    for file in path.parents:
        if file.suffix.lower() in SUFFIXES and file.is_file():
            return file, path.relative_to(file).as_posix()
    return None


def hdf5_volumes(file: Path) -> list[str]:
    """The names of the data sets of three axes in an HDF5 file, sorted.

    Raises:
        MissingExtraError: without h5py.
        OSError: no HDF5.
    """
    with _opened(file) as content:
        found: list[str] = []
        content.visititems(lambda name, item: found.append(name) if len(getattr(item, "shape", ())) == 3 else None)
    return sorted(found)


def hdf5_spacing(path: Path) -> Triple | None:
    """Mm along (z, y, x) of a data set, where the file says it.

    Raises:
        UnsupportedInput: it does not say three numbers.
        MissingExtraError: without h5py.
        Exception: whatever h5py raises on damaged files.
    """
    file, name = hdf5_parts(path) or (path, "")
    with _opened(file) as content:
        said = content[name].attrs.get(SPACING, content.attrs.get(SPACING))
    if said is None:
        return None
    numbers = np.asarray(said, np.float64).ravel().tolist()
    if len(numbers) != 3:
        raise UnsupportedInput(f"expected the attribute {SPACING} to be three numbers, z, y and x, got {numbers}")
    return numbers[0], numbers[1], numbers[2]


def open_hdf5(path: Path, limits: Limits) -> Volume:
    """Open a data set of an HDF5 file as a volume, named by the path of the file and the data set's name behind it.

    Raises:
        UnreadableInput: no such data set.
        UnsupportedInput: other than three axes of numbers.
        InputTooLarge: slices over `max_pixels`, voxels over `max_scan_bytes`.
        MissingExtraError: without h5py.
        Exception: whatever h5py raises on damaged files.
    """
    file, name = hdf5_parts(path) or (path, "")
    with _opened(file) as content:
        if name not in content:
            raise UnreadableInput(f"expected a data set {name} in {file.name}, found none; check its name")
        shape: tuple[int, ...] = getattr(content[name], "shape", ())
        kind = getattr(content[name], "dtype", np.dtype("V1"))
    if len(shape) != 3 or kind.kind not in "iuf":
        raise UnsupportedInput(f"expected numbers along z, y and x, got {kind} in a shape of {shape}; save one volume")
    check_size(shape[2], shape[1], limits)
    check_scan_bytes(int(np.prod(shape)) * kind.itemsize, limits)
    dz, dy, dx = hdf5_spacing(path) or (1.0, 1.0, 1.0)
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid((shape[0], shape[1], shape[2]), (dx, dy, dz), (0.0, 0.0, 0.0), axes)

    def read(first: int, end: int) -> Hounsfield:
        with _opened(file) as content:
            return np.asarray(content[name][first:end], np.float32)

    return Volume(f"{file.stem}/{name}", grid, read, (file,))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading HDF5", "h5") from error
    with h5py.File(file, "r") as content:
        yield content
