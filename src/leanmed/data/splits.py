"""Who is trained on, who selects, who is tested.

Groups stay whole, except under the papers' own protocol, which leaks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from leanmed.errors import DataError, LeakError
from leanmed.recipe.recipe import Split
from leanmed.records import Mask, Record

Indices = NDArray[np.int64]
Names = NDArray[np.str_]
BOXES = ("no box", "one box", "several boxes")
OBJECTS = "objects"
RARE = 20  # groups, below which one and several boxes are not kept apart
FEWEST = 3  # groups of a kind: one to train on, one to select by, one to test
ATTEMPTS = 50  # to divide uneven groups so that every part has what it needs
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

    Every image is tested once, or under `holdout` and `adapt` at most once. Under `site` and `adapt` a group seen at
    several sites belongs to the first of them, and trains no model that is tested at any, unless the model is adapted
    to that first site by it. Every part has images of every label, or for boxes some with objects, but for the parts
    to test under `site`, `adapt` and `paper`. Groups that a model is adapted by are trained on, and never validate.

    Raises:
        DataError: too few groups, of a label, with objects or of a site to adapt to; a part without; or under `site`
            and `adapt` an image without site or one site only.
        LeakError: a group on both sides, under any protocol but `paper`.
    """
    by_image = split.protocol == "paper"
    groups = np.array([r.id if by_image else r.group for r in records])
    kinds = _kinds(records)
    folds = []
    for number, (test, rest, own) in enumerate(_divisions(records, kinds, groups, split)):
        validation = _share(kinds, groups, rest, split, "validation", number)
        folds.append(Fold(number, np.union1d(np.setdiff1d(rest, validation), own), validation, test))
    if not by_image:
        check_groups(records, folds)
    return folds


def site_notes(records: Sequence[Record], split: Split) -> list[str]:
    """What a reader of figures of sites should know of groups that have images at several of them."""
    if split.protocol not in ("site", "adapt"):
        return []
    sites: dict[str, set[str | None]] = defaultdict(set)
    for record in records:
        sites[record.group].add(record.site)
    torn = sorted(group for group, own in sites.items() if len(own) > 1)
    if not torn:
        return []
    but = ", unless it is one of the groups by which that model is adapted" * (split.protocol == "adapt")
    return [
        f"{len(torn)} group(s) have images at several sites, for example {torn[0]}: each is tested as a whole, with "
        f"the site of its first image, and no model that is tested at one of its sites has learned from it{but}."
    ]


@dataclass(frozen=True)
class _Kinds:
    """Kinds of image, one of each record.

    Args:
        strata: what each part gets a fair share of.
        needed: what each part needs some of; empty for an image that no part needs.
        what: how a message calls a kind that is needed.
    """

    strata: Names
    needed: Names
    what: str

    def are_in(self, positions: Indices) -> bool:
        """Whether there are positions, and they hold some of every kind that is needed."""
        return positions.size > 0 and not set(self.needed) - set(self.needed[positions]) - {""}

    def strata_for(self, parts: int, groups: Names, among: Indices) -> Names:
        """The strata of some positions; one of images that no part needs, in too few groups, joins the commonest."""
        strata, free = self.strata[among], self.needed[among] == ""
        names, counts = np.unique(strata, return_counts=True)
        few = [name for name in np.unique(strata[free]) if len(np.unique(groups[among][strata == name])) < parts]
        others = [(count, name) for name, count in zip(names, counts, strict=True) if name not in few]
        if few and not others and free.all():
            return np.full(among.size, "")  # all are rare: they are one
        return np.where(np.isin(strata, few), max(others)[1], strata) if few and others else strata


