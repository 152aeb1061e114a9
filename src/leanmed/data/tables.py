"""Tables of images: `labels.csv`, and those of other data sets.

```
DIR/labels.csv      image,label,group,site,age,sex
                    images/001.png,benign,patient-4,A,61,F
```
`image` (a path below DIR) and `label` are needed, under these names or others that are often used for them; `group` and
`site` are used where they stand, and every other column becomes an attribute. Without `group`, a column that names
patients is taken for it; without any, images with the same content form one. The notes of the records say what was
taken for what. Values stay the text that they are, but for numbers among the attributes. How the file is written is the
matter of `leanmed.data.sheets`, and which file a name means that of `leanmed.data.matching`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leanmed.data.columns import find_column, group_column, group_notes, is_missing, missing_columns
from leanmed.data.matching import match_names, with_slashes
from leanmed.data.sheets import Sheet, find_table, read_sheet
from leanmed.data.telling import each, some
from leanmed.errors import DataError
from leanmed.files import sha256_file
from leanmed.reading.folders import SUFFIXES, list_folder
from leanmed.records import Attribute, Record, Records

TABLE, GROUPS = "labels.csv", "groups.csv"  # or the same in another form: see `find_table`
UNLABELLED = "unlabelled"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d+")  # 007 is a name, not the number 7


@dataclass(frozen=True)
class Table:
    """Rows about images, with the columns that stand for image, label, group and site, where there are any.

    `decimal_comma` says whether numbers may have a comma: see `Sheet`.
    """

    path: Path
    decimal_comma: bool
    rows: list[dict[str, str]]
    image: str
    label: str | None
    group: str | None
    site: str | None
    notes: tuple[str, ...]


def table_of(root: Path) -> Path | None:
    """The table `labels.csv` of a folder, or the same in another form, such as `Labels.xlsx`; None: there is none.

    Raises:
        DataError: there are several.
    """
    return find_table(root, TABLE)


def read_table(root: Path, path: Path) -> Records:
    """One row per image in a table.

    Args:
        root: the folder of the images.
        path: the table.

    Raises:
        DataError: a missing column or value, or no row whose image is there.
    """
    table = open_table(path, needed=("image", "label"))
    listing = list_folder(root)
    images = {name_below(root, found): found for found in (*listing.images, *listing.masks)}
    matched = match_names([row[table.image] for row in table.rows], images)
    rows = [row | {table.image: found} for row in table.rows if (found := matched.files.get(row[table.image]))]
    lost = [row[table.image] for row in table.rows if row[table.image] not in matched.files]
    listed = {row[table.image] for row in rows}
    # A mask that the table names is an image for all its name.
    masks = tuple(found for found in listing.masks if name_below(root, found) not in listed)
    bare = images.keys() - {name_below(root, found) for found in masks} - listed
    if not rows:
        raise DataError(
            f"{path}: expected the name of an image below {root} in each row (images end in "
            f"{', '.join(sorted(SUFFIXES))}), got {some(lost)}, where there are {some(bare)}; correct the table or the "
            "folder"
        )
    how = matched.notes(f"images in {path.name}")
    read = (path, find_table(root, GROUPS))
    passed_over = replace(listing, masks=masks).notes(lambda found: found in read)
    gaps = gap_notes(f"row(s) of {path.name}", lost, f"a row in {path.name}", bare)
    return Records(_records(replace(table, rows=rows), images), (*table.notes, *how, *passed_over), gaps)


def gap_notes(halves: str, lost: Collection[str], other: str, bare: Collection[str]) -> list[str]:
    """What to say of rows or masks without an image, and of images without one of these."""
    notes = []
    if lost:
        notes.append(f"{len(lost)} {halves} without an image are left out: {some(lost)}.")
    if bare:
        notes.append(f"{len(bare)} image(s) without {other} are left out: {some(bare)}.")
    return notes


def read_images(root: Path) -> Records:
    """Every image below a folder, without labels: to audit, not to train on.

    Raises:
        DataError: no image.
    """
    listing = list_folder(root)
    if not listing.images:
        raise DataError(
            f"{root}: expected images ending in {', '.join(sorted(SUFFIXES))}, got none; check the folder"
            f"{''.join(f'. {note}' for note in listing.notes())}"
        )
    records = [
        Record(id=name_below(root, image), image=image, target=UNLABELLED, group=content_group(image))
        for image in sorted(listing.images)
    ]
    return Records(records, listing.notes())


def read_side(path: Path) -> Records:
    """One side of a split: a folder of images, or a CSV whose `image` column names files beside it.

    Columns `label`, `group` and `site` are read where they stand.

    Raises:
        DataError: no image, or a row whose image is not there.
    """
    if path.is_dir():
        own = table_of(path)
        return read_table(path, own) if own else read_images(path)
    table = open_table(path, needed=("image",))
    names = {row[table.image] for row in table.rows}
    images = {name: found for name in names if (found := file_beside(path.parent, name))}
    if missing := names - images.keys():
        raise DataError(
            f"{path}: expected image files named from {path.parent}, but missing: {some(missing)}; correct the column"
        )
    return Records(_records(table, images), table.notes)


def open_table(path: Path, *, needed: tuple[str, ...]) -> Table:
    """Read a table about images, by the names of columns that people use.

    Args:
        path: the table.
        needed: those of `image`, `label` and `group` that must be there, with a value in each row.

    Raises:
        DataError: as `read_rows`; a column that is not there, or for which several could be meant.
    """
    sheet = read_sheet(path)
    names = sheet.names
    _check_once(path, names)
    found = {wanted: find_column(path, names, wanted) for wanted in ("image", "label", "site")}
    if missing := [name for name in needed if name != "group" and found[name] is None]:
        raise missing_columns(path, names, missing)
    rows = _rows(sheet, [found[name] or name for name in needed if name != "group"])
    group = group_column(path, rows)
    if group is None and "group" in needed:
        raise missing_columns(path, names, ["group"])
    return Table(
        path=path,
        decimal_comma=sheet.decimal_comma,
        rows=rows,
        image=found["image"] or "",
        label=found["label"],
        group=group,
        site=found["site"],
        notes=(_understood(sheet, rows, found), *group_notes(path.name, group, rows)),
    )


def _understood(sheet: Sheet, rows: Sequence[object], found: Mapping[str, str | None]) -> str:
    """One sentence on how a table was read."""
    columns = ", ".join(f"the {want} from `{name}`" for want, name in found.items() if name)
    return f"{sheet.path.name} is read as {sheet.how}: {len(rows)} row(s), {columns}."


def read_groups(root: Path, names: set[str]) -> tuple[dict[str, str], list[str]]:
    """Groups from a `groups.csv` beside images, by image; none without such a file. And what to say of them.

    Raises:
        DataError: it does not hold each image once, with a group.
    """
    path = find_table(root, GROUPS)
    if path is None:
        return {}, group_notes(f"a table {root / GROUPS} (image, group)", None, [])
    table = open_table(path, needed=("image", "group"))
    files, _ = matched = match_names([row[table.image] for row in table.rows], names)
    known = {files.get(row[table.image], row[table.image]): row[table.group or ""] for row in table.rows}
    if known.keys() != names or len(table.rows) > len(names):
        raise DataError(
            f"{path}: expected one row for each image, got {len(table.rows)} for {len(names)}; images without: "
            f"{some(names - known.keys())}; rows without image: {some(known.keys() - names)}; correct the table"
        )
    notes = [*table.notes, *matched.notes(f"images in {path.name}")]
    return {image: group for image, group in known.items() if not is_missing(group)}, notes


def row_attributes(table: Table, apart: Collection[str | None] = ()) -> list[dict[str, Attribute]]:
    """What each row says beside its image, label, group and site, and beside the columns named `apart`."""
    known = {table.image, table.label, table.group, table.site, *apart}
    typed = {
        name: _typed([row[name] for row in table.rows], table.decimal_comma)
        for name in table.rows[0]
        if name not in known
    }
    return [
        {name: value for name, values in typed.items() if (value := values[number]) is not None}
        for number in range(len(table.rows))
    ]


def _records(table: Table, images: Mapping[str, Path]) -> list[Record]:
    attributes = row_attributes(table)

    def record(numbered: tuple[int, Mapping[str, str]]) -> Record:
        number, row = numbered
        image = images[row[table.image]]
        group = row[table.group] if table.group else ""
        site = row[table.site] if table.site else ""
        return Record(
            id=row[table.image],
            image=image,
            target=row[table.label] if table.label else UNLABELLED,
            group=content_group(image) if is_missing(group) else group,
            site=None if is_missing(site) else site,
            attributes=attributes[number],
        )

    return each(enumerate(table.rows), record)


def file_beside(folder: Path, name: str) -> Path | None:
    """The file of a name, in whichever Unicode form the file system has it."""
    for form in ("NFC", "NFD"):
        path = folder / unicodedata.normalize(form, with_slashes(name))
        if path.is_file():
            return path
    return folder / name if (folder / name).is_file() else None


def read_rows(path: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a table whose first line names the columns; see `read_sheet`. A column without a name does not count.

    Raises:
        DataError: what `read_sheet` refuses; a column that is missing or stands twice; lines with too few or too many
            fields, or with nothing in a needed column; or no row at all.
    """
    sheet = read_sheet(path)
    missing = [name for name in needed if name not in sheet.names]
    _check_once(path, sheet.names)
    if missing:
        raise missing_columns(path, sheet.names, missing)
    return _rows(sheet, needed)


