"""Random changes of prepared images with their masks. Drawing is apart from applying, and one seed is one draw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.tasks.augment import draw_affine, draw_gains, move
from leanmed.tasks.segmentation.settings import Changes, SegmentationRecipe

OUTSIDE = 255  # of a mask: nothing is known there
COARSEST = 2.5  # factor of the lowest resolution
SMOOTH = 3  # knots of a bias field along each side


def augment_masks(images: Tensor, masks: Tensor, recipe: SegmentationRecipe, seed: int) -> tuple[Tensor, Tensor]:
    """Flip, turn, shift, zoom and crop images and masks together; then change the images' values.

    Args:
        images: (b, 4, s, s) three channels times alpha, and alpha; what comes in from outside has an alpha of 0.
        masks: (b, s, s) uint8; what comes in from outside is `OUTSIDE`.
        recipe: the ranges, and the crops.
        seed: the same seed draws the same changes, whatever was drawn before.

    Returns:
        (b x crops, 4, t, t) and (b x crops, t, t), t being the side of a crop, or s.
    """
    settings, segmenter, side = recipe.augment, recipe.segmenter, images.shape[-1]
    size = min(segmenter.crop or side, side)
    generator = torch.Generator().manual_seed(seed)
    images, masks = (tensor.repeat_interleave(segmenter.crops, 0) for tensor in (images, masks))
    matrices = draw_affine(len(images), settings, generator)
    matrices = _cropped(matrices, size / side, generator).to(images)
    moved = move(images, matrices, (size, size))
    grid = F.affine_grid(matrices, [len(images), 1, size, size], align_corners=False)
    known = masks[:, None].to(images.dtype) + 1  # so that the 0 from outside means that nothing is known
    labels = F.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    labels = torch.where(labels == 0, OUTSIDE, labels - 1).to(torch.uint8)
    colour, alpha = moved[:, :3], moved[:, 3:]
    colour = colour * draw_gains(len(images), settings, generator).to(images)
    colour = change_values(colour, alpha, settings, generator)
    return torch.cat([colour, alpha], 1), labels


def _cropped(matrices: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Matrices from a crop of a share of the side, at a place drawn anew for each image, instead of the whole."""
    if share >= 1:
        return matrices
    place = torch.empty(len(matrices), 2).uniform_(-1, 1, generator=generator) * (1 - share)
    moved = matrices[:, :, 2] + (matrices[:, :, :2] @ place[..., None])[..., 0]
    return torch.cat([matrices[:, :, :2] * share, moved[..., None]], 2)


def change_values(images: Tensor, alpha: Tensor, settings: Changes, generator: torch.Generator) -> Tensor:
    """What MR scanners differ by: gamma, a bias field, resolution, noise; each image by its own draw.

    Args:
        images: (b, 3, h, w) of any range, times alpha.
        alpha: (b, 1, h, w) in [0, 1]; where it is 0, nothing is changed.
        settings: the ranges.
        generator: to draw from.
    """
    count, shape = len(images), images.shape[-2:]

    def uniform(low: float, high: float, *size: int) -> Tensor:
        drawn = torch.empty(count, *size).uniform_(low, high, generator=generator)
        return drawn.to(images).view(count, *(size or (1, 1, 1)))

    if settings.gamma:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        span = (high - low).clamp_min(1e-6)
        raised = ((images - low) / span).clamp(1e-6, 1) ** uniform(1 - settings.gamma, 1 + settings.gamma)
        images = raised * span + low
    if settings.bias:
        knots = uniform(-settings.bias, settings.bias, 1, SMOOTH, SMOOTH)
        low = images.amin((1, 2, 3), keepdim=True)  # a field multiplies what a scanner measures, which is never below 0
        images = (images - low) * (1 + F.interpolate(knots, shape, mode="bicubic", align_corners=True)) + low
    if settings.blur:
        chosen, factor = uniform(0, 1) < settings.blur, uniform(1.2, COARSEST)
        images = torch.stack([_coarser(*pair) for pair in zip(images, torch.where(chosen, factor, 1.0), strict=True)])
    if settings.noise:
        spread = images.std((1, 2, 3), keepdim=True)
        drawn = torch.randn(images.shape, generator=generator).to(images)
        images = images + drawn * spread * uniform(0, settings.noise)
    return images * alpha


def _coarser(image: Tensor, factor: Tensor) -> Tensor:
    """An image (3, h, w) as it is at a resolution that is lower by a factor; by 1 it is as it was."""
    shape = image.shape[-2:]
    coarse = [max(2, round(side / float(factor))) for side in shape]
    if coarse == list(shape):
        return image
    return F.interpolate(F.interpolate(image[None], coarse, mode="area"), shape, mode="bilinear")[0]
