"""The audit: files -> descriptions -> candidate pairs -> verified pairs -> groups."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np

from leanmed.audit.candidates import find_candidates
from leanmed.audit.describe import Matrix
from leanmed.audit.findings import Findings, Pair
from leanmed.audit.geometry import flattened, inverse
from leanmed.audit.groups import components, maps_from
from leanmed.audit.reading import batches, describe_all, processes, run, worker
from leanmed.audit.store import Store
from leanmed.audit.verify import compare, compare_along
from leanmed.console import Progress, silent
from leanmed.cores import available_cores
from leanmed.errors import DataError
from leanmed.remote import Place

ALL_PAIRS = 64  # images in a group, up to which every pair in it is compared and reported
ALONE = 256  # images, below which starting further processes takes longer than it saves

Known = dict[tuple[int, int], tuple[float, Matrix]]  # numbers i < j of two copies -> score and map i -> j
Job = tuple[int, int, str, str, Matrix | None]  # numbers and contents of two images; the map, if known


def audit(
    images: Sequence[tuple[str, Place]],
    *,
    cache: Path | None = None,
    workers: int = 2,
    engine: str | None = None,
    progress: Progress = silent,
) -> Findings:
    """Find copies among images: one photograph flipped, turned, cropped, shifted, scaled or encoded again.

    The same files give the same findings, whatever their order.

    Args:
        images: (id, file); ids are unique. Files behind a URL are copied here one after the other.
        cache: a folder for descriptions, from which a stopped audit resumes; None keeps none.
        workers: processes that read and compare; 0: one per core. More than one are started anew, so a script that
            asks for them does so under `if __name__ == "__main__":`.
        engine: `ray`: so many workers of a cluster read the files (see `leanmed.cluster.run`), and all else is done
            here. None: the processes do.
        progress: called with stage (read, index, search, compare), done and total.

    Raises:
        DataError: no image, none that can be read, or an id that stands twice.
        RunError: as of `leanmed.cluster.run`; a worker that does not see the files; a URL that cannot be reached.
    """
    _check_ids([name for name, _ in images])
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leanmed-audit-")))
        store = stack.enter_context(Store(folder))
        count = (workers or available_cores()) if len(images) >= ALONE else 1
        pool = stack.enter_context(processes(count, folder))
        contents, unreadable = describe_all(sorted(images), store, pool, progress, engine, workers)
        if not contents:
            reason = next(iter(unreadable.values()))
            raise DataError(f"expected images to audit, but none of {len(images)} can be read: {reason}")
        return _Audit(store, pool, count, progress).find(contents, unreadable)


def _check_ids(ids: Sequence[str]) -> None:
    if not ids or len(set(ids)) < len(ids):
        raise DataError(
            f"expected at least one image to audit and each id once, got {len(ids)} image(s) with "
            f"{len(set(ids))} id(s); check the folder or the table"
        )


@dataclass(frozen=True)
class _Audit:
    """The steps after reading. Images with equal pixels go through them as one, numbered by their first."""

    store: Store
    pool: Executor | None
    workers: int
    progress: Progress

    def find(self, contents: Mapping[str, str], unreadable: Mapping[str, str]) -> Findings:
        facts = dict(zip(contents, self.store.facts(list(contents.values())), strict=True))
        classes: dict[str, list[str]] = {}
        for image, f in facts.items():
            classes.setdefault(f.pixels, []).append(image)
        equal = list(classes.values())
        first = [contents[images[0]] for images in equal]
        known = self._compare(first, self._candidates(first), "compare")
        groups = components(range(len(first)), known)
        known |= self._compare(first, _untried(groups, known), "complete")
        pairs = sorted(_pairs(equal, groups, known), key=lambda pair: (pair.a, pair.b))
        members = (sorted(image for i in group for image in equal[i]) for group in groups)
        group_of = {image: images[0] for images in members for image in images}
        return Findings(facts, {image: group_of[image] for image in facts}, tuple(pairs), unreadable)

    def _candidates(self, first: Sequence[str]) -> list[tuple[int, int, Matrix | None]]:
        def read(numbers: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return self.store.features([first[i] for i in numbers])

        return [(i, j, None) for i, j in find_candidates(len(first), read, self.progress, self.workers)]

    def _compare(self, first: Sequence[str], pairs: Sequence[tuple[int, int, Matrix | None]], stage: str) -> Known:
        """Those of the pairs that are copies by their pixels."""
        jobs = ([(i, j, first[i], first[j], m) for i, j, m in part] for part in batches(pairs))
        known: Known = {}
        done = 0
        for tried, found in run(self.pool, _compare_batch, jobs):
            known |= found
            done += tried
            self.progress(stage, done, len(pairs))
        return known


def _compare_batch(jobs: Sequence[Job]) -> tuple[int, Known]:
    known: Known = {}
    for i, j, first, second, chained in jobs:
        a, b = worker().description(first), worker().description(second)
        evidence = compare(a, b) if chained is None else compare_along(a, b, chained)
        if evidence is not None and evidence.is_copy:
            known[i, j] = evidence.score, evidence.map
    return len(jobs), known


def _untried(groups: Iterable[Sequence[int]], known: Known) -> list[tuple[int, int, Matrix | None]]:
    """Pairs inside small groups that are not known to be copies, with the map that the group implies."""
    maps = {pair: m for pair, (_, m) in known.items()}
    neighbours: dict[int, list[int]] = {}
    for i, j in sorted(known):
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    untried: list[tuple[int, int, Matrix | None]] = []
    for group in groups:
        for i in group if 2 < len(group) <= ALL_PAIRS else ():
            implied = maps_from(i, maps, neighbours)
            untried += [(i, j, implied[j]) for j in group if i < j and (i, j) not in known]
    return untried


def _pairs(equal: Sequence[Sequence[str]], groups: Iterable[Sequence[int]], known: Known) -> Iterator[Pair]:
    """All pairs of a small group; of a large one, each image with its first equal, and those found."""
    ties: dict[int, list[int]] = {}
    for i, j in known:
        ties.setdefault(i, []).append(j)
    for group in groups:
        small = sum(len(equal[i]) for i in group) <= ALL_PAIRS
        for i in group:
            some = equal[i] if small else equal[i][:1]
            same = combinations(equal[i], 2) if small else product(some, equal[i][1:])
            yield from (_pair(a, b, 1.0, np.eye(3)) for a, b in same)
            for j in ties.get(i, ()):
                others = equal[j] if small else equal[j][:1]
                yield from (_pair(a, b, *known[i, j]) for a, b in product(some, others))


def _pair(a: str, b: str, score: float, full: Matrix) -> Pair:
    if a > b:
        a, b, full = b, a, inverse(full)
    return Pair(a, b, round(score, 4), flattened(full))
