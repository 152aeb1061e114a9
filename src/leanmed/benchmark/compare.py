"""Artifacts beside each other on the same images: figures with paired intervals, size, speed and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from leanmed.audit.grouping import AUDIT
from leanmed.benchmark.benchmark import interleaved, machine
from leanmed.benchmark.profile import MEMORY, SECONDS, peak_mib
from leanmed.console import Progress, shown, silent
from leanmed.data import read_pixels
from leanmed.errors import ArtifactError, DataError
from leanmed.evaluation.answered import missing_notes
from leanmed.evaluation.artifacts import NewImages, answer_all, new_images
from leanmed.figures.bootstrap import SMALL_GROUPS, Figure
from leanmed.files import defined, write_json, write_text
from leanmed.outputs import Output
from leanmed.records import Record
from leanmed.report.glossary import Term
from leanmed.report.pages import NOTICE, render_page
from leanmed.report.plots import PALETTE, Plot, canvas_of, svg_of
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.recipes import recipe_of_artifact

COMPARISON = Output(
    "a comparison", ("notice", "artifacts", "compared_with"), "report.json", ("report.html", "report.json")
)
THREADS = (1, 2)
REPEATS = 30
LEAST = 2  # artifacts


@dataclass(frozen=True)
class Row:
    """One artifact of a comparison.

    Args:
        name: of its folder; its path where two have the same name.
        sha256: of the artifact.
        network, precision: as its manifest says.
        figures: name -> figure, with its interval.
        change: name -> its figure minus the first artifact's on the same images, and `agreement`, the share of images
            to which both answer the same; of the first artifact itself empty.
        bytes: of all its graphs.
        milliseconds: threads -> median of one answer, from pixels to outputs.
        peak_mib: see `benchmark.profile.MEMORY`; None: not known.
    """

    name: str
    sha256: str
    network: str
    precision: str
    figures: Mapping[str, Figure]
    change: Mapping[str, Figure]
    bytes: int
    milliseconds: Mapping[int, float]
    peak_mib: float | None


@dataclass(frozen=True)
class Compared:
    """Artifacts beside each other.

    Args:
        rows: the first is the one that all others are compared with.
        images, groups: that all were judged on.
        size: of the image that was timed, in its file: height and width.
        main_score: the figure to lead with.
        terms: what figures are called, in the order in which they are shown.
        notes: what to say of how the images were chosen.
        leaks: of artifacts that were made under a protocol that leaks.
        command: what the user typed.
        machine: where it was measured.
    """

    rows: Sequence[Row]
    images: int
    groups: int
    size: tuple[int, int]
    main_score: str
    terms: Mapping[str, Term]
    notes: Sequence[str]
    leaks: Sequence[str]
    command: str
    machine: Mapping[str, Any]

    @property
    def shown(self) -> list[str]:
        """The figures that some artifact has, in the order of `terms`."""
        return [name for name in self.terms if any(_known(row.figures.get(name)) for row in self.rows)]

    @property
    def has_intervals(self) -> bool:
        """The changes have intervals."""
        return self.groups >= SMALL_GROUPS

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "notice": NOTICE,
            "leaks": list(self.leaks),
            "command": self.command,
            "machine": dict(self.machine),
            "images": self.images,
            "groups": self.groups,
            "main_score": self.main_score,
            "compared_with": self.rows[0].name,
            "timed": {"image": list(self.size), "memory": MEMORY},
            "notes": list(self.notes),
            "artifacts": [defined(row) for row in self.rows],
        }


def compare_artifacts(
    paths: Sequence[Path],
    data: Path,
    *,
    dataset: str | None = None,
    cache: Path | None = None,
    names: Sequence[str] = (),
    seconds: float = SECONDS,
    resamples: int = 2000,
    command: str = "",
    progress: Progress = silent,
) -> Compared:
    """Judge artifacts on the images that are new to all of them, and measure what each costs.

    Args:
        paths: artifact folders of one kind of task with the same labels; the others are compared with the first.
        data: the data set's folder.
        dataset: how it is laid out; None: as the artifacts' recipes say, which must agree.
        cache: a folder for the audit's groups; None: they are not kept.
        names: what to call them; empty: as their folders.
        seconds: for the timing of answers, at most, but three rounds are made in any case.
        resamples: of the bootstrap.
        command: what the user typed, for the record.
        progress: takes stage, done and total.

    Raises:
        ArtifactError: fewer than two artifacts, one is given twice, they answer different questions, or their recipes
            read data in different ways.
        DataError: no image is new to all of them, or none that all can read.
    """
    names = names or _names(paths)
    predictors = {name: load(path) for name, path in zip(names, paths, strict=True)}
    first = predictors[names[0]]
    _check_alike(predictors, dataset)
    with TemporaryDirectory() as scratch:
        folder = cache or Path(scratch) / AUDIT
        new = {
            name: new_images(own.artifact, data, dataset=dataset, cache=folder, progress=progress)
            for name, own in predictors.items()
        }
    records, notes = _new_to_all(new)
    records, answers, failed = _answered_by_all(predictors, records, progress)
    judge, labels = first.kind_of_task.judge, first.manifest.labels
    tables = {name: judge.table_of(records, answers[name], labels) for name in names}
    own, groups = tables[names[0]], tables[names[0]].groups
    progress("timing", 0, 1)
    times = _milliseconds(paths, names, records[0], seconds)
    progress("timing", 1, 1)
    size = read_pixels(records[0]).shape
    rows = [
        Row(
            name=name,
            sha256=predictor.artifact.sha256,
            network=str(predictor.manifest.provenance.recipe.get("model", {}).get("backbone", "")),
            precision=predictor.manifest.precision,
            figures=judge.score(tables[name], resamples=resamples),
            change={
                figure: value.of_groups(groups)
                for figure, value in judge.paired(own, tables[name], resamples=resamples).items()
            }
            if name != names[0]
            else {},
            bytes=predictor.manifest.bytes,
            milliseconds=times[name],
            peak_mib=peak_mib(path, predictor.manifest.input),
        )
        for (name, predictor), path in zip(predictors.items(), paths, strict=True)
    ]
    return Compared(
        rows=rows,
        images=len(records),
        groups=groups,
        size=(int(size[0]), int(size[1])),
        main_score=first.manifest.main_score,
        terms=judge.terms(own),
        notes=[*notes, *missing_notes(failed)],
        leaks=[f"{name}: {p.manifest.leak}" for name, p in predictors.items() if p.manifest.leak],
        command=command,
        machine=machine(),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    if len(paths) < LEAST:
        raise ArtifactError(f"expected at least two artifacts to compare, got {len(paths)}; name another one")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ArtifactError("expected each artifact once, got one twice; leave it out")
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _check_alike(predictors: Mapping[str, Predictor], dataset: str | None) -> None:
    (name, first), *others = predictors.items()
    for other, predictor in others:
        ways = [recipe_of_artifact(p.manifest.provenance.recipe).data.dataset for p in (first, predictor)]
        if dataset is None and ways[0] != ways[1]:
            raise ArtifactError(
                f"expected artifacts whose recipes read data in one way, got {name} with data.dataset {ways[0]} and "
                f"{other} with {ways[1]}; say by --dataset how the folder is laid out"
            )
        for what in ("task", "labels"):
            own, its = (getattr(p.manifest, what) for p in (first, predictor))
            if own != its:
                told = [value if isinstance(value, str) else ", ".join(value) for value in (own, its)]
                raise ArtifactError(
                    f"expected artifacts that answer the same question, got {name} with the {what} {told[0]} and "
                    f"{other} with {told[1]}; compare those of one kind of task with the same labels in the same order"
                )


def _new_to_all(new: Mapping[str, NewImages]) -> tuple[list[Record], list[str]]:
    """The images that no artifact has seen, grouped as for the first, and what to say of them."""
    first, *others = new.values()
    unseen = [{record.id for record in own.records} for own in others]
    records = [record for record in first.records if all(record.id in ids for ids in unseen)]
    if not records:
        raise DataError(
            "expected images that are new to all of these artifacts, got none; compare artifacts of the same fold or "
            "split, or give images that none of them has seen"
        )
    notes = [f"{name}: {note}" for name, own in new.items() for note in own.notes]
    same = len({tuple(own.notes) for own in new.values()}) == 1
    kept = list(first.notes) if same else notes
    dropped = len(first.records) - len(records)
    said = f"Left out because another artifact has seen them, or its recipe does not read them: {dropped} image(s)."
    return records, [*kept, *[said] * bool(dropped)]


def _answered_by_all(
    predictors: Mapping[str, Predictor], records: Sequence[Record], progress: Progress
) -> tuple[list[Record], dict[str, list[Any]], list[tuple[str, str]]]:
    """The images that all artifacts answer, the answers of each, and why others are not answered."""
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, predictor in predictors.items():
        answered, wrong = answer_all(predictor, records, partial(progress, f"images, by {name}"))
        found[name] = {record.id: answer for record, answer in zip(answered.records, answered.answers, strict=True)}
        failed |= dict(wrong)
    kept = [record for record in records if record.id not in failed]
    if not kept:
        raise DataError(
            f"expected images that all artifacts can read, got none; the first: {next(iter(failed.values()))}"
        )
    return kept, {name: [own[record.id] for record in kept] for name, own in found.items()}, list(failed.items())


def _milliseconds(
    paths: Sequence[Path], names: Sequence[str], record: Record, seconds: float
) -> dict[str, dict[int, float]]:
    """Name -> threads -> median milliseconds of one answer, all artifacts taking turns.

    Each is given the pixels as it reads them itself: one that needs few of a large photograph decodes fewer.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for threads in THREADS:
        opened = [load(path, threads=threads) for path in paths]
        actions = {
            name: partial(own.outputs, own.frame_of(record).pixels) for name, own in zip(names, opened, strict=True)
        }
        for name, timed in interleaved(actions, REPEATS, seconds / len(THREADS)).items():
            found[name][threads] = timed["median_ms"]
    return found


