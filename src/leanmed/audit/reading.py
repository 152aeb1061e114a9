"""Files -> descriptions in the store, by several processes; and stored descriptions, read back by each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

import cv2

from leanmed import cluster
from leanmed.audit.describe import Description, describe
from leanmed.audit.store import Store
from leanmed.audit.threads import blas_threads, single_threaded
from leanmed.console import Progress
from leanmed.errors import InputError
from leanmed.files import sha256_file
from leanmed.reading.images import DEFAULT_LIMITS, read_image
from leanmed.remote import Place, at_hand, exists

AHEAD = 8  # batches under way at a time, so that memory stays small
BATCH = 64
REMEMBERED = 2000  # descriptions that a process keeps, about 60 kB each

Job = TypeVar("Job")
Result = TypeVar("Result")
Item = TypeVar("Item")
Described = tuple[dict[str, Description], dict[str, str], dict[str, str]]  # by content; id -> content; id -> reason


class _Worker:
    """What one process holds: its own connection to the store, and the descriptions it used last."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.description = lru_cache(REMEMBERED)(lambda content: next(self.store.get([content])))


_worker: _Worker | None = None


def worker() -> _Worker:
    """This process's worker; `processes` starts it."""
    if _worker is None:
        raise RuntimeError("no worker: call inside `with processes(...)`")
    return _worker


def _start_process(folder: Path) -> None:
    _start_alone()
    _start(folder)


def _start_alone() -> None:
    """Let this process, one of several, take one thread, and end with the one that started it."""
    single_threaded()
    cv2.setNumThreads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _start(folder: Path) -> None:
    global _worker
    cv2.setNumThreads(1)
    _worker = _Worker(folder)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next job for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def processes(count: int, folder: Path) -> Iterator[Executor | None]:
    """A pool of so many workers on the store in `folder`; for one, None, and this process is the worker."""
    global _worker
    threads = cv2.getNumThreads()
    if count > 1:
        with ProcessPoolExecutor(count, get_context("spawn"), _start_process, (folder,)) as pool:
            yield pool
        return
    _start(folder)
    try:
        with blas_threads(1):
            yield None
    finally:
        worker().store.close()
        _worker = None
        cv2.setNumThreads(threads)


def run(pool: Executor | None, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """The results of the jobs, in order."""
    if pool is None:
        yield from map(work, jobs)
        return
    under_way = []
    for job in jobs:
        under_way.append(pool.submit(work, job))
        if len(under_way) >= AHEAD:
            yield under_way.pop(0).result()
    for future in under_way:
        yield future.result()


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, `BATCH` at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def describe_all(
    images: Sequence[tuple[str, Place]],
    store: Store,
    pool: Executor | None,
    progress: Progress,
    engine: str | None = None,
    workers: int = 0,
) -> tuple[dict[str, str], dict[str, str]]:
    """Describe what the store lacks: id -> content hash of what can be read, id -> reason of the rest.

    With an engine, so many of its workers read the files (0: one for each of its cores). Only this process writes to
    the store.
    """
    contents: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for described, read, failed in _described(images, store, pool, engine, workers):
        store.put(described.items())
        contents |= read
        unreadable |= failed
        progress("read", len(contents) + len(unreadable), len(images))
    return contents, unreadable


def _described(
    images: Sequence[tuple[str, Place]], store: Store, pool: Executor | None, engine: str | None, workers: int
) -> Iterator[Described]:
    if engine is None:
        return run(pool, _describe_batch, batches(images))
    seen = next((path for _, path in images if exists(path)), None)
    make = partial(Describer, store.contents(), seen)
    here = Path.cwd() if any(isinstance(path, Path) for _, path in images) else None
    return cluster.run(make, list(batches(images)), workers=workers, packages=["opencv-python-headless"], folder=here)


def _describe_batch(images: Sequence[tuple[str, Place]]) -> Described:
    return _describe(images, worker().store)


def _describe(images: Sequence[tuple[str, Place]], known: Store | frozenset[str]) -> Described:
    described: dict[str, Description] = {}
    read: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, path in images:
        try:
            with at_hand(path, DEFAULT_LIMITS.max_bytes) as file:
                content = _content(file)
                if content not in described and content not in known:
                    described[content] = describe(read_image(file))
            read[name] = content
        except (InputError, OSError) as error:
            failed[name] = str(error)
    return described, read, failed


class Describer:
    """Describes images on a worker of a cluster, in a process of its own, so that a file which ends it can be named.

    Args:
        known: contents that are described already.
        seen: a file that the driver sees.

    Raises:
        RunError: this machine does not see it.
    """

    def __init__(self, known: frozenset[str], seen: Place | None) -> None:
        if seen is not None:
            cluster.check_seen(seen)
        self.known = known
        self.process = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), _start_reader, (self.known,))

    def __call__(self, images: Sequence[tuple[str, Place]]) -> Described:
        """Describe a batch; where the process ends, one image after the other."""
        try:
            return self.process.submit(_describe_new, images).result()
        except BrokenProcessPool:
            self.process = self._start()
        if len(images) == 1:
            name, path = images[0]
            return {}, {}, {name: f"expected to read {path}, but the process that did so ended; remove the file"}
        described: dict[str, Description] = {}
        read: dict[str, str] = {}
        failed: dict[str, str] = {}
        for image in images:
            more = self([image])
            described |= more[0]
            read |= more[1]
            failed |= more[2]
        return described, read, failed


_known: frozenset[str] = frozenset()


def _start_reader(known: frozenset[str]) -> None:
    global _known
    _known = known
    _start_alone()


def _describe_new(images: Sequence[tuple[str, Place]]) -> Described:
    return _describe(images, _known)


def _content(path: Path) -> str:
    if not path.is_file():
        read_image(path)  # which says what is wrong, and does not wait for a pipe as hashing would
    return sha256_file(path)
