"""Slices of a CT scan as networks take them: 8-bit, 1 mm per pixel, nothing but the lungs and a rim around them.

The form is that of LUNA16's slices as they are passed around: window [-1000, 400] HU, black outside the lungs. The
three channels are the slice below it, towards the feet, the slice itself and the one above. However a scan is stored,
its slices have the patient's left on the right and the back below; places in them come back as stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from leanmed.errors import InputTooLarge, MissingExtraError, UnsupportedInput
from leanmed.reading.ct import Floats, Grid, Volume
from leanmed.reading.orientation import Orientation, in_order
from leanmed.reading.volume import open_volume

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LUNG_WINDOW_HU = (-1000.0, 400.0)  # HU that become 0 and 255
AIR = 109  # grey, -400 HU: below it is lung, above it tissue
COARSE = 3  # mm per pixel at which lungs are sought
RIM = 9  # mm of tissue kept around the lungs
CLOSING = 15  # mm, half the width of dents that are closed first
SMALL = 0.1  # share of the largest region, below which a region is bowel or a windpipe's end and no lung
MIN_AREA = 300.0  # mm2 of lung in a slice
MAX_FIELD = 2000  # mm along a side of a slice; scanners reach 800
MAX_VOXELS = 10**9  # bytes of a scan made ready; 1000 slices of 500 mm are a quarter
CHUNK = 2**22  # voxels as stored that are resampled at a time


def window(hu: NDArray[Any]) -> Pixels:
    """HU, integers or floats, to grey: `LUNG_WINDOW_HU` becomes 0..255, values outside it 0 or 255.

    Raises:
        UnsupportedInput: NaN or infinity among them.
    """
    if not np.isfinite(hu).all():
        raise UnsupportedInput(
            "expected finite Hounsfield units, got NaN or infinity; put -1000, air, where nothing was measured"
        )
    low, high = LUNG_WINDOW_HU
    grey = (hu - np.float32(low)) * np.float32(255 / (high - low))
    rounded: Pixels = (np.clip(grey, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return rounded


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice, ready for a network.

    Args:
        pixels: (h, w, 3), 1 mm each; the channels are the slices below, at and above z, the edge repeated, or z thrice.
        z: which axial slice it is, from 0 as stored.
        corner: (x, y) of the pixels' corner, in pixels of the whole slice at 1 mm.
        scale: stored pixels per pixel, along (x, y).
        orientation: how the scan is stored; the pixels are in the order of the patient's axes.
    """

    pixels: Pixels
    z: int
    corner: tuple[int, int]
    scale: tuple[float, float]
    orientation: Orientation

    @property
    def level(self) -> int:
        """Which axial slice it is, from 0 at the feet."""
        return self.orientation.level(self.z)

    def ordered(self, points: ArrayLike) -> Floats:
        """Points (..., 2) in this slice's pixels -> in pixels as large as stored, in the patient's order."""
        return (np.asarray(points, np.float64) + self.corner) * self.scale

    def stored(self, points: ArrayLike) -> Floats:
        """Points (..., 2) in this slice's pixels -> in pixels of the slice as it is stored, counted from its corner."""
        return self.voxel(points)[..., sorted(self.orientation.order[:2])] + 0.5

    def stored_boxes(self, xyxy: ArrayLike) -> Floats:
        """Boxes (n, 4) in this slice's pixels -> in pixels of the slice as it is stored, counted from its corner."""
        return self.orientation.stored_boxes(self.ordered(np.reshape(xyxy, (-1, 2, 2))))

    def voxel(self, points: ArrayLike) -> Floats:
        """Points (..., 2) in this slice's pixels -> continuous voxel indices (..., 3) as x, y, z, as stored."""
        xy = self.ordered(points) - 0.5  # a pixel reaches from its corner, a voxel lies about its centre
        index = np.concatenate([xy, np.full((*xy.shape[:-1], 1), self.level)], axis=-1)
        return self.orientation.stored(index)


