"""Figures of masks, worked by hand, and those of MONAI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from leanmed.errors import DataError
from leanmed.figures.bootstrap import SMALL_GROUPS
from leanmed.tasks.segmentation.figures import (
    CaseRow,
    Segmented,
    counts,
    measure,
    measure_case,
    paired,
    point,
    score,
)
from leanmed.tasks.segmentation.plots import plots_of
from leanmed.tasks.segmentation.words import TERMS, terms_of

MONAI_WARNS = pytest.mark.filterwarnings("ignore:monai:FutureWarning")  # of its own arguments
EMPTY = np.zeros((6, 8), np.uint8)


def mask(*boxes: tuple[int, int, int, int], shape: tuple[int, ...] = (6, 8), value: int = 1) -> NDArray[np.uint8]:
    """Boxes (top, bottom, left, right), the ends not included."""
    made = np.zeros(shape, np.uint8)
    for top, bottom, left, right in boxes:
        made[..., top:bottom, left:right] = value
    return made


def rows_of(n: int = 20, *, labels: int = 1, seed: int = 0, **more: Any) -> list[CaseRow]:
    """Cases whose answers are the truth moved by some pixels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((16, 16), np.uint8)
    for label in range(1, labels + 1):
        truth[4 * label - 2 : 4 * label + 2, 3:12] = label
    moved = [np.roll(truth, int(rng.integers(0, 4)), axis=1) for _ in range(n)]
    return [measure_case(truth, one, labels, **more) for one in moved]


def table_of(rows: list[CaseRow], labels: tuple[str, ...] = ("lesion",), **more: Any) -> Segmented:
    n = len(rows)
    group = np.array([f"g{k // 2:02}" for k in range(n)])
    return Segmented.of(rows, **{"first": np.arange(n), "group": group, "labels": labels} | more)


def test_overlap_of_two_boxes_by_hand() -> None:
    # 2 x 4 = 8 pixels each, of which 2 x 3 = 6 are shared.
    row = measure_case(mask((1, 3, 1, 5)), mask((1, 3, 2, 6)), 1)
    assert (row.tp.tolist(), row.fp.tolist(), row.fn.tolist()) == ([6], [2], [2])
    assert row.dice[0] == pytest.approx(12 / 16)
    assert row.iou[0] == pytest.approx(6 / 10)


def test_distances_of_two_bars_by_hand() -> None:
    # Every pixel of bars one pixel wide is edge. Those of the truth at columns 1 to 4 lie 1, 0, 0, 0 from the answer's
    # at 2 to 5, and those lie 0, 0, 0, 1 from it. The 95th percentile of (0, 0, 0, 1) is at 2.85: .85.
    row = measure_case(mask((2, 3, 1, 5)), mask((2, 3, 2, 6)), 1)
    assert row.hd95[0] == pytest.approx(0.85)
    assert row.asd[0] == pytest.approx(2 / 8)
    assert not row.in_mm


def test_hd95_is_the_larger_of_both_directions() -> None:
    # The dot is on the bar, whose far end is 4 away from it.
    near = measure_case(mask((2, 3, 1, 6)), mask((2, 3, 1, 2)), 1)
    far = measure_case(mask((2, 3, 1, 2)), mask((2, 3, 1, 6)), 1)
    assert near.hd95[0] == far.hd95[0] == pytest.approx(3.8)  # of 0, 1, 2, 3, 4
    assert near.asd[0] == far.asd[0] == pytest.approx(10 / 6)


def test_the_inside_of_a_mask_is_no_edge_but_the_side_of_the_image_is() -> None:
    # A box of 3 x 3 in the corner has eight pixels of edge; the answer lacks the one in the middle, which is none.
    ring = mask((0, 3, 0, 3))
    ring[1, 1] = 0
    row = measure_case(mask((0, 3, 0, 3)), ring, 1)
    assert row.dice[0] == pytest.approx(16 / 17)
    assert row.asd[0] == 0


def test_spacing_is_of_rows_first() -> None:
    one, lower, right = (mask((y, y + 1, x, x + 1)) for y, x in [(1, 1), (3, 1), (1, 3)])
    assert measure_case(one, lower, 1, spacing=(2.5, 0.5)).hd95[0] == pytest.approx(5)
    assert measure_case(one, right, 1, spacing=(2.5, 0.5)).asd[0] == pytest.approx(1)
    assert measure_case(one, right, 1, spacing=(2.5, 0.5)).in_mm


def test_slices_lie_along_the_first_axis_of_a_volume() -> None:
    truth, answered = np.zeros((4, 6, 8), np.uint8), np.zeros((4, 6, 8), np.uint8)
    truth[0, 2, 2] = answered[3, 2, 2] = 1
    assert measure_case(truth, answered, 1, spacing=(5, 1, 1)).hd95[0] == pytest.approx(15)


