from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from leanmed.data import data_hash, read_records
from leanmed.data.box_formats import boxes_inside, square
from leanmed.errors import DataError

XML = "<annotation><filename>any</filename>{}</annotation>"
CORNERS = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
OBJECT = f"<object><name>nodule</name>{CORNERS}{{}}</object>"


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 40), len(path.name), np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path):
    """`voc(a=[(x1, y1, x2, y2)], b=[])`: a folder with images a.png and b.png of 40 x 30 pixels."""

    def make(**objects):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        for name, boxes in objects.items():
            picture(tmp_path / f"JPEGImages/{name}.png")
            text = XML.format("".join(OBJECT.format(*box[:4], "".join(box[4:])) for box in boxes))
            (tmp_path / f"Annotations/{name}.xml").write_text(text)
        return tmp_path

    return make


@pytest.fixture
def yolo(tmp_path):
    """`yolo(a="0 .5 .5 .1 .2")`: a folder with an image and a text for each; None leaves the text out."""

    def make(**texts):
        for name, text in texts.items():
            picture(tmp_path / f"images/deep/{name}.png")
            (tmp_path / "labels/deep").mkdir(parents=True, exist_ok=True)
            if text is not None:
                (tmp_path / f"labels/deep/{name}.txt").write_text(text)
        return tmp_path

    return make


@pytest.fixture
def coco(tmp_path):
    """`coco(annotation, ...)`: a folder with one image, whose id is 7, and these annotations."""

    def make(*annotations, **changes):
        picture(tmp_path / "train/a.png")
        content = {"images": [{"id": 7, "file_name": "train/a.png"}], "annotations": list(annotations)} | changes
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        return tmp_path

    return make


def boxes_of(dataset, root):
    return {record.id: list(record.target.xyxy) for record in read_records(dataset, root)}


def test_voc_is_read_with_images_that_show_nothing(voc):
    root = voc(a=[(1, 2, 11, 12), (20, 5, 40, 30)], b=[])
    assert boxes_of("voc", root) == {"JPEGImages/a.png": [(1, 2, 11, 12), (20, 5, 40, 30)], "JPEGImages/b.png": []}


def test_voc_may_tell_diameters(voc):
    record, _ = read_records("voc", voc(a=[(1, 2, 11, 12, "<diameter_mm>9.5</diameter_mm>")], b=[]))
    assert record.target.diameters == (9.5,)


def test_a_diameter_for_some_boxes_only_is_refused_by_file(voc, refused):
    with refused(DataError, "a.png", "one diameter per box"):
        read_records("voc", voc(a=[(1, 2, 11, 12, "<diameter_mm>9.5</diameter_mm>"), (1, 2, 3, 4)]))


def test_yolo_is_read_in_pixels_and_without_a_text_there_is_nothing(yolo):
    found = boxes_of("yolo", yolo(a="0 0.5 0.5 0.25 0.2\n\n0 0.1 0.1 0.05 0.1\n", b=None))
    assert found["images/deep/a.png"][0] == pytest.approx((15, 12, 25, 18))
    assert found["images/deep/a.png"][1] == pytest.approx((3, 1.5, 5, 4.5))
    assert found["images/deep/b.png"] == []


def test_yolo_s_rounding_at_an_edge_is_mended(yolo):
    assert boxes_of("yolo", yolo(a="0 0.950001 0.5 0.1 0.2"))["images/deep/a.png"][0] == pytest.approx(
        (36, 12, 40, 18), abs=1e-3
    )


def test_coco_is_read(coco):
    root = coco({"image_id": 7, "category_id": 1, "bbox": [3, 4, 10, 5]})
    assert boxes_of("coco", root) == {"train/a.png": [(3, 4, 13, 9)]}


@pytest.mark.parametrize(
    "box", [(-1, 2, 5, 6), (1, 2, 41, 6), (1, 2, 5, 31), (5, 2, 5, 6), (9, 2, 5, 6), ("x", 2, 5, 6)]
)
def test_a_box_outside_the_image_or_without_size_is_refused_by_file(voc, refused, box):
    with refused(DataError, "a.png", "correct"):
        read_records("voc", voc(a=[box]))


