"""`train()`: from a recipe and a data folder to a run folder (see `leanmed.runs`), fold by fold.

A run that was killed at any point goes on with `resume` and ends as an unbroken one does, because what a step
draws is a function of seed, fold, epoch, process and step.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from leanmed import __version__
from leanmed.audit.grouping import AUDIT, Grouping, group_records
from leanmed.cores import available_cores
from leanmed.data import content_hashes, data_hash, read_records_for
from leanmed.data.splits import LEAK, Fold, make_folds, site_notes
from leanmed.errors import RunError
from leanmed.evaluation.runs import split_records
from leanmed.files import check_free, is_leftover, whole_folder, write_json, write_text
from leanmed.models.preprocessing import as_weights_say
from leanmed.outputs import check_one
from leanmed.reading.greys import range_remarks
from leanmed.recipe.recipe import Distillation, Recipe, dump_recipe
from leanmed.records import Record
from leanmed.runs import (
    CALIBRATION,
    HISTORY,
    RECIPE,
    REFIT,
    RUN,
    RUN_FOLDER,
    SPLITS,
    Run,
    read_csv,
    write_csv,
)
from leanmed.tasks import TASKS
from leanmed.tasks.building import build_task, task_remarks
from leanmed.tasks.recipes import open_run
from leanmed.training.batches import Cache, check_readable
from leanmed.training.calibrate import calibrate
from leanmed.training.fit import Teaching, teacher_hash, train_fold
from leanmed.training.machines import Machines
from leanmed.training.ranks import first_alone, is_first

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scikit-learn")


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    machines: Machines | None = None,
    teacher: Teaching | None = None,
    only: int | None = None,
    tell: Callable[[str], None] = print,
) -> Run:
    """Train every fold of a recipe that is not finished yet.

    Args:
        recipe: what to train.
        data: the data set's folder.
        out: the run folder; new or empty, unless `resume` or `overwrite`.
        resume: go on with a run that was stopped.
        overwrite: replace an older run, as soon as the new one is sure to start.
        machines: where to train; None: one device of this machine.
        teacher: from whom each fold learns too, see `leanmed.compress.distil`; None: nobody.
        only: a fold of the recipe's split that is trained alone, and is the run's fold 0; None: all are trained.
        tell: takes one line of progress at a time.

    Raises:
        OutputError: `out` holds something else, or a run while neither `resume` nor `overwrite` is given.
        DataError: the data set is unsound, or an image cannot be read.
        RunError: `out` is to be resumed, and its recipe, data or split have changed, or a training has diverged.
    """
    machines = machines or Machines()
    tell = tell if is_first() else (lambda line: None)
    with first_alone() as first:  # who comes first audits and writes the split; the others read it
        if first:
            _start(recipe, data, out, resume, overwrite, teacher, only, tell)
    run = open_run(out)
    records, folds = _split_of(run, data)
    inputs = Cache(recipe.data.cache_bytes)
    for fold in folds:
        if not run.done(fold.number):
            train_fold(run, fold, records, inputs, machines, tell, teacher)
    with first_alone("calibration") as first:
        if first:
            tell(calibrate(run, records))
    tell(f"done; now: leanmed evaluate {out} --data {data} --out REPORT")
    return run


def _start(
    recipe: Recipe,
    data: Path,
    out: Path,
    resume: bool,
    overwrite: bool,
    teacher: Teaching | None,
    only: int | None,
    tell: Callable[[str], None],
) -> None:
    """Everything before the first fold: check what can be checked, audit, split, and open the run folder."""
    _check_room(out, resume, overwrite, teacher)
    recipe, prepared = _prepared(recipe)
    if teacher is None and recipe.distillation != Distillation():
        raise RunError("expected a teacher beside the recipe's `distillation`, got none; name one with --teacher RUN")
    found = read_records_for(recipe.data, data, strict=recipe.data.strict)
    for note in found.notes:
        tell(note)
    labels_of = TASKS[recipe.task].training.labels_of
    labels_of(recipe.data.dataset, found, recipe.data.labels)  # refused before the audit, which may take long
    data_sha256 = data_hash(found, content_hashes(found))
    grouping = group_records(found, recipe.split, out.parent / AUDIT, data_sha256=data_sha256, tell=tell)
    records = grouping.records
    labels = labels_of(recipe.data.dataset, records, recipe.data.labels)
    folds = _chosen(make_folds(records, recipe.split), only)
    torn = site_notes(records, recipe.split)
    facts = _facts(recipe, data, grouping, labels, len(folds), data_sha256, [*found.notes, *torn])
    if teacher:
        teacher.check(recipe, labels, _split_rows(records, folds))
        facts["teacher"] = teacher.facts
    if overwrite or not _begun(out):
        # A backbone, weights or files that are not there are told of before a folder is made.
        check_readable(records, build_task(recipe, labels).encode)
    _open(out, recipe, facts, records, folds, overwrite)
    tell(f"{len(folds)} fold(s) -> {out}; {_labels_line(labels, records)}")
    tell(f"to look on while it trains: leanmed watch {shlex.quote(str(out))}")
    tell(f"or, for every step of the loss: tensorboard --logdir {shlex.quote(str(out))}")
    for line in (*prepared, *torn, *task_remarks(recipe), *range_remarks(record.image for record in records)):
        tell(line)
    if facts["leak"]:
        tell(facts["leak"])


def _chosen(folds: list[Fold], only: int | None) -> list[Fold]:
    if only is None:
        return folds
    if not 0 <= only < len(folds):
        raise RunError(f"expected a fold from 0 to {len(folds) - 1}, got {only}; name one of these")
    return [replace(folds[only], number=0)]


def _prepared(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """A recipe that prepares images as its weights expect them, and what the file of the weights says of it."""
    model, said = as_weights_say(recipe.model)
    return recipe.model_copy(update={"model": model}), said


def _split_of(run: Run, data: Path) -> tuple[list[Record], list[Fold]]:
    """The records of a run with the groups it keeps whole, and its folds, as `splits.csv` has them."""
    records, rows = split_records(run, read_records_for(run.recipe.data, data)), read_csv(run.path / SPLITS)
    return records, [Fold.of_parts(k, [row[f"fold_{k}"] for row in rows]) for k in range(run.facts["folds"])]


def _labels_line(labels: tuple[str, ...], records: Sequence[Record]) -> str:
    """The labels; of images that have one each, with how many have it."""
    if not all(isinstance(record.target, str) for record in records):
        return f"{'objects' if len(labels) == 1 else 'labels'}: {', '.join(labels)}"
    counts = Counter(record.target for record in records)
    signs = (", negative", ", positive") if len(labels) == 2 else ("",) * len(labels)
    named = (f"{label} ({counts[label]} images{sign})" for label, sign in zip(labels, signs, strict=True))
    return f"labels: {', '.join(named)}"


def _facts(
    recipe: Recipe,
    data: Path,
    grouping: Grouping,
    labels: tuple[str, ...],
    folds: int,
    data_sha256: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "leak": LEAK if recipe.split.protocol == "paper" else None,
        "protocol": recipe.split.protocol,
        "labels": labels,
        "folds": folds,
        "images": len(grouping.records),
        "grouping": [*notes, *grouping.notes()],
        "patients_known": grouping.patients_known,
        "data": str(data.resolve()),
        "data_sha256": data_sha256,
        "leanmed": __version__,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {available_cores()} cores, {platform.system()}",
        "python": platform.python_version(),
    }


def _begun(out: Path) -> bool:
    """Whether a run has an epoch behind it, which a new start would lose."""
    return any(out.glob(f"fold-*/{HISTORY}"))


def _check_room(out: Path, resume: bool, overwrite: bool, teacher: Teaching | None) -> None:
    """Refuse a folder that cannot become the run's, before any work is done. One without an epoch can."""
    check_one(resume=resume, overwrite=overwrite)
    if overwrite and teacher and Path(teacher.facts["run"]) == out.resolve():
        raise RunError(f"expected --out to be another folder than the teacher {out}; it is still needed")
    if (out / RUN).is_file() and _begun(out):
        if not resume:
            RUN_FOLDER.check(out, overwrite=overwrite)
    elif not (out / RUN).is_file():
        check_free(out, passed_over=_is_harmless)


