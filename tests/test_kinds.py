"""A kind of task is a folder and a line: nothing else in the package knows which kinds there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import leanmed
from leanmed.cli import app
from leanmed.tasks import TASKS

PACKAGE = Path(leanmed.__file__).parent
AT_HOME = ("tasks", "papers", "recipe/recipes")  # a shipped recipe names its kind
THEIRS = {("dicom_node/objects.py", "Segmentation")}  # highdicom's class of DICOM's SEG, which no kind is asked for
# Networks, files and made data are called by the field's words, and none of these rooms is given a kind.
BELOW = ("models", "data", "reading", "phantoms")


def words_of(path: Path) -> Iterator[str]:
    """Every name and text in a module, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        for field in ("id", "attr", "name", "module", "arg", "asname"):
            if isinstance(word := getattr(node, field, None), str):
                yield word


@pytest.mark.parametrize("name", TASKS)
def test_no_kind_is_named_outside_its_folder_and_the_papers(name: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in PACKAGE.rglob("*.py")
        if not path.relative_to(PACKAGE).as_posix().startswith((*AT_HOME, *BELOW))
        for word in words_of(path)
        if re.search(rf"\b{name}\b", word.replace("_", " "), re.IGNORECASE)
        and (path.relative_to(PACKAGE).as_posix(), word) not in THEIRS
    ]
    files = (path for end in ("html", "js", "css", "json") for path in PACKAGE.rglob(f"*.{end}"))
    pages = [
        page.name
        for page in files
        if not page.relative_to(PACKAGE).as_posix().startswith(AT_HOME) and name in page.read_text("utf-8").lower()
    ]
    assert found + pages == []


def test_words_are_found_wherever_a_module_could_branch_on_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '"""no detection here"""\nfrom x import detection as d\nif kind == "detection": f(detection=1)\nx.detection\n'
    )
    assert [word for word in words_of(tmp_path / "a.py") if word == "detection"] == ["detection"] * 4


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_is_a_folder_with_a_module_for_each_weight_of_import(name: str) -> None:
    folder = PACKAGE / "tasks" / name
    assert {f"{part}.py" for part in ("answer", "judge", "training", "settings")} <= {p.name for p in folder.iterdir()}
    assert TASKS[name].package == f"leanmed.tasks.{name}"


def test_kinds_are_told_apart_by_their_lines_and_their_sections() -> None:
    lines = {
        "classification": {"probabilities": {}},
        "detection": {"boxes": [], "scores": []},
        "segmentation": {"mask": ""},
        "prompted": {"mask": "", "pointed": []},
    }
    assert set(lines) == set(TASKS)
    for name, line in lines.items():
        assert [other for other, kind in TASKS.items() if kind.answer.is_answer(line)] == [name]


@pytest.mark.parametrize("name", TASKS)
def test_the_help_of_quantize_tells_what_each_kind_takes_if_nothing_is_given(name: str) -> None:
    judge = TASKS[name].judge
    options = typer.main.get_command(app).commands["quantize"].params  # type: ignore[attr-defined]
    told = {option.name: option.help for option in options}
    assert f"{judge.MAX_DROP:g} for" in told["max_drop"]
    assert re.search(rf"\b{judge.CALIBRATION}\b", told["calibration"])
