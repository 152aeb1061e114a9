"""Outputs that are written whole or not at all, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from leanmed.errors import OutputError

DESKTOP = (".DS_Store", "Thumbs.db", "desktop.ini")  # what macOS and Windows put into folders that are looked at


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes the name `path` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False, keep: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder, which takes the name `path` only if the block ends well.

    It lies beside `path`, or within it where `path` cannot be renamed: a mount point, as in a container.

    Args:
        path: the folder to write.
        replace: put it in the place of what `path` holds, which is deleted.
        keep: names of entries that move from the old folder to the new one.

    Raises:
        OutputError: `path` is a file, or a folder that holds something while `replace` is false.
    """
    path = path.resolve()  # what a link points to is replaced, and not the link
    check_free(path, passed_over=(lambda entry: True) if replace else None)
    fixed = path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK))
    temporary = path / _beside(path).name if fixed else _beside(path)
    old = temporary.with_suffix(".old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        # What is there is moved away and deleted later: at no moment is there half a folder, or half of each.
        shutil.rmtree(old, ignore_errors=True)
        if fixed:
            _move_entries(path, old, but=(temporary.name, *keep))
            _move_entries(temporary, path)
        else:
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            _move_entries(old, path, only=keep)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_entries(
    source: Path, target: Path, *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> None:
    """Move what lies in one folder, or some of it, to another on the same disk."""
    for entry in list(source.iterdir()) if source.is_dir() else []:
        if entry.name not in but and (only is None or entry.name in only):
            target.mkdir(exist_ok=True)
            entry.replace(target / entry.name)


@contextmanager
def put_aside(path: Path, *, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Move away what is at `path` while the block makes it anew; it comes back if the block fails.

    A process that is killed leaves it beside `path`, in a folder whose name begins with a dot and ends in `.old`.

    Args:
        path: a folder; it need not exist.
        begun: says after a failure whether the new one has come so far that it takes the old one's place all the same.
    """
    path = path.resolve()
    old = _beside(path).with_suffix(".old")
    if path.exists():
        path.replace(old)
    try:
        yield
    except BaseException:
        if not begun():
            shutil.rmtree(path, ignore_errors=True)
            if old.exists():
                old.replace(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_free(out: Path, *, passed_over: Callable[[Path], bool] | None = None) -> None:
    """Refuse a folder to write to that holds somebody's files, before any work is done.

    Args:
        out: the folder. It need not exist, and may be empty.
        passed_over: whether a file or folder in it does no harm; None: see `is_leftover`.

    Raises:
        OutputError: it is a file, or holds something.
    """
    passed_over = passed_over or is_leftover
    held = [] if not out.is_dir() else sorted(entry.name for entry in out.iterdir() if not passed_over(entry))
    if held or (out.exists() and not out.is_dir()):
        found = f"it holds {encodable(held[0])}" if held else "it is a file"
        raise OutputError(f"expected --out {out} to be new or empty, but {found}; choose another --out")


def is_leftover(path: Path) -> bool:
    """Whether nobody misses a file: an unfinished one of a process that was killed, or one that a desktop makes."""
    return path.name in DESKTOP or (path.name.startswith(".") and path.suffix == ".part")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole, readable by people.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON does not know.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def defined(value: Any) -> Any:
    """What JSON can hold: dataclasses and arrays become plain, and numbers that are none become null."""
    if is_dataclass(value):
        value = vars(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {encodable(str(k)): defined(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [defined(v) for v in value]
    if isinstance(value, str):
        return encodable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encodable(text: str) -> str:
    """File names may hold bytes that are no UTF-8; they are shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def sha256_bytes(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_bytes(text.encode())
