"""How many images look unfamiliar to compressed artifacts, by the float model's scale and by one that is moved with it.

    python scripts/measure_familiar_scale.py FLOAT COMPRESSED... --own DIR --other DIR --other DIR --out FILE

The images of `--own`, of the kind that the model was trained on, are split in two by turns: the scale is moved by the
first half (see `leanmed.compress.familiar_scale`), and counted are those of the second half and of the other folders.
The model may have learned from some of its own images: that flatters all counts alike.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from leanmed.benchmark.benchmark import machine
from leanmed.compress.familiar_scale import distances, moved
from leanmed.compress.gate import count_unfamiliar
from leanmed.files import write_json
from leanmed.reading.folders import list_folder
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.kind import MODEL

Images = Sequence[NDArray[np.uint8]]


def some_of(predictor: Predictor, folder: Path, count: int) -> Images:
    """Pixels of images at even distances in a folder's list."""
    found = list_folder(folder).images
    count = min(count, len(found))
    return [predictor.read(found[len(found) * k // count]) for k in range(count)]


def row(whole: Predictor, path: Path, first: Images, judged: dict[str, Images]) -> dict[str, Any]:
    """What one compressed artifact calls unfamiliar."""
    small = load(path)
    before, after = (distances(own.artifact.graph, first) for own in (whole, small))
    assert before is not None
    assert after is not None
    graphs = {
        "float": whole.artifact.graph,
        "by the float scale": small.artifact.graph,
        "by the moved scale": moved(small.artifact.graph, before, after),
    }
    return {
        "precision": small.manifest.precision,
        "median distance": {"float": float(np.median(before)), "compressed": float(np.median(after))},
        "unfamiliar": {
            name: {way: count_unfamiliar(whole.artifact, images, {MODEL: graph}) for way, graph in graphs.items()}
            | {"images": len(images)}
            for name, images in judged.items()
        },
    }


def main(
    whole: Annotated[Path, typer.Argument(help="The float artifact.")],
    compressed: Annotated[list[Path], typer.Argument(help="Artifacts made of it before scales were moved.")],
    own: Annotated[Path, typer.Option(help="A folder of images of the model's own kind.")],
    other: Annotated[list[Path], typer.Option(help="A folder of other images; repeatable.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    count: Annotated[int, typer.Option(help="Images of its own kind.")] = 220,
    others: Annotated[int, typer.Option(help="Images of each other folder.")] = 25,
) -> None:
    """Measure, and write it all."""
    predictor = load(whole)
    known = some_of(predictor, own, count)
    judged = {str(own): known[1::2]} | {str(folder): some_of(predictor, folder, others) for folder in other}
    rows = [row(predictor, path, known[::2], judged) for path in compressed]
    command = shlex.join(["python", "scripts/measure_familiar_scale.py", *sys.argv[1:]])
    write_json(out, {"command": command, "machine": machine(), "artifacts": rows})


if __name__ == "__main__":
    typer.run(main)
