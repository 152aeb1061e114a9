"""What calibration images tell of a network: the range of every tensor and the moments of every layer's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.utils import Extractor

from leanmed.compress.graph import Array, copy, shapes
from leanmed.compress.network import Layer, Network
from leanmed.console import Step, nobody, tracked
from leanmed.runtime.predictor import open_session

Method = Literal["minmax", "percentile"]
Sample = Mapping[str, Array]  # one image at the network's inputs
Range = tuple[float, float]
Item = TypeVar("Item")
PERCENTILE = 99.99
BINS = 4096
MAX_INPUTS = 4608  # of one output; the second moments of more (a 3x3 convolution of 512 channels) fill the memory
MOMENT_BYTES = 2**29
VALUE_BYTES = 2**30  # of activations that are held at once
POSITIONS = 512  # of one image; neighbours in large maps are much alike


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's input patches.

    Args:
        mean: (groups, K).
        second: (groups, K, K), the mean of patch times its transpose.
    """

    mean: NDArray[np.float64]
    second: NDArray[np.float64]


def network_inputs(network: Network, images: Iterable[NDArray[np.uint8]]) -> list[Sample]:
    """Images (h, w, 3 or 4) to what the pre-processing makes of them, kept in memory at the network's size."""
    (pixels,) = [entry.name for entry in network.model.graph.input]
    if network.inputs == (pixels,):
        return [{pixels: image} for image in images]
    extractor = Extractor(onnx.shape_inference.infer_shapes(network.model))
    session = open_session(extractor.extract_model([pixels], list(network.inputs)).SerializeToString())
    return [dict(zip(network.inputs, session.run(None, {pixels: image}), strict=True)) for image in images]


def tensor_values(core: onnx.ModelProto, names: Sequence[str], samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
    """Run the network and yield the named tensors for each sample."""
    given = {entry.name for entry in core.graph.input}
    wanted = [name for name in dict.fromkeys(names) if name not in given]
    model = copy(core)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = open_session(model.SerializeToString()) if wanted else None
    for sample in samples:
        found = session.run(wanted, dict(sample)) if session else []
        yield dict(zip(wanted, found, strict=True)) | {name: sample[name] for name in names if name in given}


def activation_names(network: Network) -> list[str]:
    """The float tensors that flow through the network, its inputs first."""
    inferred = onnx.shape_inference.infer_shapes(network.core).graph
    is_float = {i.name for i in inferred.value_info if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    ends = [*network.inputs, *network.outputs]
    made = [name for node in network.core.graph.node for name in node.output if name in is_float]
    return list(dict.fromkeys([*network.inputs, *made, *ends]))


def tensor_ranges(
    network: Network, samples: Sequence[Sample], method: Method = "minmax", step: Step = nobody
) -> dict[str, Range]:
    """The range of every activation, always holding 0.

    minmax: the extremes seen. percentile: what 99.99 % of the values lie in, so that one outlier does not make the
    steps of all others coarse (read off a histogram of 4096 bins). `step` takes how many images are through, over all
    passes that are made over them, and of how many.
    """
    names = activation_names(network)
    if method == "minmax":
        return _extremes(network, names, samples, step)
    passes = list(_passes(network, names))
    images, total = len(samples), (1 + len(passes)) * len(samples)
    extremes = _extremes(network, names, samples, lambda done, _: step(done, total))
    counts = {name: np.zeros(BINS) for name in names}
    for some, seen in _seen_in(passes, samples, lambda done, _: step(images + done, total)):
        for found in tensor_values(network.core, some, seen):
            for name, value in found.items():
                counts[name] += np.histogram(value, BINS, range=_wide(extremes[name]))[0]
    return {name: _percentile(counts[name], _wide(extremes[name])) for name in names}


def _seen_in(passes: Sequence[Item], samples: Sequence[Sample], step: Step) -> Iterator[tuple[Item, Iterator[Sample]]]:
    """Each pass with the samples, which tell how many of all passes are through."""
    for number, some in enumerate(passes):
        yield some, tracked(samples, step, len(passes) * len(samples), number * len(samples))


def _extremes(network: Network, names: Sequence[str], samples: Sequence[Sample], step: Step) -> dict[str, Range]:
    """Least and greatest value of each tensor, found inside the graph: a large network's values fill the memory."""
    core, asked = copy(network.core), set(names)
    nodes = [end for name in network.inputs for end in _ends(name)]
    for node in network.core.graph.node:
        nodes += [node, *(end for name in node.output if name in asked for end in _ends(name))]
    del core.graph.node[:], core.graph.output[:]
    core.graph.node.extend(nodes)
    wanted = [end.output[0] for name in names for end in _ends(name)]
    core.graph.output.extend(onnx.ValueInfoProto(name=end) for end in wanted)
    session = open_session(core.SerializeToString(), in_order=True)
    found = np.zeros((len(names), 2))
    for sample in tracked(samples, step, len(samples)):
        ends = np.array(session.run(wanted, dict(sample)), np.float64).reshape(-1, 2)
        found = np.stack([np.minimum(found[:, 0], ends[:, 0]), np.maximum(found[:, 1], ends[:, 1])], axis=1)
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, found, strict=True)}


