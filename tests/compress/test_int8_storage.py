"""8 bits as a storage format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from made_networks import answer, found_network, made_images
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress import int8_storage
from leanmed.compress.graph import initializers
from leanmed.compress.int8_storage import store_int8
from leanmed.runtime.predictor import open_session

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_storage, "FLOOR", 8)


def layer(op: str, weight: np.ndarray, shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """x -> one layer -> y."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"axis{k}" for k in range(len(shape))])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model.SerializeToString()).run(None, {"x": x})[0])


LAYERS: Mapping[str, Any] = {
    "Conv": ("Conv", (4, 3, 3, 3), (1, 3, 8, 8), 0, {}),
    "depthwise": ("Conv", (3, 1, 3, 3), (1, 3, 8, 8), 0, {"group": 3}),
    "ConvTranspose": ("ConvTranspose", (3, 4, 2, 2), (1, 3, 5, 5), 1, {"strides": [2, 2]}),
    "MatMul": ("MatMul", (6, 5), (2, 6), 1, {}),
    "Gemm": ("Gemm", (6, 5), (2, 6), 1, {}),
    "Gemm, transposed": ("Gemm", (5, 6), (2, 6), 0, {"transB": 1}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_output_channel_has_a_step_of_its_own(name: str) -> None:
    """Channels that differ by a factor of 1000 are all kept to half a step of their own largest weight."""
    op, shape, inputs, axis, attributes = LAYERS[name]
    along = [-1 if k == axis else 1 for k in range(len(shape))]
    sizes = np.geomspace(1, 1000, shape[axis]).reshape(along)
    weight = (RNG.standard_normal(shape) * sizes).astype(np.float32)
    float_model = layer(op, weight, inputs, **attributes)
    model = store_int8(float_model)[0]
    onnx.checker.check_model(model)
    stored = initializers(model)
    assert set(stored) == {"w_int8", "w_scale"}
    assert stored["w_int8"].dtype == np.int8
    assert np.abs(stored["w_int8"]).max() == 127
    back = stored["w_int8"] * stored["w_scale"]
    assert (np.abs(back - weight) <= stored["w_scale"] / 2 + 1e-6 * sizes).all()
    x = RNG.standard_normal(inputs).astype(np.float32)
    assert np.allclose(run(model, x), run(layer(op, back, inputs, **attributes), x), rtol=1e-5, atol=1e-3)


def test_a_whole_network_answers_nearly_the_same_and_its_biases_stay() -> None:
    before = found_network().model
    model = store_int8(before)[0]
    assert initializers(model)["net.head.bias"].dtype == np.float32
    assert initializers(model)["net.head.weight_int8"].dtype == np.int8
    images = made_images(6, seed=9)
    assert 0 < np.abs(answer(model, images) - answer(before, images)).max() < 0.1


def test_what_is_small_or_read_in_two_ways_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer("MatMul", RNG.standard_normal((6, 6)), (2, 6))
    model.graph.node.append(helper.make_node("Gemm", ["y", "w"], ["z"], transB=1))
    model.graph.output[0].name = "z"
    assert set(initializers(store_int8(model)[0])) == {"w"}
    monkeypatch.setattr(int8_storage, "FLOOR", 37)
    assert set(initializers(store_int8(layer("MatMul", RNG.standard_normal((6, 6)), (2, 6)))[0])) == {"w"}


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = RNG.standard_normal((6, 5))
    weight[:, 2] = 0
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    assert (run(store_int8(layer("MatMul", weight, (2, 6)))[0], x)[:, 2] == 0).all()
