"""The report of a run, whose folds each answer what they never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leanmed.data import content_hashes, data_hash, read_records_for
from leanmed.errors import DataError, RunError
from leanmed.evaluation.answered import PROTOCOLS, Answered, check_prevalence, report_of
from leanmed.figures.bootstrap import Figure
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.report.plots import History
from leanmed.report.report import Provenance, Report, fold_rows
from leanmed.runs import PREDICTIONS, SPLITS, FoldResult, Run, read_csv
from leanmed.runtime.lines import read_lines
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer

ORACLE = (
    "ORACLE: beside each image the model was given a point from the true answer; images with nothing to point at are "
    "left out. These figures say how good the answers are where one points well, and not how good the model is alone."
)


def run_answers(run: Run, records: Sequence[Record], folds: Sequence[FoldResult], part: str = "test") -> Answered:
    """The answers that a run keeps to one part, all folds together; groups are those that its split kept whole."""
    known = {record.id: record for record in split_records(run, records)}
    rows = [(fold.number, *pair) for fold in folds for pair in fold_answers(run, fold, part)]
    return Answered(
        records=[known[name] for _, name, _ in rows],
        answers=[answer for _, _, answer in rows],
        labels=run.labels,
        task=run.recipe.task,
        folds=[number for number, _, _ in rows],
    )


def split_records(run: Run, records: Sequence[Record]) -> list[Record]:
    """Those of the data set's records that a run splits, in its order, with the groups that its split keeps whole."""
    known = {record.id: record for record in records}
    return [replace(known[row["image"]], group=row["group"]) for row in read_csv(run.path / SPLITS)]


def fold_answers(run: Run, fold: FoldResult, part: str) -> list[tuple[str, Answer]]:
    """Each image of a fold's part with the answer to it.

    Raises:
        RunError: the file is damaged, or not there.
    """
    kind, file = TASKS[run.recipe.task].answer, run.answers(fold.number, part)
    try:
        if file.is_file():
            return [(line["input"], kind.answer_of(line)) for line in read_lines(file)]
        rows = [row for row in read_csv(run.folder(fold.number) / PREDICTIONS) if row["part"] == part]
        threshold = fold.facts["manifest"]["threshold"]
        return [(row["image"], kind.answer_of_row(row, run.labels, threshold)) for row in rows]
    except (OSError, ValueError, KeyError, DataError) as error:
        raise RunError(
            f"{run.folder(fold.number)} is damaged ({error}); remove it, then: leanmed train ... --resume"
        ) from error


def _thresholds(folds: Sequence[FoldResult]) -> dict[int, float]:
    found = {fold.number: fold.facts["manifest"]["threshold"] for fold in folds}
    return {number: threshold for number, threshold in found.items() if threshold is not None}


def records_of(run: Run, data: Path | None) -> list[Record]:
    """The records of the data set a run was trained on; see `read_again`."""
    return read_again(run, data)[0]


def read_again(run: Run, data: Path | None) -> tuple[list[Record], dict[str, str]]:
    """The records of the data set a run was trained on, and the SHA-256 of each image's file by its id.

    Raises:
        RunError: they have changed since.
    """
    root = data or Path(run.facts["data"])
    records = read_records_for(run.recipe.data, root)
    contents = content_hashes(records)
    if data_hash(records, contents) != run.facts["data_sha256"]:
        raise RunError(
            f"expected at {root} the images and labels that {run.path} was trained on, got others; give the "
            "same ones with --data, or evaluate the exported artifact on the new ones"
        )
    return records, dict(zip((record.id for record in records), contents, strict=True))


def evaluate_run(
    run: Run,
    *,
    data: Path | None = None,
    oracle: Callable[[Run, Sequence[Record]], Answered] | None = None,
    command: str = "",
    prevalence: float | None = None,
) -> Report:
    """The report of a finished run.

    Args:
        run: finished.
        data: the folder that it was trained on; None: where it was.
        oracle: answers anew, with what a person who knows the truth would say beside the image, as
            `leanmed.training.oracle.oracle_answers` does; the report says so. None: what the run has answered is
            judged.
        command: what the user typed, for the record.
        prevalence: as of `leanmed.evaluation.artifacts.evaluate_artifact`.

    Raises:
        RunError: a fold is unfinished, or the data have changed, or the run's task takes nothing but the image.
        DataError: a prevalence for answers that are not yes or no.
    """
    check_prevalence(run.recipe.task, run.labels, prevalence)
    folds, records = run.folds(), records_of(run, data)
    answered = oracle(run, records) if oracle else run_answers(run, records, folds)
    temperatures = {fold.number: fold.facts["manifest"]["temperature"] for fold in folds}
    provenance = Provenance(
        data_hash=run.facts["data_sha256"],
        seeds=[run.recipe.split.seed, run.recipe.training.seed],
        versions={"leanmed": run.facts["leanmed"], **run.facts["packages"]},
        recipe=run.recipe.model_dump(mode="json"),
        command=command,
    )
    report = report_of(
        answered,
        run.recipe.evaluation,
        title=f"{run.recipe.name}: {run.recipe.model.backbone}",
        protocol=protocol_of(run),
        main_score=folds[0].facts["manifest"]["main_score"],
        provenance=provenance,
        thresholds=_thresholds(folds),
        prevalence=prevalence,
    )
    rows = fold_rows(report.table, answered.judge.point, _thresholds(folds), temperatures)
    histories = [history_of(f.number, f.history, run.recipe, f.facts["best_epoch"]) for f in folds]
    caution = ORACLE if oracle else None
    return replace(
        report, leak=run.facts["leak"], caution=caution, folds=rows, notes=notes_of(run), histories=histories
    )


def protocol_of(run: Run) -> str:
    """How a run's split tests its images, in words; nobody may read that patients were kept whole if none are known."""
    whole = "groups" if run.facts.get("patients_known", True) else "copies of an image (patients are not known)"
    values = {"folds": run.facts["folds"], "adapt": run.recipe.split.adapt, "whole": whole}
    return PROTOCOLS[run.facts["protocol"]].format(**values)


def notes_of(run: Run) -> list[str]:
    """What a reader of a run's figures should know: how images were grouped, and how answers were calibrated."""
    return [*run.facts["grouping"], *filter(None, [run.calibration.get("sentence")])]


def fold_figures(run: Run, records: Sequence[Record], fold: int) -> dict[str, Figure]:
    """The figures of one fold's model on its own test part."""
    answered = run_answers(run, records, [run.fold(fold)])
    return answered.judge.score(answered.table(), resamples=run.recipe.evaluation.resamples)


def history_of(fold: int, rows: Sequence[Mapping[str, str]], recipe: Recipe, chosen: int | None) -> History:
    """The training of a fold as a plot takes it.

    Args:
        fold: its number.
        rows: of its `history.csv`.
        recipe: of the run.
        chosen: the epoch kept, from 0; None: there is none yet.
    """
    name = recipe.training.select_by

    def column(key: str) -> tuple[float, ...]:
        return tuple(float(row[key]) for row in rows)

    return History(
        fold=fold,
        train_loss=column("train_loss"),
        validation_loss=column("val_loss"),
        validation_score=column(f"val_{name}"),
        score_name=name,
        chosen=chosen,
    )
