"""Outputs that are written whole or not at all, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from leanmed.errors import DataError, LeanmedError


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
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which takes the name `path` only if the block ends well.

    Raises:
        DataError: `path` is a file, or a folder that holds something while `replace` is false.
    """
    path = path.resolve()  # what a link points to is replaced, and not the link
    check_free(path, passed_over=(lambda entry: True) if replace else None)
    temporary, old = _beside(path), path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():  # moved away and deleted later: at no moment is there half a folder
            shutil.rmtree(old, ignore_errors=True)
            path.replace(old)
        temporary.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(
    out: Path,
    *,
    passed_over: Callable[[Path], bool] | None = None,
    wanted: str = "new or empty",
    error: type[LeanmedError] = DataError,
) -> None:
    """Refuse a folder to write to that holds somebody's files, before any work is done.

    Args:
        out: the folder. It need not exist, and may be empty.
        passed_over: whether a file or folder in it does no harm; None: if a process that was killed left it behind.
        wanted: what it may be, for the message.
        error: what to raise.

    Raises:
        LeanmedError: of the class `error`: it is a file, or holds something.
    """
    passed_over = passed_over or is_leftover
    held = [] if not out.is_dir() else sorted(entry.name for entry in out.iterdir() if not passed_over(entry))
    if held or (out.exists() and not out.is_dir()):
        found = f"it holds {encodable(held[0])}" if held else "it is a file"
        raise error(f"expected --out {out} to be {wanted}, but {found}; choose another --out")


def is_leftover(path: Path) -> bool:
    """Whether a file is an unfinished one of `whole_file` or `whole_folder`, whose process was killed."""
    return path.name.startswith(".") and path.suffix == ".part"


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
