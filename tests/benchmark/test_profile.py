from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from detection_fixtures import constant_graph
from leanmed.benchmark import profile as module
from leanmed.benchmark.profile import (
    count_flops,
    count_graph_flops,
    made_image,
    multiplications,
    profile,
    stored_numbers,
    subject_of,
    table,
)
from leanmed.errors import RecipeError, RunError
from leanmed.exporting.export import export
from leanmed.manifest import Input
from leanmed.models.enet import ENet
from leanmed.runs import Run
from training_fixtures import trained_run, weights

Refused = Callable[..., AbstractContextManager[None]]
SMALL = {
    "folder": ["model.backbone=test_efficientnet", "model.side=32"],
    "nodules": ["model.side=64"],
    "retina": ["model.backbone=enet", "model.side=64", "segmenter.crop=64"],
}
FIGURES = ("parameters", "flops", "bytes", "latency_ms", "peak_mib")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is 12.3 MiB, and no process is started to find out."""
    monkeypatch.setattr(module, "_child", lambda code, *arguments: 12.3)


@pytest.mark.usefixtures("no_child")
def test_the_counts_of_a_recipe_are_those_of_its_network() -> None:
    """ENet for three channels and one label, built by hand; the task around it adds no parameter."""
    found = profile("retina", SMALL["retina"], repeats=3)
    network = ENet(3, 1).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert found["flops"] == counter.get_total_flops()
    assert (found["of"], found["network"], found["labels"]) == ("recipe", "enet", ["vessel"])
    assert found["image"] == [64, 64]


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(
    ("recipe", "labels"), [("folder", ["negative", "positive"]), ("nodules", ["nodule"]), ("retina", ["vessel"])]
)
def test_a_recipe_of_any_kind_is_measured_without_data(recipe: str, labels: list[str]) -> None:
    found = profile(recipe, SMALL[recipe], repeats=3)
    assert found["labels"] == labels
    assert all(found[figure] > 0 for figure in FIGURES)
    assert found["bytes"] > 4 * found["parameters"]


@pytest.mark.parametrize(("task", "count"), [("classification", 2), ("detection", 1), ("segmentation", 1)])
def test_a_recipe_without_labels_gets_as_few_as_its_kind_takes(task: str, count: int) -> None:
    assert len(module._any_labels(task)) == count


@pytest.mark.usefixtures("no_child")
def test_a_run_is_measured_as_the_network_it_trained(run: Run) -> None:
    found = profile(str(run.path), repeats=3)
    assert found["of"] == "run"
    assert found["labels"] == list(run.labels)
    assert found["bytes"] == sum(value.nbytes for value in weights(run, 0).values())


@pytest.mark.usefixtures("no_child")
def test_an_artifact_takes_the_operations_of_the_network_it_was_made_from(run: Run, tmp_path: Path) -> None:
    """The resizing before the network is no matrix product, so that nothing comes on top."""
    export(run, tmp_path / "artifact", fold=0)
    network, graph = profile(str(run.path), repeats=3), profile(str(tmp_path / "artifact"), repeats=3)
    assert graph["flops"] == network["flops"]
    assert graph["bytes"] == (tmp_path / "artifact" / "model.onnx").stat().st_size
    assert graph["image"] == [480, 640]
    assert (graph["of"], graph["network"], graph["precision"]) == ("artifact", "test_efficientnet", "fp32")
    assert 0.9 * network["parameters"] < graph["parameters"] < 1.1 * network["parameters"]


@pytest.mark.usefixtures("no_child")
def test_a_detector_s_artifact_is_measured_on_a_slice(make_artifact: Callable[..., Path]) -> None:
    boxes = {"task": "detection", "labels": ("nodule",), "main_score": "ap50"}
    shape = Input(side=64, kind="slice", slices=1, reduced=False)
    found = profile(str(make_artifact(graph=constant_graph(), input=shape, **boxes)), repeats=3)
    assert found["image"] == [384, 384]
    assert found["flops"] == 0  # constants alone


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        (Input(side=32), (480, 640, 3), "uint8"),
        (Input(side=32, kind="slice", slices=3), (384, 384, 3), "uint8"),
        (Input(side=32, kind="intensities", dtype="float32"), (384, 384, 3), "float32"),
        (Input(side=32, kind="intensities", dtype="int16"), (384, 384, 3), "int16"),
    ],
)
def test_the_made_image_is_one_that_the_graph_takes(shape: Input, size: tuple[int, ...], dtype: str) -> None:
    image = made_image(shape)
    assert (image.shape, image.dtype) == (size, np.dtype(dtype))
    assert image.std() > 0


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        ("Conv", [(1, 2, 7, 7), (4, 2, 3, 3), (4,)], [(1, 4, 5, 5)], 4 * 25 * 2 * 9),
        ("Conv", [(1, 6, 7, 7), (6, 1, 3, 3)], [(1, 6, 5, 5)], 6 * 25 * 9),  # each channel by itself
        ("ConvInteger", [(1, 2, 7, 7), (4, 2, 3, 3), ()], [(1, 4, 5, 5)], 4 * 25 * 2 * 9),
        ("QLinearConv", [(1, 2, 7, 7), (), (), (4, 2, 3, 3), (4,)], [(1, 4, 5, 5)], 4 * 25 * 2 * 9),
        ("ConvTranspose", [(1, 2, 5, 5), (2, 4, 2, 2)], [(1, 4, 10, 10)], 2 * 25 * 4 * 4),
        ("MatMul", [(2, 6, 3), (3, 7)], [(2, 6, 7)], 2 * 6 * 7 * 3),
        ("Gemm", [(6, 3), (7, 3), (7,)], [(6, 7)], 6 * 7 * 3),
        ("FusedConv", [(1, 2, 7, 7), (4, 2, 3, 3), (4,), (1, 4, 5, 5)], [(1, 4, 5, 5)], 4 * 25 * 2 * 9),
        ("NhwcFusedConv", [(1, 7, 7, 2), (4, 2, 3, 3)], [(1, 5, 5, 4)], 4 * 25 * 2 * 9),
        ("FusedGemm", [(3, 6), (3, 7), (7,)], [(6, 7)], 6 * 7 * 3),  # of the transposed matrix
        ("FusedMatMul", [(2, 6, 3), (2, 7, 3)], [(2, 6, 7)], 2 * 6 * 7 * 3),
        ("QGemm", [(6, 3), (), (), (3, 7), (), (), (7,)], [(6, 7)], 6 * 7 * 3),
        ("QLinearMatMul", [(2, 6, 3), (), (), (3, 7)], [(2, 6, 7)], 2 * 6 * 7 * 3),
        ("FusedGemm", [(0, 3), (3, 7)], [(0, 7)], 0),
        ("Add", [(6, 3), (6, 3)], [(6, 3)], 0),
    ],
)
def test_multiplications_by_hand(operator: str, inputs: Any, outputs: Any, expected: int) -> None:
    assert multiplications(operator, inputs, outputs) == expected


@pytest.mark.parametrize(
    ("layer", "expected"), [("Conv", 2 * 4 * 5 * 4 * 3 * 4), ("ConvTranspose", 2 * 3 * 6 * 5 * 4 * 4)]
)
def test_flops_of_a_graph_by_hand(layer: str, expected: int) -> None:
    """An image of 6 x 5 and a kernel of 2 x 2: 5 x 4 positions of four sums over 12, or 30 x 3 values spread to 16."""
    kernels = {"Conv": np.ones((4, 3, 2, 2), np.float32), "ConvTranspose": np.ones((3, 4, 2, 2), np.float32)}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["channels", "first"], ["image"]),
        helper.make_node(layer, ["image", "kernel"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, "y", "x"])],
        [numpy_helper.from_array(v, n) for n, v in {"first": np.array([0]), "kernel": kernels[layer]}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert count_graph_flops(model.SerializeToString(), {"pixels": np.zeros((6, 5, 3), np.uint8)}) == expected


class Stub(nn.Module):
    """A network of one convolution: 2 x 2 positions, 2 channels, a kernel of 9: 72 multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def reveal(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.conv(inputs["image"])}


