"""The steps of the command line as functions: `audit_folder`, `train`, `evaluate`, `export`, `predict`.

Each does what the command of its name does and returns what it made, so that a notebook goes on from there:

```python
import leanmed

run = leanmed.train("my-images", "run", preset="fast")
report = leanmed.evaluate(run, "my-images", "report")
leanmed.export(run, "artifact", fold=0)
answers = leanmed.predict("artifact", ["new/1.jpg", "new/2.jpg"])
answers.to_frame()
```

All but `predict` need extras: `audit_folder` and `evaluate` need `leanmed[report]`, `train` and `export` need
`leanmed[train]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanmed.errors import DataError
from leanmed.extras import REPORTING, TRAINING, needs
from leanmed.runtime.answers import Answers as Answers
from leanmed.runtime.answers import predict as predict
from leanmed.runtime.predictor import Predictor

if TYPE_CHECKING:
    from leanmed.console import Progress
    from leanmed.evaluation.answered import Answered
    from leanmed.records import Record
    from leanmed.report.report import Report
    from leanmed.runs import Run
    from leanmed.runtime.artifact import Artifact
    from leanmed.training.machines import Machines

Place = str | Path
Tell = Callable[[str], None]


def audit_folder(
    data: Place,
    out: Place,
    *,
    dataset: str = "folder",
    strict: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> bool:
    """Find copies of images, and labels that contradict each other, as `leanmed audit` does.

    Args:
        data: the data set's folder.
        out: takes report.html, report.json, groups.csv and pairs.csv; new or empty, unless `overwrite`.
        dataset: how the folder is laid out; see docs/data.md.
        strict: refuse images without a row in the table, and rows without an image.
        overwrite: replace an older audit in `out`.
        workers: processes. More than one need a script whose work stands below `if __name__ == "__main__":`.

    Returns:
        Whether no copies carry different labels, or masks that contradict each other.

    Raises:
        DataError: the data set is unsound.
        MissingExtraError: the extra `report` is not installed.
    """
    needs("audit_folder", "report", "cv2", "faiss", "jinja2")
    from leanmed.audit import command

    lines, sound = command.audit_folder(
        Path(data), dataset, Path(out), workers=workers, strict=strict, overwrite=overwrite
    )
    for line in lines:
        print(line)
    return sound


def train(
    data: Place,
    out: Place,
    recipe: str = "folder",
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    teacher: Place | None = None,
    resume: bool = False,
    overwrite: bool = False,
    machines: Machines | None = None,
    tell: Tell = print,
) -> Run:
    """Train every fold of a recipe into one run folder, as `leanmed train` does.

    Args:
        data: the data set's folder.
        out: the run folder; new or empty, unless `resume` or `overwrite`.
        recipe: a shipped recipe's name or the path of a YAML file.
        preset: of the recipe, such as "fast" or "best"; None: none.
        settings: values of the recipe to change, {"model.side": 128}, or as the command line takes them,
            ["model.side=128"]; they win over the preset.
        teacher: a finished run from whose models this one learns too; None: nobody, or that of the run to go on with.
        resume: go on with a run that was stopped.
        overwrite: replace an older run.
        machines: where to train; None: one device of this machine.
        tell: takes one line of progress at a time.

    Raises:
        LeanmedError: the recipe, the data, the teacher or the run folder are not as they must be.
        MissingExtraError: the extra `train` is not installed.
    """
    needs("train", "train", *TRAINING)
    from leanmed.recipe.recipe import preset_settings
    from leanmed.tasks.recipes import load_recipe
    from leanmed.training import train as training

    asked = [*(preset_settings(recipe, preset) if preset else ()), *_overrides(settings)]
    chosen, run = load_recipe(recipe, asked), Path(out)
    if resume:
        chosen = training.resumed_recipe(run, chosen, asked)
    taught = _teacher(None if teacher is None else Path(teacher), run if resume else None)
    return training.train(
        chosen,
        Path(data),
        run,
        resume=resume,
        overwrite=overwrite,
        machines=machines,
        teacher=taught,
        tell=tell,
    )


def evaluate(
    subject: Place | Run | Predictor,
    data: Place,
    out: Place | None = None,
    *,
    dataset: str | None = None,
    labels: Sequence[str] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    also: Mapping[str, Place] | Sequence[str] = (),
    prevalence: float | None = None,
    scans: bool = False,
    oracle: bool = False,
    split_audit: Place | None = None,
    overwrite: bool = False,
) -> Report:
    """Say how good a run, an artifact or a file of answers is, as `leanmed evaluate` does.

    Args:
        subject: a run or its folder; an artifact's folder, or what `load` opened; or a file of answers in JSON lines.
        data: the data set's folder: of a run, the one that it was trained on.
        out: takes report.html, report.json and answers.csv; None: nothing is written.
        dataset: how the folder is laid out; None: as the artifact's recipe says, of a file of answers `folder`.
        labels: of a file of answers: the labels in order; of two, the positive one is the last. None: as it names them.
        settings: of a file of answers, how the data are read or judged: {"data.values": {"gland": [1, 2]}}.
        also: further data sets, whose figures stand beside those of `data`: {"north": "north-hospital"}.
        prevalence: of two labels, give the predictive values at this share of positive images too.
        scans: judge an artifact on LUNA16's whole scans; needs `out`.
        oracle: of a run that takes points: answer anew, each image with a point from its true mask.
        split_audit: the folder that `leanmed audit --split` wrote; the images that it found to leak are left out.
        overwrite: replace an older report in `out`.

    Returns:
        The report: its `figures` by name, each with its 95 % interval, and `to_frame()`.

    Raises:
        LeanmedError: what is asked for does not fit, the run is unfinished, the artifact damaged, or the data are not
            what they must be.
        MissingExtraError: the extra `report` is not installed.
    """
    needs("evaluate", "report", *REPORTING)
    from leanmed.evaluation.command import Asked
    from leanmed.evaluation.command import evaluate as judge

    asked = Asked(
        dataset=dataset,
        labels=tuple(labels) if labels else None,
        settings=_overrides(settings),
        also=[f"{name}={folder}" for name, folder in also.items()] if isinstance(also, Mapping) else also,
        prevalence=prevalence,
        scans=scans,
        oracle=oracle_answers if oracle else None,
        split_audit=None if split_audit is None else Path(split_audit),
    )
    report, _ = judge(
        Path(subject) if isinstance(subject, str) else subject,
        Path(data),
        None if out is None else Path(out),
        asked,
        overwrite=overwrite,
        command=f"leanmed.evaluate(..., {str(data)!r})",
    )
    return report


def oracle_answers(run: Run, records: Sequence[Record]) -> Answered:
    """What a run's models answer to points from the true masks; see `leanmed.training.oracle`. It needs torch."""
    needs("evaluate --oracle", "train", *TRAINING)
    from leanmed.training.oracle import oracle_answers

    return oracle_answers(run, records)


