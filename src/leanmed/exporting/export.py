"""From a run folder to an artifact, refused when the graph and the model disagree."""

from __future__ import annotations

import copy
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.utils import parametrize

from leanmed import __version__
from leanmed.audit.grouping import AUDIT
from leanmed.audit.seen import make_traces
from leanmed.console import Progress, silent, tracked
from leanmed.data import read_pixels
from leanmed.errors import ExportError
from leanmed.evaluation.answered import subgroup_rows, suspected_of
from leanmed.evaluation.runs import notes_of, protocol_of, read_again, run_answers, split_records
from leanmed.exporting.card import Basis, write_card
from leanmed.exporting.graph import own_constants, slim
from leanmed.figures.bootstrap import Figure
from leanmed.figures.familiarity import UNFAMILIAR, Scale
from leanmed.files import defined
from leanmed.manifest import GIVEN, Familiar, Made, Manifest, Provenance, image_mark
from leanmed.models.familiarity import Watching
from leanmed.reading.images import read_image
from leanmed.records import Record
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.runtime.artifact import ARTIFACT, Artifact, write_artifact
from leanmed.runtime.predictor import open_graphs, open_session
from leanmed.tasks import TASKS
from leanmed.tasks.base import FurtherGraph, Task
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import FAMILIAR, MODEL, Feeds, Kind, Outputs, RunGraph
from leanmed.training.calibrate import decided, rules_of
from leanmed.training.familiarity import load_familiarity
from leanmed.training.fit import Teaching, refit

OPSET = 20
REDUCTION = 1e-3  # of any output, between a file decoded at a reduced scale and in full
TOLERANCE = 1e-4  # of any output, between graph and model
FAMILIAR_TOLERANCE = 0.01  # of the share that says how familiar an image looks, whose scale may be steep
NOT_WATCHED = (
    "The artifact will not tell how familiar an image looks: the run did not keep what that takes, since it was "
    "trained by an earlier version, or its images are too few."
)
SHAPES = ((228, 88), (600, 800), (20, 20), (64, 1000), (4000, 3000))  # (h, w); the last has 12 megapixels
SAMPLES = 8  # images at their own size, besides one at each of SHAPES
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "timm")
Pixels = NDArray[np.uint8]
Further = Mapping[str, FurtherGraph]


