"""Which pairs are worth comparing: those that share several local features in one arrangement.

Every feature looks up its nearest neighbours in an inverted file (faiss); each neighbour is a vote for a
pair of images, a mirroring, a turn and a change of scale. A pair of images that shares no feature is never
visited. Up to `MANY` features, the cells of the inverted file grow with the square root of their number; beyond that
they would make each lookup dear, so there are more of them, and a graph leads to the nearest ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from leanmed.audit.describe import MIRROR, Features, Floats, Pixels
from leanmed.audit.geometry import lengths, unit
from leanmed.audit.threads import blas_threads

INDEXED = 64  # features per image that are looked up
DIMENSIONS = 32  # of a descriptor after principal components
NEIGHBOURS = 16
MAX_DISTANCE = 0.2  # squared, between reduced descriptors of length about one
MIN_VOTES = 2
MIN_WEIGHT = 0.2  # of the votes together; that of one feature is at most 1
PARTNERS = 8  # candidates per image, at most
FLAT_BELOW = 20_000  # features, of which each may be compared with each
PROBED, ROUNDS = 6, 6  # cells that a lookup visits; rounds of k-means: more make the lookups no better
PER_CELL = 39  # features from which the place of a cell is learned, at least
TRAINED_ON = 200_000  # features, at most
MANY = 1_000_000  # features, from which the cells are these:
CELL = 256  # features in a cell, on average
MOST_CELLS = 2**16  # then cells grow: the graph of more would not fit a processor's cache, and cost more than it saves
MANY_PER_CELL, MANY_PROBED, MANY_ROUNDS = 10, 8, 2  # as above
LINKS = 16  # of each cell, in the graph that leads to the nearest cells
BREADTH, BREADTH_OF_ONE = 16, 8  # of the search for the cells to look in, and for the one where a feature is put
CHUNK = 1000  # images searched at a time
TURN_BIN, SCALE_BIN = 45.0, 1.0  # degrees, octaves; bins overlap by half
TURN_BINS, SCALE_BINS = 8, 16

Ints = NDArray[np.int64]
Read = Callable[[Sequence[int]], Iterator[Features]]  # image numbers -> their features, in order


@dataclass(frozen=True)
class _Coded:
    """Features of some images: their image, size and angle (n, 2), whether mirrored, code (n, d)."""

    owner: Ints
    shape: Floats
    mirrored: NDArray[np.bool_]
    code: Floats


@dataclass(frozen=True)
class _Coder:
    """Descriptors -> codes that do not change when the image is mirrored.

    Of a descriptor and its mirror image, the one with the positive component along `side` is taken: the
    direction in which the two differ most. One that is nearly its own mirror image may fall either way.
    """

    side: Floats
    mean: Floats
    basis: Floats

    def code(self, descriptors: Pixels) -> tuple[Floats, NDArray[np.bool_]]:
        # To mirror the basis costs less than to mirror the descriptors: MIRROR is its own inverse.
        directions = np.hstack([self.side[:, None], self.basis, self.basis[MIRROR]])
        values = descriptors.astype(np.float32)
        projected = values @ directions / np.maximum(lengths(values), 1e-6)
        mirrored = projected[:, 0] < 0
        plain, turned = projected[:, 1 : DIMENSIONS + 1], projected[:, DIMENSIONS + 1 :]
        codes = np.where(mirrored[:, None], turned, plain) - self.mean @ self.basis
        return np.ascontiguousarray(codes, np.float32), mirrored


def _learn(descriptors: Pixels) -> _Coder:
    values = unit(descriptors)
    side = _components((values - values[:, MIRROR]) / 2, 1)[:, 0]
    values = np.where((values @ side < 0)[:, None], values[:, MIRROR], values)
    mean = values.mean(axis=0)
    return _Coder(side, mean, _components(values - mean, DIMENSIONS))


def _components(values: NDArray[np.floating], count: int) -> Floats:
    """(128, count): directions of the greatest second moment, each with its largest entry positive."""
    _, vectors = np.linalg.eigh((values.T @ values).astype(np.float64))
    chosen = vectors[:, ::-1][:, :count]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(count)])
    return np.ascontiguousarray(chosen * signs, np.float32)


def find_candidates(
    count: int, read: Read, advance: Callable[[str, int, int], None], threads: int = 1
) -> list[tuple[int, int]]:
    """Pairs (i, j) with i < j of images 0..count-1 that share features, sorted; at most `PARTNERS` x count.

    Args:
        count: how many images.
        read: gives their descriptions; called for the whole set three times.
        advance: told (stage, done, total) as the work goes on.
        threads: for faiss and products of matrices.
    """
    with _faiss_threads(threads), blas_threads(threads):
        return _find(count, read, advance)


@contextmanager
def _faiss_threads(count: int) -> Iterator[None]:
    """OpenMP has one setting for the whole process; torch, if it is there, must go on with its own."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _find(count: int, read: Read, advance: Callable[[str, int, int], None]) -> list[tuple[int, int]]:
    trained = _train(count, read)
    if trained is None:
        return []
    coder, index = trained
    chunks = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    shapes = []
    for start, stop in chunks:
        part = _features(start, stop, read, coder)
        index.add(part.code)
        shapes.append(replace(part, code=part.code[:0].copy()))  # a view would keep all of them
        advance("index", stop, count)
    indexed = _joined(shapes)
    _broaden(index)
    pairs: set[tuple[int, int]] = set()
    for start, stop in chunks:
        pairs.update(_search(_features(start, stop, read, coder), indexed, index))
        advance("search", stop, count)
    return sorted(pairs)