def _open(
    out: Path,
    recipe: Recipe,
    facts: dict[str, Any],
    records: Sequence[Record],
    folds: Sequence[Fold],
    overwrite: bool,
) -> None:
    """Start a new run folder, or check that the old one is of the same recipe, data and split."""
    rows = _split_rows(records, folds)
    if (out / RUN).is_file() and _begun(out) and overwrite:
        with whole_folder(out, replace=True) as folder:
            _write_start(folder, recipe, facts, rows)
        return
    if (out / RUN).is_file() and _begun(out):
        before = open_run(out)
        _check_same(before, recipe, facts, rows)
        _check_calibrated_alike(before)
        return
    shutil.rmtree(out / REFIT, ignore_errors=True)
    for stale in (out / RUN, out / CALIBRATION):
        stale.unlink(missing_ok=True)  # the first is what makes a folder a run's, and is written last
    _write_start(out, recipe, facts, rows)


def _write_start(out: Path, recipe: Recipe, facts: dict[str, Any], rows: list[dict[str, str]]) -> None:
    write_csv(out / SPLITS, rows)
    write_text(out / RECIPE, dump_recipe(recipe))
    write_json(out / RUN, facts)


def _split_rows(records: Sequence[Record], folds: Sequence[Fold]) -> list[dict[str, str]]:
    parts = {f.number: {i: name for name, where in f.parts().items() for i in where.tolist()} for f in folds}
    return [
        {"image": r.id, "label": r.truth, "group": r.group} | {f"fold_{k}": parts[k].get(i, "") for k in parts}
        for i, r in enumerate(records)
    ]


