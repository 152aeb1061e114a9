"""Cross-layer equalization: rescale channels between two layers so that 8 bits serve all channels alike.

Where nothing but a ReLU-like function stands between two layers, dividing a channel of the first by s and multiplying
the second's weights for it by s leaves the network as it was (Nagel et al. 2019, arXiv:1906.04721). Here s is chosen
from measured activations in place of the first layer's weights, and weighed against the second layer's weights as in
SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): each weight's own scale already makes the first layer's harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from leanmed.compress.activation_ranges import Sample, channel_ranges
from leanmed.compress.graph import Array
from leanmed.compress.network import Layer, Network
from leanmed.console import Step, nobody, tracked

HOMOGENEOUS = ("Relu", "LeakyRelu")  # f(s x) = s f(x) for s > 0
MARGIN = 1.25  # how far a rescaled channel stays below a ceiling that it never reached
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two layers with a tensor between them that nothing else reads.

    Args:
        first, second: the layers.
        tensor: what the second one reads.
        ceiling: the upper limit of a Clip from 0 between them; infinite without one.
        linear: there is nothing between them.
    """

    first: Layer
    second: Layer
    tensor: str
    ceiling: float
    linear: bool


def equalize(network: Network, samples: Sequence[Sample], step: Step = nobody) -> Network:
    """The same function with channels rescaled, and those of linear pairs centred on 0 too.

    Args:
        network: to rescale.
        samples: images at its inputs.
        step: takes how many of them are through, and how many there are.
    """
    pairs = find_pairs(network)
    spread = channel_ranges(network, [pair.tensor for pair in pairs], tracked(samples, step, len(samples)))
    values = {name: value.astype(np.float64) for name, value in network.weights().items() if value.dtype == np.float32}
    for pair in pairs:
        low, high = spread[pair.tensor].astype(np.float64)
        if pair.linear and _shiftable(pair):
            middle = (low + high) / 2
            _shift(pair, values, middle)
            low, high = low - middle, high - middle
        _rescale(pair, values, _scales(pair, values, np.maximum(-low, high)))
    return network.replace({name: value.astype(np.float32) for name, value in values.items()})


def find_pairs(network: Network) -> list[Pair]:
    """Every pair of convolutions that can be equalized."""
    readers: dict[str, list[str]] = {}
    makers = {}
    for node in network.model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
        for name in node.output:
            makers[name] = node
    ends = {output.name for output in network.model.graph.output}
    constants = network.weights()
    first_by_output = {layer.output: layer for layer in network.layers if layer.op == "Conv"}
    pairs = []
    for second in network.layers:
        between, tensor = makers.get(second.input), second.input
        if second.op != "Conv" or between is None or len(readers[tensor]) > 1:
            continue
        source = tensor if tensor in first_by_output else between.input[0]
        limit = _ceiling(between, constants) if source != tensor else np.inf
        alone = len(readers.get(source, [])) == 1 and source not in ends
        if source in first_by_output and limit is not None and alone:
            pairs.append(Pair(first_by_output[source], second, tensor, limit, source == tensor))
    return pairs


def _ceiling(node: onnx.NodeProto, constants: Mapping[str, Array]) -> float | None:
    """The ceiling a node puts on its input; None if it is not homogeneous below one."""
    op, inputs = node.op_type, list(node.input)
    if op in HOMOGENEOUS:
        return np.inf
    if op != "Clip" or len(inputs) < 2 or constants.get(inputs[1], np.ones(1)).item() != 0:
        return None
    return float(constants[inputs[2]].item()) if len(inputs) > 2 and inputs[2] in constants else np.inf


def _shiftable(pair: Pair) -> bool:
    """Both biases can take up a shift, and no padding puts zeros beside the shifted values."""
    return bool(pair.first.bias and pair.second.bias) and not any(pair.second.attributes.get("pads", (0,)))


def _shift(pair: Pair, values: dict[str, Floats], middle: Floats) -> None:
    """Take each channel's middle off the first bias, and what it meant to the second layer onto the second."""
    values[str(pair.first.bias)] -= middle
    effect = _by_input(pair.second, values) * _of_inputs(pair.second, middle)
    values[str(pair.second.bias)] += effect.sum(axis=(2, 3)).reshape(-1)


def _rescale(pair: Pair, values: dict[str, Floats], scales: Floats) -> None:
    values[pair.first.weight] /= scales[:, None, None, None]
    if pair.first.bias:
        values[pair.first.bias] /= scales
    _by_input(pair.second, values)[...] *= _of_inputs(pair.second, scales)


def _scales(pair: Pair, values: Mapping[str, Floats], peak: Floats) -> Floats:
    """(C,) what to divide each channel by.

    A depthwise second layer has a scale for each channel, so that all may be stretched to one range; else the square
    root shares the difference between activations and weights. A channel that reaches the ceiling must keep its
    scale, and no other may come to reach it.
    """
    column = np.abs(_by_input(pair.second, values)).max(axis=(1, 3)).reshape(-1)
    depthwise = pair.second.groups == pair.second.channels
    wanted = peak if depthwise else np.sqrt(peak / np.maximum(column, 1e-12))
    dead = (peak < 1e-6) | (column < 1e-12)
    full = peak >= pair.ceiling * (1 - 1e-6)
    if dead.all():
        return np.ones_like(peak)
    scales = wanted / np.median(wanted[full] if full.any() else wanted[~dead])
    scales = np.maximum(scales, MARGIN * peak / pair.ceiling)
    return np.where(dead | full, 1.0, scales)


def _by_input(layer: Layer, values: Mapping[str, Floats]) -> Floats:
    """A view of a convolution's weight as (groups, outputs, inputs, taps)."""
    weight = values[layer.weight]
    return weight.reshape(layer.groups, layer.channels // layer.groups, layer.shape[1], -1)


def _of_inputs(layer: Layer, by_channel: Floats) -> Floats:
    """Values of the input channels, in the places `_by_input` gives them."""
    return by_channel.reshape(layer.groups, 1, layer.shape[1], 1)
