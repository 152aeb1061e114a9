from __future__ import annotations

import sys

import numpy as np
import pytest

from leanmed.errors import InputTooLarge, MissingExtraError, UnsupportedInput
from leanmed.phantoms.chest import made_chest
from leanmed.phantoms.scans import drawn, made_grid
from leanmed.reading import lung_slices as slices
from leanmed.reading.ct import Grid, Volume
from leanmed.reading.lung_slices import COARSE, find_lungs, only_lungs, prepare, three_slices, window
from leanmed.reading.volume import open_volume

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def volume_of(hu, spacing=(1.0, 1.0, 1.0), direction=AXIAL) -> Volume:
    """A scan in memory; it notes in `read_so_far` which slices were read."""

    def read(first, end):
        read_so_far.extend(range(first, end))
        return np.asarray(hu[first:end], np.float32)

    read_so_far.clear()
    return Volume("made", Grid(hu.shape, spacing, (0.0, 0.0, 0.0), direction), read, ())


read_so_far: list[int] = []


@pytest.fixture(scope="module")
def chest():
    return made_chest(4, nodules=2, depth=60)


@pytest.fixture(scope="module")
def hu(chest):
    return drawn(chest, made_grid(chest, (1.5, 2.0, 4.0)))


@pytest.fixture
def volume(hu):
    return volume_of(hu, (1.5, 2.0, 4.0))


def test_the_window_is_linear_and_ends_at_its_edges():
    hu = np.array([-3000, -1000, -650, -300, 50, 400, 3000], np.float32)
    assert window(hu).tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_a_slice_has_a_pixel_for_each_millimetre_and_reads_its_neighbours_alone(volume):
    piece = three_slices(volume, 7)
    assert (piece.pixels.shape, piece.pixels.dtype, piece.corner) == ((260, 330, 3), np.uint8, (0, 0))
    assert read_so_far == [6, 7, 8]


def test_the_channels_are_the_slices_before_at_and_after(volume):
    before, middle, after = (three_slices(volume, z, neighbours=False).pixels[..., 1] for z in (6, 7, 8))
    pixels = three_slices(volume, 7).pixels
    kept = (pixels > 0).all(axis=-1) & (before > 0) & (after > 0)  # each is cut to its own lungs
    for channel, alone in enumerate((before, middle, after)):
        assert np.array_equal(pixels[..., channel][kept], alone[kept])


def test_the_edge_of_a_scan_is_repeated(volume):
    first, last = three_slices(volume, 0).pixels, three_slices(volume, 14).pixels
    assert np.array_equal(first[..., 0], first[..., 1])
    assert np.array_equal(last[..., 2], last[..., 1])
    assert not np.array_equal(first[..., 2], first[..., 1])


def test_a_slice_alone_stands_in_all_channels_and_alone_is_read(volume):
    pixels = three_slices(volume, 7, neighbours=False).pixels
    assert read_so_far == [7]
    assert (pixels == pixels[..., :1]).all()


def test_a_nodule_is_where_the_maps_of_a_slice_say(chest, hu, volume):
    """A nodule's centre in mm, brought to pixels by hand, is bright, and `voxel` leads back."""
    nodule = max(chest.nodules, key=lambda n: n.diameter)
    x, y, z = np.array(nodule.centre) / (1.5, 2.0, 4.0)
    piece = three_slices(volume, round(z))
    pixel = np.array([(x + 0.5) * 1.5, (y + 0.5) * 2.0])
    column, row = pixel.astype(int)
    assert piece.pixels[row, column, 1] > 150
    np.testing.assert_allclose(piece.voxel(pixel), [x, y, round(z)], atol=1e-9)
    np.testing.assert_allclose(piece.stored(pixel) - 0.5, [x, y], atol=1e-9)


def test_values_are_clipped_before_they_are_averaged():
    hu = np.full((1, 300, 300), -1000, np.int16)
    hu[0, 20:280, 20:280] = 40
    hu[0, 60:240, 60:130] = hu[0, 60:240, 170:240] = -860
    hu[0, 120:180, 140:160:2], hu[0, 120:180, 141:160:2] = 3000, -1000  # metal and air, half a pixel each
    piece = three_slices(volume_of(hu, (0.5, 0.5, 1.0)), 0)
    assert piece.pixels.shape == (150, 150, 3)
    assert piece.pixels[75, 75].tolist() == [128, 128, 128]  # -300 HU is midway between -1000 and 400


