"""Packed 4-bit weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from made_networks import answer, found_network, made_images, rounded_layers, samples
from onnx import TensorProto

from leanmed.compress.activation_ranges import tensor_ranges
from leanmed.compress.graph import initializers
from leanmed.compress.int4 import pack
from leanmed.compress.qdq import insert

WEIGHTS = ("net.wide.weight", "net.back.weight", "net.head.weight", "net.linear.weight")


@pytest.fixture(scope="module")
def eight_bits() -> onnx.ModelProto:
    network = found_network()
    return insert(network, rounded_layers(network, 4), tensor_ranges(network, samples()))


def test_packed_weights_take_half_a_byte_each(eight_bits: onnx.ModelProto) -> None:
    packed = pack(eight_bits, WEIGHTS)
    stored = {c.name: c for c in packed.graph.initializer if c.data_type == TensorProto.INT4}
    assert set(stored) == {f"{name}_int4" for name in WEIGHTS}
    assert len(stored["net.head.weight_int4"].raw_data) == 64 * 16 // 2
    onnx.checker.check_model(packed, full_check=True)


def test_packing_changes_no_answer(eight_bits: onnx.ModelProto) -> None:
    images = made_images(6, seed=9)
    packed = pack(eight_bits, WEIGHTS)
    expected = answer(eight_bits, images)
    assert np.array_equal(answer(packed, images), expected)


def test_the_packed_codes_are_the_ones_given(eight_bits: onnx.ModelProto) -> None:
    before, after = initializers(eight_bits), initializers(pack(eight_bits, WEIGHTS))
    assert all(np.array_equal(after[f"{name}_int4"].astype(np.int8), before[name]) for name in WEIGHTS)


def test_an_odd_number_of_codes_is_packed_too() -> None:
    codes = np.int8([[-8, -1, 7], [0, 1, -3], [5, 6, 2]])
    node = onnx.helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
    end = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])
    graph = onnx.helper.make_graph([node], "g", [], [end], [onnx.numpy_helper.from_array(codes, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    assert np.array_equal(initializers(pack(model, ["w"]))["w_int4"].astype(np.int8), codes)
