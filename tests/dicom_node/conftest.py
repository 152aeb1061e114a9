"""Artifacts of each kind and configurations, for the tests of the node."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_fixtures import WRITERS

from leanmed.dicom_node.answering import answer_series
from leanmed.dicom_node.config import Rule
from leanmed.dicom_node.inbox import Outcome, Series, Store
from leanmed.dicom_node.listen import silence_pynetdicom
from leanmed.runtime.predictor import Predictor, load

MEGABYTE = 10**6


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    silence_pynetdicom()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the made artifacts, by name."""
    root = tmp_path_factory.mktemp("artifacts")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="session")
def predictors(artifacts: dict[str, Path]) -> dict[str, Predictor]:
    return {name: load(path) for name, path in artifacts.items()}


@pytest.fixture
def inbox(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", 64 * MEGABYTE)


Answered = Callable[..., tuple[dict[str, bytes], Outcome]]


@pytest.fixture
def answered(inbox: Store, predictors: dict[str, Predictor]) -> Answered:
    """`answered(files, artifact="bright", answers=("seg",))`: the objects by name, and the outcome."""

    def answer(files: list[Path], **rule: Any) -> tuple[dict[str, bytes], Outcome]:
        (name,) = {inbox.put(file.read_bytes()).series for file in files}
        series = Series.at(inbox.root / "series" / name)
        return answer_series(series, [Rule(**({"modality": "CT"} | rule))], predictors, inbox.limits)

    return answer


@pytest.fixture(scope="module", autouse=True)
def sockets_are_closed() -> Iterator[None]:
    """Those that pynetdicom leaves to the garbage collector are collected here, and not in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