def write_comparison(out: Path, found: Compared, *, overwrite: bool = False) -> None:
    """Write a folder with report.json and report.html, whole.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than a comparison.
    """
    page = render_page(
        "comparison.html",
        found=found,
        least_groups=SMALL_GROUPS,
        memory=MEMORY,
        plots=[plot(found)] * (found.main_score in found.shown),
    )
    with COMPARISON.folder(out, overwrite=overwrite) as folder:
        write_text(folder / "report.html", page)
        write_json(folder / "report.json", found.as_json())


def plot(found: Compared) -> Plot:
    """The main score of each artifact with its interval, against its size and against its time."""
    title = found.terms[found.main_score].title
    sides = {"size, MB": [row.bytes / 1e6 for row in found.rows]}
    sides["milliseconds an image, one thread"] = [row.milliseconds[THREADS[0]] for row in found.rows]
    scores = [row.figures[found.main_score] for row in found.rows]
    colours = [PALETTE[k % len(PALETTE)] for k in range(len(found.rows))]
    with canvas_of(8.4, 3.9, 1, 2, sharey=True) as (canvas, axes):
        for ax, (label, values) in zip(axes, sides.items(), strict=True):
            for row, score, x, colour in zip(found.rows, scores, values, colours, strict=True):
                if not math.isnan(score.low):
                    ax.plot([x, x], [score.low, score.high], color=colour, linewidth=1)
                ax.plot([x], [score.value], "o", color=colour, label=row.name)
            ax.set(xlabel=label, xlim=(0, 1.25 * max(values)))
        axes[0].set_ylabel(title)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(3, len(found.rows)))
        return Plot(
            f"{title} against size and time",
            "Each dot is an artifact, the line through it its 95 % interval; higher is better, and further left is "
            "smaller or faster. Intervals that overlap say little here: the table has those of the differences on the "
            "same images.",
            "; ".join(
                f"{row.name}: {score.value:.3f} at {row.bytes / 1e6:.2f} MB and {row.milliseconds[1]:.1f} ms"
                for row, score in zip(found.rows, scores, strict=True)
            ),
            svg_of(canvas),
        )


def told(found: Compared) -> list[str]:
    """Lines for the screen: what leaks, notes, and an artifact in each line."""
    lines = [*found.leaks, *found.notes]
    for row in found.rows:
        score, change = row.figures[found.main_score], row.change.get(found.main_score)
        costs = [
            f"{row.bytes / 1e6:.2f} MB",
            *(f"{ms:.1f} ms on {n} thread{'s' * (n > 1)}" for n, ms in row.milliseconds.items()),
        ]
        if row.peak_mib is not None:
            costs.append(f"{row.peak_mib:.0f} MiB")
        said = f"{row.name}: {found.main_score} {shown(score)}"
        if change:
            agreement = row.change["agreement"].value
            said += f", {shown(change, '+')} from {found.rows[0].name}, {100 * agreement:.1f} % the same answer"
        lines.append(f"{said}; {', '.join(costs)}")
    return lines


def _known(figure: Figure | None) -> bool:
    return figure is not None and not math.isnan(figure.value)
