"""Tables as people write them: what is taken for the patient, the image and the label, and what values become."""

from __future__ import annotations

import unicodedata

import pytest

from leanmed.data import class_labels, read_records
from leanmed.data.columns import OCCASIONS, PERSONS, plain
from leanmed.data.tables import read_side
from leanmed.errors import DataError


@pytest.fixture
def table(tmp_path):
    """`table("image,label", "a,x", ...)`: a folder with such a table, and an image for each row's first value."""

    def make(*lines):
        for number, line in enumerate(lines[1:]):
            name = line.split(",")[0]
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"content {number}")
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return make


NAMES = (
    *("patient_id", "PatientID", "Patient ID", "patient-id", "PATIENT", "subject", "subject_id", "SubjectID", "case"),
    *("case_id", "participant", "participant_id", "Group", "GROUP", "group", "person", "study_id", "StudyInstanceUID"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_names_patients_is_the_group_and_is_named_in_a_note(name, table):
    found = read_records("folder", table(f"image,label,{name}", "a.png,x,p1", "b.png,x,p1", "c.png,y,p2"))
    assert [record.group for record in found] == ["p1", "p1", "p2"]
    assert [dict(record.attributes) for record in found] == [{}, {}, {}]
    assert any(f"`{name}`" in note and "2 groups" in note for note in found.notes) or name == "group"
    assert not any("Nothing names the patients" in note for note in found.notes)


@pytest.mark.parametrize("name", ["age", "patient_age", "patient_sex", "visit", "hospital", "caseload", "studying"])
def test_other_columns_are_attributes_and_a_note_says_that_no_patients_are_known(name, table):
    found = read_records("folder", table(f"image,label,{name}", "a.png,x,7", "b.png,y,7"))
    assert [dict(record.attributes) for record in found] == [{name: 7.0}, {name: 7.0}]
    assert any("Nothing names the patients" in note and "labels.csv" in note for note in found.notes)


def test_of_patients_and_their_studies_the_patients_are_the_group(table):
    lines = ["image,label,study_id,patient_id", "a.png,x,s1,p1", "b.png,x,s2,p1", "c.png,y,s3,p2"]
    assert [record.group for record in read_records("folder", table(*lines))] == ["p1", "p1", "p2"]


def test_of_two_columns_of_persons_the_one_that_keeps_both_whole_is_taken(table):
    lines = ["image,label,subject,patient_id", "a.png,x,s1,p1", "b.png,x,s2,p1", "c.png,y,s3,p2"]
    assert [record.group for record in read_records("folder", table(*lines))] == ["p1", "p1", "p2"]


@pytest.mark.parametrize("ours", ["group", "subject"])
def test_columns_that_disagree_about_patients_are_refused_with_an_example(ours, table, refused):
    root = table(f"image,label,{ours},patient_id", "a.png,x,g1,p1", "b.png,x,g2,p1", "c.png,y,g2,p2")
    with refused(DataError, ours, "patient_id", "disagree", "name the right one `group`"):
        read_records("folder", root)


def test_a_group_wider_than_the_patient_is_kept(table):
    lines = ["image,label,group,patient_id", "a.png,x,family,1", "b.png,x,family,2", "c.png,y,other,3"]
    found = read_records("folder", table(*lines))
    assert [record.group for record in found] == ["family", "family", "other"]
    assert [record.attributes["patient_id"] for record in found] == [1, 2, 3]


@pytest.mark.parametrize("nothing", ["", "NA", "nan", "null", "N/A"])
def test_rows_without_a_patient_stand_alone_and_are_counted(nothing, table):
    found = read_records(
        "folder", table("image,label,patient", f"a.png,x,{nothing}", f"b.png,y,{nothing}", "c.png,y,p")
    )
    assert len({record.group for record in found}) == 3
    assert any("2 of 3 rows" in note for note in found.notes)


def test_a_group_that_is_missing_for_some_images_of_a_patient_tears_him_apart(table, refused):
    root = table("image,label,group,patient", "a.png,x,,p1", "b.png,x,,p1", "c.png,y,g,p2")
    with refused(DataError, "disagree", "patient p1"):
        read_records("folder", root)


@pytest.mark.parametrize(
    "head", ["Image,Label", "filename,class", "File,Diagnosis", "image_path,CATEGORY", "File Name,target"]
)
def test_images_and_labels_are_found_under_other_names_too(head, table):
    found = read_records("folder", table(head, "a.png,x", "b.png,y"))
    assert [(record.id, record.target) for record in found] == [("a.png", "x"), ("b.png", "y")]


def test_what_stands_for_the_label_is_said_and_the_exact_name_wins(table):
    found = read_records("folder", table("image,diagnosis", "a.png,x", "b.png,y"))
    assert found.notes[0] == (
        "labels.csv is read as text in UTF-8 with commas between its fields: 2 row(s), the image from `image`, the "
        "label from `diagnosis`."
    )
    found = read_records("folder", table("image,diagnosis,label", "a.png,x,1", "b.png,y,2"))
    assert [(record.target, record.attributes["diagnosis"]) for record in found] == [("1", "x"), ("2", "y")]


def test_of_two_columns_that_may_be_the_label_none_is_guessed(table, refused):
    with refused(DataError, "one column label, got class, diagnosis", "name the right one `label`"):
        read_records("folder", table("image,class,diagnosis", "a.png,x,1", "b.png,y,2"))


@pytest.mark.parametrize(
    "pair", [("yes", "no"), ("NA", "nan"), ("007", "7"), ("1e5", "100000"), ("true", "True"), ("null", "0")]
)
def test_labels_stay_the_text_that_they_are(pair, table):
    found = read_records("folder", table("image,label", f"a.png,{pair[0]}", f"b.png,{pair[1]}"))
    assert [record.target for record in found] == list(pair)
    assert class_labels("folder", found) == tuple(sorted(pair))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("61", "6.5"), (61.0, 6.5)),
        (("007", "12"), ("007", "12")),  # codes, since a number has no zeros before it
        (("0.5", "0"), (0.5, 0.0)),
        (("1_000", "1"), ("1_000", 1.0)),
        (("yes", "NA"), ("yes", None)),
        (("true", "none"), ("true", "none")),
    ],
)
def test_attributes_are_numbers_where_they_are_written_as_such(values, expected, table):
    found = read_records("folder", table("image,label,device", f"a.png,x,{values[0]}", f"b.png,y,{values[1]}"))
    assert tuple(record.attributes.get("device") for record in found) == expected


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_are_one_whatever_their_unicode_form(in_table, on_disk, tmp_path):
    for name in ("hübsch.png", "b.png"):
        (tmp_path / unicodedata.normalize(on_disk, name)).write_text(name)
    text = "image,label\nhübsch.png,bösartig\nb.png,gut\n"
    (tmp_path / "labels.csv").write_text(unicodedata.normalize(in_table, text))
    found = read_records("folder", tmp_path)
    assert [record.id for record in found] == [unicodedata.normalize("NFC", "hübsch.png"), "b.png"]
    assert all(record.image.is_file() for record in found)
    labels = [unicodedata.normalize("NFD", label) for label in ("gut", "bösartig")]
    assert class_labels("folder", found, labels) == ("gut", unicodedata.normalize("NFC", "bösartig"))
    assert [record.id for record in read_side(tmp_path / "labels.csv")] == [record.id for record in found]


