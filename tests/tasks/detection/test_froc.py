from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from leanmed.figures.bootstrap import Figure, with_intervals
from leanmed.tasks.detection.froc import (
    Marks,
    average_precision,
    collect,
    count_once,
    counts,
    curves,
    rates_of,
    sensitivities,
)

ONCE = np.ones((1, 4))


@pytest.fixture
def four_images() -> Marks:
    """Six marks on four images with three findings: .9 and .6 are hits, .8, .6, .5 and .2 are not; one is missed."""
    return Marks(
        unit=np.array([0, 0, 1, 2, 2, 3]),
        score=np.array([0.9, 0.5, 0.8, 0.6, 0.6, 0.2]),
        finding=np.array([0, -1, -1, 1, -1, -1]),
        home=np.array([0, 2, 3]),
        units=4,
    )


def many(seed: int) -> Marks:
    """500 marks with tied scores on 40 images; a third are hits."""
    rng = np.random.default_rng(seed)
    finding = np.full(500, -1)
    finding[rng.choice(500, 160, replace=False)] = np.arange(160)
    unit = rng.integers(0, 40, 500)
    home = rng.integers(0, 40, 200)
    home[finding[finding >= 0]] = unit[finding >= 0]
    return Marks(unit, rng.integers(0, 60, 500) / 60, finding, home, 40)


def test_the_curve_worked_by_hand(four_images: Marks) -> None:
    """.9 finds one of three; .8 is wrong; at .6 a hit and a wrong mark enter together; then .5 and .2 are wrong."""
    true, false = counts(four_images)(ONCE)
    assert true.tolist() == [[0, 0, 1, 1, 2, 2]]
    assert false.tolist() == [[0, 0, 0, 1, 2, 4]]
    rate, sensitivity = curves(four_images)(ONCE)
    assert rate.tolist() == [[0, 0, 0, 0.25, 0.5, 1]]
    assert sensitivity[0] == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_between_points_the_curve_is_straight_and_beyond_the_last_level(four_images: Marks) -> None:
    found = sensitivities(four_images, [0.125, 0.375, 0.5, 8])(ONCE)
    assert found[0] == pytest.approx([1 / 3, 1 / 2, 2 / 3, 2 / 3])


def test_average_precision_worked_by_hand(four_images: Marks) -> None:
    """Recall goes to 1/3 with precision 1, then to 2/3 with precision 2 of 4."""
    assert average_precision(four_images)(ONCE)[0] == pytest.approx((1 + 2 / 4) / 3)


def test_a_precision_is_at_least_that_of_any_higher_recall() -> None:
    """Wrong, right, right: precision 1/2 rises to 2/3, which counts for both."""
    marks = Marks(np.zeros(3, int), np.array([0.9, 0.8, 0.7]), np.array([-1, 0, 1]), np.zeros(2, int), 1)
    assert average_precision(marks)(np.ones((1, 1)))[0] == pytest.approx(2 / 3)


def test_precision_recall_and_f1_of_all_marks(four_images: Marks) -> None:
    precision, recall, f1 = rates_of(four_images)(ONCE)
    assert (precision[0], recall[0], f1[0]) == pytest.approx((2 / 6, 2 / 3, 4 / 9))


@pytest.mark.parametrize("seed", range(3))
def test_stopping_at_hits_alone_loses_nothing(seed: int) -> None:
    """Against counting at every distinct score, on resampled images."""
    marks = many(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (5, 40)).astype(float)
    rates = np.linspace(0, 12, 50)
    fast = sensitivities(marks, rates)(weights)
    for row, w in zip(fast, weights, strict=True):
        levels = np.unique(marks.score)[::-1]
        false = [0, *((w[marks.unit] * ~marks.hit)[marks.score >= s].sum() for s in levels)]
        true = [0, *((w[marks.unit] * marks.hit)[marks.score >= s].sum() for s in levels)]
        slow = np.interp(rates, np.array(false) / w.sum(), np.array(true) / w[marks.home].sum())
        assert row == pytest.approx(slow)


def test_average_precision_bounds_that_of_scikit_learn_from_above() -> None:
    """scikit-learn takes each precision as it is; ours is its upper envelope, and equal where precision only falls."""
    marks = many(0)
    share = marks.hit.sum() / marks.home.size
    raw = share * average_precision_score(marks.hit, marks.score)
    assert raw <= average_precision(marks)(np.ones((1, 40)))[0] <= share
    falling = Marks(marks.unit, marks.hit + 0.0, marks.finding, marks.home, 40)
    assert average_precision(falling)(np.ones((1, 40)))[0] == pytest.approx(share)


def test_resampling_weighs_images_as_repeating_them_does(four_images: Marks) -> None:
    twice = collect(
        [(np.array([0.9, 0.5]), np.array([0, -1]))] * 2 + [(np.array([0.6, 0.6]), np.array([0, -1]))], [1, 1, 1]
    )
    weighed = sensitivities(four_images)(np.array([[2.0, 0, 1, 0]]))
    assert weighed[0] == pytest.approx(sensitivities(twice)(np.ones((1, 3)))[0])


def test_findings_of_one_kind_keep_all_false_positives(four_images: Marks) -> None:
    part = four_images.only(np.array([False, True, True]))
    assert part.finding.tolist() == [-1, -1, 0, -1, -1]
    assert part.home.tolist() == [2, 3]
    assert sensitivities(part, [1.0])(ONCE)[0, 0] == pytest.approx(1 / 2)


def test_a_finding_counts_once_with_its_best_mark() -> None:
    hits = np.array([[True, False], [True, False], [False, False], [False, False]])
    scores = np.array([0.4, 0.7, 0.6, 0.5])
    counted, finding = count_once(hits, scores, ignored=np.array([False, False, False, True]))
    assert counted.tolist() == [0.7, 0.6]
    assert finding.tolist() == [0, -1]


def test_without_marks_nothing_is_found_and_without_findings_nothing_can_be_said() -> None:
    empty = np.empty(0)
    nothing_marked = collect([(empty, empty.astype(int))] * 2, [1, 0])
    assert sensitivities(nothing_marked)(np.ones((1, 2))).tolist() == [[0.0] * 7]
    assert average_precision(nothing_marked)(np.ones((1, 2)))[0] == 0
    nothing_there = collect([(np.array([0.5]), np.array([-1]))] * 2, [0, 0])
    assert np.isnan(sensitivities(nothing_there)(np.ones((1, 2)))).all()
    assert np.isnan([values[0] for values in rates_of(nothing_there)(np.ones((1, 2)))]).all()


def test_repeating_the_images_of_a_group_does_not_narrow_the_interval() -> None:
    marks, doubled = many(1), many(1)
    doubled = Marks(
        unit=np.append(doubled.unit, doubled.unit + 40),
        score=np.tile(doubled.score, 2),
        finding=np.append(doubled.finding, np.where(doubled.hit, doubled.finding + 200, -1)),
        home=np.append(doubled.home, doubled.home + 40),
        units=80,
    )
    group = np.arange(40).astype(str)
    once, twice = interval_at_one(marks, group), interval_at_one(doubled, np.tile(group, 2))
    assert (twice.low, twice.value, twice.high) == pytest.approx((once.low, once.value, once.high))
    assert once.low < once.value < once.high


def interval_at_one(marks: Marks, group: np.ndarray) -> Figure:
    at_one = sensitivities(marks, [1.0])
    return with_intervals(lambda w: {"x": at_one(w)[:, 0]}, group, columns=400, resamples=200, seed=0)["x"]
