"""The report of an artifact, on images or on whole scans that are new to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leanmed import __version__
from leanmed.audit.grouping import Known, group_for_artifact
from leanmed.audit.seen import meet
from leanmed.console import Progress, Step, nobody, silent
from leanmed.data import read_records_for
from leanmed.errors import DataError, InputError, LeanmedError
from leanmed.evaluation.answered import PROTOCOLS, Answered, check_prevalence, missing_notes, report_of
from leanmed.evaluation.leaks import leave_out_leaks
from leanmed.figures.familiarity import UNFAMILIAR
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.report.report import REPORT, Provenance, Report, write_report
from leanmed.runtime.artifact import Artifact
from leanmed.runtime.predictor import Predictor
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer
from leanmed.tasks.recipes import recipe_of_artifact


def evaluate_artifact(
    predictor: Predictor,
    data: Path,
    *,
    dataset: str | None = None,
    split_audit: Path | None = None,
    cache: Path | None = None,
    command: str = "",
    prevalence: float | None = None,
    progress: Progress = silent,
) -> Report:
    """The report of an artifact on a data set, but for the groups of which it was trained or selected on an image.

    Groups are made as for training: the data set's own, joined with an audit's unless the recipe says otherwise.

    Args:
        predictor: the loaded artifact.
        data: the data set's folder.
        dataset: its reader's name; None: the one of the artifact's recipe.
        split_audit: the folder that `leanmed audit --split` wrote; the images that it found to leak are left out.
        cache: a folder for the audit's groups; None: they are not kept.
        command: what the user typed, for the record.
        prevalence: give predictive values at this share of positive images too; None: do not.
        progress: takes stage, done and total, of the audit for copies too.

    Raises:
        DataError: labels the artifact does not know, no image that can be read, every image was used to make it, an
            image that the audit of the split has not seen, or a prevalence for answers that are not yes or no.
    """
    manifest, origin = predictor.manifest, predictor.manifest.provenance
    check_prevalence(manifest.task, manifest.labels, prevalence)
    new = new_images(predictor.artifact, data, dataset=dataset, cache=cache, progress=progress)
    recipe, known = new.recipe, new.known
    answered, failed = answer_all(predictor, new.records, partial(progress, "images"))
    kept = leave_out_leaks(answered, known.contents, split_audit, recipe.evaluation) if split_audit else None
    answered = kept.answered if kept else answered
    report = report_of(
        answered,
        recipe.evaluation,
        title=f"{manifest.name}: artifact {predictor.artifact.sha256[:12]} ({manifest.precision})",
        protocol=PROTOCOLS["artifact"],
        main_score=manifest.main_score,
        provenance=Provenance(known.sha256, [origin.seed], {"leanmed": __version__}, origin.recipe, command),
        thresholds={} if manifest.threshold is None else {0: manifest.threshold},
        unfamiliar=manifest.familiar.threshold if manifest.familiar else UNFAMILIAR,
        prevalence=prevalence,
    )
    return replace(
        report,
        leak=manifest.leak and f"{manifest.leak} This artifact was made under it.",
        notes=[*([kept.note(report.main_score, report.figures)] if kept else []), *new.notes, *missing_notes(failed)],
        beside=kept.tables() if kept else {},
        contents=frozenset(known.contents[record.id] for record in answered.records),
    )


@dataclass(frozen=True)
class NewImages:
    """The images of a data set that share no group with one that an artifact was trained or selected on.

    Args:
        records: with the groups that are kept whole.
        known: the whole data set, grouped.
        recipe: of the artifact.
        notes: what to say of how they were read and chosen.
    """

    records: list[Record]
    known: Known
    recipe: Recipe
    notes: list[str]


def new_images(
    artifact: Artifact,
    data: Path,
    *,
    dataset: str | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> NewImages:
    """Read a data set, group it as for training, and leave out the groups of which the artifact knows an image.

    Args:
        artifact, data, dataset, cache, progress: see `evaluate_artifact`.

    Raises:
        DataError: labels the artifact does not know, or every image was used to make it.
    """
    manifest, origin = artifact.manifest, artifact.manifest.provenance
    recipe = recipe_of_artifact(origin.recipe)
    records = read_records_for(recipe.data, data, dataset)
    TASKS[manifest.task].judge.check(dataset or recipe.data.dataset, records, manifest.labels)
    known = group_for_artifact(records, recipe.split, cache, progress=progress)
    met = meet(known, origin, artifact.traces, cache)
    if not met.unseen:
        raise DataError(
            "expected images new to this artifact, got only those that made it, or that share a group with one that "
            "did; give images that are new to it"
            + "; CARD.md has its cross-validated figures"
            * (manifest.figures_of == "folds")
        )
    images = len(known.grouping.records)
    left_out = missing_notes([], images=images, left_out=images - len(met.unseen))
    notes = [*records.notes, *known.grouping.notes(), *left_out, *met.notes]
    return NewImages(met.unseen, known, recipe, notes)


def evaluate_scans(
    predictor: Predictor,
    root: Path,
    out: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Step = nobody,
) -> tuple[Report, Path]:
    """An artifact on the whole scans below a folder: write the report, and say where else something was written.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than a report.
        ArtifactError: it answers for no scans.
        DataError: no scan that can be read and is new to it.
    """
    REPORT.check(out, overwrite=overwrite)
    manifest = predictor.manifest
    judged = TASKS[manifest.task].judge.judge_scans(
        manifest,
        f"{manifest.name}: artifact {predictor.artifact.sha256[:12]} ({manifest.precision})",
        root,
        lambda path: predictor.predict_scan(path, count=None),
        command=command,
        progress=progress,
    )
    written: list[Path] = []
    write_report(out, judged.report, further=lambda folder: written.append(judged.write(folder)), overwrite=overwrite)
    return judged.report, out / written[0].name


def answer_all(
    predictor: Predictor, records: Sequence[Record], step: Step = nobody
) -> tuple[Answered, list[tuple[str, str]]]:
    """An artifact's answers to the records that can be read, and why others cannot.

    Raises:
        InputError: none can be read.
    """
    answers: list[Answer] = []
    answered: list[Record] = []
    failed: list[tuple[str, str]] = []
    for number, record in enumerate(records, start=1):
        try:
            answers.append(predictor.predict_record(record))
            answered.append(record)
        except LeanmedError as error:
            failed.append((record.id, str(error)))
        step(number, len(records))
    if not answers:
        raise InputError(f"expected images that can be read, got none among {len(records)}; the first: {failed[0][1]}")
    manifest = predictor.manifest
    return Answered(answered, answers, manifest.labels, manifest.task), failed
