"""Artifacts whose answers depend on one square of an image, so that the place of the signal is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

TOP, LEFT, BOTTOM, RIGHT = 40, 24, 56, 48  # rows and columns of the square
HEIGHT, WIDTH = 96, 128  # of the images
BOX = (float(LEFT), float(TOP), float(RIGHT), float(BOTTOM))
_MEAN = [
    helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("Slice", ["floats", "starts", "ends"], ["square"]),
    helper.make_node("ReduceMean", ["square"], ["mean"], keepdims=0),
    helper.make_node("Div", ["mean", "white"], ["share"]),
]


def square_graph(kind: int = TensorProto.UINT8, white: float = 255.0) -> bytes:
    """A graph that answers (1 - m, m), m being the mean of the square's first channel, where `white` is 1."""
    nodes = [
        *_MEAN,
        helper.make_node("Sub", ["one", "share"], ["rest"]),
        helper.make_node("Concat", ["rest", "share"], ["probabilities"], axis=0),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2])]
    return _graph(nodes, _square(white) | {"one": np.float32([1])}, outputs, kind)


def box_graph() -> bytes:
    """A graph that finds the square with the score m, as of `square_graph`, and a box elsewhere with .3."""
    nodes = [*_MEAN, helper.make_node("Concat", ["share", "rest"], ["scores"], axis=0)]
    nodes.append(helper.make_node("Identity", ["corners"], ["boxes"]))
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"]),
    ]
    more = {"rest": np.float32([0.3]), "corners": np.float32([BOX, (100, 10, 120, 30)])}
    return _graph(nodes, _square(255.0) | more, outputs)


def mask_graph() -> bytes:
    """A graph whose confidence is the first channel, and whose mask is where that is above 127."""
    nodes = [
        helper.make_node("Gather", ["pixels", "first"], ["confidence"], axis=2),
        helper.make_node("Greater", ["confidence", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.UINT8),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["h", "w"]) for name in ("mask", "confidence")]
    return _graph(nodes, {"first": np.int64(0), "half": np.uint8(127)}, outputs)


def bright_square(channels: int = 3) -> NDArray[np.uint8]:
    """(96, 128, channels): the square is white, and noise of 40 to 119 lies around it; alpha is 255."""
    pixels = np.random.default_rng(0).integers(40, 120, (HEIGHT, WIDTH, channels)).astype(np.uint8)
    pixels[TOP:BOTTOM, LEFT:RIGHT] = 255
    pixels[..., 3:] = 255
    return pixels


def in_square(values: NDArray[Any], margin: int = 0) -> bool:
    """Whether values (h, w) are greatest in the square, or so many pixels around it."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    return bool(TOP - margin <= row < BOTTOM + margin and LEFT - margin <= column < RIGHT + margin)


def _square(white: float) -> dict[str, NDArray[Any]]:
    ends = {"starts": np.int64([TOP, LEFT, 0]), "ends": np.int64([BOTTOM, RIGHT, 1])}
    return {**ends, "white": np.float32([white])}


def _graph(
    nodes: Sequence[NodeProto], constants: Mapping[str, NDArray[Any]], outputs: Sequence[Any], kind: int = 2
) -> bytes:
    pixels = [helper.make_tensor_value_info("pixels", kind, ["h", "w", "c"])]
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "square", pixels, outputs, values)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    )
