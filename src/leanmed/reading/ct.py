"""Scans, of CT or MR: where their voxels lie in the world, and the values of the slices that are asked for.

Coordinates are triples (x, y, z) and the world is the patient's, in mm: x to the left, y to the back, z to the head
(LPS, as in DICOM, ITK and LUNA16). A voxel's index is continuous, and whole numbers are voxel centres. Only arrays
and their shapes run the other way, (z, y, x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leanmed.errors import UnreadableInput, UnsupportedInput

Floats = NDArray[np.float64]
Hounsfield = NDArray[np.float32]
Triple = tuple[float, float, float]
Modality = Literal["CT", "MR"]

A = {"CT": "a CT", "MR": "an MR"}  # as messages name a scan or a series of a modality
MAX_SLICES = 5000  # the finest whole-body scans have about 3000
ORTHONORMAL = 1e-3  # how far direction cosines may be off, after being written with few digits


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a scan lie.

    Args:
        shape: voxels along (z, y, x).
        spacing: mm between voxel centres along (x, y, z).
        origin: world (x, y, z) of the centre of voxel 0, 0, 0, in mm.
        direction: three rows; its columns are the unit vectors of the axes x, y, z of the array in the world.

    Raises:
        UnsupportedInput: no voxels or too many slices, a spacing that is not positive, a number that is not finite,
            or axes that are not at right angles to each other.
    """

    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[Triple, Triple, Triple]

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.shape[0] > MAX_SLICES:
            raise UnsupportedInput(
                f"expected 1 to {MAX_SLICES} slices with pixels in them, got a shape of {self.shape}"
            )
        if not np.isfinite([*self.spacing, *self.origin]).all() or min(self.spacing) <= 0:
            raise UnsupportedInput(
                f"expected a finite origin and a spacing above 0 mm, got origin {self.origin} and spacing "
                f"{self.spacing}; export the scan again"
            )
        axes = np.array(self.direction, np.float64)
        if axes.shape != (3, 3) or not np.allclose(axes.T @ axes, np.eye(3), atol=ORTHONORMAL):
            raise UnsupportedInput(
                f"expected axes of unit length at right angles, got direction {self.direction}; "
                "resample the scan to such a grid"
            )

    def world(self, voxel: ArrayLike) -> Floats:
        """Continuous voxel indices (..., 3) as x, y, z -> world mm (..., 3)."""
        world: Floats = np.asarray(voxel, np.float64) @ self._steps().T + self.origin
        return world

    def voxel(self, world: ArrayLike) -> Floats:
        """World mm (..., 3) -> continuous voxel indices (..., 3) as x, y, z; the inverse of `world`."""
        voxel: Floats = (np.asarray(world, np.float64) - self.origin) @ np.linalg.inv(self._steps()).T
        return voxel

    def _steps(self) -> Floats:
        """(3, 3): as columns, the way in the world from a voxel to the next along x, y and z."""
        return np.array(self.direction) * self.spacing


@dataclass(frozen=True)
class Volume:
    """A scan, CT in Hounsfield units or MR in the scanner's own; no voxel is read before it is asked for.

    Args:
        uid: the series' identifier, or the file's name where it says none.
        grid: where the voxels lie.
        read: (z0, z1) -> the stored slices z0 to z1 - 1, (z1 - z0, y, x).
        files: what the scan is made of.
        notes: whole sentences on what the user should know of it, such as files that were passed over.
        frames: of DICOM, for each stored slice which frame of its entry in `files` it is, from 0.
    """

    uid: str
    grid: Grid
    read: Callable[[int, int], Hounsfield]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.grid.shape[0]

    def hu(self, first: int, end: int) -> Hounsfield:
        """As `voxels`, of CT, whose values are Hounsfield units."""
        return self.voxels(first, end)

    def voxels(self, first: int, end: int) -> Hounsfield:
        """Slices `first` to `end` - 1, (end - first, y, x); no other slice is read.

        Raises:
            IndexError: slices that the scan has not got.
            InputError: pixels that cannot be read, or not all of them.
        """
        if not 0 <= first < end <= len(self):
            raise IndexError(f"expected slices within 0 to {len(self)}, got {first} to {end}")
        slices = self.read(first, end)
        if slices.shape != (end - first, *self.grid.shape[1:]):
            raise UnreadableInput(f"{self.uid}: expected slices of {self.grid.shape[1:]}, got {slices.shape[1:]}")
        return slices
