from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from leanmed.errors import RecipeError
from leanmed.models.point_localiser import (
    TARGETS,
    PointLocaliser,
    centroid,
    distance_peak,
    localisation_loss,
    pixels,
)


def rectangle(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


@pytest.mark.parametrize("target", TARGETS.values())
def test_the_point_of_one_pixel_is_its_centre(target) -> None:
    # column 2 of 8, row 1 of 4
    assert target(rectangle(4, 8, 1, 2, 2, 3)) == (2.5 / 8, 1.5 / 4)


def test_the_centroid_is_the_mean_of_the_pixels_centres() -> None:
    mask = np.zeros((2, 10), bool)
    mask[0, [0, 1, 5]] = True  # columns .5, 1.5, 5.5 have the mean 2.5
    assert centroid(mask) == (0.25, 0.25)


def test_the_peak_of_a_rectangle_is_its_middle_though_others_are_as_deep() -> None:
    # rows 1 to 3, so that all of row 2 but its ends is 2 deep; columns 1 to 7, so that column 4 is the middle
    assert distance_peak(rectangle(5, 10, 1, 1, 4, 8)) == (4.5 / 10, 2.5 / 5)


def test_the_image_ends_the_object() -> None:
    # 3 x 5 at the image's corner: the middle is 2 deep; were the image no end, the corner would be deepest
    assert distance_peak(rectangle(8, 8, 0, 0, 3, 5)) == (2.5 / 8, 1.5 / 8)
    assert distance_peak(np.ones((3, 5))) == (0.5, 0.5)


def test_the_centroid_of_a_ring_lies_outside_it_and_the_peak_in_its_thickest_part() -> None:
    ring = rectangle(9, 9, 0, 0, 9, 9)
    ring[1:8, 1:6] = 0  # the right side is three pixels thick, columns 6 to 8, the others one
    x, y = centroid(ring)
    assert ring[int(y * 9), int(x * 9)] == 0
    assert distance_peak(ring) == (7.5 / 9, 4.5 / 9)


def test_of_two_objects_the_peak_lies_in_the_larger_though_the_centroid_lies_in_neither() -> None:
    # 25 pixels around (2, 2) and 16 around (9.5, 9.5): their mean is 202 / 41, which lies in pixel 5
    mask = rectangle(12, 12, 0, 0, 5, 5) | rectangle(12, 12, 8, 8, 12, 12)
    x, y = centroid(mask)
    assert (x, y) == pytest.approx(((202 / 41 + 0.5) / 12,) * 2)
    assert mask[int(y * 12), int(x * 12)] == 0
    assert distance_peak(mask) == (2.5 / 12, 2.5 / 12)


@pytest.mark.parametrize("target", TARGETS.values())
def test_an_empty_mask_has_no_point(target) -> None:
    with pytest.raises(ValueError, match="at least one pixel, got an empty one"):
        target(np.zeros((3, 3)))


def test_points_become_pixels_whose_centres_are_whole_numbers() -> None:
    assert pixels(torch.tensor([[0.5 / 8, 1.0]]), 8).tolist() == [[0.0, 7.5]]


def test_the_loss_is_the_mean_squared_error_of_both_coordinates() -> None:
    found, wanted = torch.tensor([[0.5, 0.5], [0.1, 0.0]]), torch.tensor([[0.5, 0.9], [0.1, 0.2]])
    assert localisation_loss(found, wanted).item() == pytest.approx((0.16 + 0.04) / 4)


def test_a_new_localiser_points_near_the_middle_and_learns_a_point() -> None:
    torch.manual_seed(0)
    network = PointLocaliser("none").train()
    images, wanted = torch.randn(2, 3, 32, 32), torch.tensor([[0.2, 0.7], [0.9, 0.1]])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    found = network(images)
    assert found.shape == (2, 2)
    assert (found - 0.5).abs().max() < 0.2
    for _ in range(15):
        loss = localisation_loss(network(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01  # the middle has (.09 + .04 + .16 + .16) / 4 = .1125


def test_another_network_of_timm_s_can_be_the_localiser(tmp_path: Path) -> None:
    network = PointLocaliser("none", backbone="mobilenetv3_small_050").eval()
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
    assert (network(torch.randn(2, 3, 64, 64)) - 0.5).abs().max() < 0.2
    file = tmp_path / "weights.safetensors"
    kept = {name: value for name, value in network.backbone.state_dict().items() if not name.startswith("classifier.")}
    save_file(kept, file)
    loaded = PointLocaliser(str(file), backbone="mobilenetv3_small_050").backbone
    assert torch.equal(loaded.conv_stem.weight, network.backbone.conv_stem.weight)


def test_weights_come_from_a_file_without_the_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor, file = PointLocaliser("none").backbone, tmp_path / "weights.safetensors"
    save_file({name: value for name, value in donor.state_dict().items() if not name.startswith("fc.")}, file)
    loaded = PointLocaliser(str(file)).backbone
    assert torch.equal(loaded.conv1.weight, donor.conv1.weight)
    save_file({"conv1.weight": donor.conv1.weight.detach().clone()}, file)
    with pytest.raises(RecipeError, match="does not fit resnet18"):
        PointLocaliser(str(file))
    assert PointLocaliser(str(file), pretrained=False).pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
