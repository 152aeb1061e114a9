from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leanmed.errors import DataError
from leanmed.tasks.detection.figures import (
    POINT,
    Detected,
    answered,
    by_diameter,
    iou,
    match_best,
    match_centres,
    match_overlap,
    paired,
    point,
    score,
)

NO_BOX = np.empty((0, 4))


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def table(*images: tuple[np.ndarray, np.ndarray, list[float]], threshold: float = 0.5, **changes) -> Detected:
    """(truth, boxes, scores) of each image, each its own group."""
    truth, found, scores = zip(*images, strict=True)
    group = np.array([f"g{i}" for i in range(len(images))])
    made = Detected(truth, found, [np.array(s, float) for s in scores], np.full(len(images), threshold), group)
    return replace(made, **changes)


@pytest.fixture
def worked() -> Detected:
    """Three images, two nodules: one found at .9 and again at .8, one missed by .7; a false alarm at .6 without any."""
    nodule = boxes((10, 10, 20, 20))
    return table(
        (nodule, boxes((10, 10, 20, 20), (11, 10, 21, 20)), [0.9, 0.8]),
        (nodule, boxes((30, 30, 40, 40)), [0.7]),
        (NO_BOX, boxes((50, 50, 60, 60)), [0.6]),
    )


def scattered(seed: int, n: int = 60) -> Detected:
    """Up to two nodules an image, found with noise, among five boxes that find nothing; two images a group."""
    rng = np.random.default_rng(seed)
    images, diameters = [], []
    for _ in range(n):
        size = rng.uniform(4, 20, rng.integers(0, 3))
        centre = rng.uniform(20, 300, (size.size, 2))
        truth = np.concatenate([centre - size[:, None] / 2, centre + size[:, None] / 2], axis=1)
        wrong = rng.uniform(400, 500, (5, 2))
        found = np.concatenate([truth + rng.normal(0, 1, truth.shape), np.concatenate([wrong, wrong + 8], axis=1)])
        images.append((truth, found, [*rng.beta(4, 3, size.size), *rng.beta(2, 4, 5)]))
        diameters.append(size)
    return table(*images, diameters=diameters, group=np.array([f"g{i // 2}" for i in range(n)]))


def test_intersection_over_union_worked_by_hand() -> None:
    found = iou(boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (5, 0, 15, 10), (5, 5, 15, 15), (10, 0, 20, 10)))
    assert found[0] == pytest.approx([1, 1 / 3, 25 / 175, 0])
    assert iou(NO_BOX, boxes((0, 0, 1, 1))).shape == (0, 1)


def test_every_figure_worked_by_hand(worked: Detected) -> None:
    """By overlap .9 is right and .8, .7, .6 are wrong; by centres .8 does not count. At one false positive per image
    one of two nodules is found, as it is from the start."""
    found = point(worked)
    assert tuple(found) == POINT
    assert found == pytest.approx(
        {"ap50": 1 / 2, "froc": 1 / 2, "sensitivity": 1 / 2, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5}
    )


def test_a_second_box_on_a_nodule_is_wrong_by_overlap_and_uncounted_by_centres(worked: Detected) -> None:
    first = worked.subset(np.array([0]))
    assert match_overlap(first).finding.tolist() == [0, -1]
    assert match_centres(first).finding.tolist() == [0]


def test_overlap_of_exactly_half_is_enough() -> None:
    half = table((boxes((0, 0, 10, 10)), boxes((0, 0, 10, 5), (0, 0, 10, 4.9)), [0.8, 0.9]))
    assert match_overlap(half).finding.tolist() == [-1, 0]


def test_a_centre_must_lie_within_half_the_shorter_side() -> None:
    """Of a true box 20 wide and 10 high the radius is 5."""
    truth = boxes((0, 0, 20, 10))
    near, far = boxes((13.9, 4, 15.9, 6)), boxes((14, 4, 16, 6))
    assert match_centres(table((truth, near, [0.5]))).hit.tolist() == [True]
    assert match_centres(table((truth, far, [0.5]))).hit.tolist() == [False]


def test_the_paper_s_protocol_takes_the_best_box_of_each_image_with_a_nodule(worked: Detected) -> None:
    """Two images hold a nodule: the best box of one is right, that of the other is not; no threshold applies."""
    assert match_best(worked).score.tolist() == [0.9, 0.7]
    found = score(replace(worked, threshold=np.full(3, 0.99)), resamples=20)
    assert [found[name].value for name in ("top_precision", "top_recall", "top_f1")] == [0.5, 0.5, 0.5]


def test_each_image_has_its_own_threshold(worked: Detected) -> None:
    own = replace(worked, threshold=np.array([0.9, 0.71, 0.6]))
    assert answered(match_centres(own), own).score.tolist() == [0.9, 0.6]


def test_score_gives_what_point_gives_and_more() -> None:
    made = scattered(0)
    values, figures = point(made), score(made, resamples=200)
    assert {name: figures[name].value for name in POINT} == values
    ladder = [figures[f"sensitivity@{rate}"].value for rate in ("0.125", "0.25", "0.5")]
    ladder += [figures["sensitivity"].value, *(figures[f"sensitivity@{rate}"].value for rate in (2, 4, 8))]
    assert ladder == sorted(ladder)
    assert figures["froc"].value == pytest.approx(sum(ladder) / 7)
    for figure in figures.values():
        assert figure.n == 60
        assert figure.low <= figure.value <= figure.high


