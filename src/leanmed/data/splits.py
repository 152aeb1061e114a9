"""Who is trained on, who selects, who is tested.

Groups stay whole, except under the papers' own protocol, which leaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from leanmed.errors import DataError, LeakError
from leanmed.recipe.recipe import Split
from leanmed.records import Record

Indices = NDArray[np.int64]
Names = NDArray[np.str_]
RARE = 20  # groups, below which a stratum of boxes is not kept apart
LEAK = (
    "This result LEAKS: the `paper` protocol splits by image, so copies of one photograph or images of one "
    "patient stand in training and in test. The figures are too good and say nothing about new patients."
)


@dataclass(frozen=True)
class Fold:
    """Positions in the list of records: to train on, to select by, to test once."""

    number: int
    train: Indices
    validation: Indices
    test: Indices

    @classmethod
    def of_parts(cls, number: int, parts: Sequence[str]) -> Fold:
        """The fold in which each record has the part named; other names are in none."""
        return cls(number, *(np.flatnonzero(np.array(parts) == name) for name in ("train", "validation", "test")))

    def parts(self) -> dict[str, Indices]:
        """Part's name -> positions."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def make_folds(records: Sequence[Record], split: Split) -> list[Fold]:
    """Split records by a protocol, the same way for the same seed.

    Every image is tested once, or under `holdout` at most once. Under `site` a group seen at several sites is
    tested with the first of them, and trains no model that is tested at any.

    Raises:
        DataError: too few groups of a label, a part to train on or select by without one of the labels, or
            under `site` an image without site or one site only.
        LeakError: a group on both sides, under any protocol but `paper`.
    """
    labels = _strata(records)
    by_image = split.protocol == "paper"
    groups = np.array([r.id if by_image else r.group for r in records])
    folds = []
    for number, (test, rest) in enumerate(_divisions(records, labels, groups, split)):
        validation = _share(labels, groups, rest, split, "validation", number)
        folds.append(Fold(number, np.setdiff1d(rest, validation), validation, test))
    for fold in folds:
        _check_labels(fold, labels)
    if not by_image:
        check_groups(records, folds)
    return folds


def _strata(records: Sequence[Record]) -> Names:
    """What each part gets a fair share of: labels; or images without, with one, and with several boxes.

    Unlike a label, a stratum of boxes need not be in every part: one of few groups joins the commonest.
    """
    if all(isinstance(r.target, str) for r in records):
        return np.array([r.target for r in records])
    groups: dict[str, set[str]] = {"no box": set(), "one box": set(), "several boxes": set()}
    found = [list(groups)[min(len(r.boxes.xyxy), 2)] for r in records]
    for record, stratum in zip(records, found, strict=True):
        groups[stratum].add(record.group)
    commonest = max(groups, key=lambda stratum: len(groups[stratum]))
    return np.array([commonest if len(groups[stratum]) < RARE else stratum for stratum in found])


def _divisions(
    records: Sequence[Record], labels: Names, groups: Names, split: Split
) -> Iterator[tuple[Indices, Indices]]:
    """For each fold, the positions to test and those free to learn from."""
    everything = np.arange(len(records))
    if split.protocol == "site":
        yield from _sites(records, groups)
    elif split.protocol == "holdout":
        test = _share(labels, groups, everything, split, "test", 0)
        yield test, np.setdiff1d(everything, test)
    else:
        _enough(labels, groups, everything, split.folds, f"split.folds = {split.folds}", "lower it")
        settings = {"n_splits": split.folds, "shuffle": True, "random_state": split.seed}
        if split.protocol == "paper":
            divided = StratifiedKFold(**settings).split(labels, labels)
        else:
            divided = StratifiedGroupKFold(**settings).split(labels, labels, groups)
        yield from ((test, rest) for rest, test in divided)


def _sites(records: Sequence[Record], groups: Names) -> Iterator[tuple[Indices, Indices]]:
    if any(r.site is None for r in records):
        raise DataError("expected a site for each image under `site`, got none for some; fill in `site`")
    sites = np.array([r.site for r in records])
    if len(set(sites)) < 2:
        raise DataError(f"expected two or more sites under `site`, got {sites[0]} only; use `grouped`")
    first = dict(zip(reversed(groups), reversed(sites), strict=True))
    home = np.array([first[group] for group in groups])
    for site in sorted(set(home)):
        seen_there = np.isin(groups, groups[sites == site])
        yield np.flatnonzero(home == site), np.flatnonzero(~seen_there)


def _share(labels: Names, groups: Names, among: Indices, split: Split, name: str, number: int) -> Indices:
    """About `split.<name>` of some positions, stratified, groups whole: some of a few equal parts."""
    share = getattr(split, name)
    part = Fraction(share).limit_denominator(max(5, round(1 / share)))
    _enough(labels, groups, among, part.denominator, f"split.{name} = {share:g}", "bring it nearer to 0.5")
    folds = StratifiedGroupKFold(part.denominator, shuffle=True, random_state=split.seed + number)
    parts = [where for _, where in folds.split(among, labels[among], groups[among])]
    return np.sort(among[np.concatenate(parts[: part.numerator])])


def _enough(labels: Names, groups: Names, among: Indices, needed: int, what: str, remedy: str) -> None:
    for label in np.unique(labels):
        found = len(np.unique(groups[among][labels[among] == label]))
        if found < needed:
            raise DataError(
                f"expected at least {needed} groups of label {label} for {what}, got {found}; {remedy}, or add data"
            )


def _check_labels(fold: Fold, labels: Names) -> None:
    for name in ("train", "validation"):
        absent = set(labels) - set(labels[fold.parts()[name]])
        if absent:
            raise DataError(
                f"fold {fold.number}: expected every label in its {name} part, got none of {min(absent)}; "
                "use fewer folds, another split.seed, or add groups of that label"
            )


def check_groups(records: Sequence[Record], folds: Sequence[Fold]) -> None:
    """Refuse folds that put one group into two parts.

    Raises:
        LeakError: naming the fold and some of the groups.
    """
    for fold in folds:
        seen: dict[str, str] = {}
        for part, positions in fold.parts().items():
            torn = {g for g in (records[i].group for i in positions) if seen.setdefault(g, part) != part}
            if torn:
                raise LeakError(
                    f"fold {fold.number}: expected whole groups, got {len(torn)} that stand in {part} and "
                    f"elsewhere too, for example {min(torn)}; move each to one part"
                )
