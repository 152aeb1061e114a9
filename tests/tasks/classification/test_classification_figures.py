from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from sklearn import metrics as reference

from leanmed.errors import DataError
from leanmed.figures import bootstrap
from leanmed.figures.bootstrap import Figure, resample_groups
from leanmed.tasks.classification import figures
from leanmed.tasks.classification.figures import (
    Scored,
    decision_curve,
    paired,
    point,
    predictive_values,
    score,
    subgroups,
)


def made(n=200, k=2, groups=None, seed=0, decimals=1):
    """Random scores, rounded so that many tie."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    raw = np.round(rng.random((n, k)) + 0.5 * np.eye(k)[truth], decimals) + 0.1
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    group = np.char.add("g", (np.arange(n) % (groups or n)).astype(str))
    return Scored(truth, probabilities, probabilities.argmax(axis=1), group, tuple("abcdef"[:k]))


def binary(truth, positive, predicted=None, group=None):
    positive = np.asarray(positive, float)
    answered = positive >= 0.5 if predicted is None else predicted
    group = [str(i) for i in range(len(truth))] if group is None else group
    probabilities = np.stack([1 - positive, positive], axis=1)
    return Scored(np.array(truth), probabilities, np.array(answered, int), np.array(group), ("no", "yes"))


def by_reference(table, weights):
    """scikit-learn's figures, for the metrics it has."""
    truth, predicted, probabilities = table.truth, table.predicted, table.probabilities
    two = len(table.labels) == 2
    shared = {"sample_weight": weights, "zero_division": np.nan, "average": "binary" if two else "macro"}
    one_hot, positive = np.eye(len(table.labels))[truth], probabilities[:, 1]
    area = {"sample_weight": weights} | ({} if two else {"average": "macro"})
    return {
        "loss": reference.log_loss(truth, probabilities, sample_weight=weights),
        "accuracy": reference.accuracy_score(truth, predicted, sample_weight=weights),
        "precision": reference.precision_score(truth, predicted, **shared),
        "recall": reference.recall_score(truth, predicted, **shared),
        "f1": reference.f1_score(truth, predicted, **shared),
        "auc": reference.roc_auc_score(truth if two else one_hot, positive if two else probabilities, **area),
        "average_precision": reference.average_precision_score(
            truth if two else one_hot, positive if two else probabilities, **area
        ),
        "brier": np.average(np.square(probabilities - one_hot).sum(axis=1) / (2 if two else 1), weights=weights),
    }


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("decimals", [1, 6])
def test_figures_equal_scikit_learns_with_ties(k, decimals):
    table = made(k=k, decimals=decimals)
    ours, theirs = point(table), by_reference(table, None)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_weighted_figures_equal_scikit_learns(k):
    table, rng = made(k=k), np.random.default_rng(1)
    weights = np.stack([rng.random(200), rng.integers(0, 4, 200).astype(float)])
    ours = figures._measure(table)(weights)
    for row, w in enumerate(weights):
        theirs = by_reference(table, w)
        assert {name: ours[name][row] for name in theirs} == pytest.approx(theirs, abs=1e-12)


def test_a_weight_is_the_same_as_a_repeated_image():
    table = made(60, k=3)
    weights = np.random.default_rng(0).integers(0, 4, 60)
    repeated = point(table.subset(np.repeat(np.arange(60), weights)))
    weighted = figures._measure(table)(weights[None].astype(float))
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(repeated, abs=1e-12)


