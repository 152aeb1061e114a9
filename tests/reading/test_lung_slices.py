from __future__ import annotations

import sys

import numpy as np
import pytest

from leanmed.errors import InputTooLarge, MissingExtraError, UnsupportedInput
from leanmed.phantoms.chest import made_chest
from leanmed.phantoms.scans import drawn, made_grid
from leanmed.reading import lung_slices as slices
from leanmed.reading import orientation
from leanmed.reading.ct import Grid, Volume
from leanmed.reading.lung_slices import COARSE, find_lungs, only_lungs, prepare, three_slices, window
from leanmed.reading.orientation import Orientation
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


def stored_as(hu, order, flips):
    """A scan as stored in another order of axes: the array, (z, y, x), and the grid that keeps voxels in their places.

    Args:
        order: for each axis of the new array, x first, the old one that becomes it.
        flips: for each new axis, whether it is reversed.
    """
    spacing, axes = np.array((1.5, 2.0, 4.0)), np.eye(3)
    counts = np.array(hu.shape[::-1])
    again = hu.transpose([2 - order[2 - dim] for dim in range(3)])
    again = np.flip(again, [2 - axis for axis in range(3) if flips[axis]])
    columns = [axes[:, order[axis]] * (-1 if flips[axis] else 1) for axis in range(3)]
    origin = sum((counts[o] - 1) * spacing[o] * axes[:, o] for o, flip in zip(order, flips, strict=True) if flip)
    origin = tuple(np.broadcast_to(np.asarray(origin, float), 3).tolist())
    direction = tuple(map(tuple, np.stack(columns, axis=1).tolist()))
    grid = Grid(again.shape, tuple(spacing[list(order)].tolist()), origin, direction)
    return Volume("again", grid, lambda first, end: np.asarray(again[first:end], np.float32), ())


STORAGES = [
    ((0, 1, 2), (True, True, False)),  # RAS, as NIfTI often is
    ((0, 1, 2), (False, False, True)),  # from the head to the feet
    ((0, 1, 2), (True, True, True)),
    ((1, 0, 2), (False, True, False)),  # rows are columns
    ((1, 2, 0), (False, False, False)),  # cut from the side
    ((1, 2, 0), (True, True, True)),
    ((0, 2, 1), (False, True, True)),  # cut from the front
]


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_however_a_scan_is_stored_the_network_sees_the_same_and_places_come_back_as_stored(volume, hu, order, flips):
    again = stored_as(hu, order, flips)
    one, other = prepare(volume), prepare(again)
    assert np.array_equal(one.grey, other.grey)
    corners = np.array([[3.0, 5.0], [20.0, 40.0]])
    pairs = list(zip(one.slices(), other.slices(), strict=True))
    assert len(pairs) == 15
    for mine, theirs in pairs:
        assert np.array_equal(mine.pixels, theirs.pixels)
        places = [v.grid.world(piece.voxel(corners)) for v, piece in ((volume, mine), (again, theirs))]
        np.testing.assert_allclose(*places, atol=1e-9)
        # The box as stored, by the voxels of its corners: a pixel reaches half a voxel beyond the centre.
        across = sorted(order.index(axis) for axis in (0, 1))
        wanted = np.sort(theirs.voxel(corners)[:, across], axis=0).ravel() + 0.5
        np.testing.assert_allclose(theirs.stored_boxes(corners.reshape(1, 4))[0], wanted, atol=1e-9)
        assert theirs.z == theirs.voxel(corners)[0, order.index(2)]
        back = other.orientation.ordered_boxes(theirs.stored_boxes(corners.reshape(1, 4)))
        np.testing.assert_allclose(back.reshape(2, 2), theirs.ordered(corners), atol=1e-9)


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_one_slice_alone_looks_the_same_however_its_scan_is_stored(volume, hu, order, flips):
    again = stored_as(hu, order, flips)
    z = 14 - 7 if flips[order.index(2)] else 7
    assert np.array_equal(three_slices(volume, 7).pixels, three_slices(again, z).pixels)


def test_a_box_in_a_scan_stored_on_its_belly_worked_by_hand():
    """Ten columns and eight rows, both reversed: x from 1 to 3 is 7 to 9, y from 2 to 6 is 2 to 6 again."""
    grid = Grid((4, 8, 10), (1.0, 1.0, 1.0), (9.0, 7.0, 0.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
    lying = Orientation.of(grid)
    assert lying.stored_boxes([[1, 2, 3, 6]]).tolist() == [[7, 2, 9, 6]]
    assert lying.stored((1, 2, 3)).tolist() == [8, 5, 3]
    assert lying.grid(grid).origin == (0.0, 0.0, 0.0)


def test_a_scan_cut_from_the_side_that_would_fill_the_memory_is_refused(hu, monkeypatch, refused):
    monkeypatch.setattr(orientation, "MAX_TURNED", 1000)
    with refused(InputTooLarge, "again", "axial slices"):
        prepare(stored_as(hu, (1, 2, 0), (False, False, False)))


def test_each_slice_of_a_scan_is_read_once(volume):
    prepare(volume)
    assert read_so_far == list(range(15))


def test_a_scan_without_lungs_or_oblique_is_refused(hu, refused):
    with refused(UnsupportedInput, "made", "lungs"):
        prepare(volume_of(np.full((4, 60, 60), 40, np.int16)))
    axes = ((2 / 3, -1 / 3, 2 / 3), (2 / 3, 2 / 3, -1 / 3), (-1 / 3, 2 / 3, 2 / 3))  # none leads to the head by 0.7
    with refused(UnsupportedInput, "made", "oblique"):
        prepare(volume_of(hu, direction=axes))
    with refused(UnsupportedInput, "made", "expected axial slices", "alone"):
        prepare(volume_of(hu[:1], direction=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))))


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
