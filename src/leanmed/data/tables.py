"""The generic reader: any folder of class sub-folders, or any folder with a `labels.csv`.

```
DIR/benign/001.png          DIR/labels.csv      image,label,group,site,age,sex
DIR/malignant/017.png                           images/001.png,benign,patient-4,A,61,F
```
In the table, `image` (a path below DIR) and `label` are needed; `group` and `site` are used where they stand, and every
other column becomes an attribute. Without `group`, images with the same content form one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from leanmed.errors import DataError
from leanmed.files import sha256_file
from leanmed.records import Attribute, Record

TABLE = "labels.csv"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"})


def read(root: Path) -> list[Record]:
    """Read a folder of labelled images.

    Args:
        root: holds `labels.csv`, or one sub-folder per class.

    Raises:
        DataError: no images, a missing column, a row without image, an image without row, an image listed twice.
    """
    return read_table(root) if (root / TABLE).is_file() else read_folders(root)


def read_folders(root: Path) -> list[Record]:
    """One class per sub-folder; images may lie deeper inside it."""
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    records = [
        Record(id=str(image.relative_to(root)), image=image, target=folder.name, group=content_group(image))
        for folder in folders
        for image in images_below(folder)
    ]
    if len({r.target for r in records}) < 2:
        raise DataError(
            f"expected {root} to hold {TABLE}, or at least two class sub-folders with images in them; "
            f"found images in {len({r.target for r in records})} sub-folder(s)"
        )
    return records


def read_table(root: Path) -> list[Record]:
    """One row per image in `labels.csv`."""
    rows = read_rows(root / TABLE, needed=("image", "label"))
    match_images(
        {row["image"].strip() for row in rows},
        {str(image.relative_to(root)) for image in images_below(root)},
        root / TABLE,
    )
    return [_record(root, row) for row in rows]


def _record(root: Path, row: Mapping[str, str]) -> Record:
    name = row["image"].strip()
    known = {"image", "label", "group", "site"}
    return Record(
        id=name,
        image=root / name,
        target=row["label"].strip(),
        group=row.get("group", "").strip() or content_group(root / name),
        site=row.get("site", "").strip() or None,
        attributes={k: number_or_text(v) for k, v in row.items() if k not in known and v.strip()},
    )


def read_rows(path: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV whose first line names the columns; a byte-order mark and blanks around names are forgiven.

    Raises:
        DataError: not UTF-8, a missing column, a line with too few or too many fields, or no row at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV in UTF-8 ({error}); save it again as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"expected a table at {path}, which cannot be read: {error.strerror}") from error
    missing = [name for name in needed if name not in reader.fieldnames]
    if missing:
        raise DataError(f"{path}: expected columns {', '.join(needed)}; missing {', '.join(missing)}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"{path}, line {number}: expected {len(reader.fieldnames)} fields, as in the first line")
    if not rows:
        raise DataError(f"{path} has a first line and no rows; expected one row per image")
    return rows


def match_images(listed: set[str], found: set[str], table: Path) -> None:
    """Check that every row has its image and every image its row.

    Raises:
        DataError: naming the first few on either side.
    """
    for missing, what in ((listed - found, "row(s) without an image"), (found - listed, "image(s) without a row")):
        if missing:
            some = ", ".join(sorted(missing)[:5])
            raise DataError(f"{table}: {len(missing)} {what}: {some}{', ...' if len(missing) > 5 else ''}")


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted by path; hidden files are passed over."""
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def content_group(image: Path) -> str:
    """The group of an image of which nothing else is known: files with the same bytes share it."""
    return f"content-{sha256_file(image)[:16]}"


def number_or_text(text: str) -> Attribute:
    """`"61"` becomes 61.0; `"F"` stays."""
    text = text.strip()
    try:
        value = float(text)
    except ValueError:
        return text
    return value if value == value and abs(value) != float("inf") else text
