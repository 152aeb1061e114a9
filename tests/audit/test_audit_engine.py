from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import faiss
import numpy as np
import pytest
from made_pictures import Pixels, as_jpeg, brightened, crescent, resized, rotated, texture
from PIL import Image

from leanmed.audit import Findings, audit, engine, reading
from leanmed.audit import candidates as candidates_module
from leanmed.audit.describe import describe
from leanmed.errors import DataError
from leanmed.reading.images import read_image

Save = Callable[[str, Pixels], tuple[str, Path]]

CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "flipped left to right": lambda x: x[:, ::-1],
    "flipped top to bottom": lambda x: x[::-1],
    "turned 90": np.rot90,
    "turned 180": lambda x: x[::-1, ::-1],
    "cut to half": lambda x: x[30:140, 40:180],
    "reduced": lambda x: resized(x, 0.6, 0.6),
    "stretched": lambda x: resized(x, 0.85, 1),
    "encoded at 30": lambda x: as_jpeg(x, 30),
    "darkened": lambda x: brightened(x, 0.6),
    "rotated by 8": lambda x: rotated(x, 8),
    "all at once": lambda x: as_jpeg(brightened(resized(rotated(x[20:, 30:, :][:, ::-1], 4), 0.8, 0.8), 0.8), 60),
}


