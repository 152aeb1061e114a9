"""What `leanmed quantize` does: read, sort the images, compress, test once, and write the report and the artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leanmed.audit.grouping import AUDIT, Known, group_for_artifact
from leanmed.audit.seen import meet
from leanmed.compress.bench import Options
from leanmed.compress.familiar_scale import distances, moved
from leanmed.compress.gate import Images, Pixels, answers, count_unfamiliar, make_gate
from leanmed.compress.outcome import Comparison, GateError, Outcome
from leanmed.compress.parts import Parts, find_parts, sample_records
from leanmed.compress.precisions import precision_of
from leanmed.compress.quantize import Quantized, quantize
from leanmed.compress.report import QUANTIZATION, Beside, write_quantization_report
from leanmed.console import Progress, silent
from leanmed.data import read_pixels, read_records_for
from leanmed.errors import ArtifactError
from leanmed.files import defined
from leanmed.manifest import Manifest, image_mark
from leanmed.records import Record
from leanmed.runtime.artifact import ARTIFACT, MANIFEST, Artifact, read_artifact, write_artifact
from leanmed.tasks import TASKS
from leanmed.tasks.kind import MODEL
from leanmed.tasks.recipes import recipe_of_artifact

LOOKED_AT = 128  # images, for how familiar they look before and after
MOST_SHIFTED = 0.05  # of these, by which the number of unfamiliar ones may change


@dataclass(frozen=True)
class RecordImages:
    """The records' pixels, decoded as `predict` does, and anew each time: all of them may not fit in memory."""

    records: Sequence[Record]
    side: int | None

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Pixels]:
        return (read_pixels(record, side=self.side) for record in self.records)


def quantize_artifact(
    source: Path,
    to: str,
    data: Path,
    out: Path,
    options: Options,
    *,
    calibration: int | None = None,
    dataset: str | None = None,
    overwrite: bool = False,
    command: str = "",
    published: Mapping[str, Beside] = {},
    tell: Callable[[str], None] = print,
    progress: Progress = silent,
) -> Outcome:
    """Compress the artifact at `source` into `out`, with a report beside it.

    Args:
        source: a float artifact.
        to: a name in `PRECISIONS`, such as int8.
        data: the data set's folder; which of its images trained the artifact is read from their contents.
        out: takes the artifact; the report goes to its name with `-report` at the end. If every attempt lost too much
            while an older artifact stands in `out`, that one keeps its report, and the new one goes to
            `-refused-report`.
        options: the gate and the techniques.
        calibration: at most so many training images; None: as many as the kind of task says.
        dataset: the data set's reader; None: the one of the artifact's recipe.
        overwrite: replace an older artifact in `out`, and its report.
        command: what the user typed, for the record.
        published: by the name of a recipe, others' models to be drawn beside those of that recipe.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total.

    Raises:
        OutputError: `out` or its report hold something; with `overwrite`, something else.
        ArtifactError: `source` is damaged or quantized already, or is `out`.
        DataError: an unknown precision, or no images to calibrate or to measure with.
        GateError: every attempt lost too much; only the report was written.
    """
    precision, artifact = precision_of(to), read_artifact(source)
    if out.resolve() == source.resolve():
        raise ArtifactError(f"expected --out to be another folder than the float artifact {source}; it is still needed")
    report, refused = (out.with_name(f"{out.name}{end}") for end in ("-report", "-refused-report"))
    ARTIFACT.check(out, overwrite=overwrite)
    for place in (report, *[refused] * overwrite):
        QUANTIZATION.check(place, overwrite=overwrite)
    known, parts = sort_images(artifact, data, out.parent / AUDIT, dataset, calibration, progress)
    if not precision.calibrates:
        parts = replace(parts, training=[])
    counts = len(parts.training), len(parts.validation), len(parts.test)
    tell("{} training images calibrate, {} others choose, {} new ones test".format(*counts))
    quantized = quantize_parts(artifact, to, parts, options, tell=tell, progress=progress)
    outcome = quantized.outcome
    if not outcome.passed and (out / MANIFEST).is_file():
        report = refused
    write_quantization_report(
        report,
        artifact.manifest.name,
        [outcome],
        TASKS[artifact.manifest.task].judge,
        leak=artifact.manifest.leak,
        command=command,
        beside=published.get(artifact.manifest.name),
        overwrite=overwrite,
    )
    tell(f"wrote {report / 'report.html'} and report.json")
    if not outcome.passed:
        raise GateError(outcome)
    write_quantized(out, artifact, quantized, known, parts, overwrite=overwrite)
    return outcome


