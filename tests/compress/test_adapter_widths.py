"""Widths of the bottlenecks, worked by hand, and the counts that follow from them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from leanmed.compress.adapter_widths import bottleneck_parameters, equal_scale, rank_of, shares, widths_of
from leanmed.errors import RecipeError
from leanmed.recipe.recipe import Adapters

VIT_B = (768,) * 12
VIT_L = (1024,) * 24


def widths(dims: tuple[int, ...] = VIT_B, **settings: object) -> tuple[int, ...]:
    return widths_of(Adapters.model_validate(settings), dims)


def counted(dims: tuple[int, ...] = VIT_B, **settings: object) -> int:
    return bottleneck_parameters(widths(dims, **settings), dims)


def test_hierarchical_widths_are_those_of_the_paper():
    assert widths(method="hierarchical") == (8, 16, 24, 32, 40, 48, 48, 56, 64, 72, 80, 88)


def test_both_presets_have_the_parameters_of_the_paper():
    assert counted(method="hierarchical") == 1_789_056
    assert counted(method="hierarchical-0.24") == 6_815_046


def test_the_second_preset_is_rounded_to_the_nearest():
    # 768 x .24 x i/6 = 30.72 i
    assert widths(method="hierarchical-0.24") == (31, 61, 92, 123, 154, 184, 184, 215, 246, 276, 307, 338)


def test_halves_are_rounded_up_and_none_is_below_one():
    # 12 x 1/8 x i/6 = .25 i: .25, .5, .75, 1, 1.25, 1.5, then 1.5, 1.75, 2, 2.25, 2.5, 2.75
    assert widths((12,) * 12, method="hierarchical", ratio=0.125) == (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3)


def test_other_depths_grow_in_a_straight_line_whose_mean_is_one():
    assert shares("hierarchical", 4) == (0.5, 1, 1, 1.5)
    assert shares("hierarchical", 3) == (0.5, 1, 1.5)
    assert shares("hierarchical", 1) == (1,)
    for depth in (2, 5, 12, 24, 32):
        assert sum(shares("hierarchical", depth)) == pytest.approx(depth)


def test_twice_the_depth_grows_in_steps_of_half_the_size():
    # 1024 / 16 x i/12 = 5.33 i
    assert widths(VIT_L, method="hierarchical")[:13] == (5, 11, 16, 21, 27, 32, 37, 43, 48, 53, 59, 64, 64)


def test_ablations_change_the_order_or_leave_one_out():
    growing = widths(method="hierarchical")
    assert widths(method="uniform") == (48,) * 12
    assert widths(method="reversed") == growing[::-1]
    assert widths(method="first-removed") == (0, *growing[1:])
    assert widths(method="last-removed") == (*growing[:-1], 0)


def test_a_removed_adapter_has_no_parameters():
    whole = counted(method="hierarchical")
    # two bottlenecks of 768 -> 8 -> 768 and of 768 -> 88 -> 768
    assert counted(method="first-removed") == whole - 2 * (2 * 768 * 8 + 8 + 768)
    assert counted(method="last-removed") == whole - 2 * (2 * 768 * 88 + 88 + 768)


def test_of_one_block_none_can_be_removed():
    with pytest.raises(RecipeError, match="at least two transformer blocks"):
        shares("last-removed", 1)


def test_the_two_strategies_are_powers_of_two_and_of_e():
    two, e = shares("strategy-1", 12), shares("strategy-2", 12)
    assert (two[5], two[11]) == (1, 2)  # 2^((i - 6) / 6) at i = 6 and i = 12
    assert two[0] == pytest.approx(0.561231)  # 2^(-5/6)
    assert (e[5], e[11]) == (1, pytest.approx(2.718282))
    assert e[0] == pytest.approx(0.434598)  # e^(-5/6)


def test_raw_strategies_spend_more_and_equal_ones_are_scaled():
    assert sum(shares("strategy-1", 12)) / 12 == pytest.approx(1.146, abs=5e-4)
    assert sum(shares("strategy-2", 12)) / 12 == pytest.approx(1.276, abs=5e-4)
    assert equal_scale("strategy-1", VIT_B) == pytest.approx(0.873, abs=5e-4)
    assert equal_scale("strategy-2", VIT_B) == pytest.approx(0.784, abs=5e-4)


@pytest.mark.parametrize("method", ["strategy-1", "strategy-2", "first-removed", "last-removed", "med-sa"])
@pytest.mark.parametrize("dims", [VIT_B, VIT_L, (96,) * 2 + (192,) * 2 + (384,) * 6 + (768,) * 2])
def test_an_equal_budget_is_equal_to_one_percent(method, dims):
    assert counted(dims, method=method, equal_budget=True) == pytest.approx(
        counted(dims, method="hierarchical"), rel=0.01
    )


def test_widths_follow_those_of_the_blocks():
    assert widths((32, 32, 64, 64), method="uniform", ratio=0.25) == (8, 8, 16, 16)


def test_med_sa_takes_a_quarter():
    assert widths(method="med-sa") == (192,) * 12


def test_lora_of_queries_and_values_has_rank_four_or_an_equal_budget():
    per_rank = 12 * 2 * (768 + 768)
    assert rank_of(Adapters(method="lora"), VIT_B, per_rank) == 4
    # 1,789,056 / 36,864 = 48.5
    assert rank_of(Adapters(method="lora", equal_budget=True), VIT_B, per_rank) == 49


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 8},
        {"method": "none", "ratio": 0.5},
        {"method": "hierarchical", "rank": 8},
        {"method": "hierarchical-0.24", "ratio": 0.5},
        {"method": "lora", "ratio": 0.5},
        {"method": "lora", "equal_budget": True, "rank": 8},
        {"method": "full", "decoder": True},
        {"method": "decoder", "ratio": 0.5},
    ],
)
def test_a_setting_without_effect_is_refused(settings):
    with pytest.raises(ValidationError, match=r"expected \w+ to be left out"):
        Adapters.model_validate(settings)
