from __future__ import annotations

import numpy as np
import pytest
from made_pictures import crescent, texture

from leanmed.audit.describe import describe
from leanmed.audit.verify import Evidence, compare, compare_along, correlation


def test_an_image_correlates_with_itself_wholly():
    found = describe(texture(20))
    score, overlap, _ = correlation(found, found, np.eye(3))
    assert score > 0.99
    assert overlap == 1


def test_an_image_does_not_correlate_with_another_or_with_itself_moved():
    found, other = describe(texture(21)), describe(texture(22))
    moved = np.array([[1.0, 0, 9], [0, 1, 4], [0, 0, 1]])
    assert abs(correlation(found, other, np.eye(3))[0]) < 0.2
    assert abs(correlation(found, found, moved)[0]) < 0.2


def test_the_score_is_the_same_in_both_directions():
    a, b = describe(texture(23, 300, 400)), describe(texture(23, 300, 400)[40:260, 60:380])
    there, back = compare(a, b), compare(b, a)
    assert there is not None
    assert back is not None
    assert there.score == pytest.approx(back.score, abs=0.03)
    assert there.map @ back.map == pytest.approx(np.eye(3), abs=0.05)


def test_two_cut_outs_of_one_photograph_with_different_masks_are_copies():
    image = texture(24)
    a, b = describe(crescent(image)), describe(crescent(image, shift=25))
    found = compare(a, b)
    assert found is not None
    assert found.is_copy
    assert found.score > 0.95


def test_smooth_tissue_of_like_shape_is_no_copy():
    y, x = np.mgrid[:150, :200]
    shades = [
        np.dstack([90 + 0.5 * y + gain * x] * 3 + [np.full(y.shape, 255)]).astype(np.uint8) for gain in (0.2, 0.3)
    ]
    noisy = [shade + np.random.default_rng(k).integers(0, 3, shade.shape, np.uint8) for k, shade in enumerate(shades)]
    for image in noisy:
        image[..., 3] = 255
    a, b = (describe(crescent(image)) for image in noisy)
    assert not compare_along(a, b, np.eye(3)).is_copy


def test_a_frame_and_text_that_two_scans_share_make_no_copy():
    scans = [texture(25), texture(26)]
    for scan in scans:
        scan[:20, :, :3] = 0
        scan[6:14, 10:90:5, :3] = 255
        scan[20:140:12, 190:198, :3] = 255
    found = compare(*(describe(scan) for scan in scans))
    assert found is None or not found.is_copy


@pytest.mark.parametrize(
    ("score", "matches", "copy"),
    [(0.8, 4, False), (0.9, 4, True), (0.5, 30, False), (0.6, 30, True), (0.6, 0, False), (0.8, 0, True)],
)
def test_the_fewer_features_agree_the_more_the_pixels_must_show(score: float, matches: int, copy: bool):
    assert Evidence(np.eye(3), score, overlap=0.9, pixels=900, matches=matches).is_copy is copy


@pytest.mark.parametrize(("overlap", "pixels"), [(0.1, 900), (0.9, 20)])
def test_too_little_common_tissue_proves_nothing(overlap: float, pixels: float):
    assert not Evidence(np.eye(3), 1.0, overlap, pixels, matches=30).is_copy
