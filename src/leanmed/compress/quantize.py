"""Artifact -> artifact: FP16, INT8 or INT4, smaller in the file, and refused if it answers worse than it may.

A compressed graph is made, measured beside the float one, and if it lost too much made again with one more technique:

1. every weight to the nearest step of its channel's own scale, biases corrected by the calibration images' mean inputs,
   the first layers left in float as far as it costs no speed (sensitivity.py), and with INT4 the layers that make most
   noise for a byte kept at 8 bits;
2. `gptq`: weights rounded so that the errors of one layer cancel (rounding.py);
3. `equalize`: channels rescaled between layers (equalize.py);
4. `percentile`: activation ranges without their outermost .01 %;
5. `exclude`: more of the first layers stay float;
6. `finetune`: distilled quantization-aware training (finetune.py; needs torch).

GPTQ is on from the start: it costs seconds, and neither bytes nor speed. A technique that moves the answers on the
calibration images further from the float ones is dropped again before the next is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from leanmed.compress.builder import Builder, Built, Technique
from leanmed.compress.calibrate import network_inputs
from leanmed.compress.fp16 import store_half
from leanmed.compress.gate import Gate, answers, judge, latency
from leanmed.compress.graph import Array, parse, refuse_quantized, simplify
from leanmed.compress.network import Network, find_network
from leanmed.compress.outcome import Attempt, GateError, LayerRow, Outcome, Target
from leanmed.errors import ArtifactError, DataError
from leanmed.metrics import Figure, Scored, score
from leanmed.runtime.artifact import Artifact, Manifest

Pixels = NDArray[np.uint8]
LADDER: tuple[Technique, ...] = ("equalize", "percentile", "exclude", "gptq", "finetune")
FEW = 16  # calibration images below which the ranges are doubtful
FAR = 3.0  # standard deviations between the means of calibration and measurement


@dataclass(frozen=True)
class Options:
    """How to quantize.

    Args:
        max_drop: the most the main score may fall, as a fraction: .005 is half a point of accuracy, or .005 AUC.
        min_agreement: the least share of images to which both must answer the same; 0 asks for none.
        start: techniques of the first attempt.
        ladder: techniques tried one after another while the drop is too large; those in `start` are passed over.
        epochs: of fine-tuning; 0 leaves it out.
        unpack: keep 4-bit weights in 8 bits, for runtimes without INT4.
    """

    max_drop: float = 0.005
    min_agreement: float = 0.0
    start: tuple[Technique, ...] = ("gptq",)
    ladder: tuple[Technique, ...] = LADDER
    epochs: int = 0
    unpack: bool = False


@dataclass(frozen=True)
class Compressed:
    """What an artifact is written from: `write_artifact(out, manifest, graphs, card)`."""

    manifest: Manifest
    graphs: Mapping[str, bytes]
    card: str


def quantize(
    artifact: Artifact,
    to: Target,
    calibration: Iterable[Pixels],
    gate: Gate,
    options: Options = Options(),
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Compressed, Outcome]:
    """Compress an artifact and measure what it cost.

    Args:
        artifact: with one float graph from pixels to answers.
        to: fp16, int8 or int4.
        calibration: images the model was trained on (not those of the gate); some 64 to 256 do. FP16 needs none.
        gate: the images and the score that decide.
        options: how.
        tell: takes one line of progress at a time.

    Raises:
        ArtifactError: the graph is damaged, quantized already, or has nothing to quantize.
        DataError: no calibration image, or the main score is undefined on the gate's images.
        GateError: whatever was tried, the main score fell by more than `max_drop`. It carries the Outcome.
    """
    network = _open(artifact)
    images = list(calibration)
    if not images and to != "fp16":
        raise DataError(
            "expected calibration images, got none; give images the model was trained on, some 64 to 256 of them"
        )
    before = gate.table(answers(artifact.graph, gate.images))
    bench = _Bench(artifact.graph, network, gate, before, images, answers(artifact.graph, images), options)
    built, attempts = _half(bench) if to == "fp16" else _climb(bench, to, tell)
    outcome = _outcome(bench, to, built, attempts)
    if not outcome.passed:
        raise GateError(outcome)
    return _compressed(artifact, built, outcome), outcome


def _outcome(bench: _Bench, to: Target, built: Built, attempts: Sequence[Attempt]) -> Outcome:
    return Outcome(
        to=to,
        main_score=bench.gate.main_score,
        max_drop=bench.options.max_drop,
        min_agreement=bench.options.min_agreement,
        images=bench.before.truth.size,
        groups=bench.before.groups,
        calibration_images=len(bench.images),
        before=score(bench.before, resamples=bench.gate.resamples),
        before_bytes=len(bench.graph),
        attempts=tuple(attempts),
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


@dataclass(frozen=True, eq=False)
class _Bench:
    """What every attempt is measured against: the float graph, and its answers on both sets of images."""

    graph: bytes
    network: Network
    gate: Gate
    before: Scored
    images: Sequence[Pixels]
    expected: Sequence[Array]
    options: Options

    def measure(self, techniques: Sequence[str], built: Built) -> Attempt:
        """Score, size and time one compressed graph."""
        graph = built.model.SerializeToString()
        verdict = judge(self.gate, self.before, self.gate.table(answers(graph, self.gate.images)))
        changes = [a - b for a, b in zip(answers(graph, self.images), self.expected, strict=True)]
        return Attempt(
            techniques=tuple(techniques),
            figures=verdict.figures,
            change=verdict.change,
            drop=verdict.drop,
            difference=float(np.sqrt(np.mean(np.square(changes)))) if changes else np.nan,
            bytes=len(graph),
            milliseconds=self._times(built.model),
            passed=verdict.drop <= self.options.max_drop
            and verdict.change["agreement"].value >= self.options.min_agreement,
        )

    def _times(self, model: onnx.ModelProto) -> dict[str, float]:
        (pixels,) = [entry.name for entry in self.network.model.graph.input]
        whole = {pixels: self.gate.images[0]}
        sample = dict(network_inputs(self.network, [self.gate.images[0]])[0])
        graphs = {"float": self.graph, "compressed": model.SerializeToString()}
        parts = {"float network": _network_of(self.network, self.network.model)}
        parts["compressed network"] = _network_of(self.network, model)
        return latency(graphs, dict.fromkeys(graphs, whole)) | latency(parts, dict.fromkeys(parts, sample))


def _network_of(network: Network, model: onnx.ModelProto) -> bytes:
    """The network alone, cut out of a graph with the same names."""
    whole = Extractor(onnx.shape_inference.infer_shapes(model))
    return bytes(whole.extract_model(list(network.inputs), list(network.outputs)).SerializeToString())


def _half(bench: _Bench) -> tuple[Built, list[Attempt]]:
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
    return built, [bench.measure(["fp16"], built)]


def _climb(bench: _Bench, to: Target, tell: Callable[[str], None]) -> tuple[Built, list[Attempt]]:
    """Attempts until one passes, or the ladder ends."""
    options = bench.options
    samples = network_inputs(bench.network, bench.images)
    bits = 8 if to == "int8" else 4
    builder = Builder(bench.network, samples, bits, unpack=options.unpack, epochs=options.epochs)
    kept, attempts, least = options.start, [], np.inf
    for techniques in _trials(options):
        trial = (*kept, *techniques)
        built = builder.build(trial)
        attempt = bench.measure(trial, built)
        attempts.append(attempt)
        tell(f"{', '.join(trial) or 'nearest'}: {bench.gate.main_score} {-attempt.drop:+.4f}, {attempt.bytes} bytes")
        if attempt.passed:
            break
        if attempt.difference < least:
            kept, least = trial, attempt.difference
    return built, attempts


def _trials(options: Options) -> list[tuple[Technique, ...]]:
    """What each attempt adds to those kept: nothing first, then one technique at a time."""
    usable = [name for name in options.ladder if name not in options.start]
    return [(), *((name,) for name in usable if name != "finetune" or options.epochs > 0)]


def _warnings(bench: _Bench) -> list[str]:
    found = [f"{name} stays float: {why}" for name, why in bench.network.left_float.items()]
    if not bench.images:
        return found
    if len(bench.images) < FEW:
        found.append(
            f"only {len(bench.images)} calibration images: ranges of rare images may be cut; {FEW} or more are better"
        )
    mine, theirs = (_statistics(bench.network, images) for images in (bench.images, bench.gate.images))
    apart = np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) / np.maximum(theirs.std(axis=0), 1e-3)
    if apart.max() > FAR:
        found.append(
            "the calibration images look unlike those measured on: after pre-processing, a channel's mean or spread is "
            f"{apart.max():.1f} standard deviations off; are they of the same kind?"
        )
    return found


def _statistics(network: Network, images: Sequence[Pixels]) -> NDArray[np.float64]:
    """(n, 2 C) mean and standard deviation of each channel of the network's first input, one row for each image."""
    rows = []
    for sample in network_inputs(network, images):
        channels = sample[network.inputs[0]].astype(np.float64).reshape(sample[network.inputs[0]].shape[1], -1)
        rows.append(np.concatenate([channels.mean(axis=1), channels.std(axis=1)]))
    return np.array(rows)


