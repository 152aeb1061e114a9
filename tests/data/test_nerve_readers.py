"""Ultrasound of nerves: the subject from the file name, the names of the masks' values, and the published sets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from leanmed.audit import audit
from leanmed.data import read_mask, read_records
from leanmed.errors import DataError

MARKS = np.zeros((10, 12), np.uint8)
MARKS[2:4, 3:6] = 1
MARKS[6, 7:9] = 2


@pytest.fixture
def put(tmp_path):
    """`put("train/1_1.tif", array)`: an image file below the root; without an array, a grey one of 12 x 10 pixels."""

    def save(name, values=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((10, 12), 90, np.uint8) if values is None else values).save(path)
        return path

    return save


@pytest.fixture
def put_frame(put):
    """`put_frame("train/1_1", array)`: a frame of the Kaggle set with its mask of 0 and 255."""

    def save(name, marks):
        put(f"{name}.tif"), put(f"{name}_mask.tif", np.uint8(255) * (marks > 0))

    return save


@pytest.mark.parametrize("folder", ["train/", ""])
def test_the_subject_in_the_name_is_the_group_and_what_is_marked_is_a_nerve(tmp_path, put_frame, folder):
    for name in ("1_1", "1_12", "12_1"):
        put_frame(f"{folder}{name}", MARKS)
    found = read_records("nerve-kaggle", tmp_path)
    assert {record.id: record.group for record in found} == {
        f"{folder}1_1.tif": "subject-1",
        f"{folder}1_12.tif": "subject-1",
        f"{folder}12_1.tif": "subject-12",
    }
    assert np.array_equal(read_mask(found[0], ["nerve"]), MARKS > 0)
    assert not [note for note in found.notes if "patient" in note]  # they are known


def test_an_empty_mask_is_kept_and_images_without_a_mask_are_counted(tmp_path, put, put_frame):
    put_frame("train/1_1", MARKS * 0), put("test/1.tif"), put("test/2.tif")
    (record,) = found = read_records("nerve-kaggle", tmp_path)
    assert not read_mask(record, ["nerve"]).any()
    assert any("2 image(s) without a mask" in note and "test/1.tif" in note for note in found.notes)


def test_a_name_without_a_subject_is_refused(tmp_path, put_frame, refused):
    put_frame("train/1_1", MARKS), put_frame("train/frame7", MARKS)
    with refused(DataError, "train/frame7.tif", "the subject and the frame", "12_34.tif", "groups.csv"):
        read_records("nerve-kaggle", tmp_path)


def test_a_groups_csv_beside_subjects_is_said_not_to_be_read(tmp_path, put_frame):
    put_frame("train/1_1", MARKS)
    (tmp_path / "groups.csv").write_text("image,group\ntrain/1_1.tif,x\n")
    found = read_records("nerve-kaggle", tmp_path)
    assert found[0].group == "subject-1"
    assert any("groups.csv is not read" in note for note in found.notes)


def test_usgra_has_nerves_and_vessels_by_name_and_groups_from_a_table(tmp_path, put, refused):
    put("images/0001.png"), put("masks/0001.png", MARKS), put("images/0002.png"), put("masks/0002.png", MARKS)
    (tmp_path / "groups.csv").write_text("image,group\nimages/0001.png,p\nimages/0002.png,p\n")
    first, second = read_records("usgra", tmp_path)
    assert (first.group, second.group) == ("p", "p")
    assert np.array_equal(read_mask(first, ["nerve", "vessel"]), MARKS)
    assert np.array_equal(read_mask(first, ["vessel"]), MARKS == 2)
    put("masks/0002.png", MARKS + 1)
    with refused(DataError, "0002.png", "got 3"):
        read_mask(second, ["nerve"])


@pytest.mark.realdata
def test_usgra_is_read_whole_and_the_audit_finds_one_image_under_two_names(real_data):
    found = read_records("usgra", real_data("usgra"))
    assert len(found) == 204
    nerves = [(read_mask(record, ["nerve", "vessel"]) == 1).any() for record in found]
    assert all(nerves)
    some = [r for r in found if r.id.removeprefix("images/") in ("0042.png", "0043.png", "0076.png", "0077.png")]
    groups = audit([(record.id, record.image) for record in some], workers=1).groups
    assert groups["images/0043.png"] == groups["images/0077.png"] == "images/0043.png"


@pytest.mark.realdata
def test_busi_has_its_classes_and_the_empty_masks_of_its_normal_ones(real_data):
    found = read_records("masks", real_data("busi"))
    classes = Counter(record.attributes["class"] for record in found)
    assert (sum(classes.values()), set(classes)) == (661, {"benign", "malignant", "normal"})
    normal = [record for record in found if record.attributes["class"] == "normal"]
    assert not any(read_mask(record, ["object"]).any() for record in normal[:5])
    double = next(record for record in found if record.id == "benign/benign (100).png")
    assert [file.name for file in double.mask.files] == ["benign (100)_mask.png", "benign (100)_mask_1.png"]