def sort_images(
    artifact: Artifact,
    data: Path,
    cache: Path,
    dataset: str | None = None,
    calibration: int | None = None,
    progress: Progress = silent,
) -> tuple[Known, Parts]:
    """A data set by what an artifact may use its images for.

    Args:
        artifact: a float one.
        data: the data set's folder.
        cache: keeps the groups that an audit finds.
        dataset: the data set's reader; None: the one of the artifact's recipe.
        calibration: at most so many training images are kept; None: as many as the kind of task says.
        progress: takes stage, done and total.

    Raises:
        DataError: the data set is unsound, or there are no images to measure with.
    """
    origin = artifact.manifest.provenance
    recipe = recipe_of_artifact(origin.recipe)
    records = read_records_for(recipe.data, data, dataset)
    known = group_for_artifact(records, recipe.split, cache, progress=progress)
    parts = find_parts(origin, known, meet(known, origin, artifact.traces, cache))
    most = TASKS[artifact.manifest.task].judge.CALIBRATION if calibration is None else calibration
    return known, replace(parts, training=sample_records(parts.training, most))


def write_quantized(
    out: Path, artifact: Artifact, quantized: Quantized, known: Known, parts: Parts, *, overwrite: bool = False
) -> Artifact:
    """Write the compressed artifact of a float one, with what is known of it and of the images that had a say.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an artifact.
    """
    outcome = quantized.outcome
    marks = ([image_mark(known.contents[r.id]) for r in part] for part in (parts.training, parts.validation))
    manifest = describe(artifact, outcome, *marks, learned=parts.learned)
    text = card(artifact, outcome, learned=parts.learned)
    return write_artifact(out, manifest, quantized.graphs, text, artifact.traces, overwrite=overwrite)


def quantize_parts(
    artifact: Artifact,
    to: str,
    parts: Parts,
    options: Options,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = silent,
) -> Quantized:
    """Compress with one part of the images, choose with the next, and measure the choice on the last.

    Raises:
        ArtifactError: the graph is damaged, quantized already, or has nothing to quantize.
        DataError: no images to calibrate or to measure with.
    """
    manifest = artifact.manifest
    side = manifest.input.side if manifest.input.reduced else None
    gate = make_gate(parts.validation, RecordImages(parts.validation, side), manifest)
    images = RecordImages(parts.training, side)
    quantized = quantize(artifact, to, images, gate, options, tell=tell, progress=progress)
    if manifest.familiar:
        seen = RecordImages(sample_records(parts.validation, LOOKED_AT), side)
        quantized = replace(quantized, graphs=_fitting(artifact.graphs, quantized.graphs, seen))
    outcome = replace(quantized.outcome, warnings=(*parts.notes, *quantized.outcome.warnings))
    if parts.test:
        test = make_gate(parts.test, RecordImages(parts.test, side), manifest)
        graphs = {"float": artifact.graphs, "compressed": quantized.graphs}
        found = (
            answers(artifact, test.images, own, partial(progress, f"testing the {name} model on new images"))
            for name, own in graphs.items()
        )
        tested = test.compare(*found)
        outcome = replace(outcome, tested=tested, warnings=(*outcome.warnings, *_beyond(tested, outcome)))
    if manifest.familiar:
        judged = RecordImages(sample_records(parts.test or parts.validation, LOOKED_AT), side)
        before, after = (count_unfamiliar(artifact, judged, own) for own in (artifact.graphs, quantized.graphs))
        warnings = (*outcome.warnings, *_shifted(before, after, len(judged)))
        outcome = replace(outcome, warnings=warnings, unfamiliar=(before, after, len(judged)))
    return replace(quantized, outcome=outcome)


