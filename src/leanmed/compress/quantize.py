"""Artifact -> artifact in one of the precisions of precisions.py, refused if it answers worse than it may.

A compressed graph is made and measured beside the float one. One that computes in integers is made again with one more
technique if it lost too much or its answers are noisy:

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leanmed.compress.activation_ranges import Sample, network_inputs
from leanmed.compress.bench import Bench, Options, total_bytes
from leanmed.compress.builder import Built
from leanmed.compress.gate import Gate, Images, answers
from leanmed.compress.graph import parse, refuse_quantized, simplify
from leanmed.compress.network import Network, find_network
from leanmed.compress.outcome import Attempt, Outcome, chosen
from leanmed.compress.precisions import precision_of, trials
from leanmed.console import Progress, silent, tracked
from leanmed.errors import ArtifactError, DataError
from leanmed.runtime.artifact import Artifact
from leanmed.tasks.kind import MODEL

FEW = 16  # calibration images below which the ranges are doubtful
FAR = 1.5  # of one image's standard deviation, between the means of calibration and measurement


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
    to: str,
    calibration: Images,
    gate: Gate,
    options: Options | None = None,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = silent,
) -> Quantized:
    """Compress an artifact's graph `model` until it passes the gate quietly, or no technique is left.

    Of its other graphs, if it has some, the weights are stored in 8 bits (int8_storage.py), or in 16 where an attempt
    does not pass with 8 and for FP16. What these graphs make of the outputs of `model` is measured.

    Args:
        artifact: with a float graph `model`.
        to: a name in `PRECISIONS`.
        calibration: images the model was trained on (not those of the gate); some 64 to 256 do. None are needed where
            arithmetic stays float.
        gate: the images and the score that decide.
        options: how; None: as `Options` has it by default.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total.

    Raises:
        ArtifactError: the graph is damaged, quantized already, has nothing to quantize, or cannot be fine-tuned and is
            to be.
        DataError: an unknown precision, no calibration image, fewer attempts than fine-tuning needs, or the main score
            is undefined on the gate's images.
    """
    options = options or Options()
    precision, network = precision_of(to), _open(artifact)
    tuned, most = precision.calibrates and options.epochs > 0, len(trials(options, network))
    if not len(calibration) and precision.calibrates:
        raise DataError(
            "expected calibration images, got none; give images the model was trained on, some 64 to 256 of them"
        )
    if tuned and options.attempts is not None and options.attempts < most:
        raise DataError(
            f"expected room for --finetune, which is tried last of {most}, got --attempts {options.attempts}; "
            "leave --attempts out"
        )
    reading = tracked(calibration, partial(progress, "calibration images"), len(calibration))
    samples = network_inputs(network, reading if precision.calibrates else [])
    if tuned:
        from leanmed.compress.finetune import check_finetunable  # needs torch

        check_finetunable(network, samples[0])  # before attempts that would be lost
    before = answers(artifact, gate.images, step=partial(progress, "answers of the float model"))
    bench = Bench(artifact, network, gate, samples, before, options)
    tried = precision.attempts(bench, tell, progress)
    attempts = tuple(trial.attempt for trial in tried)
    best = next(trial for trial in tried if trial.attempt is chosen(attempts))
    return Quantized(best.graphs, _outcome(bench, to, best.built, attempts))


def _outcome(bench: Bench, to: str, built: Built, attempts: tuple[Attempt, ...]) -> Outcome:
    return Outcome(
        to=to,
        max_drop=bench.limits.max_drop,
        min_agreement=bench.limits.min_agreement,
        calibration_images=len(bench.samples),
        before_bytes=total_bytes(bench.artifact.graphs),
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


def _warnings(bench: Bench) -> list[str]:
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
