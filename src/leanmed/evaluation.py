"""From predictions to a report: of a run, whose folds each answer what they never saw; or of an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanmed import __version__
from leanmed.config import Evaluation, Recipe, check_recipe
from leanmed.data import class_labels, content_hashes, data_hash, read_records
from leanmed.errors import DataError, InputError, RunError
from leanmed.metrics import Figure, Scored, SubgroupRow, score, subgroups
from leanmed.plots import History
from leanmed.records import Attribute, Record
from leanmed.report import Provenance, Report, fold_rows, worst_mistakes
from leanmed.runs import FoldResult, Run
from leanmed.runtime import artifact
from leanmed.runtime.batch import answer
from leanmed.runtime.predictor import Predictor

PROTOCOLS = {
    "grouped": "{folds}-fold cross-validation, groups kept whole; each image is tested once, by a model that "
    "saw no image of its group",
    "holdout": "One held-out test part, groups kept whole",
    "site": "Leave one site out: each site is tested by a model that saw no image of it, nor of its groups",
    "paper": "{folds}-fold cross-validation by image, as published",
    "artifact": "One artifact on images it was neither trained nor selected on, as their contents tell",
}


@dataclass(frozen=True)
class Answers:
    """Records beside what was answered for them, in the same order."""

    records: Sequence[Record]
    table: Scored


def run_answers(run: Run, records: Sequence[Record], folds: Sequence[FoldResult], part: str = "test") -> Answers:
    """The stored predictions of one part, all folds together."""
    rows = [(fold.number, row) for fold in folds for row in fold.part(part)]
    known = {record.id: record for record in records}
    return Answers([known[row["image"]] for _, row in rows], table_of(rows, run.labels))


def table_of(rows: Sequence[tuple[int, Mapping[str, str]]], labels: tuple[str, ...]) -> Scored:
    """(fold, row of predictions.csv) pairs as the value that metrics take."""
    probabilities = np.array([[float(row[f"p_{label}"]) for label in labels] for _, row in rows])
    return Scored(
        truth=np.array([labels.index(row["truth"]) for _, row in rows]),
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        predicted=np.array([labels.index(row["label"]) for _, row in rows]),
        group=np.array([row["group"] for _, row in rows]),
        labels=labels,
        fold=np.array([fold for fold, _ in rows]),
    )


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
    settings = run.recipe.evaluation
    manifests = {fold.number: fold.facts["manifest"] for fold in folds}
    thresholds = {k: m["threshold"] for k, m in manifests.items() if m["threshold"] is not None}
    return Report(
        title=f"{run.recipe.name}: {run.recipe.model.backbone}",
        protocol=PROTOCOLS[run.facts["protocol"]].format(folds=len(folds)),
        leak=run.facts["leak"],
        figures=score(answers.table, resamples=settings.resamples),
        main_score=folds[0].facts["manifest"]["main_score"],
        table=answers.table,
        folds=fold_rows(answers.table, thresholds, {k: m["temperature"] for k, m in manifests.items()}),
        subgroups=subgroup_rows(answers, settings),
        notes=run.facts["grouping"],
        histories=[_history(fold, run.recipe) for fold in folds],
        mistakes=_mistakes(answers),
        provenance=Provenance(
            data_hash=run.facts["data_sha256"],
            seeds=[run.recipe.split.seed, run.recipe.training.seed],
            versions={"leanmed": run.facts["leanmed"], **run.facts["packages"]},
            recipe=run.recipe.model_dump(mode="json"),
            command=command,
        ),
    )


def fold_figures(run: Run, records: Sequence[Record], fold: int) -> dict[str, Figure]:
    """The figures of one fold's model on its own test part."""
    return score(run_answers(run, records, [run.fold(fold)]).table, resamples=run.recipe.evaluation.resamples)


def evaluate_artifact(
    predictor: Predictor,
    data: Path,
    *,
    dataset: str | None = None,
    command: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """The report of an artifact on a data set, but for the images it was trained or selected on.

    Args:
        predictor: the loaded artifact.
        data: the data set's folder.
        dataset: its reader's name; None: the one of the artifact's recipe.

    Raises:
        DataError: labels the artifact does not know, or every image was used to make it.
    """
    manifest, origin = predictor.manifest, predictor.manifest.provenance
    recipe = check_recipe({"name": "unnamed", **origin.recipe}, "the artifact's recipe")
    records = read_records(dataset or recipe.data.dataset, data)
    class_labels(dataset or recipe.data.dataset, records, manifest.labels)
    contents = content_hashes(records)
    unseen = _unseen(records, contents, origin)
    answers, failed = _answer_all(predictor, unseen, progress)
    return Report(
        title=f"{manifest.name}: artifact {predictor.artifact.sha256[:12]} ({manifest.precision})",
        protocol=PROTOCOLS["artifact"],
        leak=manifest.leak and f"{manifest.leak} This artifact was made under it.",
        figures=score(answers.table, resamples=recipe.evaluation.resamples),
        main_score=manifest.main_score,
        table=answers.table,
        subgroups=subgroup_rows(answers, recipe.evaluation),
        notes=_notes(len(records), len(records) - len(unseen), failed),
        mistakes=_mistakes(answers),
        provenance=Provenance(
            data_hash(records, contents), [origin.seed], {"leanmed": __version__}, origin.recipe, command
        ),
    )


def _unseen(records: Sequence[Record], contents: Sequence[str], origin: artifact.Provenance) -> list[Record]:
    seen = set(origin.seen_images)
    unseen = [r for r, content in zip(records, contents, strict=True) if content[:16] not in seen]
    if not unseen:
        raise DataError("expected images new to this artifact, got only those it was made from; give others")
    return unseen


def _notes(images: int, left_out: int, failed: Sequence[tuple[str, str]]) -> list[str]:
    seen = f"{left_out} of {images} images were used to make the artifact and are left out."
    return [seen] * bool(left_out) + [f"Not answered: {name}: {reason}" for name, reason in failed]


def _answer_all(
    predictor: Predictor, records: Sequence[Record], progress: Callable[[int], None]
) -> tuple[Answers, list[tuple[str, str]]]:
    rows, answered, failed = [], [], []
    for number, record in enumerate(records, start=1):
        line = answer(predictor, record.image)
        progress(number)
        if "error" in line:
            failed.append((record.id, line["error"]))
            continue
        values = {f"p_{name}": p for name, p in line["probabilities"].items()}
        rows.append((0, {"truth": record.target, "label": line["label"], "group": record.group, **values}))
        answered.append(record)
    if not rows:
        raise InputError(f"expected images that can be read, got none among {len(records)}; the first: {failed[0][1]}")
    return Answers(answered, table_of(rows, predictor.manifest.labels)), failed


def subgroup_rows(answers: Answers, settings: Evaluation) -> list[SubgroupRow]:
    """Figures by site and attribute: those the recipe names, else all that have numbers or few values."""
    columns = {name: [_value(r, name) for r in answers.records] for name in _names(answers.records)}
    if settings.subgroups is None:
        chosen = {name: values for name, values in columns.items() if _few(values)}
    else:
        chosen = {name: columns[name] for name in settings.subgroups if name in columns}
    return subgroups(answers.table, chosen, edges=settings.edges, resamples=settings.resamples)


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


def _mistakes(answers: Answers) -> Any:
    return worst_mistakes(answers.table, [r.id for r in answers.records], [r.image for r in answers.records])
