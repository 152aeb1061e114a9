from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import binomtest

from leanmed.report import plots
from leanmed.report.plots import History
from leanmed.tasks.classification import plots as labels_plots
from leanmed.tasks.classification.figures import Scored, point, score, subgroups

HOSTILE = ("_hidden", "$x^{", "<script>alert('1')</script>&", "二\x00\n" + "long " * 20)


def made(labels=("no", "yes"), n=120, seed=0):
    rng, k = np.random.default_rng(seed), len(labels)
    truth = np.arange(n) % k
    raw = rng.random((n, k)) + 0.5 * np.eye(k)[truth]
    p = raw / raw.sum(axis=1, keepdims=True)
    return Scored(truth, p, p.argmax(axis=1), np.char.mod("%d", np.arange(n) // 2), labels)


def history(fold=0):
    return History(fold, [0.7, 0.4, 0.2], [0.7, 0.6, 0.65], [0.5, float("nan"), 0.6], "f1", chosen=1)


def drawn(table):
    """Every plot of a table, by name."""
    rows = subgroups(table, {"site": ["a"] * 5 + ["b"] * (table.truth.size - 5)}, resamples=20)
    return {
        "roc": labels_plots.roc(table, resamples=20),
        "precision_recall": labels_plots.precision_recall(table),
        "reliability": labels_plots.reliability(table),
        "confusion": labels_plots.confusion(table),
        "distribution": labels_plots.distribution(table, [0.4, 0.6]),
        "training": plots.training([history(0), history(1)]),
        "forest": plots.forest(rows, score(table, resamples=20)),
    }


def words(plot):
    """Every text in the picture; reading it proves that it is well-formed."""
    return [e.text for e in ElementTree.fromstring(plot.svg).iter() if e.tag.endswith("text")]


@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "b", "c"), HOSTILE], ids=["2", "3", "hostile"])
def test_every_plot_is_a_wellformed_picture_with_words_for_it(labels):
    for name, plot in drawn(made(labels)).items():
        assert words(plot), name
        assert plot.title, name
        assert plot.alt.endswith("."), name
        assert plot.reading.endswith("."), name
        assert "<script" not in plot.svg


def test_plots_state_the_figures_they_draw():
    table = made()
    now, figures = drawn(table), point(table)
    assert f"AUC {figures['auc']:.3f}" in words(now["roc"])
    assert f"AP {figures['average_precision']:.3f}" in words(now["precision_recall"])
    assert f"ECE {figures['ece']:.3f}" in words(now["reliability"])


def test_curves_of_many_labels_leave_out_a_label_without_images():
    table = made(("a", "b", "c"))
    texts = words(labels_plots.roc(table.subset(table.truth != 2)))
    assert [text.split()[1] for text in texts if text.startswith("AUC")] == ["a", "b"]


def test_the_confusion_matrix_counts_rows_by_true_label():
    table = made()
    answers = np.r_[np.zeros(45, int), np.ones(15, int)]
    plot = labels_plots.confusion(replace(table, truth=np.sort(table.truth), predicted=np.r_[answers, 1 - answers]))
    assert {"45", "75 %", "15", "25 %"} <= set(words(plot))
    assert "no: 45, 15; yes: 15, 45" in plot.alt


def test_a_label_without_images_has_an_empty_row():
    table = made(("a", "b", "c"))
    texts = words(labels_plots.confusion(table.subset(table.truth != 2)))
    assert texts.count("0 %") >= 3
    assert "c: 0 images" in words(labels_plots.distribution(table.subset(table.truth != 2)))


def test_the_forest_marks_small_cells_with_a_dash():
    assert words(drawn(made())["forest"]).count("–") == 3


def test_the_same_table_gives_the_same_bytes():
    table = made()
    assert labels_plots.roc(table, resamples=20) == labels_plots.roc(table, resamples=20)


def test_plots_leave_matplotlibs_global_state_alone():
    before = dict(mpl.rcParams)
    labels_plots.confusion(made())
    assert dict(mpl.rcParams) == before
    code = "import sys, leanmed.tasks.classification.plots; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 9), (50, 50)])
def test_wilson_intervals_equal_scipys(hits, n):
    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert plots.wilson(hits / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_ece_that_chance_gives_is_that_of_calibrated_outcomes():
    confidence = np.random.default_rng(0).random(500)
    p = np.stack([1 - confidence, confidence], axis=1)
    rng, found = np.random.default_rng(1), []
    for _ in range(100):
        truth = (rng.random(500) < confidence).astype(int)
        found.append(point(Scored(truth, p, truth, truth.astype(str), ("no", "yes")))["ece"])
    assert labels_plots._chance_ece(confidence, 0) == pytest.approx(np.mean(found), rel=0.1)


def test_labels_are_shortened_to_one_printable_line():
    assert plots.short("a\nb") == "a\N{REPLACEMENT CHARACTER}b"
    assert len(plots.short("x" * 50)) == 24
