"""A search as a page for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leanmed.report.pages import render_page
from leanmed.report.plots import PALETTE, Plot, canvas_of, svg_of
from leanmed.search.budget import MEANING, UNITS, Budget, amount
from leanmed.search.workshop import Measured
from leanmed.tasks import TASKS

if TYPE_CHECKING:
    from leanmed.search.command import Found

SCALE = {"size": 1e6, "latency": 1.0, "memory": 1e6}
UNIT = {"size": "MB", "latency": "ms", "memory": "MB"}


def page(found: Found) -> str:
    """The page as one HTML text; every value is escaped."""
    made = found.searched.made
    term = TASKS[found.task].judge.TERMS.get(found.main_score)
    title = title_of(found.task, found.main_score)
    failed = [one for one in found.searched.measured if one not in made]
    over = {one.name: found.budget.over(one.costs) for one in made}
    return render_page(
        "compression.html",
        found=found,
        made=sorted(made, key=lambda one: (one is not found.given, bool(over[one.name]), -one.score)),
        failed=failed,
        over=over,
        score=title,
        meaning=term.meaning if term else "",
        amount=amount,
        costs=list(UNITS),
        what=MEANING,
        plots=[plot(made, found.front, found.budget, name, title) for name in found.budget.limits],
    )


def title_of(task: str, figure: str) -> str:
    """What a kind of task calls a figure in its reports."""
    terms = TASKS[task].judge.TERMS
    return terms[figure].title if figure in terms else figure


def plot(made: Sequence[Measured], on_front: Sequence[str], budget: Budget, cost: str, title: str) -> Plot:
    """The score of every candidate against one cost, with the limit and the front."""
    networks = list(dict.fromkeys(one.network for one in made))
    colours = {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(networks)}
    limit = budget.limits[cost] / SCALE[cost]
    x = {one.name: (one.costs[cost] or 0.0) / SCALE[cost] for one in made}
    with canvas_of(8.4, 4.4, 1, 1) as (canvas, axes):
        axes.axvspan(0, limit, color="#00674b", alpha=0.07, linewidth=0)
        axes.axvline(limit, color="#00674b", linewidth=1)
        front = sorted((one for one in made if one.name in on_front), key=lambda one: x[one.name])
        axes.plot([x[one.name] for one in front], [one.score for one in front], color="#b0b0b0", linewidth=1, zorder=0)
        for one in made:
            label = one.network if one.network in networks else None
            networks = [name for name in networks if name != one.network]
            face = colours[one.network] if one.name in on_front else "white"
            if not math.isnan(one.low):
                axes.plot([x[one.name]] * 2, [one.low, one.high], color=colours[one.network], linewidth=0.6, alpha=0.4)
            axes.plot([x[one.name]], [one.score], "o", color=colours[one.network], markerfacecolor=face, label=label)
            words = f"{one.precision}{' tuned' * one.tuned}"
            axes.annotate(words, (x[one.name], one.score), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axes.set(
            xlabel=f"{cost}, {UNIT[cost]}",
            ylabel=f"{title}, validation images",
            xlim=(0, 1.15 * max(*x.values(), limit)),
        )
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        reading = (
            "Each dot is an artifact that was made, with its 95 % interval; a full dot lies on the Pareto front, which "
            "no other artifact beats in score and in all costs of the budget. What lies in the green keeps within the "
            f"budget's {cost}."
        )
        alt = "; ".join(f"{one.name}: {one.score:.3f} at {amount(cost, one.costs[cost])}" for one in made)
        return Plot(
            f"{title} against {cost}",
            reading,
            f"{alt}. The limit is {amount(cost, budget.limits[cost])}.",
            svg_of(canvas),
        )
