from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leanmed.models.colours import BINS, DARKEST, RANGES, TissueColours


def photograph(colour: tuple[float, float, float], side: int = 4) -> Tensor:
    """(1, 4, side, side): one colour over the upper half; below it the ground, which alpha leaves out."""
    image = torch.tensor([*colour, 1.0]).view(1, 4, 1, 1).repeat(1, 1, side, side)
    image[:, :, side // 2 :] = 0
    return image


def network(outputs: int = 1) -> TissueColours:
    torch.manual_seed(0)
    return TissueColours(outputs, hidden=8).eval()


def test_a_histogram_is_of_the_tissue_alone_and_sums_to_one() -> None:
    found = network().histograms(photograph((0.8, 0.4, 0.3)))
    assert found.shape == (1, 3, BINS)
    assert torch.allclose(found.sum(-1), torch.ones(1, 3), atol=1e-5)


@pytest.mark.parametrize("colour", [(0.8, 0.4, 0.3), (0.6, 0.5, 0.5)])
def test_one_colour_lies_between_the_two_centres_around_it(colour: tuple[float, float, float]) -> None:
    """The mean of the centres, weighted by the histogram, is the value itself."""
    logs = [math.log(c + DARKEST) for c in colour]
    wanted = [logs[0] - logs[1], logs[1] - logs[2], sum(logs) / 3]
    net = network()
    found = net.histograms(photograph(colour))[0]
    assert ((found > 1e-6).sum(-1) <= 2).all()
    assert (found * net.centres[0, :, :, 0]).sum(-1).tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_value_out_of_range_counts_to_the_last_bin() -> None:
    found = network().histograms(photograph((1.0, 0.0, 0.0)))[0]
    assert math.log((1 + DARKEST) / DARKEST) > RANGES[0][1]
    assert found[0, -1].item() == pytest.approx(1, abs=1e-6)


def test_a_pixel_half_covered_by_the_mask_counts_half_and_keeps_its_colour() -> None:
    image = photograph((0.8, 0.4, 0.3))
    image[:, :, 0] /= 2
    net = network()
    assert torch.allclose(net.histograms(image), net.histograms(photograph((0.8, 0.4, 0.3))), atol=1e-5)


def test_where_the_colours_lie_does_not_matter() -> None:
    images = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    images[:, :3] *= images[:, 3:]
    moved = images.flatten(2)[:, :, torch.randperm(64)].view_as(images)
    net = network(outputs=3)
    assert torch.allclose(net(images), net(moved), atol=1e-5)


def test_an_image_without_tissue_has_a_finite_answer() -> None:
    assert network()(torch.zeros(1, 4, 8, 8)).isfinite().all()


def test_each_image_of_a_batch_is_answered_by_itself() -> None:
    images = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    net = network()
    assert torch.allclose(net(images), torch.cat([net(image[None]) for image in images]), atol=1e-5)