@dataclass(frozen=True, eq=False)
class Scan:
    """A whole scan, made ready once.

    Args:
        volume: what was read, as stored.
        grey: (n, h, w), every axial slice at 1 mm, from the feet, in the order of the patient's axes.
        lungs: (n, h / 3, w / 3), the lungs and a rim around them.
    """

    volume: Volume
    grey: Pixels
    lungs: Mask

    @property
    def orientation(self) -> Orientation:
        """How the scan is stored."""
        return Orientation.of(self.volume.grid)

    @property
    def grid(self) -> Grid:
        """Where voxels lie, in the order of the patient's axes."""
        return self.orientation.grid(self.volume.grid)

    @property
    def searched(self) -> list[int]:
        """The axial slices that meet the lungs, from 0 at the feet."""
        found: list[int] = np.flatnonzero(self.lungs.sum(axis=(1, 2)) * COARSE**2 >= MIN_AREA).tolist()
        return found

    def slices(self, *, neighbours: bool = True) -> Iterator[Slice]:
        """Each axial slice that meets the lungs, from the feet, cropped to the box that holds the lungs of all.

        Args:
            neighbours: as for `three_slices`.
        """
        seen, orientation = self.lungs.max(axis=0), self.orientation
        rows, columns = _extent(seen.max(axis=1)), _extent(seen.max(axis=0))
        grey, (height, width) = self.grey[:, rows, columns], self.grey.shape[1:]
        whole = Slice(grey[:0], 0, (columns.start, rows.start), _scale(self.grid), orientation)
        for level in self.searched:
            shown = grey[_channels(level, len(grey), neighbours)]
            lungs = _fine(self.lungs[level], height, width)[rows, columns]
            yield replace(whole, pixels=_three_channels(shown, lungs), z=orientation.level(level))


def three_slices(volume: Volume, z: int, *, neighbours: bool = True) -> Slice:
    """Slice z whole, reading no other slices than its neighbours.

    The lungs are sought in the slice alone; where none are found, all is black.

    Args:
        volume: an open scan.
        z: an axial slice, from 0 as stored.
        neighbours: show the slices beside it in the other two channels, or else the slice itself three times, which
            is what a network expects that was taught on grey images.

    Raises:
        IndexError: no such slice.
        InputError: pixels that cannot be read, or a slice that is too wide.
        MissingExtraError: without scipy.
    """
    ordered, orientation = in_order(volume), Orientation.of(volume.grid)
    channels = _channels(orientation.level(z), len(ordered), neighbours)
    first = channels[0]
    grey = _at_one_mm(ordered, first, channels[-1] + 1)[[channel - first for channel in channels]]
    return Slice(_three_channels(grey, _lungs_of(grey[1])), z, (0, 0), _scale(ordered.grid), orientation)


def read_slice(path: Path, z: int) -> Pixels:
    """(h, w, 3), slice z of the volume at `path`, as `three_slices` has it."""
    return three_slices(open_volume(path), z).pixels


def only_lungs(grey: Pixels) -> Pixels:
    """A slice (h, w) at 1 mm, black outside the lungs and the rim around them."""
    return np.where(_lungs_of(grey), grey, np.uint8(0))


