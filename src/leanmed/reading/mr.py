"""MR volumes as networks take them: whole-volume z-scores, axial slices with their neighbours; and masks written back.

An MR scanner's numbers have no unit: only by the mean and the standard deviation of its own volume can a voxel be
compared with another volume's. However a volume is stored, its slices are axial, counted from the feet, with the
patient's left on the right and the back below; a mask in this order is turned back when it is written.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import InputTooLarge, UnsupportedInput
from leanmed.files import whole_file
from leanmed.reading.ct import Grid, Volume
from leanmed.reading.nifti import nifti_bytes
from leanmed.reading.orientation import MAX_TURNED, Orientation, in_order
from leanmed.reading.raster import DEFAULT_LIMITS, Limits
from leanmed.reading.source import border, name_of
from leanmed.reading.volume import open_volume

Scores = NDArray[np.float32]
Marks = NDArray[np.uint8]
Array = TypeVar("Array", bound=NDArray[Any])

NIFTI = (".nii", ".nii.gz")
KEPT_VOLUMES = 2
KEPT_BYTES = 2**29


class VolumeCache(Generic[Array]):
    """The arrays of the volumes that were read last, so that who goes from slice to slice reads a file once.

    A file that has changed since is read again. May be used from several threads at once.

    Args:
        read: a volume's path -> its array.
        most: so many volumes are kept.
        most_bytes: so many bytes are kept of all; an array that is larger alone is not kept.
    """

    def __init__(self, read: Callable[[Path], Array], most: int = KEPT_VOLUMES, most_bytes: int = KEPT_BYTES) -> None:
        self._read, self._most, self._most_bytes = read, most, most_bytes
        self._kept: OrderedDict[tuple[Any, ...], Array] = OrderedDict()
        self._lock = Lock()

    def __call__(self, path: Path) -> Array:
        """The array of a volume, read-only."""
        key = _version(path)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        array = self._read(path)
        array.flags.writeable = False
        with self._lock:
            self._kept[key] = array
            while len(self._kept) > self._most or sum(kept.nbytes for kept in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
        return array


def _version(path: Path) -> tuple[Any, ...]:
    """A path with what changes when its content does: of a folder when files come and go."""
    try:
        status = path.stat()
    except OSError:  # whoever opens it is told why
        return (path,)
    return path, status.st_mtime_ns, status.st_size


def open_mr(path: Path, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Open an MR volume, as stored and in the scanner's own numbers.

    Args:
        path: an `.mhd` file with its `.raw` beside it, an `.mha`, `.nrrd`, `.nii` or `.nii.gz` file, or a folder with
            the slices of one DICOM series.
        limits: caps as `open_volume` takes them.

    Raises: as `open_volume`.
    """
    return open_volume(path, limits, "MR")


def mr_grid(path: Path) -> Grid:
    """Where the voxels of an MR volume, or of a mask on one, lie, in the patient's order.

    Raises:
        UnsupportedInput: oblique slices.
        InputError: as `open_mr`.
    """
    return _grid_of(*_version(path))


@lru_cache(maxsize=1024)
def _grid_of(path: Path, *_: float) -> Grid:
    volume = open_mr(path)
    with border(name_of(path), "MR scan"):
        return in_order(volume).grid


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole MR volume, read once.

    Args:
        path: the file, or the folder of a series.
        scores: (z, h, w) z-scores in the patient's order.
        stored: the grid as stored.
    """

    path: Path
    scores: Scores
    stored: Grid

    @property
    def grid(self) -> Grid:
        """Where the voxels lie, in the patient's order."""
        return Orientation.of(self.stored).grid(self.stored)

    def slice(self, z: int) -> Scores:
        """As `read_mr_slice`."""
        return _with_neighbours(self.scores, z)


def open_whole(path: Path, limits: Limits = DEFAULT_LIMITS) -> Whole:
    """Read a whole MR volume; see `read_mr_volume`, whose errors it raises."""
    scores, stored, _ = read_mr_volume(path, limits)
    return Whole(path, scores, stored)


def read_mr_volume(path: Path, limits: Limits = DEFAULT_LIMITS) -> tuple[Scores, Grid, Orientation]:
    """Read a whole MR volume.

    Returns:
        The z-scores by the mean and standard deviation of all voxels, (z, h, w) float32 in the patient's order; the
        grid as stored; and how the volume is stored.

    Raises:
        UnsupportedInput: NaN or infinity among the voxels, one value in all of them, or oblique slices.
        InputTooLarge: more than `MAX_TURNED` voxels, or over a cap.
        InputError: as `open_mr`.
    """
    volume = open_mr(path, limits)
    with border(name_of(path), "MR scan"):
        return _scores(read_whole(volume)), volume.grid, Orientation.of(volume.grid)