def export(
    run: Run,
    out: Path,
    *,
    fold: int | None = None,
    ensemble: bool = False,
    threshold: str | float | None = None,
    data: Path | None = None,
    teacher: Teaching | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = print,
    progress: Progress = silent,
) -> Artifact:
    """Write an artifact of a run: a model trained on all of its images, unless one of the other two is asked for.

    Args:
        run: a finished run.
        out: the artifact folder.
        fold: export the model of this fold instead.
        ensemble: export the models of all folds in one graph instead, whose answers are averaged.
        threshold: decide by this probability or score, or by one chosen anew on validation images by a rule (`f1`,
            `youden`, `sensitivity:0.95`); None: as the run did.
        data: where the images lie; None: where the run found them.
        teacher: of a run that has one, from whom the model of all images learns too.
        overwrite: replace an older artifact in `out`.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an artifact.
        RunError: the run is unfinished, or its images have changed.
        ExportError: graph and model differ by more than `TOLERANCE` on some image, or the run's answers are not decided
            by a threshold.
    """
    ARTIFACT.check(out, overwrite=overwrite)
    if ensemble and fold is not None:
        raise ExportError(f"expected one fold or the ensemble of all, got fold {fold} and --ensemble; leave one out")
    if fold is not None:
        run.fold(fold)  # refused before the data are read
    records, contents = read_again(run, data)
    split, kind = split_records(run, records), TASKS[run.recipe.task]
    made: Made = "ensemble" if ensemble else "refit" if fold is None else "fold"
    basis, own, chosen = _figures(run, split, fold, threshold)  # a threshold is refused before anything is trained
    if made == "refit":
        refit(run, split, teacher=teacher, tell=tell)
    module, further, facts, sentence, task = _model(run, made, fold)
    basis = replace(basis, made=sentence)
    facts |= {} if threshold is None else {"threshold": chosen}
    names, dtype = kind.answer.GRAPHS, facts["input"].get("dtype", "uint8")
    watching = _watching(run, made, fold, task, module)
    if watching is None:
        tell(NOT_WATCHED)
    images = list(sample_images(records))
    graphs = {MODEL: export_model(watching or module, names[MODEL], dtype)}
    if watching:
        try:
            compare_familiar(watching, graphs[MODEL], images)
        except ExportError as error:  # a doubt about images, and no answer: the artifact can do without it
            tell(f"The artifact will not tell how familiar an image looks: {error}")
            watching, graphs = None, {MODEL: export_model(module, names[MODEL], dtype)}
    for name, graph in further.items():
        graphs[name] = export_further(graph, kind.inputs[name], names[name])
        compare_further(name, graph, graphs[name], kind.inputs[name])
    checked = tracked(images, partial(progress, "comparing graph and model"), len(images))
    difference = compare(torch_graphs(module, further, kind), open_graphs(graphs), checked, kind)
    if facts["input"].get("reduced", True):
        facts["input"]["reduced"] = reduction(graphs, records, facts["input"]["side"], kind) <= REDUCTION
    manifest = Manifest(
        name=run.recipe.name,
        graphs={},
        threshold_rule=_rule(run, facts["threshold"], threshold),
        figures=defined(own),
        figures_of="itself" if made == "fold" else "folds",
        leak=run.facts["leak"],
        provenance=provenance(run, contents, made, fold),
        familiar=_familiar(run, split, fold, watching) if watching else None,
        **facts,
    )
    seen = set(manifest.provenance.seen_images)
    made_from = [record for record in split if image_mark(contents[record.id]) in seen]
    audited = run.recipe.split.groups != "reader"  # else nobody asked for copies to be found
    traces = make_traces(made_from, run.path.parent / AUDIT) if audited else b""
    card = write_card(manifest, basis, difference, traced=bool(traces))
    return write_artifact(out, manifest, graphs, card, traces, overwrite=overwrite)


def _model(run: Run, made: Made, fold: int | None) -> tuple[nn.Module, Further, dict[str, Any], str, Task]:
    """The modules to export, what the manifest says of them, how they were made in a sentence, and the first task."""
    if made == "fold" and fold is not None:
        sentence, task = f"This artifact is the model of fold {fold}.", load_task(run, fold)
        return task.graph().eval(), task.further_graphs(), run.fold(fold).facts["manifest"], sentence, task
    if not run.calibration:
        raise ExportError(f"{run.path} is of an earlier version, which calibrated each fold by itself; name a --fold")
    fitted = {"temperature": run.calibration["value"], "threshold": run.calibration["threshold"]}
    tasks = [load_task(run, number) for number in ([None] if made == "refit" else range(run.facts["folds"]))]
    for task in tasks:
        task.decide_by(**fitted)  # as the run decides now, whenever the model was trained
    if made == "refit":
        facts = run.refit()
        sentence = (
            f"This artifact is a model trained on all of these images, for {facts['epochs']} epoch(s), which is the "
            "median of what the run's folds chose."
        )
        return tasks[0].graph().eval(), tasks[0].further_graphs(), facts["manifest"] | fitted, sentence, tasks[0]
    sentence = (
        f"This artifact averages the answers of the models of all {len(tasks)} folds. Temperature and threshold were "
        "fitted to the answers of single models; a mean of several is less extreme, so that fewer answers may reach "
        "the threshold than its figures say."
    )
    whole = tasks[0].ensemble(tasks[1:]).eval()
    return whole, tasks[0].further_graphs(), run.fold(0).facts["manifest"] | fitted, sentence, tasks[0]


