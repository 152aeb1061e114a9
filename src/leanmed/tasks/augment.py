"""Random changes of a batch of prepared images. Drawing is apart from applying, and one seed is one draw."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.recipe.recipe import Augment


def augment(images: Tensor, settings: Augment, seed: int) -> Tensor:
    """Flip, turn, shift, zoom, and change brightness and tint of each image by its own draw.

    Args:
        images: (b, 4, h, w) colour times alpha, and alpha, in [0, 1]; what comes in from outside is
            transparent.
        settings: the ranges.
        seed: the same seed draws the same changes, whatever was drawn before.
    """
    generator = torch.Generator().manual_seed(seed)
    matrices = draw_affine(len(images), settings, generator).to(images)
    gains = draw_gains(len(images), settings, generator).to(images)
    moved = move(images, matrices)
    # Colour stays within what its alpha allows, as in any photograph.
    return torch.cat([torch.minimum(moved[:, :3] * gains, moved[:, 3:]), moved[:, 3:]], 1)


def move(images: Tensor, matrices: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Resample images (b, c, h, w) by matrices (b, 2, 3) from output to input coordinates; outside is 0.

    The output has the images' size, or another.
    """
    shape = [*images.shape[:2], *(size or images.shape[2:])]
    grid = F.affine_grid(matrices, shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def draw_affine(count: int, settings: Augment, generator: torch.Generator) -> Tensor:
    """(count, 2, 3) matrices from output to input coordinates in [-1, 1], as `affine_grid` takes them."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    turn = uniform(-1, 1) * math.radians(settings.rotation)
    if settings.quarter_turns:
        turn = turn + uniform(0, 4).floor() * (math.pi / 2)
    zoom = uniform(*settings.scale)
    across = torch.where(uniform(0, 1) < settings.horizontal_flip, -1.0, 1.0)
    down = torch.where(uniform(0, 1) < settings.vertical_flip, -1.0, 1.0)
    shift = 2 * settings.shift  # a share of the side is twice as much in coordinates from -1 to 1
    cosine, sine = turn.cos() / zoom, turn.sin() / zoom
    rows = [
        cosine * across,
        -sine * across,
        uniform(-shift, shift),
        sine * down,
        cosine * down,
        uniform(-shift, shift),
    ]
    return torch.stack(rows, 1).view(count, 2, 3)


def draw_gains(count: int, settings: Augment, generator: torch.Generator) -> Tensor:
    """(count, 3, 1, 1) factors of the colours: one for all three (brightness) times one for each (tint)."""
    common = torch.empty(count, 1).uniform_(-1, 1, generator=generator) * settings.brightness
    each = torch.empty(count, 3).uniform_(-1, 1, generator=generator) * settings.tint
    return ((1 + common) * (1 + each)).view(count, 3, 1, 1)
