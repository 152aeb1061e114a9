from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader

from leanmed.benchmark import device as module
from leanmed.benchmark.benchmark import machine
from leanmed.benchmark.device import (
    MAX_TABLE_BYTES,
    Class,
    DeviceTable,
    Node,
    executed_nodes,
    fit,
    measure_device,
    read_table,
    told,
    write_table,
)
from leanmed.cli import main
from leanmed.errors import DataError, RunError
from leanmed.runtime.predictor import load

Refused = Callable[..., AbstractContextManager[None]]
CONV = Class("Conv", "float", depthwise=False)
DEPTHWISE = Class("QLinearConv", "integer", depthwise=True)
RELU = Class("Relu", "float", depthwise=False)
SIDE, CHANNELS = 16, 32


def rate(of: Class, per_unit: float, per_call: float) -> dict[str, Any]:
    return {
        "operator": of.operator,
        "arithmetic": of.arithmetic,
        "depthwise": of.depthwise,
        "ns_per_unit": per_unit,
        "ns_per_call": per_call,
        "calls": 1,
        "milliseconds": 1.0,
    }


def made(*rates: dict[str, Any]) -> dict[str, Any]:
    """A table as it stands in a file."""
    return {"device_table": 1, "command": "", "machine": machine(), "artifacts": [], "classes": list(rates)}


@pytest.fixture
def table() -> DeviceTable:
    """Half a nanosecond for each product of a convolution, two of a depthwise one, three for each byte of the rest."""
    return DeviceTable(**made(rate(CONV, 0.5, 1000.0), rate(DEPTHWISE, 2.0, 0.0), rate(RELU, 3.0, 500.0)))