def _watching(run: Run, made: Made, fold: int | None, task: Task, module: nn.Module) -> Watching | None:
    """The module with one more output, how familiar the image looks to its network; of several, to the first.

    None: the run did not keep what that takes, since it is older, or has too few images, or its network is not watched.
    """
    known, watched = run.calibration.get("familiarity"), task.watched()
    found = load_familiarity(run, {"fold": fold, "refit": None, "ensemble": 0}[made])
    if known is None or watched is None or found is None:
        return None
    scale = Scale.from_json(known["whole"] if made != "fold" or fold is None else known["folds"][fold])
    return Watching(module, task, watched, found.scaled(scale)).eval()


def _familiar(run: Run, split: Sequence[Record], fold: int | None, watching: Watching) -> Familiar:
    """What the manifest says of it, with what the run's folds, or one, suspect of their own test images."""
    answered = run_answers(run, split, run.folds())
    answered = answered if fold is None else answered.of_fold(fold)
    found = suspected_of(answered, UNFAMILIAR, resamples=run.recipe.evaluation.resamples)
    known = run.calibration["familiarity"]
    return Familiar(
        threshold=UNFAMILIAR,
        images=(known["whole"] if fold is None else known["folds"][fold])["images"],
        bytes=sum(buffer.numel() * buffer.element_size() for buffer in watching.familiarity.buffers()),
        suspected=defined(found) if found else {},
    )


def _figures(
    run: Run, split: Sequence[Record], fold: int | None, threshold: str | float | None
) -> tuple[Basis, Mapping[str, Figure], float | None]:
    """What the card tells of the run; the figures of one fold, or of all; the threshold, if one is asked for."""
    answered, chosen = run_answers(run, split, run.folds()), None
    if threshold is not None:
        if run.calibrated_alone():
            raise ExportError(
                f"{run.path} is of an earlier version, which keeps no answers to choose by; leave --threshold out"
            )
        rules = rules_of(run, split, threshold)
        _, chosen = rules.whole if fold is None else rules.folds[fold]
        if chosen is None:
            raise ExportError(
                f"expected no --threshold with the labels {', '.join(run.labels)}, of which the likeliest is answered; "
                "leave it out"
            )
        folds, records, answers = zip(*decided(run, split, rules), strict=True)
        answered = replace(answered, records=records, answers=answers, folds=folds)
    judge, table, settings = answered.judge, answered.table(), run.recipe.evaluation
    pooled = judge.score(table, resamples=settings.resamples)
    basis = Basis(
        images=len(split),
        groups=len({record.group for record in split}),
        protocol=protocol_of(run),
        notes=notes_of(run),
        figures=pooled,
        terms=judge.terms(table),
        subgroups=subgroup_rows(answered, table, settings),
    )
    if fold is None:
        return basis, pooled, chosen
    return basis, judge.score(answered.of_fold(fold).table(), resamples=settings.resamples), chosen


def _rule(run: Run, threshold: float | None, asked: str | float | None) -> str:
    """How the threshold was chosen."""
    if threshold is None:
        return ""
    return (asked if isinstance(asked, str) else GIVEN) if asked is not None else run.recipe.training.threshold


