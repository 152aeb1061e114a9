"""What the README tells a newcomer to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from leanmed.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
BLOCKS = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
LINES = sorted(set(re.findall(r"^leanmed .*?(?=\s+#|$)", BLOCKS, re.MULTILINE)))


def test_there_are_commands_to_check() -> None:
    assert len(LINES) >= 5


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_readme_parses(line: str) -> None:
    _, verb, *rest = shlex.split(line)

    context = COMMANDS[verb].make_context(verb, rest, resilient_parsing=False)

    assert context.params


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", BLOCKS, re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).is_file()


def test_the_python_of_the_readme_runs(
    tiny_artifact: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("artifact").symlink_to(tiny_artifact)
    Path("photo.jpg").symlink_to(photographs[3])

    exec(code, {})

    assert re.fullmatch(r"\S+ 0\.\d+\n", capsys.readouterr().out)