def _joined(parts: Sequence[_Coded]) -> _Coded:
    names = [field.name for field in fields(_Coded)]
    return _Coded(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _features(start: int, stop: int, read: Read, coder: _Coder) -> _Coded:
    found = [(points[:INDEXED, 2:], descriptors[:INDEXED]) for points, descriptors in read(range(start, stop))]
    owner = np.repeat(np.arange(start, stop), [len(shape) for shape, _ in found])
    code, mirrored = coder.code(np.concatenate([descriptors for _, descriptors in found]))
    return _Coded(owner, np.concatenate([shape for shape, _ in found]), mirrored, code)


def _train(count: int, read: Read) -> tuple[_Coder, faiss.Index] | None:
    """Learn the code and the inverted file's cells from images spread evenly over the set."""
    step = max(1, math.ceil(count * INDEXED / TRAINED_ON))
    if count * INDEXED >= MANY:
        step = min(step, CELL // MANY_PER_CELL)
    sample = np.concatenate([descriptors[:INDEXED] for _, descriptors in read(range(0, count, step))])
    if not len(sample):
        return None
    coder = _learn(sample[:: math.ceil(len(sample) / TRAINED_ON)])
    parts = np.array_split(sample, math.ceil(len(sample) / TRAINED_ON))
    codes = np.concatenate([coder.code(part)[0] for part in parts])
    return coder, _inverted_file(codes, count * len(sample) / math.ceil(count / step))


def _inverted_file(codes: Floats, expected: float) -> faiss.Index:
    """An empty index for about so many features."""
    if expected < FLAT_BELOW:
        return faiss.IndexFlatL2(DIMENSIONS)
    if expected < MANY:
        index = _list_of_cells(len(codes), expected)
        index.train(codes)
        return index
    index = _graph_of_cells(expected)
    with _faiss_threads(1):  # with more, the graph depends on which thread is first, and so would the findings
        index.train(codes)
    return index


def _list_of_cells(learned_from: int, expected: float) -> faiss.IndexIVF:
    """Its cells grow with the square root of what is expected, so that lookups stay cheap."""
    cells = int(min(2 * expected**0.5, learned_from / PER_CELL))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(DIMENSIONS), DIMENSIONS, cells, faiss.ScalarQuantizer.QT_8bit
    )
    index.nprobe = PROBED
    index.cp.niter = ROUNDS
    return index


def _graph_of_cells(expected: float) -> faiss.IndexIVF:
    """Its cells are as many as keep each small, and a graph finds those that are nearest."""
    graph = faiss.IndexHNSWFlat(DIMENSIONS, LINKS)
    graph.hnsw.efSearch = BREADTH_OF_ONE
    cells = min(math.ceil(expected / CELL), MOST_CELLS)
    index = faiss.IndexIVFScalarQuantizer(graph, DIMENSIONS, cells, faiss.ScalarQuantizer.QT_8bit)
    index.nprobe = MANY_PROBED
    index.cp.niter = MANY_ROUNDS
    index.cp.min_points_per_centroid = 1  # no warnings: the rounds need no more
    return index


def _broaden(index: faiss.Index) -> None:
    """All features are in their cells; lookups take several cells, and must find the nearest of them."""
    graph: Any = faiss.downcast_index(index.quantizer) if isinstance(index, faiss.IndexIVF) else None
    if isinstance(graph, faiss.IndexHNSW):
        graph.hnsw.efSearch = BREADTH


def _search(part: _Coded, indexed: _Coded, index: faiss.Index) -> Iterator[tuple[int, int]]:
    """The best partners of each image of a chunk."""
    distances, neighbours = index.search(part.code, NEIGHBOURS + 1)  # a missing neighbour is infinitely far
    weights = np.asarray(1 - np.minimum(distances, MAX_DISTANCE) / MAX_DISTANCE, np.float32)
    weights *= part.owner[:, None] != indexed.owner[neighbours]
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)  # a feature that many share says little
    order = np.argsort(-weights, axis=None, kind="stable")[: np.count_nonzero(weights)]
    yield from _best(
        *_votes(part, indexed, order // (NEIGHBOURS + 1), neighbours.ravel()[order], weights.ravel()[order])
    )


def _votes(part: _Coded, indexed: _Coded, query: Ints, found: Ints, weight: Floats) -> tuple[Ints, Ints, Floats]:
    """Image, partner and the weight of the image's features that agree on a mirroring, a turn and a scale."""
    flip = part.mirrored[query] ^ indexed.mirrored[found]
    names, pair = np.unique(
        (part.owner[query] * len(indexed.owner) + indexed.owner[found]) * 2 + flip, return_inverse=True
    )
    several = np.bincount(pair)[pair] >= MIN_VOTES
    pair, query, found = pair[several], query[several], found[several]
    flip, weight = flip[several], weight[several]
    scale = np.log2(indexed.shape[found, 0] / part.shape[query, 0]) / SCALE_BIN
    turn = (indexed.shape[found, 1] - np.where(flip, -1, 1) * part.shape[query, 1]) % 360 / TURN_BIN
    votes = np.zeros(len(names), np.float32)
    for more_turn, more_scale in product((0.0, 0.5), repeat=2):
        bins = np.floor(turn + more_turn).astype(np.int64) % TURN_BINS * SCALE_BINS
        bins += np.clip(np.floor(scale + more_scale).astype(np.int64) + SCALE_BINS // 2, 0, SCALE_BINS - 1)
        _raise_to_fullest(votes, pair * (TURN_BINS * SCALE_BINS) + bins, query, weight)
    chosen = np.flatnonzero(votes >= MIN_WEIGHT)
    images, partners = np.divmod(names[chosen] // 2, len(indexed.owner))
    return images, partners, votes[chosen]


def _raise_to_fullest(votes: Floats, cell: Ints, query: Ints, weight: Floats) -> None:
    """Raise each pair's votes to those in its fullest bin; there each feature counts once, at its best."""
    features = int(query.max(initial=0)) + 1
    cells, first = np.unique(cell * features + query, return_index=True)
    names, member, counts = np.unique(cells // features, return_inverse=True, return_counts=True)
    sums = np.bincount(member, weight[first]).astype(np.float32)
    enough = counts >= MIN_VOTES
    np.maximum.at(votes, names[enough] // (TURN_BINS * SCALE_BINS), sums[enough])


def _best(images: Ints, partners: Ints, votes: Floats) -> Iterator[tuple[int, int]]:
    """Of each image, the partners with the most votes."""
    order = np.lexsort((partners, -votes, images))
    images, partners = images[order], partners[order]
    rank = np.arange(len(images)) - np.searchsorted(images, images)
    for i, j in zip(images[rank < PARTNERS].tolist(), partners[rank < PARTNERS].tolist(), strict=True):
        yield min(i, j), max(i, j)