def convolutions() -> bytes:
    """An image of 16 x 16: convolutions, one of them depthwise, means, and a product."""
    rng = np.random.default_rng(0)
    weights = {
        "dense": rng.normal(size=(CHANNELS, 3, 3, 3)),
        "single": rng.normal(size=(CHANNELS, 1, 3, 3)),
        "point": rng.normal(size=(2 * CHANNELS, CHANNELS, 1, 1)),
        "linear": rng.normal(size=(2 * CHANNELS, 2)),
    }
    constants = {
        "mean": np.float32([0.01]),
        "first": np.array([0]),
        "size": np.array([1, 3, SIDE, SIDE]),
        "flat": np.array([2 * CHANNELS]),
        "row": np.array([1, 2 * CHANNELS]),
        "two": np.array([2]),
    } | {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["channels", "first"], ["image"]),
        helper.make_node("Resize", ["image", "", "", "size"], ["resized"], mode="linear"),
        helper.make_node("Mul", ["resized", "mean"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "dense"], ["a"], pads=[1, 1, 1, 1], name="conv-dense"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "single"], ["c"], pads=[1, 1, 1, 1], group=CHANNELS, name="conv-single"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "point"], ["e"], name="conv-point"),
        helper.make_node("GlobalAveragePool", ["e"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "row"], ["features"]),
        helper.make_node("MatMul", ["features", "linear"], ["logits"]),
        helper.make_node("Reshape", ["logits", "two"], ["pair"]),
        helper.make_node("Softmax", ["pair"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class Pixels(CalibrationDataReader):  # type: ignore[misc]
    """One image."""

    def __init__(self) -> None:
        self.left = [{"pixels": np.random.default_rng(1).integers(0, 255, (20, 20, 3)).astype(np.uint8)}]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


@pytest.fixture
def artifacts(make_artifact: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """One of floats, and the same with its convolutions in integers."""
    (tmp_path / "float.onnx").write_bytes(convolutions())
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Pixels(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Relu"],
    )
    return [
        make_artifact("floats", graph=convolutions()),
        make_artifact("integers", graph=(tmp_path / "int8.onnx").read_bytes(), precision="int8"),
    ]


def test_an_estimate_is_the_sum_of_what_the_nodes_cost(table: DeviceTable) -> None:
    nodes = [Node(CONV, 10_000), Node(CONV, 6_000), Node(DEPTHWISE, 2_000), Node(RELU, 100)]
    found = table.estimate_nodes(nodes)
    assert found.milliseconds == pytest.approx(
        (0.5 * 16_000 + 2 * 1000 + 2.0 * 2_000 + 3.0 * 100 + 500) / 1e6, rel=1e-12
    )
    assert found.by_class[CONV] == pytest.approx(0.01, rel=1e-12)
    assert (found.guessed, found.lines()) == ({}, [])


@pytest.mark.parametrize(
    ("of", "per_unit", "instead"),
    [
        (Class("FusedConv", "float", depthwise=False), 0.5, CONV),
        (Class("FusedConv", "float", depthwise=True), 0.5, CONV),
        (Class("MatMulInteger", "integer", depthwise=False), 2.0, DEPTHWISE),
        (Class("MaxPool", "float", depthwise=False), 3.0, RELU),
        (Class("MaxPool", "integer", depthwise=False), 3.0, RELU),
    ],
)
def test_a_class_that_is_missing_takes_the_slowest_rate_of_its_group_and_is_told(
    table: DeviceTable, of: Class, per_unit: float, instead: Class
) -> None:
    found = table.estimate_nodes([Node(of, 10**6)])
    assert found.milliseconds == pytest.approx(per_unit, rel=0.01)
    assert found.guessed == {of: str(instead)}
    (line,) = found.lines()
    assert str(of) in line
    assert str(instead) in line


def test_of_several_rates_the_one_is_taken_that_is_slowest_for_such_a_node() -> None:
    gather = Class("Gather", "float", depthwise=False)
    table = DeviceTable(**made(rate(RELU, 3.0, 1.0), rate(gather, 1.0, 700.0)))
    pad = Class("Pad", "float", depthwise=False)
    assert table.estimate_nodes([Node(pad, 100)]).guessed == {pad: str(gather)}
    assert table.estimate_nodes([Node(pad, 1000)]).guessed == {pad: str(RELU)}
    assert table.estimate_nodes([Node(pad, 100), Node(pad, 1000)]).milliseconds == pytest.approx(3801 / 1e6, rel=1e-12)


def test_a_table_without_anything_of_the_kind_estimates_nothing(refused: Refused) -> None:
    table = DeviceTable(**made(rate(RELU, 3.0, 1.0)))
    with refused(RunError, "Conv, float", "multiply-accumulates", "make the table from an artifact that is like"):
        table.estimate_nodes([Node(CONV, 1)])


def test_the_fit_finds_the_rates_that_made_the_times() -> None:
    work = np.array([100.0, 2_000.0, 50_000.0, 700.0])
    assert fit(work, 0.25 * work + 30) == pytest.approx((0.25, 30), rel=0.02)


@pytest.mark.parametrize("times", [[900.0, 400.0, 100.0], [10.0, 40.0, 5000.0]])
def test_the_fit_is_never_negative_and_keeps_the_sum(times: list[float]) -> None:
    work = np.array([10.0, 100.0, 1000.0])
    per_unit, per_call = fit(work, np.array(times))
    assert per_unit >= 0
    assert per_call >= 0
    assert per_unit * work.sum() + 3 * per_call == pytest.approx(sum(times), rel=1e-6)


def test_where_all_nodes_do_the_same_work_both_figures_keep_the_proportion_they_start_with() -> None:
    work, times = np.array([100.0, 100.0]), np.array([45.0, 65.0])
    assert fit(work, times, (0.1, 1.0)) == pytest.approx((0.5, 5.0))  # five times what they start with
    assert fit(np.array([0.0, 0.0]), times, (0.1, 1.0)) == pytest.approx((0.1, 55.0))


def test_what_several_runs_of_a_node_take_is_the_mean_of_the_fastest_quarter() -> None:
    assert module._typical([3000, 1000, 2000, 9000, 5000]) == 1500
    assert module._typical([0, 0, 0]) == 500  # less than the profiler can tell


def test_nodes_have_the_work_of_the_layers_whether_packed_fused_or_in_integers(artifacts: list[Path]) -> None:
    """The weights' shapes are found for each of them, in whichever layout the processor likes."""
    for path, arithmetic in zip(artifacts, ("float", "integer"), strict=True):
        nodes = executed_nodes(load(path))
        layers = sorted((node.work, node.of.depthwise) for node in nodes if "Conv" in node.of.operator)
        expected = [(SIDE**2 * CHANNELS * n, single) for n, single in ((9, True), (2 * CHANNELS, False), (27, False))]
        assert layers == sorted(expected)
        assert {node.of.arithmetic for node in nodes if "Conv" in node.of.operator} == {arithmetic}
        assert sum(node.work for node in nodes if node.of.operator == "MatMul") == 2 * CHANNELS * 2
        resize = next(node for node in nodes if node.of.operator == "Resize")
        assert resize.work >= 4 * 3 * SIDE**2


def test_a_device_is_measured_and_its_table_describes_what_it_was_made_from(
    artifacts: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    table = measure_device(artifacts, repeats=9, seconds=1, command="leanmed benchmark", tell=said.append)
    assert len(said) == 6
    assert [source.name for source in table.artifacts] == ["floats", "integers"]
    for path, source in zip(artifacts, table.artifacts, strict=True):
        assert source.sha256 == load(path).artifact.sha256
        assert source.estimated_ms > 0
        assert table.milliseconds(path, tell=said.append) == pytest.approx(source.estimated_ms, rel=1e-9)
    assert len(said) == 6, "no class is missing"
    total = sum(source.measured_ms for source in table.artifacts)
    assert sum(source.estimated_ms for source in table.artifacts) == pytest.approx(total, rel=1e-4)
    assert sum(rate.milliseconds for rate in table.classes) == pytest.approx(total, rel=1e-9)
    write_table(tmp_path / "table.json", table)
    assert read_table(tmp_path / "table.json") == table
    assert len(told(table)) == 3


def test_what_is_guessed_is_told(artifacts: list[Path]) -> None:
    table = measure_device(artifacts[:1], repeats=3, seconds=1, tell=lambda line: None)
    said: list[str] = []
    assert table.milliseconds(artifacts[1], tell=said.append) > 0
    assert any("QLinearConv, integer, depthwise" in line for line in said)


def test_no_artifact_makes_no_table(refused: Refused) -> None:
    with refused(DataError, "expected artifacts", "got none"):
        measure_device([])


def damaged() -> dict[str, tuple[Any, str]]:
    """What is in the file, and a word of what is said of it."""
    good = made(rate(CONV, 0.5, 1000.0))
    conv = good["classes"][0]
    return {
        "no JSON": (b"\x00\xff", "Invalid JSON"),
        "deep": (b"[" * 100_000, "Invalid JSON"),
        "a list": ([], "Input should be an object"),
        "another file": ({"machine": {}}, "Field required"),
        "a newer format": (good | {"device_table": 2}, "device_table"),
        "one key more": (good | {"more": 1}, "more"),
        "no class": (good | {"classes": []}, "classes"),
        "a class twice": (good | {"classes": [conv, conv]}, "each class once"),
        "negative": (good | {"classes": [conv | {"ns_per_unit": -1.0}]}, "ns_per_unit"),
        "infinite": (json.dumps(good).replace("0.5", "1e999").encode(), "ns_per_unit"),
        "not a number": (json.dumps(good).replace("0.5", "NaN").encode(), "ns_per_unit"),
        "text for a number": (good | {"classes": [conv | {"ns_per_unit": "0.5"}]}, "ns_per_unit"),
        "nothing takes time": (good | {"classes": [conv | {"ns_per_unit": 0.0, "ns_per_call": 0.0}]}, "some time"),
        "an operator of control characters": (good | {"classes": [conv | {"operator": "\x1b[2J"}]}, "operator"),
        "too large": (b" " * MAX_TABLE_BYTES + json.dumps(good).encode(), "more than 1,048,576 bytes"),
    }


@pytest.mark.parametrize("name", damaged())
def test_a_file_that_is_no_table_is_refused(name: str, tmp_path: Path, refused: Refused) -> None:
    content, word = damaged()[name]
    path = tmp_path / "table.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with refused(DataError, "expected a device table at", word, "make it again on the device, or check the path"):
        read_table(path)


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path, refused: Refused) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with refused(DataError, "expected a device table at", "directory", "check the path"):
            read_table(path)


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leanmed", "benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def test_the_command_writes_the_table_alone(
    tiny_artifact: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "table.json"
    status, out, err = run_command(tiny_artifact, "--device-table", path, "--repeats", 3, "--seconds", 1)
    assert (status, err) == (0, "")
    assert out.endswith(f"wrote {path}\n")
    table = read_table(path)
    assert table.command.startswith("leanmed benchmark")
    assert table.machine == machine()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "expected --out FILE, --device-table FILE or both, got neither"),
        (("--out", "a.json", "--device-table", "./a.json"), "expected two files"),
        (("--device-table", "a.json", "--run", "run"), "expected --run with --out FILE"),
        (("--device-table", "a.json", "--run", "run", "--images", "b"), "expected --run and --images with --out FILE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...],
    word: str,
    tiny_artifact: Path,
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run_command(tiny_artifact, *options)
    assert status == 2
    assert word in err
    assert list(tmp_path.iterdir()) == []


def test_torch_and_onnx_are_not_needed(tiny_artifact: Path, tmp_path: Path) -> None:
    code = """import sys
for name in ("torch", "onnx", "sklearn", "scipy"): sys.modules[name] = None
from leanmed.cli import main
main()"""
    options = ("--device-table", str(tmp_path / "table.json"), "--repeats", "3", "--seconds", "1")
    subprocess.run([sys.executable, "-c", code, "benchmark", str(tiny_artifact), *options], check=True, env=os.environ)
    assert read_table(tmp_path / "table.json").classes
