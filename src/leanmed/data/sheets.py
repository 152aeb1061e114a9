"""Tables as people have them: text with commas, semicolons or tabs, in spreadsheets' encodings, or Excel's own.

Nothing here knows what a column means; `leanmed.data.tables` does.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from leanmed.errors import DataError, MissingExtraError

ENDINGS = (".csv", ".tsv", ".xlsx")
EXCEL = ".xlsx"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MOST_BYTES = 2**26  # of a table
MOST_UNPACKED = 2**28  # bytes of an Excel file once it is unpacked
MOST_FIELDS = 10_000_000  # of a table
MOST_ROWS = 2**20  # of a sheet, by Excel's own limit
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LOOKED_AT = 1024  # bytes, to tell UTF-16 without a byte-order mark
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError),
    *(EOFError, RuntimeError),
)
_SAID = re.compile(r"\"?sep=(.)\"?\r?\n?")  # what Excel writes into a first line of its own


@dataclass(frozen=True)
class Sheet:
    """A table as it is written.

    Args:
        path: of the file.
        names: of the columns, from the first line.
        lines: the number of each further line that is not empty, as an editor counts it, with its fields.
        how: what the file turned out to be, in words.
        decimal_comma: numbers may have a comma, since commas do not separate fields.
    """

    path: Path
    names: list[str]
    lines: list[tuple[int, list[str]]]
    how: str
    decimal_comma: bool


def find_table(folder: Path, name: str) -> Path | None:
    """The table of a name in a folder, in any form: `Labels.xlsx` for `labels.csv`; None: there is none.

    Raises:
        DataError: there are several, of which none has exactly this name.
    """
    if not folder.is_dir():
        return None
    found = sorted(
        path
        for path in folder.iterdir()
        if path.stem.casefold() == Path(name).stem and path.suffix.casefold() in ENDINGS and path.is_file()
    )
    exact = [path for path in found if path.name == name]
    if len(found) > 1 and not exact:
        raise DataError(
            f"{folder}: expected one table {Path(name).stem}, got {', '.join(path.name for path in found)}; move the "
            "others away"
        )
    return next(iter(exact or found), None)


def read_sheet(path: Path) -> Sheet:
    """Read a table, whatever separates its fields and however it is encoded.

    Blanks around names and values do not count, nor does a byte-order mark. Values are in the Unicode form NFC, as the
    names of files that `name_below` gives.

    Raises:
        DataError: it is not there, too large, no table, or quotes that are never closed.
        MissingExtraError: an Excel file without openpyxl.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path}: expected a table of at most {MOST_BYTES:,} bytes, got {size:,}; split it")
        if path.suffix.casefold() == EXCEL:
            return _excel(path)
        return _text(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a table there, got: {error.strerror or error}; put it there") from error


def _text(path: Path, content: bytes) -> Sheet:
    text, encoding = _decoded(path, content)
    start = 1
    separator = ""
    if said := _SAID.match(text):
        separator, text, start = said[1], text[said.end() :], 2
    try:
        separator = separator or _separator(text)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = _clean(next(lines, []))
        rows = list(_bounded(path, ((lines.line_num + start - 1, line) for line in lines)))
    except csv.Error as error:
        raise DataError(
            f"{path}: expected a table with {SEPARATORS.get(separator, separator)} between its fields, got: {error}; "
            "look for a quotation mark that is not closed, or save it again"
        ) from error
    how = f"text in {encoding} with {SEPARATORS.get(separator, repr(separator))} between its fields"
    return Sheet(path, names, rows, how, decimal_comma=separator != ",")


def _decoded(path: Path, content: bytes) -> tuple[str, str]:
    """A file's text, and the encoding that it is in."""
    encoding = next((name for bom, name in BOMS.items() if content.startswith(bom)), None)
    if encoding is None and (zeros := content[:LOOKED_AT].count(0)) * 4 > len(content[:LOOKED_AT]):
        encoding = "utf-16-be" if content[:LOOKED_AT:2].count(0) * 2 > zeros else "utf-16-le"
    try:
        if encoding:
            return content.decode(encoding), "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        if 0 in content:
            raise DataError(f"{path}: expected a table as text, got a file of another kind; save it as CSV UTF-8")
        return content.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        if encoding:
            raise DataError(f"{path}: expected text in {encoding}, got: {error}; save it as CSV UTF-8") from error
    try:
        return content.decode("cp1252"), "Windows-1252 (Latin-1)"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "Latin-1"


def _bounded(path: Path, lines: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Lines with something in them, cleaned.

    Raises:
        DataError: they hold more fields than a table of images needs.
    """
    held = 0
    for number, line in lines:
        held += len(line) + 1
        if held > MOST_FIELDS:
            raise DataError(f"{path}: expected a table of at most {MOST_FIELDS:,} fields, got more; split it")
        if any(field.strip() for field in line):  # a spreadsheet may end in rows of separators alone
            yield number, _clean(line)


def _separator(text: str) -> str:
    """That by which the first two lines have as many fields, and most; else most of the first; else a comma."""

    def fields(separator: str) -> tuple[bool, int]:
        lines = (line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if line)
        first, second = (len(line) for line in (next(lines, []), next(lines, [])))
        return first > 1 and second in (0, first), first

    return max(SEPARATORS, key=fields)


def _excel(path: Path) -> Sheet:
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading {path.name}", "excel") from error
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
        if unpacked > MOST_UNPACKED:
            raise DataError(
                f"{path}: expected a table of at most {MOST_UNPACKED:,} bytes unpacked, got {unpacked:,}; split it"
            )
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what the file says of its size may be wrong
        rows = list(_bounded(path, _cells(path, sheet)))
        others = len(book.worksheets) - 1
        title = sheet.title
        book.close()
    except DAMAGED as error:
        raise DataError(
            f"{path}: expected an Excel workbook, got: {type(error).__name__}: {error}; save it again as .xlsx or as "
            "CSV UTF-8"
        ) from error
    names = rows[0][1] if rows else []
    filled = [(number, fields + [""] * (len(names) - len(fields))) for number, fields in rows[1:]]
    aside = f" (its first sheet, {title}; {others} more passed over)" if others else ""
    return Sheet(path, names, filled, f"Excel{aside}", False)


def _cells(path: Path, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Each row's number and its cells up to the last that holds something."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if number > MOST_ROWS:
            raise DataError(f"{path}: expected a sheet of at most {MOST_ROWS:,} rows, got more; split it")
        last = next((place for place in reversed(range(len(cells))) if _written(cells[place]).strip()), -1)
        yield number, [_written(cell) for cell in cells[: last + 1]]


def _written(cell: Any) -> str:
    """A cell's value as one would type it: 7 and not 7.0, dates as 2024-05-31."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime) and (cell.hour, cell.minute, cell.second) == (0, 0, 0):
        return cell.date().isoformat()
    if isinstance(cell, date):
        return cell.isoformat(*(" ",) if isinstance(cell, datetime) else ())
    return str(cell)


def _clean(fields: list[str]) -> list[str]:
    return [unicodedata.normalize("NFC", field.strip()) for field in fields]
