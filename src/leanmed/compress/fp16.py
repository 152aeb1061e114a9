"""FP16 as a storage format: half the bytes in the file, and float32 arithmetic.

Weights are kept as float16 and cast to float32, which a runtime does once when it opens the file. Arithmetic in float16
is slower on CPUs than float32 (0.77 times the speed, measured), and loses more.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.graph import copy

FLOOR = 4096  # values; smaller weights cost few bytes, and those of the first layers matter most
LIMIT = float(np.finfo(np.float16).max)


def store_half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Keep large float32 constants as float16.

    Returns:
        The model, and name -> why of constants that float16 cannot hold and that stay float32.
    """
    model = copy(model)
    kept: dict[str, str] = {}
    casts = []
    for constant in model.graph.initializer:
        value = numpy_helper.to_array(constant)
        if value.dtype != np.float32 or value.size < FLOOR:
            continue
        if np.abs(value).max() > LIMIT:
            kept[constant.name] = f"its largest value {np.abs(value).max():.3g} is beyond float16"
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
    for cast in casts:
        model.graph.node.insert(0, cast)
    return model, kept
