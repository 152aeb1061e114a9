"""Copies whose masks contradict each other: one marks something where the other marks nothing, or something else.

A mask is taken along the map between the two images, so that a flipped, cropped or scaled copy contradicts nothing, and
compared where both images show the same. Frames of one film that the audit takes for copies are compared alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from leanmed.audit.conflicts import MASK, Conflict
from leanmed.audit.engine import ALL_PAIRS
from leanmed.audit.findings import Pair
from leanmed.data import read_mask
from leanmed.data.masks import OUTSIDE, Marks
from leanmed.records import Attribute, Mask, Record

LEAST_DICE = 0.5  # between the masks of two copies, below which they contradict each other
LEAST_SHARE = 0.1  # of what a mask marks that must lie where both images show the same, for it to be missed there
CONTRADICTS = "contradicts"  # the column of groups.csv: the image whose mask contradicts this one's
NEAR = 0.01  # of the image's diagonal: copies are aligned no better, and thin vessels would miss each other
SAME_PLACE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Contradiction:
    """Two copies whose masks contradict each other.

    Args:
        a, b: the ids of the images.
        label: what one of them marks and the other does not, or elsewhere.
        areas: how many pixels of `label` each of them marks.
        dice: as `compared` gives it.
    """

    a: str
    b: str
    label: str
    areas: tuple[int, int]
    dice: float

    def values(self) -> dict[Attribute, tuple[str, ...]]:
        """Value -> the image that carries it, as a `Conflict` has it."""
        if all(self.areas):
            return {
                f"{self.label} marked": (self.a,),
                f"{self.label} marked elsewhere, Dice {self.dice:.2f}": (self.b,),
            }
        marked, empty = (self.a, self.b) if self.areas[0] else (self.b, self.a)
        return {f"{self.label} marked": (marked,), f"no {self.label} marked": (empty,)}


def as_conflicts(found: Iterable[Contradiction], groups: Mapping[str, str]) -> list[Conflict]:
    """Contradictions as conflicts of the field `mask`.

    Args:
        found: what contradicts what.
        groups: image -> id of its group's first image.
    """
    return [Conflict(groups[one.a], MASK, one.values()) for one in found]


def contradicting(found: Iterable[Contradiction]) -> dict[str, str]:
    """Image -> the first image whose mask contradicts its own, of those that have one."""
    first: dict[str, str] = {}
    for one in found:
        first.setdefault(one.a, one.b)
        first.setdefault(one.b, one.a)
    return first


def contradictions(pairs: Iterable[Pair], records: Sequence[Record]) -> list[Contradiction]:
    """Those of some copies whose masks contradict each other, label by label.

    Args:
        pairs: copies, with the map between them.
        records: what is known of the images; pairs of which either has no mask are passed over.

    Raises:
        DataError: a mask that does not fit its record.
        InputError: a mask that cannot be read.
    """
    masked = {record.id: record for record in records if isinstance(record.target, Mask)}
    return [
        one
        for pair in pairs
        if pair.a in masked and pair.b in masked
        for one in _between(masked[pair.a], masked[pair.b], pair.map)
    ]


def equal_images(contents: Mapping[str, str], records: Iterable[Record]) -> list[Pair]:
    """Pairs of images with masks, or of slices of volumes, whose files have the same bytes.

    Args:
        contents: record id -> what stands for its file's bytes.
        records: those without a mask are passed over.

    Returns:
        All pairs of a content; of one that more than `ALL_PAIRS` images share, each with the first.
    """
    same: dict[tuple[str, int | None], list[str]] = {}
    for record in records:
        if isinstance(record.target, Mask):
            same.setdefault((contents[record.id], record.frame), []).append(record.id)
    return [
        Pair(a, b, 1.0, SAME_PLACE)
        for ids in map(sorted, same.values())
        for a, b in (combinations(ids, 2) if len(ids) <= ALL_PAIRS else product(ids[:1], ids[1:]))
    ]


def _between(a: Record, b: Record, full: ArrayLike) -> list[Contradiction]:
    labels = list(dict.fromkeys((*a.mask.values, *b.mask.values)))
    if not all(set(record.mask.values) == set(labels) for record in (a, b)):
        return []
    first, second = read_mask(a, labels), read_mask(b, labels)
    found = []
    for number, label in enumerate(labels, start=1):
        dice = compared(first, second, full, number)
        if dice is not None and dice < LEAST_DICE:
            areas = int(np.count_nonzero(first == number)), int(np.count_nonzero(second == number))
            found.append(Contradiction(a.id, b.id, label, areas, dice))
    return found


def compared(first: Marks, second: Marks, full: ArrayLike, number: int) -> float | None:
    """Dice between what two masks mark with a number, in the frame of the second.

    A pixel is shared if the other mask marks one no further away than `NEAR` of the second image's diagonal.

    Args:
        first, second: as `read_mask` gives them.
        full: (2, 3), pixel coordinates of the first -> of the second.
        number: of the label.

    Returns:
        0 to 1; None where neither marks as much as `LEAST_SHARE` of its own where both images show the same.
    """
    moved = _moved(first, np.asarray(full, np.float64), (second.shape[1], second.shape[0]))
    common = (moved != OUTSIDE) & (second != OUTSIDE)
    scale = abs(np.linalg.det(np.asarray(full, np.float64)[:, :2]))
    wholes = np.count_nonzero(first == number) * scale, np.count_nonzero(second == number)
    parts = [(marks == number) & common for marks in (moved, second)]
    areas = [np.count_nonzero(part) for part in parts]
    if not any(area and area >= LEAST_SHARE * whole for area, whole in zip(areas, wholes, strict=True)):
        return None
    near = int(NEAR * np.hypot(*second.shape))
    shared = sum(np.count_nonzero(one & _widened(other, near)) for one, other in (parts, parts[::-1]))
    return float(shared / sum(areas))


def _moved(marks: Marks, full: NDArray[np.float64], size: tuple[int, int]) -> Marks:
    """The marks in another image's frame, `OUTSIDE` beyond their own image."""
    moved = cv2.warpAffine(marks, full, size, flags=cv2.INTER_NEAREST, borderValue=(OUTSIDE,))
    return np.asarray(moved, np.uint8)


def _widened(part: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """All pixels no further than so many pixels from a part."""
    if not by:
        return part
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
    return np.asarray(cv2.dilate(part.astype(np.uint8), disc)) > 0
