"""Which of a data set's images may calibrate, choose and test a compressed artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leanmed.audit.grouping import Known
from leanmed.audit.seen import Met
from leanmed.errors import DataError
from leanmed.manifest import Provenance, image_mark
from leanmed.records import Record

HALVED = (
    "None of the images here is known to be of this artifact's validation part: one half of the images new to it, by "
    "groups, chose among the attempts, and the other half gave the figures."
)
LEARNED = (
    "The model has learned from all of these images, so on new ones compression may cost more than is measured here; "
    "the figures in leanmed.json stay those of the float model. To measure on images it has not seen, give new ones "
    "with --data, or compress one fold of the run (leanmed export --fold 0)."
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
        validation: they choose among attempts; if `learned`, the model was trained on them too.
        test: they share no group with those above, and measure the one that was chosen, once. There may be none.
        notes: what a report must say of it.
        learned: no image is new to the artifact, and none was kept from it for validation.
    """

    training: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record]
    notes: tuple[str, ...] = ()
    learned: bool = False


def find_parts(origin: Provenance, known: Known, met: Met) -> Parts:
    """Sort records by what an artifact was made from.

    Args:
        origin: of the artifact.
        known: the data set, grouped.
        met: which of its images are new to the artifact.

    Raises:
        DataError: there is no image to choose with.
    """
    marks = {name: image_mark(content) for name, content in known.contents.items()}
    seen, selected, records = set(origin.seen_images), set(origin.selected_images), known.grouping.records
    training = [r for r in records if marks[r.id] in seen - selected]
    validation = [r for r in records if marks[r.id] in selected]
    new, notes = met.unseen, tuple(met.notes)
    if validation:
        return Parts(training, validation, new, notes if new else (NOTHING_NEW, *notes))
    if len({r.group for r in new}) >= 2:
        return Parts(training, *_halves(new), (HALVED, *notes))
    if origin.made == "fold" or len({r.group for r in training}) < 2:
        raise DataError(
            "expected images this artifact was validated on, or images new to it, to measure what compression costs; "
            f"of {len(records)} images, {len(training)} trained it and {len(new)} are new; give others with --data"
        )
    return Parts(*_halves(training), [], (LEARNED, *notes), learned=True)


def _halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Two halves of the groups, drawn at random."""
    groups = np.random.default_rng(0).permutation(sorted({r.group for r in records}))
    chosen = set(groups[: len(groups) // 2])
    return [r for r in records if r.group in chosen], [r for r in records if r.group not in chosen]


def sample_records(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` of the records, at random, in their order."""
    order = np.random.default_rng(0).permutation(len(records))[:count]
    return [records[i] for i in sorted(order)]
