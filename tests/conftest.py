"""Fixtures that several test files use. Their names are claims; those of the session are read-only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from artifact_fixtures import LABELS, manifest, mean_red_graph
from chromium import CHROMIUM, chromium
from leanmed import __version__
from leanmed.data import content_hashes, data_hash, read_records
from leanmed.data.splits import make_folds
from leanmed.files import write_json, write_text
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.recipe.recipe import Recipe, dump_recipe
from leanmed.records import Record
from leanmed.runs import FOLD, HISTORY, RECIPE, RUN, SPLITS, Run, write_csv
from leanmed.runtime.artifact import write_artifact
from leanmed.runtime.lines import line_of, write_lines
from leanmed.tasks.classification.answer import Prediction
from leanmed.tasks.recipes import check_recipe, open_run

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

Refused = Callable[..., AbstractContextManager[None]]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before any fixture of a test: its random weights are the same whichever tests ran in this process before."""
    torch.manual_seed(0)


@pytest.fixture
def refused() -> Refused:
    """`with refused(DataError, "word", ...)`: the error is one paragraph that holds every word."""

    @contextmanager
    def check(kind: type[Exception], *words: str) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert not [word for word in words if word not in message], message

    return check


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("cp-anemic")`: the folder of a real data set; the test is skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("LEANMED_DATA", beside))

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no {name} below {root}; set LEANMED_DATA")
        return root / name

    return folder


@pytest.fixture(scope="session")
def made_eyelids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 made eyelids with a strong signal, some copies, three sites: enough of each label for any split."""
    return PHANTOMS["eyelids"](
        tmp_path_factory.mktemp("data") / "eyelids", count=60, seed=5, signal=3.0, copies=0.15, side=96
    )


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve PNG files of different sizes; number k has red 20 * k everywhere."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"{k:02}.png" for k in range(12)]
    for k, path in enumerate(paths):
        Image.fromarray(np.full((10 + k, 30 - k, 3), (20 * k, 90, 80), np.uint8)).save(path)
    return paths


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny network of each kind of task, in whichever forms are asked for."""
    from grid_fixtures import Place  # its imports are heavy, and few need them

    return Place(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")  # while it is there an event loop runs, which tests elsewhere need for themselves
def browser() -> Iterator[Any]:
    """A real Chromium, where Debian's package is installed."""
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("needs the program chromium and the Python package playwright")
    with chromium() as found:
        yield found


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Path]:
    """`make_artifact(threshold=0.2)`: a new artifact whose probability of `anemic` is the mean red."""

    def make(name: str = "artifact", graph: bytes | None = None, **changes: Any) -> Path:
        made = manifest(**changes)
        graphs = {"model": graph or mean_red_graph(len(made.labels))}
        write_artifact(tmp_path / name, made, graphs, "# card\n", overwrite=True)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose probability of `anemic` is the mean red of the picture; its threshold is 0.5."""
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    write_artifact(path, manifest(), {"model": mean_red_graph()}, "# card\n")
    return path


@pytest.fixture
def own_artifact(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the tiny artifact to damage."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "own"))


@pytest.fixture(scope="session")
def finished_run(made_eyelids: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of two folds, as training leaves it but for the weights; its answers are planted.

    An image whose haemoglobin is h g/dL got probability of `anemic` 0.5 + (10.95 - h) / 20, which is right;
    every tenth image got 1 minus that, which is wrong.
    """
    split = {"folds": 2, "validation": 0.25}
    recipe = check_recipe(
        {"name": "made", "split": split, "data": {"labels": LABELS}, "evaluation": {"resamples": 100}},
        "a test",
    )
    path = tmp_path_factory.mktemp("run") / "run"
    _write_run(path, recipe, made_eyelids)
    return open_run(path)


def _answer(records: list[Record], i: int) -> dict[str, Any]:
    record, sign = records[i], -1 if i % 10 == 9 else 1
    p = 0.5 + sign * (10.95 - float(record.attributes["hb"])) / 20
    return line_of(record.id, Prediction(LABELS[int(p > 0.5)], dict(zip(LABELS, (1 - p, p), strict=True)), 0.5))


def _write_run(path: Path, recipe: Recipe, data: Path) -> None:
    records = read_records("folder", data)
    folds = make_folds(records, recipe.split)
    parts = {f.number: {i: name for name, where in f.parts().items() for i in where.tolist()} for f in folds}
    for fold in folds:
        for part in ("validation", "test"):
            lines = [_answer(records, i) for i in fold.parts()[part].tolist()]
            write_lines(Run(path, recipe, {}).answers(fold.number, part), lines)
        losses = [{"epoch": e, "train_loss": 0.6, "val_loss": 0.7, "val_f1": 0.8 + e / 10} for e in range(2)]
        facts = {"fold": fold.number, "best_epoch": 1, "validation": {"auc": 0.8 + fold.number / 10}}
        facts["manifest"] = manifest().model_dump(include={"labels", "threshold", "temperature", "main_score"})
        write_csv(path / f"fold-{fold.number}" / HISTORY, losses)
        write_json(path / f"fold-{fold.number}" / FOLD, facts)
    write_csv(
        path / SPLITS,
        [
            {"image": r.id, "label": r.target, "group": r.group} | {f"fold_{k}": parts[k][i] for k in parts}
            for i, r in enumerate(records)
        ],
    )
    write_text(path / RECIPE, dump_recipe(recipe))
    about = {"protocol": "grouped", "leak": None, "labels": LABELS, "folds": len(folds), "data": str(data)}
    about["grouping"] = ["60 images; groups: a test's."]
    about |= {
        "data_sha256": data_hash(records, content_hashes(records)),
        "leanmed": __version__,
        "packages": {},
    }
    write_json(path / RUN, about)
