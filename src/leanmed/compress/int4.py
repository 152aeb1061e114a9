"""Weights of 4 bits that take 4 bits in the file.

A packed INT4 constant is cast to INT8 and dequantized per channel. A runtime folds the cast when it opens the file and
then runs its 8-bit kernels; dequantizing INT4 directly is four times slower in ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from leanmed.compress.graph import copy

OPSET = 21  # the first with INT4
SUFFIX = "_int4"


def pack(model: onnx.ModelProto, weights: Collection[str]) -> onnx.ModelProto:
    """Store the named INT8 constants, whose values lie in [-8, 7], in 4 bits each."""
    model = _at_least(model, OPSET)
    casts = []
    for constant in model.graph.initializer:
        if constant.name in weights:
            codes = numpy_helper.to_array(constant)
            name = constant.name
            packed = helper.make_tensor(f"{name}{SUFFIX}", TensorProto.INT4, codes.shape, _nibbles(codes), raw=True)
            constant.CopyFrom(packed)
            casts.append(helper.make_node("Cast", [constant.name], [name], to=TensorProto.INT8))
    for cast in casts:
        model.graph.node.insert(0, cast)
    return model


def _nibbles(codes: NDArray[np.int8]) -> bytes:
    """Two codes a byte, the first in the low half."""
    flat = np.append(codes.ravel(), np.zeros(codes.size % 2, np.int8)).view(np.uint8) & 15
    return bytes(flat[0::2] | flat[1::2] << 4)


def _at_least(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    found = max(entry.version for entry in model.opset_import if entry.domain == "")
    return copy(model) if found >= opset else version_converter.convert_version(model, opset)
