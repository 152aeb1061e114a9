"""Tables in the forms in which people have them."""

from __future__ import annotations

import io
import sys
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from leanmed.data import read_records, sheets
from leanmed.data.sheets import find_table, read_sheet
from leanmed.errors import DataError, MissingExtraError

openpyxl = pytest.importorskip("openpyxl")

NAMES = ["File Name", "Diagnosis", "Ort"]
LINES = [["a.png", "gutartig", "Köln"], ["b.png", "bösartig", "x; y, z\tw"]]


def text(separator: str) -> str:
    rows = [NAMES, *([f'"{field}"' for field in line] for line in LINES)]
    return "".join(separator.join(row) + "\r\n" for row in rows)


@pytest.mark.parametrize(("separator", "said"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("latin-1", "Windows-1252 (Latin-1)"),
    ],
)
def test_a_table_is_the_same_however_it_is_written(
    separator: str, said: str, encoding: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text(separator).encode(encoding))
    found = read_sheet(path)
    assert found.names == NAMES
    assert [fields for _, fields in found.lines] == LINES
    assert [number for number, _ in found.lines] == [2, 3]
    assert found.how == f"text in {named} with {said} between its fields"
    assert found.decimal_comma == (separator != ",")


def test_what_excel_says_of_the_separator_is_no_line_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("sep=|\nimage|label\na.png|x\n")
    found = read_sheet(path)
    assert (found.names, found.lines) == (["image", "label"], [(3, ["a.png", "x"])])
    assert found.how == "text in UTF-8 with '|' between its fields"


def test_a_table_of_one_column_needs_no_separator(tmp_path: Path) -> None:
    path = tmp_path / "side.csv"
    path.write_text("image\na.png\n")
    assert read_sheet(path).lines == [(2, ["a.png"])]


def test_windows_quotes_and_bytes_that_mean_nothing_there_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"image,label\na.png,\x93x\x94\n")
    assert read_sheet(path).lines[0][1][1] == "“x”"
    path.write_bytes(b"image,label\na.png,\x81\xe4\n")
    assert read_sheet(path).how.startswith("text in Latin-1 ")


def test_a_decimal_comma_is_a_number_where_commas_do_not_separate(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "labels.csv").write_text("image;label;size;names\na.png;x;3,5;1,2,3\nb.png;y;12;4\n")
    found = read_records("folder", tmp_path)
    assert [record.attributes["size"] for record in found] == [3.5, 12.0]
    assert found[0].attributes["names"] == "1,2,3"


def book(path: Path, rows: list[list[Any]], *more: str) -> Path:
    made = openpyxl.Workbook()
    made.active.title = "Patients"
    for row in rows:
        made.active.append(row)
    for title in more:
        made.create_sheet(title)
    made.save(path)
    return path


def test_excel_is_read_as_one_would_type_it(tmp_path: Path) -> None:
    rows = [
        [" image ", "label", "age", "seen", "at", "smokes", "code"],
        ["a.png", "x", 61.0, date(2024, 5, 31), datetime(2024, 5, 31, 12, 30), True, "007"],
        [None, None, None, None, None, None, None],
        ["b.png", 2, 6.5, None, None, False, "008", None],
    ]
    found = read_sheet(book(tmp_path / "Labels.XLSX", rows, "notes"))
    assert found.names == ["image", "label", "age", "seen", "at", "smokes", "code"]
    assert found.lines == [
        (2, ["a.png", "x", "61", "2024-05-31", "2024-05-31 12:30:00", "true", "007"]),
        (4, ["b.png", "2", "6.5", "", "", "false", "008"]),
    ]
    assert found.how == "Excel (its first sheet, Patients; 1 more passed over)"


def test_a_folder_with_a_table_in_excel_is_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text(name)
    book(tmp_path / "Labels.xlsx", [["File Name", "Class", "Patient ID"], ["a.png", "x", 1], ["b.png", "y", 2]])
    found = read_records("folder", tmp_path, strict=True)
    assert [(record.id, record.target, record.group) for record in found] == [("a.png", "x", "1"), ("b.png", "y", "2")]
    assert found.notes[0] == (
        "Labels.xlsx is read as Excel: 2 row(s), the image from `File Name`, the label from `Class`."
    )


