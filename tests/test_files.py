from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Barrier

import pytest

from leanmed.errors import OutputError
from leanmed.files import (
    check_free,
    put_aside,
    sha256_bytes,
    sha256_file,
    sha256_json,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


class Interrupted(Exception):
    """Stands for whatever stops a writer."""


def interrupt(writer: AbstractContextManager[Path]) -> None:
    with writer as temporary:
        path = temporary / "new" if temporary.is_dir() else temporary
        path.write_text("half")
        raise Interrupted


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_file_appears_whole_in_a_folder_that_is_made_for_it(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "Größe\n")
    assert contents(tmp_path / "new") == {"a.txt": "Größe\n"}


def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(Interrupted):
        interrupt(whole_file(tmp_path / "a.txt"))
    assert contents(tmp_path) == {"a.txt": "old"}


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path, both = tmp_path / "a.txt", Barrier(2)

    def write(text: str) -> None:
        with whole_file(path) as temporary:
            temporary.write_text(text)
            both.wait(timeout=10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))
    assert contents(tmp_path) in ({"a.txt": "one"}, {"a.txt": "two"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_with_a_number_that_is_none_is_not_written(tmp_path, number):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"auc": number})
    assert contents(tmp_path) == {}


def test_json_is_written_for_people_to_read(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Größe"})
    assert contents(tmp_path) == {"a.json": '{\n "name": "Größe"\n}\n'}


def test_a_folder_appears_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert contents(tmp_path / "deep" / "out") == {"a": "a"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path, refused):
    write_text(tmp_path / "out" / "a", "mine")
    with refused(OutputError, "out to be new or empty", "it holds a; choose another --out"):
        interrupt(whole_folder(tmp_path / "out"))
    assert contents(tmp_path / "out") == {"a": "mine"}


def test_what_a_killed_process_left_behind_does_not_fill_a_folder(tmp_path, refused):
    write_text(tmp_path / "out" / ".a.txt.77-1.part", "half")
    check_free(tmp_path / "out")
    write_text(tmp_path / "out" / "download.part", "somebody's")
    with refused(OutputError, "out to be new or empty, but it holds download.part"):
        check_free(tmp_path / "out")
    check_free(tmp_path / "out", passed_over=lambda entry: entry.suffix == ".part")
    check_free(tmp_path / "new")


def test_a_file_is_not_replaced_by_a_folder(tmp_path, refused):
    write_text(tmp_path / "out", "mine")
    with refused(OutputError, "out to be new or empty, but it is a file"):
        interrupt(whole_folder(tmp_path / "out", replace=True))
    assert contents(tmp_path) == {"out": "mine"}


def test_a_replaced_folder_keeps_nothing_of_the_old_one(tmp_path):
    write_text(tmp_path / "out" / "old", "old")
    with whole_folder(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path / "out") == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    write_text(tmp_path / "out" / "old", "old")
    with pytest.raises(Interrupted):
        interrupt(whole_folder(tmp_path / "out", replace=True))
    assert contents(tmp_path / "out") == {"old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_entries_to_keep_move_to_the_folder_that_replaces_theirs(tmp_path):
    write_text(tmp_path / "out" / "old", "old")
    write_text(tmp_path / "out" / ".cache" / "a", "a")
    with whole_folder(tmp_path / "out", replace=True, keep=(".cache",)) as folder:
        (folder / "new").write_text("new")
        assert contents(tmp_path / "out" / ".cache") == {"a": "a"}
    assert contents(tmp_path / "out") == {"new": "new"}
    assert contents(tmp_path / "out" / ".cache") == {"a": "a"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_mount_point_cannot_be_renamed_and_what_it_holds_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    write_text(tmp_path / "out" / "old", "old")
    write_text(tmp_path / "out" / ".cache" / "a", "a")
    same = (tmp_path / "out").stat().st_ino
    with pytest.raises(Interrupted):
        interrupt(whole_folder(tmp_path / "out", replace=True))
    assert contents(tmp_path / "out") == {"old": "old"}
    with whole_folder(tmp_path / "out", replace=True, keep=(".cache",)) as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path / "out") == {"new": "new"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".cache", "new"]
    assert (tmp_path / "out").stat().st_ino == same
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def make_anew(path: Path, *, begun: bool) -> None:
    with put_aside(path, begun=lambda: begun):
        assert not path.exists()
        write_text(path / "new", "half")
        raise Interrupted


def test_what_was_put_aside_comes_back_when_the_new_one_fails_before_it_counts(tmp_path):
    write_text(tmp_path / "out" / "old", "old")
    with pytest.raises(Interrupted):
        make_anew(tmp_path / "out", begun=False)
    assert contents(tmp_path / "out") == {"old": "old"}
    with pytest.raises(Interrupted):
        make_anew(tmp_path / "out", begun=True)
    assert contents(tmp_path / "out") == {"new": "half"}
    with put_aside(tmp_path / "out"):
        write_text(tmp_path / "out" / "newest", "whole")
    assert contents(tmp_path / "out") == {"newest": "whole"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_link_points_to_is_replaced_and_not_the_link(tmp_path):
    write_text(tmp_path / "disk" / "out" / "old", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    with whole_folder(tmp_path / "link", replace=True) as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "disk" / "out") == {"new": "new"}


def test_a_writer_that_is_killed_leaves_no_output(tmp_path):
    code = """import os, signal, sys; from pathlib import Path
from leanmed.files import whole_file, whole_folder
out = Path(sys.argv[1])
with whole_file(out / "file") as file, whole_folder(out / "folder") as folder:
    file.write_text("half"); (folder / "a").write_text("half"); os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "folder").exists()


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == ABC


def test_the_hash_of_json_is_that_of_its_shortest_form_with_sorted_keys():
    assert sha256_json({"b": [1, 2.5], "a": "é"}) == sha256_bytes('{"a":"é","b":[1,2.5]}'.encode())
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1}) != sha256_json({"a": 1, "b": 2})
