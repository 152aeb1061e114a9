from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leanmed.data import read_records
from leanmed.data.luna16_slices import COLUMNS, OTHERS
from leanmed.errors import DataError

ROWS = (
    "1.jpg,s1,p1,6.5,10,12,17,19,aa,30 20 36 26 dz=1.5",
    "2.jpg,s1,p1,5.5,30,20,36,26,bb,",
    "3.jpg,s2,p1,4.0,5,5,9,9,cc,",
    "4.jpg,s3,p2,8.0,1,2,9,10,dd,20 20 26 26 dz=0.2",
    "5.jpg,s3,p2,6.0,20,20,26,26,dd,1 2 9 10 dz=0.2",
)


@pytest.fixture
def slices(tmp_path):
    """`slices(*rows)`: a folder in the form of the slices of LUNA16, whose rows 4 and 5 are one slice."""

    def make(*rows):
        (tmp_path / "JPEGImages").mkdir(exist_ok=True)
        for number in range(1, 6):
            Image.fromarray(np.full((30, 40), number, np.uint8)).save(tmp_path / f"JPEGImages/{number}.jpg")
        (tmp_path / "manifest.csv").write_text("\n".join((",".join((*COLUMNS, OTHERS)), *rows)) + "\n")
        return tmp_path

    return make


def test_other_nodules_that_cross_a_slice_are_merged_in_with_their_diameters(slices):
    first, second, *_ = read_records("luna16-slices", slices(*ROWS))
    assert first.id == "JPEGImages/1.jpg"
    assert first.target.xyxy == ((10, 12, 17, 19), (30, 20, 36, 26))
    assert first.target.diameters == (6.5, 5.5)
    assert second.target.xyxy == ((30, 20, 36, 26),)


def test_two_rows_of_one_slice_are_one_record_with_each_nodule_once(slices):
    records = read_records("luna16-slices", slices(*ROWS))
    assert [record.id for record in records] == [f"JPEGImages/{n}.jpg" for n in (1, 2, 3, 4)]
    assert records[-1].target.diameters == (8.0, 6.0)


def test_a_group_is_a_patient_over_all_his_series(slices):
    assert [record.group for record in read_records("luna16-slices", slices(*ROWS))] == ["p1", "p1", "p1", "p2"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.jpg,s1,p1,6.5,10,12,17,31,aa,", "1.jpg: expected boxes inside"),
        ("1.jpg,s1,p1,6.5,17,12,17,19,aa,", "with a size"),
        ("1.jpg,s1,p1,six,10,12,17,19,aa,", "diameter_mm to be a number, got 'six'"),
        ("1.jpg,s1,p1,0,10,12,17,19,aa,", "diameters above 0"),
        ("1.jpg,s1,p1,6.5,10,12,17,19,aa,30 20 36", "ymax"),
        ("1.jpg,s1,p1,6.5,10,12,17,19,aa,3 3 9 9 dz=1", "a row of its own"),
        ("9.jpg,s1,p1,6.5,10,12,17,19,aa,", "9.jpg"),
    ],
)
def test_a_bad_row_is_refused_by_name(slices, refused, row, words):
    with refused(DataError, words):
        read_records("luna16-slices", slices(row, *ROWS[1:]))


def test_of_a_part_of_the_slices_what_is_there_is_read_and_the_rest_counted(slices):
    root = slices(*ROWS)
    for number in (2, 3):
        (root / f"JPEGImages/{number}.jpg").unlink()
    found = read_records("luna16-slices", root)
    assert [record.id for record in found] == ["JPEGImages/1.jpg", "JPEGImages/4.jpg"]
    assert found[0].target.diameters == (6.5, 5.5)  # the other nodule's own row counts, though its slice is not there
    assert found.notes == ("2 of the 5 images that the table lists are not there; they are left out.",)


@pytest.mark.realdata
def test_the_real_slices_are_read_whole(real_data):
    records = read_records("luna16-slices", real_data("luna16-slices"))
    boxes = [len(record.target.xyxy) for record in records]
    assert (len(records), sum(boxes), boxes.count(1)) == (1027, 1138, 935)
    assert len({record.group for record in records}) == 516
    sides = [
        (x2 - x1) / d for r in records for (x1, _, x2, _), d in zip(r.target.xyxy, r.target.diameters, strict=True)
    ]
    assert np.mean(sides) == pytest.approx(1, abs=0.05)
