"""ONNX operators as functions of torch, as far as the networks of leanmed need them: finetune.py runs a graph by them.

Each takes a node's inputs, None for one that is left out, and its attributes, and gives its output, or a tuple of them.
The arithmetic is that of the operator's definition (https://onnx.ai/onnx/operators) in the opsets that leanmed exports;
what none of its networks uses is refused, and never guessed. A graph takes one image at a time, and `torch.vmap` runs
several of them together, so that nothing here may depend on values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from leanmed.errors import ArtifactError

Inputs = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Any]
TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
}
PLANES = 4  # axes of maps (1, c, h, w)


def _unlike(operator: str, what: object) -> ArtifactError:
    return ArtifactError(f"expected {operator} as leanmed's networks have it, got {what}; leave --finetune out")


def _sides(attributes: Attributes) -> tuple[int, int, int, int]:
    """Padding left, right, top and bottom."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _unlike("padding", f"auto_pad {attributes['auto_pad'].decode()} and no pads")
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return left, right, top, bottom


def _strides(attributes: Attributes) -> dict[str, Any]:
    return {name: tuple(attributes.get(f"{name}s", (1, 1))) for name in ("stride", "dilation")}


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, *bias = inputs
    groups = attributes.get("group", 1)
    x = F.pad(x, _sides(attributes))
    return F.conv2d(x, weight, bias[0] if bias else None, groups=groups, **_strides(attributes))


def _conv_transpose(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, *bias = inputs
    left, right, top, bottom = _sides(attributes)
    if "output_shape" in attributes:
        raise _unlike("ConvTranspose", "an output_shape")
    further = tuple(attributes.get("output_padding", (0, 0)))
    whole = F.conv_transpose2d(
        x,
        weight,
        bias[0] if bias else None,
        output_padding=further,
        groups=attributes.get("group", 1),
        **_strides(attributes),
    )
    height, width = whole.shape[-2:]
    cut: Tensor = whole[..., top : height - bottom, left : width - right]
    return cut


def _check_pool(operator: str, attributes: Attributes) -> None:
    if attributes.get("ceil_mode", 0):
        raise _unlike(operator, "ceil_mode 1")
    if tuple(attributes.get("dilations", (1, 1))) != (1, 1):
        raise _unlike(operator, f"dilations {tuple(attributes['dilations'])}")


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    _check_pool("MaxPool", attributes)
    kernel = tuple(attributes["kernel_shape"])
    x = F.pad(inputs[0], _sides(attributes), value=-math.inf)
    return F.max_pool2d(x, kernel, tuple(attributes.get("strides", (1, 1))))


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    sides = _sides(attributes)
    _check_pool("AveragePool", attributes)
    if any(sides) and not attributes.get("count_include_pad", 0):
        raise _unlike("AveragePool", "count_include_pad 0 with pads")
    return F.avg_pool2d(
        F.pad(inputs[0], sides), tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    )


def _batch_normalization(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias, mean, variance = (
        value if k == 0 else value.reshape(1, -1, *[1] * (inputs[0].ndim - 2)) for k, value in enumerate(inputs)
    )
    normal: Tensor = (x - mean) / torch.sqrt(variance + attributes.get("epsilon", 1e-5)) * scale + bias
    return normal


def _layer_normalization(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, *bias = inputs
    shape = x.shape[attributes.get("axis", -1) :]
    if scale.shape != shape:
        raise _unlike("LayerNormalization", f"a scale of the shape {tuple(scale.shape)} for values of {tuple(shape)}")
    return F.layer_norm(x, shape, scale, bias[0] if bias else None, attributes.get("epsilon", 1e-5))


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, *bias = inputs
    for name, plain in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
        if attributes.get(name, plain) != plain:
            raise _unlike("Gemm", f"{name} {attributes[name]:g}")
    product: Tensor = x @ (weight.T if attributes.get("transB", 0) else weight)
    return product + bias[0] if bias else product


def _divide(inputs: Inputs, attributes: Attributes) -> Tensor:
    if not inputs[0].is_floating_point():
        raise _unlike("Div", "whole numbers")
    quotient: Tensor = inputs[0] / inputs[1]
    return quotient


def _gelu(inputs: Inputs, attributes: Attributes) -> Tensor:
    return F.gelu(inputs[0], approximate=attributes.get("approximate", b"none").decode())


def _resize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None, None)[:4]
    mode, where = (attributes.get(key, other).decode() for key, other in _RESIZE.items())
    if x.ndim != PLANES or attributes.get("antialias", 0) or mode not in ("linear", "nearest"):
        raise _unlike("Resize", f"mode {mode} of {x.ndim} axes, antialias {attributes.get('antialias', 0)}")
    height, width = _new_size(x, scales, sizes)
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
        if where != "asymmetric" or rounding != "floor":
            raise _unlike("Resize", f"nearest, {where}, {rounding}")
        if height % x.shape[-2] or width % x.shape[-1]:
            raise _unlike("Resize", f"nearest, from {tuple(x.shape[-2:])} to {(height, width)}, by no whole number")
        return F.interpolate(x, size=(height, width), mode="nearest")
    if where not in ("align_corners", "half_pixel", "pytorch_half_pixel"):
        raise _unlike("Resize", where)
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=where == "align_corners")


_RESIZE = {"mode": b"nearest", "coordinate_transformation_mode": b"half_pixel"}


def _new_size(x: Tensor, scales: Tensor | None, sizes: Tensor | None) -> tuple[int, int]:
    if sizes is not None and sizes.numel():
        return int(sizes[-2]), int(sizes[-1])
    if scales is None:
        raise _unlike("Resize", "neither scales nor sizes")
    height, width = (side * float(scale) for side, scale in zip(x.shape[-2:], scales[-2:], strict=True))
    if height % 1 or width % 1:
        raise _unlike("Resize", f"scales that give {height:g} x {width:g} places")
    return int(height), int(width)


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, shape = inputs
    reshaped: Tensor = x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])
    return reshaped


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, starts, ends, *more = inputs
    axes = more[0].tolist() if more and more[0] is not None else list(range(len(starts)))
    steps = more[1].tolist() if len(more) > 1 and more[1] is not None else [1] * len(axes)
    chosen = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        if step < 1:
            raise _unlike("Slice", f"a step of {step}")
        chosen[axis] = slice(start, end, step)
    part: Tensor = x[tuple(chosen)]
    return part


