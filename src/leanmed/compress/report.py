"""A quantization as two files: report.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanmed.compress.outcome import Outcome
from leanmed.files import write_json, write_text
from leanmed.outputs import Output
from leanmed.report.pages import NOTICE, render_page
from leanmed.report.plots import PALETTE, Plot, canvas_of, svg_of
from leanmed.tasks.kind import JudgePart

QUANTIZATION = Output(
    "a report of a quantization", ("notice", "outcomes"), "report.json", ("report.html", "report.json")
)


@dataclass(frozen=True)
class Point:
    """A model beside its own float version.

    Args:
        name: fp32, fp16, int8 or int4.
        size: bytes over the float file's.
        speed: float time over its own.
        change: of the score, compressed minus float.
    """

    name: str
    size: float
    speed: float
    change: float


Beside = Mapping[str, Callable[[str], Sequence[Point]]]
"""Name -> from a score to its points, none of a score that these models do not have."""


def write_quantization_report(
    out: Path,
    title: str,
    outcomes: Sequence[Outcome],
    judge: JudgePart,
    *,
    leak: str | None = None,
    command: str = "",
    beside: Beside | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder with report.json and report.html, whole.

    Args:
        out: the folder.
        title: of the page, e.g. the artifact's name.
        outcomes: of one artifact, one for each precision.
        judge: of its kind of task, which names its figures.
        leak: why the figures are too good, if they are.
        command: what the user typed.
        beside: others' models to be drawn beside.
        overwrite: replace an older report in `out`.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than such a report.
    """
    page = render(title, outcomes, judge, leak, command, beside)
    content = {"title": title, "notice": NOTICE, "leak": leak, "command": command}
    with QUANTIZATION.folder(out, overwrite=overwrite) as folder:
        write_text(folder / "report.html", page)
        write_json(folder / "report.json", content | {"outcomes": [outcome.as_json() for outcome in outcomes]})


def render(
    title: str,
    outcomes: Sequence[Outcome],
    judge: JudgePart,
    leak: str | None = None,
    command: str = "",
    beside: Beside | None = None,
) -> str:
    """The page as one HTML text; every value is escaped."""
    shown = [score for score in judge.SHOWN if all(score in o.measured.change for o in outcomes)]
    return render_page(
        "quantization.html",
        title=title,
        outcomes=outcomes,
        leak=leak,
        command=command,
        glossary=judge.TERMS,
        plots=[plot(outcomes, score, judge.TERMS[score].title, beside) for score in shown],
    )


def points(outcomes: Sequence[Outcome], score: str) -> list[Point]:
    """Ours, the float model first."""
    return [Point("fp32", 1.0, 1.0, 0.0), *(_point(outcome, score) for outcome in outcomes)]


def _point(outcome: Outcome, score: str) -> Point:
    size, speed = outcome.final.bytes / outcome.before_bytes, outcome.final.speedup("network")
    return Point(outcome.to, size, speed, outcome.measured.change[score].value)


def plot(outcomes: Sequence[Outcome], score: str, title: str, beside: Beside | None = None) -> Plot:
    """What compression cost in score, against file size and against speed: ours, and others' that have the score."""
    both = {"here": points(outcomes, score)} | {name: of(score) for name, of in (beside or {}).items()}
    series = {name: found for name, found in both.items() if found}
    with canvas_of(8.4, 3.9, 1, 2, sharey=True) as (canvas, axes):
        for (name, found), colour, marker in zip(series.items(), PALETTE, "os", strict=False):
            for ax, values in zip(axes, ([p.size for p in found], [p.speed for p in found]), strict=True):
                ax.plot(values, [100 * p.change for p in found], marker, color=colour, label=name)
                for x, p in zip(values, found, strict=True):
                    ax.annotate(p.name, (x, 100 * p.change), xytext=(5, 5), textcoords="offset points", color=colour)
        axes[0].set(xlabel="file size, of its own FP32 file", ylabel=f"{title} lost or won, points", xlim=(0, 2.15))
        axes[1].set(xlabel="speed, times its own FP32", xlim=(0, None))
        if len(series) > 1:
            axes[0].legend(loc="lower left")
        alt = "; ".join(f"{n}: {', '.join(_words(p) for p in found)}" for n, found in series.items())
        reading = (
            "Each dot compares a model with its own FP32 version; higher is better. In the left plot, smaller files "
            "lie further left; in the right plot, faster models lie further right."
        )
        reading += " Data and machines differ between the two series: compare only ratios." * (len(series) > 1)
        return Plot(f"{title} against size and speed", reading, f"{title} change. {alt}.", svg_of(canvas))


def _words(p: Point) -> str:
    return f"{p.name} {100 * p.change:+.1f} points at {p.size:.2f} of the size and {p.speed:.2f} times the speed"