def _with_constant_weights(module: nn.Module) -> nn.Module:
    """The module, or a copy whose weights are what its parametrizations make of them: a graph can be quantized then."""
    if not any(parametrize.is_parametrized(part) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for part in [part for part in module.modules() if parametrize.is_parametrized(part)]:
        values = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
        # not by parametrize.remove_parametrizations, which changes the class that the copy and the module share
        part.__class__ = type(part).__bases__[0]
        del part.parametrizations
        for name, value in values.items():
            part.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module


def export_model(module: nn.Module, outputs: Sequence[str], dtype: str = "uint8") -> bytes:
    """The graph `model`, which tells how familiar an image looks if the module does: see `export_graph`."""
    return export_graph(module, [*outputs, *[FAMILIAR] * isinstance(module, Watching)], dtype)


def export_graph(module: nn.Module, outputs: Sequence[str], dtype: str = "uint8") -> bytes:
    """An ONNX graph of a module from pixels of any size to outputs of these names.

    Args:
        module: takes pixels.
        outputs: their names.
        dtype: uint8: of pixels (h, w, 3 or 4); int16 or float32: of intensities (h, w, 3).
    """
    size = {0: torch.export.Dim("height", min=1), 1: torch.export.Dim("width", min=1)}
    pictures = dtype == "uint8"
    channels = {2: torch.export.Dim("channels", min=3, max=4)} if pictures else {}
    example = torch.zeros(60, 80, 4 if pictures else 3, dtype=getattr(torch, dtype))
    return _traced(module, [example], ["pixels"], outputs, [{**size, **channels}])


def export_further(graph: FurtherGraph, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """An ONNX graph that an artifact runs after `model`.

    Args:
        graph: its module, with examples of what it takes.
        inputs, outputs: their names, in the order of the module's.
    """
    example = [graph.examples[0][name] for name in inputs]
    return _traced(graph.module.eval(), example, inputs, outputs, [dict(graph.lengths.get(n, {})) for n in inputs])


def _traced(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    lengths: Sequence[Mapping[int, Any]],
) -> bytes:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*new_dynamic_size", FutureWarning)  # torchvision's use of torch, in nms
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # two inputs may share a length
        program = torch.onnx.export(
            _with_constant_weights(module),
            tuple(example),
            dynamo=True,
            dynamic_shapes=tuple(lengths),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program; update torch and onnxscript")
    return bytes(slim(own_constants(program.model_proto)).SerializeToString())


def torch_graphs(module: nn.Module, further: Further, kind: Kind) -> RunGraph:
    """What runs the modules as an artifact's graphs of the same names are run."""
    modules = {MODEL: module} | {name: graph.module.eval() for name, graph in further.items()}
    inputs = {MODEL: ("pixels",), **kind.inputs}

    def run(name: str, feeds: Feeds) -> Outputs:
        return _given_by(modules[name], [torch.from_numpy(feeds[own]) for own in inputs[name]])

    return run


def _given_by(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Outputs:
    with torch.inference_mode():
        answer = module(*inputs)
    return [part.numpy() for part in (answer if isinstance(answer, tuple) else (answer,))]


def compare_further(name: str, graph: FurtherGraph, exported: bytes, inputs: Sequence[str]) -> None:
    """Refuse a further graph that differs from its module on one of its examples.

    Raises:
        ExportError: by more than `TOLERANCE` of the largest value of an output, or of 1 where all are smaller.
    """
    run = open_graphs({name: exported})
    for example in graph.examples:
        wanted = _given_by(graph.module.eval(), [example[own] for own in inputs])
        found = run(name, {own: example[own].numpy() for own in inputs})
        for one, other in zip(wanted, found, strict=True):
            difference = _apart(one, other)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"on an example of {', '.join(f'{own} {tuple(example[own].shape)}' for own in inputs)} the graph "
                    f"{name} differs from its model by {difference:.2g}, more than {TOLERANCE:g}; nothing was written; "
                    "please report it with the backbone's name"
                )


def compare_familiar(module: Watching, graph: bytes, images: Iterable[Pixels]) -> None:
    """Refuse a graph that tells otherwise than its module how familiar an image looks.

    Raises:
        ExportError: by more than `FAMILIAR_TOLERANCE`.
    """
    session = open_session(graph)
    for pixels in images:
        (found,) = session.run([FAMILIAR], {"pixels": pixels})
        difference = float(np.abs(found - _given_by(module, [torch.from_numpy(pixels)])[-1]).max())
        if not difference <= FAMILIAR_TOLERANCE:
            raise ExportError(
                f"on an image of {pixels.shape[1]} x {pixels.shape[0]} pixels the graph's `{FAMILIAR}` differs from "
                f"the model's by {difference:.2g}, more than {FAMILIAR_TOLERANCE:g}; please report it with the "
                "backbone's name"
            )


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference as a share of the largest value, or of 1; whole numbers may be rounded to either side."""
    free = 0.0 if one.dtype.kind == "f" else 1.0
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).max() - free
    return float(max(difference, 0.0) / max(1.0, np.abs(one.astype(np.float64)).max()))


def compare(model: RunGraph, graphs: RunGraph, images: Iterable[Pixels], kind: Kind) -> float:
    """The largest difference between graphs and model, as the kind of task measures how far answers lie apart.

    Args:
        model: runs the modules: see `torch_graphs`.
        graphs: runs the exported graphs.
        images: to answer for, without prompts.
        kind: of task.

    Raises:
        ExportError: it is above `TOLERANCE`, or an output is no number.
    """
    worst = 0.0
    for pixels in images:
        difference = kind.answer.apart(*(kind.outputs(pixels, run) for run in (model, graphs)))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"on an image of {pixels.shape[1]} x {pixels.shape[0]} pixels the graph differs from the "
                f"model by {difference:.2g}, more than {TOLERANCE:g}; nothing was written; please report it "
                "with the backbone's name"
            )
        worst = max(worst, difference)
    return worst


def reduction(graphs: Mapping[str, bytes], records: Sequence[Record], side: int, kind: Kind) -> float:
    """How far decoding a 12-megapixel JPEG at a reduced scale moves any answer, over real images made so large."""
    run, worst = open_graphs(graphs), 0.0
    for record in records[:: max(1, len(records) // 3)][:3]:
        large = Image.fromarray(read_image(record.image)).convert("RGB").resize((4000, 3000))
        file = io.BytesIO()
        large.save(file, "JPEG", quality=92)
        pixels = (read_image(file.getvalue(), side=s) for s in (None, side))
        worst = max(worst, kind.answer.apart(*(kind.outputs(p, run) for p in pixels)))
    return worst


def sample_images(records: Sequence[Record]) -> Iterator[Pixels]:
    """Real images spread over the data set, then the first at each of `SHAPES`, with and without alpha."""
    step = max(1, len(records) // SAMPLES)
    for record in records[::step][:SAMPLES]:
        yield np.ascontiguousarray(read_pixels(record))
    first = read_pixels(records[0])
    for height, width in SHAPES:
        planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(first, 2, 0)]
        resized = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes]
        enlarged = np.stack(resized, axis=2)
        yield enlarged
        if height * width < 10**6 and enlarged.shape[2] > 3:
            yield np.ascontiguousarray(enlarged[..., :3])


def provenance(run: Run, contents: Mapping[str, str], made: Made, fold: int | None) -> Provenance:
    """Where a model comes from, with the images it was trained and selected on.

    Args:
        run: the run.
        contents: record id -> SHA-256 of the image's file.
        made: of a fold, or of all images.
        fold: which fold.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for row in read_csv(run.path / SPLITS):
        part = row[f"fold_{fold}"] if made == "fold" else "train"
        parts[part].add(image_mark(contents[row["image"]]))
    trained, selected, teacher = parts["train"], parts["validation"], run.facts.get("teacher")
    return Provenance(
        leanmed=__version__,
        recipe=run.recipe.model_dump(mode="json"),
        data_sha256=run.facts["data_sha256"],
        seed=run.recipe.training.seed,
        protocol=run.facts["protocol"],
        made=made,
        fold=fold,
        seen_images=tuple(sorted(trained | selected)),
        selected_images=tuple(sorted(selected - trained)),
        teacher=teacher and {name: str(teacher[name]) for name in ("name", "backbone", "sha256")},
        packages={name: version(name) for name in PACKAGES},
    )