def _check_once(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise DataError(f"{path}: expected each column once, twice: {some(twice)}; correct the first line")


def _rows(sheet: Sheet, needed: Sequence[str]) -> list[dict[str, str]]:
    path, names = sheet.path, sheet.names
    if not sheet.lines:
        raise DataError(f"{path}: expected a row for each image, got none below the first line; add them")

    def row(line: tuple[int, list[str]]) -> dict[str, str]:
        number, fields = line
        if len(fields) != len(names):
            raise DataError(
                f"{path}, line {number}: expected {len(names)} fields, as in the first line, got {len(fields)}; "
                "correct it, and put values that hold the separator in quotes"
            )
        found = {name: field for name, field in zip(names, fields, strict=True) if name}
        if empty := [name for name in needed if not found[name]]:
            raise DataError(
                f"{path}, line {number}: expected a value for {some(empty)}, got nothing; fill it in or drop the row"
            )
        return found

    return each(sheet.lines, row)


def match_images(listed: set[str], found: set[str], root: Path, *, partial: bool = False) -> list[str]:
    """Check that every row has its image and every image its row.

    Args:
        listed: the images that a table names.
        found: those that are there.
        root: where they were sought.
        partial: rows without an image are of a part of the data set that is not there; they are counted.

    Returns:
        What to say of them.

    Raises:
        DataError: naming the first few that do not match.
    """
    absent = listed - found
    if found - listed or (absent and not (partial and found)):
        raise DataError(
            f"{root}: expected a row for each image and an image for each row (images end in "
            f"{', '.join(sorted(SUFFIXES))}); rows without an image: {some(absent)}; images without "
            f"a row: {some(found - listed)}; correct the table or the folder"
        )
    note = f"{len(absent)} of the {len(listed)} images that the table lists are not there; they are left out."
    return [note] * bool(absent)


def images_below(folder: Path) -> list[Path]:
    """Every image below a folder, as `list_folder` knows them, sorted by path."""
    return sorted(list_folder(folder).images)


def name_below(root: Path, path: Path) -> str:
    """A file's name as tables write it: its path below the root, with slashes and in the Unicode form NFC."""
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


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


def _typed(texts: Sequence[str], decimal_comma: bool) -> list[Attribute | None]:
    """A column's values: numbers where they are written as such, unless some, such as 007, show that they are names."""
    codes = any(map(_CODE.fullmatch, texts))

    def value(text: str) -> Attribute | None:
        number = text.replace(",", ".") if decimal_comma and text.count(",") == 1 else text
        return None if is_missing(text) else float(number) if _NUMBER.fullmatch(number) and not codes else text

    return list(map(value, texts))
