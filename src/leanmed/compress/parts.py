"""Which of a data set's images may calibrate, choose and test a compressed artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leanmed.audit.grouping import Grouping, absent, share_nothing
from leanmed.errors import DataError
from leanmed.manifest import Provenance, image_mark
from leanmed.records import Record

OLD = (
    "This artifact does not say which of its images were its validation part, or none of them is here: one half of the "
    "images new to it, by groups, chose among the attempts, and the other half gave the figures."
)
NOTHING_NEW = (
    "No image here is new to this artifact: the figures are those of its validation images, which also chose among "
    "the attempts."
)


@dataclass(frozen=True)
class Parts:
    """Images by what they may be used for.

    Args:
        training: the network learned from them; they calibrate.
        validation: they choose among attempts.
        test: they share no group with those above, and measure the one that was chosen, once. There may be none.
        notes: what a report must say of it.
    """

    training: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record]
    notes: tuple[str, ...] = ()


def find_parts(origin: Provenance, grouping: Grouping, contents: Mapping[str, str]) -> Parts:
    """Sort records by what an artifact was made from.

    Args:
        origin: of the artifact.
        grouping: of the data set.
        contents: record id -> SHA-256 of its image file.

    Raises:
        DataError: there is no image to choose with.
    """
    known = {name: image_mark(content) for name, content in contents.items()}
    seen, selected = set(origin.seen_images), set(origin.selected_images)
    records = grouping.records
    training = [r for r in records if known[r.id] in seen - selected]
    validation = [r for r in records if known[r.id] in selected]
    new = share_nothing(grouping, lambda r: known[r.id] in seen)
    notes = tuple(absent(seen, list(known.values())))
    if validation:
        return Parts(training, validation, new, notes if new else (NOTHING_NEW, *notes))
    if len({r.group for r in new}) < 2:
        raise DataError(
            "expected images this artifact was validated on, or images new to it, to measure what compression costs; "
            f"of {len(records)} images, {len(training)} trained it and {len(new)} are new; give others with --data"
        )
    return Parts(training, *_halves(new), (OLD, *notes))


def _halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Two halves of the groups, drawn at random."""
    groups = np.random.default_rng(0).permutation(sorted({r.group for r in records}))
    chosen = set(groups[: len(groups) // 2])
    return [r for r in records if r.group in chosen], [r for r in records if r.group not in chosen]


def sample_records(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` of the records, at random, in their order."""
    order = np.random.default_rng(0).permutation(len(records))[:count]
    return [records[i] for i in sorted(order)]
