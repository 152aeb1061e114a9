"""The store: what was acknowledged is there, whole and once, whatever was sent and whenever the process ends."""

from __future__ import annotations

import errno
import os
import stat
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_fixtures import wedge_series
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from leanmed.dicom_node import inbox as module
from leanmed.dicom_node.inbox import Outcome, Series, Store
from leanmed.dicom_node.journal import is_uid, made_uid, reason_of, short_hash
from leanmed.dicom_node.listen import NOT_UNDERSTOOD, OUT_OF_RESOURCES, SUCCESS, stored
from leanmed.errors import InputTooLarge, UnreadableInput

DONE = Outcome(("one.dcm",), {}, 0.1)


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    return wedge_series(tmp_path / "series")


@pytest.fixture
def changed(slices: list[Path]) -> Callable[..., bytes]:
    """`changed(Keyword=value)`: the bytes of a slice with fields changed."""

    def change(**changes: Any) -> bytes:
        dataset = dcmread(slices[0])
        for keyword, value in changes.items():
            dataset[keyword]._value = value
        dataset.save_as(slices[0])
        return slices[0].read_bytes()

    return change


def put_all(store: Store, slices: list[Path]) -> Series:
    names = {store.put(path.read_bytes()).series for path in slices}
    (name,) = names
    return Series.at(store.root / "series" / name)


def test_objects_of_a_series_lie_in_one_folder_as_they_were_sent(inbox: Store, slices: list[Path]) -> None:
    series = put_all(inbox, slices)
    assert {path.read_bytes() for path in series.files} == {path.read_bytes() for path in slices}
    assert [one.id for one in inbox.all()] == [series.id]
    assert not [path for path in inbox.root.rglob("*") if path.name.startswith(".")]
    words = " ".join(str(path) for path in inbox.root.rglob("*"))
    assert "4711" not in words
    assert "Mustermann" not in words
    assert str(dcmread(slices[0]).SOPInstanceUID) not in words


def test_a_duplicate_is_taken_and_not_doubled(inbox: Store, slices: list[Path]) -> None:
    first, again = inbox.put(slices[0].read_bytes()), inbox.put(slices[0].read_bytes())
    assert (first.is_new, again.is_new) == (True, False)
    assert len(Series.at(inbox.root / "series" / first.series).files) == 1


@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "1.2/../3", "", "1" * 65, "1.2.3 4", "CON"])
def test_what_is_no_uid_is_refused_and_never_becomes_a_path(
    inbox: Store, changed: Callable[..., bytes], uid: str
) -> None:
    assert not is_uid(uid)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID"):
        content = changed(**{keyword: uid})
        assert stored(inbox, content) == (NOT_UNDERSTOOD, {"reason": "no DICOM object with UIDs that fit"})
    assert not list((inbox.root / "series").iterdir())


def test_an_object_that_is_not_the_one_announced_is_refused(inbox: Store, slices: list[Path]) -> None:
    content = slices[0].read_bytes()
    assert stored(inbox, content, "1.2.3")[0] == NOT_UNDERSTOOD
    assert stored(inbox, content, str(dcmread(slices[0]).SOPInstanceUID))[0] == SUCCESS


@pytest.mark.parametrize(
    "content", [b"", b"no DICOM at all", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 99]
)
def test_what_is_no_dicom_is_refused(inbox: Store, content: bytes) -> None:
    with pytest.raises(UnreadableInput):
        inbox.put(content)


