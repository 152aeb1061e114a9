"""Measure prompted artifacts beside each other: seconds of a first and of a second prompt, memory, size, and agreement.

    python scripts/measure_prompts.py fp32 int8 --images images --threads 2 --out docs/results/sam_prompts.json

Each artifact runs in a process of its own. Of each image, a first answer has one point, in the middle, timed from
the decoded pixels on; a second answer has two points, and takes what was computed before. Both are medians over the
images, the first image not counted. Memory is the largest resident size of the process. Agreement is the Dice of
each artifact's masks with those of the first one, for the same points, as a mean over the masks.
"""

from __future__ import annotations

import base64
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from leanmed.benchmark.benchmark import machine
from leanmed.benchmark.profile import peak_bytes
from leanmed.files import write_json
from leanmed.prompts import INSIDE, Prompts
from leanmed.reading.images import find_inputs, read_image
from leanmed.runtime.predictor import load
from leanmed.tasks.segmentation.answer import unpacked

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    artifacts: Annotated[list[Path], typer.Argument(help="Prompted artifacts; the first is what others agree with.")],
    images: Annotated[Path, typer.Option(help="Images, or a folder of them; two at least.")],
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    threads: Annotated[int, typer.Option(help="Of each prediction.")] = 2,
    note: Annotated[str, typer.Option(help="What else must be known, such as what else ran.")] = "",
    child: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure each artifact in a process of its own, and write the table."""
    if child:
        typer.echo(json.dumps(measured(artifacts[0], images, threads)))
        return
    rows: dict[str, Any] = {}
    reference: list[NDArray[np.uint8]] = []
    for artifact in artifacts:
        command = [sys.executable, __file__, str(artifact), "--images", str(images), "--threads", str(threads)]
        ran = subprocess.run([*command, "--child"], capture_output=True, text=True, check=True)
        found = json.loads(ran.stdout)
        masks = [unpacked(base64.b64decode(mask)) for mask in found.pop("masks")]
        reference = reference or masks
        agreements = [dice(one, other) for one, other in zip(reference, masks, strict=True)]
        rows[artifact.name] = {
            **found,
            "agreement": round(statistics.mean(agreements), 4),
            "least_agreement": round(min(agreements), 4),
        }
        typer.echo(f"{artifact.name}: {rows[artifact.name]}")
    if out:
        command = ["python", "scripts/measure_prompts.py", *sys.argv[1:]]
        write_json(out, {"command": shlex.join(command), "machine": machine(), "note": note, "artifacts": rows})


def measured(artifact: Path, images: Path, threads: int) -> dict[str, Any]:
    """What one artifact takes, and its masks, two of each image, as PNG in base64."""
    predictor, first, second = load(artifact, threads=threads), [], []
    masks, marked = [], []
    for path in find_inputs([str(images)]):
        pixels = read_image(path)
        height, width = pixels.shape[:2]
        middle, beside = (width / 2, height / 2), (width / 4, height / 4)
        started = time.perf_counter()
        looked = predictor.look(pixels)
        answers = [looked.answer(Prompts(points=(middle,), labels=(INSIDE,)))]
        first.append(time.perf_counter() - started)
        started = time.perf_counter()
        answers.append(looked.answer(Prompts(points=(middle, beside), labels=(INSIDE, 0))))
        second.append(time.perf_counter() - started)
        masks += [base64.b64encode(answer.packed).decode() for answer in answers]
        marked += [float((answer.mask > 0).mean()) for answer in answers]
    return {
        "images": len(first),
        "megabytes": round(predictor.manifest.bytes / 1e6, 1),
        "graphs": {name: round(graph.bytes / 1e6, 1) for name, graph in predictor.manifest.graphs.items()},
        "first_prompt_s": round(statistics.median(first[1:]), 3),
        "second_prompt_s": round(statistics.median(second[1:]), 3),
        "second_of_first": round(statistics.median(second[1:]) / statistics.median(first[1:]), 4),
        "peak_gib": round((peak_bytes() or 0) / 2**30, 2),
        "share_marked": round(statistics.mean(marked), 4),
        "masks": masks,
    }


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of two masks; 1 where both are empty."""
    total = int((one > 0).sum() + (other > 0).sum())
    return 2 * int(((one > 0) & (other > 0)).sum()) / total if total else 1.0


if __name__ == "__main__":
    app()