def test_the_same_of_yolo_and_coco(yolo, coco, refused):
    with refused(DataError, "a.png", "inside its 40 x 30 pixels"):
        read_records("yolo", yolo(a="0 0.9 0.5 0.4 0.2"))
    with refused(DataError, "a.png", "with a size"):
        read_records("coco", coco({"image_id": 7, "category_id": 1, "bbox": [3, 4, 10, 0]}))


@pytest.mark.parametrize("text", ["no xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"])
def test_what_is_no_voc_is_refused_by_file(voc, refused, text):
    root = voc(a=[])
    (root / "Annotations/a.xml").write_text(text)
    with refused(DataError, "a.xml", "PASCAL VOC"):
        read_records("voc", root)


def test_images_and_annotations_must_match(voc, yolo, refused):
    root = voc(a=[], b=[])
    (root / "Annotations/a.xml").rename(root / "Annotations/c.xml")
    with refused(DataError, "images without: JPEGImages/a.png;", "annotations without image: Annotations/c.xml"):
        read_records("voc", root)
    (yolo(a="", c="") / "images/deep/c.png").unlink()
    with refused(DataError, "annotations without image: labels/deep/c.txt"):
        read_records("yolo", root)
    with refused(DataError, "expected images with boxes there, found none", "give the folder"):
        read_records("yolo", root / "Annotations")
    with refused(DataError, "at least one box, got none in 2 images", "labels/NAME.txt", "beside each image"):
        read_records("yolo", root / "JPEGImages")


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 8, "category_id": 1, "bbox": [1, 1, 2, 2]}]},
        {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 1, 2]}]},
        {"annotations": [{"image_id": 7, "bbox": [1, 1, 2, 2]}]},
        {"annotations": None},
        {"images": [{"id": 7}]},
        {"images": [{"id": 7, "file_name": "absent.png"}], "annotations": []},
        {"images": [{"id": 7, "file_name": "/etc/hostname"}], "annotations": []},
        {"images": [{"id": 7, "file_name": "../a.png"}], "annotations": []},
    ],
)
def test_a_coco_table_that_does_not_hold_together_is_refused(coco, refused, change):
    with refused(DataError, "annotations.json"):
        read_records("coco", coco(**change))


def test_boxes_of_several_kinds_are_refused(voc, yolo, coco, refused):
    with refused(DataError, "one kind", "a (1), nodule (1)"):
        root = voc(a=[(1, 2, 11, 12), (1, 2, 3, 4)])
        path = root / "Annotations/a.xml"
        path.write_text(path.read_text().replace("nodule", "a", 1))
        read_records("voc", root)
    with refused(DataError, "one kind", "0 (1), 1 (1)"):
        read_records("yolo", yolo(a="0 .5 .5 .1 .1\n1 .5 .5 .1 .1"))
    with refused(DataError, "one kind"):
        each = ({"image_id": 7, "category_id": kind, "bbox": [1, 1, 2, 2]} for kind in (1, 2))
        read_records("coco", coco(*each))


def test_a_table_of_groups_may_stand_beside_any_of_them(voc, refused):
    root = voc(a=[(1, 2, 11, 12)], b=[])
    assert len({record.group for record in read_records("voc", root)}) == 1  # the same pixels
    table = root / "groups.csv"
    table.write_text("image,group\nJPEGImages/a.png,p1\nJPEGImages/b.png,p2\n")
    assert [record.group for record in read_records("voc", root)] == ["p1", "p2"]
    table.write_text("image,group\nJPEGImages/a.png,p1\n")
    with refused(DataError, "groups.csv", "without: JPEGImages/b.png"):
        read_records("voc", root)


def test_an_unreadable_image_is_refused_by_file(voc, refused):
    root = voc(a=[])
    (root / "JPEGImages/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with refused(DataError, "a.png", "readable image"):
        read_records("voc", root)


def test_boxes_may_reach_the_edges(voc):
    image = voc(a=[]) / "JPEGImages/a.png"
    assert boxes_inside(image, [(0, 0, 40, 30)], [5]).diameters == (5.0,)


def test_boxes_are_those_of_the_image_turned_upright(yolo):
    root = yolo(a="0 0.5 0.5 0.5 0.5")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, 40 x 30; 30 x 40 when upright
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / "images/deep/a.png", exif=exif)
    assert boxes_of("yolo", root)["images/deep/a.png"][0] == pytest.approx((7.5, 10, 22.5, 30))


