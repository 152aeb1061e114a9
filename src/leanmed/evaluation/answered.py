"""The one way from records and the answers to them to figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from leanmed.figures.bootstrap import SubgroupRow
from leanmed.files import encodable
from leanmed.recipe.recipe import Evaluation
from leanmed.records import Attribute, Record
from leanmed.report.report import Provenance, Report
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, JudgePart

PROTOCOLS = {
    "grouped": "{folds}-fold cross-validation, {whole} kept whole; each image is tested once, by a model that "
    "saw no image of its group",
    "holdout": "One held-out test part, {whole} kept whole",
    "site": "Leave one site out: each site is tested by a model that saw no image of it, nor of its groups",
    "adapt": "Adapt to one site: each site is tested by a model that learned from the others and from {adapt} of its "
    "groups, {whole} kept whole; these are not tested",
    "paper": "{folds}-fold cross-validation by image, as published",
    "answers": "Answers from a file; whether their model saw these images, or others of their groups, is not known",
    "artifact": "One artifact on images that, as far as is known, share no group with those it was trained or selected "
    "on",
}


@dataclass(frozen=True)
class Answered:
    """Records beside what was answered for them, in the same order.

    Args:
        records: with the groups that were kept whole.
        answers: one for each.
        labels: what they are made of.
        task: the kind of task.
        folds: which fold answered; None: there are none.
    """

    records: Sequence[Record]
    answers: Sequence[Answer]
    labels: tuple[str, ...]
    task: str
    folds: Sequence[int] | None = None

    @property
    def judge(self) -> JudgePart:
        """Of the kind of task."""
        return TASKS[self.task].judge

    def of_fold(self, fold: int) -> Answered:
        """What one fold answered."""
        return self.only([number == fold for number in self.folds or ()])

    def only(self, chosen: Sequence[bool]) -> Answered:
        """Some of the records with the answers to them.

        Args:
            chosen: one for each record.
        """
        folds = None if self.folds is None else list(compress(self.folds, chosen))
        records, answers = list(compress(self.records, chosen)), list(compress(self.answers, chosen))
        return replace(self, records=records, answers=answers, folds=folds)

    def table(self) -> Any:
        """As the kind's figures take it."""
        return self.judge.table_of(self.records, self.answers, self.labels, self.folds)


def report_of(
    answered: Answered,
    settings: Evaluation,
    *,
    title: str,
    protocol: str,
    main_score: str,
    provenance: Provenance,
    thresholds: Mapping[int, float],
) -> Report:
    """What the kind of task says of records and the answers to them: the one way from answers to figures."""
    judge, table = answered.judge, answered.table()
    return Report(
        title=title,
        protocol=protocol,
        figures=judge.score(table, resamples=settings.resamples),
        main_score=main_score,
        table=table,
        subgroups=subgroup_rows(answered, table, settings),
        mistakes=judge.mistakes(table, answered.records, answered.answers),
        remarks=judge.remarks(table),
        plots=judge.plots(table, list(thresholds.values())),
        counts=judge.counts(table),
        terms=judge.terms(table),
        words=judge.WORDS,
        provenance=provenance,
        answers=answer_rows(answered),
    )


def answer_rows(answered: Answered) -> list[dict[str, str | float]]:
    """Of each image its name, its label where it has one, group, site and fold, and what was answered."""
    folds: Sequence[int | str] = answered.folds or [""] * len(answered.records)
    return [
        {
            "image": encodable(record.id),
            "truth": record.target if isinstance(record.target, str) else "",
            "group": record.group,
            "site": record.site or "",
            "fold": fold,
            **answer.cells(),
        }
        for record, answer, fold in zip(answered.records, answered.answers, folds, strict=True)
    ]


def subgroup_rows(answered: Answered, table: Any, settings: Evaluation) -> list[SubgroupRow]:
    """Figures by site and attribute: those the recipe names, else all that have numbers or few values."""
    columns = {name: [_value(r, name) for r in answered.records] for name in _names(answered.records)}
    if settings.subgroups is None:
        chosen = {name: values for name, values in columns.items() if _few(values)}
    else:
        chosen = {name: columns[name] for name in settings.subgroups if name in columns}
    return answered.judge.subgroups(table, chosen, edges=settings.edges, resamples=settings.resamples)


def _names(records: Iterable[Record]) -> list[str]:
    return ["site", *sorted({name for record in records for name in record.attributes})]


def _value(record: Record, name: str) -> Attribute | None:
    return record.site if name == "site" else record.attributes.get(name)


def _few(values: Sequence[Attribute | None]) -> bool:
    different = {v for v in values if v is not None}
    return bool(different) and (len(different) <= 12 or all(isinstance(v, float) for v in different))


def missing_notes(failed: Sequence[tuple[str, str]], *, images: int = 0, left_out: int = 0) -> list[str]:
    """What a report says of images that are not judged.

    Args:
        failed: images without an answer, each with the reason.
        images: how many the data set has.
        left_out: how many of them share a group with one that the model was made from.
    """
    seen = f"{left_out} of {images} images made the artifact, or share a group with one that did; left out."
    return [seen] * bool(left_out) + [f"Not answered: {name}: {reason}" for name, reason in failed]
