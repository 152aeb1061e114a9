"""8 bits as a storage format: a quarter of the bytes in the file, and float32 arithmetic.

For the precision `w8`, for what stays float in a graph of integers, and for an artifact's graphs beside its first: they
see what the first one makes, and are small. Weights are kept as signed 8-bit integers with a scale for each output
channel. A runtime multiplies the two once, when it opens the file: it does so for a cast and a product, but repeats a
DequantizeLinear for each image. No image is needed to store weights so.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.fp16 import FLOOR
from leanmed.compress.graph import copy

# Which axis of a layer's weight its output channels lie along; of a Gemm, 0 where the weight is transposed.
AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": 1}
LARGEST = 127


def store_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Keep the large constant weights of layers as 8-bit integers; all else stays as it is.

    Returns:
        The model, and name -> why of layers' weights that stay float32.
    """
    model = copy(model)
    axes = _axes(model)
    kept: dict[str, str] = {}
    for constant in list(model.graph.initializer):
        value = numpy_helper.to_array(constant)
        axis = axes.get(constant.name)
        if axis is None or value.dtype != np.float32 or value.ndim < 2:
            continue
        if value.size < FLOOR:
            kept[constant.name] = f"it has fewer than {FLOOR} values"
            continue
        axis %= value.ndim
        others = tuple(k for k in range(value.ndim) if k != axis)
        scale = np.maximum(np.abs(value).max(axis=others) / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
        scale = scale.reshape([-1 if k == axis else 1 for k in range(value.ndim)])
        name = constant.name
        codes = np.clip(np.round(value / scale), -LARGEST, LARGEST).astype(np.int8)
        constant.CopyFrom(numpy_helper.from_array(codes, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        model.graph.node.insert(0, helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
        cast = helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    return model, kept


def float_constants(model: onnx.ModelProto) -> set[str]:
    """The names of a graph's constants that are float32."""
    return {constant.name for constant in model.graph.initializer if constant.data_type == TensorProto.FLOAT}


def _axes(model: onnx.ModelProto) -> dict[str, int]:
    """Weight's name -> the axis of its output channels, of weights that are read by such layers alone."""
    found: dict[str, int] = {}
    refused = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            axis = AXIS.get(node.op_type) if place == 1 else None
            if axis is not None and node.op_type == "Gemm":
                axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
            if axis is None or found.get(name, axis) != axis:
                refused.add(name)
            else:
                found[name] = axis
    return {name: axis for name, axis in found.items() if name not in refused}