def _split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    x, *sizes = inputs
    axis = attributes.get("axis", 0)
    if (not sizes or sizes[0] is None) and "num_outputs" not in attributes:
        raise _unlike("Split", "neither sizes nor num_outputs")
    if not sizes or sizes[0] is None:
        parts = attributes["num_outputs"]
        return torch.split(x, -(-x.shape[axis] // parts), axis)
    return torch.split(x, sizes[0].tolist(), axis)


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0)
    place = axis % x.ndim
    found = x.index_select(place, indices.reshape(-1) % x.shape[place])
    gathered: Tensor = found.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])
    return gathered


def _pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, pads, *more = inputs
    if attributes.get("mode", b"constant") != b"constant":
        raise _unlike("Pad", attributes["mode"].decode())
    value = float(more[0]) if more and more[0] is not None else 0.0
    axes = more[1].tolist() if len(more) > 1 and more[1] is not None else list(range(x.ndim))
    before, after = pads.tolist()[: len(axes)], pads.tolist()[len(axes) :]
    around = {axis % x.ndim: (b, a) for axis, b, a in zip(axes, before, after, strict=True)}
    return F.pad(x, [side for axis in reversed(range(x.ndim)) for side in around.get(axis, (0, 0))], value=value)


def _axes(inputs: Inputs) -> list[int] | None:
    return None if len(inputs) < 2 or inputs[1] is None else [int(axis) for axis in inputs[1]]


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = _axes(inputs)
    squeezed: Tensor = inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))
    return squeezed


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = inputs[0]
    axes = _axes(inputs) or []
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    unsqueezed: Tensor = x
    return unsqueezed


def _mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = _axes(inputs)
    if axes is None:
        raise _unlike("ReduceMean", "no axes")
    mean: Tensor = inputs[0].mean(tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))
    return mean


def _cast(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes["to"] not in TYPES:
        raise _unlike("Cast", f"to {TensorProto.DataType.Name(attributes['to'])}")
    cast: Tensor = inputs[0].to(TYPES[attributes["to"]])
    return cast


def _flatten(inputs: Inputs, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    if axis != 1:
        raise _unlike("Flatten", f"axis {axis}")
    flat: Tensor = inputs[0].flatten(1)
    return flat


def _global_mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


OPERATORS: dict[str, Operator] = {
    "Add": lambda v, a: v[0] + v[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": lambda v, a: v[0].clamp(*v[1:]),
    "Concat": lambda v, a: torch.cat(list(v), a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _divide,
    "Einsum": lambda v, a: torch.einsum(a["equation"].decode(), *v),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "GreaterOrEqual": lambda v, a: v[0] >= v[1],
    "HardSigmoid": lambda v, a: (v[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda v, a: F.hardswish(v[0]),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda v, a: F.leaky_relu(v[0], a.get("alpha", 0.01)),
    "MatMul": lambda v, a: v[0] @ v[1],
    "MaxPool": _max_pool,
    "Mul": lambda v, a: v[0] * v[1],
    "PRelu": lambda v, a: torch.where(v[0] < 0, v[0] * v[1], v[0]),
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": lambda v, a: v[0].relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda v, a: v[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda v, a: v[0].softmax(a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda v, a: v[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda v, a: v[0] - v[1],
    "Transpose": lambda v, a: v[0].permute(a.get("perm", list(reversed(range(v[0].ndim))))),
    "Unsqueeze": _unsqueeze,
}
