"""What a figure shows of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leanmed.figures.bootstrap import Figure, difference, with_intervals
from leanmed.report.plots import wilson


def test_a_figure_of_fewer_than_ten_groups_has_no_interval() -> None:
    figure = Figure(0.5, 0.25, 0.75, 40)
    few = figure.of_groups(9)
    assert (few.value, few.n, math.isnan(few.low), math.isnan(few.high)) == (0.5, 40, True, True)
    assert figure.of_groups(10) == figure


def test_a_difference_of_independent_figures_worked_by_hand() -> None:
    """Newcombe 1998, table II, case (a), method 10: 56/70 and 48/80 with Wilson's intervals."""
    first, second = (Figure(k / n, *wilson(k / n, n), n) for k, n in ((56, 70), (48, 80)))
    change = difference(second, first)
    assert (change.value, change.n) == (pytest.approx(0.2), 70)
    assert (change.low, change.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    back = difference(first, second)
    assert (back.low, back.high) == pytest.approx((-change.high, -change.low))


def test_it_is_the_interval_of_a_bootstrap_of_both_sides() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.random(150) < 0.9, rng.random(90) < 0.6

    def share(hit):
        return lambda weights: {"share": weights @ hit / weights.sum(axis=1)}

    before, after = (
        with_intervals(share(hit.astype(float)), np.arange(hit.size).astype(str), resamples=4000, seed=k)["share"]
        for k, hit in enumerate((one, other))
    )
    drawn = rng.binomial(90, other.mean(), 40000) / 90 - rng.binomial(150, one.mean(), 40000) / 150
    found = difference(before, after)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


def test_without_an_interval_on_both_sides_a_difference_has_none() -> None:
    known, unknown = Figure(0.8, 0.7, 0.9, 10), Figure(1.0, math.nan, math.nan, 10)
    change = difference(known, unknown)
    assert change.value == pytest.approx(0.2)
    assert math.isnan(change.low)
    assert math.isnan(change.high)


def test_an_interval_beside_its_value_is_not_reflected() -> None:
    change = difference(Figure(0.1, 0.2, 0.3, 5), Figure(0.5, 0.5, 0.5, 5))
    assert (change.low, change.high) == pytest.approx((0.2, 0.4))
