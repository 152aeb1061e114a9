"""What `leanmed compress` does: search, choose on validation images, open the test part once, and write it all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmed.audit.grouping import AUDIT
from leanmed.benchmark.benchmark import deadline, machine
from leanmed.benchmark.compare import Compared, compare_artifacts
from leanmed.benchmark.profile import peak_bytes
from leanmed.console import Progress, shown, silent
from leanmed.errors import DataError, OutputError, QualityError
from leanmed.evaluation.runs import read_again
from leanmed.files import defined, write_json, write_text
from leanmed.outputs import Output, check_one
from leanmed.report.pages import NOTICE
from leanmed.runs import Run
from leanmed.runtime.artifact import read_artifact, write_artifact
from leanmed.search.budget import Budget, amount
from leanmed.search.candidates import FLOAT, Candidate, own_name, space, students_of
from leanmed.search.report import page, title_of
from leanmed.search.search import Searched, chosen, front, missed, search, untried
from leanmed.search.workshop import ARTIFACT, SEARCH, Elsewhere, Measured, Tell, Workshop
from leanmed.tasks.building import build_task

FRONT = "front"
COMPRESSION = Output(
    "a search under a budget",
    ("notice", "budget", "candidates"),
    "report.json",
    ("report.html", "report.json", ARTIFACT, FRONT),
    resumed=True,
)


class BudgetError(QualityError):
    """No candidate keeps within the budget; the report tells what was found."""


@dataclass(frozen=True)
class Settings:
    """How to search.

    Args:
        minutes: the time limit.
        students: `NAME:KEY=VALUE`; empty: those that the kind of task names; None: no students.
        fold: of the run.
        calibration, epochs, attempts: see `Workshop`.
        elsewhere: estimates the latency on another device; None: answers are timed here.
        timed_on: what tells whose times they are; empty: this machine's.
    """

    minutes: float = 60.0
    students: Sequence[str] | None = ()
    fold: int = 0
    calibration: int | None = None
    epochs: int = 0
    attempts: int | None = 2
    elsewhere: Elsewhere | None = None
    timed_on: str = ""


@dataclass(frozen=True)
class Found:
    """All that a search has to tell.

    Args:
        budget: what was asked for.
        searched: what was tried.
        front: the names on the Pareto front.
        given: the candidate that was chosen; None: none keeps within the budget.
        tested: the run's float model and the chosen one on images new to both; None: there are none, or none was
            chosen.
        answer: one paragraph.
        main_score: the figure that was raised.
        task, title, leak, timed_on, command: for the report.
    """

    budget: Budget
    searched: Searched
    front: Sequence[str]
    given: Measured | None
    tested: Compared | None
    answer: str
    main_score: str
    task: str
    title: str
    leak: str | None
    timed_on: str
    command: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "notice": NOTICE,
            "leak": self.leak,
            "command": self.command,
            "machine": machine(),
            "budget": dict(self.budget.limits),
            "answer": self.answer,
            "main_score": self.main_score,
            "timed_on": self.timed_on,
            "given": self.given.name if self.given else None,
            "front": list(self.front),
            "candidates": [defined(one) for one in self.searched.measured],
            "untried": list(self.searched.untried),
            "unfinished": self.searched.unfinished,
            "tested": self.tested.as_json() if self.tested else None,
        }


def compress_run(
    run: Run,
    data: Path,
    out: Path,
    budget: Budget,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    tell: Tell = print,
    progress: Progress = silent,
) -> Found:
    """Search for the best artifact of a run that a device's budget allows.

    Args:
        run: finished.
        data: the data set that it was trained on.
        out: takes `artifact`, the Pareto front's artifacts in `front`, `report.html` and `report.json`; what a later
            search goes on from lies in its name with `-work` at the end.
        budget: the most that the artifact may cost.
        settings: how to search.
        resume: go on with what an earlier search left in `out`.
        overwrite: begin anew.
        command: what the user typed, for the record.
        tell: takes one line at a time.
        progress: takes stage, done and total.

    Raises:
        OutputError: `out` holds something, or an earlier search while neither `resume` nor `overwrite` is given.
        RunError: the run is unfinished, or what is to be resumed is of another one.
        RecipeError: a student's settings are none.
        DataError: memory is limited, and this system does not tell it.
        BudgetError: no candidate keeps within the budget; report and front were written.
    """
    check_one(resume=resume, overwrite=overwrite)
    place = out.with_name(f"{out.name}-work")
    _check_room(out, place, resume, overwrite)
    run.fold(settings.fold)
    if "memory" in budget.limits and peak_bytes() is None:
        raise DataError("expected no limit of memory, which this system does not tell, got one; leave memory out")
    own, students = own_name(run.recipe), {}
    if settings.students is not None:
        students = students_of(run.recipe, settings.students)
    for student in students.values():  # a network that there is not is told of before any work
        build_task(student, run.labels, pretrained=False)
    read_again(run, data)  # the labels and images that the run was trained on, or else nothing is begun
    if overwrite:
        shutil.rmtree(place, ignore_errors=True)
    workshop = Workshop(
        run=run,
        fold=settings.fold,
        data=data,
        place=place,
        students=students,
        own=own,
        calibration=settings.calibration,
        epochs=settings.epochs,
        attempts=settings.attempts,
        elsewhere=settings.elsewhere,
        timed_on=settings.timed_on or _this_machine(),
        tell=tell,
        progress=progress,
    )
    with workshop.alone():
        workshop.open()
        candidates = space([own, *students], settings.epochs)
        tell(
            f"{len(candidates)} candidates: {', '.join([own, *students])}, each in several precisions; budget {budget}"
        )
        searched = search(workshop, candidates, budget, deadline(60 * settings.minutes), tell)
        found = _found(workshop, searched, budget, settings, command, progress)
        _write(out, workshop, found)
    if found.given is None:
        raise BudgetError(" ".join(filter(None, (found.leak, found.answer))))
    return found


def _this_machine() -> str:
    """Whose times can be compared."""
    about = machine()
    return f"this machine ({about['processor']}, ONNX Runtime {about['packages']['onnxruntime']})"


def _check_room(out: Path, place: Path, resume: bool, overwrite: bool) -> None:
    COMPRESSION.check(out, overwrite=overwrite or resume)
    if place.exists() and not (place / SEARCH).is_file() and (place.is_file() or any(place.iterdir())):
        raise OutputError(
            f"expected {place} to be new, or to hold a search, but it holds something else; choose another --out"
        )
    if (place / SEARCH).is_file() and not (resume or overwrite):
        raise OutputError(
            f"expected --out {out} to be new or empty, but it holds a search that was begun (in {place.name}); add "
            "--resume to go on with it, or --overwrite to begin anew, or choose another --out"
        )


def _found(
    workshop: Workshop, searched: Searched, budget: Budget, settings: Settings, command: str, progress: Progress
) -> Found:
    made = searched.made
    first = searched.measured[0]
    own = read_artifact(workshop.artifact(_candidate(first)))
    score = own.manifest.main_score
    title = title_of(own.manifest.task, score)
    given = chosen(made, budget)
    tested, why = _tested(workshop, first, given, progress) if given else (None, "")
    answer = (
        _answer(given, tested, why, first, budget, score, title, searched)
        if given
        else missed(made, budget, title, searched)
    )
    return Found(
        budget=budget,
        searched=searched,
        front=[one.name for one in front(made, budget)],
        given=given,
        tested=tested,
        answer=answer,
        main_score=score,
        task=own.manifest.task,
        title=own.manifest.name,
        leak=own.manifest.leak,
        timed_on=workshop.timed_on,
        command=command,
    )


def _candidate(one: Measured) -> Candidate:
    return Candidate(one.network, one.precision, one.tuned)


def _tested(workshop: Workshop, own: Measured, given: Measured, progress: Progress) -> tuple[Compared | None, str]:
    """The test part, opened for the run's float model and the chosen one alone, and what is to be said of that."""
    if own.name == given.name:
        return (
            None,
            "It is the run's own float model, whose figures on test images `leanmed evaluate` of the run tells.",
        )
    before = [name for name in workshop.opened() if name != given.name]
    workshop.open_for(given.name)
    said = f"Earlier searches here have opened these test images for {', '.join(before)} too." if before else ""
    paths = [workshop.artifact(_candidate(one)) for one in (own, given)]
    names = [own.name, given.name]
    try:
        found = compare_artifacts(paths, workshop.data, cache=workshop.place / AUDIT, names=names, progress=progress)
    except DataError as error:
        return None, f"It was not tested on new images: {error}."
    return found, said


