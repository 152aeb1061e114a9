"""Copies whose masks contradict each other: when they do, where it is listed, and what is left out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from made_pictures import texture
from PIL import Image

from leanmed.audit import grouping
from leanmed.audit.command import audit_folder
from leanmed.audit.findings import Pair
from leanmed.audit.grouping import group_records
from leanmed.audit.mask_conflicts import SAME_PLACE, compared, contradictions, equal_images
from leanmed.data import read_records
from leanmed.data.masks import OUTSIDE
from leanmed.recipe.recipe import Split
from leanmed.records import Mask, Record
from leanmed.runs import write_csv

SIDE = 20  # a hundredth of the diagonal is no pixel
MIRRORED = ((-1.0, 0.0, SIDE - 1.0), (0.0, 1.0, 0.0))


def marks(rows: slice, columns: slice, number: int = 1) -> np.ndarray:
    made = np.zeros((SIDE, SIDE), np.uint8)
    made[rows, columns] = number
    return made


def test_dice_is_taken_along_the_map():
    first, second = marks(slice(2, 6), slice(0, 5)), marks(slice(2, 6), slice(15, 20))
    assert compared(first, second, MIRRORED, 1) == 1
    assert compared(first, second, SAME_PLACE, 1) == 0
    assert compared(first, marks(slice(2, 6), slice(3, 8)), SAME_PLACE, 1) == pytest.approx(2 * 8 / 40)


def test_where_neither_marks_anything_there_is_nothing_to_compare():
    nothing = marks(slice(0), slice(0))
    assert compared(nothing, nothing, SAME_PLACE, 1) is None
    assert compared(nothing, marks(slice(0, 3), slice(0, 3)), SAME_PLACE, 1) == 0


def test_what_a_crop_or_the_field_of_view_cuts_off_is_not_compared():
    """The second shows the right half of the first, ten pixels further left."""
    crop = ((1.0, 0.0, -10.0), (0.0, 1.0, 0.0))
    nothing = np.zeros((SIDE, 10), np.uint8)
    left, across = marks(slice(2, 6), slice(0, 8)), marks(slice(2, 6), slice(8, 12))
    assert compared(left, nothing, crop, 1) is None
    assert compared(across, nothing, crop, 1) == 0
    assert compared(marks(slice(2, 6), slice(0, 11)), nothing, crop, 1) is None  # an eleventh of it is left
    hidden = marks(slice(0, SIDE), slice(0, 8), OUTSIDE)
    assert compared(left, hidden, SAME_PLACE, 1) is None


def test_a_thin_line_may_lie_a_hundredth_of_the_diagonal_away():
    first, second = np.zeros((2, 100, 100), np.uint8)
    first[50], second[51] = 1, 1
    assert compared(first, second, SAME_PLACE, 1) == 1
    assert compared(first, np.roll(second, 1, axis=0), SAME_PLACE, 1) == 0


def test_labels_are_compared_one_by_one(tmp_path):
    def record(name, array):
        Image.fromarray(array).save(tmp_path / f"{name}-mask.png")
        Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(tmp_path / f"{name}.png")
        mask = Mask((tmp_path / f"{name}-mask.png",), {"nerve": (1,), "vessel": (2,)})
        return Record(id=name, image=tmp_path / f"{name}.png", target=mask, group=name)

    nerve, vessel = marks(slice(0, 4), slice(0, 4)), marks(slice(10, 14), slice(0, 4), 2)
    moved = marks(slice(10, 14), slice(3, 7), 2)
    records = [record("a", nerve + vessel), record("b", vessel), record("c", nerve + moved)]
    pairs = [Pair("a", "b", 1.0, SAME_PLACE), Pair("a", "c", 1.0, SAME_PLACE)]
    first, second = contradictions(pairs, records)
    assert first.values() == {"nerve marked": ("a",), "no nerve marked": ("b",)}
    assert (second.label, second.areas, second.dice) == ("vessel", (16, 16), 0.25)
    assert second.values() == {"vessel marked": ("a",), "vessel marked elsewhere, Dice 0.25": ("c",)}
    assert contradictions(pairs, records[:1]) == []


def test_slices_of_one_volume_are_not_equal_images():
    def record(name, frame):
        return Record(id=name, image=Path("v"), target=Mask((Path("m"),)), group="g", frame=frame)

    records = [record("v/0", 0), record("v/1", 1), record("w/1", 1)]
    contents = dict.fromkeys(("v/0", "v/1", "w/1"), "same")
    assert [(pair.a, pair.b) for pair in equal_images(contents, records)] == [("v/1", "w/1")]


@pytest.fixture
def frames(tmp_path):
    """Two subjects: frames 1 and 2 of the first are alike, turned, and the second is marked on neither; frame 3 of the
    first equals frame 1 and is marked alike; the other subject's frame is like none."""
    root = tmp_path / "kaggle"
    (root / "train").mkdir(parents=True)
    picture = texture(70)[..., :3]
    nerve = np.zeros(picture.shape[:2], np.uint8)
    nerve[30:60, 40:90] = 255
    made = {
        "1_1": (picture, nerve),
        "1_2": (picture[::-1, ::-1], 0 * nerve),
        "1_3": (picture, nerve),
        "1_4": (picture[::-1], nerve[::-1]),
        "2_1": (texture(71)[..., :3], nerve),
    }
    for name, (image, mask) in made.items():
        Image.fromarray(np.ascontiguousarray(image)).save(root / f"train/{name}.tif")
        Image.fromarray(np.ascontiguousarray(mask)).save(root / f"train/{name}_mask.tif")
    return root


