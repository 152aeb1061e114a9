from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from leanmed.data import read_records
from leanmed.errors import OutputError
from leanmed.phantoms.chest import LUNG, MUSCLE, NOISE, crossing, draw, made_chest, write_slices


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return write_slices(tmp_path_factory.mktemp("made") / "slices", 6, seed=3)


def test_the_same_seed_gives_the_same_chest_and_another_one_another():
    one, same, other = (draw(made_chest(seed), (2, 2), 100.0) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_nodules_lie_in_the_lungs_apart_from_each_other():
    for seed in range(10):
        chest = made_chest(seed, nodules=4)
        for nodule in chest.nodules:
            away = ((np.array(nodule.centre) - chest.lungs[:, :3]) / chest.lungs[:, 3:]) ** 2
            assert away.sum(axis=1).min() < 1
            assert 4 <= nodule.diameter <= 30
        for one, other in combinations(chest.nodules, 2):
            gap = np.linalg.norm(np.subtract(one.centre, other.centre))
            assert gap > (one.diameter + other.diameter) / 2


def test_a_nodule_is_solid_and_as_wide_as_it_says():
    """Along x through its centre, with a pixel of 0.25 mm and no vessel in the way."""
    chest = made_chest(1, nodules=3)
    nodule = next(n for n in chest.nodules if not n.spiculated)
    x, y, z = nodule.centre
    alone = chest.balls[np.abs(chest.balls[:, 3] - nodule.diameter / 2) < 1e-9]
    clean = type(chest)(chest.seed, chest.depth, chest.body, chest.lungs, alone, chest.nodules)
    row = draw(clean, (0.25, 0.25), z)[round(y / 0.25)]
    near = np.abs(np.arange(row.size) * 0.25 - x) < nodule.diameter
    assert (row[near] > (LUNG + MUSCLE) / 2).sum() * 0.25 == pytest.approx(nodule.diameter, abs=0.75)


def test_spicules_reach_beyond_the_nodule():
    chest = next(c for c in map(made_chest, range(20)) if c.nodules[0].spiculated)
    nodule = chest.nodules[0]
    away = np.linalg.norm(chest.balls[:, :3] - nodule.centre, axis=1) / (nodule.diameter / 2)
    assert ((away > 1.2) & (away < 1.6) & (chest.balls[:, 3] < nodule.diameter / 8)).sum() > 20


def test_lung_wall_and_noise_have_their_values():
    chest = made_chest(0)
    hu = draw(chest, (1, 1), chest.depth / 2)
    assert np.median(hu[100:160, 80:110]) == pytest.approx(LUNG, abs=10)
    assert np.median(hu[20:30, 160:170]) < 0  # fat
    assert hu[:8].std() == pytest.approx(NOISE, rel=0.1)
    assert np.median(hu[:8]) == pytest.approx(-1000, abs=5)


def test_a_slice_crosses_the_nodules_within_their_radius():
    chest = made_chest(1, nodules=1)
    x, y, z = chest.nodules[0].centre
    diameter = chest.nodules[0].diameter
    assert crossing(chest, z + 0.51 * diameter).xyxy == ()
    box = crossing(chest, z + 0.49 * diameter)
    assert box.diameters == (diameter,)
    assert box.xyxy[0] == pytest.approx((x + 0.5 - diameter / 2, y + 0.5 - diameter / 2, *box.xyxy[0][2:]))


def test_written_slices_are_read_as_voc_with_three_of_a_patient(slices):
    records = read_records("voc", slices)
    assert [record.group for record in records] == ["made-00003"] * 3 + ["made-00004"] * 3
    assert [bool(record.target.xyxy) for record in records] == [True, True, False] * 2
    assert all(len(record.target.diameters) == len(record.target.xyxy) for record in records)


def test_boxes_of_written_slices_are_bright_on_dark(slices):
    for record in read_records("voc", slices):
        pixels = np.asarray(Image.open(record.image))
        assert pixels.shape == (260, 330)
        assert pixels[:10].max() == 0  # black outside the lungs
        for x1, y1, x2, y2 in record.target.xyxy:
            assert pixels[int((y1 + y2) / 2), int((x1 + x2) / 2)] > 140


def test_slices_do_not_overwrite_anything(slices, refused):
    with refused(OutputError, "to be new or empty, but it holds "):
        write_slices(slices, 3)