def _answer(
    given: Measured,
    tested: Compared | None,
    why: str,
    own: Measured,
    budget: Budget,
    score: str,
    title: str,
    searched: Searched,
) -> str:
    costs = ", ".join(f"{name} {amount(name, value)}" for name, value in given.costs.items())
    said = [f"{given.name} keeps within {budget}: {costs}."]
    if tested:
        row = tested.rows[1]
        said.append(
            f"On {tested.images} images of {tested.groups} groups that are new to it, its {title} is "
            f"{shown(row.figures[score])}; that is {shown(row.change[score], '+')} from {own.name}."
        )
    else:
        change = "" if given.name == own.name else f", {given.change:+.4f} from {own.name}"
        said.append(f"On validation images, its {title} is {given.score:.4f}{change}.")
    guessed = "Its latency is partly guessed; see the remarks in the report." if given.guessed else ""
    return " ".join(filter(None, [*said, guessed, why, untried(searched)])).replace("  ", " ")


def _write(out: Path, workshop: Workshop, found: Found) -> None:
    by_name = {one.name: one for one in found.searched.measured}
    with COMPRESSION.folder(out, overwrite=True) as folder:
        (folder / FRONT).mkdir()
        for name in found.front:
            _keep(folder / FRONT / name, workshop.artifact(_candidate(by_name[name])), by_name[name], found.main_score)
        if found.given:
            _give(folder / ARTIFACT, workshop.artifact(_candidate(found.given)), found)
        write_text(folder / "report.html", page(found))
        write_json(folder / "report.json", found.as_json())


def _keep(out: Path, source: Path, one: Measured, score: str) -> None:
    """An artifact of the front, with the figures that chose: nobody is to choose among them by the test part."""
    artifact = read_artifact(source)
    if one.precision != FLOAT:
        shutil.copytree(source, out)
        return
    figures = defined({score: {"value": one.score, "low": one.low, "high": one.high, "n": one.images}})
    text = (
        f"{artifact.card.rstrip()}\n\n## On the Pareto front\n\nThe figures in `leanmed.json` are of the validation "
        "images by which artifacts of one search are chosen; those above are of the fold's test part.\n"
    )
    manifest = artifact.manifest.model_copy(update={"figures": figures, "figures_of": "itself"})
    write_artifact(out, manifest, artifact.graphs, text, artifact.traces)


def _give(out: Path, source: Path, found: Found) -> None:
    """The chosen artifact, with the figures of the images that are new to it."""
    artifact = read_artifact(source)
    manifest, text = artifact.manifest, f"{artifact.card.rstrip()}\n\n## Chosen under a budget\n\n{found.answer}\n"
    if found.tested:
        manifest = manifest.model_copy(
            update={"figures": defined(found.tested.rows[1].figures), "figures_of": "itself"}
        )
    write_artifact(out, manifest, artifact.graphs, text, artifact.traces)
