"""Decoded pixels to the square that a network sees, and prepared images as they are kept in memory.

The graph of an artifact is exported from these functions, so they are written for it to be fast too: channels are moved
to the front as bytes, numbers are divided after the resizing, when there are fewer of them, and what alpha takes is
done for images that have alpha only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Step = Callable[[Tensor], Tensor]
LEVELS = 255  # the pixel value that stands for 1


def kept(images: Tensor) -> Tensor:
    """Pixels in [0, 1] to the nearest of 256 levels, uint8: a quarter of the memory."""
    return (images * LEVELS).round().to(torch.uint8)


def unit(images: Tensor) -> Tensor:
    """Pixels as `kept` gives them to float32 in [0, 1]; pixels that are floats already, as they are."""
    return images if images.is_floating_point() else images.float() / LEVELS


def resized(channels: Tensor, side: int, square: Any = None) -> Tensor:
    """Channels (c, h, w) of any type to (c, side, side) float32, antialiased, in the units that they have.

    Args:
        channels: of an image.
        side: of the result, in pixels.
        square: pad with zeros on the right and below to a square of this side, in pixels of the image, before; None:
            do not pad, so that the two directions may be scaled differently.
    """
    if square is not None:
        height, width = channels.shape[1:]
        channels = F.pad(channels, (0, square - width, 0, square - height))
    images = F.interpolate(channels[None].float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
    return images.squeeze(0)


def by_alpha(pixels: Tensor, masked: Step, opaque: Step) -> Tensor:
    """Do one thing with images that have alpha, and another, giving the same shape, with those that have none.

    Args:
        pixels: (h, w, 3 or 4). While a graph is exported, which takes both kinds, their number is not known.
        masked: with pixels (h, w, 4).
        opaque: with pixels (h, w, 3).
    """
    has_alpha = pixels.shape[2] == 4
    if isinstance(has_alpha, bool):
        return masked(pixels) if has_alpha else opaque(pixels)
    return torch.cond(has_alpha, masked, opaque, (pixels,))


def tissue(pixels: Tensor, side: int, *, levels: int = LEVELS, padded: bool = False) -> Tensor:
    """Pixels of any size to a network's square, with alpha, which is 1 where the image has none.

    Args:
        pixels: (h, w, 3 or 4) of any type, RGB or RGBA.
        side: of the square.
        levels: the value that stands for 1.
        padded: pad to a square first, on the right and below, where alpha is 0; false: stretch to a square.

    Returns:
        (4, side, side) float32: colour multiplied by alpha, and alpha, both divided by `levels`. Multiplying first
        keeps the ground under the mask out of every average that the resizing takes.
    """

    def opaque(pixels: Tensor) -> Tensor:
        square = _square(pixels, padded)
        colours = colour(pixels, side, levels, square)
        if square is None:
            return F.pad(colours, (0, 0, 0, 0, 0, 1), value=1.0)  # not ones, which a graph would keep as a constant
        return torch.cat([colours, _alpha_of_opaque(pixels, side, square)])

    return by_alpha(pixels, lambda pixels: masked_tissue(pixels, side, levels, _square(pixels, padded)), opaque)


def masked_tissue(pixels: Tensor, side: int, levels: int = LEVELS, square: Any = None) -> Tensor:
    """As `tissue`, of pixels (h, w, 4); `square`: see `resized`."""
    channels = pixels.permute(2, 0, 1).float()
    # not [3:], which an exporter takes for a promise that there are always four, nor a slice of unknown length
    colours, alpha = channels.narrow(0, 0, 3), channels[-1][None]
    return torch.cat([resized(part, side, square) for part in (colours * (alpha / levels), alpha)]) / levels


def colour(pixels: Tensor, side: int, levels: int = LEVELS, square: Any = None) -> Tensor:
    """Pixels (h, w, 3) to (3, side, side) float32, divided by `levels`; `square`: see `resized`."""
    return resized(pixels.permute(2, 0, 1), side, square).narrow(0, 0, 3) / levels


def _square(pixels: Tensor, padded: bool) -> Any:
    return torch.sym_max(pixels.shape[0], pixels.shape[1]) if padded else None


def _alpha_of_opaque(pixels: Tensor, side: int, square: Any) -> Tensor:
    """What padding and resizing make of an alpha that is 1 wherever there is an image: (1, side, side)."""
    padded = (F.pad(torch.ones(length, device=pixels.device), (0, square - length)) for length in pixels.shape[:2])
    # both as rows: PyTorch resizes a column of one pixel's width wrongly
    down, across = (
        F.interpolate(line[None, None, None], (1, side), mode="bilinear", antialias=True)[0, 0] for line in padded
    )
    return (down.mT * across)[None]
