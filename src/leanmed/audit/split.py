"""Does a test set share a photograph, or a patient, with its training set?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leanmed.audit.engine import audit
from leanmed.audit.findings import Pair
from leanmed.audit.groups import joined
from leanmed.console import Progress, silent
from leanmed.records import Record

TRAIN, TEST = "train:", "test:"  # so that an image may have the same id on both sides


@dataclass(frozen=True)
class Leaked:
    """A test image that training has seen.

    Args:
        image: its id in the test set.
        copies: ids of the training images that show the same photograph.
        siblings: ids of further training images of the same group: patient, scan or what the reader knows, joined
            with the photographs; so a patient's images all leak if one of them has a copy in training.
    """

    image: str
    copies: tuple[str, ...]
    siblings: tuple[str, ...]


@dataclass(frozen=True)
class LeakedPair:
    """A test image and an image of training that it must not be kept apart from.

    Args:
        test, train: their ids.
        kind: `copy` or `sibling`, as in `Leaked`.
        verified: what the pixels say; None of a sibling, and of a copy by way of another image.
    """

    test: str
    train: str
    kind: str
    verified: Pair | None = None


@dataclass(frozen=True)
class SplitFindings:
    """What an audit of a split found.

    Args:
        leaked: the test images that training has seen, in the order of the test set.
        verified: (test image, training image) -> the pair, `a` being the test image, where the pixels were compared.
        unreadable: name of a file, with its side before it -> reason; these were not compared.
    """

    leaked: tuple[Leaked, ...]
    verified: Mapping[tuple[str, str], Pair]
    unreadable: Mapping[str, str]

    def pairs(self) -> Iterator[LeakedPair]:
        """Every pair, by test image, its copies before its siblings."""
        for leak in self.leaked:
            yield from (LeakedPair(leak.image, i, "copy", self.verified.get((leak.image, i))) for i in leak.copies)
            yield from (LeakedPair(leak.image, i, "sibling") for i in leak.siblings)


def split_check(
    train: Sequence[Record],
    test: Sequence[Record],
    *,
    cache: Path | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> SplitFindings:
    """The test images that have a copy or a sibling in training.

    The arguments after the records are those of `audit`.

    Raises:
        DataError: no image that can be read, or an id that stands twice on one side.
    """
    images = [(TRAIN + r.id, r.image) for r in train] + [(TEST + r.id, r.image) for r in test]
    found = audit(images, cache=cache, workers=workers, progress=progress)
    named = {TRAIN + r.id: r.group for r in train} | {TEST + r.id: r.group for r in test}
    group = joined(named, found.groups)
    by_photograph: dict[str, list[str]] = {}
    by_group: dict[str, list[str]] = {}
    for record in train:
        by_photograph.setdefault(found.groups.get(TRAIN + record.id, ""), []).append(record.id)
        by_group.setdefault(group[TRAIN + record.id], []).append(record.id)
    leaked = []
    for record in test:
        photograph = found.groups.get(TEST + record.id)
        copies = by_photograph.get(photograph, []) if photograph else []
        siblings = [image for image in by_group.get(group[TEST + record.id], []) if image not in copies]
        if copies or siblings:
            leaked.append(Leaked(record.id, tuple(copies), tuple(siblings)))
    return SplitFindings(tuple(leaked), dict(_across(found.pairs)), found.unreadable)


def _across(pairs: Sequence[Pair]) -> Iterator[tuple[tuple[str, str], Pair]]:
    """Those of the pairs that have an image on both sides; in their order, `test:` comes before `train:`."""
    for pair in pairs:
        if pair.a.startswith(TEST) and pair.b.startswith(TRAIN):
            test, training = pair.a.removeprefix(TEST), pair.b.removeprefix(TRAIN)
            yield (test, training), replace(pair, a=test, b=training)
