"""Images with masks: which belongs to which, what a mask's values say, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from leanmed.data import read_mask, read_records
from leanmed.errors import DataError, InputError
from leanmed.records import Mask, Record

SQUARE = np.zeros((10, 12), np.uint8)
SQUARE[2:4, 3:6] = 255


@pytest.fixture
def put(tmp_path):
    """`put("images/1.png", array)`: an image file below the root; without an array, a grey image of 12 x 10 pixels."""

    def save(name, values=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = sum(1 for other in tmp_path.rglob("*") if other.is_file())
        image = np.full((10, 12), number, np.uint8) if values is None else values
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
        return path

    return save


def files(root, records):
    return {record.id: sorted(file.relative_to(root).as_posix() for file in record.mask.files) for record in records}


def test_a_table_names_mask_field_of_view_site_and_patient(tmp_path, put):
    for name in ("a.png", "b.png", "c.png"):
        put(name)
    put("m.png", SQUARE)
    field = put("f.png", np.where(np.arange(12) < 4, 255, 0).astype(np.uint8)[None].repeat(10, 0))
    (tmp_path / "manifest.csv").write_text(
        "image,mask,fov,site,patient,id,age\na.png,m.png,f.png,A,1,x,60\nb.png,m.png,,B,1,y,\nc.png,m.png,,A,1,z,61\n"
    )
    first, second, third = read_records("masks", tmp_path)
    assert (first.id, first.site, first.group) == ("a.png", "A", "A/1")
    assert (second.group, third.group) == ("B/1", "A/1")
    assert (dict(first.attributes), dict(second.attributes)) == ({"id": "x", "age": 60.0}, {"id": "y"})
    assert (first.mask.within, second.mask.within) == (field, None)
    marks = read_mask(first, ["object"])
    assert (marks.dtype, marks.shape) == (np.uint8, (10, 12))
    assert marks[2].tolist() == [0, 0, 0, 1] + [255] * 8
    assert read_mask(second, ["object"])[2].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_a_table_s_column_group_keeps_images_of_two_sites_together(tmp_path, put):
    put("a.png"), put("b.png"), put("m.png", SQUARE)
    (tmp_path / "manifest.csv").write_text("image,mask,site,group\na.png,m.png,A,1\nb.png,m.png,B,1\n")
    assert {record.group for record in read_records("masks", tmp_path)} == {"1"}


def test_folders_of_images_and_masks_go_together_by_name_below_sites_and_sides_of_a_split(tmp_path, put):
    for site in ("A", "B"):
        put(f"{site}/images/1.png"), put(f"{site}/masks/1.png", SQUARE)
    put("A/train/images/2.png"), put("A/train/masks/2_mask.png", SQUARE), put("A/train/fov/2.png", SQUARE)
    put("A/images/deep/3.png"), put("A/masks/deep/3.png", SQUARE)
    found = {record.id: record for record in read_records("masks", tmp_path)}
    assert files(tmp_path, found.values()) == {
        "A/images/1.png": ["A/masks/1.png"],
        "B/images/1.png": ["B/masks/1.png"],
        "A/train/images/2.png": ["A/train/masks/2_mask.png"],
        "A/images/deep/3.png": ["A/masks/deep/3.png"],
    }
    assert {name: record.site for name, record in found.items()} == {name: name[0] for name in found}
    side = found["A/train/images/2.png"]
    assert (dict(side.attributes), side.mask.within) == ({"original_split": "train"}, tmp_path / "A/train/fov/2.png")


def test_names_of_folders_above_the_root_say_nothing(tmp_path, put):
    put("masks/labels/images/1.png"), put("masks/labels/masks/1.png", SQUARE)
    assert files(tmp_path, read_records("masks", tmp_path / "masks/labels")) == {
        "images/1.png": ["masks/labels/masks/1.png"]
    }


def test_masks_beside_their_image_are_taken_together_and_the_folder_is_the_class(tmp_path, put):
    other = np.zeros((10, 12), np.uint8)
    other[9, 11] = 1
    put("benign/b (1).png"), put("benign/b (1)_mask.png", SQUARE), put("benign/b (1)_mask_1.png", other)
    put("normal/n (1).png"), put("normal/n (1)_mask.png", np.zeros((10, 12), np.uint8))
    benign, normal = read_records("masks", tmp_path)
    assert (benign.attributes["class"], normal.attributes["class"], benign.site) == ("benign", "normal", None)
    marks = read_mask(benign, ["object"])
    assert (int(marks.sum()), marks[2, 3], marks[9, 11]) == (7, 1, 1)
    assert not read_mask(normal, ["object"]).any()


@pytest.mark.parametrize("names", [("001.png", "001.png"), ("001", "001")])
def test_an_image_is_not_taken_for_its_own_mask(names, tmp_path, put, refused):
    """Images were converted to JPEG after the table was written, and have the names of their masks."""
    put("images/001.jpg"), put("masks/001.png", SQUARE)
    (tmp_path / "manifest.csv").write_text(f"image,mask\n{names[0]},{names[1]}\n")
    with refused(DataError, "expected images with masks, got none"):
        read_records("masks", tmp_path)


def test_masks_may_lie_where_only_the_table_finds_them(tmp_path, put):
    put("set/a.png"), put(".hidden/m.png", SQUARE)
    (tmp_path / "set" / "manifest.csv").write_text("image,mask\na.png,../.hidden/m.png\n")
    (record,) = read_records("masks", tmp_path / "set", strict=True)
    assert record.mask.files == (tmp_path / "set" / "../.hidden/m.png",)


def test_groups_come_from_groups_csv(tmp_path, put):
    put("images/1.png"), put("images/2.png"), put("masks/1.png", SQUARE), put("masks/2.png", SQUARE)
    (tmp_path / "groups.csv").write_text("image,group\nimages/1.png,p\nimages/2.png,p\n")
    assert {record.group for record in read_records("masks", tmp_path)} == {"p"}


def test_images_without_a_mask_and_masks_without_an_image_are_counted(tmp_path, put):
    put("images/1.png"), put("images/2.png"), put("masks/1.png", SQUARE), put("masks/3.png", SQUARE)
    found = read_records("masks", tmp_path)
    assert [record.id for record in found] == ["images/1.png"]
    assert any("1 image(s) without a mask" in note and "images/2.png" in note for note in found.notes)
    assert any("1 mask(s) without an image" in note and "masks/3.png" in note for note in found.notes)


def test_rows_without_an_image_or_a_mask_are_counted_and_a_lost_field_of_view_is_refused(tmp_path, put, refused):
    put("a.png"), put("b.png"), put("m.png", SQUARE), put("stray.png")
    table = tmp_path / "manifest.csv"
    table.write_text("image,mask,fov\na.png,m.png,\nb.png,gone.png,\ngone.png,m.png,\n")
    found = read_records("masks", tmp_path)
    assert [record.id for record in found] == ["a.png"]
    assert any("1 row(s) of manifest.csv without an image" in note for note in found.notes)
    assert any("1 image(s) without a mask" in note and "b.png" in note for note in found.notes)
    assert any("1 image(s) in" in note and "stray.png" in note for note in found.notes)
    table.write_text("image,mask,fov\na.png,m.png,gone.png\n")
    with refused(DataError, "manifest.csv", "gone.png", "put it there"):
        read_records("masks", tmp_path)


@pytest.mark.parametrize("names", [("images/1.png",), ("images/1.png", "masks/2.png")])
def test_a_folder_in_which_no_image_has_a_mask_is_refused(tmp_path, put, refused, names):
    for name in names:
        put(name)
    with refused(DataError, "images with masks, got none", "images/1.png"):
        read_records("masks", tmp_path)


def test_a_mask_that_two_images_could_claim_is_refused(tmp_path, put, refused):
    put("x/1.png"), put("y/1.png"), put("masks/1.png", SQUARE)
    with refused(DataError, "masks/1.png", "x/1.png", "y/1.png"):
        read_records("masks", tmp_path)


def test_a_mask_of_another_size_is_refused_by_name(tmp_path, put, refused):
    put("images/1.png"), put("masks/1.png", np.zeros((12, 10), np.uint8))
    with refused(DataError, "masks/1.png", "12 x 10, got 10 x 12"):
        read_records("masks", tmp_path)


def test_a_photograph_that_exif_turns_needs_a_mask_of_its_upright_size(tmp_path, put):
    exif = Image.Exif()
    exif[0x0112] = 6
    put("images/1.jpg", np.zeros((12, 10), np.uint8), exif=exif)
    put("masks/1.png", SQUARE)
    (record,) = read_records("masks", tmp_path)
    assert read_mask(record, ["object"]).shape == (10, 12)


@pytest.mark.parametrize("name", ["1.jpg", "1.webp"])
def test_a_mask_packed_with_loss_is_refused(tmp_path, put, refused, name):
    put("images/1.png"), put(f"masks/{name}", SQUARE)
    with refused(InputError, f"masks/{name}", "smears", "PNG"):
        read_records("masks", tmp_path)


def test_a_mask_that_was_smeared_before_it_became_a_png_is_refused(tmp_path, put, refused):
    smooth = np.asarray(Image.fromarray(SQUARE).resize((60, 50), Image.Resampling.BICUBIC))
    put("images/1.png", np.zeros((50, 60), np.uint8)), put("masks/1.png", smooth)
    (record,) = read_records("masks", tmp_path)
    with refused(DataError, "masks/1.png", "values between", "128"):
        read_mask(record, ["object"])


def marked(put, image, values=None, **options):
    """A record whose mask is an image, and its marks."""
    put("i.png")
    mask = put("m.png", image, **options)
    return Record("i", mask.with_name("i.png"), Mask((mask,), values or {"nerve": (1,), "vessel": (2, 3)}), "g")


LEVELS = np.arange(12, dtype=np.uint8)[None].repeat(10, 0) % 4


def palette():
    image = Image.fromarray(LEVELS, "P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200, 9, 9, 9])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LEVELS),
        Image.fromarray(LEVELS.astype(np.uint16)),
        Image.fromarray(np.stack([LEVELS] * 3, 2)),
        Image.fromarray(np.stack([LEVELS] * 3 + [np.full_like(LEVELS, 255)], 2)),
        palette(),
    ],
    ids=lambda image: image.mode,
)
def test_values_are_read_as_they_are_stored(put, image):
    marks = read_mask(marked(put, image), ["vessel", "nerve"])
    assert marks[0, :4].tolist() == [0, 2, 1, 1]
    assert read_mask(marked(put, image), ["nerve"])[0, :4].tolist() == [0, 1, 0, 0]


def test_grey_of_two_bits_is_not_stretched(put):
    path = put("m.png", palette(), bits=2)
    data = bytearray(path.read_bytes())
    assert (data[24], data[25]) == (2, 3)
    import zlib

    data[25] = 0  # the same bits as grey levels
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    start = data.index(b"PLTE") - 4
    del data[start : start + 12 + int.from_bytes(data[start : start + 4])]
    path.write_bytes(data)
    put("i.png")
    record = Record("i", path.with_name("i.png"), Mask((path,), {"nerve": (1,), "vessel": (2, 3)}), "g")
    assert read_mask(record, ["nerve", "vessel"])[0, :4].tolist() == [0, 1, 2, 2]


def test_a_mask_of_one_bit_marks_its_ones(put):
    record = marked(put, Image.fromarray(SQUARE > 0), {"object": ()})
    assert read_mask(record, ["object"]).sum() == 6


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.dstack([LEVELS, LEVELS, LEVELS * 2]), "colours"),
        (np.dstack([LEVELS] * 3 + [LEVELS]), "transparent"),
        (np.dstack([LEVELS, LEVELS]), "transparent"),
    ],
)
def test_colours_and_transparency_are_refused(put, refused, image, word):
    with refused(InputError, "m.png", word, "one channel"):
        read_mask(marked(put, Image.fromarray(image)), ["nerve"])


def test_a_value_that_means_nothing_is_refused(put, refused):
    with refused(DataError, "m.png", "got 7"):
        read_mask(marked(put, np.full((10, 12), 7, np.uint8)), ["nerve"])


def test_a_label_that_the_mask_does_not_know_is_refused(put, refused):
    with refused(DataError, "nerve, vessel", "got bone"):
        read_mask(marked(put, LEVELS), ["bone"])


def test_no_file_marks_nothing(put):
    assert not read_mask(Record("i", put("i.png"), Mask(()), "g"), ["object"]).any()


@pytest.mark.realdata
def test_four_sites_of_retinas_keep_both_eyes_of_a_child_together(real_data):
    found = read_records("masks", real_data("retina-vessels"))
    assert Counter(record.site for record in found) == {"DRIVE": 40, "HRF-AV": 45, "CHASEDB1": 28, "STARE": 20}
    children = Counter(record.group for record in found if record.site == "CHASEDB1")
    assert (len(children), set(children.values())) == (14, {2})
    for record in (found[0], found[-1]):
        marks = read_mask(record, ["object"])
        share = (marks == 1).sum() / (marks != 255).sum()
        assert marks.shape == (record.attributes["height"], record.attributes["width"])
        assert share == pytest.approx(record.attributes["vessel_fraction"], abs=0.06)


@pytest.mark.realdata
def test_breast_lesions_of_several_masks_are_taken_together(real_data):
    found = {record.id: record for record in read_records("masks", real_data("busi"))}
    assert Counter(record.attributes["class"] for record in found.values())["normal"] > 100
    record = found["benign/benign (100).png"]
    assert len(record.mask.files) == 2
    marks = read_mask(record, ["object"])
    assert marks.sum() == np.logical_or(*(np.asarray(Image.open(file)) > 0 for file in record.mask.files)).sum()
