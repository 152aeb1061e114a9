"""The network inside a graph: the layers with weights between pixels and answer, and what lies between them.

An artifact's graph is pre-processing, network, post-processing, with nothing in the file to tell them apart. The
network is whatever lies between the layers with weights; what comes before the first and after the last stays float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from leanmed.compress.graph import Array, attributes, initializers, set_initializers, shapes
from leanmed.errors import ArtifactError
from leanmed.tasks.kind import FAMILIAR

HEAVY = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node with constant weights.

    Args:
        name: the weight's name in the model it was exported from.
        node: the node's name.
        op: Conv, Gemm or MatMul.
        input, output, weight, bias: tensor names; no bias is None.
        shape: of the weight, as stored.
        axis: of the output channels in the weight.
        attributes: the node's own.
    """

    name: str
    node: str
    op: str
    input: str
    output: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    axis: int
    attributes: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """How many independent parts the layer has; a depthwise convolution has one for each channel."""
        return int(self.attributes.get("group", 1))

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.shape[self.axis]

    @property
    def size(self) -> int:
        """How many weights."""
        return int(np.prod(self.shape))

    def rows(self, weight: Array) -> Array:
        """A weight as (groups, outputs of a group, inputs of an output), so that output = rows @ patches."""
        if self.op != "Conv":
            return weight[None] if self.axis == 0 else weight.T[None]
        return weight.reshape(self.groups, self.channels // self.groups, -1)

    def weights(self, rows: Array) -> Array:
        """The inverse of `rows`."""
        flat: Array = rows[0]
        if self.op != "Conv":
            return flat if self.axis == 0 else flat.T
        return rows.reshape(self.shape)

    def patches(self, x: Array, rng: np.random.Generator, limit: int) -> Array:
        """Inputs (..., K), or (1, C, h, w) of a convolution, as (groups, K, positions), at most `limit` positions."""
        if self.op != "Conv":
            flat = x.reshape(-1, x.shape[-1])
            return flat[_draw(rng, len(flat), limit)].T[None]
        top, left, bottom, right = self.attributes.get("pads", (0, 0, 0, 0))
        (kh, kw), (sh, sw) = self.shape[2:], self.attributes.get("strides", (1, 1))
        dh, dw = self.attributes.get("dilations", (1, 1))
        x = np.pad(x[0], ((0, 0), (top, bottom), (left, right)))
        reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
        windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))[:, ::sh, ::sw, ::dh, ::dw]
        c, h, w = windows.shape[:3]
        row, column = np.divmod(_draw(rng, h * w, limit), w)
        drawn = windows[:, row, column]  # (C, positions, kh, kw)
        return drawn.transpose(0, 2, 3, 1).reshape(self.groups, c // self.groups * kh * kw, -1)


def _draw(rng: np.random.Generator, size: int, limit: int) -> NDArray[np.int64]:
    return np.arange(size) if size <= limit else rng.choice(size, limit, replace=False)


@dataclass(frozen=True)
class Network:
    """A simplified graph and the part of it that can be quantized.

    Args:
        model: the whole graph.
        core: the network alone, from `inputs` to `outputs`.
        nodes: names of the nodes of the network, in order.
        layers: those with weights that quantization handles, in order.
        left_float: name -> why, of large constants and layers it does not handle.
    """

    model: onnx.ModelProto
    core: onnx.ModelProto
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    left_float: Mapping[str, str]

    def weights(self) -> dict[str, Array]:
        """Every initializer of the core."""
        return initializers(self.core)

    def replace(self, values: Mapping[str, Array]) -> Network:
        """The same network with some initializers changed; the shapes must stay."""
        return find_network(set_initializers(self.model, values))


def find_network(model: onnx.ModelProto) -> Network:
    """Find the network in a simplified graph: the layers with weights and all that lies between them.

    Raises:
        ArtifactError: no layer with constant weights.
    """
    constants = initializers(model)
    anchors = [n for n in model.graph.node if n.op_type in HEAVY and len(n.input) > 1 and n.input[1] in constants]
    if not anchors:
        raise ArtifactError(
            f"expected a graph with constant weights in {', '.join(HEAVY)} nodes, found none to quantize"
        )
    layers, left_float = _layers(anchors, constants, Counter(name for node in model.graph.node for name in node.input))
    between = _between(model, anchors)
    made = {name for node in between for name in node.output}
    inputs = tuple(dict.fromkeys(i for n in between for i in n.input if i and i not in made and i not in constants))
    inside, answering = {n.name for n in between}, _answering(model)
    outputs = tuple(o for n in between for o in n.output if _leaves(model, o, answering - inside))
    core = Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(list(inputs), list(outputs))
    names = tuple(node.name for node in between)
    return Network(model, core, names, inputs, outputs, layers, left_float | _large_elsewhere(model, anchors))


def cut_out(network: Network, model: onnx.ModelProto) -> onnx.ModelProto:
    """The network alone, from any graph that calls the network's inputs and outputs as its own does."""
    whole = Extractor(onnx.shape_inference.infer_shapes(model))
    return whole.extract_model(list(network.inputs), list(network.outputs))


def _layers(
    anchors: Sequence[onnx.NodeProto], constants: Mapping[str, Array], uses: Mapping[str, int]
) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """The layers to quantize, and name -> why of those that stay float. What all names begin with is dropped."""
    layers, left_float = [], {}
    for node, name in zip(anchors, _short([_layer_name(node) for node in anchors]), strict=True):
        weight = constants[node.input[1]]
        reason = _unsupported(node, weight, uses[node.input[1]])
        if reason:
            left_float[name] = reason
        else:
            layers.append(_layer(node, name, weight))
    return tuple(layers), left_float


def _short(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all of them begin with."""
    parts = [name.split(".") for name in names]
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    return [".".join(part[min(shared, len(part) - 1) :]) for part in parts]


def _between(model: onnx.ModelProto, anchors: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes on a path from one anchor to another, the anchors among them."""
    after, before = {n.name for n in anchors}, {n.name for n in anchors}
    tainted = {o for n in anchors for o in n.output}
    for node in model.graph.node:
        if tainted & set(node.input):
            tainted.update(node.output)
            after.add(node.name)
    needed = {i for n in anchors for i in n.input}
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            before.add(node.name)
    return [node for node in model.graph.node if node.name in after & before]


def _answering(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that an answer depends on: all but those that tell how familiar the image looks.

    The latter watch the network. They stay float, and what they watch does not become an output of the network by it.
    """
    needed = {output.name for output in model.graph.output} - {FAMILIAR}
    answering = set()
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            answering.add(node.name)
    return answering


def _leaves(model: onnx.ModelProto, tensor: str, outside: set[str]) -> bool:
    read = any(tensor in node.input for node in model.graph.node if node.name in outside)
    return read or any(tensor == output.name for output in model.graph.output)


def _large_elsewhere(model: onnx.ModelProto, anchors: Sequence[onnx.NodeProto], floor: int = 1024) -> dict[str, str]:
    """Name -> why, of constants large enough to matter that belong to operators quantization does not handle."""
    known = {node.name for node in anchors}
    answering = _answering(model) - known
    sizes = {i.name: int(np.prod(i.dims)) for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    return {
        _layer_name(node): f"{node.op_type} is not an operator this quantizer handles"
        for node in model.graph.node
        if node.name in answering and any(sizes.get(name, 0) >= floor for name in node.input)
    }


def _unsupported(node: onnx.NodeProto, weight: Array, uses: int) -> str | None:
    found = attributes(node)
    reasons = {
        "its weight is shared with another node": uses > 1,
        "its weight is not float32": weight.dtype != np.float32,
        "only 2-D convolutions are handled": node.op_type == "Conv" and weight.ndim != 4,
        "only matrices are handled": node.op_type != "Conv" and weight.ndim != 2,
        "automatic padding is not handled": found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"),
        "alpha, beta or transA are not handled": node.op_type == "Gemm" and not _plain(found),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _plain(gemm: Mapping[str, Any]) -> bool:
    return gemm.get("alpha", 1.0) == 1.0 and gemm.get("beta", 1.0) == 1.0 and not gemm.get("transA", 0)


def _layer_name(node: onnx.NodeProto) -> str:
    """The name its weight had in the model it was exported from."""
    weight = node.input[1] if len(node.input) > 1 else ""
    return weight.removesuffix(".weight") if weight.endswith(".weight") else node.name


def _layer(node: onnx.NodeProto, name: str, weight: Array) -> Layer:
    found = attributes(node)
    transposed = node.op_type == "Conv" or found.get("transB", 0)
    return Layer(
        name=name,
        node=node.name,
        op=node.op_type,
        input=node.input[0],
        output=node.output[0],
        weight=node.input[1],
        bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
        shape=weight.shape,
        axis=0 if transposed else 1,
        attributes=found,
    )


def multiplications(network: Network) -> dict[str, float]:
    """Layer name -> how many, for one image; a dimension that varies counts as 1."""
    known = shapes(network.core)
    counts = {}
    for layer in network.layers:
        shape = known.get(layer.output, ())
        places = shape[2:] if layer.op == "Conv" else shape[:-1]
        counts[layer.name] = layer.size * float(np.prod([max(1, size) for size in places]))
    return counts
