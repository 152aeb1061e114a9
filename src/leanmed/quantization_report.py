"""A quantization as two files: quantization.json for programs, quantization.html for people."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leanmed.compress.outcome import Attempt, Outcome
from leanmed.files import write_json, write_text
from leanmed.plots import PALETTE, Plot
from leanmed.plots import _canvas as canvas_of
from leanmed.plots import _svg as svg_of
from leanmed.report import GLOSSARY, NOTICE, interval, number


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


# The anemia paper's Tables 5, 6 and 8: figures on its folds, file size and latency, in its own setting.
PAPER: Mapping[str, Mapping[str, float]] = {
    "fp32": {
        "loss": 0.2141, "accuracy": 0.9313, "precision": 0.9374, "recall": 0.9500, "f1": 0.9428, "auc": 0.9657,
        "megabytes": 9.13, "milliseconds": 48.6,
    },
    "fp16": {
        "loss": 0.2149, "accuracy": 0.9250, "precision": 0.9370, "recall": 0.9400, "f1": 0.9377, "auc": 0.9654,
        "megabytes": 4.61, "milliseconds": 37.4,
    },
    "int8": {
        "loss": 0.7441, "accuracy": 0.7125, "precision": 0.7697, "recall": 0.7519, "f1": 0.7607, "auc": 0.9005,
        "megabytes": 9.24, "milliseconds": 91.9,
    },
    "int4": {
        "loss": 2.3136, "accuracy": 0.4313, "precision": 0.2000, "recall": 0.0100, "f1": 0.0196, "auc": 0.6387,
        "megabytes": 17.75, "milliseconds": 49.5,
    },
}  # fmt: skip
SHOWN = ("accuracy", "auc")


def write_quantization_report(
    out: Path, title: str, outcomes: Sequence[Outcome], *, leak: str | None = None, command: str = ""
) -> None:
    """Write quantization.json and quantization.html into the folder `out`, each whole.

    Args:
        out: the folder.
        title: of the page, e.g. the artifact's name.
        outcomes: of one artifact, one for each precision.
        leak: why the figures are too good, if they are.
        command: what the user typed.
    """
    page = render(title, outcomes, leak, command)
    write_text(out / "quantization.html", page)
    content = {"title": title, "notice": NOTICE, "leak": leak, "command": command}
    write_json(out / "quantization.json", content | {"outcomes": [outcome.as_json() for outcome in outcomes]})


def render(title: str, outcomes: Sequence[Outcome], leak: str | None = None, command: str = "") -> str:
    """The page as one HTML text; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "base64": _base64}
    return environment.get_template("quantization.html").render(
        title=title,
        outcomes=outcomes,
        leak=leak,
        command=command,
        notice=NOTICE,
        glossary=GLOSSARY,
        plots=[plot(outcomes, score) for score in SHOWN if all(score in o.before for o in outcomes)],
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def points(outcomes: Sequence[Outcome], score: str) -> list[Point]:
    """Ours, the float model first."""
    return [Point("fp32", 1.0, 1.0, 0.0), *(_point(o, o.final, score) for o in outcomes)]


def _point(outcome: Outcome, attempt: Attempt, score: str) -> Point:
    size = attempt.bytes / outcome.before_bytes
    return Point(outcome.to, size, attempt.speedup("network"), attempt.change[score].value)


def paper_points(score: str) -> list[Point]:
    """The paper's, against its own FP32."""
    base = PAPER["fp32"]
    return [
        Point(
            name,
            row["megabytes"] / base["megabytes"],
            base["milliseconds"] / row["milliseconds"],
            row[score] - base[score],
        )
        for name, row in PAPER.items()
    ]


def plot(outcomes: Sequence[Outcome], score: str) -> Plot:
    """What compression cost in score, against file size and against speed: ours, and the anemia paper's."""
    series = {"here": points(outcomes, score), "the anemia paper": paper_points(score)}
    title = GLOSSARY[score].title
    with canvas_of(8.4, 3.9, 1, 2, sharey=True) as (canvas, axes):
        for (name, found), colour, marker in zip(series.items(), PALETTE, "os", strict=False):
            for ax, values in zip(axes, ([p.size for p in found], [p.speed for p in found]), strict=True):
                ax.plot(values, [100 * p.change for p in found], marker, color=colour, label=name)
                for x, p in zip(values, found, strict=True):
                    ax.annotate(p.name, (x, 100 * p.change), xytext=(5, 5), textcoords="offset points", color=colour)
        axes[0].set(xlabel="file size, of its own FP32 file", ylabel=f"{title} lost or won, points", xlim=(0, 2.15))
        axes[1].set(xlabel="speed, times its own FP32", xlim=(0, None))
        axes[0].legend(loc="lower left")
        alt = "; ".join(f"{n}: {', '.join(_words(p) for p in found)}" for n, found in series.items())
        reading = (
            "Each dot is a model beside its own FP32 version: up is better; on the left small files lie left, on the "
            "right side fast models right. Data and machines differ between the two series; sizes and ratios compare."
        )
        return Plot(f"{title} against size and speed", reading, f"{title} change. {alt}.", svg_of(canvas))


def _words(p: Point) -> str:
    return f"{p.name} {100 * p.change:+.1f} points at {p.size:.2f} of the size and {p.speed:.2f} times the speed"
