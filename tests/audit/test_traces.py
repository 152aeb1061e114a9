from __future__ import annotations

import struct

import numpy as np
import pytest
from made_pictures import as_jpeg, brightened, crescent, resized, rotated, texture

from leanmed.audit.describe import describe
from leanmed.audit.traces import (
    CODE,
    CODE_BITS,
    EVEN,
    FEATURES_KEPT,
    HEADER,
    MAX_DISTANCE,
    MAX_TRACED,
    ODD,
    ODD_WAVES,
    Traces,
    _distance,
    _Index,
    _ones,
    _ones_by_sums,
    best_votes,
    copies,
    query,
    trace,
)
from leanmed.errors import ArtifactError

OLD = range(12)


@pytest.fixture(scope="module")
def traces() -> Traces:
    return Traces.of(trace(describe(texture(seed))) for seed in OLD)


def is_copy(traces: Traces, image: np.ndarray) -> bool:
    (found,) = copies(traces, [query(describe(np.ascontiguousarray(image)))])
    return found


CHANGES = {
    "none": lambda image: image,
    "flip": lambda image: image[:, ::-1],
    "flip upside down": lambda image: image[::-1],
    "quarter turn": np.rot90,
    "turn by 7 degrees": lambda image: rotated(image, 7),
    "JPEG": lambda image: as_jpeg(image, 60),
    "smaller": lambda image: resized(image, 0.7, 0.7),
    "darker": lambda image: brightened(image, 0.7),
    "crop": lambda image: image[10:120, 30:180],
    "flip, crop and JPEG": lambda image: as_jpeg(np.ascontiguousarray(image[5:130, 20:180][:, ::-1]), 75),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_recognised(traces: Traces, change: str):
    assert all(is_copy(traces, CHANGES[change](texture(seed))) for seed in OLD[:3])


def test_a_cut_out_copy_is_recognised(traces: Traces):
    assert is_copy(Traces.of([trace(describe(crescent(texture(3))))]), crescent(texture(3))[:, ::-1])


def test_other_images_are_not_taken_for_copies(traces: Traces):
    assert copies(traces, [query(describe(texture(seed))) for seed in range(100, 130)]) == [False] * 30


def test_a_copy_among_many_copies_of_one_photograph_is_recognised():
    again = [trace(describe(as_jpeg(texture(0), quality))) for quality in (95, 90, 80, 70)]
    others = [trace(describe(texture(seed))) for seed in OLD]
    assert is_copy(Traces.of([*again, *others]), texture(0)[:, ::-1])


def test_a_feature_that_every_image_shares_does_not_make_copies():
    mark = texture(50, 60, 60)

    def marked(seed: int) -> np.ndarray:
        image = texture(seed)
        image[:60, :60] = mark
        return image

    traces = Traces.of(trace(describe(marked(seed))) for seed in range(200, 240))
    assert not is_copy(traces, marked(300))
    assert is_copy(traces, marked(200)[:, ::-1])


def test_the_code_of_a_mirror_image_differs_in_the_odd_bits_alone():
    image = texture(1)
    plain, mirrored = (describe(np.ascontiguousarray(i)) for i in (image, image[:, ::-1]))
    places = plain.points[:, :2] * [-1, 1] + [plain.grey.shape[1] - 1, 0]
    near = np.linalg.norm(places[:, None] - mirrored.points[None, :, :2], axis=2)
    turned = np.abs((plain.points[:, None, 3] + mirrored.points[None, :, 3]) % 360 - 180)  # up and down stay
    i, j = np.nonzero((near < 1) & (turned < 3))
    differ = [int((a ^ b ^ ODD) & CODE).bit_count() for a, b in zip(query(plain)[i], query(mirrored)[j], strict=True)]
    assert len(differ) > 40
    assert np.median(differ) <= 2


def test_there_is_a_wave_for_each_bit():
    assert len({*EVEN, *ODD_WAVES}) == CODE_BITS


def test_a_trace_is_the_strongest_of_a_query():
    found = describe(texture(2))
    assert len(trace(found)) == FEATURES_KEPT
    assert np.array_equal(trace(found), query(found)[:FEATURES_KEPT])


def test_bytes_give_the_traces_back(traces: Traces):
    blank = trace(describe(np.full((40, 50, 4), 255, np.uint8)))
    mixed = Traces.of([blank, *(row[: i % 9] for i, row in enumerate(traces.codes)), blank])
    content = mixed.to_bytes()
    assert len(content) == HEADER.size + len(mixed.counts) + 8 * int(mixed.counts.sum())
    again = Traces.from_bytes(content)
    assert np.array_equal(again.codes, mixed.codes)
    assert np.array_equal(again.counts, mixed.counts)
    assert again.to_bytes() == content


def test_nothing_is_a_copy_of_nothing(traces: Traces):
    nothing = Traces.from_bytes(Traces.of([]).to_bytes())
    blank = np.full((40, 50, 4), 255, np.uint8)
    assert len(nothing.counts) == 0
    assert not is_copy(nothing, texture(0))
    assert not is_copy(traces, blank)
    assert not is_copy(Traces.of([trace(describe(blank))]), blank)
    assert copies(traces, []) == []


def test_beyond_the_cap_images_are_taken_evenly():
    many = Traces.of(np.array([i], np.uint64) for i in range(2 * MAX_TRACED))
    assert np.array_equal(many.codes[:, 0], np.arange(0, 2 * MAX_TRACED, 2))
    assert len(Traces.from_bytes(many.to_bytes()).counts) == MAX_TRACED


def test_an_image_in_the_middle_of_many_is_found_whatever_the_memory_allows(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
):
    asked = [query(describe(texture(seed)[:, ::-1])) for seed in (4, 104)]
    whole = list(best_votes(traces, asked))
    monkeypatch.setattr("leanmed.audit.traces.AT_ONCE", 10)
    assert list(best_votes(traces, asked)) == whole


@pytest.mark.parametrize("count", [_ones, _ones_by_sums])
def test_bits_are_counted(count):
    values = np.array([0, 1, 0b1011, 2**63, 2**64 - 1, 0x0123456789ABCDEF], np.uint64)
    assert count(values).tolist() == [0, 1, 3, 1, 64, 32]


def test_the_index_finds_what_comparing_each_with_each_finds(traces: Traces):
    rng = np.random.default_rng(0)
    flips = (rng.random((80, CODE_BITS)) < 0.15) @ (np.uint64(1) << np.arange(CODE_BITS, dtype=np.uint64))
    index = _Index(traces)
    asked = index.codes[:80] ^ flips ^ np.where(rng.random(80) < 0.5, ODD, np.uint64(0))
    features, numbers, *_ = index.near(asked)
    distance, _ = _distance(asked[:, None], index.codes[None])
    assert len(features) > 40
    assert np.array_equal(np.stack([features, numbers]), np.stack(np.nonzero(distance <= MAX_DISTANCE)))


def renamed(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"no traces at all, but long enough for a header",
        lambda content: content[:10],
        lambda content: content[: HEADER.size + 3],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: renamed(content, 8, struct.pack("<H", 9)),  # version
        lambda content: renamed(content, 14, struct.pack("<I", MAX_TRACED + 1)),
        lambda content: renamed(content, 14, struct.pack("<I", 2**32 - 1)),
        lambda content: renamed(content, HEADER.size, bytes([FEATURES_KEPT + 1])) + bytes(8),
    ],
)
def test_what_is_no_traces_is_refused(traces: Traces, spoil):
    with pytest.raises(ArtifactError, match=r"^expected .*, got .*; .*export"):
        Traces.from_bytes(spoil(traces.to_bytes()))
