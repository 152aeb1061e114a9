"""Who is trained on, who selects, who is tested. Groups stay whole, except under the papers' own protocol, which leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from leanmed.config import Split
from leanmed.errors import DataError, LeakError
from leanmed.records import Record

Indices = NDArray[np.int64]
LEAK = (
    "This result LEAKS: the `paper` protocol splits by image, so copies of one photograph or images of one patient stand "
    "in training and in test. The figures are too good and say nothing about new patients."
)


@dataclass(frozen=True)
class Fold:
    """Positions in the list of records: to train on, to select by, to test once."""

    number: int
    train: Indices
    validation: Indices
    test: Indices

    def parts(self) -> dict[str, Indices]:
        """Part's name -> positions."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def make_folds(records: Sequence[Record], split: Split) -> list[Fold]:
    """Split records by a protocol, the same way for the same seed.

    Raises:
        DataError: fewer groups than folds, a part without one of the labels, or one site only under `site`.
        LeakError: a group on both sides, under any protocol but `paper`.
    """
    targets = np.array([r.target for r in records])
    by_image = split.protocol == "paper"
    groups = np.array([r.id if by_image else r.group for r in records])
    folds = []
    for number, test in enumerate(_tests(records, targets, groups, split)):
        rest = np.setdiff1d(np.arange(len(records)), test)
        validation = rest[_share(targets[rest], groups[rest], split.validation, split.seed + number)]
        folds.append(Fold(number, np.setdiff1d(rest, validation), validation, test))
    for fold in folds:
        _check_labels(fold, targets)
    if not by_image:
        check_groups(records, folds)
    return folds


def _tests(records: Sequence[Record], targets: NDArray[np.str_], groups: NDArray[np.str_], split: Split) -> Iterator[Indices]:
    if split.protocol == "site":
        yield from _sites(records)
    elif split.protocol == "holdout":
        yield _share(targets, groups, split.test, split.seed)
    elif split.protocol == "paper":
        _enough(len(records), split.folds, "images")
        folds = StratifiedKFold(split.folds, shuffle=True, random_state=split.seed)
        yield from (test for _, test in folds.split(targets, targets))
    else:
        _enough(len(set(groups)), split.folds, "groups")
        folds = StratifiedGroupKFold(split.folds, shuffle=True, random_state=split.seed)
        yield from (test for _, test in folds.split(targets, targets, groups))


def _sites(records: Sequence[Record]) -> Iterator[Indices]:
    """Each site in turn is the test; a group seen at two sites goes with the first, so that it stays whole."""
    if any(r.site is None for r in records):
        raise DataError("expected a site for every image under the `site` protocol; add a `site` column to the table")
    home: dict[str, str | None] = {}
    for record in records:
        home.setdefault(record.group, record.site)
    sites = np.array([home[r.group] for r in records])
    _enough(len(set(sites)), 2, "sites")
    for site in sorted(set(sites)):
        yield np.flatnonzero(sites == site)


def _share(targets: NDArray[np.str_], groups: NDArray[np.str_], share: float, seed: int) -> Indices:
    """About `share` of the positions, stratified, groups whole: one fold of as many as it takes."""
    count = max(2, round(1 / share))
    _enough(len(set(groups)), count, "groups")
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return next(test for _, test in folds.split(targets, targets, groups))


def _enough(found: int, needed: int, what: str) -> None:
    if found < needed:
        raise DataError(f"expected at least {needed} {what} for this split, got {found}; lower split.folds or add data")


def _check_labels(fold: Fold, targets: NDArray[np.str_]) -> None:
    for name in ("train", "validation"):
        absent = set(targets) - set(targets[fold.parts()[name]])
        if absent:
            raise DataError(
                f"fold {fold.number}: no {', '.join(sorted(absent))} image in its {name} part; use fewer folds, "
                "another split.seed, or more groups of that label"
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
                    f"fold {fold.number}: {len(torn)} group(s) stand in {part} and elsewhere too, for example "
                    f"{min(torn)}; a group must stay whole"
                )
