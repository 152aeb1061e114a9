from __future__ import annotations

import shutil

import numpy as np
import pytest

from leanmed.data import content_hashes, data_hash, read_records, read_records_for
from leanmed.data.luna16 import read_scans
from leanmed.errors import DataError
from leanmed.phantoms.scans import write_luna16
from leanmed.reading.lung_slices import three_slices
from leanmed.reading.volume import open_volume
from leanmed.tasks.recipes import load_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four made scans of three nodules each, the last one turned by half a turn."""
    return write_luna16(tmp_path_factory.mktemp("luna") / "luna16", 4, seed=2, spacing=(2.0, 2.0, 4.0))


@pytest.fixture
def own(made, tmp_path):
    """A copy to damage."""
    return shutil.copytree(made, tmp_path / "luna16")


def add(path, line):
    path.write_text(path.read_text() + line + "\n")


def test_each_nodule_has_a_slice_and_each_scan_one_without(made):
    records = read_records("luna16", made)
    for number, uid in enumerate(f"made.{n}" for n in range(2, 6)):
        mine = [record for record in records if record.image.stem == uid]
        assert {record.group for record in mine} == {uid}
        assert {record.site for record in mine} == {f"subset{number}"}
        assert [record.id for record in mine] == [f"subset{number}/{uid}.mhd#{record.frame}" for record in mine]
        assert len({d for record in mine for d in record.target.diameters}) == 3
        assert [len(record.target.xyxy) for record in mine].count(0) == 1


def test_boxes_lie_on_nodules_in_straight_and_turned_scans(made):
    """Inside a box's inner half it is bright as tissue, and the ring of twice its width is mostly lung."""
    for record in read_records("luna16", made):
        pixels = three_slices(open_volume(record.image), record.frame).pixels[..., 1]
        for x1, y1, x2, y2 in record.target.xyxy:
            x, y, r = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2
            rows, columns = np.indices(pixels.shape)
            away = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
            assert np.median(pixels[away < max(r / 2, 1)]) > 110
            assert np.median(pixels[(away > 1.3 * r + 1) & (away < 2 * r + 2)]) < 110


def test_a_slice_holds_every_nodule_whose_sphere_it_crosses(own):
    grid = open_volume(own / "subset0/made.2.mhd").grid
    x, y, z = grid.world((40.3, 50, 20)).tolist()
    rows = [((x, y, z), 9.0), ((x + 30, y, z + 7.9), 16.0), ((x + 60, y, z + 8.1), 16.0), ((x, y + 30, z + 1.9), 3.0)]
    lines = [f"made.2,{x},{y},{z},{d}" for (x, y, z), d in rows]
    (own / "annotations.csv").write_text("\n".join(["seriesuid,coordX,coordY,coordZ,diameter_mm", *lines]) + "\n")
    record = next(r for r in read_records("luna16", own) if r.frame == 20 and r.image.stem == "made.2")
    assert record.target.diameters == (9.0, 16.0, 3.0)  # the last by the nearest slice alone
    x1, y1, x2, y2 = record.target.xyxy[0]
    assert (x2 - x1, y2 - y1) == pytest.approx((9, 9))
    assert (x1 + x2) / 2 == pytest.approx((40.3 + 0.5) * 2)


def test_the_same_slices_are_drawn_whatever_scans_are_there(own):
    before = [record.id for record in read_records("luna16", own) if record.site != "subset1"]
    shutil.rmtree(own / "subset1")
    assert [record.id for record in read_records("luna16", own)] == before


def test_no_finding_excluded_or_not_lies_in_the_slice_without_nodules(own):
    (empty,) = (r.frame for r in read_records("luna16", own) if r.image.stem == "made.2" and not r.target.xyxy)
    grid = open_volume(own / "subset0/made.2.mhd").grid
    x, y, z = grid.world((20, 20, empty)).tolist()
    add(own / "annotations_excluded.csv", f"made.2,{x},{y},{z},8")
    frames = [r.frame for r in read_records("luna16", own) if r.image.stem == "made.2" and not r.target.xyxy]
    assert all(abs(frame - empty) * grid.spacing[2] >= 4 for frame in frames)


def test_boxes_are_told_as_the_model_that_reads_them_learnt_them(own):
    assert load_recipe("nodules").data.box_origin == "centre"
    recipe = load_recipe("nodules", ["data.dataset=luna16"]).data
    assert recipe.box_origin == "corner"
    plain = read_records_for(recipe, own)
    moved = read_records_for(load_recipe("nodules").data, own, "luna16")
    for a, b in zip(plain, moved, strict=True):
        assert np.allclose(a.target.xyxy, np.add(b.target.xyxy, 0.5)) or not a.target.xyxy


