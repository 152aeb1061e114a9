"""Skeletons of shapes whose middle is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from leanmed.tasks.segmentation.thinning import skeleton

TOUCHING = np.ones((3, 3))  # corners count


def drawn(picture: str) -> NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in line] for line in picture.split()])


@pytest.mark.parametrize(
    "line",
    ["#####", "#\n#\n#\n#", "#....\n.#...\n..#..\n...#.\n....#", "#..#\n.##.", "....\n.#..\n....", "###\n#.#\n###"],
    ids=["row", "column", "diagonal", "bow", "dot", "ring"],
)
def test_what_is_one_pixel_wide_stays_as_it_is(line: str) -> None:
    assert np.array_equal(skeleton(drawn(line)), drawn(line))


def test_a_bar_three_pixels_wide_leaves_its_middle_row() -> None:
    found = skeleton(drawn("########\n########\n########"))
    assert not found[[0, 2]].any()
    assert found[1, 1:-2].all()


def test_a_disc_leaves_a_dot_at_its_centre() -> None:
    y, x = np.mgrid[:41, :41]
    found = np.argwhere(skeleton((y - 20) ** 2 + (x - 20) ** 2 < 15**2))
    assert len(found) == 1
    assert np.abs(found[0] - 20).max() <= 1


def test_a_square_of_two_by_two_leaves_its_upper_left_pixel() -> None:
    assert np.array_equal(skeleton(drawn("....\n.##.\n.##.\n....")), drawn("....\n.#..\n....\n...."))


def test_every_mask_of_four_by_four_keeps_its_pieces() -> None:
    masks = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).reshape(256, 256, 4, 4).astype(bool)
    apart = np.zeros((256, 6, 256, 6), dtype=bool)
    apart[:, 1:5, :, 1:5] = masks.transpose(0, 2, 1, 3)
    apart = apart.reshape(256 * 6, 256 * 6)
    thin = skeleton(apart)
    pieces, count = label(apart, TOUCHING)
    assert not (thin & ~apart).any()
    assert np.unique(pieces[thin]).size == count == label(thin, TOUCHING)[1]


def test_pieces_and_holes_of_blobs_are_kept() -> None:
    blobs = gaussian_filter(np.random.default_rng(0).normal(size=(120, 120)), 2) > 0
    thin = skeleton(blobs)
    assert label(thin, TOUCHING)[1] == label(blobs, TOUCHING)[1]
    assert label(~np.pad(thin, 1))[1] == label(~np.pad(blobs, 1))[1]


def test_nothing_leaves_nothing_and_the_mask_given_stays() -> None:
    mask = np.ones((5, 7), dtype=bool)
    assert skeleton(mask).sum() < 10
    assert mask.all()
    assert not skeleton(np.zeros((3, 3), dtype=bool)).any()
