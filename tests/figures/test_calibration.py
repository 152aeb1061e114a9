from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from leanmed.errors import DataError
from leanmed.figures.calibration import Evidence, choose_threshold, fit_temperature, pooled_temperature

TRUTH = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [
        ("f1", 0.25),  # 6/7 there, 4/5 from .65
        ("youden", 0.65),  # 2/3 at .65 and at .25; .65 is nearer to .5
        ("sensitivity:1", 0.25),
        ("sensitivity:0.6", 0.65),
    ],
)
def test_thresholds_worked_by_hand_lie_midway_between_scores(criterion, threshold):
    assert choose_threshold(TRUTH, SCORES, criterion) == pytest.approx(threshold)


def test_no_threshold_has_a_better_f1_than_the_one_chosen():
    rng = np.random.default_rng(0)
    for _ in range(10):
        truth, scores = rng.permutation([0, 1] * 20), rng.random(40).round(1)
        ours = f1_score(truth, scores >= choose_threshold(truth, scores))
        assert ours == max(f1_score(truth, scores >= t, zero_division=0) for t in np.linspace(-0.05, 1.05, 12))


def test_answering_everything_positive_is_a_choice_too():
    truth = np.array([1, 1, 1, 0])
    assert choose_threshold(truth, np.array([0.2, 0.4, 0.6, 0.8])) == pytest.approx(0.1)


def test_of_equal_specificities_the_more_sensitive_threshold_is_chosen():
    truth, scores = np.array([0, 1, 1]), np.array([0.2, 0.3, 0.8])
    assert choose_threshold(truth, scores, "sensitivity:0.5") == pytest.approx(0.25)


def test_perfectly_told_apart_scores_are_cut_in_the_middle():
    assert choose_threshold(np.array([0, 0, 1]), np.array([0.0, 0.3, 0.9])) == pytest.approx(0.6)


@pytest.mark.parametrize("criterion", ["accuracy", "sensitivity", "sensitivity:0", "sensitivity:1.5", "sensitivity:x"])
def test_an_unknown_criterion_is_refused(criterion):
    with pytest.raises(DataError, match="expected a criterion"):
        choose_threshold(TRUTH, SCORES, criterion)


def test_a_threshold_needs_both_labels():
    with pytest.raises(DataError, match="both labels"):
        choose_threshold(np.array([1, 1]), np.array([0.2, 0.3]))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 4])
def test_the_temperature_of_overconfident_logits_is_recovered(temperature, k):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40_000, k)) if k > 1 else rng.normal(0, 2, 40_000)
    noise = rng.logistic(size=40_000) if k == 1 else rng.gumbel(size=(40_000, k))
    truth = (logits + noise > 0).astype(int) if k == 1 else (logits + noise).argmax(axis=1)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.03)


def test_temperature_stays_in_its_range():
    logits = np.array([-1.0, 1.0])
    assert 0.05 <= fit_temperature(logits, np.array([0, 1])) < 0.06
    assert 19 < fit_temperature(logits, np.array([1, 0])) <= 20


def test_logits_of_a_diverged_model_are_refused():
    with pytest.raises(DataError, match="finite logits"):
        fit_temperature(np.array([0.0, np.nan]), np.array([0, 1]))


@pytest.mark.parametrize("classes", [1, 3])
def test_answers_that_are_alike_are_counted_and_fitted_as_if_they_stood_alone(classes):
    rng = np.random.default_rng(0)
    shape = (400,) if classes == 1 else (400, classes)
    logits, truth = np.round(rng.normal(size=shape)), rng.integers(max(classes, 2), size=400)
    group = np.array([f"{k % 25:02}" for k in range(400)])
    found = pooled_temperature(Evidence(logits, truth, group), resamples=3)
    assert found.value == pytest.approx(fit_temperature(logits, truth, strength=25), rel=1e-4)
    drawn = np.random.default_rng(0)
    each = [np.bincount(drawn.integers(25, size=25), minlength=25) for _ in range(3)]
    alone = [fit_temperature(logits, truth, strength=25, weights=w[np.arange(400) % 25] * 1.0) for w in each]
    low, high = np.quantile(alone, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((min(low, found.value), max(high, found.value)), rel=1e-4)