def test_the_order_of_images_and_boxes_does_not_matter() -> None:
    made = scattered(1)
    shuffled = made.subset(np.random.default_rng(0).permutation(60))
    turned = replace(shuffled, boxes=[b[::-1] for b in shuffled.boxes], scores=[s[::-1] for s in shuffled.scores])
    assert point(turned) == pytest.approx(point(made))


def test_what_cannot_be_told_is_undefined() -> None:
    nothing_there = table((NO_BOX, boxes((0, 0, 1, 1)), [0.9]), (NO_BOX, NO_BOX, []))
    assert np.isnan(list(point(nothing_there).values())).all()
    nothing_found = table((boxes((0, 0, 1, 1)), NO_BOX, []))
    values = point(nothing_found)
    assert np.isnan(values.pop("precision"))
    assert set(values.values()) == {0.0}


def test_finding_everything_is_no_proof_of_certainty() -> None:
    """Ten of ten nodules: the exact interval of ten patients goes down to .69."""
    nodule = boxes((0, 0, 10, 10))
    found = score(table(*[(nodule, nodule, [0.9])] * 10), resamples=50)
    assert (found["recall"].value, found["recall"].low) == pytest.approx((1, 0.6915), abs=1e-4)
    assert np.isnan(found["ap50"].low)


def test_diameter_bands_hold_their_lower_edge_and_share_the_false_positives() -> None:
    made = scattered(2)
    rows = by_diameter(made, edges=(8.0, 14.0), resamples=50)
    sizes = np.concatenate(list(made.diameters))
    assert [row.value for row in rows] == ["< 8 mm", "8 to < 14 mm", "≥ 14 mm"]
    assert [row.positives for row in rows] == [
        (sizes < 8).sum(),
        ((sizes >= 8) & (sizes < 14)).sum(),
        (sizes >= 14).sum(),
    ]
    overall = point(made)
    for name in ("sensitivity", "froc", "recall"):
        mean = sum(row.positives * row.figures[name].value for row in rows) / made.objects
        assert mean == pytest.approx(overall[name])


@pytest.mark.parametrize(("groups", "shown"), [(9, False), (10, True)])
def test_a_band_of_few_groups_has_figures_and_no_intervals(groups: int, shown: bool) -> None:
    """Nodules of 10 mm in twenty images, half of them found; what lies in other groups does not count."""
    nodule = boxes((0, 0, 10, 10))
    found, missed = (nodule, nodule, [0.9]), (nodule, NO_BOX, [])
    images = [*[found, found, missed, missed] * 5, *[(NO_BOX, NO_BOX, [])] * 10]
    group = np.array([f"g{i * groups // 20}" for i in range(20)] + [f"empty{i}" for i in range(10)])
    made = table(*images, diameters=[np.full(len(truth), 10.0) for truth, *_ in images], group=group)
    (row,) = [row for row in by_diameter(made, edges=(8.0,), resamples=50) if row.positives]
    assert (row.groups, row.figures["recall"].value) == (groups, 0.5)
    assert np.isfinite(row.figures["recall"].low) == shown


def test_a_small_band_has_no_figures_and_unknown_diameters_no_band() -> None:
    made = scattered(2)
    assert by_diameter(replace(made, diameters=())) == []
    few = made.subset(np.arange(6))
    assert all(np.isnan(row.figures["recall"].value) for row in by_diameter(few, resamples=20))


def test_pairs_differ_by_what_changed() -> None:
    before = scattered(3)
    weaker = [
        s * np.where(np.arange(len(s)) < len(t), 0.5, 1) for s, t in zip(before.scores, before.truth, strict=True)
    ]
    after = replace(before, scores=weaker)
    change = paired(before, after, resamples=200)
    a, b = point(before), point(after)
    assert {name: change[name].value for name in POINT} == pytest.approx({name: b[name] - a[name] for name in POINT})
    assert change["ap50"].low <= change["ap50"].value <= change["ap50"].high < 0


def test_agreement_is_the_share_of_images_with_the_same_answered_boxes(worked: Detected) -> None:
    moved = replace(worked, boxes=[worked.boxes[0] + 0.5, worked.boxes[1] + 9, worked.boxes[2]])
    assert paired(worked, worked, resamples=20)["agreement"].value == 1
    assert paired(worked, moved, resamples=20)["agreement"].value == pytest.approx(2 / 3)
    fewer = replace(worked, threshold=np.array([0.85, 0.5, 0.5]))
    assert paired(worked, fewer, resamples=20)["agreement"].value == pytest.approx(2 / 3)


def test_pairs_must_be_of_the_same_images(worked: Detected, refused) -> None:
    with refused(DataError, "the same images"):
        paired(worked, worked.subset(np.array([1, 0, 2])))
    with refused(DataError, "the same images"):
        paired(worked, worked.subset(np.array([0, 1])))


def test_tables_that_do_not_fit_are_refused(worked: Detected, refused) -> None:
    with refused(DataError, "scores", "3", "got 2"):
        replace(worked, scores=worked.scores[:2])
    with refused(DataError, "boxes", "(boxes, 4)"):
        replace(worked, boxes=[NO_BOX, NO_BOX, np.empty((0, 5))])
    with refused(DataError, "truth", "finite"):
        replace(worked, truth=[boxes((0, 0, np.nan, 1)), NO_BOX, NO_BOX])
    with refused(DataError, "one finite score"):
        replace(worked, scores=[np.array([0.1]), *worked.scores[1:]])
