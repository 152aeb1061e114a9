"""The gate a compressed graph must pass: measured on images, beside the graph it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leanmed.compress.graph import Array
from leanmed.errors import DataError
from leanmed.metrics import Figure, Scored, paired, score
from leanmed.runtime.artifact import Manifest
from leanmed.runtime.predictor import open_session

Pixels = NDArray[np.uint8]
ROUNDS = 25


@dataclass(frozen=True, eq=False)
class Gate:
    """What a compressed graph is measured on.

    Args:
        images: pixels (h, w, 3 or 4), none of which the model was trained or selected on.
        table: the graph's answers, one for each image, to a table that metrics take.
        main_score: the figure that may fall by no more than `max_drop`; higher is better.
        resamples: of the bootstrap.
    """

    images: Sequence[Pixels]
    table: Callable[[Sequence[Array]], Scored]
    main_score: str
    resamples: int = 2000


@dataclass(frozen=True)
class Verdict:
    """A compressed graph's figures.

    Args:
        figures: of the compressed graph.
        change: compressed minus float on the same images, and `agreement`.
        drop: how much the main score fell.
    """

    figures: Mapping[str, Figure]
    change: Mapping[str, Figure]
    drop: float


def classification_gate(
    images: Sequence[Pixels], truths: Sequence[str], groups: Sequence[str], manifest: Manifest
) -> Gate:
    """The gate of a classifier, whose answers follow the artifact's own threshold.

    Args:
        images: pixels (h, w, 3 or 4).
        truths: the true label of each image.
        groups: what each image's patient or photograph is.
        manifest: of the float artifact.

    Raises:
        DataError: no image, lists that differ in length, or a label that the artifact does not know.
    """
    if not images or not len(images) == len(truths) == len(groups):
        raise DataError(
            f"expected as many truths and groups as images to measure on, and at least one, got {len(images)} images, "
            f"{len(truths)} truths and {len(groups)} groups"
        )
    unknown = sorted(set(truths) - set(manifest.labels))
    if unknown:
        raise DataError(f"expected labels among {', '.join(manifest.labels)}, got {', '.join(unknown)}")
    truth = np.array([manifest.labels.index(label) for label in truths])
    group = np.array(groups, dtype=np.str_)

    def table(answers: Sequence[Array]) -> Scored:
        probabilities = np.stack(answers).astype(np.float64)
        above = probabilities[:, -1] >= (manifest.threshold or 0.0)
        predicted = probabilities.argmax(axis=1) if manifest.threshold is None else above.astype(np.int64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return Scored(truth, probabilities, predicted, group, manifest.labels)

    return Gate(images, table, manifest.main_score)


def answers(graph: bytes, images: Sequence[Pixels]) -> list[Array]:
    """The graph's first output for each image."""
    session = open_session(graph)
    (name,) = [entry.name for entry in session.get_inputs()]
    return [session.run(None, {name: image})[0] for image in images]


def judge(gate: Gate, before: Scored, after: Scored) -> Verdict:
    """Compare a compressed graph's table with the float one's.

    Raises:
        DataError: the main score is undefined on these images.
    """
    change = paired(before, after, resamples=gate.resamples)
    if gate.main_score not in change or np.isnan(change[gate.main_score].value):
        raise DataError(
            f"expected images on which {gate.main_score} is defined (with both labels), got {len(gate.images)} on "
            "which it is not; measure on more images"
        )
    return Verdict(score(after, resamples=gate.resamples), change, -change[gate.main_score].value)


def latency(
    graphs: Mapping[str, bytes], feeds: Mapping[str, Mapping[str, Array]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Median milliseconds of one run on one thread, the graphs taking turns.

    It is the thread's own time: what else a busy machine does in between is not counted.
    """
    sessions = {name: open_session(graph) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for number in range(rounds + 2):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, dict(feeds[name]))
            if number >= 2:
                times[name].append(1e3 * (time.thread_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}
