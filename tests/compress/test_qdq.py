"""Integer networks as QuantizeLinear/DequantizeLinear graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from made_networks import answer, found_network, made_images, made_network, rounded_layers, samples

from leanmed.compress.activation_ranges import network_inputs, tensor_ranges
from leanmed.compress.builder import Builder
from leanmed.compress.graph import initializers, parse, set_initializers, simplify
from leanmed.compress.int4 import pack
from leanmed.compress.network import HEAVY, find_network
from leanmed.compress.qdq import insert, rounded_tensors

ALL = tuple(layer.name for layer in found_network().layers)


def made(*names: str, bits: int = 8) -> onnx.ModelProto:
    network = found_network()
    return insert(network, rounded_layers(network, bits, names=names), tensor_ranges(network, samples()))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def fused(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return operators(onnx.load_model(folder / "fused.onnx"))


def test_every_layer_becomes_an_integer_kernel(tmp_path: Path) -> None:
    found = fused(made(), tmp_path)
    assert found.count("QLinearConv") == 7
    assert found.count("QGemm") == 1
    assert "QLinearAdd" in found
    assert not {"Conv", "Gemm", "Clip"} & set(found)


def test_integers_answer_as_the_float_network_does() -> None:
    images = made_images(12, seed=9)
    assert np.abs(answer(made(), images) - answer(found_network().model, images)).max() < 0.08


def test_a_layer_whose_input_is_always_zero_keeps_its_bias() -> None:
    whole, images = parse(made_network()), made_images(12, seed=9)
    values = initializers(whole)
    dead = {
        "net.wide.bias": np.full_like(values["net.wide.bias"], -100),
        "net.back.bias": 3 * values["net.back.bias"],
        "net.linear.weight": values["net.linear.weight"] / 30,  # the answer stays far from 0 and 1
        "net.linear.bias": 0 * values["net.linear.bias"],
    }
    network = find_network(simplify(set_initializers(whole, dead)))
    built = Builder(network, tuple(network_inputs(network, made_images(24, seed=7))), 8).build(())
    assert np.abs(answer(built.model, images) - answer(network.model, images)).max() < 0.01


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_layers_side_by_side_are_put_together_again(branches: int) -> None:
    network = find_network(simplify(parse(made_network(seed=1, branches=branches))))
    inputs = tuple(network_inputs(network, made_images(24, seed=7)))
    model = insert(network, rounded_layers(network, 8), tensor_ranges(network, inputs))
    images = made_images(12, seed=9)
    assert np.abs(answer(model, images) - answer(network.model, images)).max() < 0.08


def test_weights_are_signed_per_channel_and_activations_unsigned() -> None:
    model = made()
    constants = initializers(model)
    assert constants["net.head.weight"].dtype == np.int8
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {constants[node.input[2]].dtype for node in pairs} == {np.dtype(np.uint8)}
    weight = next(node for node in model.graph.node if "net.head.weight" in node.input)
    assert constants[weight.input[1]].shape == (64,)


def test_pre_and_post_processing_and_the_logit_stay_float() -> None:
    model = made()
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    assert readers["logit"] == "Sigmoid"
    assert [op for op in operators(model) if op in ("Resize", "Sigmoid")] == ["Resize", "Sigmoid"]


def test_layers_that_were_left_out_stay_float_at_both_ends_and_in_the_middle(tmp_path: Path) -> None:
    rest = [name for name in ALL if name not in ("stem", "wide")]
    found = fused(made(*rest), tmp_path)
    assert found.count("Conv") + found.count("FusedConv") == 2
    assert found.count("QLinearConv") == 5
    assert "input" not in rounded_tensors(found_network(), rest)


def test_the_rounded_tensors_are_those_the_graph_rounds() -> None:
    written = {node.input[0].removesuffix("_fence") for node in made().graph.node if node.op_type == "QuantizeLinear"}
    expected = set(rounded_tensors(found_network(), ALL))
    assert len(written) == len(expected)
    assert {"stem_6", "sum", "narrow", "row"} <= expected
    assert not {"stem", "logit"} & expected


def test_a_bias_has_the_scale_of_input_times_weight() -> None:
    model = made()
    products = [node for node in model.graph.node if node.op_type == "Mul" and node.output[0].startswith("q")]
    assert len(products) == len(ALL)


@pytest.mark.parametrize("bits", [8, 4])
def test_openvino_gives_the_same_answers(bits: int) -> None:
    openvino = pytest.importorskip("openvino")
    model = made(bits=bits)
    if bits == 4:
        model = pack(model, [layer.weight for layer in found_network().layers])
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    # At the network's own size, as OpenVINO 2026.4 does not antialias when it shrinks.
    images = [np.ascontiguousarray(image[:16, :16]) for image in made_images(12, seed=9)]
    found = np.array([compiled(image)[0][1] for image in images])
    # Both round sums to 8 bits, and not always the same way: a step here and there, as between two CPUs.
    assert np.abs(found - answer(model, images)).max() < 0.06


def test_no_operator_is_left_between_layers_that_was_not_looked_at() -> None:
    kinds = {node.op_type for node in found_network().core.graph.node}
    assert kinds - set(HEAVY) == {"Clip", "Add", "GlobalAveragePool", "Reshape"}