def test_excel_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = book(tmp_path / "labels.xlsx", [["image", "label"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"reading labels.xlsx needs .*leanmed\[excel\]"):
        read_sheet(path)


def test_what_only_seems_to_be_excel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(b"image,label\n")
    with pytest.raises(DataError, match=r"expected an Excel workbook, got: BadZipFile"):
        read_sheet(path)
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("readme.txt", "no workbook")
    with pytest.raises(DataError, match=r"expected an Excel workbook, got"):
        read_sheet(path)


def test_a_workbook_that_unpacks_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = book(tmp_path / "labels.xlsx", [["image", "label"]])
    monkeypatch.setattr(sheets, "MOST_UNPACKED", 10_000)
    inside = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(inside, "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/zeros", b"0" * 10_000)
    path.write_bytes(inside.getvalue())
    with pytest.raises(DataError, match=r"at most 10,000 bytes"):
        read_sheet(path)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"image,label\n\x00\x89PNG" + b"x" * 100)
    with pytest.raises(DataError, match=r"expected a table as text, got a file of another kind"):
        read_sheet(path)
    monkeypatch.setattr(sheets, "MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"at most 100 bytes, got 117; split it"):
        read_sheet(path)


def test_a_separator_inside_of_a_title_is_none(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('image,label,"symptoms (1; none; 2; fever; 3; cough)"\na.png,x,2\n')
    assert read_sheet(path).names == ["image", "label", "symptoms (1; none; 2; fever; 3; cough)"]


def test_a_field_that_is_too_long_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"image,{'x' * 200_000}\n")
    with pytest.raises(DataError, match=r"field larger than field limit"):
        read_sheet(path)


def test_a_table_of_endless_fields_or_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_FIELDS", 100)
    (tmp_path / "labels.csv").write_text("image;label\n" + ";\n" * 100)
    with pytest.raises(DataError, match=r"at most 100 fields, got more; split it"):
        read_sheet(tmp_path / "labels.csv")
    wide = book(tmp_path / "labels.xlsx", [["image", "label"], ["a.png", "x"], [*[None] * 120, "far away"]])
    with pytest.raises(DataError, match=r"at most 100 fields, got more; split it"):
        read_sheet(wide)
    monkeypatch.setattr(sheets, "MOST_ROWS", 2)
    with pytest.raises(DataError, match=r"at most 2 rows, got more"):
        read_sheet(book(tmp_path / "labels.xlsx", [["image", "label"]] * 3))


def test_rows_beyond_the_size_that_a_workbook_states_are_read(tmp_path: Path) -> None:
    path = book(tmp_path / "labels.xlsx", [["image", "label"], ["a.png", "x"], ["b.png", "y"]])
    with zipfile.ZipFile(path) as parts:
        content = {name: parts.read(name) for name in parts.namelist()}
    sheet = content["xl/worksheets/sheet1.xml"]
    assert b'ref="A1:B3"' in sheet
    content["xl/worksheets/sheet1.xml"] = sheet.replace(b'ref="A1:B3"', b'ref="A1:A2"')
    with zipfile.ZipFile(path, "w") as parts:
        for name, inside in content.items():
            parts.writestr(name, inside)
    assert [fields for _, fields in read_sheet(path).lines] == [["a.png", "x"], ["b.png", "y"]]


def test_utf_16_that_ends_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("image,label\n".encode("utf-16") + b"a")
    with pytest.raises(DataError, match=r"expected text in utf-16, got"):
        read_sheet(path)


def test_of_two_tables_none_is_guessed(tmp_path: Path) -> None:
    assert find_table(tmp_path, "labels.csv") is None
    (tmp_path / "Labels.CSV").write_text("image,label\n")
    assert find_table(tmp_path, "labels.csv") == tmp_path / "Labels.CSV"
    (tmp_path / "labels.xlsx").write_text("")
    (tmp_path / "labels.csv").write_text("image,label\n")
    assert find_table(tmp_path, "labels.csv") == tmp_path / "labels.csv"  # exactly that name, beside what it came from
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(
        DataError, match=r"expected one table labels, got Labels.CSV, labels.xlsx; move the others away"
    ):
        find_table(tmp_path, "labels.csv")


def test_rows_of_separators_alone_are_no_rows(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("image;label\na.png;yes\n;\nb.png;no\n ; \n;\n")
    assert [line for _, line in read_sheet(path).lines] == [["a.png", "yes"], ["b.png", "no"]]
