"""CP-AnemiC: 710 cut-outs of the palpebral conjunctiva of children aged 6 to 59 months, from ten hospitals in Ghana.

Asare, Appiahene, Donkoh, "CP-AnemiC (A Conjunctival Pallor) Dataset from Ghana", 2023, DOI 10.17632/m53vz6b7fx.1.
The alpha channel of each PNG is the tissue mask; the ground under it is black and tells nothing.
A child is anemic when haemoglobin is below 11 g/dL (WHO, 6 to 59 months).

The set has no patient identifier, and it repeats photographs: byte copies, flips, turns and shifted crops, each with a
haemoglobin, age and hospital of its own. The reader groups byte copies only; `leanmed audit` finds the others.
"""

from __future__ import annotations

from pathlib import Path

from leanmed.data.tables import content_group, images_below, match_images, read_rows
from leanmed.errors import DataError
from leanmed.records import Record

LABELS = ("non-anemic", "anemic")
ANEMIC_BELOW = 11.0  # g/dL
TABLE = "Anemia_Data_Collection_Sheet.csv"
FOLDERS = {"Non-anemic": "non-anemic", "Anemic": "anemic"}
COLUMNS = ("IMAGE_ID", "HB_LEVEL", "Severity", "Age(Months)", "GENDER", "REMARK", "HOSPITAL", "CITY/TOWN")
COLUMNS += ("MUNICIPALITY/DISTRICT", "REGION")


def read(root: Path) -> list[Record]:
    """Read CP-AnemiC as it is distributed: `Anemic/`, `Non-anemic/` and the data collection sheet.

    Raises:
        DataError: a folder, the sheet or a column is missing; a row without image or an image without row; a value that
            is no number; a label that its haemoglobin or its folder contradicts.
    """
    images = _images(root)
    rows = {row["IMAGE_ID"].strip(): row for row in read_rows(root / TABLE, needed=COLUMNS)}
    match_images(set(rows), set(images), root / TABLE)
    return [_record(root, images[name], rows[name]) for name in sorted(images)]


def _images(root: Path) -> dict[str, Path]:
    absent = [name for name in FOLDERS if not (root / name).is_dir()]
    if absent:
        raise DataError(f"expected CP-AnemiC at {root}, with folders {' and '.join(FOLDERS)}; missing: {', '.join(absent)}")
    paths = [image for name in FOLDERS for image in images_below(root / name)]
    images = {path.stem: path for path in paths}
    if len(images) < len(paths):
        twice = sorted(p.stem for p in paths if images[p.stem] != p)
        raise DataError(f"{root}: expected each image once, but found in both folders: {', '.join(twice[:5])}")
    return images


def _record(root: Path, image: Path, row: dict[str, str]) -> Record:
    value = {key: text.strip() for key, text in row.items()}
    try:
        haemoglobin, age = float(value["HB_LEVEL"]), float(value["Age(Months)"])
    except ValueError as error:
        raise DataError(f"{root / TABLE}: {image.stem}: HB_LEVEL and Age(Months) should be numbers: {error}") from error
    target = "anemic" if haemoglobin < ANEMIC_BELOW else "non-anemic"
    if not target == value["REMARK"].lower() == FOLDERS[image.parent.name]:
        raise DataError(
            f"{root / TABLE}: {image.stem} has haemoglobin {haemoglobin:g} g/dL, which means {target}, "
            f"but REMARK {value['REMARK']!r} and folder {image.parent.name!r}; correct the sheet or move the file"
        )
    return Record(
        id=str(image.relative_to(root)),
        image=image,
        target=target,
        group=content_group(image),
        site=value["HOSPITAL"],
        attributes={
            "haemoglobin": haemoglobin,
            "age_months": age,
            "sex": value["GENDER"].lower(),
            "severity": value["Severity"].lower(),
            "town": value["CITY/TOWN"],
            "district": value["MUNICIPALITY/DISTRICT"],
            "region": value["REGION"],
        },
    )