def test_nothing_answered_to_nothing_is_all_right() -> None:
    row = measure_case(EMPTY, EMPTY, 1, thin=True)
    assert (row.dice, row.iou, row.hd95, row.asd, row.cl_dice) == ([1], [1], [0], [0], [1])


@pytest.mark.parametrize("turned", [False, True])
def test_something_against_nothing_has_no_overlap_and_no_distance(turned: bool) -> None:
    pair = (EMPTY, mask((1, 3, 1, 5)))
    row = measure_case(*(pair[::-1] if turned else pair), 1, thin=True)
    assert (row.dice, row.iou, row.cl_dice) == ([0], [0], [0])
    assert np.isnan([*row.hd95, *row.asd]).all()


def test_what_is_outside_is_not_judged() -> None:
    truth, answered = mask((1, 3, 1, 5)), mask((1, 3, 1, 8))
    truth[:, 5:] = 255
    row = measure_case(truth, answered, 1, within=truth != 255, confidence=answered * 255)
    assert (row.dice[0], row.fp[0], row.hd95[0]) == (1, 0, 0)
    assert row.histogram is not None
    assert row.histogram[:, 0].sum() == 6 * 5


def test_each_label_is_measured_against_all_else() -> None:
    truth = mask((0, 2, 0, 4)) + mask((3, 5, 0, 4), value=2)
    answered = mask((0, 2, 0, 4)) + mask((3, 5, 0, 2), value=2) + mask((3, 5, 2, 4), value=3)
    row = measure_case(truth, answered, 3)
    assert row.dice == pytest.approx([1, 8 / 12, 0])
    assert np.isnan(row.hd95).tolist() == [False, False, True]
    # Label 2: the right half is missing, 1 and 2 columns away.
    assert row.asd[1] == pytest.approx((2 * (1 + 2)) / 12)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(6, 8\), got \(6, 7\)"):
        measure_case(EMPTY, EMPTY[:, :7], 1)
    with pytest.raises(DataError, match="from 0 to 1, got 2"):
        measure_case(EMPTY, EMPTY + 2, 1)
    with pytest.raises(DataError, match="each of 2 axes, got 3"):
        measure_case(EMPTY, EMPTY, 1, spacing=(1, 1, 1))


@MONAI_WARNS
@pytest.mark.parametrize("spacing", [None, (0.7, 1.9)])
def test_distances_in_two_dimensions_are_those_of_monai(spacing: tuple[float, ...] | None) -> None:
    pytest.importorskip("monai")
    for seed in range(8):
        as_monai((40, 52), spacing, seed)


@MONAI_WARNS
@pytest.mark.parametrize("spacing", [None, (5.0, 0.8, 1.1)])
def test_distances_in_three_dimensions_are_those_of_monai(spacing: tuple[float, ...] | None) -> None:
    pytest.importorskip("monai")
    for seed in range(4):
        as_monai((9, 22, 27), spacing, seed)


def as_monai(shape: tuple[int, ...], spacing: tuple[float, ...] | None, seed: int) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=shape), 2) for _ in range(3)]
    truth, answered = (fields[0] + 0.5 * own > 0.05 for own in fields[1:])  # alike, but not the same
    row = measure_case(truth.astype(np.uint8), answered.astype(np.uint8), 1, spacing=spacing)
    pair = {"y_pred": answered[None, None], "y": truth[None, None], "include_background": True, "spacing": spacing}
    assert row.hd95[0] > 0
    assert row.hd95[0] == pytest.approx(float(compute_hausdorff_distance(percentile=95, **pair)), rel=1e-6)
    assert row.asd[0] == pytest.approx(float(compute_average_surface_distance(symmetric=True, **pair)), rel=1e-6)


def test_cl_dice_by_hand() -> None:
    # A line of eight pixels; the answer is its first six and two more beside it, all one pixel wide: its own skeleton.
    truth = mask((2, 3, 0, 8))
    answered = mask((2, 3, 0, 6), (4, 5, 0, 2))
    row = measure_case(truth, answered, 1, thin=True)
    precision, sensitivity = 6 / 8, 6 / 8
    assert row.cl_dice == pytest.approx([2 * precision * sensitivity / (precision + sensitivity)])
    assert measure_case(truth, answered, 1).cl_dice is None


def test_cl_dice_asks_that_the_line_is_followed_and_not_how_wide_it_is() -> None:
    row = measure_case(mask((1, 4, 0, 8)), mask((2, 3, 0, 8)), 1, thin=True)
    assert row.dice[0] == pytest.approx(0.5)
    assert row.cl_dice == pytest.approx([1])


