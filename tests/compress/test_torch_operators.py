"""Operators as functions of torch give what ONNX Runtime gives, for several images at once too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.graph import attributes
from leanmed.compress.torch_operators import OPERATORS
from leanmed.errors import ArtifactError
from leanmed.runtime.predictor import open_session

Array = NDArray[Any]
RNG = np.random.default_rng(0)
MAPS, TOKENS = (1, 4, 6, 8), (1, 6, 8)
BINARY = ("Add", "Div", "GreaterOrEqual", "Mul", "Sub")


def some(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: int) -> Array:
    return np.array(values, np.int64)


CASES: list[tuple[str, tuple[int, ...], list[Array | None], dict[str, Any]]] = [
    *((name, MAPS, [some(*MAPS) + 3], {}) for name in BINARY),
    ("AveragePool", MAPS, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    (
        "AveragePool",
        MAPS,
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    ("BatchNormalization", MAPS, [some(4), some(4), some(4), some(4) ** 2 + 0.1], {"epsilon": 1e-3}),
    ("Cast", MAPS, [], {"to": TensorProto.INT32}),
    ("Clip", MAPS, [np.float32(-0.5), np.float32(0.25)], {}),
    ("Concat", MAPS, [some(1, 2, 6, 8)], {"axis": 1}),
    ("Conv", MAPS, [some(6, 2, 3, 3), some(6)], {"group": 2, "pads": [0, 1, 2, 3], "strides": [2, 1]}),
    ("Conv", MAPS, [some(6, 4, 3, 3)], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ("ConvTranspose", MAPS, [some(4, 3, 3, 3), some(6)], {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", MAPS, [some(4, 6, 3, 3)], {"strides": [2, 2], "pads": [0, 1, 1, 0], "output_padding": [1, 0]}),
    ("Einsum", TOKENS, [some(8, 3)], {"equation": "bnc,cd->bnd"}),
    ("Flatten", MAPS, [], {}),
    ("Gather", TOKENS, [whole(2, -1)], {"axis": 1}),
    ("Gather", TOKENS, [np.array(3)], {"axis": 1}),
    ("Gelu", TOKENS, [], {}),
    ("Gelu", TOKENS, [], {"approximate": "tanh"}),
    ("Gemm", (1, 8), [some(3, 8), some(3)], {"transB": 1}),
    ("Gemm", (1, 8), [some(8, 3)], {}),
    ("GlobalAveragePool", MAPS, [], {}),
    ("HardSigmoid", MAPS, [], {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", MAPS, [], {}),
    ("LayerNormalization", TOKENS, [some(8), some(8)], {"axis": -1, "epsilon": 1e-3}),
    ("LayerNormalization", TOKENS, [some(6, 8)], {"axis": 1}),
    ("LeakyRelu", MAPS, [], {"alpha": 0.2}),
    ("MatMul", TOKENS, [some(8, 5)], {}),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", MAPS, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("PRelu", MAPS, [some(4, 1, 1)], {}),
    ("Pad", MAPS, [whole(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5)], {}),
    ("Pad", MAPS, [whole(1, 2), None, whole(3)], {}),
    ("ReduceMean", TOKENS, [whole(-1)], {"keepdims": 1}),
    ("ReduceMean", TOKENS, [whole(1)], {"keepdims": 0}),
    ("Relu", MAPS, [], {}),
    ("Reshape", MAPS, [whole(0, 2, -1)], {}),
    ("Resize", MAPS, [None, None, whole(1, 4, 12, 16)], {"mode": "linear"}),
    ("Resize", MAPS, [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    (
        "Resize",
        MAPS,
        [None, None, whole(1, 4, 9, 11)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        MAPS,
        [None, np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Sigmoid", MAPS, [], {}),
    ("Slice", MAPS, [whole(1, -7), whole(3, 99), whole(1, 3), whole(1, 2)], {}),
    ("Slice", TOKENS, [whole(0, 2), whole(1, -1)], {}),
    ("Softmax", TOKENS, [], {"axis": 1}),
    ("Split", TOKENS, [whole(2, 4)], {"axis": 1}),
    ("Split", TOKENS, [], {"axis": 2, "num_outputs": 4}),
    ("Sqrt", MAPS, [], {}),
    ("Squeeze", MAPS, [whole(0)], {}),
    ("Transpose", MAPS, [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", TOKENS, [], {}),
    ("Unsqueeze", TOKENS, [whole(0, -1)], {}),
]


def made(name: str, shape: tuple[int, ...], constants: list[Array | None], settings: dict[str, Any]) -> onnx.ModelProto:
    """A graph of one node that reads `x`."""
    names = ["x", *("" if value is None else f"c{k}" for k, value in enumerate(constants))]
    outputs = [f"y{k}" for k in range({"Split": settings.get("num_outputs", 2)}.get(name, 1))]
    node = helper.make_node(name, names, outputs, **settings)
    given = [numpy_helper.from_array(np.asarray(v), f"c{k}") for k, v in enumerate(constants) if v is not None]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=output) for output in outputs],
        given,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("name", "shape", "constants", "settings"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_operator_gives_what_onnx_runtime_gives(
    name: str, shape: tuple[int, ...], constants: list[Array | None], settings: dict[str, Any]
) -> None:
    model = made(name, shape, constants, settings)
    images = [some(*shape) if name != "Sqrt" else some(*shape) ** 2 for _ in range(3)]
    session = open_session(model.SerializeToString())
    wanted = [session.run(None, {"x": image}) for image in images]
    (node,) = model.graph.node
    held = [None if value is None else torch.from_numpy(np.asarray(value)) for value in constants]

    def run(image: torch.Tensor) -> Any:
        found = OPERATORS[name]([image, *held], attributes(node))
        return found if isinstance(found, tuple) else (found,)

    together = torch.vmap(run)(torch.from_numpy(np.stack(images)))
    assert len(together) == len(wanted[0])
    for number, outputs in enumerate(wanted):
        for found, output in zip(together, outputs, strict=True):
            assert found[number].numpy() == pytest.approx(output, rel=1e-4, abs=1e-5)


def test_every_operator_is_tried() -> None:
    assert {name for name, *_ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("name", "constants", "settings", "what"),
    [
        ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, "count_include_pad 0 with pads"),
        ("AveragePool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations"),
        ("Flatten", [], {"axis": 2}, "axis 2"),
        ("Gemm", [some(8, 3)], {"alpha": 0.5}, "alpha 0.5"),
        ("Gemm", [some(8, 3)], {"beta": 2.0}, "beta 2"),
        ("Gemm", [some(8, 3)], {"transA": 1}, "transA 1"),
        ("LayerNormalization", [some(1)], {}, "a scale of the shape"),
        ("Resize", [None, np.array([1, 1, 1.4, 1.4], np.float32)], {"mode": "linear"}, "scales that give 8.4 x 11.2"),
        (
            "Resize",
            [None, None, whole(1, 4, 18, 24)],
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
            "nearest, asymmetric, round_prefer_floor",
        ),
        (
            "Resize",
            [None, None, whole(1, 4, 9, 24)],
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            "by no whole number",
        ),
        ("Split", [], {"axis": 1}, "neither sizes nor num_outputs"),
        ("Cast", [], {"to": TensorProto.STRING}, "to STRING"),
        ("Conv", [some(4, 4, 3, 3)], {"auto_pad": "SAME_UPPER"}, "SAME_UPPER"),
        ("ConvTranspose", [some(4, 4, 3, 3)], {"output_shape": [12, 16]}, "an output_shape"),
        ("MaxPool", [], {"kernel_shape": [2, 2], "ceil_mode": 1}, "ceil_mode"),
        ("Pad", [whole(1, 1, 1, 1, 1, 1, 1, 1)], {"mode": "reflect"}, "reflect"),
        ("ReduceMean", [], {}, "no axes"),
        ("Resize", [None, None, whole(1, 4, 12, 16)], {"mode": "cubic"}, "cubic"),
        ("Resize", [None, None, whole(1, 4, 9, 16)], {"mode": "nearest"}, "nearest, half_pixel"),
        ("Resize", [], {"mode": "linear"}, "neither scales nor sizes"),
        ("Slice", [whole(5), whole(0), whole(3), whole(-1)], {}, "a step of -1"),
    ],
)
def test_what_no_network_here_has_is_refused_and_not_guessed(
    name: str, constants: list[Array | None], settings: dict[str, Any], what: str
) -> None:
    (node,) = made(name, MAPS, constants, settings).graph.node
    held = [None if value is None else torch.from_numpy(value) for value in constants]
    with pytest.raises(ArtifactError, match=f"{what}.*; leave --finetune out"):
        OPERATORS[name]([torch.from_numpy(some(*MAPS)), *held], attributes(node))
