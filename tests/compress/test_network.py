"""Finding the network in a graph, and bad graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from made_networks import made_images, made_network
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.activation_ranges import network_inputs, tensor_values
from leanmed.compress.graph import initializers, parse, refuse_quantized, share_constants, simplify
from leanmed.compress.network import Layer, find_network, multiplications
from leanmed.errors import ArtifactError
from leanmed.runtime.predictor import open_session


def test_the_network_lies_between_the_first_and_the_last_layer_with_weights() -> None:
    network = find_network(simplify(parse(made_network())))
    assert network.inputs == ("input",)
    assert network.outputs == ("logit",)
    assert [layer.name for layer in network.layers] == [
        "stem",
        "spread",
        "depth",
        "narrow",
        "wide",
        "back",
        "head",
        "linear",
    ]
    assert network.left_float == {}
    assert {"Resize", "Sigmoid"}.isdisjoint(node.op_type for node in network.core.graph.node)


def test_simplifying_changes_no_answer_and_drops_stale_shapes() -> None:
    graph = made_network()
    simple = simplify(parse(graph))
    first, second = open_session(graph), open_session(simple.SerializeToString())
    for image in made_images(4):
        answers = [s.run(None, {"pixels": image})[0] for s in (first, second)]
        assert np.abs(answers[0] - answers[1]).max() < 1e-6
    assert not simple.graph.value_info
    assert "GlobalAveragePool" in [node.op_type for node in simple.graph.node]


def test_the_core_gives_the_graphs_own_logit() -> None:
    network = find_network(simplify(parse(made_network())))
    images = made_images(3)
    logits = [f["logit"].item() for f in tensor_values(network.core, ["logit"], network_inputs(network, images))]
    session = open_session(made_network())
    answers = [session.run(None, {"pixels": image})[0][1] for image in images]
    assert 1 / (1 + np.exp(-np.array(logits))) == pytest.approx(answers, abs=1e-6)


def test_an_operator_that_is_not_handled_is_named() -> None:
    network = find_network(simplify(parse(made_network(odd=True))))
    assert network.left_float == {"net.up": "ConvTranspose is not an operator this quantizer handles"}


@pytest.mark.parametrize(("groups", "stride", "dilation"), [(1, 1, 1), (1, 2, 1), (4, 1, 1), (2, 1, 2)])
def test_rows_times_patches_is_the_convolution(groups: int, stride: int, dilation: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    x = rng.normal(size=(1, 4, 9, 7)).astype(np.float32)
    found = {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [0, 1, 2, 1]}
    layer = Layer("c", "n", "Conv", "x", "y", "w", None, weight.shape, 0, found)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **found)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["a", "b", "c", "d"]) for n in "xy"]
    graph = helper.make_graph([node], "c", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    wanted = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    found_y = layer.rows(weight) @ layer.patches(x, rng, 10**6)
    assert np.abs(found_y.reshape(wanted.shape) - wanted).max() < 1e-5
    assert np.array_equal(layer.weights(layer.rows(weight)), weight)


def test_multiplications_of_the_made_network() -> None:
    counts = multiplications(find_network(simplify(parse(made_network()))))
    assert counts["stem"] == 8 * 27 * 8 * 8
    assert counts["depth"] == 32 * 9 * 8 * 8
    assert counts["linear"] == 64


def test_layers_that_share_a_bias_get_one_each() -> None:
    model = parse(made_network())
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    layers[5].input[2] = layers[3].input[2]
    biases = [layer.bias for layer in find_network(simplify(model)).layers]
    assert len(set(biases)) == len(biases)


def test_equal_constants_are_stored_once() -> None:
    model = parse(made_network())
    before = initializers(model)
    shared = share_constants(model)
    assert len(initializers(shared)) < len(before)
    onnx.checker.check_model(shared)


def test_a_damaged_graph_is_refused(refused: Callable[..., Any]) -> None:
    with refused(ArtifactError, "ONNX graph", "export the artifact again"):
        parse(made_network()[:500])


def test_a_quantized_graph_is_refused(refused: Callable[..., Any]) -> None:
    model = parse(made_network())
    model.graph.node[0].op_type = "QuantizeLinear"
    with refused(ArtifactError, "quantized already", "fp32"):
        refuse_quantized(model)


def test_a_graph_without_weights_is_refused(refused: Callable[..., Any], tiny_artifact: Any) -> None:
    graph = (tiny_artifact / "model.onnx").read_bytes()
    with refused(ArtifactError, "constant weights", "none to quantize"):
        find_network(simplify(parse(graph)))
