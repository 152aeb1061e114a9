"""From distances to shares, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from leanmed.figures.familiarity import LEAST_IMAGES, Scale, remark, suspected, suspected_in_words

TWENTY = [float(d) for d in range(1, 21)]


def scale(distances: list[float]) -> Scale:
    made = Scale.of(distances)
    assert made is not None
    return made


def test_a_share_is_that_of_the_unseen_images_at_least_as_far_away_the_new_one_counted_among_them() -> None:
    made = scale(TWENTY[::-1])
    assert made.images == 20
    assert made.familiar([1.0, 11.0, 20.0]) == pytest.approx([21 / 21, 11 / 21, 2 / 21])


def test_what_is_nearer_than_all_is_familiar_and_beyond_the_farthest_it_falls_to_nothing_at_twice_its_distance() -> (
    None
):
    assert scale(TWENTY).familiar([0.0, 30.0, 40.0, 1e9]) == pytest.approx([1.0, 1 / 21, 0.0, 0.0])


def test_between_two_images_it_is_interpolated() -> None:
    assert scale(TWENTY).familiar([1.25]) == pytest.approx([1 - 0.25 / 21])


def test_images_that_are_equally_far_count_all() -> None:
    made = scale([1.0] * 10 + [3.0] * 10)
    assert made.familiar([1.0, 2.0, 3.0]) == pytest.approx([21 / 21, 16 / 21, 11 / 21])


def test_of_new_images_like_the_others_one_in_twenty_is_suspected() -> None:
    rng = np.random.default_rng(0)
    made = scale(rng.gamma(4, size=2000).tolist())
    assert len(made.distances) < 70, "it is kept short whatever the number of images"
    assert (np.array(made.familiar(rng.gamma(4, size=20_000))) < 0.05).mean() == pytest.approx(0.05, abs=0.008)


@pytest.mark.parametrize("distances", [TWENTY[: LEAST_IMAGES - 1], [2.0] * 30, []])
def test_too_few_images_or_equal_ones_make_no_scale(distances: list[float]) -> None:
    assert Scale.of(distances) is None


def test_a_scale_comes_back_from_json() -> None:
    made = scale(TWENTY)
    assert Scale.from_json(made.as_json()) == made


def test_the_share_that_is_suspected_has_an_interval_over_groups_and_words() -> None:
    familiar = [0.01, 0.04, 0.05, 0.9] + [0.5] * 36
    found = suspected(familiar, [f"g{k // 2}" for k in range(40)], 0.05)
    assert (found.value, found.n) == (0.05, 40), "an image at the threshold is not suspected"
    assert 0 <= found.low < 0.05 < found.high < 0.2
    words = suspected_in_words(found, 0.05)
    assert words.startswith("2 of 40 images, 5.0 % (95 % interval 0.0 to ")
    assert "familiar below 0.05" in words


def test_a_remark_says_how_familiar_and_below_what() -> None:
    assert "(familiar 0.012, below 0.05)" in remark(0.0123, 0.05)
