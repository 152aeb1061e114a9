"""Prepared images as they are kept in memory, and as a network is fed with them."""

from __future__ import annotations

import torch
from torch import Tensor


def kept(images: Tensor) -> Tensor:
    """Pixels in [0, 1] to the nearest of 256 levels, uint8: a quarter of the memory."""
    return (images * 255).round().to(torch.uint8)


def unit(images: Tensor) -> Tensor:
    """Pixels as `kept` gives them to float32 in [0, 1]; pixels that are floats already, as they are."""
    return images if images.is_floating_point() else images.float() / 255
