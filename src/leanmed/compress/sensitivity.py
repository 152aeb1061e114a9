"""How much of the answer's noise each rounding makes: one tensor or one layer's weights at a time.

Roundings are all but independent, so their noise powers add up, and what is left when some of them are spared can be
foretold without building it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from leanmed.compress.activation_ranges import Range, Sample, tensor_values
from leanmed.compress.graph import Array, rename, set_initializers, shapes
from leanmed.compress.network import Layer, Network, multiplications
from leanmed.compress.qdq import LEVELS, rounded_tensors, step
from leanmed.compress.rounding import Rounded

HANDOVER = 17


def of_activations(
    network: Network, names: Iterable[str], ranges: Mapping[str, Range], samples: Sequence[Sample]
) -> dict[str, float]:
    """Tensor -> noise power over the answer's variance when nothing but this tensor is rounded, to 8 bits."""
    reference = _answers(network.core, network.outputs, samples)
    return {name: _noise(network, _round_tensor(network, name, ranges[name]), samples, reference) for name in names}


def of_weights(network: Network, rounded: Mapping[str, Rounded], samples: Sequence[Sample]) -> dict[str, float]:
    """Layer name -> noise power over the answer's variance when nothing but this layer's weights is rounded."""
    layers = [layer for layer in network.layers if layer.name in rounded]
    reference = _answers(network.core, network.outputs, samples)
    return {
        layer.name: _noise(network, _round_weights(network, layer, rounded[layer.name]), samples, reference)
        for layer in layers
    }


def noise(network: Network, core: onnx.ModelProto, samples: Sequence[Sample]) -> float:
    """Noise power over the answer's variance, of a graph with this network's inputs and outputs."""
    return _noise(network, core, samples, _answers(network.core, network.outputs, samples))


def _answers(core: onnx.ModelProto, outputs: Sequence[str], samples: Sequence[Sample]) -> Array:
    return np.stack([np.concatenate([f[o].ravel() for o in outputs]) for f in tensor_values(core, outputs, samples)])


def _noise(network: Network, core: onnx.ModelProto, samples: Sequence[Sample], reference: Array) -> float:
    error = _answers(core, network.outputs, samples) - reference
    return float(np.mean(error**2) / max(np.mean((reference - reference.mean(axis=0)) ** 2), 1e-30))


def _round_weights(network: Network, layer: Layer, rounded: Rounded) -> onnx.ModelProto:
    values: dict[str, Array] = {layer.weight: rounded.weight(layer)}
    if layer.bias and rounded.bias is not None:
        values[layer.bias] = rounded.bias
    return set_initializers(network.core, values)


def _round_tensor(network: Network, name: str, limits: Range) -> onnx.ModelProto:
    """The core with one tensor rounded, in plain arithmetic that no runtime takes for a quantized layer."""
    core = set_initializers(network.core, {})
    size = step(limits)
    low = np.rint(limits[0] / size)
    constants = {"step": size, "low": low, "high": low + LEVELS}
    core.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), f"noise_{key}") for key, value in constants.items()
    )
    rename(core.graph.node, name, "noise_rounded")
    nodes = [
        helper.make_node("Div", [name, "noise_step"], ["noise_scaled"]),
        helper.make_node("Round", ["noise_scaled"], ["noise_whole"]),
        helper.make_node("Clip", ["noise_whole", "noise_low", "noise_high"], ["noise_clipped"]),
        helper.make_node("Mul", ["noise_clipped", "noise_step"], ["noise_rounded"]),
    ]
    place = 1 + max((i for i, node in enumerate(core.graph.node) if name in node.output), default=-1)
    for node in reversed(nodes):
        core.graph.node.insert(place, node)
    return core


def promote(layers: Sequence[Layer], noise: Mapping[str, float], share: float) -> dict[str, str]:
    """Which layers to keep at 8 bits when the others get 4.

    Those whose 4-bit weights make most noise for a byte, until `share` of all weights is reached.

    Returns:
        Layer name -> why.
    """
    room = share * sum(layer.size for layer in layers)
    kept = {}
    for layer in sorted(layers, key=lambda layer: -noise[layer.name] / layer.size):
        if layer.size <= room:
            kept[layer.name] = (
                f"4-bit weights would add {_percent(noise[layer.name])} of the answer's variance as noise"
            )
            room -= layer.size
    return kept


def spare_head(
    network: Network,
    rounded: Mapping[str, Rounded],
    ranges: Mapping[str, Range],
    samples: Sequence[Sample],
    share: float,
) -> dict[str, str]:
    """Which of the first layers to leave in float.

    Early tensors carry their rounding through the whole network, and have so few channels that integer kernels gain
    little. Of all beginnings that cost at most `share` of the network's multiplications, the shortest that takes away
    nine tenths of the noise that any of them could.

    Args:
        network: the float network.
        rounded: every layer's weights.
        ranges: of every activation.
        samples: to measure noise on.
        share: the most that may stay float.

    Returns:
        Layer name -> why.
    """
    order = [layer.name for layer in network.layers]
    costs = _costs(network)
    lengths = [k for k in range(1, len(order)) if costs[k - 1] <= share]
    if not lengths:
        return {}
    by_weight = of_weights(network, {name: rounded[name] for name in order[: lengths[-1]]}, samples)
    freed = {k: _freed(network, order[k:]) & set(ranges) for k in lengths}
    by_tensor = of_activations(network, freed[lengths[-1]], ranges, samples)
    saved = {k: sum(by_tensor[t] for t in freed[k]) + sum(by_weight[n] for n in order[:k]) for k in lengths}
    length = next(k for k in lengths if saved[k] >= 0.9 * max(saved.values()))
    reason = (
        f"rounding the first {length} layers would add {_percent(saved[length])} of the answer's variance as noise; "
        f"sparing them costs {_percent(costs[length - 1])} of the work"
    )
    return dict.fromkeys(order[:length], reason)


def _costs(network: Network) -> list[float]:
    """What leaving the first 1, 2 ... layers float costs, as a share of all multiplications.

    That is their own, and the rounding of the tensor they hand on, of which each value costs as much as `HANDOVER`
    multiplications (measured at 112x112 and 56x56, 16 to 96 channels).
    """
    counts, known = multiplications(network), shapes(network.core)
    done = np.cumsum([counts[layer.name] for layer in network.layers])
    handed = [float(np.prod([max(1, size) for size in known.get(layer.output, (1,))])) for layer in network.layers]
    return [float(d + HANDOVER * h) / float(done[-1]) for d, h in zip(done, handed, strict=True)]


def _freed(network: Network, rest: Sequence[str]) -> set[str]:
    """The tensors that are not rounded when only the layers `rest` are quantized."""
    everything = rounded_tensors(network, [layer.name for layer in network.layers])
    return set(everything) - set(rounded_tensors(network, rest))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
