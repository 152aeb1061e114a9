from __future__ import annotations

import numpy as np
import pytest
from made_pictures import brightened, crescent, texture

from leanmed.audit.describe import AREA, MIRROR, describe


def test_the_descriptor_of_a_mirrored_patch_is_a_permutation_of_the_patchs_own():
    image = texture(1)
    plain, mirrored = describe(image), describe(image[:, ::-1])
    places = plain.points[:, :2] * [-1, 1] + [plain.grey.shape[1] - 1, 0]
    near = np.linalg.norm(places[:, None] - mirrored.points[None, :, :2], axis=2)
    distance = np.linalg.norm(plain.descriptors[:, None, MIRROR].astype(float) - mirrored.descriptors[None], axis=2)
    assert np.median(np.where(near < 1.5, distance, np.inf).min(axis=1)) < 20


def test_mirroring_a_descriptor_twice_gives_it_back():
    assert (MIRROR[MIRROR] == np.arange(128)).all()


def test_colour_where_alpha_is_zero_changes_nothing():
    image = crescent(texture(2))
    image[image[..., 3] == 0] = (255, 0, 90, 0)
    clean = crescent(texture(2))
    assert describe(image).facts == describe(clean).facts
    assert np.array_equal(describe(image).descriptors, describe(clean).descriptors)


def test_features_lie_in_the_tissue():
    found = describe(crescent(texture(3)))
    x, y = np.rint(found.points[:, :2]).astype(int).T
    assert len(found.points) > 20
    assert found.mask[y, x].all()


def test_the_small_picture_holds_no_more_than_its_area_and_knows_where_it_lies():
    found = describe(texture(4, 400, 640))
    assert found.grey.size == pytest.approx(AREA, rel=0.02)
    scale = found.grey.shape[1] / 640
    corner = found.to_small @ [639.5, 399.5, 1]  # the outer corner of the last pixel
    assert corner[:2] == pytest.approx([640 * scale - 0.5, found.grey.shape[0] - 0.5])


def test_a_small_image_is_not_enlarged():
    assert describe(texture(5, 60, 80)).grey.shape == (60, 80)


def test_brightness_changes_the_facts_but_hardly_the_features():
    image = texture(6) // 2 + 64
    image[..., 3] = 255
    plain, darker = describe(image), describe(brightened(image, 0.6))
    assert darker.facts.mean == pytest.approx(0.6 * plain.facts.mean, abs=1)
    near = np.linalg.norm(plain.points[:, None, :2] - darker.points[None, :, :2], axis=2).min(axis=1)
    assert np.mean(near < 1) > 0.8


def test_dark_ground_around_a_round_field_of_view_is_no_tissue():
    image = texture(7, 160, 160)
    y, x = np.mgrid[:160, :160] - 79.5
    image[np.hypot(x, y) > 70, :3] = 0
    mask = describe(image).mask
    assert mask[80, 80]
    assert not mask[0, 0]
    assert not mask[80, 10]  # the rim itself


@pytest.mark.parametrize("alpha", [0, 255])
def test_an_image_that_shows_nothing_has_no_features(alpha: int):
    image = np.zeros((40, 50, 4), np.uint8)
    image[..., 3] = alpha
    found = describe(image)
    assert found.points.shape == (0, 4)
    assert found.descriptors.shape == (0, 128)
    assert found.facts.tissue == (alpha > 0)


def test_facts_of_a_flat_image_are_those_worked_by_hand():
    image = np.full((10, 20, 4), 255, np.uint8)
    image[..., :3] = 100
    image[:, 5:, 3] = 0
    facts = describe(image).facts
    assert (facts.height, facts.width, facts.tissue, facts.mean, facts.deviation) == (10, 20, 0.25, 100, 0)