def pairs_of(found: Findings) -> set[tuple[str, str]]:
    return {(p.a, p.b) for p in found.pairs}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Eight images of which none is a copy of another."""
    folder = tmp_path_factory.mktemp("strangers")
    for k in range(8):
        Image.fromarray(texture(100 + k)[..., :3]).save(folder / f"stranger{k:02d}.png")
    return [(p.name, p) for p in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for descriptions, so that the strangers are described once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_strangers_and_nothing_else_is(
    change: str, strangers: list[tuple[str, Path]], cache: Path, save: Save
):
    image = texture(30)
    copies = [save("copy.png", np.ascontiguousarray(CHANGES[change](image))), save("original.png", image)]
    found = audit([*strangers, *copies], workers=1, cache=cache)
    assert pairs_of(found) == {("copy.png", "original.png")}
    assert found.groups["original.png"] == "copy.png"
    assert found.copies == {"copy.png": ["copy.png", "original.png"]}


def test_cut_outs_with_different_masks_are_found_among_cut_outs_of_one_shape(save: Save):
    images = [save(f"{k}.png", crescent(texture(40 + k))) for k in range(8)]
    images.append(save("copy.png", crescent(texture(43), shift=20)[:, ::-1]))
    assert pairs_of(audit(images, workers=1)) == {("3.png", "copy.png")}


def test_the_map_of_a_pair_leads_from_the_first_to_the_second(save: Save):
    image = texture(31)
    (pair,) = audit([save("b.png", image), save("a.png", image[5:, 9:])], workers=1).pairs
    assert (pair.a, pair.b) == ("a.png", "b.png")
    assert pair.transformation == "mirror=0 turn=0.0 scale=1.000 shift=+9.0,+5.0"
    assert pair.score > 0.99


def test_equal_pixels_in_different_files_are_one_photograph(save: Save):
    image = texture(32)
    found = audit([save("a.png", image), save("b.tif", image), save("c.png", texture(33))], workers=1)
    assert [(p.a, p.b, p.score) for p in found.pairs] == [("a.png", "b.tif", 1.0)]


def test_copies_of_a_copy_are_compared_along_the_chain(save: Save, monkeypatch: pytest.MonkeyPatch):
    image = texture(34)
    images = [save(f"{k}.png", image[k:, 2 * k :]) for k in range(4)]
    monkeypatch.setattr(engine, "find_candidates", lambda *_: [(0, 1), (1, 2), (2, 3)])
    found = audit(images, workers=1)
    assert pairs_of(found) == set(combinations(["0.png", "1.png", "2.png", "3.png"], 2))
    last = next(p for p in found.pairs if (p.a, p.b) == ("0.png", "3.png"))
    assert last.transformation.endswith("shift=-6.0,-3.0")


@pytest.mark.parametrize(("count", "pairs"), [(20, 190), (70, 69)])
def test_of_a_large_group_only_so_many_pairs_are_reported_that_it_is_tied(count: int, pairs: int, save: Save):
    _, path = save("one.png", texture(35, 40, 40))
    found = audit([(f"{k:02d}", path) for k in range(count)], workers=1)
    assert len(found.pairs) == pairs
    assert set(found.groups.values()) == {"00"}


def test_many_equal_files_are_described_once(save: Save, monkeypatch: pytest.MonkeyPatch):
    described: list[Pixels] = []
    monkeypatch.setattr(reading, "describe", lambda image: described.append(image) or describe(image))
    _, path = save("one.png", texture(36, 40, 40))
    audit([(str(k), path) for k in range(300)], workers=1)
    assert len(described) == 1


def test_one_image_is_a_group_by_itself(save: Save):
    found = audit([save("only.png", texture(37))], workers=1)
    assert found.groups == {"only.png": "only.png"}
    assert found.pairs == ()
    assert found.copies == {}


def test_no_image_is_refused():
    with pytest.raises(DataError, match="at least one image"):
        audit([])


def test_an_id_that_stands_twice_is_refused(save: Save):
    image = save("a.png", texture(38))
    with pytest.raises(DataError, match="each id once"):
        audit([image, image])


def test_unreadable_files_are_listed_and_stop_nothing(save: Save, tmp_path: Path):
    good = save("good.png", texture(39))
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    empty.touch()
    wrong = [("broken", broken), ("empty", empty), ("absent", tmp_path / "absent.png"), ("folder", tmp_path)]
    found = audit([good, *wrong], workers=1)
    assert set(found.unreadable) == {"broken", "empty", "absent", "folder"}
    assert set(found.groups) == {"good.png"}
    with pytest.raises(DataError, match="none of 4 can be read"):
        audit(wrong, workers=1)


def test_images_that_show_hardly_anything_are_listed_and_are_no_copies_of_each_other(save: Save):
    grey = np.full((50, 60, 4), 255, np.uint8)
    dark = np.where(np.arange(4) < 3, grey // 4, grey)
    speck = texture(48, 30, 30)
    speck[7:, :, 3] = speck[:, 7:, 3] = 0
    bare = np.zeros((30, 30, 4), np.uint8)
    found = audit(
        [save("a.png", grey), save("b.png", dark), save("c.png", speck), save("d.png", bare)],
        workers=1,
    )
    assert found.pairs == ()
    assert found.near_empty == ["a.png", "b.png", "c.png", "d.png"]


def test_the_order_of_the_files_and_the_number_of_workers_change_nothing(
    strangers: list[tuple[str, Path]], save: Save, monkeypatch: pytest.MonkeyPatch
):
    images = [*strangers, save("x.png", rotated(texture(100), 5)), save("y.png", texture(101)[:, ::-1])]
    monkeypatch.setattr(engine, "ALONE", 2)
    first, second = audit(images, workers=1), audit(images[::-1], workers=2)
    assert len(first.pairs) == 2
    assert first == second


def test_the_inverted_file_finds_what_an_exhaustive_search_finds(
    strangers: list[tuple[str, Path]], cache: Path, save: Save, monkeypatch: pytest.MonkeyPatch
):
    images = [*strangers, *(save(f"x{k}.png", texture(100 + k)[:, ::-1]) for k in range(4))]
    exhaustive = audit(images, workers=1, cache=cache)
    monkeypatch.setattr(candidates_module, "FLAT_BELOW", 100)
    assert pairs_of(audit(images, workers=1, cache=cache)) == pairs_of(exhaustive) != set()


def test_an_audit_that_was_stopped_goes_on_with_what_it_had_described(
    strangers: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "BATCH", 4)
    read: list[Path] = []

    def stop_at_seven(path: Path) -> Pixels:
        read.append(path)
        if len(read) == 7:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(reading, "read_image", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        audit(strangers, cache=tmp_path, workers=1)
    found = audit(strangers, cache=tmp_path, workers=1)
    assert len(found.facts) == 8
    assert len(read) == 7 + 4  # the first four were kept


def test_progress_ends_at_the_total(strangers: list[tuple[str, Path]], cache: Path):
    told: dict[str, tuple[int, int]] = {}
    audit(
        strangers,
        workers=1,
        cache=cache,
        progress=lambda stage, done, total: told.update({stage: (done, total)}),
    )
    assert list(told) == ["read", "index", "search", "compare"][: len(told)]
    assert all(done == total for done, total in told.values())


def test_an_audit_leaves_the_process_s_threads_as_they_were(tmp_path: Path) -> None:
    """OpenMP's setting is the whole process's: a training that follows would run at another speed."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    before = faiss.omp_get_max_threads()

    audit([(name, tmp_path / name) for name in ("a.png", "b.png")], workers=before + 1)

    assert faiss.omp_get_max_threads() == before