def test_cl_dice_of_lines_apart_is_zero() -> None:
    assert measure_case(mask((1, 2, 0, 8)), mask((4, 5, 0, 8)), 1, thin=True).cl_dice == [0]


def test_a_confidence_falls_into_one_of_fifteen_bins() -> None:
    truth, confidence = mask((0, 1, 0, 2)), EMPTY.copy()
    confidence[0, :4] = [255, 238, 237, 17]  # 1, 14/15, just below it, 1/15
    found = measure_case(truth, EMPTY, 1, confidence=confidence).histogram
    assert found is not None
    assert found[14] == pytest.approx([2, 1 + 14 / 15, 2])
    assert found[13] == pytest.approx([1, 237 / 255, 0])
    assert found[1] == pytest.approx([1, 1 / 15, 0])
    assert found[0] == pytest.approx([44, 0, 0])


def test_ece_by_hand() -> None:
    # Two cases of 48 pixels. Of four pixels at 0.8 three are true, in bin 12: |4 x .8 - 3| = .2. One pixel at 0 is
    # true: 1. So (.2 + 1) / 96.
    first, second = EMPTY.copy(), EMPTY.copy()
    first[0, :4] = 204
    truth = mask((0, 1, 0, 3))
    rows = [
        measure_case(truth, EMPTY, 1, confidence=first),
        measure_case(mask((5, 6, 7, 8)), EMPTY, 1, confidence=second),
    ]
    table = table_of(rows)
    assert point(table)["ece"] == pytest.approx(1.2 / 96)
    assert "ece" not in point(table_of([measure_case(truth, EMPTY, 1)]))


