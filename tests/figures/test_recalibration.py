"""What is found back of a known miscalibration, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from scipy.special import expit, softmax

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure
from leanmed.figures.recalibration import (
    LEAST,
    Answers,
    Recalibration,
    cross_fitted,
    fit,
    mean_of,
    parts_of,
    with_intervals,
)

Refused = Callable[..., AbstractContextManager[None]]


def answers(n: int, *, scale: float = 3.0, shift: float = 1.0, seed: int = 0) -> Answers:
    """Labels that come true as sigmoid(z) says, and a model that answers sigmoid(scale * z + shift)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, n)
    p = expit(scale * z + shift)
    truth = (rng.random(n) < expit(z)).astype(np.int64)
    return Answers(np.stack([1 - p, p], 1), truth, np.arange(n).astype(str), ("no", "yes"))


def test_logits_scaled_by_three_and_shifted_by_one_are_found_back() -> None:
    found = fit(answers(20_000), slope=True)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.intercepts == pytest.approx((0, -1 / 3), abs=0.04)


def test_a_shift_alone_is_found_back_by_the_intercept_alone() -> None:
    found = fit(answers(20_000, scale=1, shift=1.5), slope=False)
    assert found.slope == 1
    assert found.intercepts == pytest.approx((0, -1.5), abs=0.05)


