"""What an audit costs from ten thousand images to a million, by features made directly.

    python scripts/measure_scale.py candidates --cache CACHE --count 10000 --count 100000 --count 1000000 --out FILE

CACHE is the cache of an audit, such as `audit-work/cache-10000` of `measure_audit.py scale`. Its features are mixed in
pairs into as many new images as are asked for; of ten images, the last is a copy of the first, in which 40 of 64
features are left, turned, larger and changed by noise. So the search for candidates, the one part of an audit whose
cost could grow faster than the number of images, is measured without reading a million files. The rest is linear: a
file is read once, and an image has at most eight candidates.

With `--searched 20`, every twentieth thousand of the images is looked up among all, and the time for all of them
follows from theirs.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from leanmed.audit import candidates
from leanmed.audit.describe import Features
from leanmed.audit.store import FILE
from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json

MADE_TOGETHER, LEFT = 10, 40  # images of which the last is a copy of the first, and the features left in it
NOISE = 12  # added to the numbers of a copy's descriptors, which are 0..255: at most
app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Keep `candidates` a command of its own, for more may follow."""


class Made:
    """Features of any number of images, the same for the same number, in no memory but that of the pool."""

    def __init__(self, cache: Path) -> None:
        rows = (
            sqlite3.connect(cache / FILE).execute("SELECT points, descriptors FROM image ORDER BY content").fetchall()
        )
        self.points = np.concatenate([np.frombuffer(row[0], np.float32).reshape(-1, 4) for row in rows])
        self.descriptors = np.concatenate([np.frombuffer(row[1], np.uint8).reshape(-1, 128) for row in rows])
        self.together = lru_cache(2)(self._together)
        self.seconds = 0.0  # of CPU that making them took, which is no part of an audit

    def read(self, numbers: Sequence[int]) -> Iterator[Features]:
        """As `find_candidates` asks for them."""
        for number in numbers:
            points, descriptors = self.together(number // MADE_TOGETHER)
            yield points[number % MADE_TOGETHER], descriptors[number % MADE_TOGETHER]

    def _together(self, block: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        begun = time.process_time()
        rng = np.random.default_rng(block)
        shape = (2, MADE_TOGETHER, candidates.INDEXED)
        first, second = rng.integers(len(self.points), size=shape)
        points, descriptors = self.points[first], self.descriptors[first] // 2 + self.descriptors[second] // 2
        noise = rng.integers(-NOISE, NOISE + 1, (LEFT, 128))
        descriptors[-1, :LEFT] = np.clip(descriptors[0, :LEFT] + noise, 0, 255)
        points[-1, :LEFT] = points[0, :LEFT] * np.float32([1, 1, 1.2, 1]) + np.float32([0, 0, 0, 30])
        self.seconds += time.process_time() - begun
        return points, descriptors


class Watch:
    """CPU seconds by stage, less those that making the features took, and the most memory."""

    def __init__(self, made: Made) -> None:
        self.made, self.process, self.peak = made, psutil.Process(), 0.0
        self.stages: dict[str, float] = {}
        self.begun, self.last = time.perf_counter(), self._now()

    def _now(self) -> float:
        return time.process_time() - self.made.seconds

    def advance(self, stage: str, done: int, total: int) -> None:
        """As `find_candidates` tells it; a stage's first call also bears what came before, such as the training."""
        now = self._now()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last, self.peak = now, max(self.peak, self.process.memory_info().rss / 2**20)


class SomeSearches:
    """In place of the search: looks up every `every`-th chunk of images only, and keeps count of its CPU seconds."""

    def __init__(self, every: int, search: Callable[..., Iterator[tuple[int, int]]]) -> None:
        self.every, self.search, self.seconds = every, search, 0.0

    def __call__(self, part: candidates._Coded, *index: object) -> list[tuple[int, int]]:
        """The partners of the images of a chunk, or none."""
        if part.owner[0] // candidates.CHUNK % self.every:
            return []
        begun = time.process_time()
        found = list(self.search(part, *index))
        self.seconds += time.process_time() - begun
        return found


@app.command("candidates")
def measure_candidates(
    cache: Annotated[Path, typer.Option()],
    count: Annotated[list[int], typer.Option()],
    out: Annotated[Path, typer.Option()],
    searched: int = 1,
) -> None:
    """Find candidates among so many images."""
    made = Made(cache)
    search = candidates._search
    for images in count:
        candidates._search = some = SomeSearches(searched, search)
        watch = Watch(made)
        pairs = set(candidates.find_candidates(images, made.read, watch.advance))
        starts = range(0, images, candidates.CHUNK * searched)
        looked_up = [n for start in starts for n in range(start, min(start + candidates.CHUNK, images), MADE_TOGETHER)]
        found = sum((n, n + MADE_TOGETHER - 1) in pairs for n in looked_up)
        share = len(looked_up) * MADE_TOGETHER / images
        searching = watch.stages["search"] + some.seconds * (1 / share - 1)
        cost = {"index": watch.stages["index"], "search": searching}
        row = {
            "command": shlex.join(["python", *sys.argv]),
            "images": images,
            "share of the images that was looked up": share,
            "CPU seconds": {stage: round(seconds, 1) for stage, seconds in cost.items()},
            "CPU milliseconds per image": round(1000 * sum(cost.values()) / images, 3),
            "seconds it ran": round(time.perf_counter() - watch.begun, 1),
            "peak memory MiB": round(watch.peak),
            "candidates per image": round(len(pairs) / share / images, 2),
            "copies found": round(found / len(looked_up), 4),
        }
        typer.echo(row)
        content = json.loads(out.read_text()) if out.is_file() else {}
        rows = content.get("audit", {}).get("candidates", {}) | {str(images): row}
        write_json(out, content | {"machine": machine(), "audit": content.get("audit", {}) | {"candidates": rows}})


if __name__ == "__main__":
    app()
