"""docs/explanations.md: its commands are understood, its code runs, and its figures are those measured."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from PIL import Image

from explained_fixtures import bright_square, square_graph
from leanmed.cli import EXPLAIN_MASKS, EXPLAIN_MOST, app
from leanmed.runtime.explain import BEHIND, CELLS, MASK_CELLS, MASKS, SLIGHT

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanations.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_its_commands_are_understood() -> None:
    lines = re.findall(r"^leanmed .*$", "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE)
    for _, verb, *rest in map(shlex.split, lines):
        assert COMMANDS[verb].make_context(verb, rest).params["explain"]
    assert len(lines) == 1


def test_its_python_runs(make_artifact, tmp_path, monkeypatch, capsys) -> None:
    make_artifact(graph=square_graph())
    Image.fromarray(bright_square()).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, scope)
    name, shape, gone, back = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Probability of anemic 0\.99\d*|Probability of anemic 1\.0", name)
    assert shape == "(96, 128)"
    own, chance = map(float, gone.split())
    assert own < chance
    own, chance = map(float, back.split())
    assert own > chance


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"takes {MASKS + 2} more predictions" in PAGE
    assert f"with {(CELLS + 1) ** 2 + 2} predictions at most" in PAGE
    assert f"the first {EXPLAIN_MOST} images" in PAGE
    assert f"each of {EXPLAIN_MASKS} masks" in PAGE
    assert f"it by {SLIGHT:g} or more" in PAGE
    assert (CELLS, MASK_CELLS, BEHIND, EXPLAIN_MASKS) == (6, 8, 3, MASKS), "the page says six, eight and a third"


@pytest.mark.parametrize("part", ["all", "answered malignant"])
def test_its_tables_are_what_was_measured(part: str) -> None:
    measured = json.loads((DOCS / "results" / "explanations.json").read_text())[part]
    table = PAGE.split(f"<!-- {part} -->\n")[1].split("\n\n")[0]
    rows = {row[0]: row[1:] for row in re.findall(r"^\| ([^|]+?) \| (.*) \|$", table, re.MULTILINE)}
    names = ("deletion", "insertion", "share in the tumour", "peak in the tumour")
    found = {**measured["methods"], "chance": measured["by chance"]}
    assert set(rows) == set(found)
    for name, (cells,) in rows.items():
        values = [float(cell.split(" ")[0]) for cell in cells.split(" | ")[1:]]
        assert values == [pytest.approx(found[name][key]["value"], abs=0.00051) for key in names]