class LooksAtValues(Stub):
    def reveal(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        assert inputs["image"].sum().item() == 0
        return super().reveal(inputs)


class Attends(nn.Module):
    """Four tokens of eight values: 4 * 4 * 8 multiply-accumulates for the weights, and as many for the values."""

    def reveal(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens = inputs["image"].view(1, 1, 4, 8)
        return {"logits": F.scaled_dot_product_attention(tokens, tokens, tokens)}


class AttendsAndLooks(Attends):
    def reveal(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        assert inputs["image"].sum().item() == 0
        return super().reveal(inputs)


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [(Stub, (4, 4), 144), (LooksAtValues, (4, 4), 144), (Attends, (4, 8), 512), (AttendsAndLooks, (4, 8), 512)],
)
def test_flops_are_two_for_each_multiply_accumulate(network: Any, size: tuple[int, int], expected: int) -> None:
    assert count_flops(network(), {"image": torch.zeros(1, 1, *size)}) == expected


def test_weights_and_biases_are_counted_and_nothing_else() -> None:
    """Six floats, twenty 8-bit weights and four biases; no scale, no zero point, no shape, no single number."""
    constants = {
        "floats": np.zeros((2, 3), np.float32),
        "weights": np.zeros((4, 5), np.int8),
        "biases": np.zeros(4, np.int32),
        "scales": np.ones(4, np.float32),
        "zeros": np.zeros(4, np.int8),
        "shape": np.array([1, 2, 3, 4]),
        "single": np.float32(6),
    }
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["out"], axis=0)],
        "graph",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    assert stored_numbers(helper.make_model(graph).SerializeToString()) == 6 + 20 + 4


