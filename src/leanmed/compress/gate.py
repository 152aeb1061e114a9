"""The gate a compressed graph must pass: measured on images, beside the graph it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leanmed.compress.graph import Array
from leanmed.compress.outcome import Comparison
from leanmed.errors import DataError
from leanmed.records import Record
from leanmed.runtime.artifact import Manifest
from leanmed.runtime.predictor import open_session
from leanmed.tasks.classification import figures as metrics
from leanmed.tasks.classification.figures import Scored
from leanmed.tasks.detection import figures as detection
from leanmed.tasks.detection.figures import Detected

Pixels = NDArray[np.uint8]  # (h, w, 3 or 4)
Answer = Sequence[Array]  # what a graph gives for one image
ROUNDS = 25
BOXES_DROP = 0.01  # AP50


class Images(Protocol):
    """Pictures that can be gone through more than once: a list, or files read anew each time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Pixels]: ...


@dataclass(frozen=True, eq=False)
class Gate:
    """What compressed graphs are measured on; all that the engine knows of a task.

    Args:
        images: none of which the model was trained on.
        compare: the float graph's answers and the compressed one's, one for each image, to their figures. Raises
            DataError where the main score is undefined.
        max_drop: the most the main score may fall, unless the user says otherwise.
    """

    images: Images
    compare: Callable[[Sequence[Answer], Sequence[Answer]], Comparison]
    max_drop: float = 0.005


def classification_gate(
    records: Sequence[Record], images: Images, manifest: Manifest, *, resamples: int = 2000
) -> Gate:
    """The gate of a classifier, whose answers follow the artifact's own threshold.

    Args:
        records: the true label and the group of each image.
        images: their pixels.
        manifest: of the float artifact.
        resamples: of the bootstrap.

    Raises:
        DataError: no image, or a label that the artifact does not know.
    """
    unknown = sorted({str(record.target) for record in records} - set(manifest.labels))
    if unknown or not records:
        raise DataError(
            f"expected images to measure on, with labels among {', '.join(manifest.labels)}, got {len(records)} images"
            f"{' labelled ' if unknown else ''}{', '.join(unknown)}; check --data"
        )

    def compare(before: Sequence[Answer], after: Sequence[Answer]) -> Comparison:
        first, second = (scored(records, answers, manifest) for answers in (before, after))
        return compare_tables(first, second, manifest.main_score, resamples=resamples)

    return Gate(images, compare)


def scored(records: Sequence[Record], answers: Sequence[Answer], manifest: Manifest) -> Scored:
    """A classifier's answers as the table that metrics take."""
    probabilities = np.stack([answer[0] for answer in answers]).astype(np.float64)
    above = probabilities[:, -1] >= (manifest.threshold or 0.0)
    return Scored(
        truth=np.array([manifest.labels.index(str(record.target)) for record in records]),
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        predicted=probabilities.argmax(axis=1) if manifest.threshold is None else above.astype(np.int64),
        group=np.array([record.group for record in records], dtype=np.str_),
        labels=manifest.labels,
    )


def detection_gate(records: Sequence[Record], images: Images, manifest: Manifest, *, resamples: int = 2000) -> Gate:
    """The gate of a detector; what it answers are the boxes that reach the artifact's own threshold.

    Args:
        records: the true boxes and the group of each image.
        images: their pixels.
        manifest: of the float artifact.
        resamples: of the bootstrap.

    Raises:
        DataError: no image, or a record without boxes.
    """
    if not records:
        raise DataError("expected images to measure on, got none; check --data")
    truth = [np.array(record.boxes.xyxy, np.float64).reshape(-1, 4) for record in records]

    def table(answers: Sequence[Answer]) -> Detected:
        return Detected(
            truth=truth,
            boxes=[boxes.astype(np.float64) for boxes, _ in answers],
            scores=[scores.astype(np.float64) for _, scores in answers],
            threshold=np.full(len(records), manifest.threshold or 0.0),
            group=np.array([record.group for record in records], dtype=np.str_),
            labels=manifest.labels,
        )

    def compare(before: Sequence[Answer], after: Sequence[Answer]) -> Comparison:
        pair = table(before), table(after)
        return compare_tables(*pair, manifest.main_score, measures=detection, resamples=resamples)

    return Gate(images, compare, max_drop=BOXES_DROP)


def compare_tables(
    before: Scored | Detected,
    after: Scored | Detected,
    main_score: str,
    *,
    measures: ModuleType = metrics,
    resamples: int = 2000,
) -> Comparison:
    """Two tables of the same images as figures and their changes.

    Args:
        before, after: what the float graph answered, and the compressed one.
        main_score: the figure that counts.
        measures: the module with `score` and `paired` for such tables.
        resamples: of the bootstrap.

    Raises:
        DataError: the main score is undefined on these images.
    """
    change = measures.paired(before, after, resamples=resamples)
    if np.isnan(change[main_score].value):
        raise DataError(
            f"expected images on which {main_score} is defined (with both labels, or with boxes), got "
            f"{before.group.size} on which it is not; give more images"
        )
    return Comparison(
        images=before.group.size,
        groups=before.groups,
        main_score=main_score,
        before=measures.score(before, resamples=resamples),
        after=measures.score(after, resamples=resamples),
        change=change,
    )


def answers(graph: bytes, images: Images) -> list[Answer]:
    """What the graph gives for each image."""
    session = open_session(graph)
    (name,) = [entry.name for entry in session.get_inputs()]
    return [session.run(None, {name: image}) for image in images]


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