def test_two_images_of_one_name_are_refused(voc, yolo, refused):
    root = voc(a=[(1, 2, 11, 12)])
    picture(root / "JPEGImages/a.jpg")
    with refused(DataError, "two files for JPEGImages/a"):
        read_records("voc", root)
    root = yolo(b="")
    picture(root / "images/deep/b.jpg")
    with refused(DataError, "two files for images/deep/b"):
        read_records("yolo", root)


def test_boxes_drawn_in_an_image_of_another_size_are_refused(voc, refused):
    path = voc(a=[(1, 2, 11, 12)]) / "Annotations/a.xml"
    text = path.read_text()
    for size in ((40, 30), (0, 0)):
        path.write_text(
            text.replace("<object>", "<size><width>{}</width><height>{}</height></size><object>".format(*size))
        )
        assert len(read_records("voc", path.parents[1])) == 1
    path.write_text(text.replace("<object>", "<size><width>512</width><height>384</height></size><object>"))
    with refused(DataError, "a.png", "512 x 384", "40 x 30"):
        read_records("voc", path.parents[1])


def test_odd_texts_of_yolo(yolo, refused):
    root = yolo(a="\ufeff0 .5 .5 .1 .1\n0 .2 .2 .1 .1")
    (root / "labels/classes.txt").write_text("nodule")
    assert len(boxes_of("yolo", root)["images/deep/a.png"]) == 2
    (root / "labels/deep/a.txt").write_bytes("0 .5 .5 .1 .1 é".encode("latin-1"))
    with refused(DataError, "a.txt", "UTF-8"):
        read_records("yolo", root)


@pytest.mark.parametrize(
    "images",
    [
        [],
        [{"id": 7, "file_name": "train/a.png"}, {"id": 7, "file_name": "train/b.png"}],
        [{"id": 7, "file_name": "train/a.png"}, {"id": 8, "file_name": "train//a.png"}],
    ],
)
def test_coco_lists_each_image_once(coco, refused, images):
    root = coco(images=images)
    picture(root / "train/b.png")
    with refused(DataError, "annotations.json", "different"):
        read_records("coco", root)


def test_an_image_in_two_groups_is_refused(voc, refused):
    root = voc(a=[])
    (root / "groups.csv").write_text("image,group\nJPEGImages/a.png,p1\nJPEGImages/a.png,p2\n")
    with refused(DataError, "groups.csv", "one row for each image"):
        read_records("voc", root)


def test_a_square_is_cut_at_the_edges():
    assert square((10, 12), 6, (40, 30)) == (7, 9, 13, 15)
    assert square((1, 29), 6, (40, 30)) == (0, 26, 4, 30)


def test_the_hash_of_a_data_set_tells_boxes_apart(voc):
    first = read_records("voc", voc(a=[(1, 2, 11, 12)]))
    other = read_records("voc", voc(a=[(1, 2, 11, 13)]))
    assert data_hash(first, ["0"]) != data_hash(other, ["0"])


