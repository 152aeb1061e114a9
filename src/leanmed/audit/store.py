"""Descriptions on disk, by content hash, so that an audit that was stopped goes on where it stood.

One SQLite file: whatever has been committed survives a killed process, and any description is read by itself,
so that memory does not grow with the number of images.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from leanmed.audit.describe import VERSION, Description, Facts, Features
from leanmed.errors import DataError

FILE = f"descriptions-{VERSION}.sqlite"
_COLUMNS = (
    "content TEXT PRIMARY KEY, pixels TEXT, height INT, width INT, tissue REAL, mean REAL, deviation REAL, "
    "left REAL, top REAL, scale_x REAL, scale_y REAL, rows INT, columns INT, "
    "grey BLOB, mask BLOB, points BLOB, descriptors BLOB"
)
_BATCH = 500  # SQLite allows 999 parameters in a statement


class Store:
    """Descriptions by content hash. Each process opens its own.

    Raises:
        DataError: a file of that name which is no such store.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / FILE, timeout=60)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"CREATE TABLE IF NOT EXISTS image ({_COLUMNS})")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(
                f"expected {folder / FILE} to hold descriptions of images, but reading it failed ({error}); delete it"
            ) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __contains__(self, content: str) -> bool:
        return self._db.execute("SELECT 1 FROM image WHERE content = ?", (content,)).fetchone() is not None

    def contents(self) -> frozenset[str]:
        """All that is described."""
        return frozenset(content for (content,) in self._db.execute("SELECT content FROM image"))

    def facts(self, contents: Sequence[str]) -> Iterator[Facts]:
        """The facts of these contents, in their order; a content that is not described is a KeyError."""
        names = "pixels, height, width, tissue, mean, deviation"
        for row in self._rows(names, contents):
            yield Facts(*row)

    def put(self, described: Iterable[tuple[str, Description]]) -> None:
        """Add descriptions and commit them."""
        rows = [_to_row(content, description) for content, description in described]
        marks = ",".join("?" * len(_COLUMNS.split(", ")))
        with self._db:
            self._db.executemany(f"INSERT OR REPLACE INTO image VALUES ({marks})", rows)  # noqa: S608 (no input)

    def features(self, contents: Sequence[str]) -> Iterator[Features]:
        """Points and descriptors of these contents, in their order, without their pictures."""
        for points, descriptors in self._rows("points, descriptors", contents):
            yield _features(points, descriptors)

    def get(self, contents: Sequence[str]) -> Iterator[Description]:
        """The descriptions of these contents, in their order; one that is not described is a KeyError."""
        for row in self._rows("*", contents):
            yield _from_row(row[1:])

    def _rows(self, columns: str, contents: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(contents), _BATCH):
            part = contents[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            query = f"SELECT content, {columns} FROM image WHERE content IN ({marks})"  # noqa: S608 (no input)
            found = {content: rest for content, *rest in self._db.execute(query, part)}
            yield from (found[content] for content in part)


def _to_row(content: str, d: Description) -> tuple[Any, ...]:
    grey, mask = zlib.compress(d.grey.tobytes(), 1), zlib.compress(np.packbits(d.mask).tobytes(), 1)
    arrays = (grey, mask, d.points.tobytes(), d.descriptors.tobytes())
    return (content, *astuple(d.facts), *d.frame, *d.grey.shape, *arrays)


def _from_row(row: Sequence[Any]) -> Description:
    facts, frame, (h, w), (grey, mask, points, descriptors) = row[:6], row[6:10], row[10:12], row[12:]
    bits, found = np.frombuffer(zlib.decompress(mask), np.uint8), _features(points, descriptors)
    return Description(
        facts=Facts(*facts),
        frame=(frame[0], frame[1], frame[2], frame[3]),
        grey=np.frombuffer(zlib.decompress(grey), np.uint8).reshape(h, w),
        mask=np.unpackbits(bits, count=h * w).reshape(h, w).astype(np.bool_),
        points=found[0],
        descriptors=found[1],
    )


def _features(points: bytes, descriptors: bytes) -> Features:
    return np.frombuffer(points, np.float32).reshape(-1, 4), np.frombuffer(descriptors, np.uint8).reshape(-1, 128)
