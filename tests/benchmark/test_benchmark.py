from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detection_fixtures import constant_graph
from leanmed.benchmark import benchmark as module
from leanmed.benchmark.benchmark import benchmark, growing_chunks, interleaved, table
from leanmed.benchmark.peer import Peer
from leanmed.exporting.export import export
from leanmed.manifest import Input
from leanmed.reading.images import read_image
from leanmed.runs import Run
from leanmed.runtime.predictor import load
from training_fixtures import made_data, trained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted((made_data(tmp_path_factory.getbasetemp()) / "images").iterdir())


@pytest.fixture(scope="module")
def artifact(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "artifact"
    export(run, path, fold=0)
    return path


def test_the_peer_gives_the_artifact_s_answers(run: Run, artifact: Path, images: list[Path]) -> None:
    """The comparison is of the same computation: torchvision's resize and eager PyTorch agree with the graph."""
    peer, predictor = Peer(run.path, 0), load(artifact)

    for path in images[:5]:
        ours = predictor.outputs(read_image(path))[0]
        np.testing.assert_allclose(peer.predict(path), ours, atol=1e-4)


def test_actions_are_taken_in_turn_and_ratios_are_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times by a made clock: two rounds to warm up, of which nothing is kept, and three that count."""
    took = {"quick": [900, 900, 10, 20, 12], "slow": [900, 900, 30, 33, 60]}
    order: list[str] = []
    clock = 0.0

    def action(name: str) -> None:
        nonlocal clock
        clock += took[name][order.count(name)] / 1e3
        order.append(name)

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    found = interleaved({"quick": lambda: action("quick"), "slow": lambda: action("slow")}, repeats=3)

    assert order == ["quick", "slow"] * 5
    assert found == {
        "quick": {"median_ms": 12.0, "min_ms": 10.0, "max_ms": 20.0, "times_the_first": 1.0, "rounds": 3},
        "slow": {"median_ms": 33.0, "min_ms": 30.0, "max_ms": 60.0, "times_the_first": 2.75, "rounds": 3},
    }


@pytest.mark.parametrize(("each", "warmed", "kept"), [(1.0, 2, 8), (4.0, 2, 3), (99.0, 1, 3)])
def test_rounds_end_with_the_time_but_three_are_made(
    each: float, warmed: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a made clock, within 10 s: of rounds of 1 s ten; of 4 s the least; of 99 s only one to warm up."""
    clock, calls = 0.0, 0

    def action() -> None:
        nonlocal clock, calls
        clock, calls = clock + each, calls + 1

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    found = interleaved({"only": action}, repeats=30, seconds=10.0)
    assert (found["only"]["rounds"], calls) == (kept, warmed + kept)


def test_a_slow_graph_is_soon_through_its_first_images_and_a_quick_one_takes_many_at_a_time() -> None:
    files = [Path(str(number)) for number in range(300)]
    chunks = list(growing_chunks(files, 2))
    assert [len(chunk) for chunk in chunks] == [2, 4, 8, 16, 32, 64, 100, 74]
    assert [file for chunk in chunks for file in chunk] == files


def test_a_benchmark_without_time_still_measures_everything_a_little(
    artifact: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_photograph", lambda path: images[0])
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    found = benchmark([artifact], images=images[0].parent, count=50, seconds=0.001, tell=lambda line: None)
    name = str(artifact)
    assert [found["latency_ms_by_threads"][threads][name]["rounds"] for threads in ("1", "2")] == [3, 3]
    assert (found["start"][name]["starts"], found["throughput"][name]["images"]) == (1, 2)
    last = "Medians of 3 rounds on 1 thread, 3 on 2, and 1 start(s); 2 images end to end. --seconds 0.001 limits them."
    assert table(found).splitlines()[-1] == last


def test_a_benchmark_measures_everything_it_promises(
    run: Run, artifact: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STARTS", 1)
    monkeypatch.setattr(module, "_photograph", lambda path: images[0])
    monkeypatch.setattr(Peer, "__init__", without_compiling(Peer.__init__))

    found = benchmark([artifact], run=run.path, images=images[0].parent, repeats=3, count=6, tell=lambda line: None)

    name = str(artifact)
    assert found["bytes"][name] == (artifact / "model.onnx").stat().st_size
    assert set(found["latency_ms_by_threads"]["1"]) == {
        name,
        "PyTorch eager",
        "PyTorch eager, channels last",
        "torch.compile",
    }
    assert found["start"][name]["peak_mib"] < found["start"]["PyTorch eager"]["peak_mib"]
    assert set(found["throughput"]) == {name, "PyTorch eager"}
    assert set(found["steps_ms"][name]["small"]) == {"decode", "resize", "network"}
    assert min(found["steps_ms"][name]["small"].values()) > 0
    assert name[-32:] in table(found)


def without_compiling(original):
    """Compiling takes a compiler and half a minute; that the peer agrees is claimed above."""

    def init(self, run, fold, *, compiled=False):
        original(self, run, fold, compiled=False)

    return init


def test_detectors_are_measured_too(
    make_artifact: Callable[..., Path], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STARTS", 1)
    monkeypatch.setattr(module, "_photograph", lambda path: images[0])
    boxes = {"task": "detection", "labels": ("nodule",), "main_score": "ap50"}
    shape = Input(side=64, kind="slice", slices=1, reduced=False)
    path = make_artifact(graph=constant_graph(), input=shape, **boxes)
    found = benchmark([path], images=images[0].parent, repeats=3, count=6, tell=lambda line: None)
    assert found["latency_ms_by_threads"]["1"][str(path)]["median_ms"] > 0
    assert found["start"][str(path)]["peak_mib"] > 0
    assert found["reduced_decode"] == {}
    assert found["throughput"][str(path)]["images_per_s"] > 0
