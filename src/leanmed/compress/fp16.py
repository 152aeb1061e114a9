"""FP16 as a storage format: half the bytes in the file, and float32 arithmetic.

Weights are kept as float16 and cast to float32, which a runtime does once when it opens the file. Arithmetic in float16
is slower on CPUs than float32 (0.77 times the speed, measured), and loses more.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.graph import Array, copy

FLOOR = 4096  # values; smaller weights hold few bytes, and those of the first layers matter most
LIMIT = float(np.finfo(np.float16).max)


def store_half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Keep large float32 constants as float16.

    Returns:
        The model, and name -> why of the constants that stay float32.
    """
    model = copy(model)
    kept: dict[str, str] = {}
    casts = []
    for constant in model.graph.initializer:
        value = numpy_helper.to_array(constant)
        if value.dtype != np.float32:
            continue
        reason = _keep(value)
        if reason:
            kept[constant.name] = reason
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
    for cast in casts:
        model.graph.node.insert(0, cast)
    return model, kept


def _keep(value: Array) -> str | None:
    if value.size < FLOOR:
        return f"it has fewer than {FLOOR} values"
    largest = np.abs(value).max()
    return f"its largest value {largest:.3g} is beyond float16" if largest > LIMIT else None