def test_the_paper_s_centre_slices_are_one_a_scan(made):
    records = read_records("luna16-centres", made)
    assert len(records) == 4
    for record in records:
        assert record.frame == len(open_volume(record.image)) // 2


def test_groups_are_patients_where_a_table_tells_them(own):
    patients = [f"made.{n},{'p1' if n < 4 else f'p{n}'}" for n in range(2, 6)]
    (own / "luna16_series_to_patient.csv").write_text("\n".join(["seriesuid,patient_id", *patients]) + "\n")
    assert {record.group for record in read_records("luna16", own)} == {"p1", "p4", "p5"}


def test_scans_come_with_what_evaluation_needs(made):
    scans = read_scans(made)
    assert list(scans.files) == [f"made.{n}" for n in range(2, 6)]
    assert [len(scans.nodules[uid]) for uid in scans.files] == [3] * 4
    assert [scans.excluded[uid][0].diameter for uid in scans.files] == [-1] * 4


def test_the_tables_beside_the_annotations_may_be_missing(own):
    (own / "annotations_excluded.csv").unlink()
    (own / "seriesuids.csv").unlink()
    assert len(read_records("luna16", own)) > 12


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("annotations", "made.2,0,0,9999,5", "inside the scan"),
        ("annotations", "made.99,0,0,0,5", "made.99"),
        ("annotations_excluded", "made.99,0,0,0,-1", "made.99"),
        ("annotations", "made.2,0,0,zero,5", "'coordZ': 'zero'"),
        ("annotations", "made.2,0,0,0,-1", "a diameter in mm"),
        ("annotations", "made.2,0,0,0", "5 fields"),
    ],
)
def test_a_bad_annotation_is_refused_by_name(own, refused, table, line, words):
    add(own / f"{table}.csv", line)
    with refused(DataError, words):
        read_records("luna16", own)


def test_a_scan_that_is_not_listed_twice_there_or_damaged_is_refused(own, refused):
    (own / "subset0/made.2.raw").write_bytes(b"short")
    with refused(DataError, "made.2", "bytes"):
        read_records("luna16", own)
    shutil.copy(own / "subset0/made.2.mhd", own / "subset1/made.2.mhd")
    with refused(DataError, "each once"):
        read_records("luna16", own)
    (own / "subset1/made.2.mhd").rename(own / "subset1/made.77.mhd")
    with refused(DataError, "made.77"):
        read_records("luna16", own)
    with refused(DataError, "subset0/UID.mhd"):
        read_records("luna16", own / "subset0")


def test_contents_of_a_scan_are_those_of_its_voxels(own):
    records = read_records("luna16", own)
    before = content_hashes(records)
    raw = own / "subset0/made.2.raw"
    raw.write_bytes(raw.read_bytes()[:-2] + b"\1\1")
    changed = [a != b for a, b in zip(before, content_hashes(records), strict=True)]
    assert changed == [record.image.stem == "made.2" for record in records]
    assert len(data_hash(records, before)) == 64


def test_of_one_subset_without_the_list_of_series_what_is_there_is_read_and_the_rest_counted(own):
    for number in (1, 2, 3):
        shutil.rmtree(own / f"subset{number}")
    found = read_records("luna16", own)
    assert {record.image.stem for record in found} == {"made.2"}
    assert any("1 scans are there; those of 3 other series" in note for note in found.notes)
    (own / "seriesuids.csv").unlink()
    again = read_records("luna16", own)
    assert again == found
    assert any("1 scans are there; those of 3 other series" in note for note in again.notes)


def test_series_without_a_patient_are_counted(own):
    assert any("patients of 4 of 4 series" in note for note in read_records("luna16", own).notes)
    (own / "luna16_series_to_patient.csv").write_text("seriesuid,patient_id\nmade.2,p1\nmade.3,p1\n")
    assert any("patients of 2 of 4 series" in note for note in read_records("luna16", own).notes)


def test_annotations_of_other_series_alone_are_no_annotations(own, refused):
    (own / "seriesuids.csv").unlink()
    (own / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\nmade.99,0,0,0,5\n")
    with refused(DataError, "expected at least one box", "annotations.csv"):
        read_records("luna16", own)