def _kinds(records: Sequence[Record]) -> _Kinds:
    """Labels; or images without, with one, and with several boxes, of which every part needs some with boxes; or sites.

    One or several boxes are kept apart if many groups have each. Of masks it is not known before they are read what
    they hold, so that every part gets images of every site.
    """
    if all(isinstance(r.target, Mask) for r in records):
        sites = np.array([r.site or "" for r in records])
        return _Kinds(sites, np.full(len(records), ""), "of site {}")
    if all(isinstance(r.target, str) for r in records):
        labels = np.array([r.target for r in records])
        return _Kinds(labels, labels, "of label {}")
    found = np.array([BOXES[min(len(r.boxes.xyxy), 2)] for r in records])
    groups = np.array([r.group for r in records])
    if any(len(np.unique(groups[found == stratum])) < RARE for stratum in BOXES[1:]):
        found = np.where(found == BOXES[0], found, OBJECTS)
    return _Kinds(found, np.where(found == BOXES[0], "", OBJECTS), "with {}")


class _Division(NamedTuple):
    """Positions of one fold: to test, free to learn from, and to train on in any case."""

    test: Indices
    rest: Indices
    own: Indices = np.array([], np.int64)


def _divisions(records: Sequence[Record], kinds: _Kinds, groups: Names, split: Split) -> Iterator[_Division]:
    """Each fold's."""
    everything = np.arange(len(records))
    if split.protocol == "site":
        yield from _sites(records, groups, split)
    elif split.protocol == "adapt":
        for number, division in enumerate(_sites(records, groups, split)):
            yield _adapted(records, groups, division, split, number)
    elif split.protocol == "holdout":
        test = _share(kinds, groups, everything, split, "test", 0)
        yield _Division(test, np.setdiff1d(everything, test))
    else:
        _enough(kinds, groups, everything, split.folds, split, f"split.folds = {split.folds}")
        yield from (_Division(test, np.setdiff1d(everything, test)) for test in _folds(kinds, groups, split))


def _folds(kinds: _Kinds, groups: Names, split: Split) -> list[Indices]:
    """Equal parts of all records, each with some of every kind that is needed, drawn again if one has not."""
    everything = np.arange(len(groups))
    if split.protocol == "paper":
        settings = {"n_splits": split.folds, "shuffle": True, "random_state": split.seed}
        return [test for _, test in StratifiedKFold(**settings).split(kinds.strata, kinds.strata)]
    for parts in _drawn(kinds, groups, everything, split.folds, split.seed):
        if all(kinds.are_in(test) and kinds.are_in(np.setdiff1d(everything, test)) for test in parts):
            return parts
    raise _uneven(kinds, f"each of split.folds = {split.folds} parts", "fewer folds")


def _drawn(kinds: _Kinds, groups: Names, among: Indices, count: int, seed: int) -> Iterator[list[Indices]]:
    """Some positions in equal parts, stratified, groups whole: by the seed, and then by others that follow from it."""
    strata = kinds.strata_for(count, groups, among)
    for attempt in range(ATTEMPTS):
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=(seed + attempt * 7919) % 2**32)
        yield [among[where] for _, where in folds.split(among, strata, groups[among])]


def _sites(records: Sequence[Record], groups: Names, split: Split) -> Iterator[_Division]:
    name = split.protocol
    if any(r.site is None for r in records):
        raise DataError(
            f"expected a site for each image under `{name}`, got none for some; fill in `site`, or train with "
            "--protocol grouped"
        )
    sites = np.array([r.site for r in records])
    if len(set(sites)) < 2:
        raise DataError(
            f"expected two or more sites under `{name}`, got {sites[0]} only; train with --protocol grouped"
        )
    first = dict(zip(reversed(groups), reversed(sites), strict=True))
    home = np.array([first[group] for group in groups])
    for site in sorted(set(home)):
        seen_there = np.isin(groups, groups[sites == site])
        yield _Division(np.flatnonzero(home == site), np.flatnonzero(~seen_there))


def _adapted(records: Sequence[Record], groups: Names, division: _Division, split: Split, number: int) -> _Division:
    """A site left out, of which `split.adapt` groups are learned from all the same."""
    there = np.unique(groups[division.test])
    if len(there) <= split.adapt:
        enough = "use `site`" if len(there) == 1 else f"set split.adapt = {len(there) - 1}"
        raise DataError(
            f"expected at least {split.adapt + 1} groups at site {records[division.test[0]].site} for split.adapt = "
            f"{split.adapt}, got {len(there)}; {enough}, or leave the images of that site out"
        )
    chosen = np.random.default_rng((split.seed, number)).choice(there, split.adapt, replace=False)
    learned = np.isin(groups[division.test], chosen)
    return _Division(division.test[~learned], division.rest, division.test[learned])


