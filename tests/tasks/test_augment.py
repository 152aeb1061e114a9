from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leanmed.recipe.recipe import Augment
from leanmed.tasks.augment import augment, draw_affine, draw_gains, move

STILL = {"horizontal_flip": 0.0, "rotation": 0.0, "shift": 0.0, "scale": (1.0, 1.0)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(count: int = 6, side: int = 8) -> Tensor:
    """Colour times alpha, and alpha, as `Classifier.resize` gives them."""
    colour, alpha = torch.rand(count, 4, side, side, generator=generator(1)).split([3, 1], 1)
    return torch.cat([colour * alpha, alpha], 1)


ROW = torch.arange(1.0, 9.0).expand(1, 1, 8, 8).clone()  # each row is 1 2 3 4 5 6 7 8


def moved(matrix: list[list[float]], image: Tensor = ROW) -> Tensor:
    return move(image, torch.tensor([matrix], dtype=torch.float32))[0, 0]


def test_a_flip_reverses_each_row() -> None:
    wanted = torch.arange(8.0, 0.0, -1).expand(8, 8)
    assert torch.allclose(moved([[-1, 0, 0], [0, 1, 0]]), wanted, atol=1e-5)


def test_a_shift_of_a_quarter_moves_eight_columns_by_two_and_lets_nothing_in() -> None:
    wanted = torch.tensor([3.0, 4, 5, 6, 7, 8, 0, 0]).expand(8, 8)
    assert torch.allclose(moved([[1, 0, 0.5], [0, 1, 0]]), wanted, atol=1e-5)


def test_a_quarter_turn_makes_columns_of_rows() -> None:
    turned = moved([[0, -1, 0], [1, 0, 0]])
    assert torch.allclose(turned, torch.rot90(ROW[0, 0], 1), atol=1e-5)
    assert turned[:, 0].tolist() == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1], abs=1e-4)


def test_a_zoom_of_two_enlarges_the_middle() -> None:
    """Column k, centred at k + .5, shows the input at 4 + (k - 3.5) / 2, where the row's value is .5 more."""
    assert moved([[0.5, 0, 0], [0, 0.5, 0]])[0].tolist() == pytest.approx([2.75 + k / 2 for k in range(8)])


def test_settings_that_change_nothing_leave_every_value() -> None:
    images = photographs()
    assert torch.allclose(augment(images, Augment(**STILL), seed=3), images, atol=1e-6)


def test_a_certain_flip_flips_every_image() -> None:
    images = photographs()
    across = augment(images, Augment(**STILL | {"horizontal_flip": 1.0}), seed=3)
    down = augment(images, Augment(**STILL | {"vertical_flip": 1.0}), seed=3)
    assert torch.allclose(across, images.flip(3), atol=1e-6)
    assert torch.allclose(down, images.flip(2), atol=1e-6)


def test_the_same_seed_makes_the_same_changes_and_leaves_other_draws_alone() -> None:
    images, before = photographs(), torch.get_rng_state()
    first = augment(images, Augment(tint=0.2), seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, augment(images, Augment(tint=0.2), seed=3))
    assert not torch.allclose(first, augment(images, Augment(tint=0.2), seed=4))
    torch.set_rng_state(before)
    augment(images, Augment(tint=0.2), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_place_in_a_batch_has_its_own_change_whatever_image_stands_there() -> None:
    images, settings = photographs(), Augment(tint=0.2)
    alone = augment(images[:1].expand(6, -1, -1, -1), settings, seed=5)
    assert all(not torch.allclose(alone[0], other) for other in alone[1:])
    mixed = augment(torch.cat([images[1:2], images[:1], images[2:]]), settings, seed=5)
    assert torch.allclose(mixed[1], alone[1], atol=1e-6)


def test_drawn_turns_zooms_and_shifts_fill_their_ranges_and_do_not_leave_them() -> None:
    matrices = draw_affine(2000, Augment(rotation=30, shift=0.1, scale=(0.8, 1.25)), generator())
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    zoom = linear.det().abs().rsqrt()
    turn = torch.atan2(linear[:, 1, 0], linear[:, 1, 1]) * 180 / math.pi  # row 1 has no flip here
    for values, low, high in ((zoom, 0.8, 1.25), (turn, -30, 30), (shift, -0.2, 0.2)):
        margin = 0.02 * (high - low)
        assert low - 1e-3 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-3


def test_half_of_the_images_are_flipped_by_default() -> None:
    determinants = draw_affine(2000, Augment(), generator()).select(2, 0)[:, 0].sign()
    assert abs(determinants.mean()) < 4 / math.sqrt(2000)


def test_gains_stay_within_brightness_times_tint() -> None:
    gains = draw_gains(2000, Augment(brightness=0.2, tint=0.1), generator()).flatten(1)
    assert 0.8 * 0.9 <= gains.min() < 0.75
    assert 1.28 < gains.max() <= 1.2 * 1.1
    assert (gains.max(1).values / gains.min(1).values).max() <= 1.1 / 0.9 + 1e-5
    assert torch.equal(draw_gains(3, Augment(), generator()), torch.ones(3, 3, 1, 1))


def test_colour_never_exceeds_what_its_alpha_allows() -> None:
    changed = augment(photographs(50), Augment(brightness=0.9, tint=0.9), seed=0)
    assert (changed[:, :3] <= changed[:, 3:] + 1e-6).all()
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6


def test_quarter_turns_are_exact_and_all_four_come_up() -> None:
    settings = Augment(**STILL | {"quarter_turns": True})
    image = photographs(1).repeat(24, 1, 1, 1)
    found = augment(image, settings, seed=1)
    turns = [torch.rot90(image[0], k, (1, 2)) for k in range(4)]
    which = [[k for k in range(4) if torch.allclose(one, turns[k], atol=1e-4)] for one in found]
    assert all(len(k) == 1 for k in which)
    assert {k[0] for k in which} == {0, 1, 2, 3}
