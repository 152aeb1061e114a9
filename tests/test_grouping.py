from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from leanmed import grouping
from leanmed.config import Split
from leanmed.data import read_records
from leanmed.data.phantoms import PHANTOMS
from leanmed.errors import DataError
from leanmed.grouping import conflicts, group_records, read_groups
from leanmed.records import Record
from leanmed.runs import write_csv

Refused = Callable[..., AbstractContextManager[None]]


def record(name: str, target: str = "ill", group: str | None = None) -> Record:
    return Record(id=name, image=Path(name), target=target, group=group or name)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty made eyelids, a third of them copies of others; the reader is told the photograph of each."""
    return PHANTOMS["eyelids"](tmp_path_factory.mktemp("copied") / "eyelids", count=40, copies=0.35, seed=3)


def test_the_reader_s_groups_stay_as_they_are(tmp_path: Path) -> None:
    records = [record("a", group="x"), record("b", group="x"), record("c")]

    found = group_records(
        records, Split(groups="reader"), tmp_path, data_sha256="0" * 64, tell=lambda line: None
    )

    assert [r.group for r in found.records][0] == found.records[1].group != found.records[2].group
    assert not list(tmp_path.iterdir())


def test_given_groups_join_the_reader_s(tmp_path: Path) -> None:
    """The reader ties a to b, the file b to c: all three become one group."""
    records = [record("a", group="x"), record("b", group="x"), record("c"), record("d")]
    file = tmp_path / "groups.csv"
    write_csv(file, [{"image": n, "group": g} for n, g in (("a", "1"), ("b", "2"), ("c", "2"), ("d", "4"))])

    found = group_records(records, Split(groups=str(file)), tmp_path, data_sha256="", tell=lambda line: None)

    groups = [r.group for r in found.records]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_an_audit_puts_copies_together_that_the_reader_did_not_know_of(copied: Path, tmp_path: Path) -> None:
    told = {r.id: r.group for r in read_records("folder", copied)}
    blind = [
        Record(id=r.id, image=r.image, target=r.target, group=r.id) for r in read_records("folder", copied)
    ]

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


def test_images_whose_copies_carry_another_label_are_dropped_and_counted(tmp_path: Path) -> None:
    records = [record("a", "ill", "x"), record("b", "well", "x"), record("c", "ill"), record("d", "well")]
    said: list[str] = []

    found = group_records(records, Split(groups="reader"), tmp_path, data_sha256="", tell=said.append)

    assert [r.id for r in found.records] == ["c", "d"]
    assert found.conflicting == ("a", "b")
    assert "2 images have a copy with another label; they were left out of training and scoring." in said


def test_conflicts_can_be_kept(tmp_path: Path) -> None:
    records = [record("a", "ill", "x"), record("b", "well", "x")]

    found = group_records(
        records, Split(groups="reader", conflicts="keep"), tmp_path, data_sha256="", tell=lambda line: None
    )

    assert len(found.records) == 2
    assert conflicts(found.records) == {"a", "b"}


def test_a_groups_file_without_a_row_for_an_image_is_refused(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "groups.csv"
    write_csv(file, [{"image": "a", "group": "1"}])

    with refused(DataError, "expected a row for every image", "such as b", "leanmed audit"):
        read_groups(file, [record("a"), record("b")])
