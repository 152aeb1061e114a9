"""The plots of a classifier's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np

from leanmed.figures.bootstrap import Floats, resample_groups
from leanmed.report.plots import DASHED, INK, PALETTE, Plot, canvas_of, short, svg_of, unit_axes, unit_edges, wilson
from leanmed.tasks.classification.figures import (
    ECE_BINS,
    Scored,
    calibration_pairs,
    decision_curve,
    ece_bin,
    point,
    threshold_counts,
)


def plots_of(table: Scored, thresholds: Sequence[float]) -> list[Plot]:
    """Those that the table allows: curves only with several labels among the truths."""
    several = np.unique(table.truth).size > 1
    curves = [roc(table), precision_recall(table)] if several else []
    judged = [reliability(table)] if several or len(table.labels) > 2 else []
    benefit = decision_curve(table)
    drawn = [net_benefit(table.labels[1], benefit)] if benefit else []
    return [*curves, confusion(table), distribution(table, thresholds), *judged, *drawn]


def roc(table: Scored, *, resamples: int = 500, seed: int = 0) -> Plot:
    """The ROC curve of the positive label with its 95 % band over groups; or of each of many labels.

    Expects at least two labels among the truths, as `precision_recall` does.
    """
    reading = (
        "Each point of a curve is one decision threshold. The nearer the upper left corner the better; the"
        " dashed diagonal is guessing."
    )
    reading += " Each label is taken against the rest." * (len(table.labels) > 2)
    with canvas_of(4.8, 4.6) as (canvas, axes):
        axes.plot([0, 1], [0, 1], **DASHED)
        areas = []
        for name, colour, true, false in _one_against_rest(table):
            sensitivity, fallout = true / true[-1], false / false[-1]
            areas.append(f"{name}{np.sum(np.diff(fallout) * (sensitivity[1:] + sensitivity[:-1]) / 2):.3f}")
            axes.plot(fallout, sensitivity, color=colour, label=f"AUC {areas[-1]}")
        if len(table.labels) == 2:
            axes.fill_between(*_roc_band(table, resamples, seed), color=PALETTE[0], alpha=0.15, linewidth=0)
            now = point(table)
            axes.plot(1 - now["specificity"], now["recall"], "o", color=INK, label="answers given")
            reading += " The band is the 95 % interval over groups; the dot is the answers given."
        unit_axes(axes, "1 − specificity", "Sensitivity (recall)")
        axes.legend(loc="lower right")
        return Plot("ROC curve", reading, f"ROC curve. Area under it: {'; '.join(areas)}.", svg_of(canvas))


def _roc_band(table: Scored, resamples: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """False positive rates and, at each, the lower and upper end of the resampled true positive rates."""
    counts = threshold_counts(table.probabilities[:, 1], (table.truth == 1).astype(float))
    grid = np.linspace(0, 1, 101)
    curves = [
        np.interp(grid, np.append(0, false / false[-1]), np.append(0, true / true[-1]))
        for weights in resample_groups(table.group, resamples, seed)
        for true, false in zip(*counts(weights), strict=True)
        if true[-1] and false[-1]
    ]
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return grid, low, high


def precision_recall(table: Scored) -> Plot:
    """The precision-recall curve of the positive label, or of each of many, above the prevalence."""
    reading = "How often a positive answer is right, against how many of the positives are found. A dashed line "
    if len(table.labels) > 2:
        reading = (
            "For each label, how often that answer is right, against how many of its images are found. A dashed line "
        )
    reading += "is the prevalence, which is the precision of answering at random."
    with canvas_of(4.8, 4.6) as (canvas, axes):
        areas = []
        for name, colour, true, false in _one_against_rest(table):
            recall, precision = true / true[-1], true[1:] / (true + false)[1:]
            areas.append(f"{name}{np.sum(np.diff(recall) * precision):.3f}")
            axes.step(recall, np.append(precision[0], precision), color=colour, label=f"AP {areas[-1]}")
            axes.axhline(true[-1] / (true + false)[-1], **DASHED | {"color": colour})
        unit_axes(axes, "Recall (sensitivity)", "Precision")
        axes.legend(loc="lower left")
        alt = f"Precision-recall curve. Average precision: {'; '.join(areas)}."
        return Plot("Precision and recall", reading, alt, svg_of(canvas))


def _one_against_rest(table: Scored) -> Iterator[tuple[str, str, Floats, Floats]]:
    """For each label that has a curve: name, colour, and (u + 1,) true and false positives from 0 on."""
    binary = len(table.labels) == 2
    for j, colour in zip(range(len(table.labels)), cycle(PALETTE), strict=False):
        positive = (table.truth == j).astype(float)
        if (binary and j == 0) or positive.min() == positive.max():
            continue
        true, false = threshold_counts(table.probabilities[:, j], positive)(np.ones((1, positive.size)))
        name = "" if binary else f"{short(table.labels[j])} "
        yield name, PALETTE[0] if binary else colour, np.append(0, true[0]), np.append(0, false[0])


def reliability(table: Scored, *, seed: int = 0) -> Plot:
    """Observed share against predicted probability in the bins of the ECE, above a histogram of the bins."""
    confidence, outcome = calibration_pairs(table)
    bins, ece = ece_bin(confidence), point(table)["ece"]
    reading = (
        "On the diagonal, a predicted 70 % comes true in 70 % of images. Lines are 95 % Wilson intervals "
        "that count groups; the bars below say how many images each point stands for. By chance alone a "
        f"perfectly calibrated model would show an ECE of about {_chance_ece(confidence, seed):.3f} on as "
        "many images."
    )
    with canvas_of(4.8, 5.4, 2, 1, sharex=True, height_ratios=[3, 1]) as (canvas, (axes, below)):
        axes.plot([0, 1], [0, 1], **DASHED)
        for inside in (bins == b for b in np.unique(bins)):
            x, share = confidence[inside].mean(), outcome[inside].mean()
            axes.vlines(x, *wilson(share, np.unique(table.group[inside]).size), color=PALETTE[0], alpha=0.6)
            axes.plot(x, share, "o", color=PALETTE[0])
        axes.text(0.02, 0.97, f"ECE {ece:.3f}", transform=axes.transAxes, va="top")
        unit_axes(axes, "", "Observed share")
        below.hist(confidence, bins=unit_edges(ECE_BINS), color=PALETTE[0], edgecolor="white")
        below.set(xlabel="Predicted probability", ylabel="Images")
        return Plot("Reliability", reading, f"Reliability diagram. ECE {ece:.3f}.", svg_of(canvas))


def net_benefit(positive: str, curve: Mapping[str, Sequence[float]]) -> Plot:
    """The decision curve: net benefit by threshold probability, beside treating all and treating nobody.

    Args:
        positive: the positive label.
        curve: as `figures.decision_curve` gives it.
    """
    reading = (
        "Somebody who would treat when the probability is at least x holds a false positive for x / (1 − x) times as "
        "bad as a missed positive. The net benefit is what such a person gains by the model's probabilities, in true "
        "positives an image, less what false positives cost. The model is of use where its line lies above both "
        "others; the band is the 95 % interval over groups. It holds for the prevalence of these images."
    )
    x, model, everyone = curve["thresholds"], curve["net_benefit"], curve["treat_all"]
    with canvas_of(5.6, 4.2) as (canvas, axes):
        axes.fill_between(x, curve["low"], curve["high"], color=PALETTE[0], alpha=0.15, linewidth=0)
        axes.plot(x, model, color=PALETTE[0], label="by the model")
        axes.plot(x, everyone, color=PALETTE[1], label="treat all")
        axes.axhline(0, **DASHED, label="treat nobody")
        top = max(everyone[0], max(model), 0.05)
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.15 * top))
        axes.set(xlabel=f"Threshold probability of {short(positive)}", ylabel="Net benefit")
        axes.legend(loc="upper right")
        at = {t: model[x.index(t)] for t in (0.1, 0.25, 0.5)}
        alt = f"Decision curve. Net benefit {', '.join(f'{value:.3f} at {t:g}' for t, value in at.items())}."
        return Plot("Decision curve", reading, alt, svg_of(canvas))


def _chance_ece(confidence: Floats, seed: int) -> float:
    """The mean ECE of outcomes drawn with exactly the predicted probabilities, each image by itself."""
    drawn = np.random.default_rng(seed).random((200, confidence.size)) < confidence
    one_hot = np.equal.outer(ece_bin(confidence), np.arange(ECE_BINS)).astype(float)
    return float(np.abs((confidence - drawn) @ one_hot).sum(axis=1).mean() / confidence.size)


def confusion(table: Scored) -> Plot:
    """Counts of true against answered labels, with row percentages."""
    reading = "Rows are the true labels, and percentages are of the row; the diagonal holds the right answers."
    k = len(table.labels)
    counts = np.bincount(table.truth * k + table.predicted, minlength=k * k).reshape(k, k)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(label) for label in table.labels]
    with canvas_of(2.4 + 0.95 * k, 1.4 + 0.8 * k) as (canvas, axes):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7, aspect="auto")  # never too dark for the text
        for i, j in np.ndindex(k, k):
            axes.text(j, i, f"{counts[i, j]}\n{100 * shares[i, j]:.0f} %", ha="center", va="center")
        axes.set_xticks(range(k), names, rotation=0 if k < 4 else 30, ha="center" if k < 4 else "right")
        axes.set_yticks(range(k), names)
        axes.set(xlabel="Answered", ylabel="True label")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        rows = [f"{name}: {', '.join(map(str, row))}" for name, row in zip(names, counts, strict=True)]
        alt = f"Confusion matrix, answers by true label. {'; '.join(rows)}."
        return Plot("Confusion matrix", reading, alt, svg_of(canvas))


def distribution(table: Scored, thresholds: Sequence[float] = ()) -> Plot:
    """A histogram per true label: of the positive label's probability, or if K > 2 of the true label's."""
    k = len(table.labels)
    binary = k == 2
    reading = "The further right a row's images stand, the surer the model is of their true label."
    if binary:
        reading = "The less the two rows overlap, the better the model separates the labels."
        reading += " Dashed lines are the decision thresholds of the folds." if thresholds else ""
    with canvas_of(6.4, 1 + 1.15 * k, k, 1, sharex=True) as (canvas, rows):
        for j, axes in enumerate(rows):
            scores = table.probabilities[table.truth == j, 1 if binary else j]
            axes.hist(scores, bins=unit_edges(40), color=PALETTE[j % len(PALETTE)])
            axes.set_title(f"{short(table.labels[j])}: {scores.size} images", loc="left")
            axes.set(xlim=(0, 1), ylabel="Images")
            axes.yaxis.get_major_locator().set_params(integer=True)
            for threshold in thresholds if binary else ():
                axes.axvline(threshold, **DASHED)
        of = short(table.labels[1]) if binary else "the true label"
        rows[-1].set_xlabel(f"Probability of {of}")
        alt = f"Histograms of the probability of {of}, one for each true label."
        return Plot("Scores by true label", reading, alt, svg_of(canvas))
