"""From predictions to a report: of a run, whose folds each answer what they never saw; or of an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanmed import __version__
from leanmed.audit.grouping import Known, absent, group_for_artifact, share_nothing
from leanmed.data import content_hashes, data_hash, read_records, read_records_for
from leanmed.errors import DataError, InputError, LeanmedError, RunError
from leanmed.figures.bootstrap import Figure, SubgroupRow
from leanmed.recipe.recipe import Evaluation, Recipe, check_recipe
from leanmed.records import Attribute, Record
from leanmed.report.plots import History
from leanmed.report.report import Provenance, Report, Table, fold_rows
from leanmed.runs import FoldResult, Run
from leanmed.runtime import artifact
from leanmed.runtime.artifact import image_mark
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.kind import JUDGES

PROTOCOLS = {
    "grouped": "{folds}-fold cross-validation, {whole} kept whole; each image is tested once, by a model that "
    "saw no image of its group",
    "holdout": "One held-out test part, {whole} kept whole",
    "site": "Leave one site out: each site is tested by a model that saw no image of it, nor of its groups",
    "paper": "{folds}-fold cross-validation by image, as published",
    "artifact": "One artifact on images that share no group with one it was trained or selected on",
}


@dataclass(frozen=True)
class Answers:
    """Records beside what was answered for them, in the same order."""

    records: Sequence[Record]
    table: Table
    task: str = "classification"


def run_answers(run: Run, records: Sequence[Record], folds: Sequence[FoldResult], part: str = "test") -> Answers:
    """The stored predictions of one part, all folds together."""
    rows = [(fold.number, row) for fold in folds for row in fold.part(part)]
    known = {record.id: record for record in records}
    table = JUDGES[run.recipe.task].table_of(rows, run.labels, _thresholds(folds))
    return Answers([known[row["image"]] for _, row in rows], table, run.recipe.task)


def _thresholds(folds: Sequence[FoldResult]) -> dict[int, float]:
    found = {fold.number: fold.facts["manifest"]["threshold"] for fold in folds}
    return {number: threshold for number, threshold in found.items() if threshold is not None}


def records_of(run: Run, data: Path | None) -> list[Record]:
    """The records a run was trained on, read again.

    Raises:
        RunError: they have changed since.
    """
    root = data or Path(run.facts["data"])
    records = read_records(run.recipe.data.dataset, root)
    if data_hash(records, content_hashes(records)) != run.facts["data_sha256"]:
        raise RunError(
            f"expected at {root} the images and labels that {run.path} was trained on, got others; give the "
            "same ones with --data, or evaluate the exported artifact on the new ones"
        )
    return records


def evaluate_run(run: Run, *, data: Path | None = None, command: str = "") -> Report:
    """The report of a finished run.

    Raises:
        RunError: a fold is unfinished, or the data have changed.
    """
    folds = run.folds()
    answers = run_answers(run, records_of(run, data), folds)
    judge, settings = JUDGES[run.recipe.task], run.recipe.evaluation
    temperatures = {fold.number: fold.facts["manifest"]["temperature"] for fold in folds}
    return Report(
        title=f"{run.recipe.name}: {run.recipe.model.backbone}",
        protocol=PROTOCOLS[run.facts["protocol"]].format(folds=len(folds), whole=_whole(run)),
        leak=run.facts["leak"],
        figures=judge.score(answers.table, resamples=settings.resamples),
        main_score=folds[0].facts["manifest"]["main_score"],
        table=answers.table,
        folds=fold_rows(answers.table, _thresholds(folds), temperatures, measure=judge.point),
        subgroups=subgroup_rows(answers, settings),
        notes=run.facts["grouping"],
        histories=[_history(fold, run.recipe) for fold in folds],
        mistakes=judge.mistakes(answers.table, answers.records),
        provenance=Provenance(
            data_hash=run.facts["data_sha256"],
            seeds=[run.recipe.split.seed, run.recipe.training.seed],
            versions={"leanmed": run.facts["leanmed"], **run.facts["packages"]},
            recipe=run.recipe.model_dump(mode="json"),
            command=command,
        ),
    )


def _whole(run: Run) -> str:
    """What a split kept whole: nobody may read that patients were, where none are known."""
    return "groups" if run.facts.get("patients_known", True) else "copies of an image (patients are not known)"


def fold_figures(run: Run, records: Sequence[Record], fold: int) -> dict[str, Figure]:
    """The figures of one fold's model on its own test part."""
    table = run_answers(run, records, [run.fold(fold)]).table
    return JUDGES[run.recipe.task].score(table, resamples=run.recipe.evaluation.resamples)