def test_names_may_be_written_as_windows_does(table):
    root = table("image,label", "deep/a.png,x", "b.png,y")
    (root / "labels.csv").write_text("image,label\ndeep\\a.png,x\n./b.png,y\n")
    assert [record.id for record in read_records("folder", root)] == ["deep/a.png", "b.png"]


def test_all_rows_with_a_fault_are_told_at_once_up_to_five(table, refused):
    root = table("image,label", *(f"{n}.png,{'x' if n < 2 else ''}" for n in range(9)))
    with refused(DataError, "7 faults; the first 5: (1)", "line 4: expected a value for label", "(5)", "line 8: expec"):
        read_records("folder", root)


def test_a_mask_beside_its_image_needs_no_row_but_may_have_one(table):
    root = table("image,label", "a.png,x", "b.png,y")
    (root / "a_mask.png").write_text("mask")
    found = read_records("folder", root)
    assert [record.id for record in found] == ["a.png", "b.png"]
    assert any("1 masks beside their images (such as a_mask.png)" in note for note in found.notes)
    (root / "labels.csv").write_text("image,label\na.png,x\nb.png,y\na_mask.png,x\n")
    assert len(read_records("folder", root)) == 3


def test_no_name_is_both_a_person_and_an_occasion():
    assert not PERSONS & OCCASIONS
    assert plain("Patient - ID.") == "patientid" in PERSONS
