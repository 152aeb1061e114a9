"""docs/adding-a-technique.md: a new precision is one module, its test and one line, and nothing else is touched."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_artifacts import write_selected

import leanmed.compress
from leanmed.cli import main
from leanmed.compress.precisions import PRECISIONS, Stored
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import load

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-technique.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's module written below leanmed/compress and its line added, while these tests run; the page's test."""
    root = tmp_path_factory.mktemp("technique")
    blocks = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    assert list(blocks) == ["compress/bf16.py", "test_bf16.py"]
    (root / "bf16.py").write_text(blocks["compress/bf16.py"], encoding="utf-8")
    (root / "test_bf16.py").write_text(blocks["test_bf16.py"], encoding="utf-8")
    leanmed.compress.__path__.append(str(root))
    (lines,) = re.findall(r"```python\n(from [^`]*\nPRECISIONS\[[^`]*)```", PAGE.read_text(encoding="utf-8"))
    exec(lines, {"PRECISIONS": PRECISIONS, "Stored": Stored})
    yield root / "test_bf16.py"
    del PRECISIONS["bf16"]
    leanmed.compress.__path__.remove(str(root))
    del sys.modules["leanmed.compress.bf16"]


def test_the_pages_own_tests_pass(page: Path) -> None:
    content: dict[str, object] = {}
    exec(compile(page.read_text(encoding="utf-8"), page, "exec"), content)
    tests = [test for name, test in content.items() if name.startswith("test_") and callable(test)]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_commands_know_it(
    page: Path, made_eyelids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("leanmed.compress.bf16.FLOOR", 200)  # of a network this small, no weight has more
    source = write_selected(tmp_path / "artifact", made_eyelids)
    words = ["quantize", source, "--to", "bf16", "--data", made_eyelids, "--out", tmp_path / "small"]
    monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, words), "--min-agreement", "0", "--max-drop", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    small = read_artifact(tmp_path / "small")
    assert (small.manifest.precision, small.manifest.quantization["techniques"]) == ("bf16", ["bf16"])
    assert small.manifest.bytes < read_artifact(source).manifest.bytes
    assert load(tmp_path / "small").predict(made_eyelids / "images" / "00000.png").label in small.manifest.labels
    assert "BF16: " in (tmp_path / "small-report" / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()


def test_an_unknown_one_is_told_of_it(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", tmp_path, "--to", "int2", "--data", tmp_path, "--out", tmp_path / "small"]
    monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, words)])
    with pytest.raises(SystemExit):
        main()
    assert "one of fp16, w8, int8, int4, bf16, got 'int2'" in " ".join(capsys.readouterr().err.split())
