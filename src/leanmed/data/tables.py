"""The generic reader: any folder of class sub-folders, or any folder with a `labels.csv`.

```
DIR/benign/001.png          DIR/labels.csv      image,label,group,site,age,sex
DIR/malignant/017.png                           images/001.png,benign,patient-4,A,61,F
```
In the table, `image` (a path below DIR) and `label` are needed; `group` and `site` are used where they stand,
and every other column becomes an attribute. Without `group`, images with the same content form one.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from leanmed.errors import DataError
from leanmed.files import sha256_file
from leanmed.reading.images import SUFFIXES
from leanmed.records import Attribute, Record

TABLE = "labels.csv"
UNLABELLED = "unlabelled"


def read(root: Path) -> list[Record]:
    """Read a folder of labelled images.

    Args:
        root: holds `labels.csv`, or one sub-folder per class.

    Raises:
        DataError: no images, or one outside the class folders; a missing column or value, a row without
            image or an image without row.
    """
    return read_table(root) if (root / TABLE).is_file() else read_folders(root)


def read_folders(root: Path) -> list[Record]:
    """One class per sub-folder; images may lie deeper inside it."""
    images = {name_below(root, image): image for image in images_below(root)}
    stray = [name for name in images if "/" not in name]
    classes = {name.partition("/")[0] for name in images} - set(stray)
    if stray or len(classes) < 2:
        raise DataError(
            f"{root}: expected {TABLE}, or images in one sub-folder for each of two or more classes; got "
            f"images in {len(classes)} sub-folder(s), and outside: {some(stray)}; move them or write a table"
        )
    return [
        Record(id=name, image=image, target=name.partition("/")[0], group=content_group(image))
        for name, image in images.items()
    ]


def read_table(root: Path) -> list[Record]:
    """One row per image in `labels.csv`."""
    rows = read_rows(root / TABLE, needed=("image", "label"))
    match_images({row["image"] for row in rows}, {name_below(root, p) for p in images_below(root)}, root)
    return [_record(root, row) for row in rows]


def read_images(root: Path) -> list[Record]:
    """Every image below a folder, without labels: to audit, not to train on.

    Raises:
        DataError: no image.
    """
    images = images_below(root)
    if not images:
        raise DataError(f"{root}: expected images ending in {', '.join(sorted(SUFFIXES))}, got none; check the folder")
    return [
        Record(id=name_below(root, image), image=image, target=UNLABELLED, group=content_group(image))
        for image in images
    ]


def read_side(path: Path) -> list[Record]:
    """One side of a split: a folder of images, or a CSV whose `image` column names files beside it.

    Columns `label`, `group` and `site` are read where they stand.

    Raises:
        DataError: no image, or a row whose image is not there.
    """
    if path.is_dir():
        return read_table(path) if (path / TABLE).is_file() else read_images(path)
    rows = read_rows(path, needed=("image",))
    missing = [row["image"] for row in rows if not (path.parent / row["image"]).is_file()]
    if missing:
        raise DataError(
            f"{path}: expected image files named from {path.parent}, but missing: {some(missing)}; correct the column"
        )
    return [_record(path.parent, {"label": UNLABELLED, **row}) for row in rows]


def _record(root: Path, row: Mapping[str, str]) -> Record:
    image = root / row["image"]
    others = {k: number_or_text(v) for k, v in row.items() if k not in ("image", "label", "group", "site")}
    return Record(
        id=row["image"],
        image=image,
        target=row["label"],
        group=row.get("group") or content_group(image),
        site=row.get("site") or None,
        attributes={name: value for name, value in others.items() if value is not None},
    )


def read_rows(path: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV whose first line names the columns.

    Blanks around names and values do not count, nor does a byte-order mark, nor a column without a name.

    Raises:
        DataError: not UTF-8; a column that is missing or stands twice; a line with too few or too many
            fields, or with nothing in a needed column; or no row at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            numbered = [(lines.line_num, [field.strip() for field in line]) for line in lines if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV in UTF-8, got: {error}; save it again as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: expected a table there, got: {error.strerror}; put it there") from error
    _check_names(path, names, needed)
    if not numbered:
        raise DataError(f"{path}: expected a row for each image, got none below the first line; add them")
    return [_row(f"{path}, line {number}", names, fields, needed) for number, fields in numbered]


def _check_names(path: Path, names: list[str], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in names]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if missing or twice:
        raise DataError(
            f"{path}: expected columns {', '.join(needed)}, each once, with commas between them; missing: "
            f"{some(missing)}, twice: {some(twice)}, got: {some(names)}; correct the first line"
        )


def _row(where: str, names: list[str], fields: list[str], needed: tuple[str, ...]) -> dict[str, str]:
    if len(fields) != len(names):
        raise DataError(
            f"{where}: expected {len(names)} fields, as in the first line, got {len(fields)}; "
            "correct it, and put values with a comma in quotes"
        )
    row = {name: field for name, field in zip(names, fields, strict=True) if name}
    empty = [name for name in needed if not row[name]]
    if empty:
        raise DataError(f"{where}: expected a value for {some(empty)}, got nothing; fill it in or drop the row")
    return row


def match_images(listed: set[str], found: set[str], root: Path) -> None:
    """Check that every row has its image and every image its row.

    Raises:
        DataError: naming the first few that do not.
    """
    if listed != found:
        raise DataError(
            f"{root}: expected a row for each image and an image for each row (images end in "
            f"{', '.join(sorted(SUFFIXES))}); rows without an image: {some(listed - found)}; images without "
            f"a row: {some(found - listed)}; correct the table or the folder"
        )


def some(names: Collection[str]) -> str:
    """The first five of some names, sorted, for a message."""
    listed = ", ".join(sorted(names)[:5])
    return f"{listed}, ... ({len(names)} in all)" if len(names) > 5 else listed or "none"


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted by path; what is hidden is passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and "/." not in f"/{name_below(folder, path)}"
    )


def name_below(root: Path, path: Path) -> str:
    """A file's name as tables write it: its path below the root, with slashes on every system."""
    return path.relative_to(root).as_posix()


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        DataError: it is in another encoding.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, got: {error}; save it again as UTF-8") from error


def by_name(root: Path, paths: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    """Files by the names that a table or its annotations call them; of images, without the ending as a rule.

    Raises:
        DataError: two files of one name.
    """
    listed = list(paths)
    found = {name(path): path for path in listed}
    twice = [name(path) for path in listed if found[name(path)] != path]
    if twice:
        raise DataError(f"{root}: expected each image once, got two files for {some(twice)}; remove one")
    return found


def content_group(image: Path) -> str:
    """The group of an image of which nothing else is known: files with the same bytes share it."""
    return f"content-{sha256_file(image)[:16]}"


def number_or_text(text: str) -> Attribute | None:
    """`"61"` becomes 61.0 and `"F"` stays; nothing, or NaN, which programs write for it, becomes None."""
    try:
        value = float(text)
    except ValueError:
        return text or None
    return None if math.isnan(value) else value