def prepare(volume: Volume) -> Scan:
    """Read a whole scan, every slice once.

    Raises:
        UnsupportedInput: slices that are oblique or too wide, no lungs in them, or NaN.
        InputTooLarge: more than `MAX_VOXELS`, or as `in_order`.
        InputError: pixels that cannot be read.
        MissingExtraError: without scipy.
    """
    ordered = in_order(volume)
    height, width = _checked_size(ordered)
    if len(ordered) * height * width > MAX_VOXELS:
        raise InputTooLarge(
            f"{volume.uid}: expected at most {MAX_VOXELS:,} voxels of 1 mm in a slice, got {len(ordered)} slices of "
            f"{height} x {width}; cut the scan to the chest"
        )
    grey = np.empty((len(ordered), height, width), np.uint8)
    step = max(1, CHUNK // (ordered.grid.shape[1] * ordered.grid.shape[2]))
    for z in range(0, len(ordered), step):
        grey[z : z + step] = _at_one_mm(ordered, z, min(z + step, len(ordered)))
    scan = Scan(volume, grey, find_lungs(grey))
    if not scan.searched:
        raise UnsupportedInput(
            f"{volume.uid}: expected a chest CT in Hounsfield units with lungs in it, found none; check the scan"
        )
    return scan


def find_lungs(grey: Pixels) -> Mask:
    """Lungs with `RIM` mm around them, in slices (n, h, w) at 1 mm -> (n, h / 3, w / 3), rounded up.

    What the body, the largest piece of tissue, encloses in a slice is lung, if it is a large enough region of all
    slices given. A closing takes in what sits on the pleura and around the hila.

    Raises:
        MissingExtraError: without scipy.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingExtraError("finding lungs in CT", "ct") from error
    coarse = grey[:, ::COARSE, ::COARSE]
    body = _largest(ndimage.label(coarse >= AIR)[0], share=1.0)
    around = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))])
    regions, count = ndimage.label(~body, around)
    enclosed = np.ones(count + 1, bool)
    edges = (regions[:, 0], regions[:, -1], regions[:, :, 0], regions[:, :, -1])
    enclosed[np.concatenate([[0], *(edge.ravel() for edge in edges)])] = False
    lungs = _largest(ndimage.label(enclosed[regions])[0], share=SMALL)
    rim, closing = RIM // COARSE, CLOSING // COARSE
    grown = ndimage.maximum_filter(lungs, (1, *2 * (2 * (closing + rim) + 1,)))
    shrunk: Mask = ndimage.minimum_filter(grown, (1, *2 * (2 * closing + 1,)))
    return shrunk


def one_mm_size(grid: Grid) -> tuple[int, int]:
    """Height and width of a slice at 1 mm per pixel, rounded; of a scan in the order of the patient's axes."""
    (_, rows, columns), (dx, dy, _) = grid.shape, grid.spacing
    return max(1, round(rows * dy)), max(1, round(columns * dx))


def _scale(grid: Grid) -> tuple[float, float]:
    height, width = one_mm_size(grid)
    return grid.shape[2] / width, grid.shape[1] / height


def _checked_size(volume: Volume) -> tuple[int, int]:
    height, width = one_mm_size(volume.grid)
    if max(height, width) > MAX_FIELD:
        raise UnsupportedInput(
            f"{volume.uid}: expected slices of at most {MAX_FIELD} mm, got {height} x {width} mm; check the spacing"
        )
    return height, width


def _at_one_mm(volume: Volume, first: int, end: int) -> Pixels:
    """Clipping comes before resampling, so that metal does not ring."""
    size, (low, high) = _checked_size(volume)[::-1], LUNG_WINDOW_HU
    clipped = np.clip(volume.voxels(first, end), low, high)
    resized = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in clipped]
    return window(np.stack([np.asarray(image) for image in resized]))


def _channels(z: int, count: int, neighbours: bool) -> list[int]:
    return [max(z - 1, 0), z, min(z + 1, count - 1)] if neighbours else [z, z, z]


def _three_channels(grey: Pixels, lungs: Mask) -> Pixels:
    return np.ascontiguousarray(np.where(lungs, grey, np.uint8(0)).transpose(1, 2, 0))


def _lungs_of(grey: Pixels) -> Mask:
    """Whether a pixel is kept, (h, w) -> (h, w)."""
    return _fine(find_lungs(grey[np.newaxis])[0], *grey.shape)


def _fine(coarse: Mask, height: int, width: int) -> Mask:
    return coarse.repeat(COARSE, axis=0).repeat(COARSE, axis=1)[:height, :width]


def _extent(occupied: Mask) -> slice:
    """The fine pixels from the first to the last coarse one that is occupied."""
    indices = np.flatnonzero(occupied)
    return slice(int(indices[0]) * COARSE, (int(indices[-1]) + 1) * COARSE)


def _largest(regions: NDArray[np.int32], share: float) -> Mask:
    """The regions, numbered from 1, that are at least a share of the largest one's size."""
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    keep = (sizes > 0) & (sizes >= share * sizes.max())
    kept: Mask = keep[regions]
    return kept
