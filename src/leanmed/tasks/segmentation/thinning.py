"""The skeleton of a mask: a line one pixel wide along its middle, after Zhang and Suen (1984)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from leanmed.figures.bootstrap import Ints

Mask = NDArray[np.bool_]

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # from the north, clockwise
_BITS = 1 << np.arange(8)
_EAST, _SOUTH_EAST, _SOUTH = 2, 3, 4  # positions in `AROUND`
_CORNER = int(_BITS[[_EAST, _SOUTH_EAST, _SOUTH]].sum())


def skeleton(mask: Mask) -> Mask:
    """The mask thinned from its border inwards until only lines are left.

    Zhang and Suen delete a square of two by two pixels whole; here its upper left pixel stays, so that nothing that
    is marked vanishes.

    Args:
        mask: (h, w).

    Returns:
        (h, w), a part of the mask.
    """
    padded = np.pad(mask, 1)
    left = padded.ravel()  # a view: deletions show in `padded`
    offsets = np.array([y * padded.shape[1] + x for y, x in AROUND])
    # Only pixels on the border can be deleted, and each deletion moves the border to the pixel's neighbours.
    border = np.flatnonzero(padded & ~binary_erosion(padded, np.ones((3, 3))))
    idle, step = 0, 0
    while idle < 2:
        codes = _codes(left, border, offsets)
        going = _DELETED[step][codes] & ~_alone(left, border, codes, offsets)
        gone = border[going]
        left[gone] = False
        exposed = (gone[:, None] + offsets).ravel()
        border = np.unique(np.concatenate([border[~going & (codes < 255)], exposed[left[exposed]]]))
        idle = 0 if gone.size else idle + 1
        step = 1 - step
    thin: Mask = padded[1:-1, 1:-1]
    return thin


def _codes(left: Mask, pixels: Ints, offsets: Ints) -> Ints:
    """(m,) a number of eight bits for each pixel: which of its neighbours are left."""
    codes: Ints = left[pixels[:, None] + offsets] @ _BITS
    return codes


def _alone(left: Mask, pixels: Ints, codes: Ints, offsets: Ints) -> Mask:
    """(m,) which pixels are the upper left of a square of two by two that touches nothing else."""
    alone: Mask = codes == _CORNER
    square = pixels[alone, None] + offsets[[_EAST, _SOUTH_EAST, _SOUTH]]
    neighbours = left[square[..., None] + offsets].sum(axis=2)
    alone[alone] = (neighbours == 3).all(axis=1)
    return alone


def _deleted(step: int) -> Mask:
    """(256,) which neighbourhoods lose their pixel: in the first step at the south and east, then north and west."""
    around = (np.arange(256)[:, None] & _BITS) > 0  # (256, 8)
    north, east, south, west = around[:, ::2].T
    entries = (~around & np.roll(around, -1, axis=1)).sum(axis=1)  # from background to mask, going round
    marked = around.sum(axis=1)
    sides = ~(east & south & (north | west)) if step == 0 else ~(north & west & (east | south))
    gone: Mask = (marked >= 2) & (marked <= 6) & (entries == 1) & sides
    return gone


_DELETED = (_deleted(0), _deleted(1))