def evaluate_artifact(
    predictor: Predictor,
    data: Path,
    *,
    dataset: str | None = None,
    cache: Path | None = None,
    command: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """The report of an artifact on a data set, but for the groups of which it was trained or selected on an image.

    Groups are made as for training: the data set's own, joined with an audit's unless the recipe says otherwise.

    Args:
        predictor: the loaded artifact.
        data: the data set's folder.
        dataset: its reader's name; None: the one of the artifact's recipe.
        cache: a folder for the audit's groups; None: they are not kept.
        command: what the user typed, for the record.
        progress: takes the number of images that are through.

    Raises:
        DataError: labels the artifact does not know, no image that can be read, or every image was used to make it.
    """
    manifest, origin = predictor.manifest, predictor.manifest.provenance
    judge = JUDGES[manifest.task]
    recipe = check_recipe({"name": "unnamed", **origin.recipe}, "the artifact's recipe")
    records = read_records_for(recipe.data, data, dataset)
    judge.check(dataset or recipe.data.dataset, records, manifest.labels)
    known = group_for_artifact(records, recipe.split, cache)
    unseen = _unseen(known, origin)
    answers, failed = _answer_all(predictor, unseen, progress)
    return Report(
        title=f"{manifest.name}: artifact {predictor.artifact.sha256[:12]} ({manifest.precision})",
        protocol=PROTOCOLS["artifact"],
        leak=manifest.leak and f"{manifest.leak} This artifact was made under it.",
        figures=judge.score(answers.table, resamples=recipe.evaluation.resamples),
        main_score=manifest.main_score,
        table=answers.table,
        subgroups=subgroup_rows(answers, recipe.evaluation),
        notes=[
            *records.notes,
            *known.grouping.notes(),
            *_notes(len(known.grouping.records), len(unseen), failed),
            *absent(origin.seen_images, list(map(image_mark, known.contents.values()))),
        ],
        mistakes=judge.mistakes(answers.table, answers.records),
        provenance=Provenance(known.sha256, [origin.seed], {"leanmed": __version__}, origin.recipe, command),
    )


def _unseen(known: Known, origin: artifact.Provenance) -> list[Record]:
    seen = set(origin.seen_images)
    unseen = share_nothing(known.grouping, lambda record: image_mark(known.contents[record.id]) in seen)
    if not unseen:
        raise DataError("expected images new to this artifact, got only those it was made from; give others")
    return unseen


def _notes(images: int, unseen: int, failed: Sequence[tuple[str, str]]) -> list[str]:
    seen = f"{images - unseen} of {images} images made the artifact, or share a group with one that did; left out."
    return [seen] * (unseen < images) + [f"Not answered: {name}: {reason}" for name, reason in failed]


def _answer_all(
    predictor: Predictor, records: Sequence[Record], progress: Callable[[int], None]
) -> tuple[Answers, list[tuple[str, str]]]:
    manifest, rows, answered, failed = predictor.manifest, [], [], []
    judge = JUDGES[manifest.task]
    for number, record in enumerate(records, start=1):
        try:
            rows.append((0, judge.answer(predictor, record)))
            answered.append(record)
        except LeanmedError as error:
            failed.append((record.id, str(error)))
        progress(number)
    if not rows:
        raise InputError(f"expected images that can be read, got none among {len(records)}; the first: {failed[0][1]}")
    thresholds = {} if manifest.threshold is None else {0: manifest.threshold}
    return Answers(answered, judge.table_of(rows, manifest.labels, thresholds), manifest.task), failed


def subgroup_rows(answers: Answers, settings: Evaluation) -> list[SubgroupRow]:
    """Figures by site and attribute: those the recipe names, else all that have numbers or few values."""
    columns = {name: [_value(r, name) for r in answers.records] for name in _names(answers.records)}
    if settings.subgroups is None:
        chosen = {name: values for name, values in columns.items() if _few(values)}
    else:
        chosen = {name: columns[name] for name in settings.subgroups if name in columns}
    judge = JUDGES[answers.task]
    return judge.subgroups(answers.table, chosen, edges=settings.edges, resamples=settings.resamples)


def _names(records: Iterable[Record]) -> list[str]:
    return ["site", *sorted({name for record in records for name in record.attributes})]


def _value(record: Record, name: str) -> Attribute | None:
    return record.site if name == "site" else record.attributes.get(name)


def _few(values: Sequence[Attribute | None]) -> bool:
    different = {v for v in values if v is not None}
    return bool(different) and (len(different) <= 12 or all(isinstance(v, float) for v in different))


def _history(fold: FoldResult, recipe: Recipe) -> History:
    name = recipe.training.select_by

    def column(key: str) -> list[float]:
        return [float(row[key]) for row in fold.history]

    return History(
        fold=fold.number,
        train_loss=column("train_loss"),
        validation_loss=column("val_loss"),
        validation_score=column(f"val_{name}"),
        score_name=name,
        chosen=fold.facts["best_epoch"],
    )
