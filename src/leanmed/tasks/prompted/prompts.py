"""Prompts that a training draws from true masks: points inside and outside of the object, or a box around it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leanmed.models.point_localiser import TARGETS
from leanmed.prompts import BOTTOM_RIGHT, INSIDE, NO_POINT, OUTSIDE, TOP_LEFT
from leanmed.tasks.prompted.settings import Prompter


def target_points(masks: Tensor, target: str) -> Tensor:
    """The point of each mask that a localiser is to find, (b, 2) x, y in [0, 1]; NaN where there is no object.

    Args:
        masks: (b, h, w) uint8, 1 where the object is.
        target: centroid or distance-peak.
    """
    find = TARGETS[target]
    objects = (masks == 1).cpu().numpy()
    found = [find(own) if own.any() else (np.nan, np.nan) for own in objects]
    return torch.tensor(found, dtype=torch.float32, device=masks.device)


def draw_prompts(masks: Tensor, settings: Prompter, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A prompt for each mask: a box alone, or some points inside the object with some outside of it.

    Args:
        masks: (b, h, w) uint8, 1 where the object is, 0 where it is not; other values are neither.
        settings: how many points, how many boxes, how far their corners are moved.
        generator: to draw from.

    Returns:
        Points (b, n, 2) x, y in pixels, and their labels (b, n), as `PromptedSegmenter.decode` takes them. A mask
        without an object gets points outside of it.
    """
    count = max(settings.positives + settings.negatives, 2)
    points = torch.zeros(len(masks), count, 2)
    labels = torch.full((len(masks), count), NO_POINT, dtype=torch.int64)
    for k, mask in enumerate(masks.cpu().numpy()):
        own, kinds = _drawn(mask, settings, generator)
        points[k, : len(own)], labels[k, : len(own)] = torch.from_numpy(own), torch.from_numpy(kinds)
    return points.to(masks.device), labels.to(masks.device)


def _drawn(
    mask: NDArray[np.uint8], settings: Prompter, generator: torch.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    inside, outside = (np.argwhere(mask == value)[:, ::-1] for value in (1, 0))  # x, y
    if len(inside) and _uniform(generator) < settings.boxes:
        return _box(inside, mask.shape, settings.jitter, generator), np.array([TOP_LEFT, BOTTOM_RIGHT])
    positives = _number(1, settings.positives, generator) if len(inside) else 0
    least = 0 if positives else 1
    negatives = _number(least, max(settings.negatives, least), generator) if len(outside) else 0
    chosen = [_some(places, n, generator) for places, n in ((inside, positives), (outside, negatives))]
    return np.concatenate(chosen).astype(np.float32), np.repeat([INSIDE, OUTSIDE], [positives, negatives])


def _box(
    inside: NDArray[np.int64], shape: tuple[int, ...], jitter: float, generator: torch.Generator
) -> NDArray[np.float32]:
    """The box (2, 2) around pixels (n, 2), from its top left to its bottom right, each corner moved."""
    low, high = inside.min(axis=0) - 0.5, inside.max(axis=0) + 0.5  # the outer edges of the pixels
    shifts = np.array([[2 * _uniform(generator) - 1 for _ in range(2)] for _ in range(2)])
    moved = np.stack([low, high]) + jitter * (high - low) * shifts
    height, width = shape
    clipped: NDArray[np.float32] = np.clip(moved, -0.5, [width - 0.5, height - 0.5]).astype(np.float32)
    return clipped


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _number(least: int, most: int, generator: torch.Generator) -> int:
    return int(torch.randint(least, most + 1, (), generator=generator))


def _some(places: NDArray[np.int64], count: int, generator: torch.Generator) -> NDArray[np.int64]:
    """So many of the places, each drawn anew; none of none."""
    if not count:
        return np.zeros((0, 2), np.int64)
    chosen: NDArray[np.int64] = places[torch.randint(0, len(places), (count,), generator=generator).numpy()]
    return chosen
