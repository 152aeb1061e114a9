from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from leanmed import demo
from leanmed.config import load_recipe
from leanmed.demo import run_demo
from leanmed.errors import DataError

Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and epochs; every step is taken."""
    monkeypatch.setattr(demo, "COUNT", 60)
    few = ["training.epochs=1", "split.folds=2", "split.validation=0.25", "model.side=32"]
    monkeypatch.setattr(demo, "load_recipe", lambda name: load_recipe(name, few))


@pytest.mark.usefixtures("short")
def test_the_demo_leaves_what_the_readme_promises(tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "leanmed-demo"

    run_demo(out, tell=lambda line: None)

    for name in ("report/report.html", "report/report.json", "artifact/leanmed.json", "artifact/CARD.md"):
        assert (out / name).is_file(), name
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 60
    assert all(0 <= line["probability"] <= 1 for line in lines)
    assert all(Path(line["input"]).is_file() for line in lines)
    with refused(DataError, "--overwrite"):
        run_demo(out, tell=lambda line: None)


def test_the_demo_replaces_nothing_but_a_demo(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with refused(DataError, "holds something"):
        run_demo(tmp_path, overwrite=True, tell=lambda line: None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