def test_an_object_that_unfolds_beyond_the_limit_is_refused(tmp_path: Path, slices: list[Path]) -> None:
    dataset = dcmread(slices[0])
    dataset.PixelData = bytes(5_000_000)
    body = DicomBytesIO()
    body.is_implicit_VR, body.is_little_endian = False, True
    write_dataset(body, dataset)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = DicomBytesIO()
    head.is_implicit_VR, head.is_little_endian = False, True
    write_dataset(head, dataset.file_meta)
    content = bytes(128) + b"DICM" + head.getvalue() + packer.compress(body.getvalue()) + packer.flush()
    small = Store(tmp_path / "small", 1_000_000)
    with pytest.raises(InputTooLarge):
        small.put(content)
    assert stored(small, content)[0] == OUT_OF_RESOURCES


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_full_disk_is_out_of_resources_and_leaves_nothing(
    inbox: Store, slices: list[Path], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*about: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((module.os, "fsync") if at == "fsync" else (Path, "replace")), full)
    status, about = stored(inbox, slices[0].read_bytes())
    assert status == OUT_OF_RESOURCES == 0xA700
    assert about == {"reason": "the disk: No space left on device"}
    assert not [path for path in inbox.root.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert stored(inbox, slices[0].read_bytes())[0] == SUCCESS


def test_everything_is_on_the_disk_before_it_is_acknowledged(
    inbox: Store, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before it takes its name, its folder after."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(path, target)

    inbox.put(slices[0].read_bytes())
    monkeypatch.setattr(module.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    inbox.put(slices[1].read_bytes())
    assert calls == ["file", "rename", "folder"]


def test_the_states_of_a_series_follow_from_what_lies_in_its_folder(inbox: Store, slices: list[Path]) -> None:
    series = put_all(inbox, slices[:3])
    assert series.state == "received"
    assert [state for _, state in inbox.waiting()] == ["received"]
    series.keep({"one.dcm": b"an answer"}, DONE)
    assert (series.state, series.outcome) == ("answered", DONE)
    assert [state for _, state in inbox.waiting()] == ["answered"]
    series.mark_sent()
    assert (series.state, list(inbox.waiting())) == ("sent", [])
    more = put_all(inbox, slices)
    assert more.state == "received", "the answer was to fewer images"
    assert [one.names for one, _ in inbox.waiting()] == [more.names]
    more.keep({}, Outcome((), {"": "no rule"}, 0.1))
    assert (more.state, list(inbox.waiting())) == ("refused", [])
    more.forget_outcome()
    assert more.state == "received"


def test_answers_are_kept_whole_or_not_at_all(
    inbox: Store, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    series = put_all(inbox, slices)
    write = module.write_durably

    def full_at_the_second(path: Path, content: bytes) -> None:
        if path.name == "two.dcm":
            raise OSError(errno.ENOSPC, "full")
        write(path, content)

    monkeypatch.setattr(module, "write_durably", full_at_the_second)
    with pytest.raises(OSError, match="full"):
        series.keep({"one.dcm": b"1", "two.dcm": b"2"}, Outcome(("one.dcm", "two.dcm"), {}, 0.1))
    assert series.state == "received"
    assert not list((series.folder / "answers").iterdir())


def test_halves_that_a_killed_process_left_are_removed(inbox: Store, slices: list[Path]) -> None:
    series = put_all(inbox, slices)
    halves = [series.images / ".x.dcm.1-2.part", series.folder / "answers" / ".abc.part" / "one.dcm"]
    halves += [inbox.root / "wanted" / ".y.json.part", inbox.root / "series" / ".gone.part" / "images" / "a.dcm"]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
    assert [one.id for one in inbox.all()] == [series.id]
    inbox.clean()
    assert not [half for half in halves if half.exists()]
    assert len(series.files) == len(slices)


def test_a_series_is_removed_when_nothing_is_left_to_do_and_time_has_passed(inbox: Store, slices: list[Path]) -> None:
    series = put_all(inbox, slices)
    assert inbox.remove_ended(time.time() + 9) == [], "it was not answered"
    series.keep({"one.dcm": b"1"}, DONE)
    assert inbox.remove_ended(time.time() + 9) == [], "it was not sent"
    series.mark_sent()
    assert inbox.remove_ended(time.time() - 9) == [], "it was sent just now"
    assert inbox.remove_ended(time.time() + 9) == [series.id]
    assert not list((inbox.root / "series").iterdir())
    assert put_all(inbox, slices).state == "received"


def test_tries_are_counted_until_one_comes_to_an_end(inbox: Store, slices: list[Path]) -> None:
    series = put_all(inbox, slices)
    assert [series.begin(), series.begin()] == [1, 2]
    series.finish()
    assert series.begin() == 1


def test_studies_that_are_wanted_stay_wanted_until_they_came(inbox: Store) -> None:
    inbox.want("1.2.3")
    inbox.want("1.2.3")
    ((path, study),) = Store(inbox.root, 1).wanted()
    assert study == "1.2.3"
    assert "1.2.3" not in path.name
    path.unlink()
    assert not list(inbox.wanted())


def test_made_uids_are_uids_and_always_the_same() -> None:
    """2.25. and the integer of UUIDv5 of `leanmed`, a and b in lines, in the name space of OIDs."""
    assert made_uid("a", "b") == "2.25.33190342552775108957159120078471627533"
    assert made_uid("a", "b") != made_uid("ab")
    assert is_uid(made_uid("a", "b"))
    assert not any(map(is_uid, ("1.2.3\n", "\u0661.\u0662", "1.2\0", "")))
    assert short_hash("x") == "2d711642b726b04401627ca9fbac32f5"


def caused_by(cause: Exception, error: Exception) -> Exception:
    """An error as it is when it was raised from another."""
    error.__cause__ = cause
    return error


def test_reasons_are_our_own_words_without_uids_and_of_others_their_kind_alone() -> None:
    own, other = UnreadableInput("1.2.840.10008.5.1: expected a slice, got none"), ValueError("Mustermann")
    assert reason_of(caused_by(own, UnreadableInput("a.dcm: expected a slice"))) == "a.dcm: expected a slice"
    assert reason_of(own) == "UID: expected a slice, got none"
    assert reason_of(other) == "ValueError"
    assert reason_of(caused_by(other, UnreadableInput("of Mustermann"))) == "UnreadableInput of ValueError"
