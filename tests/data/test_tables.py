from __future__ import annotations

from pathlib import Path

import pytest

from leanmed.data import class_labels, content_hashes, data_hash, read_records, read_records_for, tables
from leanmed.errors import DataError
from leanmed.recipe.recipe import Data

HEAD = "image,label,group,site,age,sex"
ROWS = ("a.png,benign,p1,A,61,F", "deep/b.JPG,malignant,,,,")


@pytest.fixture
def folder(tmp_path):
    """`folder("a.png", ...)`: a folder with such files, whose contents are their names without numbers."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name.strip("0123456789"))
        return tmp_path

    return make


@pytest.fixture
def tabled(folder):
    """`tabled(HEAD, *ROWS)`: the two images, and a table with such lines."""

    def make(*lines: str, end: str = "\n") -> Path:
        root = folder("a.png", "deep/b.JPG")
        (root / "labels.csv").write_bytes("".join(line + end for line in lines).encode())
        return root

    return make


def test_sub_folders_are_labels_and_images_may_lie_deeper(folder):
    root = folder("benign/1.png", "benign/deep/2.tif", "malignant/3.dcm", "malignant/notes.txt")
    found = [(record.id, record.target) for record in read_records("folder", root)]
    assert found == [
        ("benign/1.png", "benign"),
        ("benign/deep/2.tif", "benign"),
        ("malignant/3.dcm", "malignant"),
    ]


def test_without_a_group_the_same_bytes_are_one_group(folder):
    root = folder("x/1.png", "x/2.png", "y/3.tif")
    for name in ("x/1.png", "y/3.tif"):
        (root / name).write_bytes(b"same")
    one, two, three = (record.group for record in read_records("folder", root))
    assert one == three != two


def test_what_is_hidden_is_passed_over(folder):
    root = folder("x/1.png", "y/2.png", "x/.ipynb_checkpoints/1.png", ".trash/3.png", "y/._2.png", ".4.png")
    assert [record.id for record in read_records("folder", root)] == ["x/1.png", "y/2.png"]


def test_a_folder_without_an_image_is_refused(folder, refused):
    with refused(DataError, "expected labels.csv, or images in one sub-folder", "0 sub-folder(s)", "write a table"):
        read_records("folder", folder())


@pytest.mark.parametrize("names", [["x/1.png", "x/2.png"], ["x/1.png", "x/2.png", "y/3.txt"]])
def test_one_class_can_be_judged_on_and_not_learned_from(names, folder, refused):
    found = read_records("folder", folder(*names))
    assert [record.label for record in found] == ["x", "x"]
    assert class_labels("folder", found, ("x", "y"), all_present=False) == ("x", "y")
    for wanted, said in ((None, "'x' alone; add images"), (("x", "y"), "'x' alone and none of y; add images")):
        with refused(DataError, "images of two labels or more to learn from, got images of", said):
            class_labels("folder", found, wanted)


def test_an_image_outside_the_class_folders_is_refused_by_name(folder, refused):
    with refused(DataError, "in 2 sub-folder(s), and outside: stray.png; move them"):
        read_records("folder", folder("x/1.png", "y/2.png", "stray.png"))


def test_a_table_gives_labels_groups_sites_and_attributes(tabled):
    a, b = read_records("folder", tabled(HEAD, *ROWS))
    assert (a.id, a.target, a.group, a.site, dict(a.attributes)) == (
        "a.png",
        "benign",
        "p1",
        "A",
        {"age": 61.0, "sex": "F"},
    )
    assert (b.image.name, b.site, dict(b.attributes)) == ("b.JPG", None, {})
    assert b.group.startswith("content-")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_what_spreadsheets_add_to_a_table_is_forgiven(tabled, end):
    plain = read_records("folder", tabled(HEAD, *ROWS))
    spread = read_records(
        "folder", tabled("\ufeff image , label,group,site,age,sex,,", *(f"{r} ,," for r in ROWS), end=end)
    )
    assert spread == plain


@pytest.mark.parametrize("missing", ["", "nan", "NaN", " "])
def test_a_missing_value_is_left_out(missing, tabled):
    a, _ = read_records("folder", tabled(HEAD, f"a.png,x,,,{missing},F", "deep/b.JPG,y,,,2,M"))
    assert dict(a.attributes) == {"sex": "F"}


def test_an_infinite_value_is_refused(tabled, refused):
    with refused(DataError, "a.png", "attribute age", "finite number, got inf"):
        read_records("folder", tabled(HEAD, "a.png,x,,,inf,F", "deep/b.JPG,y,,,2,M"))


WRONG = {
    "no column `label`": (
        ["image,labled,group,site,age,sex", *ROWS],
        "missing: label, got: age, group, image, labled, sex, ...",
        "(did you mean labled for label?); correct the first line",
    ),
    "a column twice": (["image,label,label", *ROWS], "each column once", "twice: label"),
    "nothing at all": ([], "missing: image, label", "got: none"),
    "no rows": ([HEAD], "expected a row for each image, got none below the first line"),
    "too few fields": ([HEAD, *ROWS, "c.png,x"], "line 4: expected 6 fields, as in the first line, got 2"),
    "too many fields": ([HEAD, "a.png,x,1,2,3,4,5"], "line 2: expected 6 fields", "got 7", "in quotes"),
    "no label": ([HEAD, ROWS[0], "deep/b.JPG,,,,,"], "line 3: expected a value for label, got nothing"),
    "no image": ([HEAD, ",x,,,,"], "line 2: expected a value for image, got nothing; fill it in"),
    "no row with an image": (
        [HEAD, "c.png,x,,,,", "labels.csv,y,,,,"],
        "expected the name of an image below",
        "(images end in .bmp, .dcm",
        "got c.png, labels.csv, where there are a.png, deep/b.JPG",
    ),
    "an image twice": (
        [HEAD, *ROWS, ROWS[0]],
        "expected each image once, got more than once: a.png; correct",
    ),
    "an open quote": ([HEAD, '"a.png,x'], "got: unexpected end of data; look for a quotation mark that is not closed"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_table_is_refused(kind, tabled, refused):
    lines, *expected = WRONG[kind]
    with refused(DataError, *expected):
        read_records("folder", tabled(*lines))


def test_the_line_is_named_as_an_editor_counts_it(tabled, refused):
    with refused(DataError, "labels.csv, line 6: expected 6 fields"):
        read_records("folder", tabled(HEAD, 'a.png,x,"two\nlines",A,1,F', "", "", "b.png"))


@pytest.mark.parametrize("stranger", ["c.png", "../b.png", "/etc/b.png", "labels.csv"])
def test_a_row_without_an_image_is_left_out_and_listed(stranger, tabled, refused):
    root = tabled(HEAD, *ROWS, f"{stranger},x,,,,")
    found = read_records("folder", root)
    assert [record.id for record in found] == ["a.png", "deep/b.JPG"]
    assert found.gaps == (f"1 row(s) of labels.csv without an image are left out: {stranger}.",)
    assert found.gaps[0] in found.notes
    with refused(DataError, "the reading is strict", found.gaps[0], "or read without --strict"):
        read_records("folder", root, strict=True)


def test_an_image_without_a_row_is_left_out_and_listed(tabled, refused):
    root = tabled(HEAD, ROWS[0])
    found = read_records("folder", root)
    assert [record.id for record in found] == ["a.png"]
    assert found.gaps == ("1 image(s) without a row in labels.csv are left out: deep/b.JPG.",)
    with refused(DataError, found.gaps[0]):
        read_records("folder", root, strict=True)


def test_a_whole_table_has_no_gaps(tabled):
    assert read_records("folder", tabled(HEAD, *ROWS), strict=True).gaps == ()


@pytest.mark.parametrize(
    ("names", "how"),
    [
        ((r".\a.png", r"deep\b.JPG"), ""),
        (("A.PNG", "Deep/b.jpg"), "whatever the case of their letters"),
        ((r"C:\Users\me\a.png", r"C:\Users\me\deep\b.JPG"), "without their first 3 folder(s)"),
        (("/data/x/a.png", "/data/x/deep/b.JPG"), "without their first 3 folder(s)"),
        (("a.png", "b.JPG"), "by the ends of the files' paths"),
        (("A.png", "b.jpg"), "by the ends of the files' paths"),
        (("a", "b"), "by the ends of the files' paths, without their endings"),
    ],
)
def test_names_from_another_computer_are_found(names, how, tabled):
    found = read_records("folder", tabled("image,label", f"{names[0]},x", f"{names[1]},y"), strict=True)
    assert [(record.id, record.target) for record in found] == [("a.png", "x"), ("deep/b.JPG", "y")]
    assert [note for note in found.notes if "names of images" in note] == [
        f"The names of images in labels.csv are read {how}."
    ] * bool(how)


def test_only_the_first_few_names_are_listed():
    assert tables.some([]) == "none"
    assert tables.some({"b", "a"}) == "a, b"
    assert tables.some("gfedcba") == "a, b, c, d, e, ... (7 in all)"


def test_an_unknown_data_set_and_a_missing_folder_are_refused(tmp_path, refused):
    with refused(DataError, "expected a data set's name (cp-anemic, folder, images, ", "got 'mnist'"):
        read_records("mnist", tmp_path)
    with refused(DataError, "expected the data to be a folder", str(tmp_path / "nowhere"), "check the path"):
        read_records("folder", tmp_path / "nowhere")


def test_labels_are_in_the_order_wanted_or_sorted(tabled):
    records = read_records("folder", tabled(HEAD, *ROWS))
    assert class_labels("folder", records) == ("benign", "malignant")
    assert class_labels("folder", records, ["malignant", "benign"]) == ("malignant", "benign")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["benign", "normal"], "images of malignant; no image of normal"),
        (["benign", "malignant", "malignant"], "each named once"),
        (["benign"], "images of malignant"),
    ],
)
def test_labels_outside_the_list_are_refused(wanted, expected, tabled, refused):
    records = read_records("folder", tabled(HEAD, *ROWS))
    with refused(
        DataError,
        f"expected images of the labels {', '.join(wanted)}",
        expected,
        "correct the table or set data.labels",
    ):
        class_labels("folder", records, wanted)


def test_images_of_labels_that_a_recipe_does_not_name_are_left_out_and_counted(tabled):
    root = tabled(HEAD, *ROWS, "deep/c.png,normal,,,,")
    (root / "deep" / "c.png").write_bytes((root / "deep" / "b.JPG").read_bytes())
    everything = read_records_for(Data(), root)
    chosen = read_records_for(Data(labels=("malignant", "benign")), root)
    assert {record.label for record in everything} == {"benign", "malignant", "normal"}
    assert [record.id for record in chosen] == [record.id for record in everything if record.label != "normal"]
    assert chosen.notes[-1] == "Images left out, since data.labels does not name their label: normal (1)."
    assert chosen.notes[:-1] == everything.notes


def test_nothing_is_left_out_where_no_image_has_a_listed_label(tabled, refused):
    """Else a misspelled list would leave an empty data set to complain of."""
    records = read_records_for(Data(labels=("Benign", "Malignant")), tabled(HEAD, *ROWS))
    with refused(DataError, "images of benign, malignant; no image of Benign, Malignant"):
        class_labels("folder", records, ("Benign", "Malignant"))


@pytest.mark.parametrize("change", ["a.png,x,p1,A,61,F", "a.png,benign,p2,A,61,F", "a.png,benign,p1,A,62,F"])
def test_the_data_hash_depends_on_all_that_a_table_says(change, tabled):
    hashes = []
    for rows in (ROWS, ROWS[::-1], (change, ROWS[1])):
        records = read_records("folder", tabled(HEAD, *rows))
        hashes.append(data_hash(records, content_hashes(records)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_data_hash_depends_on_the_images(tabled):
    root = tabled(HEAD, *ROWS)
    records = read_records("folder", root)
    before = data_hash(records, content_hashes(records))
    (root / "a.png").write_text("another picture")
    assert data_hash(records, content_hashes(records)) != before
