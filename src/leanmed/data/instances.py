"""A mask's objects one by one, for tasks that take each for itself, as prompted segmentation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from leanmed.data.masks import read_mask
from leanmed.records import Record

Where = NDArray[np.bool_]
_TOUCHING = np.ones((3, 3), bool)  # a pixel touches its eight neighbours


def instances(mask: ArrayLike, *, min_area: int = 1) -> list[Where]:
    """The connected parts of a mask, each as a mask of its own.

    Args:
        mask: (h, w), bool, or numbers of which all but 0 are marked; pixels that touch at a corner are of one part.
        min_area: pixels; smaller parts are left out.

    Returns:
        (h, w) bool each, in the order in which their first pixels stand, row by row; none of an empty mask.

    Raises:
        ValueError: a mask that has other than two axes.
    """
    marked = np.asarray(mask) != 0
    if marked.ndim != 2:
        raise ValueError(f"expected a mask of two axes, got the shape {marked.shape}; give one image's mask")
    parts, _ = ndimage.label(marked, _TOUCHING)
    areas = np.bincount(parts.ravel())[1:]
    return [parts == number for number, area in enumerate(areas, start=1) if area >= min_area]


def read_instances(
    record: Record, labels: Sequence[str], *, by_file: bool = False, min_area: int = 1
) -> list[tuple[str, Where]]:
    """A record's objects with their labels; what lies outside the field of view belongs to none.

    Args:
        record: an image with a mask.
        labels: as `read_mask` takes them; the objects come in this order.
        by_file: whether each file of the mask is an object whole, as in BUSI, where `NAME_mask.png` and
            `NAME_mask_1.png` each mark one. Otherwise the files are taken together, and each connected part is one.
        min_area: pixels; smaller objects are left out.

    Raises:
        DataError: as `read_mask`.
        InputError: as `read_mask`.
    """
    whole = record.mask
    apart = [replace(record, target=replace(whole, files=(file,))) for file in whole.files] if by_file else [record]
    marks = [read_mask(one, labels) for one in apart]
    found = []
    for number, label in enumerate(labels, start=1):
        marked = [read == number for read in marks]
        parts = marked if by_file else instances(marked[0])
        found += [(label, part) for part in parts if np.count_nonzero(part) >= max(1, min_area)]
    return found
