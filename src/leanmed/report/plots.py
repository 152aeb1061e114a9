"""The report's plots. Each is a `Plot`: an SVG picture, how to read it, and what it shows in words.

The colours are those of Okabe and Ito (2008), which people with colour blindness can tell apart.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, groupby
from operator import attrgetter
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from leanmed.figures.bootstrap import Figure, SubgroupRow, resample_groups
from leanmed.tasks.classification.figures import ECE_BINS, Scored, calibration_pairs, ece_bin, point, threshold_counts

Floats = NDArray[np.float64]

INK, GREY = "#1a1a1a", "#6b6b6b"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE: Any = {
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "axes.titlesize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.edgecolor": "none",
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text, which is small and sharp
    "svg.hashsalt": "leanmed",  # the same plot gives the same bytes
    "text.parse_math": False,  # a label may hold a dollar sign
}
DASHED: dict[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3))}


@dataclass(frozen=True)
class Plot:
    """A picture of the report; `reading` says how to read it, `alt` stands in for it."""

    title: str
    reading: str
    alt: str
    svg: str


@dataclass(frozen=True)
class History:
    """The training of one fold: one value per epoch in each sequence, and the epoch kept, counted from 0."""

    fold: int
    train_loss: Sequence[float]
    validation_loss: Sequence[float]
    validation_score: Sequence[float]
    score_name: str
    chosen: int | None = None


def roc(table: Scored, *, resamples: int = 500, seed: int = 0) -> Plot:
    """The ROC curve of the positive label with its 95 % band over groups; or of each of many labels.

    Expects at least two labels among the truths, as `precision_recall` does.
    """
    reading = (
        "Each point of a curve is one decision threshold. The nearer the upper left corner the better; the"
        " dashed diagonal is guessing."
    )
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
    reading = (
        "How often a positive answer is right, against how many of the positives are found. A dashed line "
        "is the prevalence, which is the precision of answering at random."
    )
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
        below.hist(confidence, bins=_edges(ECE_BINS), color=PALETTE[0], edgecolor="white")
        below.set(xlabel="Predicted probability", ylabel="Images")
        return Plot("Reliability", reading, f"Reliability diagram. ECE {ece:.3f}.", svg_of(canvas))


def _chance_ece(confidence: Floats, seed: int) -> float:
    """The mean ECE of outcomes drawn with exactly the predicted probabilities, each image by itself."""
    drawn = np.random.default_rng(seed).random((200, confidence.size)) < confidence
    one_hot = np.equal.outer(ece_bin(confidence), np.arange(ECE_BINS)).astype(float)
    return float(np.abs((confidence - drawn) @ one_hot).sum(axis=1).mean() / confidence.size)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n (Wilson 1927)."""
    z2 = 1.959964**2
    centre, half = share + z2 / (2 * n), np.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2)
    return float((centre - half) / (1 + z2 / n)), float((centre + half) / (1 + z2 / n))


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
        reading = "The less the two rows overlap, the better the labels are told apart."
        reading += " Dashed lines are the decision thresholds of the folds." if thresholds else ""
    with canvas_of(6.4, 1 + 1.15 * k, k, 1, sharex=True) as (canvas, rows):
        for j, axes in enumerate(rows):
            scores = table.probabilities[table.truth == j, 1 if binary else j]
            axes.hist(scores, bins=_edges(40), color=PALETTE[j % len(PALETTE)])
            axes.set_title(f"{short(table.labels[j])}: {scores.size} images", loc="left")
            axes.set(xlim=(0, 1), ylabel="Images")
            axes.yaxis.get_major_locator().set_params(integer=True)
            for threshold in thresholds if binary else ():
                axes.axvline(threshold, **DASHED)
        of = short(table.labels[1]) if binary else "the true label"
        rows[-1].set_xlabel(f"Probability of {of}")
        alt = f"Histograms of the probability of {of}, one for each true label."
        return Plot("Scores by true label", reading, alt, svg_of(canvas))


