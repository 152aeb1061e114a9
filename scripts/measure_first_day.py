"""Take the README's five steps on a folder as it was downloaded, and write down how long each took and what came out.

    python scripts/measure_first_day.py data/busi --labels normal,benign,malignant --preset fast \\
        --weights data/weights/mobilenetv2_100_tf_in1k.safetensors --out docs/results/first_day.json

Everything is made in a temporary folder. The last step predicts the images of the folder again, for the time it takes;
the figures are those of the report, on images that no model was trained on.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.runtime.artifact import read_artifact

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    data: Annotated[Path, typer.Argument(help="Labelled images, laid out as the reader `folder` takes them.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    labels: Annotated[str, typer.Option(help="With commas, the positive one last; else as the folder has them.")] = "",
    preset: Annotated[str, typer.Option(help="Of the recipe `folder`.")] = "fast",
    weights: Annotated[str, typer.Option(help="Of MobileNetV2: a file, or imagenet.")] = "imagenet",
    note: Annotated[str, typer.Option(help="What else must be known, such as what else ran.")] = "",
) -> None:
    """Time each step, and keep what it printed last."""
    listed = [f"--set=data.labels=[{labels}]"] * bool(labels)
    file = Path(weights)
    named = [f"--set=model.weights={file.resolve() if file.is_file() else weights}"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = str(data.resolve())
        steps = {
            "audit": ["audit", source, "--out", "audit"],
            "train": ["train", "folder", "--data", source, "--out", "run", "--preset", preset, *listed, *named],
            "evaluate": ["evaluate", "run", "--data", source, "--out", "report"],
            "export": ["export", "run", "--fold", "0", "--out", "artifact"],
            "predict": ["predict", "artifact", source, "--out", "answers.jsonl"],
        }
        taken = {
            name: timed(arguments, place, {source: str(data), named[0]: f"--set=model.weights={weights}"})
            for name, arguments in steps.items()
        }
        report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
        manifest = read_artifact(place / "artifact").manifest
    write_json(
        out,
        {
            "command": shlex.join(["python", *sys.argv]),
            "note": note,
            "machine": machine(),
            "steps": taken,
            "minutes_to_first_figure": round(sum(taken[name]["seconds"] for name in ("train", "evaluate")) / 60, 1),
            "protocol": report["protocol"],
            "leak": report["leak"],
            "images": report["images"],
            "groups": report["groups"],
            "labels": report["labels"],
            "figures": report["metrics"],
            "notes": report["notes"],
            "megabytes": round(manifest.bytes / 1e6, 2),
        },
    )


def timed(arguments: list[str], place: Path, plain: dict[str, str]) -> dict[str, Any]:
    """Run one command of leanmed's in a folder: as others would type it, its seconds, its exit status."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "leanmed", *arguments], cwd=place, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):  # 1: copies carry different labels, or an image could not be read
        raise RuntimeError(f"leanmed {shlex.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    said = shlex.join(["leanmed", *arguments])
    for long, short in plain.items():
        said = said.replace(long, short)
    return {"command": said, "seconds": round(seconds, 1), "status": done.returncode}


if __name__ == "__main__":
    app()