def _compressed(artifact: Artifact, built: Built, outcome: Outcome) -> Compressed:
    manifest, final = artifact.manifest, outcome.final
    figures = {name: _plain(figure) for name, figure in final.figures.items()}
    changes = {
        "precision": outcome.to,
        "figures": figures,
        "quantization": {
            "techniques": list(final.techniques),
            "calibration_images": outcome.calibration_images,
            "measured_images": outcome.images,
            "change": {name: _plain(figure) for name, figure in final.change.items()},
            "max_drop": outcome.max_drop,
            "weight_bits": {row.name: row.weight_bits for row in outcome.layers},
            "warnings": list(outcome.warnings),
        },
        "provenance": manifest.provenance.model_copy(
            update={"parents": (*manifest.provenance.parents, artifact.sha256)}
        ),
    }
    graph = built.model.SerializeToString()
    return Compressed(manifest.model_copy(update=changes), {"model": graph}, artifact.card + _card(outcome))


def _plain(figure: Figure) -> dict[str, float | int | None]:
    found = {name: getattr(figure, name) for name in ("value", "low", "high", "n")}
    return {name: value if value == value else None for name, value in found.items()}


def _card(outcome: Outcome) -> str:
    final = outcome.final
    agreement = final.change["agreement"].value
    return (
        f"\n## Compression\n\n{outcome.to.upper()}, made with {', '.join(final.techniques)}. "
        f"{final.bytes / 1e6:.2f} MB in place of {outcome.before_bytes / 1e6:.2f}. On {outcome.images} images, "
        f"{outcome.main_score} changed by {-final.drop:+.4f}, and {100 * agreement:.1f} % of answers are those of the "
        "float model. The figures above are the float model's; those in `leanmed.json` are this one's.\n"
    )
