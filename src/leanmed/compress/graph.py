"""ONNX graphs: read, simplify, and what else several techniques need of them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from leanmed.errors import ArtifactError
from leanmed.exporting.graph import copy as copy
from leanmed.exporting.graph import parse as parse
from leanmed.exporting.graph import slim

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"})
Array = NDArray[Any]


def refuse_quantized(model: onnx.ModelProto) -> None:
    """Refuse a graph that was quantized before: its weights have lost what a second rounding would need.

    Raises:
        ArtifactError: the graph holds integer layers.
    """
    found = sorted({node.op_type for node in model.graph.node} & QUANTIZED)
    if found:
        raise ArtifactError(
            f"expected a float artifact, got one that is quantized already (it holds {', '.join(found)}); "
            "start from the fp32 artifact it was made from"
        )


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, batch norm and padding into layers with ONNX Runtime's own basic passes; drop stale notes.

    Stale shapes in `value_info` make a quantizer fail, and global averages written as ReduceMean stay float.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simple.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(f"ONNX Runtime cannot open this graph: {error}; export the artifact again") from error
        simple = onnx.load_model(path)
    _name_nodes(simple)
    _own_biases(simple)
    _pool_globally(simple)
    return slim(simple)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a name of its own: quantization addresses nodes by name."""
    taken = Counter(node.name for node in model.graph.node)
    for number, node in enumerate(model.graph.node):
        if not node.name or taken[node.name] > 1:
            node.name = f"{node.op_type}_{number}"


def _own_biases(model: onnx.ModelProto) -> None:
    """Give each layer a bias of its own: exporters store equal ones once, and quantization changes each differently."""
    constants = initializers(model)
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and uses[node.input[2]] > 1:
            name = f"{node.name}_bias"
            model.graph.initializer.append(numpy_helper.from_array(constants[node.input[2]], name))
            node.input[2] = name


def _pool_globally(model: onnx.ModelProto) -> None:
    """ReduceMean over height and width, as torch exports it, is GlobalAveragePool, which integer kernels know."""
    constants = initializers(model)
    known = shapes(model)
    for node in model.graph.node:
        axes = constants.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) > 1 else None
        if axes is None or attributes(node).get("keepdims", 1) == 0 or len(known.get(node.input[0], ())) != 4:
            continue
        if sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, where it can be inferred; 0 for a dimension that varies."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {info.name: info.type.tensor_type for info in (*inferred.input, *inferred.value_info, *inferred.output)}
    return {name: tuple(d.dim_value for d in kind.shape.dim) for name, kind in known.items() if kind.HasField("shape")}


def share_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store equal constants once."""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for constant in model.graph.initializer:
        key = (constant.data_type, tuple(constant.dims), numpy_helper.to_array(constant).tobytes())
        same[constant.name] = first.setdefault(key, constant.name)
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    return slim(model)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    """A graph's constants."""
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def set_initializers(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with some constants replaced."""
    other = copy(model)
    for constant in other.graph.initializer:
        if constant.name in values:
            value = np.ascontiguousarray(values[constant.name])
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    return other


def rename(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Let nodes read one tensor in place of another."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
