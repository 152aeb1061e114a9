"""Which images calibrate, choose and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from made_artifacts import LABELS, made_manifest, made_records

from leanmed.audit.grouping import Grouping, Known
from leanmed.audit.seen import meet
from leanmed.compress.parts import Parts, find_parts, sample_records
from leanmed.errors import DataError
from leanmed.manifest import Provenance
from leanmed.records import Record

RECORDS = made_records([LABELS[k % 2] for k in range(12)])
CONTENTS = {record.id: f"{int(record.id):064x}"[::-1] for record in RECORDS}  # the first digits tell them apart


def origin(seen: range, selected: range = range(0)) -> Provenance:
    hashes = [CONTENTS[str(k)][:16] for k in range(12)]
    known = {"seen_images": tuple(hashes[k] for k in seen), "selected_images": tuple(hashes[k] for k in selected)}
    return made_manifest().provenance.model_copy(update=known)


def together(records: list[Record]) -> Grouping:
    return Grouping(records, (), False, "as given")


def sorted_parts(made_of: Provenance, grouping: Grouping) -> Parts:
    known = Known(grouping, CONTENTS, "")
    return find_parts(made_of, known, meet(known, made_of, b"", None))


def ids(records: Any) -> list[int]:
    return [int(record.id) for record in records]


def test_training_calibrates_validation_chooses_and_new_images_test() -> None:
    parts = sorted_parts(origin(range(9), range(6, 9)), together(RECORDS))
    assert ids(parts.training) == [0, 1, 2, 3, 4, 5]
    assert ids(parts.validation) == [6, 7, 8]
    assert ids(parts.test) == [9, 10, 11]
    assert parts.notes == ()


def test_an_artifact_without_its_validation_part_is_chosen_on_one_half_of_the_new_images_and_tested_on_the_other() -> (
    None
):
    pairs = [replace(record, group=f"pair {int(record.id) // 2}") for record in RECORDS]
    parts = sorted_parts(origin(range(4)), together(pairs))
    assert ids(parts.training) == [0, 1, 2, 3]
    assert sorted(ids(parts.validation) + ids(parts.test)) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert len(parts.validation) == len(parts.test) == 4
    assert not {r.group for r in parts.validation} & {r.group for r in parts.test}
    assert "one half of the images new to it" in parts.notes[0]


def test_images_of_a_group_that_was_seen_do_not_test() -> None:
    siblings = [replace(record, group="seen") if int(record.id) in (0, 10) else record for record in RECORDS]
    assert ids(sorted_parts(origin(range(9), range(6, 9)), together(siblings)).test) == [9, 11]


def test_with_nothing_new_the_figures_are_the_validation_images_and_the_note_says_so() -> None:
    parts = sorted_parts(origin(range(12), range(8, 12)), together(RECORDS))
    assert ids(parts.validation) == [8, 9, 10, 11]
    assert parts.test == []
    assert "also chose" in parts.notes[0]


@pytest.mark.parametrize("made", ["refit", "ensemble"])
def test_a_model_of_all_images_is_compressed_on_images_it_knows_and_the_note_says_so(made: Any) -> None:
    pairs = [replace(record, group=f"pair {int(record.id) // 2}") for record in RECORDS]
    whole = origin(range(12)).model_copy(update={"made": made, "fold": None})
    parts = sorted_parts(whole, together(pairs))
    assert sorted(ids(parts.training) + ids(parts.validation)) == list(range(12))
    assert not {r.group for r in parts.training} & {r.group for r in parts.validation}
    assert (parts.test, parts.learned) == ([], True)
    assert "has learned from all of these images" in parts.notes[0]
    assert not sorted_parts(origin(range(4)).model_copy(update={"made": made}), together(pairs)).learned


def test_without_images_to_choose_with_nothing_is_done(refused: Callable[..., Any]) -> None:
    with refused(DataError, "of 12 images, 12 trained it and 0 are new", "--data"):
        sorted_parts(origin(range(12)), together(RECORDS))


@pytest.mark.parametrize(("count", "drawn"), [(5, 5), (12, 12), (100, 12), (0, 0)])
def test_draws_are_without_repetition_and_the_same_each_time(count: int, drawn: int) -> None:
    found: list[Record] = sample_records(RECORDS, count)
    assert len(set(ids(found))) == drawn
    assert found == sample_records(RECORDS, count)