def _ends(name: str) -> list[onnx.NodeProto]:
    """What finds the least and the greatest value of a tensor."""
    return [helper.make_node(op, [name], [f"{name}_{op}"], keepdims=0) for op in ("ReduceMin", "ReduceMax")]


def _passes(network: Network, names: Sequence[str]) -> Iterator[list[str]]:
    """Tensors in runs whose values of one image fit in memory together; of those of unknown shape it is not known."""
    known = shapes(network.core)
    yield from _runs(names, lambda name: 4 * prod(known.get(name, ())), VALUE_BYTES)


def _wide(limits: Range) -> Range:
    return limits[0], max(limits[1], limits[0] + 1e-12)


def _percentile(counts: NDArray[np.float64], limits: Range) -> Range:
    share = np.cumsum(counts) / counts.sum()
    tail = (1 - PERCENTILE / 100) / 2
    edges = np.linspace(*limits, BINS + 1)
    low = edges[np.searchsorted(share, tail, side="right")]
    high = edges[min(BINS, int(np.searchsorted(share, 1 - tail)) + 1)]
    return min(0.0, float(low)), max(0.0, float(high))


def channel_ranges(network: Network, names: Sequence[str], samples: Iterable[Sample]) -> dict[str, Array]:
    """Name -> (2, C), the least and greatest value of each channel of tensors (1, C, ...)."""
    found: dict[str, Array] = {}
    for values in tensor_values(network.core, names, samples):
        for name, value in values.items():
            flat = value.reshape(value.shape[1], -1)
            seen = np.stack([flat.min(axis=1), flat.max(axis=1)])
            old = found.get(name, seen)
            found[name] = np.stack([np.minimum(old[0], seen[0]), np.maximum(old[1], seen[1])])
    return found


def input_moments(network: Network, samples: Sequence[Sample], step: Step = nobody) -> dict[str, Moments]:
    """Layer name -> moments of its input, for layers of at most `MAX_INPUTS` inputs an output, in several passes."""
    rng = np.random.default_rng(0)
    found: dict[str, Moments] = {}
    batches = list(_batches([layer for layer in network.layers if _inputs(layer) <= MAX_INPUTS]))
    for some, seen in _seen_in(batches, samples, step):
        sums = {layer.name: _Sum(layer) for layer in some}
        for values in tensor_values(network.core, [layer.input for layer in some], seen):
            for layer in some:
                sums[layer.name].add(layer.patches(values[layer.input], rng, POSITIONS))
        found |= {name: total.moments() for name, total in sums.items()}
    return found


class _Sum:
    """Sums over patches, multiplied some images at a time: adding up large matrices is what takes the time."""

    def __init__(self, layer: Layer) -> None:
        g, k = layer.groups, _inputs(layer)
        self.mean, self.second = np.zeros((g, k)), np.zeros((g, k, k))
        self.positions = 0
        self.waiting: list[Array] = []

    def add(self, patches: Array) -> None:
        """Take in patches (g, K, positions)."""
        self.waiting.append(patches)
        if sum(p.shape[2] for p in self.waiting) >= POSITIONS:
            self._flush()

    def _flush(self) -> None:
        patches = np.concatenate(self.waiting, axis=2)
        self.mean += patches.sum(axis=2, dtype=np.float64)
        self.second += patches @ patches.transpose(0, 2, 1)
        self.positions += patches.shape[2]
        self.waiting = []

    def moments(self) -> Moments:
        """The means so far."""
        if self.waiting:
            self._flush()
        return Moments(self.mean / self.positions, self.second / self.positions)


def _inputs(layer: Layer) -> int:
    return layer.size // layer.channels


def _batches(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Layers in runs whose moments fit in memory together."""
    return _runs(layers, lambda layer: 8 * layer.groups * _inputs(layer) ** 2, MOMENT_BYTES)


def _runs(items: Sequence[Item], need: Callable[[Item], int], room: int) -> Iterator[list[Item]]:
    """Items in runs that need no more than the room together, or that are one item."""
    some: list[Item] = []
    held = 0
    for item in items:
        if some and held + need(item) > room:
            yield some
            some, held = [], 0
        some.append(item)
        held += need(item)
    yield some