def _check_same(before: Run, recipe: Recipe, facts: dict[str, Any], rows: list[dict[str, str]]) -> None:
    """A fold of another split could train on what another fold was tested on."""
    differ = differences(before.recipe, recipe)
    same = {
        f"recipe ({', '.join(differ)})": not differ,
        "data set": before.facts["data_sha256"] == facts["data_sha256"],
        "number of processes": before.facts.get("processes", 1) == facts["processes"],
        "teacher": teacher_hash(before.facts.get("teacher")) == teacher_hash(facts.get("teacher")),
        "split": read_csv(before.path / SPLITS) == rows,
    }
    for what, is_same in same.items():
        if not is_same:
            raise RunError(
                f"{before.path} was started with another {what}; resume with the same one, or choose another --out"
            )


def _check_calibrated_alike(run: Run) -> None:
    """Folds are calibrated by what all of them say, or each by itself; in one run there cannot be both."""
    alone = run.calibrated_alone()
    if alone and len(alone) < run.facts["folds"]:
        names = ", ".join(f"fold-{k}" for k in alone)
        raise RunError(
            f"expected folds calibrated alike, got {names} of {run.path} from an earlier version, which did not keep "
            "what the others need from them; remove these folders to train them again, or finish with that version"
        )


def resumed_recipe(out: Path, asked: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe of the run to go on with, which need not be told again; what is told must be the same.

    Args:
        out: the run folder; if it holds no run yet, `asked` is the recipe.
        asked: as the command line gives it now.
        settings: the `--set` values given now, KEY=VALUE.

    Raises:
        RunError: another recipe's name, or a value unlike the run's; the message names the key.
    """
    if not (out / RUN).is_file():
        return asked
    before = open_run(out).recipe
    asked, _ = _prepared(asked)
    keys = {"name", *(setting.partition("=")[0] for setting in settings)}
    old, new = _flat(before.model_dump(mode="json")), _flat(asked.model_dump(mode="json"))
    differ = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(keys) if old.get(key) != new.get(key)]
    if differ:
        raise RunError(
            f"{out} was started with other settings than those given now ({', '.join(differ)}); leave them out to go "
            "on with the run's own, or choose another --out"
        )
    return before


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Where two recipes differ: `section.key: before -> now`."""
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _is_harmless(path: Path) -> bool:
    """Whether a file is one of those that a run killed in its first second leaves behind."""
    return path.name in (SPLITS, RECIPE) or is_leftover(path) or path.match("fold-*")
