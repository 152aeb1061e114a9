"""The plots of a segmenter's report: the Dice of each case, and how far pixels' probabilities can be trusted."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import NullFormatter

from leanmed.figures.bootstrap import Floats, divide, resample_groups
from leanmed.report.plots import DASHED, PALETTE, Plot, canvas_of, short, svg_of, unit_axes, unit_edges
from leanmed.tasks.segmentation.figures import BINS, Segmented, point

MANY_LABELS = 12  # more have no row of their own


def plots_of(table: Segmented) -> list[Plot]:
    """Those that the table allows: reliability only with histograms."""
    return [dice_of_cases(table), *([] if table.histograms is None else [reliability(table, table.histograms)])]


def dice_of_cases(table: Segmented) -> Plot:
    """A histogram of the Dice of each case: of the mean over labels, and of each of a few labels."""
    rows = {"All labels" if len(table.labels) > 1 else table.labels[0]: table.mean_dice()}
    if 1 < len(table.labels) <= MANY_LABELS:
        rows |= dict(zip(table.labels, table.dice.T, strict=True))
    with canvas_of(6.4, 1.2 + 1.3 * len(rows), len(rows), 1, sharex=True, squeeze=False) as (canvas, grid):
        for axes, (name, dice), k in zip(grid[:, 0], rows.items(), range(len(rows)), strict=True):
            axes.hist(dice, bins=unit_edges(40), color=PALETTE[k % len(PALETTE)])
            axes.axvline(dice.mean(), **DASHED)
            axes.set_title(f"{short(name)}: mean {dice.mean():.3f}, median {np.median(dice):.3f}", loc="left")
            axes.set(xlim=(-0.02, 1.02), ylabel="Cases")
            axes.yaxis.get_major_locator().set_params(integer=True)
        grid[-1, 0].set_xlabel("Dice")
        mean = table.mean_dice()
        return Plot(
            "Dice of each case",
            "How many cases have which Dice; the dashed line is the mean. Cases far to the left are those that the "
            "mean hides.",
            f"Histogram of the Dice of {mean.size} cases. Mean {mean.mean():.3f}, median {np.median(mean):.3f}, lowest "
            f"{mean.min():.3f}.",
            svg_of(canvas),
        )


def reliability(table: Segmented, histograms: Floats, *, resamples: int = 500, seed: int = 0) -> Plot:
    """Observed share of marked pixels against predicted probability in the bins of the ECE, above their sizes.

    Args:
        histograms: (n, 15, 3), those of the table.
    """
    ece = point(table)["ece"]
    weights = resample_groups(table.group, resamples, seed, columns=max(len(table.group), 3 * BINS))
    drawn = np.concatenate([_shares(histograms, w)[1] for w in weights])  # (resamples, bins)
    (x,), (share,) = _shares(histograms, np.ones((1, len(table.group))))
    pixels = histograms[..., 0].sum(axis=0)
    with canvas_of(4.8, 5.4, 2, 1, sharex=True, height_ratios=[3, 1]) as (canvas, (axes, below)):
        axes.plot([0, 1], [0, 1], **DASHED)
        for k in np.flatnonzero(pixels):
            axes.vlines(x[k], *np.nanquantile(drawn[:, k], [0.025, 0.975]), color=PALETTE[0], alpha=0.6)
            axes.plot(x[k], share[k], "o", color=PALETTE[0])
        axes.text(0.02, 0.97, f"ECE {ece:.3f}", transform=axes.transAxes, va="top")
        unit_axes(axes, "", "Observed share")
        below.bar((np.arange(BINS) + 0.5) / BINS, pixels, width=1 / BINS, color=PALETTE[0], edgecolor="white")
        below.set(xlabel="Predicted probability", ylabel="Pixels", yscale="log", ylim=(0.5, None))
        below.yaxis.set_major_formatter("{x:,.0f}")  # powers of ten would be written as mathematics
        below.yaxis.set_minor_formatter(NullFormatter())
        return Plot(
            "Reliability of pixels",
            "On the diagonal, 70 % of the pixels with a predicted 70 % are marked in the truth. Lines are 95 % "
            "intervals over groups; the bars below, whose scale is logarithmic, say how many pixels each point stands "
            "for.",
            f"Reliability diagram of pixels. ECE {ece:.3f}.",
            svg_of(canvas),
        )


def _shares(histograms: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights (b, n) to the mean probability and the observed share of each bin, (b, 15) each; NaN where empty."""
    count, probability, marked = np.moveaxis(np.tensordot(weights, histograms, axes=1), 2, 0)
    return divide(probability, count), divide(marked, count)
