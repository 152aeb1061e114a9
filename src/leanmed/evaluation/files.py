"""The report of a file of answers, whoever gave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leanmed import __version__
from leanmed.audit.grouping import group_for_artifact
from leanmed.console import Progress, silent
from leanmed.data import read_records_for
from leanmed.errors import DataError, RecipeError
from leanmed.evaluation.answered import PROTOCOLS, Answered, check_prevalence, missing_notes, report_of
from leanmed.evaluation.leaks import leave_out_leaks
from leanmed.recipe.recipe import Recipe, Split, overridden
from leanmed.records import Record
from leanmed.report.report import Provenance, Report
from leanmed.runtime.lines import kind_of, read_lines
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, Kind
from leanmed.tasks.recipes import check_recipe

USED = ("data.values=", "data.origin=", "evaluation.")  # the settings that a file of answers is judged by


def evaluate_answers(
    file: Path,
    data: Path,
    *,
    dataset: str = "folder",
    labels: tuple[str, ...] | None = None,
    settings: Sequence[str] = (),
    groups: str = "audit",
    split_audit: Path | None = None,
    cache: Path | None = None,
    others: Sequence[Path] = (),
    command: str = "",
    prevalence: float | None = None,
    progress: Progress = silent,
) -> Report:
    """The report of a file of answers, whoever gave them: JSON lines as `predict` writes them.

    Nobody can tell from it what the model behind it was trained on; the report says so.

    Args:
        file: the answers.
        data: the folder of the data set that they answer.
        dataset: its reader's name.
        labels: in order, of two the positive one last; None: as the answers name them.
        settings: `--set` values of the sections `data` and `evaluation` of a recipe, such as what the values in masks
            mean.
        groups: what is kept whole by the bootstrap: `audit`, the data set's groups joined with those of an audit for
            copies; or `reader`, the data set's alone.
        split_audit: the folder that `leanmed audit --split` wrote; the images that it found to leak are left out.
        cache: a folder for the audit's groups; None: they are not kept.
        others: folders of other data sets that the file answers too; what is named as an image in one of them is no
            answer to an image of the same name here.
        command: what the user typed, for the record.
        prevalence, progress: as of `leanmed.evaluation.artifacts.evaluate_artifact`.

    Raises:
        DataError: no answers, of several kinds or models, or none to an image of the data set; an image that the audit
            of the split has not seen; or a prevalence for answers that are not yes or no.
    """
    lines = list(read_lines(file))
    task = _one_task(file, lines)
    kind = TASKS[task]
    read = [(line["input"], _answer_of(file, kind, line)) for line in lines if "error" not in line]
    known_labels = labels or kind.answer.labels_of([answer for _, answer in read])
    check_prevalence(task, known_labels, prevalence)
    recipe = _recipe_of(file, task, dataset, settings)
    records = read_records_for(recipe.data, data, dataset)
    kind.judge.check(dataset, records, known_labels)
    known = group_for_artifact(records, Split(groups=groups, conflicts="keep"), cache, progress=progress)
    own = [(name, answer) for name, answer in read if not _lies_in_another(Path(name), data, others)]
    found, strangers = _matched(known.grouping.records, own, data)
    if not found:
        raise DataError(
            f"{file}: expected answers to images below {data}, got none; the first is to {read[0][0]!r}; give the "
            "folder that holds these images"
        )
    answered = Answered([r for r, _ in found], [a for _, a in found], known_labels, task)
    kept = leave_out_leaks(answered, known.contents, split_audit, recipe.evaluation) if split_audit else None
    answered = kept.answered if kept else answered
    thresholds = {line["threshold"] for line in lines if line.get("threshold") is not None}
    report = report_of(
        answered,
        recipe.evaluation,
        title=f"answers of {file.name}",
        protocol=PROTOCOLS["answers"],
        main_score=kind.judge.MAIN_SCORE,
        provenance=Provenance(known.sha256, [], {"leanmed": __version__}, {}, command),
        thresholds=dict(enumerate(sorted(thresholds))),
        prevalence=prevalence,
    )
    failed = [(line["input"], line["error"]) for line in lines if "error" in line]
    missing = len(known.grouping.records) - len(found)
    notes = [
        *([kept.note(report.main_score, report.figures)] if kept else []),
        *records.notes,
        *known.grouping.notes(),
        *[f"{missing} of {len(known.grouping.records)} images have no answer and are not judged."] * bool(missing),
        *[f"{strangers} answers are to inputs that are not in the data set; left out."] * bool(strangers),
        *missing_notes(failed),
    ]
    contents = frozenset(known.contents[record.id] for record in answered.records)
    return replace(report, notes=notes, beside=kept.tables() if kept else {}, contents=contents)


def _recipe_of(file: Path, task: str, dataset: str, settings: Sequence[str]) -> Recipe:
    """How the data are read and judged; what it says of training is not used.

    Raises:
        RecipeError: a setting that has no part in this, or is wrong.
    """
    if other := [text for text in settings if not text.startswith(USED)]:
        raise RecipeError(
            f"expected --set of a file of answers to begin with one of {', '.join(USED)}, got {other[0]!r}; leave it "
            "out"
        )
    begun = {"name": "answers", "task": task, "data": {"dataset": dataset}}
    unused = {"training": {"select_by": TASKS[task].settings.SCORES[0]}}
    return check_recipe(overridden(begun | unused, settings), " --set ".join([str(file), *settings]))


def _answer_of(file: Path, kind: Kind, line: Mapping[str, Any]) -> Answer:
    try:
        return kind.answer.answer_of(line)
    except DataError as error:
        raise DataError(f"{file}, the answer to {line['input']}: {error}") from error


def _one_task(file: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    tasks = {kind_of(line) for line in lines if "error" not in line}
    if len(tasks) != 1 or None in tasks:
        raise DataError(
            f"{file}: expected answers of one kind, as `leanmed predict` writes them to JSON lines, got "
            f"{', '.join(sorted(map(str, tasks))) or 'none'}; give a file of one model's answers"
        )
    (task,) = tasks
    return str(task)


def _lies_in_another(path: Path, data: Path, others: Sequence[Path]) -> bool:
    """Whether a path leads into one of several folders, and not into the one that is judged."""
    place = path.resolve()
    return not place.is_relative_to(data.resolve()) and any(place.is_relative_to(o.resolve()) for o in others)


def _matched(
    records: Sequence[Record], answers: Sequence[tuple[str, Answer]], data: Path
) -> tuple[list[tuple[Record, Answer]], int]:
    """Records with the answers to them, and how many answers are to something else.

    An input is a record's id, or the path of its file, whatever stands before the id in it.
    """
    by_id = {record.id: record for record in records}
    by_path = {record.image.resolve(): record for record in records if record.frame is None}
    found: dict[str, tuple[Record, Answer]] = {}
    strangers = 0
    for name, answer in answers:
        parts = Path(name).parts if "/" in name else tuple(name.split("\\"))  # Windows writes the latter
        tails = ("/".join(parts[i:]) for i in range(len(parts)))
        record = by_id.get(name) or by_path.get(Path(name).resolve())
        record = record or next((by_id[tail] for tail in tails if tail in by_id), None)
        if record is None:
            strangers += 1
        elif record.id in found:
            raise DataError(f"expected one answer for each image, got two to {record.id}; remove one")
        else:
            found[record.id] = (record, answer)
    return list(found.values()), strangers