def training(histories: Sequence[History]) -> Plot:
    """Loss and validation score by epoch, a colour per fold."""
    reading = (
        "Dotted is training, solid is validation, the dot is the epoch kept. A validation loss that rises "
        "while the training loss falls is overfitting."
    )
    with canvas_of(7.2, 3.4, 1, 2) as (canvas, (left, right)):
        for history, colour in zip(histories, cycle(PALETTE), strict=False):
            left.plot(*_by_epoch(history.train_loss), ":", color=colour)
            left.plot(*_by_epoch(history.validation_loss), color=colour)
            right.plot(*_by_epoch(history.validation_score), color=colour, label=f"fold {history.fold}")
            if history.chosen is not None:
                left.plot(history.chosen + 1, history.validation_loss[history.chosen], "o", color=colour)
                right.plot(history.chosen + 1, history.validation_score[history.chosen], "o", color=colour)
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
        left.set(xlabel="Epoch", ylabel="Loss", ylim=(0, None))
        right.set(xlabel="Epoch", ylabel=f"Validation {short(histories[0].score_name)}")
        canvas.legend(loc="outside lower center", ncols=6)
        return Plot("Training", reading, "Loss and validation score by epoch and fold.", svg_of(canvas))


def _by_epoch(values: Sequence[float]) -> tuple[range, Sequence[float]]:
    return range(1, len(values) + 1), values


def forest(rows: Sequence[SubgroupRow], overall: Mapping[str, Figure]) -> Plot:
    """Up to three figures of every subgroup with their intervals; some row must have a figure."""
    reading = (
        "A point is a subgroup's figure, its line the 95 % interval, in brackets its images; the dashed "
        "line is the figure of all images. Of many subgroups some differ by chance: look at the intervals "
        "first."
    )
    known = [m for m in rows[0].figures if any(np.isfinite(row.figures[m].value) for row in rows)][:3]
    lines = [line for name, part in groupby(rows, attrgetter("name")) for line in (name, *part)]
    height = 0.9 + 0.27 * len(lines)
    with canvas_of(7.2, height, 1, len(known), sharey=True, squeeze=False) as (canvas, columns):
        for axes, metric in zip(columns[0], known, strict=True):
            for y, line in enumerate(lines):
                if isinstance(line, SubgroupRow):
                    _whisker(axes, y, line.figures[metric])
            if metric in overall:
                axes.axvline(overall[metric].value, **DASHED)
            axes.set(xlim=(-0.03, 1.03), ylim=(len(lines) - 0.4, -0.6), xticks=[0, 0.5, 1])
            axes.set_title(metric.upper() if metric in ("auc", "f1", "froc") else metric.capitalize())
            axes.set_yticks(range(len(lines)), [_row_name(line) for line in lines])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
        for label, line in zip(columns[0, 0].get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if isinstance(line, str) else "normal")
        alt = f"{', '.join(known)} by subgroup; the table below holds the same numbers."
        return Plot("Figures by subgroup", reading, alt, svg_of(canvas))


def _row_name(line: SubgroupRow | str) -> str:
    return short(line) if isinstance(line, str) else f"{short(line.value)} ({line.n})"


def _whisker(axes: Axes, y: float, figure: Figure) -> None:
    if np.isnan(figure.value):
        axes.text(0.5, y, "–", color=GREY, ha="center", va="center")
        return
    axes.plot([figure.low, figure.high], [y, y], color=PALETTE[0], linewidth=1.4)
    axes.plot(figure.value, y, "o", color=PALETTE[0], markersize=5)


def short(text: str, length: int = 24) -> str:
    """A label as it may stand in a plot: printable, on one line, and not too long."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def _edges(bins: int) -> list[float]:
    return [float(edge) for edge in np.linspace(0, 1, bins + 1)]


@contextmanager
def canvas_of(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Canvas, Any]]:
    """A figure of so many inches, outside pyplot's global state, and its axes, in the report's style."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots(rows, columns, **options)


def unit_axes(axes: Axes, x: str, y: str) -> None:
    """Both axes from 0 to 1, with room for the line's width."""
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def svg_of(canvas: Canvas) -> str:
    """The figure as SVG text; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # A letter that matplotlib's own font lacks is still drawn, by the font of whoever looks at the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