def read_whole(volume: Volume) -> Scores:
    """Every voxel of a volume as it is stored, (z, h, w) float32 in the patient's order.

    Raises:
        UnsupportedInput: NaN or infinity among them, or oblique slices.
        InputTooLarge: more than `MAX_TURNED`.
        InputError: voxels that cannot be read.
    """
    if np.prod(volume.grid.shape) > MAX_TURNED:
        raise InputTooLarge(
            f"expected at most {MAX_TURNED:,} voxels, got a shape of {volume.grid.shape}; cut or resample the volume"
        )
    ordered = in_order(volume)
    voxels = ordered.voxels(0, len(ordered))
    if not np.isfinite(voxels).all():
        raise UnsupportedInput(
            "expected finite voxels, got NaN or infinity; put 0 where nothing was measured, in Python: "
            "numpy.nan_to_num(voxels, nan=0, posinf=0, neginf=0)"
        )
    return voxels


def _scores(voxels: Scores) -> Scores:
    if voxels.min() == voxels.max():
        raise UnsupportedInput(
            f"expected a volume of several values, got {voxels.min():g} in every voxel; check the file, or leave it out"
        )
    mean, spread = voxels.mean(dtype=np.float64), voxels.std(dtype=np.float64)
    scores: Scores = (voxels - np.float32(mean)) / np.float32(spread)
    return scores


_kept_scores = VolumeCache[Scores](lambda path: read_mr_volume(path)[0])


def read_mr_slice(path: Path, z: int) -> Scores:
    """One axial slice of an MR volume with the slices next to it.

    The volume's z-scores are kept for the next slices, of the last `KEPT_VOLUMES` volumes and at most `KEPT_BYTES`.

    Args:
        path: as `open_mr` takes it.
        z: which slice, from 0 at the patient's feet.

    Returns:
        (h, w, 3) float32: z-scores of the slices below it, at it and above it; at an end the slice itself again.

    Raises:
        IndexError: no such slice.
        InputError: as `read_mr_volume`.
    """
    volume = _kept_scores(path)
    if not 0 <= z < len(volume):
        raise IndexError(f"{path}: expected a slice within 0 to {len(volume) - 1}, got {z}")
    return _with_neighbours(volume, z)


def _with_neighbours(volume: Scores, z: int) -> Scores:
    return np.stack([volume[max(z - 1, 0)], volume[z], volume[min(z + 1, len(volume) - 1)]], axis=2)


def write_mask_nifti(path: Path, mask: Marks, like: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write a mask as a NIfTI file that lies on the volume it was made of, voxel by voxel, whole or not at all.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        mask: (z, h, w) uint8 in the patient's order, as `read_mr_volume` gives the volume.
        like: the volume. The file is stored as it is, turned back; of NIfTI its qform and sform are copied.
        limits: caps on reading the volume's header.

    Raises:
        ValueError: another ending, or a mask of another type or shape than the volume.
        InputError: as `open_mr`.
        MissingExtraError: without nibabel.
    """
    if not path.name.lower().endswith(NIFTI):
        raise ValueError(f"expected a name that ends in {' or '.join(NIFTI)}, got {path.name}; choose such a name")
    content = mask_as_nifti(mask, open_mr(like, limits).grid, like)
    with whole_file(path) as temporary:
        packed = path.name.lower().endswith(".gz")
        temporary.write_bytes(gzip.compress(content, mtime=0) if packed else content)


def mask_as_nifti(mask: Marks, stored: Grid, like: Path) -> bytes:
    """The bytes of an unpacked NIfTI file with a mask; see `write_mask_nifti`, whose errors of the mask it raises.

    Args:
        mask: (z, h, w) uint8 in the patient's order.
        stored: the volume's grid, as it is stored.
        like: the volume.
    """
    orientation = Orientation.of(stored)
    shape = orientation.grid(stored).shape
    if mask.dtype != np.uint8 or mask.shape != shape:
        raise ValueError(f"expected a mask of uint8 in a shape of {shape}, got {mask.dtype} in {mask.shape}")
    return nifti_bytes(orientation.as_stored(mask), stored, like if like.name.lower().endswith(NIFTI) else None)
