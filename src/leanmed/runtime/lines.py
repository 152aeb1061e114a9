"""Answers as lines of JSON: what `predict` writes, what a run keeps of its folds, and what `evaluate` reads.

A line holds `input`, and either an answer as its kind of task writes it or `error`, the reason why there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leanmed.errors import DataError
from leanmed.files import encodable, whole_file
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, ScanAnswer

MAX_LINE_BYTES = 2**24


def line_of(name: str, answer: Answer | ScanAnswer, **about: Any) -> dict[str, Any]:
    """The line of one answer.

    Args:
        name: of the input.
        answer: to it.
        about: what else the line says, such as which artifact answered.
    """
    return {"input": name, **answer.as_json(), **about}


def as_text(line: Mapping[str, Any]) -> str:
    """A line as it is written, its end included."""
    return json.dumps(line, ensure_ascii=False) + "\n"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A file of answers, written whole, one line at a time."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(encodable(as_text(line)))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of answers, one at a time; empty ones are passed over.

    Raises:
        DataError: a line is too long, or no JSON object with `input`.
    """
    with path.open("rb") as file:
        number = 0
        while content := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(content) > MAX_LINE_BYTES:
                raise DataError(f"{path}, line {number}: expected at most {MAX_LINE_BYTES:,} bytes, got more; split it")
            if content.strip():
                yield _parsed(content, f"{path}, line {number}")


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(content)
        if not isinstance(line, dict) or not isinstance(line.get("input"), str):
            raise ValueError("no object with `input`, a text")
    except (ValueError, RecursionError) as error:
        shown = content[:50].decode(errors="replace") if isinstance(content, bytes) else content[:50]
        raise DataError(
            f"{where}: expected an answer as a line of JSON, got {shown!r} ({error}); give answers as leanmed predict "
            "writes them to a name that ends in .jsonl, or correct the line"
        ) from error
    return line


def kind_of(line: Mapping[str, Any]) -> str | None:
    """The kind of task that a line answers; None: none that is known."""
    return next((name for name, kind in TASKS.items() if kind.answer.is_answer(line)), None)
