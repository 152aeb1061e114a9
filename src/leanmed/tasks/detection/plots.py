"""The plots of a detector's report: its FROC curve, and precision over recall."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leanmed.figures.bootstrap import Floats, resample_groups
from leanmed.report.plots import INK, PALETTE, Plot, canvas_of, svg_of, unit_axes
from leanmed.tasks.detection.figures import Detected, answered, match_centres, match_overlap, point
from leanmed.tasks.detection.froc import RATES, Marks, counts, curves, sensitivities

FINE = np.geomspace(RATES[0] / 2, 2 * RATES[-1], 61)


def plots_of(table: Detected) -> list[Plot]:
    """Those that the table allows: none without objects."""
    return [froc(table), precision_recall(table)] if table.objects else []


def froc(table: Detected) -> Plot:
    """Sensitivity against false positives per image with its 95 % band over groups."""
    marks = match_centres(table)
    sure = answered(marks, table)
    reached = (~sure.hit).sum() / marks.units, sure.hit.sum() / marks.home.size
    return froc_of(marks, table.group, per="image", what="boxes", reached=reached)


def froc_of(
    marks: Marks,
    group: NDArray[np.str_],
    *,
    per: str,
    what: str,
    reached: tuple[float, float] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Plot:
    """The FROC curve of any marks, with its 95 % band over groups.

    Args:
        group: (n,) of each image or scan.
        per: what a unit is called.
        what: what marks are called.
        reached: false positives per unit, and sensitivity, at the threshold; None: not shown.
    """
    ones = np.ones((1, marks.units))
    ((rate,), (found,)), (read,) = curves(marks)(ones), sensitivities(marks)(ones)
    with canvas_of(6.4, 4.2) as (canvas, axes):
        axes.fill_between(FINE, *_band(group, marks, resamples, seed), color=PALETTE[0], alpha=0.15, linewidth=0)
        axes.plot(np.append(rate, max(rate[-1], FINE[-1])), np.append(found, found[-1]), color=PALETTE[0])
        axes.plot(RATES, read, "o", color=PALETTE[0], label="read here")
        if reached:
            axes.plot(*reached, "D", color=INK, label=f"{what} answered")
        axes.set_xscale("log", base=2)
        axes.set_xticks(RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        axes.set(
            xlabel=f"False positives per {per}", ylabel="Sensitivity", xlim=(FINE[0], FINE[-1]), ylim=(-0.02, 1.02)
        )
        axes.legend(loc="lower right")
        return Plot(
            "FROC curve",
            f"How many of the objects are found, against how many wrong {what} there are per {per}, as the threshold "
            "falls. The band is the 95 % interval over groups. The score is the mean at the seven dots.",
            f"FROC curve. Score {read.mean():.3f}; sensitivity at one false positive per {per} "
            f"{read[RATES.index(1)]:.3f}.",
            svg_of(canvas),
        )


def _band(group: NDArray[np.str_], marks: Marks, resamples: int, seed: int) -> tuple[Floats, Floats]:
    at, columns = sensitivities(marks, FINE), marks.units + 2 * marks.home.size
    drawn = np.concatenate([at(w) for w in resample_groups(group, resamples, seed, columns=columns)])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def precision_recall(table: Detected) -> Plot:
    """Precision against recall at IoU .5, as average precision sees it."""
    marks = match_overlap(table)
    ((true,), (false,)) = counts(marks)(np.ones((1, marks.units)))
    first = int(np.argmax(true + false > 0)) or 1  # without boxes precision is undefined
    right, precision = true[first:], true[first:] / np.maximum(true + false, 1)[first:]
    best = np.maximum.accumulate(precision[::-1])[::-1]
    area = point(table)["ap50"]
    with canvas_of(4.8, 4.6) as (canvas, axes):
        axes.plot(right / marks.home.size, precision, color=PALETTE[0], alpha=0.3)
        axes.step(
            np.append(0, right) / marks.home.size, np.append(best[:1], best), color=PALETTE[0], label=f"AP {area:.3f}"
        )
        unit_axes(axes, "Recall", "Precision")
        axes.legend(loc="lower left")
        return Plot(
            "Precision and recall",
            "How often a box overlaps an object by half or more, against how many of the objects are found so. The "
            "strong line is the best precision of any higher recall, whose area is the average precision.",
            f"Precision-recall curve. Average precision at IoU 0.5: {area:.3f}.",
            svg_of(canvas),
        )
