from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from leanmed.data import read_mask, read_pixels, read_records
from leanmed.data.instances import read_instances
from leanmed.errors import DataError, OutputError
from leanmed.phantoms.nerves import Oval, made_frame, made_patient, write_nerves

SIDE = 48


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_nerves(tmp_path_factory.mktemp("made") / "nerves", patients=4, frames=2, side=SIDE, seed=4)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(written, tmp_path):
    again = write_nerves(tmp_path / "again", patients=4, frames=2, side=SIDE, seed=4)
    other = write_nerves(tmp_path / "other", patients=1, frames=1, side=SIDE, seed=5)
    names = [path.relative_to(written) for path in sorted(written.rglob("*.*"))]
    assert len(names) == 17
    assert all((written / name).read_bytes() == (again / name).read_bytes() for name in names)
    first = "images/P000-0.png"
    assert (written / first).read_bytes() != (other / first).read_bytes()


def test_fewer_patients_and_frames_are_the_first_of_more(written, tmp_path):
    fewer = write_nerves(tmp_path / "fewer", patients=2, frames=1, side=SIDE, seed=4)
    name = "images/P001-0.png"
    assert (fewer / name).read_bytes() == (written / name).read_bytes()


def test_a_full_folder_and_numbers_that_make_no_sense_are_refused(written, tmp_path, refused):
    with pytest.raises(OutputError):
        write_nerves(written)
    with refused(DataError, "at least one patient", "got 0, 4, 128 and 0.5"):
        write_nerves(tmp_path / "none", patients=0)
    with refused(DataError, "a share of 0 to 1", "1.5"):
        write_nerves(tmp_path / "much", two_nerves=1.5)
    assert not list(tmp_path.iterdir())


def test_the_reader_finds_patients_whole_and_every_nerve_as_an_object(written):
    found = read_records("masks", written)
    assert Counter(record.group for record in found) == {f"P00{number}": 2 for number in range(4)}
    assert [record.attributes["nerves"] for record in found] == [1, 1, 2, 2, 1, 1, 2, 2]
    for number, record in enumerate(found):
        made = made_frame(4, number // 2, number % 2, SIDE, int(record.attributes["nerves"]))
        assert np.array_equal(read_pixels(record)[..., 0], made.pixels)
        objects = [part for _, part in read_instances(record, ["nerve"])]
        assert {part.tobytes() for part in objects} == {nerve.tobytes() for nerve in made.nerves}
        assert np.array_equal(read_mask(record, ["nerve"]), np.any(made.nerves, axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_nerves_lie_within_the_image_and_apart_from_each_other_vessels_and_nodes(seed):
    for number in range(6):
        ovals = made_patient(seed, number, nerves=2).ovals
        assert [oval.kind for oval in ovals[:2]] == ["nerve", "nerve"]
        assert "vessel" in {oval.kind for oval in ovals}
        for one, other in combinations(ovals, 2):
            assert np.hypot(one.x - other.x, one.y - other.y) > max(one.a, one.b) + max(other.a, other.b)
        for nerve in made_frame(seed, number, 0, SIDE, nerves=2).nerves:
            assert 10 < nerve.sum() < 0.15 * nerve.size
            assert not nerve[[0, -1]].any()


def test_an_oval_without_waves_is_an_ellipse():
    oval = Oval("nerve", 2.0, 10.0, 4.0, 2.0, np.pi / 2, ((0.0, 0.0),) * 3, 0.0)  # turned by a quarter: it stands
    x, y = np.array([2.0, 2.0, 4.0, 2.0]), np.array([10.0, 14.0, 10.0, 12.0])
    np.testing.assert_allclose(oval.away(x, y), [0, 1, 1, 0.5], atol=1e-9)


def test_vessels_are_darker_than_what_is_around_them_and_below_it_is_brighter_than_beside():
    """Over many patients, for speckle, fasciae and shadows hide it in single ones."""
    inside, around, below, beside = [], [], [], []
    for number in range(12):
        patient = made_patient(1, number)
        pixels, step = made_frame(1, number, 0, 64).pixels.astype(float), patient.depth / 64
        for vessel in (oval for oval in patient.ovals if oval.kind == "vessel" and oval.b > 1.2):
            x = (np.arange(64) - 31.5) * step
            y = (np.arange(64)[:, None] + 0.5) * step
            away = np.hypot((x - vessel.x) / vessel.a, (y - vessel.y) / vessel.b)
            under = (y > vessel.y + 1.5 * vessel.b) & (y < vessel.y + 1.5 * vessel.b + 6)
            inside.append(pixels[away < 0.5].mean())
            around.append(pixels[(away > 1.3) & (away < 2.5)].mean())
            below.append(pixels[under & (np.abs(x - vessel.x) < 0.6 * vessel.a)].mean())
            beside.append(pixels[under & (np.abs(x - vessel.x) > 1.5 * vessel.a)].mean())
    assert len(inside) > 8
    assert np.mean(inside) < 0.7 * np.mean(around)
    assert np.mean(below) > 1.05 * np.mean(beside)


def test_frames_of_a_patient_are_more_alike_than_those_of_two():
    def blurred(number, frame):
        pixels = made_frame(2, number, frame, 64).pixels.astype(float)
        return pixels.reshape(8, 8, 8, 8).mean((1, 3)).ravel()

    first = [blurred(number, 0) for number in range(6)]
    second = [blurred(number, 1) for number in range(6)]
    alike = np.corrcoef(first, second)[:6, 6:]
    own = np.diag(alike).mean()
    assert own > alike[~np.eye(6, dtype=bool)].mean() + 0.1
    assert not np.array_equal(made_frame(2, 0, 0, 64).pixels, made_frame(2, 0, 1, 64).pixels)
