"""From one fold of a run folder to an artifact, refused when the graph and the model disagree."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from leanmed import __version__
from leanmed.data import content_hashes, read_pixels
from leanmed.errors import ExportError
from leanmed.evaluation.runs import evaluate_run, fold_figures, records_of
from leanmed.export.card import write_card
from leanmed.export.graph import slim
from leanmed.files import defined
from leanmed.manifest import Manifest, Provenance, image_mark
from leanmed.reading.images import read_image
from leanmed.records import Record
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.runtime.artifact import Artifact, write_artifact
from leanmed.runtime.predictor import open_session
from leanmed.tasks import TASKS
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import Outputs

OPSET = 20
REDUCTION = 1e-3  # of any output, between a file decoded at a reduced scale and in full
TOLERANCE = 1e-4  # of any output, between graph and model
SHAPES = ((228, 88), (600, 800), (20, 20), (64, 1000), (4000, 3000))  # (h, w); the last has 12 megapixels
SAMPLES = 8  # images at their own size, besides one at each of SHAPES
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "timm")
Pixels = NDArray[np.uint8]


def export(run: Run, out: Path, *, fold: int | None = None, data: Path | None = None) -> Artifact:
    """Write the artifact of one fold.

    Args:
        run: a finished run.
        out: the artifact folder; an older artifact there is replaced.
        fold: which one; None: the one with the best validation score.
        data: where the images lie, to compare graph and model on; None: where the run found them.

    Raises:
        RunError: the run is unfinished, or its images have changed.
        ExportError: graph and model differ by more than `TOLERANCE` on some image.
    """
    records = records_of(run, data)
    chosen = best_fold(run) if fold is None else run.fold(fold).number
    kind = TASKS[run.recipe.task].answer
    module = load_task(run, chosen).graph().eval()
    graph = export_graph(module, kind.GRAPHS["model"])
    difference = compare(module, graph, sample_images(records), kind.apart)
    figures = fold_figures(run, records, chosen)
    facts = run.fold(chosen).facts["manifest"]
    if facts["input"].get("reduced", True):
        facts["input"]["reduced"] = reduction(graph, records, facts["input"]["side"], kind.apart) <= REDUCTION
    manifest = Manifest(
        name=run.recipe.name,
        graphs={},
        figures=defined(figures),
        leak=run.facts["leak"],
        provenance=provenance(run, records, chosen),
        **facts,
    )
    card = write_card(manifest, evaluate_run(run, data=data), difference)
    return write_artifact(out, manifest, {"model": graph}, card)


def best_fold(run: Run) -> int:
    """The fold whose validation score is best: the test parts have no say."""

    def merit(number: int) -> float:
        facts = run.fold(number).facts
        return float(facts["validation"][facts["manifest"]["main_score"]])

    return max(range(run.facts["folds"]), key=merit)


def export_graph(module: nn.Module, outputs: Sequence[str]) -> bytes:
    """An ONNX graph of a module from pixels (h, w, 3 or 4) uint8 of any size to outputs of these names."""
    size = {0: torch.export.Dim("height", min=1), 1: torch.export.Dim("width", min=1)}
    channels = {2: torch.export.Dim("channels", min=3, max=4)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*new_dynamic_size", FutureWarning)  # torchvision's use of torch, in nms
        program = torch.onnx.export(
            module,
            (torch.zeros(60, 80, 4, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=({**size, **channels},),
            input_names=["pixels"],
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program; update torch and onnxscript")
    return bytes(slim(program.model_proto).SerializeToString())


def compare(
    module: nn.Module, graph: bytes, images: Iterable[Pixels], apart: Callable[[Outputs, Outputs], float]
) -> float:
    """The largest difference between graph and model, as the kind of task measures how far answers lie apart.

    Raises:
        ExportError: it is above `TOLERANCE`, or an output is no number.
    """
    session, worst = open_session(graph), 0.0
    for pixels in images:
        with torch.inference_mode():
            answer = module(torch.from_numpy(pixels))
        wanted = [part.numpy() for part in (answer if isinstance(answer, tuple) else (answer,))]
        difference = apart(wanted, session.run(None, {"pixels": pixels}))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"on an image of {pixels.shape[1]} x {pixels.shape[0]} pixels the graph differs from the "
                f"model by {difference:.2g}, more than {TOLERANCE:g}; nothing was written; please report it "
                "with the backbone's name"
            )
        worst = max(worst, difference)
    return worst


def reduction(graph: bytes, records: Sequence[Record], side: int, apart: Callable[[Outputs, Outputs], float]) -> float:
    """How far decoding a 12-megapixel JPEG at a reduced scale moves any answer, over real images made so large."""
    session, worst = open_session(graph), 0.0
    for record in records[:: max(1, len(records) // 3)][:3]:
        large = Image.fromarray(read_image(record.image)).convert("RGB").resize((4000, 3000))
        file = io.BytesIO()
        large.save(file, "JPEG", quality=92)
        pixels = (read_image(file.getvalue(), side=s) for s in (None, side))
        whole, less = (session.run(None, {"pixels": p}) for p in pixels)
        worst = max(worst, apart(whole, less))
    return worst


def sample_images(records: Sequence[Record]) -> Iterator[Pixels]:
    """Real images spread over the data set, then the first at each of `SHAPES`, with and without alpha."""
    step = max(1, len(records) // SAMPLES)
    for record in records[::step][:SAMPLES]:
        yield np.ascontiguousarray(read_pixels(record))
    first = Image.fromarray(read_pixels(records[0]))
    for height, width in SHAPES:
        enlarged = np.asarray(first.resize((width, height), Image.Resampling.BILINEAR))
        yield enlarged.copy()
        if height * width < 10**6:
            yield np.ascontiguousarray(enlarged[..., :3])


def provenance(run: Run, records: Sequence[Record], fold: int) -> Provenance:
    """Where a fold's model comes from, with the images it was trained and selected on."""
    contents = dict(zip((r.id for r in records), content_hashes(records), strict=True))
    parts: dict[str, set[str]] = defaultdict(set)
    for row in read_csv(run.path / SPLITS):
        parts[row[f"fold_{fold}"]].add(image_mark(contents[row["image"]]))
    trained, selected = parts["train"], parts["validation"]
    return Provenance(
        leanmed=__version__,
        recipe=run.recipe.model_dump(mode="json"),
        data_sha256=run.facts["data_sha256"],
        seed=run.recipe.training.seed,
        protocol=run.facts["protocol"],
        fold=fold,
        seen_images=tuple(sorted(trained | selected)),
        selected_images=tuple(sorted(selected - trained)),
        packages={name: version(name) for name in PACKAGES},
    )
