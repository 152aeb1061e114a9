"""The plots that all kinds of task share, and what theirs are drawn with.

Each is a `Plot`: an SVG picture, how to read it, and what it shows in words.

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

from leanmed.figures.bootstrap import Figure, SubgroupRow

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
_HEADINGS = {"auc": "AUC", "f1": "F1", "froc": "FROC", "iou": "IoU", "cl_dice": "clDice", "hd95": "HD95"}
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


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n (Wilson 1927)."""
    z2 = 1.959964**2
    centre, half = share + z2 / (2 * n), np.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2)
    return float((centre - half) / (1 + z2 / n)), float((centre + half) / (1 + z2 / n))


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
    """Up to three figures of every subgroup with their intervals; at least one must be known and lie within 0 to 1."""
    reading = (
        "A point is a subgroup's figure, its line the 95 % interval, in brackets its images; the dashed "
        "line is the figure of all images. Of many subgroups some differ by chance: look at the intervals "
        "first."
    )
    known = [m for m in rows[0].figures if _within_unit([row.figures[m] for row in rows])][:3]
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
            axes.set_title(_HEADINGS.get(metric, metric.capitalize()))
            axes.set_yticks(range(len(lines)), [_row_name(line) for line in lines])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
        for label, line in zip(columns[0, 0].get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if isinstance(line, str) else "normal")
        alt = f"{', '.join(known)} by subgroup; the table below holds the same numbers."
        return Plot("Figures by subgroup", reading, alt, svg_of(canvas))


def _within_unit(figures: Sequence[Figure]) -> bool:
    """Whether some are known, and none is above 1, as a distance in mm is."""
    known = np.array([(f.value, f.low, f.high) for f in figures])
    return bool(np.isfinite(known[:, 0]).any() and np.nanmax(known) <= 1)


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


def unit_edges(bins: int) -> list[float]:
    """Of bins of equal width from 0 to 1."""
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
