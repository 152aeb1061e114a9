"""Traces: what an artifact can carry of its training images, so that copies are known where those are not at hand.

A trace is a handful of 64-bit codes, one for each of an image's strongest local features. 52 bits are signs: the SIFT
descriptor is taken apart into the waves of a fixed transform (cosines over its 4 x 4 cells, a Fourier series over its
8 directions), and a bit says whether a wave is stronger than usual. Each wave is even or odd under mirroring: in the
mirror image's code the bits of even waves are the same and those of odd waves the opposite, so flipped copies cost
nothing. The other 12 bits are the feature's direction and size. Where features lie is not kept, and no grey level is:
features whose places are unknown cannot be put together to a picture. What a trace does tell, to whoever holds an
image, is whether it was among those traced.

A copy shares several codes with its original, all turned by one angle and enlarged by one factor.

```python
traces = Traces.of(trace(describe(read_image(path))) for path in trained_on)
copies(traces, [query(describe(read_image("new.jpg")))])
```
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from leanmed.audit import describe
from leanmed.audit.describe import MIRROR, Description
from leanmed.errors import ArtifactError

Codes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

FEATURES_KEPT = 32  # codes of an image
MAX_TRACED = 20_000  # images
# Chosen by scripts/measure_traces.py, which writes docs/results/traces.json.
MAX_DISTANCE = 8  # bits of 52 in which two codes of one feature differ; at most 8, or `_Index` would miss some
MIN_VOTES = 3.0  # of the features that agree; that of one is at most 1
RARE = 32  # traced images, at least, among which a feature is called rare or common
MIN_WEIGHT = 0.25  # of a feature's vote, below which it is passed over: so many images share it
BIN = 4  # steps of direction (22.5 degrees) and size (half an octave) within which features agree; bins overlap by half

AT_ONCE = 1_000_000  # traced codes that are compared at a time, so that memory stays bounded

TURNS, SIZES, STEPS_PER_OCTAVE = 64, 64, 8  # steps of a full turn; of sizes from 1 to 256 pixels
ANGLE_SHIFT, SIZE_SHIFT, CODE_BITS = 52, 58, 52
PARTS = (17, 17, 18)  # bits of the code by which it is looked up; even, even, odd waves
ODD = np.uint64(((1 << PARTS[2]) - 1) << (PARTS[0] + PARTS[1]))
CODE = np.uint64((1 << CODE_BITS) - 1)
MAGIC = b"LMTRACES"
HEADER = struct.Struct("<8sHHHI")  # magic, version of this format, of the descriptions, codes of an image, images
VERSION = 1

# The waves, as `cell row, cell column, c or s, direction` of their frequencies: those that vary most over the features
# of real images, and the median of even ones (that of odd ones is 0); `measure_traces.py waves` prints these tables.
# fmt: off
EVEN = {
    "03c1": -42, "00c2": 166, "02c1": -40, "01c1": 11, "23c1": 6, "03c3": -7, "01c2": 3, "01c0": 3, "10s2": 4,
    "00c4": 46, "02c2": -53, "30s1": 7, "32s1": -6, "10s1": -3, "12s1": 3, "00c1": -7, "00c0": 319, "11s1": 9,
    "31s1": -6, "11s2": 3, "01c3": 8, "02c0": -69, "22c1": 7, "20c2": -31, "02c3": -18, "20c0": -42, "21c1": -2,
    "12s2": -1, "00c3": 3, "01c4": 0, "21c2": 0, "30s2": 0, "03c2": 1, "02c4": -16,
}
ODD_WAVES = (
    "00s2", "10c2", "13c1", "01s2", "20s1", "12c1", "21s1", "11c1", "10c0", "22s1", "11c2", "02s2", "11c0", "20s2",
    "00s1", "12c2", "21s2", "10c4",
)
# fmt: on


def trace(description: Description) -> Codes:
    """The codes that are kept of an image: (n,) uint64, n at most `FEATURES_KEPT`, the strongest features first.

    An image without detail has none, and copies of it are not recognised.
    """
    return query(description)[:FEATURES_KEPT]


def query(description: Description) -> Codes:
    """The codes of all of an image's features, (n,) uint64, n at most `describe.FEATURES`: what `copies` looks up.

    More than `trace` keeps, because a copy that was cut out has other features among its strongest.
    """
    waves, usual = _waves()
    bits = description.descriptors.astype(np.int64) @ waves > usual
    code = bits @ (np.uint64(1) << np.arange(CODE_BITS, dtype=np.uint64))
    turn = np.rint(description.points[:, 3] * (TURNS / 360)).astype(np.int64) % TURNS
    size = np.rint(STEPS_PER_OCTAVE * np.log2(np.maximum(description.points[:, 2], 1))).astype(np.int64)
    code |= turn.astype(np.uint64) << np.uint64(ANGLE_SHIFT)
    code |= np.minimum(size, SIZES - 1).astype(np.uint64) << np.uint64(SIZE_SHIFT)
    return np.asarray(code, np.uint64)


@cache
def _waves() -> tuple[Ints, Ints]:
    """(128, 52) waves in whole numbers, so that every machine gives the same bits, and (52,) what is usual."""
    shift = (np.arange(4) + 0.5) * np.pi / 4
    columns = []
    for name in (*EVEN, *ODD_WAVES):
        row, column, kind, frequency = int(name[0]), int(name[1]), name[2], int(name[3])
        around = {"c": np.cos, "s": np.sin}[kind](frequency * np.arange(8) * np.pi / 4)
        wave = np.einsum("y,x,t->yxt", np.cos(row * shift), np.cos(column * shift), around).reshape(128)
        even = name in EVEN
        half = np.rint(500 * wave / np.linalg.norm(wave)).astype(np.int64)
        columns.append(half + half[MIRROR] if even else half - half[MIRROR])
    return np.stack(columns, axis=1), np.array([*(1000 * usual for usual in EVEN.values()), *[0] * len(ODD_WAVES)])


@dataclass(frozen=True)
class Traces:
    """Traces of the images that made an artifact: at most 8 x `FEATURES_KEPT` + 1 = 257 bytes for each, 5.1 MB in all.

    Args:
        codes: (n, FEATURES_KEPT) uint64; of each row, the first `counts` are codes, and the rest are 0.
        counts: (n,) uint8.
    """

    codes: Codes
    counts: Bytes

    @classmethod
    def of(cls, traced: Iterable[Codes]) -> Traces:
        """Of the codes of each image, as `trace` gives them; beyond `MAX_TRACED`, of images spread evenly over all."""
        kept = list(traced)
        if len(kept) > MAX_TRACED:
            kept = [kept[i * len(kept) // MAX_TRACED] for i in range(MAX_TRACED)]
        counts = np.array([min(len(codes), FEATURES_KEPT) for codes in kept], np.uint8)
        padded = np.zeros((len(kept), FEATURES_KEPT), np.uint64)
        for row, codes in zip(padded, kept, strict=True):
            row[: len(codes)] = codes[:FEATURES_KEPT]
        return cls(padded, counts)

    def to_bytes(self) -> bytes:
        """A header, then how many codes each image has (a byte each), then all codes, little-endian."""
        header = HEADER.pack(MAGIC, VERSION, describe.VERSION, FEATURES_KEPT, len(self.counts))
        return header + self.counts.tobytes() + self.codes[self._is_code()].astype("<u8").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Traces:
        """Read what `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no traces, of another version, or more or fewer than their header says.
        """
        expected = HEADER.pack(MAGIC, VERSION, describe.VERSION, FEATURES_KEPT, 0)[:-4]
        if len(content) < HEADER.size or content[: len(expected)] != expected:
            raise _refused(
                f"traces that begin with {expected.hex()} (version {VERSION})",
                f"{len(content)} bytes that begin with {content[: len(expected)].hex() or 'nothing'}",
            )
        images = HEADER.unpack_from(content)[-1]
        if images > MAX_TRACED:
            raise _refused(f"traces of at most {MAX_TRACED} images", str(images))
        counts = np.frombuffer(content[HEADER.size : HEADER.size + images], np.uint8)
        size = HEADER.size + images + 8 * int(counts.sum(dtype=np.int64))
        if len(counts) < images or counts.max(initial=0) > FEATURES_KEPT or len(content) != size:
            wanted = f"at most {FEATURES_KEPT} codes for each of {images} images, {size} bytes in all"
            raise _refused(wanted, f"{len(content)} bytes and up to {counts.max(initial=0)} codes")
        found = cls(np.zeros((images, FEATURES_KEPT), np.uint64), counts)
        found.codes[found._is_code()] = np.frombuffer(content[HEADER.size + images :], "<u8")
        return found

    def _is_code(self) -> Bools:
        return np.arange(FEATURES_KEPT) < self.counts[:, None]


def _refused(expected: str, got: str) -> ArtifactError:
    return ArtifactError(f"expected {expected}, got {got}; the artifact is damaged or edited: export it again")


def copies(traces: Traces, codes: Sequence[Codes]) -> list[bool]:
    """Whether each image is taken for a copy of a traced one.

    Args:
        traces: of the old images.
        codes: of the new images, as `query` gives them.
    """
    return [votes >= MIN_VOTES for votes in best_votes(traces, codes)]


def best_votes(traces: Traces, codes: Sequence[Codes]) -> Iterator[float]:
    """Of each image, the votes for its likeliest original.

    A vote is a feature within `MAX_DISTANCE` of one of the traced image's; it counts the less the more traced images
    share the feature, as in an inverse document frequency. Only votes for one mirroring, turn and scale add up.
    """
    index = _Index(traces)
    for image in codes:
        yield _votes(index, image)


def _votes(index: _Index, image: Codes) -> float:
    features, found, mirrored, weights = index.near(image)
    if not found.size:
        return 0.0
    once, count = [], len(image)
    pair = index.owner[found] * 2 + mirrored
    for cell in _cells(image[features], index.codes[found], mirrored):
        once.append((pair * (4 * TURNS * 2 * SIZES) + cell) * count + features)
    # A feature that is near two of an image's counts once.
    names, first = np.unique(np.concatenate(once), return_index=True)
    _, cells = np.unique(names // count, return_inverse=True)
    return float(np.bincount(cells, np.tile(weights, len(once))[first]).max())


def _cells(codes: Codes, found: Codes, mirrored: Bools) -> Iterator[Ints]:
    """The bins of turn and scale, in each of the four grids, to which a pair of features belongs."""
    (turn, size), (turns, sizes) = _shape(codes), _shape(found)
    turned = (turn - np.where(mirrored, -1, 1) * turns) % TURNS
    scaled = size - sizes + SIZES
    for grid, (more_turn, more_size) in enumerate(product((0, BIN // 2), repeat=2)):
        yield (grid * TURNS + (turned + more_turn) % TURNS // BIN) * 2 * SIZES + (scaled + more_size) // BIN


def _shape(code: Codes) -> tuple[Ints, Ints]:
    turn, size = code >> np.uint64(ANGLE_SHIFT) & np.uint64(TURNS - 1), code >> np.uint64(SIZE_SHIFT)
    return np.asarray(turn, np.int64), np.asarray(size, np.int64)


class _Index:
    """Finds codes within `MAX_DISTANCE` without comparing each.

    Of three parts of a code, one differs in at most two bits where all differ in at most eight. So a lookup visits, for
    each part, the codes whose part differs in at most two bits.
    """

    def __init__(self, traces: Traces) -> None:
        rows, columns = np.nonzero(np.arange(FEATURES_KEPT) < traces.counts[:, None])
        self.images, self.owner, self.codes = len(traces.counts), rows, traces.codes[rows, columns]
        self._parts = []
        for shift, bits in zip(np.cumsum((0, *PARTS[:-1])).tolist(), PARTS, strict=True):
            keys = _part(self.codes, shift, bits)
            order = np.argsort(keys, kind="stable")
            starts = np.searchsorted(keys[order], np.arange((1 << bits) + 1))
            self._parts.append((shift, bits, order, self.codes[order], starts))

    def near(self, codes: Codes) -> tuple[Ints, Ints, Bools, Floats]:
        """Numbers of codes and of the traced codes near them, whether mirrored, and how much each pair counts."""
        looked_up, total = [], 0
        for shift, bits, order, ordered, starts in self._parts:
            keys = _part(codes, shift, bits)[:, None] ^ _flips(bits)
            if shift == sum(PARTS[:2]):  # odd waves: what is near the opposite is near the mirror image
                keys = np.hstack([keys, keys ^ ((1 << bits) - 1)])
            first, sizes = starts[keys], starts[keys + 1] - starts[keys]
            looked_up.append((order, ordered, first, sizes))
            total += int(sizes.sum())
        if total > AT_ONCE and len(codes) > 1:
            half = len(codes) // 2
            one, other = self.near(codes[:half]), self.near(codes[half:])
            joined = zip(one, (other[0] + half, *other[1:]), strict=True)
            features, numbers, mirrored, weights = (np.concatenate(both) for both in joined)
            return features, numbers, mirrored, weights
        pairs = []
        for order, ordered, first, sizes in looked_up:
            features, places = np.repeat(np.arange(len(codes)), sizes.sum(axis=1)), _ranges(first, sizes)
            close = _distance(ordered[places], codes[features])[0] <= MAX_DISTANCE
            pairs.append(features[close] * len(self.codes) + order[places[close]])
        features, numbers = np.divmod(np.unique(np.concatenate(pairs)), max(1, len(self.codes)))
        return self._weighed(codes, features, numbers)

    def _weighed(self, codes: Codes, features: Ints, numbers: Ints) -> tuple[Ints, Ints, Bools, Floats]:
        """Whether near pairs are mirrored and how much they count, less those of a feature that is everywhere."""
        mirrored = _distance(self.codes[numbers], codes[features])[1]
        images = max(self.images, RARE)
        shared = np.bincount(np.unique(features * images + self.owner[numbers]) // images, minlength=len(codes))
        weights = (1 - np.log(np.maximum(shared, 1)) / np.log(images))[features]
        kept = weights >= MIN_WEIGHT
        return features[kept], numbers[kept], mirrored[kept], weights[kept]


def _distance(one: Codes, other: Codes) -> tuple[Bytes, Bools]:
    """In how many bits codes differ, mirrored if that is less, and whether it is."""
    differ = (one ^ other) & CODE
    odd = _ones(differ & ODD)
    distance: Bytes = _ones(differ & ~ODD) + np.minimum(odd, PARTS[2] - odd)
    return distance, odd > PARTS[2] // 2


def _part(codes: Codes, shift: int, bits: int) -> Ints:
    return np.asarray(codes >> np.uint64(shift) & np.uint64((1 << bits) - 1), np.int64)


@cache
def _flips(bits: int) -> Ints:
    """All numbers of so many bits of which at most two are ones."""
    chosen = (places for count in range(3) for places in combinations(range(bits), count))
    return np.array([sum(1 << place for place in places) for places in chosen])


def _ranges(first: Ints, sizes: Ints) -> Ints:
    """The numbers of all ranges, one after another: of each, so many from its first."""
    first, sizes = first.ravel(), sizes.ravel()
    some = sizes > 0
    first, sizes = first[some], sizes[some]
    return np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)


def _ones(values: Codes) -> Bytes:
    """How many bits are ones."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(values), np.uint8)
    return _ones_by_sums(values)


def _ones_by_sums(values: Codes) -> Bytes:
    """The same for numpy 1, which does not count bits: sums in fields of 2, 4 and 8 bits, then of the bytes."""
    for shift, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
        values = (values & np.uint64(mask)) + (values >> np.uint64(shift) & np.uint64(mask))
    return (values * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.uint8)
