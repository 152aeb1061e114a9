"""Templates to pages."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from leanmed.figures.bootstrap import Figure
from leanmed.report import pages
from leanmed.report.pages import NOTICE, interval, number, render_page


def rendered(monkeypatch: pytest.MonkeyPatch, folder: Path, template: str, **content: object) -> str:
    monkeypatch.setattr(pages, "TEMPLATES", folder)
    (folder / "page.html").write_text(template, encoding="utf-8")
    return render_page("page.html", **content)


def test_values_are_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = rendered(monkeypatch, tmp_path, "<p>{{ name }}</p>", name="<script>&")
    assert page == "<p>&lt;script&gt;&amp;</p>"


def test_a_value_that_is_not_given_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="absent"):
        rendered(monkeypatch, tmp_path, "{{ absent }}")


def test_every_page_can_say_what_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rendered(monkeypatch, tmp_path, "{{ notice }}") == NOTICE


def test_names_that_are_no_utf_8_are_shown_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rendered(monkeypatch, tmp_path, "{{ name }}", name="a\udcff.png") == "a\\udcff.png"
    assert rendered(monkeypatch, tmp_path, "{{ svg | base64 }}", svg="ab") == "YWI="


def test_numbers_and_intervals_are_written_with_dashes_for_the_undefined() -> None:
    assert [number(0.12345), number(-0.0004), number(-2.5, 1), number(math.nan), number(None)] == [
        "0.123",
        "0.000",
        "−2.5",
        "–",
        "–",
    ]
    assert interval(Figure(0.5, 0.25, 0.75, 9), 2) == "0.25 to 0.75"
    assert interval(Figure(0.5, math.nan, math.nan, 9)) == "–"
