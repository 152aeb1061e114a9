"""Scans in the order of the patient's axes, however they are stored.

One scan may be stored from the feet or from the head, with left and right swapped, lying on the belly, or cut from the
side. A network must see it one way: x to the left, y to the back, z to the head, as far as stored axes, swapped and
reversed, can be brought to that. Nothing is resampled: each voxel has one index as stored and one in this order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leanmed.errors import InputTooLarge, UnsupportedInput
from leanmed.reading.ct import Floats, Grid, Hounsfield, Triple, Volume

OBLIQUE = 0.7  # share of the way from slice to slice that must lead to the head: 45 degrees
MAX_TURNED = 2**28  # voxels of a scan that must be held whole, since it is not stored in axial slices


@dataclass(frozen=True)
class Orientation:
    """How the axes of a scan as stored go with those of the patient.

    Args:
        shape: voxels along (x, y, z) as stored.
        order: for the patient's x, y and z, which stored axis lies nearest to it.
        flipped: for the patient's x, y and z, whether that axis is stored the other way round.
    """

    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> Orientation:
        """The orientation of a grid; each of its axes goes with one of the patient's."""
        direction = np.array(grid.direction)  # rows: the patient's axes; columns: those stored
        order = max(permutations(range(3)), key=lambda axes: float(np.abs(direction[range(3), axes]).sum()))
        flips = [bool(direction[to, axis] < 0) for to, axis in enumerate(order)]
        z, y, x = grid.shape
        return cls((x, y, z), (order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    @property
    def is_axial(self) -> bool:
        """Whether the slices as stored are axial."""
        return self.order[2] == 2

    def stored(self, index: ArrayLike) -> Floats:
        """Continuous voxel indices (..., 3), x, y, z in the patient's order -> as stored."""
        ordered = np.asarray(index, np.float64)
        stored = np.empty_like(ordered)
        for to, axis in enumerate(self.order):
            stored[..., axis] = self._along(ordered[..., to], to)
        return stored

    def ordered(self, index: ArrayLike) -> Floats:
        """Continuous voxel indices (..., 3), x, y, z as stored -> in the patient's order; the inverse of `stored`."""
        stored = np.asarray(index, np.float64)
        return np.stack([self._along(stored[..., axis], to) for to, axis in enumerate(self.order)], axis=-1)

    def level(self, z: int) -> int:
        """An axial slice in the patient's order, counted from the feet -> as stored, or the other way."""
        return int(self._along(z, 2))

    def stored_boxes(self, xyxy: ArrayLike) -> Floats:
        """Boxes (n, 4) in an axial slice, xyxy counted from its corner, in the patient's order -> as stored.

        Of a scan that is not stored in axial slices, x and y are the two stored axes that lie across the body, in their
        order.
        """
        return self._boxes(xyxy, self._across().argsort())

    def ordered_boxes(self, xyxy: ArrayLike) -> Floats:
        """Boxes (n, 4) as `stored_boxes` gives them -> in the patient's order."""
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 2, 2)
        swapped = boxes[..., self._across().argsort().argsort()].reshape(-1, 4)
        return self._boxes(swapped, np.arange(2))

    def turned(self, stored: NDArray[Any]) -> NDArray[Any]:
        """A whole scan, or whole axial slices of it, (z, y, x) as stored -> a view of it in the patient's order."""
        ordered = stored.transpose([2 - self.order[to] for to in (2, 1, 0)])
        flips = [slice(None, None, -1 if self.flipped[to] else 1) for to in (2, 1, 0)]
        return ordered[tuple(flips)]

    def as_stored(self, ordered: NDArray[Any]) -> NDArray[Any]:
        """A whole scan (z, y, x) in the patient's order -> a view of it as stored; the inverse of `turned`."""
        flips = [slice(None, None, -1 if self.flipped[to] else 1) for to in (2, 1, 0)]
        return ordered[tuple(flips)].transpose(np.argsort([2 - self.order[to] for to in (2, 1, 0)]))

    def grid(self, stored: Grid) -> Grid:
        """The grid as stored -> in the patient's order; every voxel keeps its place in the world."""
        direction = np.array(stored.direction)[:, self.order] * np.where(self.flipped, -1.0, 1.0)
        x, y, z = (self.shape[axis] for axis in self.order)
        return Grid(
            (z, y, x),
            _triple(np.array(stored.spacing)[list(self.order)]),
            _triple(stored.world(self.stored((0.0, 0.0, 0.0)))),
            (_triple(direction[0]), _triple(direction[1]), _triple(direction[2])),
        )

    def _along(self, values: Any, to: int) -> Any:
        return self.shape[self.order[to]] - 1 - values if self.flipped[to] else values

    def _across(self) -> NDArray[np.intp]:
        """The stored axes that go with the patient's x and y."""
        return np.array(self.order[:2])

    def _boxes(self, xyxy: ArrayLike, columns: NDArray[np.intp]) -> Floats:
        """Reverse boxes along the patient's x and y where these are flipped, and put x and y in another order."""
        corners = np.array(xyxy, np.float64).reshape(-1, 2, 2)
        for to in (0, 1):
            if self.flipped[to]:
                corners[:, :, to] = self.shape[self.order[to]] - corners[:, ::-1, to]
        return corners[:, :, columns].reshape(-1, 4)


def in_order(volume: Volume) -> Volume:
    """A scan in the order of the patient's axes: its slices are axial, from the feet to the head.

    Of a scan that is stored in axial slices, no others are read than those asked for; any other is read whole at the
    first of them, and kept.

    Raises:
        UnsupportedInput: no axis leads to the head, or one slice alone that is not axial.
        InputTooLarge: not stored in axial slices, and more than `MAX_TURNED` voxels; when it is read.
    """
    orientation = Orientation.of(volume.grid)
    count = len(volume)
    if abs(volume.grid.direction[2][orientation.order[2]]) < OBLIQUE:
        raise UnsupportedInput(
            f"{volume.uid}: expected slices that are axial, or cut from the side or the front, got oblique ones; "
            "resample the scan to axial slices"
        )

    if count == 1 and not orientation.is_axial:
        raise UnsupportedInput(
            f"{volume.uid}: expected axial slices, got one cut from the side or the front, alone; give the whole scan"
        )

    def axial(first: int, end: int) -> Hounsfield:
        low, high = (count - end, count - first) if orientation.flipped[2] else (first, end)
        return orientation.turned(volume.voxels(low, high))

    @cache
    def whole() -> Hounsfield:
        if np.prod(volume.grid.shape) > MAX_TURNED:
            raise InputTooLarge(
                f"{volume.uid}: expected at most {MAX_TURNED:,} voxels in a scan that is not stored in axial slices, "
                f"got a shape of {volume.grid.shape}; save it in axial slices"
            )
        return orientation.turned(volume.voxels(0, count))

    read = axial if orientation.is_axial else lambda first, end: whole()[first:end]
    return replace(volume, grid=orientation.grid(volume.grid), read=read)


def _triple(values: Floats) -> Triple:
    x, y, z = values.tolist()
    return x, y, z