def test_an_audit_lists_copies_of_which_one_is_marked_and_the_other_is_empty(frames, tmp_path):
    lines, clean = audit_folder(frames, "nerve-kaggle", tmp_path / "out", workers=1)
    assert not clean
    assert "3 conflicts between copies, 0 of them between labels and 3 between masks" in lines
    said = [line for line in lines if "contradict each other" in line]
    assert said[0].endswith("train/1_1.tif: nerve marked; train/1_2.tif: no nerve marked")
    assert len(said) == 3
    with (tmp_path / "out/groups.csv").open(newline="") as file:
        table = {row["image"]: (row["group"], row["contradicts"]) for row in csv.DictReader(file)}
    one, two = "train/1_1.tif", "train/1_2.tif"
    assert table == {
        one: (one, two),
        two: (one, one),
        "train/1_3.tif": (one, two),
        "train/1_4.tif": (one, two),
        "train/2_1.tif": ("train/2_1.tif", ""),
    }
    assert "In 3 pairs of copies the masks contradict each other" in (tmp_path / "out/report.html").read_text()


def test_training_leaves_them_out_unless_they_are_kept(frames, tmp_path, monkeypatch):
    records = read_records("nerve-kaggle", frames)
    said: list[str] = []
    found = group_records(records, Split(), tmp_path, data_sha256="2" * 64, tell=said.append)
    assert [record.id for record in found.records] == ["train/2_1.tif"]
    assert any("4 images have a copy whose mask contradicts theirs" in line for line in said)
    monkeypatch.setattr(grouping, "audit", None)  # the cached audit tells it too
    kept = group_records(records, Split(conflicts="keep"), tmp_path, data_sha256="2" * 64, tell=said.append)
    assert (len(kept.records), kept.conflicting) == (5, found.conflicting)
    audited = Split(groups=str(next(tmp_path.glob("groups-*.csv"))))
    again = group_records(records, audited, tmp_path, data_sha256="", tell=said.append)
    assert again.conflicting == found.conflicting


@pytest.mark.parametrize("groups", ["reader", "by hand"])
def test_without_an_audit_files_with_the_same_bytes_are_compared(frames, tmp_path, groups):
    mask = frames / "train/1_3_mask.tif"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    records = read_records("nerve-kaggle", frames)
    table = tmp_path / "by-hand.csv"
    write_csv(table, [{"image": record.id, "group": record.group} for record in records])
    split = Split(groups="reader" if groups == "reader" else str(table))
    found = group_records(records, split, tmp_path, data_sha256="", tell=lambda line: None)
    assert found.conflicting == ("train/1_1.tif", "train/1_3.tif")
    assert ("does not say which copies" in found.source) == (groups == "by hand")


@pytest.mark.realdata
def test_a_known_pair_of_busi_contradicts_itself(real_data, tmp_path):
    """One image is there twice, once as benign with a tumour, and once as normal with an empty mask."""
    names = ("benign/benign (437).png", "normal/normal (34).png")
    records = [record for record in read_records("masks", real_data("busi")) if record.id in names]
    found = group_records(records, Split(), tmp_path, data_sha256="3" * 64, tell=lambda line: None)
    assert found.conflicting == names
