from __future__ import annotations

import json

import numpy as np
import pytest

from leanmed.phantoms.chest import made_chest
from leanmed.phantoms.scans import drawn, findings, made_grid
from leanmed.reading.ct import Grid, Volume
from leanmed.reading.lung_slices import Scan, prepare
from leanmed.tasks.detection.candidates import Mark, find_candidates, montage

TURNED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
NOTHING = (np.empty((0, 4)), np.empty(0))


@pytest.fixture
def scan():
    """Twelve slices 2 mm apart, 0.5 mm pixels, all of it lung."""
    grid = Grid((12, 120, 160), (0.5, 0.5, 2.0), (10.0, 20.0, 30.0), TURNED)
    volume = Volume("made", grid, lambda first, end: np.zeros((end - first, 120, 160), np.float32), ())
    return Scan(volume, np.zeros((12, 60, 80), np.uint8), np.ones((12, 20, 27), bool))


def marks(**by_slice):
    """`marks(z3=[(x, y, side, score)])`: a detector that marks squares about x, y in slices called in turn."""
    answers = iter([by_slice.get(f"z{z}", []) for z in range(12)])

    def detect(pixels):
        assert (pixels.shape, pixels.dtype) == ((60, 80, 3), np.uint8)
        found = next(answers)
        boxes = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y, side, _ in found]
        return np.array(boxes, np.float32).reshape(-1, 4), np.array([score for *_, score in found], np.float32)

    return detect


def test_overlapping_boxes_of_neighbouring_slices_are_one_candidate(scan):
    found = find_candidates(scan, marks(z3=[(30, 40, 6, 0.2)], z4=[(31, 40, 8, 0.6)], z5=[(31, 41, 6, 0.2)]))
    assert len(found) == 1
    only = found[0]
    assert only.score == pytest.approx(0.6)
    assert [mark.z for mark in only.marks] == [3, 4, 5]
    # 2 stored pixels a mm, counted from the other side; voxel centres half a pixel in; weights 1, 3, 1
    across, down = 160 - 2 * (30 + 3 * 31 + 31) / 5, 120 - 2 * (40 + 3 * 40 + 41) / 5
    assert only.voxel == pytest.approx((across - 0.5, down - 0.5, 4.0))
    x, y, z = only.voxel
    assert only.world == pytest.approx((10 - 0.5 * x, 20 - 0.5 * y, 30 + 2 * z))
    assert only.diameter == pytest.approx(8)
    assert only.best == Mark(4, pytest.approx((90, 32, 106, 48)), pytest.approx(0.6))


def test_boxes_apart_in_the_plane_or_along_z_are_candidates_of_their_own(scan):
    found = find_candidates(scan, marks(z3=[(30, 40, 6, 0.5), (50, 20, 6, 0.4)], z6=[(30, 40, 6, 0.3)]))
    assert [candidate.score for candidate in found] == pytest.approx([0.5, 0.4, 0.3])


def test_a_chain_of_drifting_boxes_does_not_join_what_lies_apart(scan):
    """A vessel that runs aslant: each box overlaps the next, and the ends do not overlap the middle."""
    drifting = {f"z{z}": [(10 + 4 * z, 30, 8, 0.9 if z == 5 else 0.5)] for z in range(11)}
    found = find_candidates(scan, marks(**drifting))
    assert [mark.z for mark in found[0].marks] == [4, 5, 6]


def test_what_goes_on_further_than_a_thing_is_wide_is_another(scan):
    """A mass of 8 mm in slices 2 mm apart, and a vessel that runs on inside its outline."""
    column = {f"z{z}": [(30, 40, 8, 0.9) if z == 2 else (30, 40, 3, 0.2)] for z in range(11)}
    found = find_candidates(scan, marks(**column))
    assert [mark.z for mark in found[0].marks] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert found[1].marks[0].z == 8


def test_of_each_slice_the_best_mark_is_kept(scan):
    found = find_candidates(scan, marks(z3=[(30, 40, 6, 0.2), (31, 40, 6, 0.9), (30, 41, 7, 0.8)]))
    assert [mark.score for mark in found[0].marks] == pytest.approx([0.9])


def test_a_thin_scan_may_miss_a_slice_in_between(scan):
    spaced = marks(z3=[(30, 40, 6, 0.5)], z5=[(30, 40, 6, 0.4)])
    assert len(find_candidates(scan, spaced)) == 2
    grid = Grid((12, 120, 160), (0.5, 0.5, 1.0), (0.0, 0.0, 0.0), TURNED)
    thin = Scan(Volume("thin", grid, scan.volume.read, ()), scan.grey, scan.lungs)
    assert len(find_candidates(thin, marks(z3=[(30, 40, 6, 0.5)], z5=[(30, 40, 6, 0.4)]))) == 1


def test_a_detector_that_finds_nothing_gives_no_candidate(scan):
    assert find_candidates(scan, lambda pixels: NOTHING) == []


def test_a_candidate_is_written_as_plain_json(scan):
    found = find_candidates(scan, marks(z3=[(30, 40, 6, 0.25)]))
    assert json.loads(json.dumps(found[0].as_json())) == {
        "score": 0.25,
        "voxel_xyz": [99.5, 39.5, 3.0],
        "world_mm_xyz": [-39.75, 0.25, 36.0],
        "diameter_mm": 6.0,
        "slices": [{"z": 3, "xyxy": [94.0, 34.0, 106.0, 46.0], "score": 0.25}],
    }


def test_nodules_of_a_made_scan_are_found_where_they_are():
    """A detector told the truth in the pixels of each slice leads back to the annotated world coordinates."""
    chest = made_chest(3, nodules=2, depth=80)
    grid = made_grid(chest, (1.4, 1.1, 2.5), direction=TURNED)
    hu = drawn(chest, grid).astype(np.float32)
    scan = prepare(Volume("made", grid, lambda first, end: hu[first:end], ()))
    pieces = scan.slices()

    def truth(_):
        piece = next(pieces)
        (sx, sy), (left, top) = piece.scale, piece.corner
        boxes = []
        for (x, y, z), d in ((n.centre, n.diameter) for n in chest.nodules):
            if abs(piece.z * 2.5 - z) < d / 2:
                across, down, _ = piece.orientation.ordered((x / 1.4, y / 1.1, z / 2.5)) + 0.5
                column, row = across / sx - left, down / sy - top
                boxes.append((column - d / 2, row - d / 2, column + d / 2, row + d / 2))
        return np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.5)

    found = find_candidates(scan, truth)
    assert len(found) == 2
    for x, y, z, diameter in findings(chest, grid):
        apart = [np.linalg.norm(np.subtract(candidate.world, (x, y, z))) for candidate in found]
        assert min(apart) < 1.3
        assert found[int(np.argmin(apart))].diameter == pytest.approx(diameter, rel=0.01)


def test_a_montage_shows_the_candidates_with_boxes_and_says_it_is_for_research(scan):
    found = find_candidates(scan, marks(z3=[(30, 40, 6, 0.5), (50, 20, 6, 0.4)], z6=[(2, 2, 4, 0.3)]))
    two, three, none = map(np.asarray, (montage(scan, found, count=2), montage(scan, found), montage(scan, [])))
    assert three.shape[1] > two.shape[1]
    yellow = (three == (255, 200, 0)).all(axis=-1)
    assert yellow[:192, :192].any()
    assert yellow[:192, 390:].any()  # a candidate at the edge
    assert none[-16:].max() > 200  # the line below
