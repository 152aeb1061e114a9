"""Made graphs for the tests of compression: pixels to a probability through a few layers, like an exported
classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.activation_ranges import Sample, network_inputs
from leanmed.compress.graph import parse, simplify
from leanmed.compress.network import Network, find_network
from leanmed.compress.rounding import Rounded, round_layer
from leanmed.runtime.predictor import open_session

Array = NDArray[Any]
SIDE = 16


class Made:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def add(self, op: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name or f"node_{output}", **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def conv(
        self, x: str, name: str, weight: Array, bias: Array, *, pad: int = 0, stride: int = 1, group: int = 1
    ) -> str:
        names = [x, self.constant(f"net.{name}.weight", weight), self.constant(f"net.{name}.bias", bias)]
        return self.add("Conv", names, name, pads=[pad] * 4, strides=[stride] * 2, group=group)

    def relu6(self, x: str) -> str:
        low, high = self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))
        return self.add("Clip", [x, low, high], f"{x}_6")

    def model(self, answer: str) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", "c"])],
            [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["a", 1] if answer == "logit" else [2])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _prepare(made: Made) -> str:
    """(h, w, c) uint8 to (1, 3, SIDE, SIDE) in [-1, 1]."""
    made.add("Cast", ["pixels"], "floats", to=TensorProto.FLOAT)
    made.add("Slice", ["floats", *(made.constant(n, [v]) for n, v in (("from", 0), ("upto", 3), ("last", 2)))], "rgb")
    made.add("Transpose", ["rgb"], "planes", perm=[2, 0, 1])
    made.add("Unsqueeze", ["planes", made.constant("front", [0])], "batch")
    size = made.constant("size", [1, 3, SIDE, SIDE])
    made.add("Resize", ["batch", "", "", size], "small", mode="linear", antialias=1)
    made.add("Div", ["small", made.constant("half", np.float32(127.5))], "scaled")
    return made.add("Sub", ["scaled", made.constant("one", np.float32(1))], "input")


def made_network(*, seed: int = 0, odd: bool = False, residual: bool = True, branches: int = 0) -> bytes:
    """A small MobileNetV2: stem, depthwise and pointwise layers, a residual, a global mean and one logit.

    On `made_images`, the logit has median 0 and standard deviation 2.

    Args:
        seed: of the weights.
        odd: put an operator that quantization does not handle, with large weights, in the middle.
        residual: add the input of the last two layers before the head to their output.
        branches: so many layers side by side before the head, put together as Inception does.
    """
    shape = (seed, odd, residual, branches)
    plain = open_session(_network(*shape, 1.0, 0.0, "logit"))
    logits = [plain.run(None, {"pixels": image})[0].item() for image in made_images(40, seed)]
    gain = 2 / np.std(logits)
    return _network(*shape, gain, -gain * np.median(logits), "probabilities")


def _network(seed: int, odd: bool, residual: bool, branches: int, gain: float, offset: float, answer: str) -> bytes:
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        fan = np.prod(shape[1:])
        return (rng.normal(size=shape) / np.sqrt(fan) * 1.6).astype(np.float32)

    def bias(n: int) -> Array:
        return rng.normal(0.3, 0.3, n).astype(np.float32)

    made = Made()
    x = made.relu6(made.conv(_prepare(made), "stem", weight(8, 3, 3, 3), bias(8), pad=1, stride=2))
    x = made.relu6(made.conv(x, "spread", weight(32, 8, 1, 1), bias(32)))
    x = made.relu6(made.conv(x, "depth", weight(32, 1, 3, 3), bias(32), pad=1, group=32))
    x = made.conv(x, "narrow", weight(16, 32, 1, 1), bias(16))
    y = made.relu6(made.conv(x, "wide", weight(48, 16, 1, 1), bias(48)))
    z = made.conv(y, "back", weight(16, 48, 1, 1), bias(16))
    x = made.add("Add", [x, z], "sum") if residual else z
    if odd:
        up = made.constant("net.up.weight", weight(16, 16, 2, 2).astype(np.float32))
        x = made.add("ConvTranspose", [x, up], "up", strides=[2, 2])
    if branches:
        sides = [made.conv(x, f"branch{k}", weight(4, 16, 1, 1), bias(4)) for k in range(branches)]
        x = made.relu6(made.add("Concat", sides, "together", axis=1))
    x = made.relu6(made.conv(x, "head", weight(64, 4 * branches or 16, 1, 1), bias(64)))
    made.add("ReduceMean", [x, made.constant("area", [2, 3])], "mean", keepdims=1)
    made.add("Reshape", ["mean", made.constant("flat", [1, 64])], "row")
    linear = np.float32(gain) * weight(1, 64), np.float32([offset])
    names = [made.constant(f"net.linear.{name}", value) for name, value in zip(("weight", "bias"), linear, strict=True)]
    made.add("Gemm", ["row", *names], "logit", transB=1)
    if answer == "logit":
        return made.model(answer)
    made.add("Sigmoid", ["logit"], "positive")
    made.add("Reshape", ["positive", made.constant("flatter", [1])], "p")
    made.add("Sub", ["one", "p"], "q")
    return made.model(made.add("Concat", ["q", "p"], answer, axis=0))


def made_images(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth coloured pictures of different sizes, some with an opaque alpha channel."""
    rng = np.random.default_rng(seed)
    images = []
    for k in range(count):
        height, width = rng.integers(20, 40, 2)
        rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
        colour, slope, turn = rng.uniform(30, 220, 3), rng.normal(0, 60, 3), rng.normal(0, 60, 3)
        picture = colour + slope * rows + turn * columns + rng.normal(0, 4, (height, width, 3))
        alpha = np.full((height, width, k % 2), 255.0)
        images.append(np.concatenate([picture, alpha], axis=2).clip(0, 255).astype(np.uint8))
    return images


@cache
def found_network() -> Network:
    """The network in `made_network()`; to read, not to change."""
    return find_network(simplify(parse(made_network())))


@cache
def samples() -> tuple[Sample, ...]:
    """24 made images at its input."""
    return tuple(network_inputs(found_network(), made_images(24, seed=7)))


def answer(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> Array:
    """(n,) the probability of the positive label."""
    session = open_session(model.SerializeToString())
    return np.array([session.run(None, {"pixels": image})[0][1] for image in images])


def rounded_layers(network: Network, bits: int, *, names: Sequence[str] = ()) -> dict[str, Rounded]:
    """Layers (all, or those named) rounded to nearest."""
    values = network.weights()
    return {
        layer.name: round_layer(layer, values[layer.weight], values[str(layer.bias)], None, bits, gptq=False)
        for layer in network.layers
        if not names or layer.name in names
    }
