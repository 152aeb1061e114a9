"""The output that tells how familiar an image looks stays float, and is no part of the network that is compressed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from made_artifacts import made_artifact, made_gate
from made_networks import made_images, made_network
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.bench import Options
from leanmed.compress.command import _shifted
from leanmed.compress.equalize import find_pairs
from leanmed.compress.gate import count_unfamiliar
from leanmed.compress.graph import parse, simplify
from leanmed.compress.network import Network, find_network
from leanmed.compress.quantize import quantize
from leanmed.manifest import Familiar
from leanmed.runtime.predictor import Predictor

ABOUT = Familiar(threshold=0.1, images=100, bytes=4 * 64 * 64)


@cache
def watched_network() -> bytes:
    """The made network, whose early maps are watched: a sigmoid of many sums of their means."""
    model = onnx.load_model_from_string(made_network())
    early = "spread_6"  # (1, 32, 8, 8), which the next layer reads too
    directions = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) / 20  # 2048 values
    constants = {"places": np.array([2, 3]), "directions": directions, "end": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", [early, "places"], ["means"], "watch_means", keepdims=0),
            helper.make_node("Mul", ["means", "directions"], ["products"], "watch_products"),
            helper.make_node("ReduceSum", ["products"], ["distance"], "watch_distance", keepdims=0),
            helper.make_node("Reshape", ["distance", "end"], ["distances"], "watch_distances"),
            helper.make_node("Sigmoid", ["distances"], ["familiar"], "watch_familiar"),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("familiar", TensorProto.FLOAT, [1]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def found(graph: bytes) -> Network:
    return find_network(simplify(parse(graph)))


def test_the_network_is_the_one_that_it_is_without() -> None:
    network, plain = found(watched_network()), found(made_network())
    assert (network.inputs, network.outputs) == (plain.inputs, plain.outputs)
    assert [layer.name for layer in network.layers] == [layer.name for layer in plain.layers]
    assert network.nodes == plain.nodes
    assert network.left_float == {}, "its constants are meant to stay float, and need no remark"
    assert {"watch_means", "watch_products"}.isdisjoint(node.name for node in network.core.graph.node)


def test_channels_that_are_watched_are_not_rescaled() -> None:
    pairs = [
        [(pair.first.name, pair.second.name) for pair in find_pairs(found(g))]
        for g in (made_network(), watched_network())
    ]
    assert ("spread", "depth") in pairs[0]
    assert pairs[1] == [pair for pair in pairs[0] if pair != ("spread", "depth")]


def test_a_shift_of_more_than_one_in_twenty_is_told() -> None:
    artifact = made_artifact(watched_network(), familiar=ABOUT)
    images = made_images(12, seed=9)
    predictor = Predictor(artifact)
    below = sum(predictor.predict(image).familiar < ABOUT.threshold for image in images)
    assert count_unfamiliar(artifact, images, artifact.graphs) == below
    assert count_unfamiliar(made_artifact(), images, artifact.graphs) == 0
    assert (_shifted(5, 10, 100), _shifted(10, 5, 100)) == ([], [])
    assert _shifted(5, 11, 100)[0].startswith("11 of 100 images look unfamiliar to the compressed model, and 5 to")


@pytest.mark.parametrize(("to", "apart"), [("fp16", 2e-3), ("int8", 0.02), ("int4", 0.05)])
def test_a_compressed_artifact_tells_nearly_what_the_float_one_tells(to: Any, apart: float) -> None:
    artifact = made_artifact(watched_network(), familiar=ABOUT)
    options = Options(max_drop=1.0, min_agreement=0.0, start=("gptq", "equalize"), ladder=())
    made = quantize(artifact, to, made_images(24, seed=7), made_gate(artifact), options)
    small = Predictor(artifact.model_copy(update={"graphs": made.graphs}))
    before, after = (
        np.array([predictor.predict(image).familiar for image in made_images(12, seed=9)])
        for predictor in (Predictor(artifact), small)
    )
    assert np.ptp(before) > 0.1, "the images differ in it"
    assert np.abs(before - after).max() < apart
