from __future__ import annotations

import pytest

from leanmed.data import read_records
from leanmed.data.class_folders import is_split
from leanmed.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """`folder("x/1.png", ...)`: a folder with such files."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    return make


def labels_of(records):
    return {record.id: record.target for record in records}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("train", "test"), ("Training", "Testing"), ("train", "val"), ("train", "valid"), ("training", "validation")),
        *(("Training Set", "Test Set"), ("fold0", "fold1"), ("fold_1", "fold_2"), ("train_images", "test_images")),
    ],
)
def test_sides_of_a_split_are_no_classes(one, other, folder):
    found = read_records("folder", folder(f"{one}/a/1.png", f"{one}/b/2.png", f"{other}/a/3.png", f"{other}/b/4.png"))
    expected = {f"{one}/a/1.png": "a", f"{one}/b/2.png": "b", f"{other}/a/3.png": "a", f"{other}/b/4.png": "b"}
    assert labels_of(found) == expected
    assert {record.attributes["original_split"] for record in found} == {one, other}
    assert any("sides of a split, not classes" in note and "splits of its own" in note for note in found.notes)


@pytest.mark.parametrize(
    "name", ["trained", "tested positive", "normal", "invalid", "value", "folded", "development of x"]
)
def test_other_names_are_no_sides_of_a_split(name):
    assert not is_split(name)


def test_one_class_may_be_called_as_a_side_of_a_split(folder):
    assert set(labels_of(read_records("folder", folder("valid/1.png", "invalid/2.png"))).values()) == {
        "valid",
        "invalid",
    }


def test_images_of_a_side_that_no_class_holds_are_left_out_and_counted(folder):
    found = read_records("folder", folder("train/a/1.png", "train/b/2.png", "test/3.png", "test/4.png"))
    assert labels_of(found) == {"train/a/1.png": "a", "train/b/2.png": "b"}
    assert any("2 images lie in test but in no class folder" in note for note in found.notes)


def test_sides_without_class_folders_and_sides_beside_other_folders_are_refused(folder, refused):
    with refused(DataError, "expected class folders inside of test, train", "labels.csv"):
        read_records("folder", folder("train/1.png", "test/2.png"))
    with refused(DataError, "test, train are named as sides of a split, and old not", "move what is no side away"):
        read_records("folder", folder("train/a/1.png", "test/a/2.png", "old/3.png"))


@pytest.mark.parametrize("above", ["data", "data/images", "chest_xray/chest_xray"])
def test_a_folder_that_holds_all_the_others_is_looked_through(above, folder):
    found = read_records("folder", folder(f"{above}/x/1.png", f"{above}/y/2.png", "readme.txt"))
    assert labels_of(found) == {f"{above}/x/1.png": "x", f"{above}/y/2.png": "y"}
    assert any(f"{above}: its sub-folders are taken as the classes" in note for note in found.notes)


def test_sides_of_a_split_may_lie_in_a_folder_of_their_own_or_be_alone(folder):
    found = read_records("folder", folder("set/train/a/1.png", "set/train/b/2.png"))
    assert labels_of(found) == {"set/train/a/1.png": "a", "set/train/b/2.png": "b"}
    assert {record.attributes["original_split"] for record in found} == {"train"}


@pytest.mark.parametrize("other", ["labels", "masks", "annotations"])
def test_folders_of_images_and_of_what_belongs_to_them_are_no_classes(other, folder, refused):
    with refused(DataError, "which are named as parts of one data set", other, "labels.csv", "voc, yolo, coco"):
        read_records("folder", folder("images/1.png", f"{other}/2.png"))


def test_a_table_in_the_wrong_place_or_of_another_name_is_pointed_out(folder, refused):
    with refused(DataError, "There is a data/labels.csv: give the folder that holds it"):
        read_records("folder", folder("data/1.png", "data/labels.csv"))
    root = folder("metadata.csv")
    (root / "data/labels.csv").unlink()
    with refused(DataError, "If metadata.csv names the classes, rename it labels.csv"):
        read_records("folder", root)


MASKS = ("1_mask.png", "1_mask_1.png", "1_seg.png", "1_Segmentation.tif", "1_gt.png", "1-label.png", "1_masks.png")


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_beside_its_image_is_left_out_and_counted(mask, folder):
    found = read_records("folder", folder("x/1.png", f"x/{mask}", "y/2.png"))
    assert labels_of(found) == {"x/1.png": "x", "y/2.png": "y"}
    assert any(f"1 masks beside their images (such as {mask})" in note for note in found.notes)


def test_what_is_named_as_a_mask_without_an_image_is_an_image(folder):
    assert len(read_records("folder", folder("x/3_mask.png", "x/1.png", "y/2_mask.png", "y/3.png"))) == 4


def test_masks_in_a_folder_of_their_own_are_left_out(folder):
    found = read_records("folder", folder("x/images/1.png", "x/masks/1.png", "y/2.png", "y/mask/2_mask.png"))
    assert labels_of(found) == {"x/images/1.png": "x", "y/2.png": "y"}


def test_class_folders_may_have_a_table_of_groups(folder):
    root = folder("x/1.png", "x/2.png", "y/3.png")
    assert any("Nothing names the patients" in note for note in read_records("folder", root).notes)
    (root / "groups.csv").write_text("Image,Patient ID\nx/1.png,p1\nx/2.png,p1\ny/3.png,p2\n")
    found = read_records("folder", root)
    assert [record.group for record in found] == ["p1", "p1", "p2"]
    assert not any("Nothing names the patients" in note for note in found.notes)


def test_files_that_are_passed_over_are_counted_with_the_reason(folder):
    found = read_records("folder", folder("x/1.png", "y/2.webp", "x/a.txt", "x/b.txt", "y/c.gif", "y/d.nii.gz", "x/e"))
    (note,) = (note for note in found.notes if "passed over" in note)
    for words in (
        "5 files were",
        "2 .txt",
        "1 .gif (save such as JPEG or PNG)",
        "1 .nii.gz (a whole scan",
        "1 without an",
    ):
        assert words in note


def test_a_folder_of_images_that_are_not_read_is_refused_with_the_reason(folder, refused):
    with refused(DataError, "in 0 sub-folder(s)", "2 .gif (save such as JPEG or PNG)"):
        read_records("folder", folder("x/1.gif", "y/2.gif"))


@pytest.mark.realdata
def test_the_real_masks_of_busi_are_left_out(real_data):
    found = read_records("folder", real_data("busi"))
    assert not any("_mask" in record.id for record in found)
    assert {record.target for record in found} == {"benign", "malignant", "normal"}
    assert len(found) == 661