def test_a_score_is_the_mean_over_cases_of_the_mean_over_labels() -> None:
    truth = mask((0, 2, 0, 4)) + mask((3, 5, 0, 4), value=2)
    half = mask((0, 2, 0, 4)) + mask((3, 5, 0, 2), value=2)
    table = table_of([measure_case(truth, own, 2) for own in (truth, half)], ("left", "right"))
    values = point(table)
    assert values["dice:left"] == pytest.approx(1)
    assert values["dice:right"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["dice"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    assert table.mean_dice() == pytest.approx([1, 5 / 6])
    assert values["asd"] == pytest.approx((0 + (0 + 6 / 12) / 2) / 2)


def test_a_case_without_distance_is_left_out_of_every_resample() -> None:
    box = mask((1, 3, 1, 5))
    rows = [measure_case(box, own, 1) for own in (box, mask((1, 3, 2, 6)), EMPTY)]
    table = table_of(rows)
    drawn = measure(table)(np.array([[1.0, 1, 1], [2, 0, 1], [0, 1, 2], [0, 0, 3]]))
    far = rows[1].asd[0]
    assert drawn["asd"] == pytest.approx([far / 2, 0, far, np.nan], nan_ok=True)
    assert drawn["dice"] == pytest.approx([(1 + 0.75) / 3, 2 / 3, 0.75 / 3, 0])


def test_intervals_hold_the_values_though_some_cases_have_no_distance() -> None:
    rows = rows_of(40)
    empty = np.zeros((16, 16), np.uint8)
    truth = empty.copy()
    truth[2:6, 3:12] = 1
    found = score(table_of([*rows, measure_case(truth, empty, 1)]), resamples=200)
    assert all(figure.low < figure.value < figure.high for figure in found.values())
    assert {figure.n for figure in found.values()} == {41}
    assert found["hd95"].value == pytest.approx(np.mean([row.hd95[0] for row in rows]))


def test_point_and_score_say_the_same_and_every_figure_has_a_name() -> None:
    rows = rows_of(thin=True, confidence=np.full((16, 16), 90, np.uint8))
    table = table_of(rows)
    found = score(table, resamples=50)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(point(table))
    assert set(found) == set(TERMS) - {"agreement"}
    several = table_of(rows_of(labels=2), ("a", "b"))
    assert set(score(several, resamples=50)) | {"agreement", "cl_dice", "ece"} == set(terms_of(("a", "b")))


def test_a_change_is_the_difference_of_the_scores() -> None:
    before, after = table_of(rows_of(seed=1)), table_of(rows_of(seed=2))
    change = paired(before, after, resamples=200)
    for name, value in point(after).items():
        assert change[name].value == pytest.approx(value - point(before)[name])
    same = np.abs(before.mean_dice() - after.mean_dice()) <= 0.02
    assert 0 < same.mean() < 1
    assert change["agreement"].value == pytest.approx(same.mean())


def test_a_dice_that_differs_by_a_fiftieth_agrees() -> None:
    # 50 pixels of truth: all answered, or but 48 and two elsewhere, which is a Dice of .96; 49 and one, .98.
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1
    answers = [truth.copy(), truth.copy()]
    answers[0].ravel()[[0, 99]] = [0, 1]
    answers[1].ravel()[[0, 1, 98, 99]] = [0, 0, 1, 1]
    perfect = table_of([measure_case(truth, truth, 1)] * 2)
    assert paired(perfect, table_of([measure_case(truth, own, 1) for own in answers]))["agreement"].value == 0.5


def test_tables_of_other_images_are_not_paired() -> None:
    table = table_of(rows_of())
    larger = np.ones((16, 16), np.uint8)
    other = table_of([*rows_of(19), measure_case(larger, larger, 1)])
    for one in (other, table.subset(np.arange(20)[::-1]), table.subset(np.arange(18))):
        with pytest.raises(DataError, match="two tables of the same images in the same order, got others"):
            paired(table, one)


def test_counts_are_summed_over_cases() -> None:
    rows = [measure_case(mask((1, 3, 1, 5)), own, 1) for own in (mask((1, 3, 2, 6)), EMPTY)]
    assert counts(table_of(rows)) == {"lesion": {"tp": 6, "fp": 2, "fn": 10}}


def test_a_part_of_a_table_holds_its_own_cases() -> None:
    rows = rows_of(6, thin=True, confidence=np.zeros((16, 16), np.uint8))
    table = table_of(rows, fold=np.array([0, 1, 0, 1, 0, 1]), first=np.arange(0, 12, 2))
    part = table.subset(np.array([False, True, False, True, False, False]))
    assert (part.first.tolist(), part.group.tolist()) == ([2, 6], ["g00", "g01"])
    assert part.fold is not None
    assert part.cl_dice is not None
    assert part.histograms is not None
    assert part.fold.tolist() == [1, 1]
    assert part.dice.tolist() == [rows[1].dice.tolist(), rows[3].dice.tolist()]
    assert (part.groups, len(part.cl_dice), len(part.histograms)) == (2, 2, 2)


def test_distances_in_pixels_are_not_averaged_with_those_in_mm() -> None:
    pair = mask((2, 3, 1, 2)), mask((2, 3, 4, 5))
    known, unknown = measure_case(*pair, 1, spacing=(2, 2)), measure_case(*pair, 1)
    both = table_of([known, unknown])
    assert (both.unit, point(both)["asd"], point(both)["dice"]) == ("mm", 6, 0)
    assert both.remarks()[-1] == "1 cases have no distance, since the size of their pixels is not known."
    pixels = table_of([unknown, unknown])
    assert (pixels.unit, point(pixels)["hd95"]) == ("pixels", 3)
    assert "Distances are in pixels: the size of a pixel is not known." in pixels.remarks()


def test_remarks_say_what_there_is_and_what_is_left_out() -> None:
    box = mask((1, 3, 1, 5))
    pairs = [(box, box), (box, EMPTY), (EMPTY, EMPTY), (EMPTY, box)]
    remarks = table_of([measure_case(*pair, 1, spacing=(1, 1)) for pair in pairs]).remarks()
    assert remarks[0] == "4 cases in 2 groups; in 2 cases there is nothing to find."
    assert any(remark.startswith("In 1 cases neither truth nor answer marks a label.") for remark in remarks)
    assert any(remark.startswith("In 2 cases only one of truth and answer marks a label") for remark in remarks)
    several = table_of([measure_case(box, box, 2)] * 2, ("a", "b")).remarks()
    assert "Cases that hold each label: a 2, b 0." in several


def test_a_table_without_cases_or_with_columns_that_do_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="one or more cases"):
        table_of([])
    with pytest.raises(DataError, match=r"dice of 2 cases to have shape \(2, 2\), got \(2, 1\)"):
        table_of(rows_of(2), ("a", "b"))
    with pytest.raises(DataError, match="fold of 2 cases"):
        table_of(rows_of(2), fold=np.zeros(3, np.int64))


def test_plots_show_the_dice_of_cases_and_the_reliability_where_it_is_known() -> None:
    confidence = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (16, 1))
    table = table_of(rows_of(2 * SMALL_GROUPS, confidence=confidence))
    dice, reliability = plots_of(table)
    assert f"Mean {table.mean_dice().mean():.3f}" in dice.alt
    assert f"ECE {point(table)['ece']:.3f}" in reliability.alt
    assert dice.svg.count("Cases<") == 1
    assert ">100</text>" in reliability.svg
    assert "math" not in reliability.svg
    (several,) = plots_of(table_of(rows_of(labels=2), ("left <lung>", "$x$")))
    assert several.svg.count("mean 0.") == 3
