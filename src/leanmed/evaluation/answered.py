"""The one way from records and the answers to them to figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure, SubgroupRow
from leanmed.figures.familiarity import UNFAMILIAR, suspected, suspected_in_words
from leanmed.files import encodable
from leanmed.recipe.recipe import Evaluation
from leanmed.records import Attribute, Record
from leanmed.report.report import AtPrevalence, Provenance, Report
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, JudgePart, Kind

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
    def kind(self) -> Kind:
        """The kind of task."""
        return TASKS[self.task]

    @property
    def judge(self) -> JudgePart:
        """Of the kind of task."""
        return self.kind.judge

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
    unfamiliar: float = UNFAMILIAR,
    prevalence: float | None = None,
) -> Report:
    """What the kind of task says of records and the answers to them: the one way from answers to figures.

    If the images cannot tell the main score, the report leads with the first figure of the card that they can. An image
    whose `familiar` is below `unfamiliar` counts as one that looks unlike the training images.
    """
    judge, table = answered.judge, answered.table()
    strangers = suspected_of(answered, unfamiliar, resamples=settings.resamples)
    figures = judge.score(table, resamples=settings.resamples)
    known = {name for name, figure in figures.items() if not math.isnan(figure.value)}
    return Report(
        title=title,
        protocol=protocol,
        figures=figures,
        main_score=next((name for name in (main_score, *judge.CARD_COLUMNS) if name in known), main_score),
        table=table,
        subgroups=subgroup_rows(answered, table, settings),
        mistakes=judge.mistakes(table, answered.records, answered.answers),
        gallery=judge.gallery(table, answered.records, answered.answers),
        remarks=[*judge.remarks(table), *([suspected_in_words(strangers, unfamiliar)] if strangers else [])],
        plots=judge.plots(table, list(thresholds.values())),
        counts=judge.counts(table),
        terms=judge.terms(table),
        words=answered.kind.words(table),
        provenance=provenance,
        answers=answer_rows(answered),
        predictive_values=[] if prevalence is None else at_prevalence(answered, table, prevalence, settings.resamples),
        decision_curve=answered.kind.decision_curve(table),
    )


def suspected_of(answered: Answered, threshold: float, *, resamples: int) -> Figure | None:
    """The share of images that look unfamiliar; None: the answers do not tell."""
    known = [(a.familiar, r.group) for a, r in zip(answered.answers, answered.records, strict=True)]
    told = [(familiar, group) for familiar, group in known if familiar is not None]
    if not told:
        return None
    familiar, groups = zip(*told, strict=True)
    return suspected(familiar, groups, threshold, resamples).of_groups(len(set(groups)))


def check_prevalence(task: str, labels: tuple[str, ...], prevalence: float | None) -> None:
    """Refuse a prevalence that is none, or answers that have no predictive values, before any work is done.

    Raises:
        DataError: it is not between 0 and 1, or the answers are not yes or no.
    """
    if prevalence is None:
        return
    if not 0 < prevalence < 1:
        raise DataError(
            f"expected --prevalence as a share above 0 and below 1, such as 0.05, got {prevalence:g}; correct it"
        )
    TASKS[task].predictive_values(labels)


def at_prevalence(answered: Answered, table: Any, prevalence: float, resamples: int) -> list[AtPrevalence]:
    """Predictive values at the prevalence of the images, and at a stated one."""
    predictive, positive = answered.kind.predictive_values(answered.labels), answered.labels[1]
    own = sum(record.target == positive for record in answered.records) / len(answered.records)
    return [
        AtPrevalence(f"of {positive} in these images", own, predictive(table, None, resamples=resamples)),
        AtPrevalence("as stated", prevalence, predictive(table, prevalence, resamples=resamples)),
    ]


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
