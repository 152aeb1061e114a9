"""What a figure shows of itself."""

from __future__ import annotations

import math

from leanmed.figures.bootstrap import Figure


def test_a_figure_of_fewer_than_ten_groups_has_no_interval() -> None:
    figure = Figure(0.5, 0.25, 0.75, 40)
    few = figure.of_groups(9)
    assert (few.value, few.n, math.isnan(few.low), math.isnan(few.high)) == (0.5, 40, True, True)
    assert figure.of_groups(10) == figure
