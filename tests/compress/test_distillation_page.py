"""What docs/distillation.md tells a reader to type is understood, and its figures are those measured."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from leanmed.cli import app
from leanmed.recipe.recipe import Distillation
from leanmed.tasks.recipes import load_recipe

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "distillation.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
BLOCKS = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
LINES = re.findall(r"^leanmed .*$", BLOCKS, re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_is_understood(line: str) -> None:
    _, verb, *rest = shlex.split(line)
    context = COMMANDS[verb].make_context(verb, rest, resilient_parsing=False)
    if verb == "train":
        load_recipe(context.params["recipe"], context.params["settings"])
    assert context.params


def test_the_page_has_commands_and_every_term() -> None:
    assert len(LINES) == 4
    weights = [name for name in Distillation.model_fields if re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE)]
    assert weights == ["affinity", "kernel", "logits", "soft_targets", "attention", "emkd", "mskd"]


def test_the_table_of_memory_and_time_is_what_was_measured() -> None:
    measured = json.loads((DOCS / "results" / "distillation_terms.json").read_text())["terms"]
    rows = re.findall(r"^\| `(.*?)` \| ([\d.]+) \| ([\d.]+) \|$", PAGE.replace("\\|", "|"), re.MULTILINE)
    assert {name: (float(kept), float(seconds)) for name, kept, seconds in rows} == {
        name: (own["kept_mib"], own["cpu_s"]) for name, own in measured.items()
    }
