"""Default boxes: where they lie, how large they are, and boxes told as offsets from them.

Liu et al. 2016, "SSD: Single Shot MultiBox Detector", arXiv:1512.02325, section 2.2. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

CENTRE_SCALE, SIZE_SCALE = 0.1, 0.2  # the "variances" of SSD's code: offsets are divided by them
BACKGROUND, NEITHER = -1, -2
LARGEST_GROWTH = 4.0  # logarithm of a side's largest ratio: keeps exp finite


def choose_sides(boxes: Tensor, count: int) -> Tensor:
    """Rising sides (count,) of square default boxes, in equal ratios, over all but 2 % of the sizes of boxes (n, 4)."""
    sizes = box_convert(boxes, "xyxy", "xywh")[:, 2:].prod(1).sqrt().double().numpy()
    low, high = np.percentile(sizes, (1, 99))
    return torch.from_numpy(np.geomspace(low, high, count)).float()


def default_boxes(side: int, strides: Sequence[float], sides: Tensor, which: Tensor | None = None) -> Tensor:
    """Square boxes (n, 4) around the centres of a square image's grids.

    They are counted out from their positions, so that a graph that needs some of them need not carry all.

    Args:
        side: of the image, in pixels.
        strides: of the grids, in pixels of the image.
        sides: (levels x k,) of the boxes, rising: the first k for the first grid, and so on.
        which: (n,) positions, whole numbers; None: all.

    Returns:
        In the order of the network's outputs: by grid, row, column, side.
    """
    per_place = len(sides) // len(strides)
    widths = [int(-(-side // stride)) for stride in strides]
    ends = np.cumsum([width**2 * per_place for width in widths]).tolist()
    which = torch.arange(ends[-1], device=sides.device) if which is None else which
    grid = sum(((which >= end).long() for end in ends[:-1]), torch.zeros_like(which))

    def of_grid(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=sides.device)[grid]

    width = of_grid(widths)
    place, own = (which - of_grid([0, *ends[:-1]])) // per_place, which % per_place
    x, y = (((at + 0.5) * of_grid(strides)) for at in (place % width, place // width))
    size = sides[grid * per_place + own]
    boxes: Tensor = box_convert(torch.stack([x, y, size, size], 1), "cxcywh", "xyxy")
    return boxes


def encode_boxes(boxes: Tensor, defaults: Tensor) -> Tensor:
    """Boxes as offsets (n, 4) from default boxes (n, 4): SSD, equation 2."""
    b, d = (box_convert(x, "xyxy", "cxcywh") for x in (boxes, defaults))
    centre = (b[:, :2] - d[:, :2]) / d[:, 2:] / CENTRE_SCALE
    return torch.cat([centre, (b[:, 2:] / d[:, 2:]).log() / SIZE_SCALE], 1)


def decode_boxes(offsets: Tensor, defaults: Tensor) -> Tensor:
    """Offsets (..., n, 4) from default boxes (n, 4) back to boxes (..., n, 4)."""
    d = box_convert(defaults, "xyxy", "cxcywh")
    centre = d[:, :2] + offsets[..., :2] * CENTRE_SCALE * d[:, 2:]
    half = d[:, 2:] * (offsets[..., 2:] * SIZE_SCALE).clamp(max=LARGEST_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def match(boxes: Tensor, defaults: Tensor, threshold: float, near: float) -> Tensor:
    """Which box each default box stands for.

    Args:
        boxes: (m, 4).
        defaults: (n, 4).
        threshold: a default box stands for the box it overlaps most, from this IoU on; and the default box that
            overlaps a box most stands for that box. Where this is one default box for two, it stands for either.
        near: from this IoU on, a default box is no background either.

    Returns:
        (n,) positions among the boxes; `BACKGROUND`, or `NEITHER`, for the rest.
    """
    if not len(boxes):
        return torch.full((len(defaults),), BACKGROUND, device=defaults.device)
    overlap: Tensor = box_iou(boxes, defaults)  # (m, n)
    best, of = overlap.max(0)
    of[best < threshold] = NEITHER
    of[best < near] = BACKGROUND
    of[overlap.argmax(1)] = torch.arange(len(boxes), device=of.device)
    return of


def coverage(boxes: Tensor, defaults: Tensor, threshold: float = 0.5) -> float:
    """The share of boxes (m, 4) that some default box (n, 4) overlaps with an IoU of at least the threshold."""
    return float(np.mean([box_iou(box[None], defaults).max().item() >= threshold for box in boxes]))
