"""Prepared images: whole numbers from 0 to 255, which take a quarter of the memory, and what a network is fed."""

from __future__ import annotations

from torch import Tensor

# Added before rounding down. It is a hair more than a half: shrinking by a whole factor puts many pixels on a half
# exactly, which two runtimes would round to different sides.
HALF = 0.5 + 2**-9


def whole(images: Tensor) -> Tensor:
    """Float pixels from 0 to 255 to the nearest whole numbers, still as floats."""
    return (images + HALF).floor()


def unit(images: Tensor) -> Tensor:
    """Whole numbers, uint8 or as `whole` gives them, to float32 in [0, 1]."""
    return images.float() / 255
