from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from leanmed.audit import grouping
from leanmed.audit.grouping import conflicts, group_records, read_groups
from leanmed.data import read_records
from leanmed.errors import DataError
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.recipe.recipe import Split
from leanmed.records import Boxes, Record
from leanmed.runs import write_csv

Refused = Callable[..., AbstractContextManager[None]]


Make = Callable[..., Record]


@pytest.fixture
def record(tmp_path: Path) -> Make:
    """`record("a", "ill", "patient-1", content="x")`: a record whose file holds its content, else its name."""

    def make(name: str, target: str = "ill", group: str | None = None, content: str | None = None) -> Record:
        image = tmp_path / name
        image.write_text(content or name)
        return Record(id=name, image=image, target=target, group=group or name)

    return make


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty made eyelids, a third of them copies of others; the reader is told the photograph of each."""
    return PHANTOMS["eyelids"](tmp_path_factory.mktemp("copied") / "eyelids", count=40, copies=0.35, seed=3)


def test_the_reader_s_groups_stay_as_they_are(tmp_path: Path, record: Make) -> None:
    records = [record("a", group="x"), record("b", group="x"), record("c")]

    cache = tmp_path / "cache"
    found = group_records(records, Split(groups="reader"), cache, data_sha256="", tell=lambda line: None)

    assert found.records == records
    assert not cache.exists()


@pytest.mark.parametrize("groups", ["reader", "groups.csv"])
def test_the_first_note_says_whether_nobody_looked_for_copies(groups: str, tmp_path: Path, record: Make) -> None:
    records = [record("a"), record("b")]
    write_csv(tmp_path / "groups.csv", [{"image": name, "group": name} for name in "ab"])
    split = Split(groups=groups if groups == "reader" else str(tmp_path / groups))

    found = group_records(records, split, tmp_path, data_sha256="", tell=lambda line: None)

    assert found.notes()[0].startswith("Not audited: copies" if groups == "reader" else "2 images in 2 groups")


def test_given_groups_join_the_reader_s(tmp_path: Path, record: Make) -> None:
    """The reader ties a to b, the file b to c: all three become one group."""
    records = [record("a", group="x"), record("b", group="x"), record("c"), record("d")]
    file = tmp_path / "groups.csv"
    write_csv(file, [{"image": n, "group": g} for n, g in (("a", "1"), ("b", "2"), ("c", "2"), ("d", "4"))])

    found = group_records(records, Split(groups=str(file)), tmp_path, data_sha256="", tell=lambda line: None)

    groups = [r.group for r in found.records]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_an_audit_puts_copies_together_that_the_reader_did_not_know_of(copied: Path, tmp_path: Path) -> None:
    told = {r.id: r.group for r in read_records("folder", copied)}
    blind = [Record(id=r.id, image=r.image, target=r.target, group=r.id) for r in read_records("folder", copied)]

    found = group_records(blind, Split(), tmp_path, data_sha256="1" * 64, tell=lambda line: None)

    together = [(a, b) for a in found.records for b in found.records if a.id < b.id and a.group == b.group]
    wanted = {(a, b) for a in told for b in told if a < b and told[a] == told[b]}
    assert all(told[a.id] == told[b.id] for a, b in together)
    assert len(together) >= 0.8 * len(wanted) > 0


def test_the_audit_of_the_same_data_is_not_made_again(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = read_records("folder", copied)
    first = group_records(records, Split(), tmp_path, data_sha256="1" * 64, tell=lambda line: None)
    monkeypatch.setattr(grouping, "audit", None)

    again = group_records(records, Split(), tmp_path, data_sha256="1" * 64, tell=lambda line: None)

    assert again == first


def test_images_whose_copies_carry_another_label_are_dropped_and_counted(tmp_path: Path, record: Make) -> None:
    same = {"content": "one photograph"}
    records = [record("a", "ill", **same), record("b", "well", **same), record("c", "ill"), record("d", "well")]
    said: list[str] = []

    found = group_records(records, Split(groups="reader"), tmp_path, data_sha256="", tell=said.append)

    assert [r.id for r in found.records] == ["c", "d"]
    assert found.conflicting == ("a", "b")
    assert "2 images have a copy with another label; they were left out of training and scoring." in said


def test_a_patient_with_two_labels_is_no_conflict(tmp_path: Path, record: Make) -> None:
    """A benign and a malignant finding in one patient are two truths, not a contradiction."""
    records = [record("a", "benign", "patient-1"), record("b", "malignant", "patient-1")]

    found = group_records(records, Split(groups="reader"), tmp_path, data_sha256="", tell=lambda line: None)

    assert found.records == records
    assert not found.conflicting


def test_conflicts_can_be_kept(tmp_path: Path, record: Make) -> None:
    records = [record("a", "ill", content="x"), record("b", "well", content="x")]
    split = Split(groups="reader", conflicts="keep")

    found = group_records(records, split, tmp_path, data_sha256="", tell=lambda line: None)

    assert found.records == records
    assert set(found.conflicting) == {"a", "b"}


def test_a_groups_file_without_a_row_for_an_image_is_refused(tmp_path: Path, record: Make, refused: Refused) -> None:
    file = tmp_path / "groups.csv"
    write_csv(file, [{"image": "a", "group": "1"}])

    with refused(DataError, "expected a row for every image", "such as b", "leanmed audit"):
        read_groups(file, [record("a"), record("b")])


def test_boxes_of_copies_contradict_nothing(record: Make) -> None:
    boxes = {"a": (0.0, 0.0, 4.0, 4.0), "b": (1.0, 1.0, 5.0, 5.0)}
    pair = [replace(record(name, content="one"), group="g", target=Boxes((box,))) for name, box in boxes.items()]
    assert conflicts(pair) == set()
