"""A float network with rounded weights to one with integers in the file, as QuantizeLinear/DequantizeLinear pairs.

ONNX Runtime's quantizer places the pairs; this module decides every scale, and undoes what costs bytes, speed or
accuracy in its output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from leanmed.compress.activation_ranges import Range
from leanmed.compress.graph import initializers, rename, set_initializers, shapes, share_constants
from leanmed.compress.network import HEAVY, Layer, Network
from leanmed.compress.rounding import Rounded

# Beside layers: operators with integer kernels, or that only move values. All others between layers stay float.
BETWEEN = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
]
LEVELS = 255
LEAST_RANGE = 1e-8  # of an activation that never varies, such as that of a ReLU which answers to nothing


def step(limits: Range) -> float:
    """The step of an unsigned 8-bit activation with this range."""
    return max(limits[1] - limits[0], LEAST_RANGE) / LEVELS


def insert(network: Network, rounded: Mapping[str, Rounded], ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Quantize the layers in `rounded` and all that comes after the first of them; other layers stay float.

    Args:
        network: with float weights.
        rounded: layer name -> its weights on a grid.
        ranges: of every activation.

    Returns:
        A graph with unsigned 8-bit activations, signed 8-bit weights (4-bit ones still in 8) per channel and 32-bit
        biases.
    """
    layers = [layer for layer in network.layers if layer.name in rounded]
    values: dict[str, Any] = {layer.weight: rounded[layer.name].weight(layer) for layer in layers}
    values |= {layer.bias: rounded[layer.name].bias for layer in layers if layer.bias}
    model = onnx.shape_inference.infer_shapes(set_initializers(network.model, values))
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_tensors_data(ranges),
        nodes_to_quantize=quantized_nodes(network, rounded),
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "MatMul", *BETWEEN],
        extra_options={
            "TensorQuantOverrides": {layer.weight: _override(layer, rounded[layer.name]) for layer in layers},
            "QDQDisableWeightAdjustForInt32Bias": True,  # the scales already leave room for the bias
            "MinimumRealRange": LEAST_RANGE,  # else such an activation gets the step 1, which loses the next bias
        },
    )
    quantizer.quantize_model()
    model = quantizer.model.model
    _leave_answers_float(model, network)
    _derive_bias_scales(model)
    _fence_inputs(model, network)
    _fence_floats(model, network, ranges)
    _shorten_names(model, network)
    quantizer.model.topological_sort()
    return share_constants(model)


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {k: TensorData(lowest=np.float32(low), highest=np.float32(high)) for k, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _override(layer: Layer, rounded: Rounded) -> list[dict[str, Any]]:
    kind = {"axis": layer.axis, "quant_type": QuantType.QInt8, "zero_point": np.int8(0)}
    return [kind | {"scale": np.float32(scale)} for scale in rounded.scale]


def quantized_nodes(network: Network, rounded: Collection[str]) -> list[str]:
    """Those layers, and the operators after the first of them that have integer kernels."""
    chosen = {layer.node for layer in network.layers if layer.name in rounded}
    kinds = {node.name: node.op_type for node in network.core.graph.node}
    first = next((i for i, name in enumerate(network.nodes) if name in chosen), len(network.nodes))
    return [name for name in network.nodes[first:] if name in chosen or kinds[name] in BETWEEN]


def rounded_tensors(network: Network, rounded: Collection[str]) -> list[str]:
    """The activations that `insert` rounds: what quantized nodes read and write, save what a ReLU then clips."""
    nodes = set(quantized_nodes(network, rounded))
    chosen = [node for node in network.core.graph.node if node.name in nodes]
    clipped = {node.input[0] for node in chosen if node.op_type in ("Clip", "Relu")}
    touched = dict.fromkeys(name for node in chosen for name in (*node.input, *node.output))
    skipped = clipped | set(network.weights()) | set(network.outputs)
    return [name for name in touched if name and name not in skipped]


def _leave_answers_float(model: onnx.ModelProto, network: Network) -> None:
    """Read the network's answer before it is rounded to 8 bits, where a matrix product can give it in float."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for output in network.outputs:
        pair = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == output]
        if not pair or makers[output].op_type not in ("Gemm", "MatMul"):
            continue
        back = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == pair[0].output[0])
        rename(graph.node, back.output[0], output)
        graph.node.remove(pair[0])
        graph.node.remove(back)


def _derive_bias_scales(model: onnx.ModelProto) -> None:
    """Let the graph multiply a bias's scale out of its input's and its weight's, which saves 4 bytes a channel.

    A runtime folds the product when it opens the file. A zero point of 0 is the default and left out.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    products = []
    for node in graph.node:
        sources = [makers[name] for name in node.input if name in makers]
        quantized = all(source.op_type == "DequantizeLinear" for source in sources)
        if node.op_type not in HEAVY or len(sources) < 3 or not quantized:
            continue
        x, weight, bias = sources
        name = f"{bias.input[0]}_step"
        products.append(helper.make_node("Mul", [x.input[1], weight.input[1]], [name]))
        bias.input[:] = [bias.input[0], name]
    for product in products:
        graph.node.insert(0, product)


def _fence_inputs(model: onnx.ModelProto, network: Network) -> None:
    """Put a Reshape, to the shape it already has, before the network's quantized inputs.

    ONNX Runtime turns integer networks to channels-last and pushes the transposes as far up as it can. In the
    pre-processing they cost more than they save (2.4 ms of 7 measured), and they do not pass a Reshape.
    """
    known = shapes(network.core)
    for reader in [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in network.inputs]:
        same = np.zeros(len(known[reader.input[0]]), np.int64)  # zeros copy the input's own shape
        _insert_before(model, reader, "Reshape", {"shape": same})


def _fence_floats(model: onnx.ModelProto, network: Network, ranges: Mapping[str, Range]) -> None:
    """Put a Clip that changes nothing between dequantized values and a layer that stays float.

    ONNX Runtime would otherwise quantize that layer too, with one scale for all its channels.
    """
    layers = {layer.node: layer for layer in network.layers}
    dequantized = {name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    for node in [n for n in model.graph.node if n.name in layers]:
        if node.input[0] in dequantized and node.input[1] not in dequantized:
            low, high = ranges[layers[node.name].input]
            room = high - low + 1.0
            _insert_before(model, node, "Clip", {"low": np.float32(low - room), "high": np.float32(high + room)})


def _insert_before(model: onnx.ModelProto, reader: onnx.NodeProto, op: str, constants: Mapping[str, Any]) -> None:
    name = f"{reader.name}_fence"
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}_{key}"))
    model.graph.node.append(
        helper.make_node(op, [reader.input[0], *(f"{name}_{key}" for key in constants)], [name], name)
    )
    reader.input[0] = name


def _shorten_names(model: onnx.ModelProto, network: Network) -> None:
    """Number the tensors and nodes that only this module knows: their long names are 1 % of a small network's file."""
    known = {name for node in network.model.graph.node for name in (*node.input, *node.output)}
    back = {f"{layer.weight}_quantized": layer.weight for layer in network.layers}
    seen = [n for node in model.graph.node for n in (*node.output, *node.input)] + list(initializers(model))
    new = [name for name in dict.fromkeys(seen) if name and name not in known]
    short = {name: back.get(name, f"q{number}") for number, name in enumerate(new)}
    for node in model.graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
    for constant in model.graph.initializer:
        constant.name = short.get(constant.name, constant.name)
