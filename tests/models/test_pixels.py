"""Decoded pixels to a network's square: the same numbers as by the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.models.pixels import kept, resized, tissue, unit

SIDE = 24
SIZES = ((60, 80), (17, 90), (90, 17), (8, 8), (1, 5), (300, 40))


def plainly(pixels: Tensor, levels: int, padded: bool) -> Tensor:
    """Every step at the image's own size, for images of both kinds."""
    opaque = F.pad(pixels, (0, 1), value=levels)[..., :4].permute(2, 0, 1).double() / levels
    image = torch.cat([opaque[:3] * opaque[3:], opaque[3:]])
    if padded:
        square = max(pixels.shape[:2])
        image = F.pad(image, (0, square - pixels.shape[1], 0, square - pixels.shape[0]))
    return F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0].float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_a_photograph_is_multiplied_by_alpha_padded_and_resized(
    size: tuple[int, int], channels: int, padded: bool
) -> None:
    pixels = torch.randint(0, 256, (*size, channels), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = tissue(pixels, SIDE, padded=padded)
    assert found.shape == (4, SIDE, SIDE)
    torch.testing.assert_close(found, plainly(pixels, 255, padded), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_intensities_keep_their_units(dtype: torch.dtype) -> None:
    values = (1000 * torch.randn(30, 50, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    torch.testing.assert_close(tissue(values, SIDE, levels=1, padded=True), plainly(values, 1, True), rtol=0, atol=0.01)


def test_channels_are_padded_to_a_square_of_any_side() -> None:
    channels = torch.full((2, 10, 20), 7, dtype=torch.uint8)
    found = resized(channels, 10, 40)
    assert found.dtype == torch.float32
    assert found[:, :2, :4].min() == pytest.approx(7)
    assert found[:, 4:].max() == found[:, :, 7:].max() == 0


def test_kept_pixels_come_back_to_the_nearest_level() -> None:
    images = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert (unit(kept(images)) - images).abs().max() <= 0.5 / 255 + 1e-6
