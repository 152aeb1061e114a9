from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leanmed.data import class_labels, read_records
from leanmed.data.anemia import COLUMNS, TABLE
from leanmed.errors import DataError
from leanmed.reading.images import read_image

HEAD = ",".join(COLUMNS)
ROWS = (
    "Image_1,9.8,Moderate,6,Female,Anemic,Nkawie Hospital ,Nkawie,Atwima ,Ashanti",
    "Image_2,11.0,Non-Anemic,24,Male,Non-anemic,Ejusu Hospital,Ejusu,Ejusu,Ashanti",
    "Image_3,10.9,Mild,59,Male,Anemic,Ejusu Hospital,Ejusu,Ejusu,Ashanti",
)


def cut_out(path: Path, red: int) -> None:
    """A tissue of one colour, with black nothing around it."""
    pixels = np.zeros((12, 16, 4), np.uint8)
    pixels[3:9, 2:14] = (red, 90, 80, 255)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cp_anemic(tmp_path):
    """`cp_anemic(*rows)`: a made folder in the form of CP-AnemiC; images 1 and 2 are copies."""

    def make(*rows: str, head: str = HEAD) -> Path:
        for name, red in (("Anemic/Image_1", 160), ("Non-anemic/Image_2", 160), ("Anemic/Image_3", 150)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            cut_out(tmp_path / f"{name}.png", red)
        (tmp_path / TABLE).write_text("\n".join((head, *rows)) + "\n")
        return tmp_path

    return make


def test_every_column_is_read_and_stripped(cp_anemic):
    records = read_records("cp-anemic", cp_anemic(*ROWS))
    assert [(r.id, r.target) for r in records] == [
        ("Anemic/Image_1.png", "anemic"),
        ("Non-anemic/Image_2.png", "non-anemic"),
        ("Anemic/Image_3.png", "anemic"),
    ]
    assert records[0].site == "Nkawie Hospital"
    assert dict(records[0].attributes) == {
        "haemoglobin": 9.8,
        "age_months": 6.0,
        "sex": "female",
        "severity": "moderate",
        "town": "Nkawie",
        "district": "Atwima",
        "region": "Ashanti",
    }


def test_byte_copies_share_a_group_and_others_do_not(cp_anemic):
    one, two, three = (record.group for record in read_records("cp-anemic", cp_anemic(*ROWS)))
    assert one == two != three


def test_anemic_is_the_positive_label(cp_anemic):
    assert class_labels("cp-anemic", read_records("cp-anemic", cp_anemic(*ROWS))) == ("non-anemic", "anemic")


def test_alpha_is_the_tissue_mask(cp_anemic):
    record = read_records("cp-anemic", cp_anemic(*ROWS))[0]
    alpha = read_image(record.image)[..., 3]
    assert (alpha == 255).sum() == 6 * 12
    assert (alpha == 0).sum() == 12 * 16 - 6 * 12


WRONG = {
    "remark": (
        ROWS[2].replace("Anemic", "Non-anemic"),
        "Image_3: haemoglobin 10.9 g/dL means anemic, but REMARK is 'Non-anemic' and the folder 'Anemic'; co",
    ),
    "haemoglobin": (
        ROWS[2].replace("10.9", "11.0"),
        "haemoglobin 11 g/dL means non-anemic, but REMARK is 'Anemic'",
    ),
    "comma": (
        ROWS[2].replace("10.9", "10;9"),
        "Image_3: expected HB_LEVEL to be a number above 0, got '10;9'",
    ),
    "NaN": (
        ROWS[2].replace("10.9", "nan"),
        "expected HB_LEVEL to be a number above 0, got 'nan'; correct it",
    ),
    "infinity": (ROWS[2].replace("59", "inf"), "expected Age(Months) to be a number above 0, got 'inf'"),
    "minus": (ROWS[2].replace("10.9", "-1"), "expected HB_LEVEL to be a number above 0, got '-1'"),
    "blank": (ROWS[2].replace("59", " "), "line 4: expected a value for Age(Months), got nothing"),
    "absent": (
        ROWS[2].replace("Image_3", "Image_4"),
        "rows without an image: Image_4; images without a row: Image_3",
    ),
    "twice": (f"{ROWS[2]}\n{ROWS[2]}", "expected each image once, got more than once: Anemic/Image_3.png"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_refused(kind, cp_anemic, refused):
    row, expected = WRONG[kind]
    with refused(DataError, expected):
        read_records("cp-anemic", cp_anemic(*ROWS[:2], row))


def test_a_missing_column_is_refused(cp_anemic, refused):
    with refused(DataError, TABLE, "missing: HB_LEVEL", "correct the first line"):
        read_records("cp-anemic", cp_anemic(*ROWS, head=HEAD.replace("HB_LEVEL", "HB")))


def test_a_missing_sheet_or_folder_is_refused(cp_anemic, refused):
    root = cp_anemic(*ROWS)
    (root / TABLE).unlink()
    with refused(DataError, TABLE, "expected a table there, got: No such file"):
        read_records("cp-anemic", root)
    with refused(DataError, "with folders Non-anemic and Anemic; missing: Anemic, Non-anemic", "holds both"):
        read_records("cp-anemic", root / "Anemic")


def test_an_image_in_both_folders_is_refused(cp_anemic, refused):
    root = cp_anemic(*ROWS)
    cut_out(root / "Non-anemic" / "Image_3.png", 1)
    with refused(DataError, "expected each image once, got two files for Image_3; remove one"):
        read_records("cp-anemic", root)


def test_of_a_part_of_the_set_what_is_there_is_read_and_the_rest_counted(cp_anemic):
    absent = ROWS[2].replace("Image_3", "Image_4")
    found = read_records("cp-anemic", cp_anemic(*ROWS, absent))
    assert len(found) == 3
    assert found.notes[0].startswith("Nothing names the patients")
    assert found.gaps == ("1 of the 4 images that the table lists are not there; they are left out.",)


@pytest.mark.realdata
def test_the_real_set_is_read_whole_and_its_byte_copies_are_found(real_data):
    records = read_records("cp-anemic", real_data("cp-anemic"))
    anemic = [record for record in records if record.target == "anemic"]
    assert (len(records), len(anemic)) == (710, 424)
    assert len({record.site for record in records}) == 10
    assert len({record.group for record in records}) == 498  # distinct contents
    assert max(float(record.attributes["haemoglobin"]) for record in anemic) < 11
    assert {float(record.attributes["age_months"]) <= 60 for record in records} == {True}
    labels_of = {record.group: set[str]() for record in records}
    for record in records:
        labels_of[record.group].add(record.target)
    assert any(len(labels) == 2 for labels in labels_of.values())  # copies with other labels: the audit's business
