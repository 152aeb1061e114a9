"""What every attempt to compress an artifact is measured against, and what one attempt is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

import onnx

from leanmed.compress.activation_ranges import Sample, network_inputs
from leanmed.compress.builder import Built, Technique
from leanmed.compress.gate import Answer, Gate, answers, latency
from leanmed.compress.graph import parse
from leanmed.compress.network import Network, cut_out
from leanmed.compress.outcome import Attempt, Limits
from leanmed.compress.sensitivity import noise
from leanmed.console import Progress
from leanmed.exporting.graph import compact
from leanmed.runtime.artifact import Artifact
from leanmed.tasks.kind import MODEL

LADDER: tuple[Technique, ...] = ("equalize", "percentile", "exclude", "gptq", "finetune")
LOOKED_AT = 64  # of the gate's images, to compare with the calibration images
Store = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, dict[str, str]]]
"""A graph to the same graph with smaller constants, and name -> why of the large ones that stay as they are."""


@dataclass(frozen=True)
class Options:
    """How to quantize.

    Args:
        max_drop: the most the main score may fall, as a fraction: .005 is half a point of accuracy, or .005 AUC; None:
            what the gate says. See `Limits` for what is made of it where the images are few.
        min_agreement: the least share of images to which both must answer the same; 0 asks for none.
        start: techniques of the first attempt.
        ladder: techniques tried one after another while the drop is too large; those in `start` are passed over.
        epochs: of fine-tuning; 0 leaves it out.
        unpack: keep 4-bit weights in 8 bits, for runtimes without INT4.
        attempts: the most that are made; None: as many as the ladder has.
    """

    max_drop: float | None = None
    min_agreement: float = 0.95
    start: tuple[Technique, ...] = ("gptq",)
    ladder: tuple[Technique, ...] = LADDER
    epochs: int = 0
    unpack: bool = False
    attempts: int | None = None


class Trial(NamedTuple):
    """One attempt, the network it is of, and all graphs of the artifact that it makes."""

    attempt: Attempt
    built: Built
    graphs: dict[str, bytes]


@dataclass(frozen=True, eq=False)
class Bench:
    """What every attempt is measured against: the float graphs, their answers, and images at the network's inputs."""

    artifact: Artifact
    network: Network
    gate: Gate
    samples: Sequence[Sample]
    before: Sequence[Answer]
    options: Options

    @property
    def limits(self) -> Limits:
        """The user's, else the gate's."""
        asked = self.options.max_drop
        return Limits(self.gate.max_drop if asked is None else asked, self.options.min_agreement)

    @cached_property
    def seen(self) -> Sequence[Sample]:
        """Some of the gate's images at the network's inputs."""
        return network_inputs(self.network, islice(self.gate.images, LOOKED_AT))

    @cached_property
    def beside(self) -> dict[str, onnx.ModelProto]:
        """The artifact's graphs other than `model`."""
        return {name: parse(graph) for name, graph in self.artifact.graphs.items() if name != MODEL}

    def measure(self, techniques: Sequence[str], built: Built, progress: Progress, *, beside: Store) -> Trial:
        """Score, size and time one compressed graph, with those beside it as `beside` stores them."""
        graph = compact(built.model).SerializeToString()
        others = {name: compact(beside(own)[0]).SerializeToString() for name, own in self.beside.items()}
        graphs = {MODEL: graph} | others
        step = partial(progress, "checking on other images")
        judged = self.gate.compare(self.before, answers(self.artifact, self.gate.images, graphs, step))
        core = cut_out(self.network, built.model)
        attempt = Attempt(
            techniques=tuple(techniques),
            judged=judged,
            noise=noise(self.network, core, self.samples or self.seen),
            bytes=total_bytes(graphs),
            milliseconds=self._times(graph, core.SerializeToString()),
            verdict=self.limits.verdict(judged),
            passed=self.limits.passes(judged),
        )
        return Trial(attempt, built, graphs)

    def _times(self, graph: bytes, core: bytes) -> dict[str, float]:
        (pixels,) = [entry.name for entry in self.network.model.graph.input]
        whole, sample = {pixels: next(iter(self.gate.images))}, dict(self.seen[0])
        graphs = {"float": self.artifact.graph, "compressed": graph}
        float_core = cut_out(self.network, self.network.model).SerializeToString()
        parts = {"float network": float_core, "compressed network": core}
        return latency(graphs, dict.fromkeys(graphs, whole)) | latency(parts, dict.fromkeys(parts, sample))


def total_bytes(graphs: Mapping[str, bytes]) -> int:
    """Of all graphs of an artifact."""
    return sum(map(len, graphs.values()))