def _fitting(float_graphs: Mapping[str, bytes], graphs: Mapping[str, bytes], images: Images) -> dict[str, bytes]:
    """Compressed graphs that tell how familiar an image looks by their own distances."""
    before, after = (distances(own[MODEL], images) for own in (float_graphs, graphs))
    if before is None or after is None:
        return dict(graphs)
    return {**graphs, MODEL: moved(graphs[MODEL], before, after)}


def _shifted(before: int, after: int, images: int) -> list[str]:
    """What to say if compression changes how many images look unfamiliar by more than it may."""
    if abs(after - before) <= MOST_SHIFTED * images:
        return []
    return [
        f"{after} of {images} images look unfamiliar to the compressed model, and {before} to the float one: what it "
        "says of how familiar an image looks cannot be relied on"
    ]


def _beyond(tested: Comparison, allowed: Outcome) -> list[str]:
    """What to say if new images show, or cannot exclude, more than the gate allowed on validation images."""
    return allowed.limits.concerns(tested, which="new to the artifact")


def describe(
    artifact: Artifact,
    outcome: Outcome,
    calibrated_on: Sequence[str],
    chosen_on: Sequence[str] = (),
    *,
    learned: bool = False,
) -> Manifest:
    """The compressed artifact's manifest.

    Args:
        artifact: the float one.
        outcome: of the compression.
        calibrated_on: hashes of the calibration images.
        chosen_on: hashes of the images that chose among the attempts; nobody may be judged on them any more.
        learned: the model was trained on these too, so that they say nothing of how good it is.
    """
    manifest, found = artifact.manifest, outcome.measured
    origin, selected = manifest.provenance, () if learned else tuple(chosen_on)
    measured = "images that the model was trained on" if learned else "validation images"
    changes = {
        "precision": outcome.to,
        "figures": manifest.figures if learned else defined(found.after),
        "figures_of": manifest.figures_of if learned else "itself",
        "quantization": {
            "techniques": list(outcome.final.techniques),
            "calibrated_on": list(calibrated_on),
            "measured_on": "images new to the artifact" if outcome.tested else measured,
            "images": found.images,
            "change": defined(found.change),
            "max_drop": outcome.max_drop,
            "verdict": outcome.final.verdict,
            "not_excluded": outcome.not_excluded,
            "weight_bits": {row.name: row.weight_bits for row in outcome.layers},
            "warnings": list(outcome.warnings),
        },
        "provenance": origin.model_copy(
            update={
                "parents": (*origin.parents, artifact.sha256),
                "seen_images": tuple(sorted({*origin.seen_images, *selected})),
                "selected_images": tuple(sorted({*origin.selected_images, *selected})),
            }
        ),
    }
    return manifest.model_copy(update=changes)


def _unfamiliar(outcome: Outcome) -> str:
    """The card's sentence on how many images look unfamiliar now."""
    if outcome.unfamiliar is None:
        return ""
    before, after, images = outcome.unfamiliar
    return f" Of {images} images, {after} look unfamiliar to it, and {before} to the float model."


def card(artifact: Artifact, outcome: Outcome, *, learned: bool = False) -> str:
    """The float artifact's card, with what compression changed."""
    where = "images that the model was trained on" if learned else "images"
    now = "" if learned else "; those in `leanmed.json` are this one's"
    found = outcome.measured
    doubts = _beyond(found, outcome) if outcome.tested else [outcome.not_excluded]
    before = artifact.card.replace("(fp32)", f"({outcome.to})", 1)  # in the title
    return before + (
        f"\n## Compression\n\n{outcome.to.upper()}, made with {', '.join(outcome.final.techniques)}. "
        f"{outcome.final.bytes / 1e6:.2f} MB in place of {outcome.before_bytes / 1e6:.2f}. On {found.images} {where}, "
        f"{found.main_score} changed by {-found.drop:+.4f}, and {100 * found.agreement:.1f} % of answers are those of "
        "the float model. The figures above are the float model's"
        + now
        + "."
        + _unfamiliar(outcome)
        + "\n"
        + "".join(f"\n{doubt}\n" for doubt in doubts if doubt)
    )