def test_of_three_labels_scale_and_shifts_are_found_back() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(0, 1.5, (20_000, 3))
    truth = (softmax(z, axis=1).cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    given = softmax(2 * z + [0, 1, -1], axis=1)
    found = fit(Answers(given, truth, np.arange(20_000).astype(str), ("a", "b", "c")), slope=True)
    assert found.slope == pytest.approx(0.5, rel=0.05)
    assert found.intercepts == pytest.approx((0, -0.5, 0.5), abs=0.05)
    assert found.applied(given).sum(axis=1) == pytest.approx(np.ones(20_000))


def test_no_recalibration_changes_nothing_and_one_is_worked_by_hand() -> None:
    p = np.array([[0.8, 0.2], [0.1, 0.9]])
    assert Recalibration(1.0, (0.0, 0.0)).applied(p) == pytest.approx(p)
    # logit .2 = -ln 4; halved it is -ln 2, and ln 2 more is 0
    assert Recalibration(0.5, (0.0, np.log(2))).applied(p)[0] == pytest.approx([0.5, 0.5])


def test_the_order_of_answers_stays() -> None:
    p = np.sort(np.random.default_rng(0).random(200))
    applied = Recalibration(0.05, (0.0, 7.0)).applied(np.stack([1 - p, p], 1))[:, 1]
    assert (np.diff(applied) > 0).all()


def test_certain_answers_have_a_bounded_say() -> None:
    sure = Recalibration(1.0, (0.0, 0.0)).applied(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert sure[0, 1] == pytest.approx(LEAST, rel=1e-6)
    assert sure[1, 1] == pytest.approx(1 - LEAST, abs=1e-12)


def test_a_loss_is_no_higher_at_what_is_fitted_than_beside_it() -> None:
    seen = answers(60)

    def loss(slope: float, intercept: float) -> float:
        own = Recalibration(slope, (0.0, intercept)).applied(seen.probabilities)
        prior = (np.log(slope) ** 2 + intercept**2) / (2 * np.log(2) ** 2 * seen.groups)
        return float(-np.log(own[np.arange(60), seen.truth]).mean() + prior)

    found = fit(seen, slope=True)
    best = loss(found.slope, found.intercepts[1])
    for slope in (0.97, 1.03):
        for more in (-0.03, 0.03):
            assert loss(found.slope * slope, found.intercepts[1] + more) > best


def test_labels_told_apart_without_a_mistake_give_a_finite_slope() -> None:
    p = np.repeat([0.4, 0.6], 20)
    seen = Answers(np.stack([1 - p, p], 1), np.repeat([0, 1], 20), np.arange(40).astype(str), ("no", "yes"))
    assert 1 < fit(seen, slope=True).slope < 20


def test_an_intercept_is_where_the_prior_and_the_answers_pull_alike() -> None:
    """Half of twenty answers are true, at odds of 4 to 1 for it: n (p - 1/2) = b / ln(2)^2 at the intercept -b."""
    p = np.full(20, 0.8)
    seen = Answers(np.stack([1 - p, p], 1), np.repeat([0, 1], 10), np.arange(20).astype(str), ("no", "yes"))
    b = -fit(seen, slope=False).intercepts[1]
    assert 20 * (expit(np.log(4) - b) - 0.5) == pytest.approx(b / np.log(2) ** 2, rel=1e-3)
    assert 0.5 < b < np.log(4)


def test_a_group_of_many_images_counts_for_fewer_groups_in_effect() -> None:
    """Twenty groups of two images count as twenty, but nineteen of one and one of twenty-one as less than four."""
    even = np.repeat(np.arange(20), 2)
    uneven = np.append(np.arange(19), np.full(21, 19))
    p = np.full(40, 0.8)
    truth = np.tile([0, 1], 20)
    found = [
        -fit(Answers(np.stack([1 - p, p], 1), truth, group.astype(str), ("no", "yes")), slope=False).intercepts[1]
        for group in (even, uneven)
    ]
    for b, groups in zip(found, (20, 40**2 / (19 + 21**2)), strict=True):
        assert groups * (expit(np.log(4) - b) - 0.5) == pytest.approx(b / np.log(2) ** 2, rel=1e-3)
    assert found[1] < found[0]


def test_the_slope_needs_twenty_groups_of_the_rarer_of_two_labels() -> None:
    p, truth = np.full((60, 2), 0.5), np.repeat([0, 1], [40, 20])
    group = np.arange(60).astype(str)
    assert Answers(p, truth, group, ("no", "yes")).suffice_for_slope
    group[-1] = group[-2]  # two images of one patient
    assert not Answers(p, truth, group, ("no", "yes")).suffice_for_slope


@pytest.mark.parametrize(
    ("truth", "groups", "words"),
    [
        ([0, 1] * 10, 19, "got 19 groups; add labelled images"),
        ([0] * 30, 30, "got 30 groups, with 0 of yes"),
        ([0] * 29 + [1], 30, "got 30 groups, with 1 of yes"),
    ],
)
def test_too_few_groups_and_one_label_alone_are_refused(
    truth: list[int], groups: int, words: str, refused: Refused
) -> None:
    group = (np.arange(len(truth)) % groups).astype(str)
    with refused(DataError, "expected labelled images of at least 20 groups", words):
        Answers(np.full((len(truth), 2), 0.5), np.array(truth), group, ("no", "yes"))


def test_a_weight_is_the_same_as_a_repeated_group() -> None:
    seen = answers(40)
    weights = np.ones(40)
    weights[:10] = 2
    doubled = Answers(
        np.concatenate([seen.probabilities, seen.probabilities[:10]]),
        np.concatenate([seen.truth, seen.truth[:10]]),
        np.arange(50).astype(str),
        seen.labels,
    )
    one, other = fit(seen, slope=True, weights=weights), fit(doubled, slope=True)
    assert (one.slope, one.intercepts[1]) == pytest.approx((other.slope, other.intercepts[1]), rel=1e-3)


def test_parts_keep_groups_whole_and_have_each_label_in_two() -> None:
    truth = np.array([1, 1, *[0] * 58])  # two positive groups among thirty
    group = np.array(["a", "b", *(f"g{i // 2}" for i in range(58))])
    seen = Answers(np.full((60, 2), 0.5), truth, group, ("no", "yes"))
    for seed in range(20):
        part = parts_of(seen, 5, seed)
        assert all(len(set(part[group == name].tolist())) == 1 for name in set(group.tolist()))
        assert part[0] != part[1]
        assert np.bincount(part[2:]).min() >= 8
    assert parts_of(seen, 5, 0).tolist() != parts_of(seen, 5, 1).tolist()


def test_each_answer_is_recalibrated_once_a_repeat_by_those_of_other_groups() -> None:
    seen = answers(60)
    for parts in cross_fitted(seen, slope=True, folds=5, repeats=3):
        assert sorted(np.concatenate([own for own, _, _ in parts]).tolist()) == list(range(60))
        for own, others, found in parts:
            assert not set(own.tolist()) & set(others.tolist())
            alone = Answers(seen.probabilities[others], seen.truth[others], seen.group[others], seen.labels)
            again = fit(alone, slope=True)
            assert found.slope == pytest.approx(again.slope, rel=1e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = []
    for seed in range(15):
        seen = answers(200, seed=seed)
        numbers = with_intervals(seen, fit(seen, slope=True), slope=True, resamples=80)
        held += [
            numbers["slope"].low <= 1 / 3 <= numbers["slope"].high,
            numbers["intercept of yes"].low <= -1 / 3 <= numbers["intercept of yes"].high,
        ]
    assert np.mean(held) > 0.8


def test_a_mean_of_repeats_is_worked_by_hand() -> None:
    found = mean_of([Figure(0.1, 0.0, 0.2, 9), Figure(0.3, 0.2, 0.6, 9)])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.1, 0.4, 9))
