"""How much of the answer's noise some roundings make: those of one layer's weights, or of a network's beginning.

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


def of_weights(network: Network, rounded: Mapping[str, Rounded], samples: Sequence[Sample]) -> dict[str, float]:
    """Layer name -> noise power over the answer's variance when nothing but this layer's weights is rounded."""
    layers = [layer for layer in network.layers if layer.name in rounded]
    reference = _answers(network.core, network.outputs, samples)
    return {
        layer.name: _noise(network, _round_weights(network, [layer], rounded), samples, reference) for layer in layers
    }


def of_beginnings(
    network: Network,
    rounded: Mapping[str, Rounded],
    ranges: Mapping[str, Range],
    lengths: Iterable[int],
    samples: Sequence[Sample],
) -> dict[int, float]:
    """Length -> noise power over the answer's variance when so many of the first layers alone are quantized.

    That is their weights, and the tensors that would not be rounded if these layers stayed float.
    """
    order = [layer.name for layer in network.layers]
    everything = rounded_tensors(network, order)
    reference = _answers(network.core, network.outputs, samples)
    found = {}
    for length in lengths:
        freed = set(everything) - set(rounded_tensors(network, order[length:]))
        core = _round_weights(network, network.layers[:length], rounded)
        for number, name in enumerate(name for name in everything if name in freed and name in ranges):
            _round_tensor(core, name, ranges[name], f"noise_{number}")
        found[length] = _noise(network, core, samples, reference)
    return found


def noise(network: Network, core: onnx.ModelProto, samples: Sequence[Sample]) -> float:
    """Noise power over the answer's variance, of a graph with this network's inputs and outputs."""
    return _noise(network, core, samples, _answers(network.core, network.outputs, samples))


def _answers(core: onnx.ModelProto, outputs: Sequence[str], samples: Sequence[Sample]) -> Array:
    return np.stack([np.concatenate([f[o].ravel() for o in outputs]) for f in tensor_values(core, outputs, samples)])


def _noise(network: Network, core: onnx.ModelProto, samples: Sequence[Sample], reference: Array) -> float:
    """Mean squared error over the variance between images; of one image, over that between its answer's numbers."""
    error = _answers(core, network.outputs, samples) - reference
    middle = reference.mean(axis=0) if len(reference) > 1 else reference.mean()
    return float(np.mean(error**2) / max(np.mean((reference - middle) ** 2), 1e-30))


def _round_weights(network: Network, layers: Iterable[Layer], rounded: Mapping[str, Rounded]) -> onnx.ModelProto:
    """A copy of the core with some layers' weights and biases rounded."""
    values: dict[str, Array] = {}
    for layer in layers:
        own = rounded[layer.name]
        values[layer.weight] = own.weight(layer)
        if layer.bias and own.bias is not None:
            values[layer.bias] = own.bias
    return set_initializers(network.core, values)


def _round_tensor(core: onnx.ModelProto, name: str, limits: Range, prefix: str) -> None:
    """Round one tensor of a core, in plain arithmetic that no runtime takes for a quantized layer."""
    size = step(limits)
    low = np.rint(limits[0] / size)
    constants = {"step": size, "low": low, "high": low + LEVELS}
    core.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), f"{prefix}_{key}") for key, value in constants.items()
    )
    rename(core.graph.node, name, f"{prefix}_rounded")
    nodes = [
        helper.make_node("Div", [name, f"{prefix}_step"], [f"{prefix}_scaled"]),
        helper.make_node("Round", [f"{prefix}_scaled"], [f"{prefix}_whole"]),
        helper.make_node("Clip", [f"{prefix}_whole", f"{prefix}_low", f"{prefix}_high"], [f"{prefix}_clipped"]),
        helper.make_node("Mul", [f"{prefix}_clipped", f"{prefix}_step"], [f"{prefix}_rounded"]),
    ]
    place = 1 + max((i for i, node in enumerate(core.graph.node) if name in node.output), default=-1)
    for node in reversed(nodes):
        core.graph.node.insert(place, node)


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
    saved = of_beginnings(network, rounded, ranges, lengths, samples)
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


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