LAYOUTS = {
    "beside the images": ("1.png", "1.txt"),
    "beside the images in a folder": ("images/1.png", "images/1.txt"),
    "of darknet": ("obj_train_data/1.png", "obj_train_data/1.txt"),
    "of ultralytics": ("images/train/1.png", "labels/train/1.txt"),
    "of Roboflow": ("train/images/1.png", "train/labels/1.txt"),
    "in capitals": ("Images/1.png", "Labels/1.txt"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_yolo_s_texts_are_found_where_tools_write_them(layout, tmp_path):
    image, text = LAYOUTS[layout]
    picture(tmp_path / image)
    (tmp_path / text).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / text).write_text("0 0.5 0.5 0.25 0.2\n")
    for name in ("data.yaml", "classes.txt", "train.txt"):
        (tmp_path / name).write_text("nodule\n")
    assert boxes_of("yolo", tmp_path)[image] == [pytest.approx((15, 12, 25, 18))]
    assert not any("passed over" in note for note in read_records("yolo", tmp_path).notes)


def test_images_of_one_name_on_two_sides_of_a_split_keep_their_own_boxes(tmp_path):
    for side, text in (("train", "0 0.5 0.5 0.25 0.2"), ("valid", "")):
        picture(tmp_path / side / "images/1.png")
        (tmp_path / side / "labels").mkdir()
        (tmp_path / side / "labels/1.txt").write_text(text)
    found = read_records("yolo", tmp_path)
    assert {r.id: len(r.target.xyxy) for r in found} == {"train/images/1.png": 1, "valid/images/1.png": 0}
    assert {r.attributes["original_split"] for r in found} == {"train", "valid"}
    assert any("sides of a split" in note for note in found.notes)


def test_boxes_of_one_image_in_two_files_are_refused(yolo, refused):
    root = yolo(a="0 0.5 0.5 0.25 0.2")
    (root / "images/deep/a.txt").write_text("0 0.5 0.5 0.25 0.2")
    with refused(DataError, "one file of annotations of a name", "deep/a", "nowhere else"):
        read_records("yolo", root)


def test_pictures_outside_of_images_are_no_images_without_objects(yolo):
    root = yolo(a="0 0.5 0.5 0.25 0.2")
    picture(root / "preview.png")
    found = read_records("yolo", root)
    assert [record.id for record in found] == ["images/deep/a.png"]
    assert any("1 images outside of folders called images" in note for note in found.notes)


@pytest.mark.parametrize(("image", "text"), [("1.png", "1.xml"), ("images/1.png", "annotations/1.xml")])
def test_voc_s_files_are_found_where_tools_write_them(image, text, tmp_path):
    picture(tmp_path / image)
    (tmp_path / text).parent.mkdir(exist_ok=True)
    (tmp_path / text).write_text(XML.format(OBJECT.format(1, 2, 11, 12, "")))
    assert boxes_of("voc", tmp_path) == {image: [(1, 2, 11, 12)]}


TABLES = {
    "annotations/instances_train2017.json": ("train2017/1.png", "1.png"),
    "annotations/instances_default.json": ("images/1.png", "1.png"),
    "train/_annotations.coco.json": ("train/1.png", "1.png"),
    "annotations.json": ("images/deep/1.png", "deep/1.png"),
    "annotations/instances_val.json": ("images/val/1.png", "1.png"),
}


@pytest.mark.parametrize("table", TABLES)
def test_coco_s_table_is_found_where_tools_write_it(table, tmp_path):
    image, name = TABLES[table]
    picture(tmp_path / image)
    if "val" in table:
        picture(tmp_path / "images/train/1.png")
    (tmp_path / table).parent.mkdir(exist_ok=True)
    box = {"image_id": 1, "category_id": 3, "bbox": [3, 4, 10, 5]}
    (tmp_path / table).write_text(json.dumps({"images": [{"id": 1, "file_name": name}], "annotations": [box]}))
    assert boxes_of("coco", tmp_path) == {image: [(3, 4, 13, 9)]}


def test_several_tables_of_coco_are_one_set(tmp_path):
    for side in ("train", "valid"):
        picture(tmp_path / side / "1.png")
        box = {"image_id": 1, "category_id": 3, "bbox": [3, 4, 10, 5]}
        content = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [box] * (side == "train")}
        (tmp_path / side / "_annotations.coco.json").write_text(json.dumps(content))
    assert boxes_of("coco", tmp_path) == {"train/1.png": [(3, 4, 13, 9)], "valid/1.png": []}


def test_a_missing_table_of_coco_is_refused_with_what_is_there(coco, refused):
    root = coco()
    (root / "annotations.json").rename(root / "boxes.json")
    with refused(DataError, "annotations/instances_*.json", "other JSON files: boxes.json", "rename the one"):
        read_records("coco", root)


