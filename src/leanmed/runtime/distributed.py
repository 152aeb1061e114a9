"""Many predictions on a Ray cluster: each job is a shard with its marker, and then one file is made of all.

A shard goes on after its last whole line on whichever machine it is begun again. An input that ends the process that
reads it, twice, is listed as failed, and the rest of its shard goes on.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from leanmed import cluster
from leanmed.cluster import check_seen
from leanmed.errors import DataError, OutputError, RunError
from leanmed.outputs import check_one
from leanmed.reading.images import Limits
from leanmed.runtime.batch import Outcome, beside, check_room, drop_strangers, predict_file
from leanmed.runtime.predictor import Predictor, load

SHARD_INPUTS = 500  # on average: as many answers at most are in one worker's hands
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
    engine: str,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    draw: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict many files into one file of answers by the workers of a Ray cluster; the same lines as `predict_file`.

    The shards `STEM-I-of-N.jsonl` lie beside OUT with their markers until OUT is whole, so that `resume` finds what is
    done however many workers or drivers were lost. All workers must see the artifact, the inputs and the folder of OUT
    under the paths that this process uses.

    Args:
        predictor: opened from `artifact` here; each worker opens its own, with one thread.
        artifact: the folder.
        inputs: all inputs.
        out: JSON lines.
        engine: as of `leanmed.cluster.run`.
        resume, overwrite, draw: as of `predict_file`.
        workers: processes; 0: one for each core of the cluster.
        progress: takes the number of inputs that are through.

    Raises:
        OutputError: as `predict_file`, or shards of an earlier run.
        RunError: as `predict_file` and `leanmed.cluster.run`; a worker that does not see a path.
        DataError: OUT is a table.
    """
    check_one(resume=resume, overwrite=overwrite)
    if out.suffix.lower() == ".csv":
        raise DataError(f"expected --engine ray to write JSON lines, got --out {out}; name a file that ends in .jsonl")
    total = -(-len(inputs) // SHARD_INPUTS)
    shards = [out.with_name(f"{out.stem}-{number}-of-{total}{out.suffix}") for number in range(1, total + 1)]
    part = out.with_name(f"{out.name}.part")
    if not resume:
        check_room(out, overwrite)
        _clear(shards, overwrite)
    if not (resume and (out.exists() or part.exists())):
        out.parent.mkdir(parents=True, exist_ok=True)
        asked = Asked(
            artifact,
            predictor.artifact.sha256,
            predictor.limits,
            predictor.manifest.threshold,
            predictor.refuse_unfamiliar,
            out,
            draw,
        )
        jobs = [_job(path, inputs[index::total]) for index, path in enumerate(shards)]
        _answer_all(cluster.run(engine, partial(ShardWorker, asked), jobs, workers=workers), jobs, progress)
        _join(shards, part)
    outcome = predict_file(predictor, inputs, out, resume=True)
    if overwrite:
        drop_strangers(beside(out), inputs)
    for path in (place for shard in shards for place in _places(shard)):
        path.unlink(missing_ok=True)
    return outcome


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
    """Refuse shards of an earlier run, or with `overwrite` remove them."""
    held = [path for shard in shards for path in _places(shard) if path.exists()]
    if held and not overwrite:
        raise OutputError(
            f"expected --out to be new, but {held[0]} of an earlier run is there; add --resume to go on with it, or "
            "--overwrite to replace it, or choose another --out"
        )
    for path in held:
        path.unlink()


def _join(shards: Sequence[Path], part: Path) -> None:
    """Write all lines in the order of the inputs: one of each shard in turn. Half a file would not be taken for one."""
    unfinished = part.with_name(f".{part.name}")
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in shards]
        out = stack.enter_context(unfinished.open("wb"))
        for number in count():
            line = files[number % len(files)].readline()
            if not line:
                break
            out.write(line)
    unfinished.replace(part)


class ShardWorker:
    """Answers one shard after the other.

    Raises:
        RunError: this machine does not see the artifact, or sees another.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        check_seen(asked.artifact)
        check_seen(asked.out.parent)
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
