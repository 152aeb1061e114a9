"""Every technique on one kind of task, before and after, on real data; and the tables of several kinds in one file.

    python scripts/measure_grid.py measure --data DIR --run plain=RUN --run distilled=RUN --work DIR --out a.json
    python scripts/measure_grid.py merge a.json b.json --out docs/results/grid.json

The first run is exported as it is and in every precision, and fine-tuned for INT8; further runs, which a teacher or
adapters have made, as they are and in INT8. Each compression passes the gate of `leanmed quantize` or is told
as refused. All that was made is judged on the same images of the fold's test part, with the changes from the first
float model and their intervals, and timed in turn.
"""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from leanmed.benchmark.compare import compare_artifacts
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.outcome import GateError
from leanmed.compress.precisions import PRECISIONS
from leanmed.errors import LeanmedError
from leanmed.exporting.export import export
from leanmed.files import write_json
from leanmed.report.markdown import table
from leanmed.report.pages import NOTICE
from leanmed.runs import Run
from leanmed.tasks.building import build_task
from leanmed.tasks.recipes import changed_recipe, open_run

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def measure(
    data: Annotated[Path, typer.Option(help="The data set's folder.")],
    run: Annotated[list[str], typer.Option(help="NAME=RUN: the first is the one that all else is compared with.")],
    work: Annotated[Path, typer.Option(help="A folder for the artifacts; what lies in it is taken as it is.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    tuned: Annotated[int, typer.Option(help="Epochs of fine-tuning; 0: none.")] = 0,
    calibration: Annotated[int | None, typer.Option(help="As of leanmed quantize.")] = None,
    attempts: Annotated[int | None, typer.Option(help="As of leanmed quantize.")] = None,
    further: Annotated[list[str], typer.Option(help="Precisions of the runs after the first.")] = ["int8"],  # noqa: B006
    note: Annotated[str, typer.Option(help="What else must be known of the runs.")] = "",
) -> None:
    """Compress, compare on the test part, and write a row for each cell."""
    runs = {name: open_run(Path(path)) for name, _, path in (text.partition("=") for text in run)}
    refused: dict[str, str] = {}
    made: list[str] = []
    for number, (name, opened) in enumerate(runs.items()):
        whole = f"{name}-fp32"
        if not (work / whole).exists():
            export(opened, work / whole, fold=0, data=data, tell=_tell)
        made.append(whole)
        for to in further if number else PRECISIONS:
            quantize = partial(_quantize, work, whole, to, data, calibration)
            made += quantize(f"{name}-{to}", Options(attempts=attempts), refused)
        if tuned and not number:
            options = Options(start=("gptq", "finetune"), ladder=(), epochs=tuned, attempts=1)
            made += _quantize(work, whole, "int8", data, calibration, f"{name}-int8-tuned", options, refused)
    first = next(iter(runs.values()))
    found = compare_artifacts([work / name for name in made], data, cache=work / "leanmed-audit", names=made)
    write_json(
        out,
        {
            **found.as_json(),
            "command": shlex.join(["python", "scripts/measure_grid.py", *sys.argv[1:]]),
            "note": note,
            "task": first.recipe.task,
            "recipe": first.recipe.name,
            "runs": {name: _facts(opened) for name, opened in runs.items()},
            "refused": refused,
            "adapters": _adapters(first),
        },
    )


def _tell(line: str) -> None:
    print(line, flush=True)


def _quantize(
    work: Path,
    whole: str,
    to: str,
    data: Path,
    calibration: int | None,
    name: str,
    options: Options,
    refused: dict[str, str],
) -> list[str]:
    """The name of what was made; none if it was refused, and why is noted."""
    if not (work / name).exists():
        try:
            quantize_artifact(
                work / whole, to, data, work / name, options, calibration=calibration, overwrite=True, tell=_tell
            )
        except GateError as error:
            refused[name] = str(error)
            return []
    return [name]


def _facts(run: Run) -> dict[str, Any]:
    return {
        "network": run.recipe.model.backbone,
        "teacher": (run.facts.get("teacher") or {}).get("backbone"),
        "adapters": run.recipe.adapters.method,
        "side": run.recipe.model.side,
        "epochs": run.recipe.training.epochs,
        "minutes": round(run.fold(0).facts["seconds"] / 60, 1),
        "seed": run.recipe.training.seed,
        "protocol": run.facts["protocol"],
    }


def _adapters(run: Run) -> str:
    """Why the first run's network takes no adapters; empty: it takes them."""
    try:
        build_task(changed_recipe(run.recipe, ["adapters.method=lora"], "the grid"), run.labels, pretrained=False)
    except LeanmedError as error:
        return str(error)
    return ""


@app.command()
def merge(
    found: Annotated[list[Path], typer.Argument(help="What `measure` wrote, one file for each kind of task.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    trained: Annotated[Path | None, typer.Option(help="A text file with the commands that trained the runs.")] = None,
) -> None:
    """Write the rows of all kinds in one file."""
    tasks = {}
    for file in found:
        content = json.loads(file.read_text(encoding="utf-8"))
        tasks[content["task"]] = {key: value for key, value in content.items() if key != "notice"}
    command = shlex.join(["python", "scripts/measure_grid.py", *sys.argv[1:]])
    lines = trained.read_text(encoding="utf-8").splitlines() if trained else []
    write_json(
        out,
        {"notice": NOTICE, "command": command, "trained_by": lines, "tasks": tasks},
    )


@app.command()
def show(
    found: Annotated[Path, typer.Argument(help="What `merge` wrote.")],
) -> None:
    """Print the tables of docs/grid.md."""
    for name, content in json.loads(found.read_text(encoding="utf-8"))["tasks"].items():
        print(f"{name}\n\n{rows_of(content)}\n")


def rows_of(content: dict[str, Any]) -> str:
    """One kind's table in Markdown."""
    score, (first, *_) = content["main_score"], content["artifacts"]
    head = ("", "network", content["main_score"], "change", "as the float model", "MB", "of its size", "ms", "MiB")
    rows = []
    for row in content["artifacts"]:
        figure, change = row["figures"][score], row["change"].get(score)
        rows.append(
            [
                row["name"],
                row["network"],
                f"{figure['value']:.3f}{_interval(figure, 3)}",
                f"{change['value']:+.4f}{_interval(change, 3, '+')}" if change else "",
                f"{100 * row['change']['agreement']['value']:.1f} %" if change else "",
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['bytes'] / first['bytes']:.2f}x",
                f"{row['milliseconds']['1']:.1f}",
                f"{row['peak_mib']:.0f}",
            ]
        )
    refused = [[name, "", "refused", *[""] * 6] for name in content["refused"]]
    return table(head, [*rows, *refused])


def _interval(figure: dict[str, Any], digits: int, sign: str = "") -> str:
    low, high = figure["low"], figure["high"]
    return "" if low is None else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


if __name__ == "__main__":
    app()
