"""One integer network from a set of techniques; what several attempts share is worked out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import onnx

from leanmed.compress import int4, sensitivity
from leanmed.compress.activation_ranges import Method, Moments, Range, Sample, input_moments, tensor_ranges
from leanmed.compress.equalize import equalize
from leanmed.compress.graph import Array
from leanmed.compress.int8_storage import float_constants, store_int8
from leanmed.compress.network import Layer, Network
from leanmed.compress.outcome import LayerRow
from leanmed.compress.qdq import insert, step
from leanmed.compress.rounding import Rounded, round_layer
from leanmed.compress.sensitivity import promote, spare_head
from leanmed.console import Progress, Step, silent, tracked

Technique = Literal["gptq", "equalize", "percentile", "exclude", "finetune"]
FREE_SHARE = 0.085  # of the multiplications: what stays float at no loss of speed (MobileNetV2's first block)
FLOAT_SHARE = 0.165  # what may stay float when accuracy asks for it
EIGHT_BIT_SHARE = 0.09  # of the weights that keep 8 bits when the others get 4
NOISE_SAMPLES = 16  # images at most, by which noise is measured anew for each layer
NOISE_VALUES = 16 * 3 * 224 * 224  # numbers at the network's inputs, which large images reach sooner
BIAS_ROOM = 2**30  # codes; half of what a 32-bit bias holds


@dataclass(frozen=True)
class Built:
    """An integer graph and its layers."""

    model: onnx.ModelProto
    rows: tuple[LayerRow, ...]


class Builder:
    """Builds integer graphs of one network.

    Args:
        network: found in a simplified graph.
        samples: calibration images at the network's inputs.
        bits: 8, or 4 for the weights that bear it.
        unpack: store 4-bit weights in 8 bits, for older runtimes.
        epochs: of fine-tuning.
    """

    def __init__(
        self, network: Network, samples: Sequence[Sample], bits: int, *, unpack: bool = False, epochs: int = 0
    ) -> None:
        self.network, self.samples, self.bits = network, samples, bits
        self.unpack, self.epochs = unpack, epochs
        self.progress: Progress = silent
        for shared in ("_network", "_ranges", "_moments", "_eight_bits"):  # worked out once by each builder
            setattr(self, shared, cache(getattr(self, shared)))

    def build(self, techniques: Collection[Technique], progress: Progress = silent) -> Built:
        """The graph these techniques make; `progress` takes stage, done and total."""
        self.progress = progress
        equalized, gptq = "equalize" in techniques, "gptq" in techniques
        network = self._network(equalized)
        limits = self._ranges(equalized, "percentile" in techniques)
        kept = self._eight_bits(equalized) if self.bits == 4 else {}
        bits = {layer.name: 8 if layer.name in kept else self.bits for layer in network.layers}
        rounded = self._round(network, limits, self._moments(equalized), bits, gptq)
        share = FLOAT_SHARE if "exclude" in techniques else FREE_SHARE
        spared = _answering(network) | spare_head(network, rounded, limits, self._few(), share)
        rounded = {name: r for name, r in rounded.items() if name not in spared}
        if "finetune" in techniques:
            from leanmed.compress.finetune import finetune  # the only part that needs torch

            rounded = finetune(network, rounded, limits, self.samples, self.epochs, watch=self._step("fine-tuning"))
        model = insert(network, rounded, limits)
        packed = {layer.weight for layer in network.layers if layer.name in rounded and rounded[layer.name].bits == 4}
        if packed and not self.unpack:
            model = int4.pack(model, packed)
        model, _ = store_int8(model)  # the weights of layers that stay float
        whole = float_constants(model)
        return Built(
            model,
            tuple(
                _row(layer, rounded.get(layer.name), limits, {**kept, **spared}, 32 if layer.weight in whole else 8)
                for layer in network.layers
            ),
        )

    def _step(self, stage: str) -> Step:
        return lambda done, total: self.progress(stage, done, total)

    def _network(self, equalized: bool) -> Network:
        return equalize(self.network, self.samples, self._step("equalization")) if equalized else self.network

    def _ranges(self, equalized: bool, percentile: bool) -> dict[str, Range]:
        method: Method = "percentile" if percentile else "minmax"
        return tensor_ranges(self._network(equalized), self.samples, method, self._step("ranges of activations"))

    def _moments(self, equalized: bool) -> dict[str, Moments]:
        return input_moments(self._network(equalized), self.samples, self._step("inputs of layers"))

    def _eight_bits(self, equalized: bool) -> dict[str, str]:
        """The layers that keep 8 bits because 4 cost too much, and why."""
        network, limits = self._network(equalized), self._ranges(equalized, False)
        four = dict.fromkeys((layer.name for layer in network.layers), 4)
        rounded = self._round(network, limits, self._moments(equalized), four, True)
        noise = sensitivity.of_weights(network, rounded, self._few())
        return promote(network.layers, noise, EIGHT_BIT_SHARE)

    def _few(self) -> Sequence[Sample]:
        each = sum(value.size for value in self.samples[0].values())
        count = min(NOISE_SAMPLES, max(2, NOISE_VALUES // each))
        return self.samples[:: max(1, len(self.samples) // count)]

    def _round(
        self,
        network: Network,
        limits: Mapping[str, Range],
        known: Mapping[str, Moments],
        bits: Mapping[str, int],
        gptq: bool,
    ) -> dict[str, Rounded]:
        values = network.weights()
        layers = tracked(network.layers, self._step(f"rounding to {min(bits.values())} bits"), len(network.layers))
        return {
            layer.name: round_layer(
                layer,
                values[layer.weight],
                values.get(layer.bias or ""),
                known.get(layer.name),
                bits[layer.name],
                gptq=gptq,
                floor=_floor(layer, values, limits),
            )
            for layer in layers
        }


def _answering(network: Network) -> dict[str, str]:
    """Convolutions that give the answer, and why they stay float; a matrix product can give it from integers."""
    reason = "it gives the answer, and 8 bits would give many boxes one score"
    return {layer.name: reason for layer in network.layers if layer.op == "Conv" and layer.output in network.outputs}


def _floor(layer: Layer, values: Mapping[str, Array], limits: Mapping[str, Range]) -> Array | float:
    """The least scale of each channel with which its bias fits in 32 bits."""
    return np.abs(values[layer.bias]) / (step(limits[layer.input]) * BIAS_ROOM) if layer.bias else 0.0


def _row(
    layer: Layer, rounded: Rounded | None, limits: Mapping[str, Range], why: Mapping[str, str], stored: int
) -> LayerRow:
    if rounded is None:
        return LayerRow(layer.name, layer.op, layer.shape, stored, 32, why=why.get(layer.name, ""))
    low, high = limits[layer.input]
    error = rounded.error_db
    return LayerRow(layer.name, layer.op, layer.shape, rounded.bits, 8, low, high, error, why.get(layer.name, ""))