def test_lungs_and_a_rim_are_kept_and_the_rest_is_black(chest):
    grey = window(drawn(chest, made_grid(chest, (1.0, 1.0, 30.0))))[1]
    kept = only_lungs(grey)
    cx, cy, _, ax, ay, _ = chest.lungs[0]
    y, x = np.indices(grey.shape)
    away = (np.hypot((x - cx) / ax, (y - cy) / ay) - 1) * min(ax, ay)  # mm from the left lung, nearly
    assert np.array_equal(kept[away < 5], grey[away < 5])
    assert not kept[y < 15].any()  # the skin and the air before it
    middle = (abs(x - 165) < 10) & (abs(y - 130) < 5)
    assert np.array_equal(kept[middle], grey[middle])  # between the lungs, where the hila are


def test_air_around_the_body_in_the_bowel_and_below_the_table_is_no_lung():
    grey = np.zeros((9, 300, 300), np.uint8)
    grey[:, 60:260, 30:270] = 190  # body
    grey[:, 90:220, 60:120] = grey[:, 90:220, 180:240] = 30  # lungs
    grey[:2, 130:160, 140:160] = 0  # gas, in two slices
    grey[:, 275:290, 10:290] = 190
    grey[:, 278:287, 13:287] = 0  # a hollow table
    lungs = find_lungs(grey).repeat(COARSE, 1).repeat(COARSE, 2)
    assert lungs[:, 90:220, 60:120].all()
    assert lungs[:, 90:220, 180:240].all()
    assert not lungs[:, 145, 150].any()
    assert not lungs[:, 270:].any()
    assert not lungs[:, :70].any()


def test_a_nodule_on_the_pleura_is_kept():
    grey = np.zeros((1, 300, 300), np.uint8)
    grey[:, 30:270, 20:280] = 190
    y, x = np.indices((300, 300))
    grey[0][np.hypot(x - 150, y - 150) < 90] = 30
    grey[0][np.hypot(x - 60, y - 150) < 12] = 190  # sits on the wall, 24 mm wide
    assert find_lungs(grey)[0, 50, 60 // COARSE]


def test_the_slices_of_a_scan_are_those_with_lung_cropped_alike(hu):
    empty = np.full((3, *hu.shape[1:]), 40, np.int16)
    scan = prepare(volume_of(np.concatenate([empty, hu, empty]), (1.5, 2.0, 4.0)))
    pieces = list(scan.slices())
    assert [piece.z for piece in pieces] == list(range(3, 18))
    assert len({(piece.pixels.shape, piece.corner) for piece in pieces}) == 1
    (height, width, _), (left, top) = pieces[0].pixels.shape, pieces[0].corner
    assert height < 260
    assert width < 330
    whole = scan.grey[10, top : top + height, left : left + width]
    kept = pieces[7].pixels[..., 1]
    assert np.array_equal(kept[kept > 0], whole[kept > 0])
    assert np.array_equal(next(scan.slices(neighbours=False)).pixels[..., 0], pieces[0].pixels[..., 1])


def test_each_slice_of_a_scan_is_read_once(volume):
    prepare(volume)
    assert read_so_far == list(range(15))


def test_a_scan_without_lungs_or_not_axial_is_refused(hu, refused):
    with refused(UnsupportedInput, "made", "lungs"):
        prepare(volume_of(np.full((4, 60, 60), 40, np.int16)))
    with refused(UnsupportedInput, "made", "axial"):
        prepare(volume_of(hu, direction=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))))


def test_a_scan_whose_spacing_would_fill_the_memory_is_refused(hu, monkeypatch, refused):
    wide = volume_of(hu[:3], (900.0, 900.0, 4.0))
    for read in (prepare, lambda volume: three_slices(volume, 1)):
        with refused(UnsupportedInput, "made", "at most 2000 mm"):
            read(wide)
    monkeypatch.setattr(slices, "MAX_VOXELS", 1000)
    with refused(InputTooLarge, "made", "at most 1,000 voxels"):
        prepare(volume_of(hu, (1.5, 2.0, 4.0)))


def test_lungs_need_scipy_and_the_message_says_how_to_get_it(volume, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with refused(MissingExtraError, "leanmed[ct]"):
        three_slices(volume, 7)


@pytest.mark.realdata
def test_a_real_scan_is_cut_to_its_lungs(real_data):
    scan = prepare(open_volume(real_data("lung-pet-ct-dx")))
    pieces = list(scan.slices())
    assert len(pieces) >= 25
    middle = pieces[15]
    height, width, _ = middle.pixels.shape
    assert 150 < height < 260
    assert 220 < width < 320
    air = (middle.pixels[..., 1] < 60) & (middle.pixels[..., 1] > 0)
    assert 0.25 < air.mean() < 0.7  # lung
