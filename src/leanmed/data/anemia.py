"""CP-AnemiC: 710 cut-outs of the palpebral conjunctiva of children, from ten hospitals in Ghana.

Asare, Appiahene, Donkoh, "CP-AnemiC (A Conjunctival Pallor) Dataset from Ghana", 2023, DOI
10.17632/m53vz6b7fx.1. The alpha channel of each PNG is the tissue mask; the ground under it is black and
tells nothing. The children are 6 to 59 months old, and anemic when haemoglobin is below 11 g/dL (WHO).

The set has no patient identifier, and it repeats photographs: byte copies, flips, turns and shifted crops,
each with a haemoglobin, age and hospital of its own. The reader groups byte copies only; `leanmed audit`
finds the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from leanmed.data.columns import NO_PATIENTS
from leanmed.data.tables import by_name, content_group, images_below, match_images, name_below, read_rows
from leanmed.data.telling import each, some
from leanmed.errors import DataError
from leanmed.records import Record, Records

LABELS = ("non-anemic", "anemic")
ANEMIC_BELOW = 11.0  # g/dL
TABLE = "Anemia_Data_Collection_Sheet.csv"
FOLDERS = {"Non-anemic": "non-anemic", "Anemic": "anemic"}
COLUMNS = (
    *("IMAGE_ID", "HB_LEVEL", "Severity", "Age(Months)", "GENDER", "REMARK"),
    *("HOSPITAL", "CITY/TOWN", "MUNICIPALITY/DISTRICT", "REGION"),
)


def read(root: Path) -> Records:
    """Read CP-AnemiC as it is distributed: `Anemic/`, `Non-anemic/` and the data collection sheet.

    Rows whose image is not there are counted.

    Raises:
        DataError: a folder, the sheet, a column or a value is missing; no image, one without row, one in both
            folders; a value that is no number; a label that its haemoglobin or its folder contradicts.
    """
    images = _images(root)
    rows = read_rows(root / TABLE, needed=COLUMNS)
    notes = match_images({row["IMAGE_ID"] for row in rows}, set(images), root, partial=True)
    rows = sorted((row for row in rows if row["IMAGE_ID"] in images), key=lambda row: row["IMAGE_ID"])
    records = each(rows, lambda row: _record(root, images[row["IMAGE_ID"]], row))
    return Records(records, [NO_PATIENTS], notes)


def _images(root: Path) -> dict[str, Path]:
    absent = [name for name in FOLDERS if not (root / name).is_dir()]
    if absent:
        raise DataError(
            f"{root}: expected CP-AnemiC, with folders {' and '.join(FOLDERS)}; missing: {some(absent)}; "
            "give the folder that holds both"
        )
    paths = (image for name in FOLDERS for image in images_below(root / name))
    return by_name(root, paths, lambda path: path.stem)


def _record(root: Path, image: Path, row: Mapping[str, str]) -> Record:
    name = name_below(root, image)
    haemoglobin, age = (_number(row, column, root / TABLE) for column in ("HB_LEVEL", "Age(Months)"))
    target = "anemic" if haemoglobin < ANEMIC_BELOW else "non-anemic"
    folder = name.partition("/")[0]
    if not target == row["REMARK"].lower() == FOLDERS[folder]:
        raise DataError(
            f"{root / TABLE}: {image.stem}: haemoglobin {haemoglobin:g} g/dL means {target}, but REMARK is "
            f"{row['REMARK']!r} and the folder {folder!r}; correct the sheet or move the file"
        )
    return Record(
        id=name,
        image=image,
        target=target,
        group=content_group(image),
        site=row["HOSPITAL"],
        attributes={
            "haemoglobin": haemoglobin,
            "age_months": age,
            "sex": row["GENDER"].lower(),
            "severity": row["Severity"].lower(),
            "town": row["CITY/TOWN"],
            "district": row["MUNICIPALITY/DISTRICT"],
            "region": row["REGION"],
        },
    )


def _number(row: Mapping[str, str], column: str, table: Path) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise DataError(
            f"{table}: {row['IMAGE_ID']}: expected {column} to be a number above 0, got {row[column]!r}; correct it"
        )
    return value
