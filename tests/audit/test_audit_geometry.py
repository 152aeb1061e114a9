from __future__ import annotations

import cv2
import numpy as np
import pytest
from made_pictures import rotated, texture

from leanmed.audit.describe import describe
from leanmed.audit.geometry import align, fit_similarity, in_words

SQUARE = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])


def test_a_similarity_is_fitted_exactly():
    # Twice as large, turned a quarter clockwise (x -> y, y -> -x), moved by (5, 7).
    q = np.array([[5.0, 7.0], [5.0, 11.0], [3.0, 11.0], [3.0, 7.0]])
    assert fit_similarity(SQUARE, q, mirrored=False) == pytest.approx(np.array([[0, -2, 5], [2, 0, 7], [0, 0, 1]]))


def test_a_mirrored_similarity_is_fitted_exactly():
    q = SQUARE * [-1, 1] + [10, 0]
    truth = np.array([[-1, 0, 10], [0, 1, 0], [0, 0, 1]])
    assert fit_similarity(SQUARE, q, mirrored=True) == pytest.approx(truth)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_points_fit_nothing(count: int):
    assert fit_similarity(SQUARE[:count], SQUARE[:count], mirrored=False) is None


def test_points_in_one_place_fit_nothing():
    assert fit_similarity(SQUARE[[0, 0, 0]], SQUARE[:3], mirrored=False) is None


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[1, 0, 12], [0, 1, -3]], "mirror=0 turn=0.0 scale=1.000 shift=+12.0,-3.0"),
        ([[-1, 0, 99], [0, 1, 0]], "mirror=1 turn=0.0 scale=1.000 shift=+99.0,+0.0"),
        ([[1, 0, 0], [0, -1, 49]], "mirror=1 turn=180.0 scale=1.000 shift=+0.0,+49.0"),
        ([[0, -2, 5], [2, 0, 7]], "mirror=0 turn=90.0 scale=2.000 shift=+5.0,+7.0"),
        ([[0.5, 0, 0], [0, 0.8, 0]], "mirror=0 turn=0.0 scale=0.500x0.800 shift=+0.0,+0.0"),
        ([[1, 1e-6, 0], [-1e-6, 1, 0]], "mirror=0 turn=0.0 scale=1.000 shift=+0.0,+0.0"),
    ],
)
def test_a_map_is_put_in_words(matrix: list[list[float]], words: str):
    assert in_words(np.array([*matrix, [0, 0, 1]])) == words


def full_maps(image, changed):
    a, b = describe(image), describe(changed)
    found = align(a, b)
    assert found is not None
    assert found.matches >= 8
    return [np.linalg.inv(b.to_small) @ m @ a.to_small for m in found.maps]


def test_a_flipped_and_cut_copy_is_mapped_to_the_pixel():
    image = texture(10)
    first, *_ = full_maps(image, image[7:120, 10:160][:, ::-1])
    assert first[:2] == pytest.approx(np.array([[-1, 0, 159], [0, 1, -7]]))


def test_a_quarter_turn_is_mapped_to_the_pixel():
    image = texture(11)
    first, *_ = full_maps(image, np.rot90(image))  # anticlockwise: x' = y, y' = 199 - x
    assert first[:2] == pytest.approx(np.array([[0, 1, 0], [-1, 0, 199]]))


def test_a_small_turn_is_found_within_a_pixel():
    image = texture(12)
    truth = cv2.getRotationMatrix2D((100, 75), 6, 1)
    corner = np.array([150, 110, 1.0])
    maps = full_maps(image, rotated(image, 6))
    assert min(np.linalg.norm(m[:2] @ corner - truth @ corner) for m in maps) < 1


def test_a_stretched_copy_is_found_within_a_pixel():
    image = texture(13)
    maps = full_maps(image, cv2.resize(image, (160, 150), interpolation=cv2.INTER_AREA))
    corner = np.array([150, 110, 1.0])
    assert min(np.linalg.norm(m[:2] @ corner - [119.9, 110]) for m in maps) < 1


def test_images_without_features_cannot_be_aligned():
    blank = describe(np.full((30, 30, 4), 255, np.uint8))
    assert align(blank, describe(texture(14))) is None
