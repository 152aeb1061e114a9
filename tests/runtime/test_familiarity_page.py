"""What docs/familiarity.md tells a reader to type is understood, its Python runs, and its figures are measured ones."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from test_familiar_answers import ABOUT, green_graph

from leanmed.cli import app
from leanmed.figures.familiarity import LEAST_IMAGES, UNFAMILIAR
from leanmed.models.familiarity import COMPONENTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "familiarity.md").read_text(encoding="utf-8")
MEASURED = json.loads((DOCS / "results" / "familiarity.json").read_text(encoding="utf-8"))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
LINES = re.findall(r"^leanmed .*$", "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_is_understood(line: str) -> None:
    _, verb, *rest = shlex.split(line)
    assert COMMANDS[verb].make_context(verb, rest).params


def test_the_python_of_the_page_runs_and_tells_of_an_unfamiliar_image(
    make_artifact: Callable[..., Path],
    photographs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    make_artifact("artifact", green_graph(times=1e-9), familiar=ABOUT)
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").symlink_to(photographs[3])
    exec(code, {})
    assert capsys.readouterr().out == "unlike the training images\n"


def test_the_tables_are_what_was_measured() -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)]
    table = {row[0]: row[1:] for row in rows}
    models = list(MEASURED["artifacts"].values())
    own = table["**own test images, wrongly suspected**"]
    for cell, found in zip(own, models, strict=True):
        assert cell.startswith(f"{found['suspected']['value']:.3f} ")
    kinds = {kind for found in models for kind in found["found"]}
    for kind in kinds:
        wanted = [
            f"{found['found'][kind]['value']:.3f}, {found['auroc'][kind]['value']:.3f}"
            if kind in found["found"]
            else ""
            for found in models
        ]
        assert table[f"{kind}: found, and AUROC"] == wanted
    for choice, found in MEASURED["choices"]["breast"].items():
        worst = min(one["value"] for one in found["found"].values())
        assert table[choice][0] == f"{found['suspected']['value']:.3f}"
        assert table[choice][1].startswith(f"{worst:.3f}")


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"Below {UNFAMILIAR} there is a `remark`" in PAGE
    assert f"at most {COMPONENTS} principal components" in PAGE
    assert f"fewer than {LEAST_IMAGES} validation images" in PAGE
    assert MEASURED["threshold"] == UNFAMILIAR
