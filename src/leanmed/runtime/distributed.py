"""Many predictions on a Ray cluster: each job is a shard with its marker, and then one file is made of all.

A shard goes on after its last whole line on whichever machine it is begun again. An input that ends the process that
reads it, twice, is listed as failed, and the rest of its shard goes on.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leanmed import cluster
from leanmed.cluster import check_seen
from leanmed.errors import DataError, OutputError, RunError
from leanmed.files import whole_file
from leanmed.outputs import check_one
from leanmed.reading.images import Limits
from leanmed.runtime.batch import (
    Outcome,
    answers_these,
    beside,
    check_room,
    drop_strangers,
    holds_answers,
    predict_file,
)
from leanmed.runtime.predictor import Predictor, load

SHARD_INPUTS = 500  # as many answers at most are in one worker's hands
DEATHS = 2  # of processes that read one input by itself, after which it is not tried again


@dataclass(frozen=True)
class Asked:
    """What each worker needs to know.

    `limits`, `threshold` and `refuse_unfamiliar` are those of `leanmed.load`, `out` and `draw` those of `predict_file`.
    """

    artifact: Path
    sha256: str
    limits: Limits
    threshold: float | None
    refuse_unfamiliar: bool
    out: Path
    draw: Path | None


@dataclass(frozen=True)
class Job:
    """A shard: its file, its inputs, and one of them that the driver sees, if there is any."""

    path: Path
    inputs: tuple[Path, ...]
    seen: Path | None


def predict_distributed(
    predictor: Predictor,
    artifact: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    draw: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict many files into one file of answers by the workers of a Ray cluster; the same lines as `predict_file`.

    The shards `STEM-ray-I-of-N.jsonl`, each of inputs that follow each other, lie beside OUT with their markers until
    OUT is whole, so that `resume` finds what is done however many workers or drivers were lost. All workers must see
    the artifact, the inputs and the folders of OUT and `draw` under the paths that this process uses.

    Args:
        predictor: opened from `artifact` here; each worker opens its own, with one thread.
        artifact: the folder.
        inputs: all inputs.
        out: JSON lines.
        resume, overwrite, draw: as of `predict_file`.
        workers: processes; 0: one for each core of the cluster.
        progress: takes the number of inputs that are through.

    Raises:
        OutputError: as `predict_file`; shards of an earlier run; or what is to be resumed is not of a cluster.
        RunError: as `predict_file` and `leanmed.cluster.run`; a worker that does not see a path.
        DataError: OUT is a table.
    """
    check_one(resume=resume, overwrite=overwrite)
    if out.suffix.lower() == ".csv":
        raise DataError(f"expected --engine ray to write JSON lines, got --out {out}; name a file that ends in .jsonl")
    total = max(1, -(-len(inputs) // SHARD_INPUTS))
    jobs = [
        _job(
            out.with_name(f"{out.stem}-ray-{index + 1}-of-{total}{out.suffix}"),
            inputs[index * SHARD_INPUTS : (index + 1) * SHARD_INPUTS],
        )
        for index in range(total)
    ]
    marker = out.with_name(f"{out.name}.done")
    if resume:
        _check_resumed(out, jobs)
    else:
        check_room(out, overwrite)
        _clear([job.path for job in jobs], overwrite)
        marker.unlink(missing_ok=True)  # so that older answers, which stay until the new are whole, are never resumed
    if not (out.exists() and marker.exists()):
        for folder in (out.parent, draw):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        asked = Asked(
            artifact,
            predictor.artifact.sha256,
            predictor.limits,
            predictor.manifest.threshold,
            predictor.refuse_unfamiliar,
            out,
            draw,
        )
        _answer_all(cluster.run(partial(ShardWorker, asked), jobs, workers=workers), jobs, progress)
        _join([job.path for job in jobs], out)
    outcome = predict_file(predictor, inputs, out, resume=True)
    if overwrite:
        drop_strangers(beside(out), inputs)
    for job in jobs:
        _drop(job, predictor)
    return outcome


def _check_resumed(out: Path, jobs: Sequence[Job]) -> None:
    """Refuse to go on with what no run on a cluster has left: older answers are replaced by `overwrite` alone."""
    holds_answers(out, replacing=True)
    part, marker = (out.with_name(out.name + end) for end in (".part", ".done"))
    begun = any(place.exists() for job in jobs for place in _places(job.path))
    if part.exists() or (out.exists() and not marker.exists() and not begun):
        raise OutputError(
            f"expected --resume to go on with a run of --engine ray, but {part if part.exists() else out} is of one "
            "without; leave out --engine, or replace what is there by --overwrite"
        )


def _job(path: Path, inputs: Sequence[Path]) -> Job:
    return Job(path, tuple(inputs), next((source for source in inputs if source.exists()), None))


def _answer_all(results: Iterator[int], jobs: Sequence[Job], progress: Callable[[int], None]) -> None:
    """Wait for all shards; each must be where this process sees it."""
    done = 0
    for job, answered in zip(jobs, results, strict=True):
        if not job.path.exists():
            raise RunError(
                f"expected a worker to write {job.path} where this process sees it, got no such file; choose --out in "
                "a folder that all machines share"
            )
        done += answered
        progress(done)


def _places(shard: Path) -> Iterator[Path]:
    """A shard and the files beside it."""
    return (shard.with_name(shard.name + end) for end in ("", ".part", ".done", ".tried"))


def _clear(shards: Sequence[Path], overwrite: bool) -> None:
    """Refuse shards of an earlier run, or with `overwrite` remove them; anything else in their places is refused."""
    held = [shard for shard in shards if holds_answers(shard, replacing=overwrite)]
    if held and not overwrite:
        raise OutputError(
            f"expected --out to be new, but {held[0]} of an earlier run is there; add --resume to go on with it, or "
            "--overwrite to replace it, or choose another --out"
        )
    for path in (place for shard in shards for place in _places(shard)):
        path.unlink(missing_ok=True)


def _drop(job: Job, predictor: Predictor) -> None:
    """Remove a shard whose lines are in OUT now, and leave one that answers another question."""
    places = list(_places(job.path))
    if all(answers_these(path, job.inputs, predictor) for path in places[:2] if path.exists()):
        for path in places:
            path.unlink(missing_ok=True)


def _join(shards: Sequence[Path], out: Path) -> None:
    """Write the lines of all shards, one after the other. OUT takes its name when it is whole."""
    with whole_file(out) as temporary, temporary.open("wb") as file:
        for path in shards:
            with path.open("rb") as shard:
                shutil.copyfileobj(shard, file)


class ShardWorker:
    """Answers one shard after the other.

    Raises:
        RunError: this machine does not see the artifact, or sees another.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        check_seen(asked.artifact)
        check_seen(asked.out.parent)
        if asked.draw:
            check_seen(asked.draw)
        self.predictor = load(
            asked.artifact,
            limits=asked.limits,
            threshold=asked.threshold,
            refuse_unfamiliar=asked.refuse_unfamiliar,
        )
        if self.predictor.artifact.sha256 != asked.sha256:
            raise RunError(
                f"expected the artifact {asked.artifact} to be the same on all machines, got another on "
                f"{socket.gethostname()}; copy it there again"
            )

    def __call__(self, job: Job) -> int:
        """Answer a shard's inputs into its file, and give their number; one that was begun before goes on.

        Raises:
            RunError: this machine does not see the inputs, or the shard's file belongs to another question.
        """
        if job.seen:
            check_seen(job.seen)
        note = job.path.with_name(f"{job.path.name}.tried")
        tried = Tried(note) if note.exists() else None
        note.touch()
        predict_file(
            self.predictor,
            job.inputs,
            job.path,
            resume=True,
            draw=self.asked.draw,
            named=self.asked.out,
            refuse=tried or (lambda source: None),
        )
        note.unlink(missing_ok=True)
        return len(job.inputs)


class Tried:
    """Which input a shard's process reads, written down before it does, so that the next process knows if it died.

    Its deaths are counted because a process may also have been lost for another reason. Nothing is written down for a
    shard that is begun for the first time, when no process has died.

    Args:
        note: the file; what a killed process has left of it may be half.
    """

    def __init__(self, note: Path) -> None:
        self.note = note
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
            self.deaths = Counter(said["deaths"])
            self.deaths[said["reads"]] += 1
        except (ValueError, KeyError, TypeError):
            self.deaths = Counter()

    def __call__(self, source: Path) -> str | None:
        """Note that this input is read next; if it has cost too many processes, the reason why it is not."""
        name = str(source)
        if self.deaths[name] >= DEATHS:
            return (
                f"expected to read it, but {self.deaths[name]} processes ended while they did; try it by itself with "
                "leanmed predict"
            )
        self.note.write_text(json.dumps({"reads": name, "deaths": self.deaths}), encoding="utf-8")
        return None
