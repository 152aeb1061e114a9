"""What `leanmed evaluate` and `leanmed.evaluate` do: see what is judged, refuse what does not fit it, judge, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from leanmed.audit.grouping import AUDIT
from leanmed.console import Progress, silent
from leanmed.errors import ArtifactError, DataError
from leanmed.evaluation.answered import Answered
from leanmed.evaluation.artifacts import evaluate_artifact, evaluate_scans
from leanmed.evaluation.beside import evaluate_beside, named_sets
from leanmed.evaluation.files import evaluate_answers
from leanmed.evaluation.runs import evaluate_run
from leanmed.reading.images import read_image
from leanmed.records import Record
from leanmed.report.report import REPORT, Report, write_report
from leanmed.runs import RUN, Run
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.recipes import open_run

Subject = Path | Run | Predictor
Sort = Literal["run", "artifact", "answers"]
Oracle = Callable[[Run, Sequence[Record]], Answered]


@dataclass(frozen=True)
class Asked:
    """How to judge; what does not fit what is judged is refused.

    Args:
        dataset: how the data folder is laid out; None: as the artifact's recipe says, for a file of answers `folder`.
        labels: of a file of answers, in order, of two the positive one last; None: as the answers name them.
        settings: of a file of answers: `--set` values of how the data are read or judged.
        also: `NAME=DIR` or `DIR` of each further data set.
        prevalence: give predictive values at this share of positive images too; None: do not.
        scans: judge an artifact on LUNA16's whole scans.
        oracle: judge a run by what this answers anew from the truth; None: by what it has answered.
        split_audit: the folder that `leanmed audit --split` wrote.
    """

    dataset: str | None = None
    labels: tuple[str, ...] | None = None
    settings: Sequence[str] = ()
    also: Sequence[str] = ()
    prevalence: float | None = None
    scans: bool = False
    oracle: Oracle | None = None
    split_audit: Path | None = None

    def check(self, sort: Sort, name: str) -> None:
        """Refuse what does not fit a subject of this sort.

        Raises:
            DataError: an option for another sort, or two that exclude each other.
            ArtifactError: whole scans, and no artifact.
        """
        if self.settings and sort != "answers":
            raise DataError(
                "expected --set with a file of answers only, since runs and artifacts keep their recipe; leave it out"
            )
        if self.labels and sort != "answers":
            raise DataError(
                "expected --labels with a file of answers only, since runs and artifacts know the order of their "
                "labels; leave it out"
            )
        if self.dataset and sort == "run":
            raise DataError("expected no --dataset with a run, which is judged on the data that it split; leave it out")
        if self.oracle and sort != "run":
            raise DataError(f"expected a run with --oracle, got {name}; give a run folder, or leave it out")
        if self.also and sort == "run":
            raise DataError(
                f"expected an artifact or a file of answers with --also, got the run {name}, each of whose models "
                "answers its own test part only; make an artifact with leanmed export, or leave --also out"
            )
        if self.split_audit and (sort == "run" or self.scans or self.also):
            beside = "a run, whose folds leanmed has split" if sort == "run" else "--scans" if self.scans else "--also"
            raise DataError(
                "expected --split-audit with an artifact or a file of answers and one data set, got it with "
                f"{beside}; leave it out"
            )
        if self.scans:
            self._check_scans(sort, name)

    def _check_scans(self, sort: Sort, name: str) -> None:
        if sort != "artifact":
            what = "the run" if sort == "run" else "the file of answers"
            raise ArtifactError(f"expected an artifact, got {what} {name}; make one with leanmed export")
        if self.also or self.prevalence is not None:
            raise DataError("expected neither --also nor --prevalence with --scans, got one; leave it out")
        if self.dataset:
            raise DataError("expected no --dataset with --scans, whose scans are laid out as LUNA16's; leave it out")


def evaluate(
    subject: Subject,
    data: Path,
    out: Path | None,
    asked: Asked = Asked(),
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> tuple[Report, list[Path]]:
    """Judge a run, an artifact or a file of answers, and write the report where a place for it is given.

    Args:
        subject: opened, or its path.
        data: the data set's folder: of a run, the one that it was trained on.
        out: takes the report; None: nothing is written, unless whole scans are judged, which need it.
        asked: how.
        overwrite: replace an older report in `out`.
        command: what the user typed, for the record.
        progress: takes stage, done and total.

    Returns:
        The report, and the files that were written.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than a report.
        LeanmedError: what is asked for does not fit, the run is unfinished, the artifact damaged, or the data are not
            what they must be.
    """
    sort = _sort(subject)
    asked.check(sort, str(subject) if isinstance(subject, Path) else f"{type(subject).__name__}(...)")
    if out:
        REPORT.check(out, overwrite=overwrite)
    opened = _open(subject, sort)
    if isinstance(opened, Predictor) and asked.scans:
        if out is None:
            raise DataError("expected a place to write to for whole scans, got none; give one")
        report, further = evaluate_scans(
            opened, data, out, overwrite=overwrite, command=command, progress=partial(progress, "scans")
        )
    else:
        more: dict[str, Any] = {"command": command, "progress": progress}
        report = _judge(opened, data, asked, cache=out.parent / AUDIT if out else None, **more)
        if out is None:
            return report, []
        write_report(out, report, read=read_image, overwrite=overwrite)
        further = out / "answers.csv"
    return report, [out / "report.html", out / "report.json", further]


def _sort(subject: Subject) -> Sort:
    if isinstance(subject, Run) or (isinstance(subject, Path) and (subject / RUN).is_file()):
        return "run"
    return "answers" if isinstance(subject, Path) and subject.is_file() else "artifact"


def _open(subject: Subject, sort: Sort) -> Subject:
    """A run or an artifact, opened; a file of answers stays a path."""
    if not isinstance(subject, Path) or sort == "answers":
        return subject
    return open_run(subject) if sort == "run" else load(subject)


def _judge(
    subject: Subject, data: Path, asked: Asked, *, cache: Path | None, command: str, progress: Progress
) -> Report:
    if isinstance(subject, Run):
        return evaluate_run(subject, data=data, oracle=asked.oracle, command=command, prevalence=asked.prevalence)
    sets = named_sets(data, asked.also)
    common: dict[str, Any] = {"prevalence": asked.prevalence, "split_audit": asked.split_audit}
    common |= {"cache": cache, "command": command, "progress": progress}
    if isinstance(subject, Predictor):
        judge = partial(evaluate_artifact, subject, dataset=asked.dataset, **common)
        return evaluate_beside(sets, judge, manifest=subject.manifest)
    chosen: dict[str, Any] = {"dataset": asked.dataset or "folder", "labels": asked.labels, "settings": asked.settings}
    return evaluate_beside(sets, partial(evaluate_answers, subject, others=tuple(sets.values()), **chosen, **common))