def test_coco_of_another_size_or_orientation_than_the_image_is_refused(coco, refused):
    box = {"image_id": 7, "category_id": 1, "bbox": [3, 4, 10, 5]}
    listed = {"id": 7, "file_name": "train/a.png"}
    assert read_records("coco", coco(box, images=[listed | {"width": 40, "height": 30}]))
    with refused(DataError, "a.png", "80 x 60", "got 40 x 30"):
        read_records("coco", coco(box, images=[listed | {"width": 80, "height": 60}]))
    with refused(DataError, "a.png", "30 x 40", "got 40 x 30", "EXIF"):
        read_records("coco", coco(box, images=[listed | {"width": 30, "height": 40}]))


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_images_with_a_crowd_or_an_ignored_box_are_left_out_and_counted(mark, coco, refused):
    boxes = [{"image_id": n, "category_id": 1, "bbox": [3, 4, 10, 5], mark: int(n == 7)} for n in (7, 8)]
    listed = [{"id": 7, "file_name": "train/a.png"}, {"id": 8, "file_name": "train/b.png"}]
    root = coco(*boxes, images=listed)
    picture(root / "train/b.png")
    found = read_records("coco", root)
    assert [record.id for record in found] == ["train/b.png"]
    assert any("1 boxes are marked as crowd" in note and "1 images" in note for note in found.notes)
    with refused(DataError, "crowd, ignored or difficult", "unmark them"):
        read_records("coco", coco(boxes[0]))


def test_difficult_objects_of_voc_are_neither_and_truncated_ones_are_objects(voc):
    easy, hard = "<truncated>1</truncated><difficult>0</difficult>", "<difficult>1</difficult>"
    found = read_records("voc", voc(a=[(1, 2, 11, 12, easy)], b=[(1, 2, 11, 12, easy), (1, 2, 3, 4, hard)]))
    assert {record.id: len(record.target.xyxy) for record in found} == {"JPEGImages/a.png": 1}


def test_several_categories_are_refused_by_name(coco, refused):
    boxes = ({"image_id": 7, "category_id": kind, "bbox": [1, 1, 2, 2]} for kind in (1, 2, 2))
    categories = [{"id": 1, "name": "cyst"}, {"id": 2, "name": "nodule"}]
    with refused(DataError, "one kind, got cyst (1), nodule (2)"):
        read_records("coco", coco(*boxes, categories=categories))


@pytest.mark.parametrize("dataset", ["voc", "yolo", "coco"])
def test_a_set_without_a_single_box_is_refused(dataset, voc, yolo, coco, refused):
    root = {"voc": lambda: voc(a=[]), "yolo": lambda: yolo(a=""), "coco": coco}[dataset]()
    with refused(DataError, "expected at least one box, got none in 1 images", f"the reader {dataset} looks for"):
        read_records(dataset, root)


def test_all_images_with_a_fault_are_told_at_once(voc, refused):
    with refused(DataError, "2 faults", "a.png: expected boxes inside", "b.png: expected boxes inside"):
        read_records("voc", voc(a=[(1, 2, 99, 12)], b=[(1, 2, 11, 99)], c=[(1, 2, 3, 4)]))


def test_groups_beside_boxes_may_be_called_as_patients_are(voc):
    root = voc(a=[(1, 2, 11, 12)], b=[])
    assert any("Nothing names the patients" in note for note in read_records("voc", root).notes)
    (root / "groups.csv").write_text("File Name,Patient ID\nJPEGImages/a.png,p1\nJPEGImages/b.png,p1\n")
    found = read_records("voc", root)
    assert [record.group for record in found] == ["p1", "p1"]
    assert any("`Patient ID` of groups.csv" in note for note in found.notes)


@pytest.mark.parametrize("names", ["names: [cyst, nodule]", "names: {0: cyst, 1: nodule}"])
def test_several_classes_of_yolo_are_refused_by_the_names_of_its_data_yaml(names, yolo, refused):
    root = yolo(a="0 .5 .5 .1 .1\n1 .5 .5 .1 .1")
    (root / "data.yaml").write_text(names)
    with refused(DataError, "one kind, got 0 cyst (1), 1 nodule (1)"):
        read_records("yolo", root)
