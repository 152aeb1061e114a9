"""Places behind a URL. fsspec's own file system `local://` stands for an object store: it goes the way of `s3://`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from leanmed.errors import InputError, InputTooLarge, MissingExtraError, RunError, UnreadableInput
from leanmed.remote import at_hand, files_below, folder_at_hand, is_url, mirrored, place_of, remove, told

pytest.importorskip("upath", reason="needs the extra leanmed[ray]")


def behind(path: Path) -> Any:
    from upath import UPath

    return UPath(f"local://{path}", auto_mkdir=True)


@pytest.mark.parametrize(
    ("text", "url"),
    [("s3://b/x", True), ("S3:/x", True), ("a/b.png", False), ("c:/x", False), ("a//b", False)],
)
def test_a_url_has_a_scheme(text: str, url: bool):
    assert is_url(text) is url


@pytest.mark.parametrize("text", ["/a/b c.png", "file:///a/b%20c.png"])
def test_a_path_stays_a_path_and_a_url_of_this_machine_is_one(text: str):
    assert place_of(text) == Path("/a/b c.png")


def test_a_scheme_that_promises_no_whole_files_is_refused():
    with pytest.raises(RunError, match=r"expected a path, or a URL that begins with s3://.*got sftp://; mount"):
        place_of("sftp://host/x")


def test_the_package_of_a_scheme_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RunError, match="expected s3fs to be installed for s3://"):
        place_of("s3://bucket/x")


def test_a_url_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leanmed.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"leanmed\[ray\]"):
        place_of("s3://b/x")


def test_a_file_is_copied_with_its_ending_and_the_copy_goes(tmp_path: Path):
    (tmp_path / "a.nii.gz").write_bytes(b"123")
    with at_hand(behind(tmp_path / "a.nii.gz"), 3) as copy:
        assert (copy.name, copy.read_bytes()) == ("input.nii.gz", b"123")
    assert not copy.exists()


def test_a_file_that_is_too_large_is_not_copied_whole(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"1234")
    with pytest.raises(InputTooLarge, match="expected at most 3 bytes"), at_hand(behind(tmp_path / "a.png"), 3):
        pass


def test_a_missing_file_says_nothing_of_the_network(tmp_path: Path):
    with pytest.raises(UnreadableInput, match=r"a\.png.*found none"), at_hand(behind(tmp_path / "a.png"), 3):
        pass


def test_what_is_wrong_with_a_copy_is_told_of_the_url(tmp_path: Path):
    place = behind(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=f"^{place}: damaged$"), at_hand(place, 3) as copy:
        raise InputError(f"{copy}: damaged")


def test_what_a_package_raises_is_told_in_a_sentence(tmp_path: Path):
    said = r"expected to reach local://.*got ValueError: no bucket; check"
    with pytest.raises(RunError, match=said), told(behind(tmp_path)):
        raise ValueError("no\n bucket")


def test_files_come_folder_by_folder(tmp_path: Path):
    for name in ("b/2.png", "b/1.png", "a.png", "b/c/0.png", "d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_below(behind(tmp_path))
    assert ["/".join(parts) for _, parts in found] == ["a.png", "d.png", "b/1.png", "b/2.png", "b/c/0.png"]
    assert all(path.path == f"{tmp_path}/{'/'.join(parts)}" for path, parts in found)
    assert files_below(behind(tmp_path / "a.png")) == [(behind(tmp_path / "a.png"), ())]


@pytest.mark.parametrize("name", ["../../etc/passwd", "b//a.png", "./a.png", "x::y.png", "..\\a.png"])
def test_a_name_that_no_path_has_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = behind(tmp_path)
    monkeypatch.setattr(type(place.fs), "find", lambda self, path: [f"{path}/{name}"])
    with pytest.raises(RunError, match="which no path has; rename it"):
        files_below(place)


def test_a_folder_is_copied_with_its_files_if_it_has_the_one_that_is_wanted(tmp_path: Path):
    (tmp_path / "artifact" / "more").mkdir(parents=True)
    (tmp_path / "artifact" / "a.txt").write_text("a")
    with folder_at_hand(behind(tmp_path / "artifact"), "a.txt") as copy:
        assert [(path.name, path.read_text()) for path in copy.iterdir()] == [("a.txt", "a")]
    with (
        pytest.raises(RunError, match=f"expected a folder with b.txt at local://{tmp_path}/artifact, got none"),
        folder_at_hand(behind(tmp_path / "artifact"), "b.txt"),
    ):
        pass


def test_a_folder_with_far_too_many_files_is_not_copied(tmp_path: Path):
    for number in range(65):
        (tmp_path / str(number)).touch()
    with pytest.raises(RunError, match="at most 64 files beside 0"), folder_at_hand(behind(tmp_path), "0"):
        pass


def test_a_mirror_brings_and_sends_and_removes(tmp_path: Path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "else").write_text("somebody's")
    with mirrored(behind(tmp_path)) as work:
        work.fetch(["old", "kept", "new"])
        assert sorted(path.name for path in work.copy.iterdir()) == ["kept", "old"]
        (work.copy / "old").unlink()
        (work.copy / "more").mkdir()
        (work.copy / "more" / "new.done").write_text("new")
        work.send()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"kept", "else", "more/new.done"}


def test_markers_are_sent_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sent: list[str] = []
    place = behind(tmp_path)
    monkeypatch.setattr(type(place.fs), "put_file", lambda self, file, path: sent.append(Path(path).name))
    with mirrored(place) as work:
        for name in ("a.done", "b", "c"):
            (work.copy / name).touch()
        work.send()
    assert sent == ["b", "c", "a.done"]


def test_a_folder_on_disk_is_its_own_mirror(tmp_path: Path):
    with mirrored(tmp_path) as work:
        assert work.copy == tmp_path
        work.fetch(["a"])
        work.send()


def test_what_is_wrong_with_a_copy_in_a_mirror_is_told_of_the_folder(tmp_path: Path):
    with pytest.raises(RunError, match=f"^local://{tmp_path}/a is damaged$"), mirrored(behind(tmp_path)) as work:
        raise RunError(f"{work.copy / 'a'} is damaged")


def test_names_are_no_patterns(tmp_path: Path):
    for name in ("run1", "run[12]"):
        (tmp_path / name).write_text(name)
    remove(behind(tmp_path) / "run[12]")
    assert [path.name for path in tmp_path.iterdir()] == ["run1"]
    remove(behind(tmp_path) / "run[12]")


def test_what_may_not_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = behind(tmp_path) / "a"

    def refuse(self: Any, path: str) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(type(place.fs), "rm_file", refuse)
    with pytest.raises(RunError, match="got PermissionError: AccessDenied; check"):
        remove(place)
