"""docs/grid.md shows what docs/results/grid.json holds, and what it claims of INT8 is true there."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "grid.md").read_text(encoding="utf-8")
MEASURED = json.loads((ROOT / "docs" / "results" / "grid.json").read_text(encoding="utf-8"))["tasks"]


def rows_of(content: dict[str, Any]) -> str:
    spec = importlib.util.spec_from_file_location("measure_grid", ROOT / "scripts" / "measure_grid.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return str(script.rows_of(content))


@pytest.mark.parametrize("kind", MEASURED)
def test_the_tables_are_what_was_measured(kind: str) -> None:
    assert rows_of(MEASURED[kind]) in PAGE


ROWS = {"detection": "Boxes", "segmentation": "Masks: ", "prompted": "Masks by a point", "classification": "Labels"}


@pytest.mark.parametrize("kind", MEASURED)
def test_the_first_table_of_the_readme_is_what_was_measured(kind: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {ROWS[kind]}.*\|$", readme, re.MULTILINE)
    made = {one["name"]: one for one in MEASURED[kind]["artifacts"]}
    whole, eight, four = (made[f"plain-{to}"] for to in ("fp32", "int8", "int4"))
    change = eight["change"][MEASURED[kind]["main_score"]]
    cells = [
        f"{whole['bytes'] / 1e6:.1f}",
        f"{eight['bytes'] / whole['bytes']:.2f}x",
        f"{whole['milliseconds']['1'] / eight['milliseconds']['1']:.1f}x",
        f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})",
        f"{four['bytes'] / whole['bytes']:.2f}x",
    ]
    assert " | ".join(cells) in row


def test_every_kind_of_task_has_its_table() -> None:
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) >= len(MEASURED) == 4


@pytest.mark.parametrize("kind", MEASURED)
def test_int8_of_the_plain_model_loses_less_than_a_point(kind: str) -> None:
    content = MEASURED[kind]
    row = next(row for row in content["artifacts"] if row["name"] == "plain-int8")
    assert row["change"][content["main_score"]]["value"] > -0.01


def test_the_answer_on_the_page_of_the_search_is_the_one_that_was_given() -> None:
    page = (ROOT / "docs" / "compress.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- answer -->\n(.*?)<!-- end -->", page, re.DOTALL)
    words = " ".join(re.sub(r"^> ", "", shown, flags=re.MULTILINE).split())
    for name in ("compress_anemia", "compress_colours", "compress_missed"):
        report = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert " ".join(report["answer"].split()) in words
