"""The gate a compressed graph must pass: measured on images, beside the graph it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leanmed.compress.graph import Array
from leanmed.compress.outcome import Comparison
from leanmed.console import Step, nobody, tracked
from leanmed.errors import DataError
from leanmed.manifest import Manifest
from leanmed.records import Record
from leanmed.runtime.artifact import Artifact
from leanmed.runtime.predictor import open_graphs, open_session
from leanmed.tasks import TASKS
from leanmed.tasks.kind import FAMILIAR, MODEL, JudgePart

Pixels = NDArray[np.uint8]  # (h, w, 3 or 4)
Answer = Sequence[Array]  # what an artifact's graphs give for one image
WARM, ROUNDS = 2, 25  # of timing
MOST_MILLISECONDS = 20_000.0  # of all that is timed, beyond which no further round is begun


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


def make_gate(records: Sequence[Record], images: Images, manifest: Manifest, *, resamples: int = 2000) -> Gate:
    """The gate of an artifact, by the rule of decision and the figures of its kind of task.

    Args:
        records: what is true of each image, and its group.
        images: their pixels.
        manifest: of the float artifact.
        resamples: of the bootstrap.

    Raises:
        DataError: no image, or a record that such an artifact cannot be judged on.
    """
    kind = TASKS[manifest.task]
    if not records:
        raise DataError("expected images to measure on, got none; check --data")
    kind.judge.check("", records, manifest.labels)

    def compare(before: Sequence[Answer], after: Sequence[Answer]) -> Comparison:
        first, second = (table_of(records, answers, manifest) for answers in (before, after))
        return compare_tables(first, second, manifest.main_score, kind.judge, resamples=resamples)

    return Gate(images, compare, max_drop=kind.judge.MAX_DROP)


def table_of(records: Sequence[Record], answers: Sequence[Answer], manifest: Manifest) -> Any:
    """What graphs gave for each image as the table that the kind's figures take."""
    kind = TASKS[manifest.task]
    decided = [kind.answer.decide(answer, manifest) for answer in answers]
    return kind.judge.table_of(records, decided, manifest.labels)


def compare_tables(before: Any, after: Any, main_score: str, judge: JudgePart, *, resamples: int = 2000) -> Comparison:
    """Two tables of the same images as figures and their changes, the changes of few groups without intervals.

    Args:
        before, after: what the float graph answered, and the compressed one.
        main_score: the figure that counts.
        judge: of the kind of task that such tables are of.
        resamples: of the bootstrap.

    Raises:
        DataError: the main score is undefined on these images.
    """
    change = judge.paired(before, after, resamples=resamples)
    if np.isnan(change[main_score].value):
        raise DataError(
            f"expected images on which {main_score} is defined (with images of every label, or with boxes), got "
            f"{before.group.size} on which it is not; give more images"
        )
    return Comparison(
        images=before.group.size,
        groups=before.groups,
        main_score=main_score,
        before=judge.score(before, resamples=resamples),
        after=judge.score(after, resamples=resamples),
        change={name: figure.of_groups(before.groups) for name, figure in change.items()},
    )


def answers(
    artifact: Artifact, images: Images, graphs: Mapping[str, bytes] | None = None, step: Step = nobody
) -> list[Answer]:
    """What an artifact's graphs give for each image, or what others do in their place.

    Args:
        artifact: whose kind of task it is.
        images: to answer for.
        graphs: by their names; None: the artifact's own.
        step: takes how many images are through, and how many there are.
    """
    run = open_graphs(artifact.graphs if graphs is None else graphs)
    return [TASKS[artifact.manifest.task].outputs(image, run) for image in tracked(images, step, len(images))]


def count_unfamiliar(artifact: Artifact, images: Iterable[Pixels], graphs: Mapping[str, bytes]) -> int:
    """How many images look unfamiliar to graphs of an artifact that tells it."""
    about, session = artifact.manifest.familiar, open_session(graphs[MODEL])
    if about is None:
        return 0
    shares = (session.run([FAMILIAR], {"pixels": image})[0][0] for image in images)
    return sum(bool(share < about.threshold) for share in shares)


def latency(
    graphs: Mapping[str, bytes], feeds: Mapping[str, Mapping[str, Array]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Median milliseconds of one run on one thread, the graphs taking turns.

    It is the thread's own time: what else a busy machine does in between is not counted. The first two rounds are not
    counted. Slow graphs get fewer, of very slow ones one round is counted and the one before it not.
    """
    sessions = {name: open_session(graph) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(WARM + rounds):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, dict(feeds[name]))
            times[name].append(1e3 * (time.thread_time() - start))
        done = len(next(iter(times.values())))
        if done > 1 and sum(map(sum, times.values())) > MOST_MILLISECONDS:
            break
    return {name: statistics.median(values[min(WARM, len(values) - 1) :]) for name, values in times.items()}