def test_four_images_worked_by_hand():
    figures = point(binary([0, 0, 1, 1], [0.15, 0.4, 0.35, 0.8]))
    assert figures == pytest.approx(
        {
            "loss": -np.log([0.85, 0.6, 0.35, 0.8]).mean(),
            "accuracy": 3 / 4,
            "precision": 1,
            "recall": 1 / 2,
            "specificity": 1,
            "f1": 2 / 3,
            "auc": 3 / 4,  # of four pairs, only .4 against .35 is in the wrong order
            "average_precision": 1 / 2 * 1 + 1 / 2 * 2 / 3,
            "brier": (0.15**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4,
            "ece": (0.15 + 0.4 + 0.65 + 0.2) / 4,  # each in a bin of its own
        }
    )


def test_ece_sums_gaps_within_a_bin_before_taking_their_size():
    assert point(binary([0, 1], [0.52, 0.58]))["ece"] == pytest.approx(abs(0.52 + 0.58 - 1) / 2)
    assert point(binary([0, 1], [0.48, 0.58]))["ece"] == pytest.approx((0.48 + 0.42) / 2)
    assert point(binary([0, 1], [0.0, 1.0]))["ece"] == 0


def test_with_many_labels_ece_judges_the_answer_and_specificity_the_rest():
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    table = Scored(np.array([0, 1, 1, 2]), p, p.argmax(axis=1), np.array(list("wxyz")), ("a", "b", "c"))
    assert point(table)["ece"] == pytest.approx((0.3 + (0.6 - 0.4) + 0.2) / 4)
    assert point(table)["specificity"] == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_all_scores_tied_is_guessing():
    figures = point(binary([0, 1, 1, 0, 1], [0.3] * 5))
    assert figures["auc"] == 0.5
    assert figures["average_precision"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("truth", "undefined"),
    [
        ([0, 0, 0], {"auc", "average_precision", "recall", "precision", "f1", "ece"}),
        ([1, 1, 1], {"auc", "average_precision", "specificity", "precision", "f1", "ece"}),
    ],
)
def test_one_label_only_leaves_undefined_what_it_cannot_tell(truth, undefined):
    figures = score(binary(truth, [0.2, 0.6, 0.9]), resamples=50)
    assert {name for name, figure in figures.items() if np.isnan(figure.value)} == undefined
    assert all(np.isnan([figures[name].low, figures[name].high]).all() for name in undefined)


def test_precision_is_undefined_when_nothing_is_answered_positive():
    figures = point(binary([0, 1], [0.1, 0.2]))
    assert np.isnan(figures["precision"])
    assert figures["f1"] == 0


def test_a_macro_mean_is_undefined_when_a_label_is_absent():
    table = made(40, k=4)
    figures = point(table.subset(table.truth != 3))
    assert all(np.isnan(figures[name]) for name in ("precision", "recall", "f1", "auc", "average_precision"))
    assert np.isfinite([figures[name] for name in ("accuracy", "loss", "brier", "ece", "specificity")]).all()


def test_certain_mistakes_cost_a_finite_loss():
    assert point(binary([0, 1], [1.0, 0.0]))["loss"] == pytest.approx(36.04, abs=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, held = np.random.default_rng(0), {"auc": 0, "accuracy": 0, "ece": 0}
    for _ in range(150):
        positive = rng.random(300)
        truth = rng.random(300) < 0.5 + (positive - 0.5) * 0.4  # far too sure of itself
        figures = score(binary(truth.astype(int), positive), resamples=200)
        # The scores' densities are .6 + .8 s and 1.4 - .8 s, and |p - .5| is .25 in the mean.
        for name, expected in {"auc": 0.5 + 0.4 / 3, "accuracy": 0.6, "ece": 0.15}.items():
            held[name] += figures[name].low <= expected <= figures[name].high
    assert all(0.85 <= count / 150 <= 0.99 for count in held.values()), held


def test_the_ece_interval_of_a_calibrated_model_reaches_far_below_its_biased_value():
    rng = np.random.default_rng(0)
    for _ in range(10):
        positive = rng.random(200)
        figure = score(binary((rng.random(200) < positive).astype(int), positive), resamples=200)["ece"]
        assert figure.low < 0.03 < 0.06 < figure.value <= figure.high


def test_the_auc_interval_is_as_wide_as_theory_says():
    table = binary([0, 1] * 400, np.random.default_rng(3).random(800))
    figure = score(table)["auc"]
    deviation = np.sqrt(801 / (12 * 400 * 400))  # of the Mann-Whitney statistic of unrelated scores
    assert figure.high - figure.low == pytest.approx(2 * NormalDist().inv_cdf(0.975) * deviation, rel=0.1)


def test_intervals_over_groups_of_copies_are_wider_than_over_images():
    one = made(50, decimals=6)
    copies = one.subset(np.repeat(np.arange(50), 4))
    by_image = score(replace(copies, group=np.arange(200).astype(str)))
    by_group = score(copies)
    for name in ("accuracy", "auc", "loss", "f1"):
        assert by_group[name].value == pytest.approx(point(one)[name])
        ratio = (by_group[name].high - by_group[name].low) / (by_image[name].high - by_image[name].low)
        assert ratio == pytest.approx(2, rel=0.2)  # four copies tell no more than one: sqrt(4)
    assert copies.groups == 50


def test_a_perfect_score_has_an_exact_bound_not_an_interval_without_width():
    table = binary([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 10)
    figures = score(table, resamples=200)
    assert figures["recall"] == Figure(1.0, pytest.approx(0.025 ** (1 / 10)), 1.0, 20)
    assert figures["accuracy"].low == pytest.approx(0.025 ** (1 / 20))
    assert np.isnan(figures["auc"].low)
    nothing = score(replace(table, predicted=1 - table.predicted), resamples=200)
    assert (nothing["recall"].low, nothing["recall"].high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))


def test_one_group_gives_figures_without_intervals():
    figures = score(replace(made(30), group=np.array(["g"] * 30)), resamples=100)
    assert all(np.isfinite(f.value) and np.isnan(f.low) for f in figures.values())


def test_no_interval_when_many_resamples_cannot_give_the_figure():
    table = binary([0] * 15 + [1] + [0] * 15, np.linspace(0.9, 0.1, 31))  # a third draw no positive
    figure = score(table, resamples=200)["auc"]
    assert figure.value == 0.5
    assert np.isnan([figure.low, figure.high]).all()


def test_resamples_draw_whole_groups_and_do_not_depend_on_the_chunk(monkeypatch):
    group = np.array(list("aabbbc"))
    (whole,) = resample_groups(group, 40, seed=5)
    assert (whole[:, 0] == whole[:, 1]).all()
    assert (whole[:, [0, 2, 5]].sum(axis=1) == 3).all()
    monkeypatch.setattr(bootstrap, "_CHUNK", 18)
    chunks = list(resample_groups(group, 40, seed=5))
    assert max(map(len, chunks)) == 3
    assert np.array_equal(np.concatenate(chunks), whole)


def test_the_same_seed_gives_the_same_figures_and_point_their_values():
    table = made(80, k=3, groups=20)
    assert score(table, resamples=50, seed=1) == score(table, resamples=50, seed=1)
    assert score(table, resamples=50, seed=1) != score(table, resamples=50, seed=2)
    assert {name: f.value for name, f in score(table, resamples=2).items()} == point(table)
    assert score(table, resamples=2)["auc"].n == 80


def test_a_paired_difference_is_b_minus_a_with_agreement():
    a = binary([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])
    b = binary([0, 0, 1, 1], [0.1, 0.4, 0.7, 0.3])
    difference = paired(a, b, resamples=500)
    assert difference["recall"].value == -0.5
    assert difference["specificity"].value == 0.5
    assert difference["agreement"].value == 0.5
    assert difference["recall"].low < -0.5 < difference["recall"].high


def test_a_paired_interval_is_narrower_than_either_of_its_parts():
    a = made(300, decimals=6)
    noise = np.random.default_rng(2).normal(0, 0.01, 300)
    shifted = np.clip(a.probabilities + np.stack([noise, -noise], axis=1), 0, 1)
    difference, alone = paired(a, replace(a, probabilities=shifted))["auc"], score(a)["auc"]
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)


def test_identical_tables_differ_by_nothing_and_agree_as_far_as_their_groups_can_tell():
    difference = paired(made(), made(), resamples=100)
    assert difference["auc"] == Figure(0, 0, 0, 200)
    assert difference["agreement"] == Figure(1, pytest.approx(0.025 ** (1 / 200)), 1, 200)


def test_tables_of_different_images_cannot_be_paired():
    with pytest.raises(DataError, match="same images"):
        paired(made(), made(100))


def test_subgroups_are_values_of_text_and_bands_of_numbers():
    table = made(120)
    sex = ["f", "m", None] * 40
    age: list[float | None] = [float(i) for i in range(119)] + [None]
    rows = subgroups(table, {"sex": sex, "age": age}, edges={"age": [12, 60]}, resamples=50)
    assert [(row.name, row.value, row.n) for row in rows] == [
        ("sex", "f", 40),
        ("sex", "m", 40),
        ("sex", "not recorded", 40),
        ("age", "< 12", 12),
        ("age", "12 to < 60", 48),
        ("age", "≥ 60", 59),
        ("age", "not recorded", 1),
    ]
    cell = table.subset(np.arange(120) % 3 == 0)
    assert rows[0].figures["auc"].value == point(cell)["auc"]
    assert rows[0].positives == cell.truth.sum()
    assert rows[0].groups == 40


def test_numbers_without_edges_are_banded_by_their_quartiles():
    rows = subgroups(made(40), {"age": [float(i) for i in range(40)]}, resamples=10)
    assert [row.n for row in rows] == [10, 10, 10, 10]


def test_small_cells_show_their_count_and_no_figures():
    (row, _) = subgroups(made(40), {"site": ["a"] * 9 + ["b"] * 31}, resamples=10)
    assert row.n == 9
    assert all(np.isnan(f.value) for f in row.figures.values())


def test_a_cell_of_one_label_keeps_only_the_figure_that_label_has():
    table = made(40)
    severity = ["severe" if t else "none" for t in table.truth]
    none, severe = subgroups(table, {"severity": severity}, resamples=10)
    assert {m for m, f in severe.figures.items() if np.isfinite(f.value)} == {"recall"}
    assert {m for m, f in none.figures.items() if np.isfinite(f.value)} == {"specificity"}


def with_an_interval(row):
    return {m for m, f in row.figures.items() if np.isfinite([f.value, f.low, f.high]).all()}


def test_a_subgroup_of_two_groups_has_figures_and_no_intervals():
    """Thirty images of two patients, and thirty of ten patients with both labels each."""
    group = [f"a{i % 2}" for i in range(30)] + [f"b{i % 10}" for i in range(30)]
    table = replace(made(60), group=np.array(group), truth=np.tile([0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1], 5))
    site = ["a"] * 30 + ["b"] * 30
    two, ten = subgroups(table, {"site": site}, resamples=50)
    assert (two.groups, ten.groups) == (2, 10)
    assert all(np.isfinite(f.value) for f in two.figures.values())
    assert with_an_interval(two) == set()
    assert with_an_interval(ten) == set(ten.figures)


def test_an_interval_asks_for_ten_groups_of_the_images_that_the_figure_is_about():
    """Twelve patients, of whom two are positive, or two negative."""
    truth = np.repeat([1, 1] + [0] * 10, 2)
    score = np.tile([0.2, 0.2, 0.7, 0.7], 6)
    group = [f"g{i // 2}" for i in range(24)]
    (row,) = subgroups(binary(truth, score, group=group), {"site": ["a"] * 24}, resamples=50)
    assert with_an_interval(row) == {"specificity", "accuracy"}
    (row,) = subgroups(binary(1 - truth, score, group=group), {"site": ["a"] * 24}, resamples=50)
    assert with_an_interval(row) == {"recall", "accuracy"}


def test_predictive_values_follow_from_bayes_theorem():
    """Of ten positive images eight are found, of ten negative ones one is answered positive."""
    truth = [1] * 10 + [0] * 10
    table = binary(truth, [0.9] * 8 + [0.1] * 2 + [0.9] + [0.1] * 9)
    rare = predictive_values(table, 0.05, resamples=400)
    assert rare["ppv"].value == pytest.approx(0.8 * 0.05 / (0.8 * 0.05 + 0.1 * 0.95))  # 0.296
    assert rare["npv"].value == pytest.approx(0.9 * 0.95 / (0.9 * 0.95 + 0.2 * 0.05))  # 0.988
    own = predictive_values(table, resamples=400)
    assert (own["ppv"].value, own["npv"].value) == pytest.approx((8 / 9, 9 / 11))
    half = predictive_values(table, 0.5, resamples=400)  # the images' own prevalence
    assert [figure.value for figure in half.values()] == pytest.approx([figure.value for figure in own.values()])
    assert all(figure.low < figure.value < figure.high for values in (rare, own) for figure in values.values())


def test_predictive_values_at_the_own_prevalence_are_precision_with_its_interval():
    table = made(120, groups=40)
    own, precision = predictive_values(table, resamples=300)["ppv"], score(table, resamples=300)["precision"]
    assert (own.value, own.low, own.high) == pytest.approx((precision.value, precision.low, precision.high))


@pytest.mark.parametrize("truth", [[1, 1, 1], [0, 0, 0]])
def test_images_of_one_label_tell_no_predictive_values(truth):
    found = predictive_values(binary(truth, [0.2, 0.6, 0.9]), 0.1, resamples=50)
    assert np.isnan([figure.value for figure in found.values()]).all()


def test_net_benefit_worked_by_hand():
    """At .2 a false positive costs a quarter of a true one, at .5 as much as it."""
    curve = decision_curve(binary([1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1]), resamples=50)
    at = {t: k for k, t in enumerate(curve["thresholds"])}
    assert list(at) == pytest.approx([k / 100 for k in range(1, 100)])
    assert curve["net_benefit"][at[0.2]] == pytest.approx((2 - 2 * 0.25) / 5)  # .9, .3; .6 and .2, which reaches it
    assert curve["net_benefit"][at[0.5]] == pytest.approx((1 - 1) / 5)
    assert curve["net_benefit"][at[0.75]] == pytest.approx(1 / 5)
    assert curve["net_benefit"][at[0.95]] == 0
    assert curve["treat_all"][at[0.2]] == pytest.approx((2 - 3 * 0.25) / 5)
    assert curve["treat_all"][at[0.5]] == pytest.approx((2 - 3) / 5)
    assert all(low <= high for low, high in zip(curve["low"], curve["high"], strict=True))


def test_treating_whoever_the_truth_names_gains_the_prevalence_at_every_threshold():
    curve = decision_curve(binary([1, 0, 0, 1, 0], [1.0, 0.0, 0.0, 1.0, 0.0]), resamples=50)
    assert curve["net_benefit"] == pytest.approx([0.4] * 99)


def test_there_is_no_decision_curve_of_one_label_or_of_three():
    assert decision_curve(binary([1, 1], [0.2, 0.9])) is None
    assert decision_curve(made(30, k=3)) is None


def test_an_attribute_of_another_length_is_refused():
    with pytest.raises(DataError, match="age: expected 40 values"):
        subgroups(made(40), {"age": [1.0, 2.0]})


@pytest.mark.parametrize(
    "change",
    [
        {"truth": np.array([0, 2])},
        {"predicted": np.array([-1, 0])},
        {"group": np.array(["a"])},
        {"fold": np.array([0, 0, 0])},
        {"labels": ("a", "a")},
        {"labels": ("a", "b", "c")},
        {"probabilities": np.array([[0.5, 0.6], [0.5, 0.5]])},
        {"probabilities": np.array([[1.5, -0.5], [0.5, 0.5]])},
        {"probabilities": np.array([[np.nan, 0.5], [0.5, 0.5]])},
        {"truth": np.array([], int)},
    ],
)
def test_tables_that_do_not_hold_together_are_refused(change):
    with pytest.raises(DataError, match="expected"):
        replace(binary([0, 1], [0.2, 0.7]), **change)


def test_importing_the_metrics_needs_numpy_only():
    heavy = "{'torch', 'scipy', 'sklearn', 'matplotlib'}"
    code = f"import sys, leanmed.tasks.classification.figures; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