def export(
    run: Place | Run,
    out: Place,
    *,
    fold: int | None = None,
    ensemble: bool = False,
    threshold: float | str | None = None,
    data: Place | None = None,
    teacher: Place | None = None,
    overwrite: bool = False,
    tell: Tell = print,
    progress: Progress | None = None,
) -> Artifact:
    """Write an artifact, as `leanmed export` does: of a model of all images, of one fold, or of all folds.

    Args:
        run: a finished run, or its folder.
        out: the artifact's folder; new or empty, unless `overwrite`.
        fold: take the model of one fold as it is; None: train one more on all images, as `leanmed export` does.
        ensemble: take the models of all folds, whose mean is the answer.
        threshold: a number from 0 to 1 or a rule (f1, youden, sensitivity:0.95); None: the recipe's rule.
        data: the data set's folder, if it has moved since training.
        teacher: its teacher's run, if that has moved since training.
        overwrite: replace an older artifact in `out`.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total while graph and model are compared; None: nobody watches.

    Raises:
        LeanmedError: the run is unfinished, `out` holds something, or graph and model disagree.
        MissingExtraError: the extra `train` is not installed.
    """
    needs("export", "train", *TRAINING)
    from leanmed.recipe.recipe import threshold_of
    from leanmed.runs import Run
    from leanmed.runtime.artifact import ARTIFACT
    from leanmed.tasks.recipes import open_run

    if ensemble and fold is not None:
        raise DataError("expected --fold or --ensemble, got both; leave one out")
    wanted = threshold if threshold is None else threshold_of(str(threshold))
    ARTIFACT.check(Path(out), overwrite=overwrite)
    opened, moved = run if isinstance(run, Run) else open_run(Path(run)), None if data is None else Path(data)
    if fold is not None:
        opened.fold(fold)  # refused before torch is imported, which takes long
    from leanmed.compress.distil import teacher_of
    from leanmed.console import silent
    from leanmed.exporting import export as exporting

    untrained = fold is None and not ensemble and not opened.done(None)
    named = None if teacher is None else Path(teacher)
    taught = teacher_of(opened, moved, named) if untrained else None  # it may be gone when nothing is to be trained
    made: dict[str, Any] = {"fold": fold, "ensemble": ensemble, "threshold": wanted, "data": moved}
    made |= {"teacher": taught, "overwrite": overwrite, "tell": tell, "progress": progress or silent}
    return exporting.export(opened, Path(out), **made)


def _overrides(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as the command line takes them."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]


def _teacher(named: Path | None, resumed: Path | None) -> Any:
    """The teacher that is named, or that of the run to go on with; None: there is none."""
    from leanmed.compress.distil import open_teacher, teacher_of
    from leanmed.runs import RUN
    from leanmed.tasks.recipes import open_run

    if named is not None:  # also of a run to go on with, whose teacher may have moved
        return open_teacher(named)
    return teacher_of(open_run(resumed)) if resumed is not None and (resumed / RUN).is_file() else None