@pytest.mark.usefixtures("no_child")
def test_parameters_of_an_artifact_are_left_out_where_onnx_is_missing(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = profile(str(tiny_artifact), repeats=3)
    assert found["parameters"] is None
    line = next(line for line in table(found).splitlines() if line.startswith("parameters"))
    assert line.split(maxsplit=2)[1:] == [
        "–",
        "not counted: that needs onnx, which pip install 'leanmed[train]' brings",
    ]


def test_memory_is_what_a_process_grows_by() -> None:
    """64 MiB of ones, and little more; what the process had before does not count."""
    code = """import json, numpy as np; from leanmed.benchmark import profile as p
print(json.dumps(p._growth(lambda: np.ones(2**23))))"""
    grown = module._child(code)
    assert grown is not None
    assert 63 < grown < 80


def test_the_memory_of_an_artifact_and_of_a_network_is_measured_in_processes_of_their_own(tiny_artifact: Path) -> None:
    artifact, network = profile(str(tiny_artifact), repeats=3), profile("folder", SMALL["folder"], repeats=3)
    assert 0 < artifact["peak_mib"] < 500
    assert 0 < network["peak_mib"] < 500


def test_a_process_that_fails_is_told_with_its_last_words(refused: Refused) -> None:
    with refused(RunError, "exit status 1", "MemoryError: all gone"):
        module._child("raise MemoryError('all gone')")


def test_the_table_has_a_unit_for_each_value() -> None:
    found = {
        "subject": "made",
        "of": "artifact",
        "network": "enet",
        "precision": "int8",
        "labels": ["a", "b"],
        "image": [480, 640],
        "parameters": 353_941,
        "flops": 3_690_000_000,
        "bytes": 1_450_000,
        "latency_ms": 38.04,
        "peak_mib": None,
        "how": dict.fromkeys(FIGURES, "so"),
    }
    assert table(found).splitlines() == [
        "made: artifact (enet, int8, 2 labels), one image of 640 x 480",
        "parameters        353,941   so",
        "FLOPs              3.69 G   so",
        "size              1.45 MB   so",
        "latency           38.0 ms   so",
        "peak memory             –   so",
    ]
    assert "FLOPs             28.40 M   so" in table(found | {"flops": 28_400_000})


def test_a_folder_goes_before_a_shipped_recipe_of_its_name(
    tmp_path: Path, finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nodules").mkdir()
    Path("folder").symlink_to(finished_run.path)
    assert [subject_of(name) for name in ("retina", "nodules", "folder")] == ["recipe", "recipe", "run"]


@pytest.mark.parametrize("name", ["gone", "empty", "model.onnx"])
def test_what_is_neither_recipe_nor_run_nor_artifact_is_refused(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").touch()
    with refused(RecipeError, "retina", "run.json", "leanmed.json", str(tmp_path / name), "check the path"):
        profile(str(tmp_path / name))


def test_settings_go_with_a_recipe_only(tiny_artifact: Path, refused: Refused) -> None:
    with refused(RecipeError, "expected --set with a recipe only", "artifact", "leave it out"):
        profile(str(tiny_artifact), ["model.side=64"])
