"""Artifact -> artifact: FP16, INT8 or INT4, smaller in the file, and refused if it answers worse than it may.

A compressed graph is made, measured beside the float one, and if it lost too much or its answers are noisy made again
with one more technique:

1. every weight to the nearest step of its channel's own scale, biases corrected by the calibration images' mean inputs,
   the first layers left in float as far as it costs no speed (sensitivity.py), and with INT4 the layers that make most
   noise for a byte kept at 8 bits;
2. `gptq`: weights rounded so that the errors of one layer cancel (rounding.py);
3. `equalize`: channels rescaled between layers (equalize.py);
4. `percentile`: activation ranges without their outermost .01 %;
5. `exclude`: more of the first layers stay float;
6. `finetune`: distilled quantization-aware training (finetune.py; needs torch).

GPTQ is on from the start: it costs seconds, and neither bytes nor speed. A technique that adds noise to the answers on
the calibration images is dropped again before the next is tried. A score on some dozens of images says little, and a
noisy graph may pass by luck: so the noise decides when to stop, and which of several that passed is taken. Where the
images show of some attempts that they keep within the limits (outcome.py), it is the least noisy of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from leanmed.compress.activation_ranges import Sample, network_inputs
from leanmed.compress.builder import Builder, Built, Technique
from leanmed.compress.equalize import find_pairs
from leanmed.compress.fp16 import store_half
from leanmed.compress.gate import Answer, Gate, Images, answers, latency
from leanmed.compress.graph import parse, refuse_quantized, simplify
from leanmed.compress.int8_storage import store_int8
from leanmed.compress.network import Network, cut_out, find_network
from leanmed.compress.outcome import Attempt, LayerRow, Limits, Outcome, Target, chosen
from leanmed.compress.sensitivity import noise
from leanmed.console import Progress, silent, tracked
from leanmed.errors import ArtifactError, DataError
from leanmed.runtime.artifact import Artifact
from leanmed.tasks.kind import MODEL

LADDER: tuple[Technique, ...] = ("equalize", "percentile", "exclude", "gptq", "finetune")
FEW = 16  # calibration images below which the ranges are doubtful
FAR = 1.5  # of one image's standard deviation, between the means of calibration and measurement
QUIET = 0.01  # of the answer's variance: noise below which passing the gate is no luck
LOOKED_AT = 64  # of the gate's images, to compare with the calibration images


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


@dataclass(frozen=True, eq=False)
class Quantized:
    """The best graphs that were made, and what was found out. `outcome.passed` says whether they may be used.

    Args:
        graphs: all of the artifact's, by their names, compressed.
        outcome: of the compression.
    """

    graphs: dict[str, bytes]
    outcome: Outcome

    @property
    def graph(self) -> bytes:
        """The graph `model`."""
        return self.graphs[MODEL]


def quantize(
    artifact: Artifact,
    to: Target,
    calibration: Images,
    gate: Gate,
    options: Options = Options(),
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = silent,
) -> Quantized:
    """Compress an artifact's graph `model` until it passes the gate quietly, or no technique is left.

    Of its other graphs, if it has some, the weights are stored in 8 bits (int8_storage.py), or in 16 for FP16 and where
    an attempt does not pass with 8. What these graphs make of the outputs of `model` is measured.

    Args:
        artifact: with a float graph `model`.
        to: fp16, int8 or int4.
        calibration: images the model was trained on (not those of the gate); some 64 to 256 do. FP16 needs none.
        gate: the images and the score that decide.
        options: how.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total.

    Raises:
        ArtifactError: the graph is damaged, quantized already, has nothing to quantize, or cannot be fine-tuned and is
            to be.
        DataError: no calibration image, fewer attempts than fine-tuning needs, or the main score is undefined on the
            gate's images.
    """
    network = _open(artifact)
    tuned, most = to != "fp16" and options.epochs > 0, len(_trials(options, network))
    if not len(calibration) and to != "fp16":
        raise DataError(
            "expected calibration images, got none; give images the model was trained on, some 64 to 256 of them"
        )
    if tuned and options.attempts is not None and options.attempts < most:
        raise DataError(
            f"expected room for --finetune, which is tried last of {most}, got --attempts {options.attempts}; "
            "leave --attempts out"
        )
    reading = tracked(calibration, partial(progress, "calibration images"), len(calibration))
    samples = network_inputs(network, reading if to != "fp16" else [])
    if tuned:
        from leanmed.compress.finetune import check_finetunable  # needs torch

        check_finetunable(network, samples[0])  # before attempts that would be lost
    before = answers(artifact, gate.images, step=partial(progress, "answers of the float model"))
    bench = _Bench(artifact, network, gate, samples, before, options)
    tried = _half(bench, progress) if to == "fp16" else _climb(bench, to, tell, progress)
    attempts = tuple(trial.attempt for trial in tried)
    best = next(trial for trial in tried if trial.attempt is chosen(attempts))
    return Quantized(best.graphs, _outcome(bench, to, best.built, attempts))


def _outcome(bench: _Bench, to: Target, built: Built, attempts: tuple[Attempt, ...]) -> Outcome:
    return Outcome(
        to=to,
        max_drop=bench.limits.max_drop,
        min_agreement=bench.limits.min_agreement,
        calibration_images=len(bench.samples),
        before_bytes=_bytes(bench.artifact.graphs),
        attempts=attempts,
        layers=built.rows,
        left_float=bench.network.left_float,
        warnings=tuple(_warnings(bench)),
    )


def _open(artifact: Artifact) -> Network:
    model = parse(artifact.graph)
    refuse_quantized(model)
    if artifact.manifest.precision != "fp32":
        raise ArtifactError(
            f"expected an fp32 artifact, got one in {artifact.manifest.precision}; start from the one it was made from"
        )
    return find_network(simplify(model))


class _Trial(NamedTuple):
    """One attempt, the network it is of, and all graphs of the artifact that it makes."""

    attempt: Attempt
    built: Built
    graphs: dict[str, bytes]


@dataclass(frozen=True, eq=False)
class _Bench:
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

    def measure(
        self, techniques: Sequence[str], built: Built, progress: Progress, *, half_beside: bool = False
    ) -> _Trial:
        """Score, size and time one compressed graph, with those beside it in 16 or 8 bits."""
        graph = built.model.SerializeToString()
        beside = {name: store_half(own)[0] if half_beside else store_int8(own) for name, own in self.beside.items()}
        graphs = {MODEL: graph} | {name: own.SerializeToString() for name, own in beside.items()}
        step = partial(progress, "checking on other images")
        judged = self.gate.compare(self.before, answers(self.artifact, self.gate.images, graphs, step))
        core = cut_out(self.network, built.model)
        attempt = Attempt(
            techniques=tuple(techniques),
            judged=judged,
            noise=noise(self.network, core, self.samples or self.seen),
            bytes=_bytes(graphs),
            milliseconds=self._times(graph, core.SerializeToString()),
            verdict=self.limits.verdict(judged),
            passed=self.limits.passes(judged),
        )
        return _Trial(attempt, built, graphs)

    def _times(self, graph: bytes, core: bytes) -> dict[str, float]:
        (pixels,) = [entry.name for entry in self.network.model.graph.input]
        whole, sample = {pixels: next(iter(self.gate.images))}, dict(self.seen[0])
        graphs = {"float": self.artifact.graph, "compressed": graph}
        float_core = cut_out(self.network, self.network.model).SerializeToString()
        parts = {"float network": float_core, "compressed network": core}
        return latency(graphs, dict.fromkeys(graphs, whole)) | latency(parts, dict.fromkeys(parts, sample))


def _bytes(graphs: Mapping[str, bytes]) -> int:
    return sum(map(len, graphs.values()))


def _half(bench: _Bench, progress: Progress) -> list[_Trial]:
    model, kept = store_half(bench.network.model)
    rows = tuple(
        LayerRow(
            layer.name,
            layer.op,
            layer.shape,
            32 if layer.weight in kept else 16,
            32,
            why=kept.get(layer.weight, ""),
        )
        for layer in bench.network.layers
    )
    built = Built(model, rows)
    return [bench.measure(["fp16"], built, progress, half_beside=True)]


def _climb(bench: _Bench, to: Target, tell: Callable[[str], None], progress: Progress) -> list[_Trial]:
    """Attempts until one passes and is quiet, or the ladder ends."""
    options = bench.options
    bits = 8 if to == "int8" else 4
    builder = Builder(bench.network, bench.samples, bits, unpack=options.unpack, epochs=options.epochs)
    kept, least = options.start, np.inf
    tried: list[_Trial] = []
    trials = _trials(options, bench.network)[: options.attempts]
    for number, techniques in enumerate(trials, start=1):
        trial, watch = (*kept, *techniques), _of_attempt(number, progress)
        tell(f"attempt {number} of at most {len(trials)}: {', '.join(trial) or 'plain rounding'}")
        built = builder.build(trial, watch)
        tried.append(bench.measure(trial, built, watch))
        tell(_told(tried[-1].attempt))
        if bench.beside and not tried[-1].attempt.passed:
            watch = _of_attempt(number, progress, " with 16 bits beside")
            tried.append(bench.measure((*trial, "fp16-beside"), built, watch, half_beside=True))
            tell(_told(tried[-1].attempt))
        attempt = tried[-1].attempt
        if attempt.passed and attempt.noise <= QUIET:
            break
        if attempt.noise < least:
            kept, least = trial, attempt.noise
    return tried


def _of_attempt(number: int, progress: Progress, more: str = "") -> Progress:
    """Progress whose stages are told apart from those of other attempts."""
    return lambda stage, done, total: progress(f"attempt {number}{more}: {stage}", done, total)


def _told(attempt: Attempt) -> str:
    change = f"{attempt.judged.main_score} {-attempt.judged.drop:+.4f}"
    found = "passes" if attempt.passed else "does not pass"
    return f"{', '.join(attempt.techniques)}: {change}, {attempt.bytes:,} bytes, {found}"


def _trials(options: Options, network: Network) -> list[tuple[Technique, ...]]:
    """What each attempt adds to those kept: nothing first, then one technique at a time that can change something."""
    idle = {"finetune": options.epochs == 0, "equalize": not find_pairs(network)}
    usable = [name for name in options.ladder if name not in options.start and not idle.get(name)]
    return [(), *((name,) for name in usable)]


def _warnings(bench: _Bench) -> list[str]:
    found = [f"{name} stays float: {why}" for name, why in bench.network.left_float.items()]
    if not bench.samples:
        return found
    if len(bench.samples) < FEW:
        found.append(
            f"only {len(bench.samples)} calibration images: ranges of rare images may be cut; {FEW} or more are better"
        )
    mine, theirs = (_statistics(bench.network.inputs[0], samples) for samples in (bench.samples, bench.seen))
    apart = np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) / np.maximum(theirs.std(axis=0), 1e-3)
    if apart.max() > FAR:
        found.append(
            "the calibration images look unlike those measured on: after pre-processing, a channel's mean or spread is "
            f"{apart.max():.1f} standard deviations off; are they of the same kind?"
        )
    return found


def _statistics(name: str, samples: Sequence[Sample]) -> NDArray[np.float64]:
    """(n, 2 C) mean and standard deviation of each channel of one input, a row for each image."""
    planes = [sample[name].astype(np.float64).reshape(sample[name].shape[1], -1) for sample in samples]
    return np.array([np.concatenate([plane.mean(axis=1), plane.std(axis=1)]) for plane in planes])
