"""docs/kinds.md: a new kind of task is its folder and one line, and nothing else is touched."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import leanmed.tasks
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.errors import RecipeError
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.files import evaluate_answers
from leanmed.evaluation.runs import evaluate_run
from leanmed.exporting.export import export
from leanmed.report.report import write_report
from leanmed.runtime.batch import predict_file
from leanmed.runtime.predictor import load
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Kind
from leanmed.tasks.recipes import check_recipe
from leanmed.training.train import train

PAGE = Path(__file__).parents[2] / "docs" / "kinds.md"
RECIPE: dict[str, Any] = {
    "name": "spots",
    "task": "counting",
    "split": {"folds": 2, "validation": 0.25, "groups": "reader"},
    "model": {"weights": "none", "side": 32},
    "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "select_by": "within_one"},
    "evaluation": {"resamples": 100},
}


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """The kind of the page, its folder written below leanmed/tasks and its line added, while these tests run."""
    root = tmp_path_factory.mktemp("kind")
    blocks = re.findall(r"```python\n# (counting/\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == [f"counting/{n}.py" for n in ("answer", "settings", "training", "judge")]
    (root / "counting").mkdir()
    (root / "counting" / "__init__.py").touch()
    for name, code in blocks:
        (root / name).write_text(code, encoding="utf-8")
    leanmed.tasks.__path__.append(str(root))
    (line,) = re.findall(r"```python\n(TASKS\[.*)\n```", PAGE.read_text(encoding="utf-8"))
    exec(line, {"TASKS": TASKS, "Kind": Kind})
    yield TASKS["counting"]
    del TASKS["counting"]
    leanmed.tasks.__path__.remove(str(root))
    for name in [name for name in sys.modules if name.startswith("leanmed.tasks.counting")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight pictures with one, two or three bright spots; neighbours share a site."""
    root, rng = tmp_path_factory.mktemp("spots"), np.random.default_rng(0)
    rows = ["image,label,group,site"]
    for k in range(48):
        pixels = rng.integers(0, 30, (40, 50, 3)).astype(np.uint8)
        for spot in range(1 + k % 3):
            x, y = 6 + 14 * spot, int(rng.integers(5, 30))
            pixels[y : y + 6, x : x + 6] = 255
        Image.fromarray(pixels).save(root / f"{k:02}.png")
        rows.append(f"{k:02}.png,{1 + k % 3},p{k},{'AB'[k // 24]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def run(counting: Kind, spots: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    recipe = check_recipe(RECIPE, "a test")
    return train(recipe, spots, tmp_path_factory.mktemp("runs") / "run", tell=lambda line: None)


@pytest.fixture(scope="module")
def artifact(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "artifact"
    export(run, out, fold=0)
    return out


def test_a_run_is_trained_and_judged(run: Any, tmp_path: Path) -> None:
    report = evaluate_run(run)
    write_report(tmp_path, report)
    assert (report.main_score, report.figures["within_one"].n) == ("within_one", 48)
    assert report.remarks == ["48 images in 48 groups hold 96 spots."]
    assert "Mean absolute error" in (tmp_path / "report.html").read_text()
    assert [row.name for row in report.subgroups] == ["site", "site"]


def test_its_artifact_answers_without_a_word_of_it_in_the_runtime(artifact: Path, spots: Path, tmp_path: Path) -> None:
    files = sorted(spots.glob("*.png"))
    predict_file(load(artifact), files, tmp_path / "counts.csv", draw=tmp_path / "drawn")
    head, first, *_ = (tmp_path / "counts.csv").read_text().splitlines()
    assert head == "input,count,familiar,artifact,version,seconds,remark,error"
    assert float(first.split(",")[1]) == pytest.approx(load(artifact).predict(files[0]).count)
    assert len(list((tmp_path / "drawn").iterdir())) == 48
    card = (artifact / "CARD.md").read_text()
    assert "From one photograph of any size it counts each `spot`." in card
    assert "It was shown few spots: it cannot count hundreds." in card


def test_what_a_run_keeps_is_what_its_artifact_answers_and_what_evaluate_reads(
    run: Any, artifact: Path, spots: Path, tmp_path: Path
) -> None:
    kept = [json.loads(line) for line in run.answers(0, "test").read_text().splitlines()]
    predictor = load(artifact)
    for line in kept:
        assert line["count"] == pytest.approx(predictor.predict(spots / line["input"]).count, abs=1e-4)
    judged = evaluate_answers(run.answers(0, "test"), spots, groups="reader")
    assert judged.figures["within_one"].n == len(kept)
    new = evaluate_artifact(predictor, spots)
    assert new.figures["error"].value == pytest.approx(judged.figures["error"].value, abs=1e-4)


def test_it_is_compressed_like_any_other(artifact: Path, spots: Path, tmp_path: Path) -> None:
    options = Options(max_drop=0.5, min_agreement=0.5)
    outcome = quantize_artifact(artifact, "fp16", spots, tmp_path / "half", options, tell=lambda line: None)
    assert outcome.final.bytes < outcome.before_bytes
    assert load(tmp_path / "half").manifest.precision == "fp16"


def test_a_setting_it_would_ignore_is_refused(counting: Kind, refused: Any) -> None:
    with refused(RecipeError, "training.label_smoothing", "counting ignores it", "counts are no labels"):
        check_recipe({**RECIPE, "training": {"label_smoothing": 0.1}}, "a test")
    with refused(RecipeError, "detector", "counting ignores"):
        check_recipe({**RECIPE, "detector": {"crop": 64}}, "a test")


def test_its_modules_weigh_what_the_page_says(counting: Kind) -> None:
    modules: list[ModuleType] = [import_module(f"leanmed.tasks.counting.{n}") for n in ("answer", "settings", "judge")]
    assert not [module.__name__ for module in modules if "torch" in vars(module)]