def _share(kinds: _Kinds, groups: Names, among: Indices, split: Split, name: str, number: int) -> Indices:
    """About `split.<name>` of some positions, stratified, groups whole: some of a few equal parts."""
    share = getattr(split, name)
    part = _fraction(share)
    _enough(kinds, groups, among, part.denominator, split, f"split.{name} = {share:g}")
    for parts in _drawn(kinds, groups, among, part.denominator, split.seed + number):
        chosen = np.sort(np.concatenate(parts[: part.numerator]))
        if kinds.are_in(chosen) and kinds.are_in(np.setdiff1d(among, chosen)):
            return chosen
    raise _uneven(kinds, f"the {name} part of fold {number} and the rest", f"another split.{name}")


def _fraction(share: float) -> Fraction:
    return Fraction(share).limit_denominator(max(5, round(1 / share)))


def _enough(kinds: _Kinds, groups: Names, among: Indices, wanted: int, split: Split, what: str) -> None:
    """Refuse if a kind that is needed has too few groups, with settings for which those suffice, if there are any.

    Where no kind is needed, there are to be enough groups of any kind.
    """
    needed = [kind for kind in np.unique(kinds.needed) if kind] or [""]
    counts = {kind: _groups_of(kinds, groups, among, kind) for kind in needed}
    few = {kind: count for kind, count in counts.items() if count < wanted}
    if few:
        everywhere = min(_groups_of(kinds, groups, np.arange(len(groups)), kind) for kind in few)
        named = f" {' and '.join(map(kinds.what.format, few))}" if any(few) else ""
        raise DataError(
            f"expected at least {wanted} groups{named} for {what}, got "
            f"{' and '.join(map(str, few.values()))}; {_advice(everywhere, min(few.values()), split)}"
        )


def _groups_of(kinds: _Kinds, groups: Names, among: Indices, kind: str) -> int:
    return len(np.unique(groups[among][kinds.needed[among] == kind]))


def _advice(count: int, left: int, split: Split) -> str:
    """Settings that need no more groups than there are.

    Args:
        count: groups of the rarest kind.
        left: of them, those that one fold may learn from, as far as they are known.
        split: the settings that need more.
    """
    if split.protocol in ("site", "adapt"):
        settings = _settings(split, validation=_nearest(split.validation, left))
    elif split.protocol == "holdout":
        test = _nearest(split.test, count)
        left = min(left, count - math.ceil(count * _fraction(test))) if test else 0
        settings = _settings(split, test=test, validation=_nearest(split.validation, left))
    else:
        folds = max(min(split.folds, count), 3 if count == 3 else 2)
        left = min(left, count - math.ceil(count / folds))
        settings = _settings(split, folds=folds, validation=_nearest(split.validation, left))
    if settings and count >= FEWEST:
        return f"set {settings}, or add data"
    return "no setting makes do with so few to train, select and test on; add data, or leave their images out"


def _nearest(share: float, groups: int) -> float | None:
    """The least share from here on that so few groups can be divided by; None: there is none."""
    shares = (share, *(hundredths / 100 for hundredths in range(math.ceil(100 * share), 50)))
    return next((share for share in shares if _fraction(share).denominator <= groups), None)


def _settings(split: Split, **wanted: float | None) -> str:
    """What to change, in words; nothing if one of the settings cannot be had."""
    if None in wanted.values():
        return ""
    return " and ".join(f"split.{name} = {value:g}" for name, value in wanted.items() if getattr(split, name) != value)


def _uneven(kinds: _Kinds, where: str, remedy: str) -> DataError:
    names = ", ".join(kinds.what.format(kind) for kind in np.unique(kinds.needed) if kind) or "of any kind"
    return DataError(
        f"expected images {names} in {where}, got groups too uneven for that in {ATTEMPTS} draws; use {remedy}, "
        "another split.seed, or add groups"
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
