"""Judge runs of teachers and students by site, and students against each other on the same cases.

    python scripts/measure_students.py --data DIR --run alone=RUN0,RUN1 --run distilled=RUN0,RUN1 --run teacher=RUN \
        --against alone --out docs/results/retina.json

Each arm is one run or several, which are its seeds; of several the mean over seeds of each case is judged. The runs
were trained by `leanmed train`, and each fold was tested on a site that it had not seen.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from leanmed.benchmark.benchmark import machine
from leanmed.evaluation.runs import records_of
from leanmed.files import write_json
from leanmed.papers.judged import judged_runs
from leanmed.tasks.recipes import open_run

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="The data set's folder.")],
    run: Annotated[list[str], typer.Option(help="ARM=RUN,RUN...: the runs of one arm, one for each seed.")],
    against: Annotated[str, typer.Option(help="The arm from which all others are subtracted.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    note: Annotated[str, typer.Option(help="What else must be known, such as the commit and what else ran.")] = "",
) -> None:
    """Write figures by site of each arm, and what each differs by."""
    arms = {
        name: [open_run(Path(path)) for path in paths.split(",")] for name, _, paths in (r.partition("=") for r in run)
    }
    records = records_of(next(iter(arms.values()))[0], data)
    judged = {name: judged_runs(runs, records) for name, runs in arms.items()}
    facts = {
        name: {
            "seeds": [run.recipe.training.seed for run in runs],
            "minutes": [round(sum(fold.facts["seconds"] for fold in run.folds()) / 60, 1) for run in runs],
            "validation_dice": [[fold.facts["validation"]["dice"] for fold in run.folds()] for run in runs],
            "recipe": runs[0].recipe.model_dump(mode="json"),
            "teacher": (runs[0].facts.get("teacher") or {}).get("name"),
        }
        for name, runs in arms.items()
    }
    write_json(
        out,
        {
            "command": shlex.join(["python", "scripts/measure_students.py", *sys.argv[1:]]),
            "machine": machine(),
            "note": note,
            "protocol": "leave one site out; epochs, temperature and threshold are chosen on images of the other sites",
            "cases": len(next(iter(judged.values())).sites),
            "sites": {name: found.by_site() for name, found in judged.items()},
            "differences": {name: found.minus(judged[against]) for name, found in judged.items() if name != against},
            "against": against,
            "arms": facts,
        },
    )


if __name__ == "__main__":
    app()
