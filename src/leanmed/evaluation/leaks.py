"""Test images that an audit of their split found in training too: left out, with the figures with and without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leanmed.audit.split_files import COPY, read_split
from leanmed.errors import DataError
from leanmed.evaluation.answered import Answered
from leanmed.figures.bootstrap import Figure
from leanmed.recipe.recipe import Evaluation
from leanmed.report.pages import interval, number


@dataclass(frozen=True)
class WithoutLeaks:
    """Answers to those images that do not leak.

    Args:
        answered: to judge.
        path: of the audit.
        kinds: how many images were left out, by what training has of them.
        images: how many there were.
        before: the figures of all of them; empty if none leaks.
    """

    answered: Answered
    path: Path
    kinds: Mapping[str, int]
    images: int
    before: Mapping[str, Figure]

    def note(self, score: str, after: Mapping[str, Figure]) -> str:
        """What a report says first.

        Args:
            score: the name of the main score.
            after: the figures of the answers that are left.
        """
        if not self.before:
            return f"None of these {self.images} images leaks from training, by the audit of the split in {self.path}."
        count, copies = sum(self.kinds.values()), self.kinds[COPY]
        title = self.answered.judge.terms(self.answered.table())[score].title
        one, other = (f"{number(f[score].value)} ({interval(f[score])})" for f in (self.before, after))
        return (
            f"{count} of {self.images} images leak from training, by the audit of the split in {self.path}: {copies} "
            f"have a copy there, and {count - copies} a sibling. They are left out. {title} is {one} with them and "
            f"{other} without them."
        )

    def tables(self) -> dict[str, Mapping[str, Figure]]:
        """The figures with the leaking images, as a report takes them."""
        count = sum(self.kinds.values())
        return {f"With the {count} images that leak from training": self.before} if self.before else {}


def leave_out_leaks(answered: Answered, contents: Mapping[str, str], audit: Path, settings: Evaluation) -> WithoutLeaks:
    """Leave out the images that the audit of a split found in training, be it a copy or a sibling of them.

    Args:
        answered: images with the answers to them.
        contents: record id -> SHA-256 of its image, by which the audit is asked.
        audit: the folder that `leanmed audit --split` wrote.
        settings: of the figures.

    Raises:
        DataError: an image that the audit has not seen, or all of them leak.
    """
    audited = read_split(audit)
    strange = [record.id for record in answered.records if contents[record.id] not in audited.leaks]
    if strange:
        raise DataError(
            f"expected images that the audit of the split in {audit} has compared, got {len(strange)} others among "
            f"{len(answered.records)}, such as {strange[0]}; audit with these as the test side, or leave --split-audit "
            "out"
        )
    leaks = [audited.leaks[contents[record.id]] for record in answered.records]
    kinds = Counter(filter(None, leaks))
    if all(leaks):
        raise DataError(
            f"expected an image that does not leak from training, got {len(leaks)} that all do, by the audit of the "
            f"split in {audit}; give others, or leave --split-audit out"
        )
    before = answered.judge.score(answered.table(), resamples=settings.resamples) if kinds else {}
    kept = answered.only([not leak for leak in leaks])
    return WithoutLeaks(kept, audit, kinds, len(leaks), before)
