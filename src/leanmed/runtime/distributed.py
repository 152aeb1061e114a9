"""Many predictions on a Ray cluster: each job is a shard with its marker, and then one file is made of all.

A shard goes on after its last whole line on whichever machine it is begun again. An input that ends the process that
reads it, twice, is listed as failed, and the rest of its shard goes on. A shard behind a URL is sent there when it is
whole, and one that was not is answered anew.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leanmed import cluster
from leanmed.cluster import check_seen
from leanmed.errors import DataError, OutputError, RunError
from leanmed.files import whole_file
from leanmed.outputs import check_one
from leanmed.reading.images import Limits
from leanmed.remote import Place, exists, folder_at_hand, mirrored, remove, told, write
from leanmed.runtime.artifact import MANIFEST
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

    `limits`, `threshold` and `refuse_unfamiliar` are those of `leanmed.load`, `out` and `draw` those of `predict_file`,
    and `seen` is an input behind a URL that the driver sees, if there is any.
    """

    artifact: Place
    sha256: str
    limits: Limits
    threshold: float | None
    refuse_unfamiliar: bool
    out: Place
    draw: Place | None
    seen: Place | None = None


@dataclass(frozen=True)
class Job:
    """A shard: its file, its inputs, and one of them that lies on disk where the driver is, if there is any."""

    path: Place
    inputs: tuple[Place, ...]
    seen: Path | None


def predict_distributed(
    predictor: Predictor,
    artifact: Place,
    inputs: Sequence[Place],
    out: Place,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    draw: Place | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict many files into one file of answers by the workers of a Ray cluster; the same lines as `predict_file`.

    The shards `STEM-ray-I-of-N.jsonl`, each of inputs that follow each other, lie beside OUT with their markers until
    OUT is whole, so that `resume` finds what is done however many workers or drivers were lost. All workers must see
    the artifact, the inputs and the folders of OUT and `draw` under the paths, or reach the URLs, that this process
    uses.

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
        RunError: as `predict_file` and `leanmed.cluster.run`; a worker that does not see a path; a URL that cannot be
            reached.
        DataError: OUT is a table.
    """
    check_one(resume=resume, overwrite=overwrite)
    if out.suffix.lower() == ".csv":
        raise DataError(f"expected --engine ray to write JSON lines, got --out {out}; name a file that ends in .jsonl")
    for option, place in (("--out", out), ("--draw", draw)):
        if place is not None and not isinstance(place, Path) and not place.name:
            raise DataError(f"expected {option} with a name below the bucket, got {place}; add one")
    jobs = _jobs(inputs, out)
    asked = Asked(
        artifact,
        predictor.artifact.sha256,
        predictor.limits,
        predictor.manifest.threshold,
        predictor.refuse_unfamiliar,
        out,
        draw,
        next((source for source in inputs if not isinstance(source, Path) and exists(source)), None),
    )
    with mirrored(out.parent) as work:
        here, shards = work.copy / out.name, [work.copy / job.path.name for job in jobs]
        names = [place.name for file in (here, *shards) for place in _places(file)]
        work.fetch(names)
        marker = here.with_name(f"{here.name}.done")
        if resume:
            _check_resumed(here, shards)
        else:
            check_room(here, overwrite)
            _clear(shards, overwrite)
            marker.unlink(missing_ok=True)  # so that older answers, which stay until the new are whole, are not resumed
        if not (here.exists() and marker.exists()):
            work.send()
            for folder in (out.parent, draw):
                if isinstance(folder, Path):
                    folder.mkdir(parents=True, exist_ok=True)
            on_disk = any(isinstance(place, Path) for place in (artifact, out, draw, *inputs))
            make, here_too = partial(ShardWorker, asked), Path.cwd() if on_disk else None
            _await_all(cluster.run(make, jobs, workers=workers, folder=here_too), jobs, progress)
            work.fetch(names)
            _join(shards, here)
        outcome = predict_file(predictor, inputs, here, resume=True)
        work.send()
        if overwrite:
            drop_strangers([out.with_name(folder.name) for folder in beside(here)], inputs)
        for shard, job in zip(shards, jobs, strict=True):
            _drop(shard, job.inputs, predictor)
        work.send()
    return replace(outcome, path=out)


def _check_resumed(out: Path, shards: Sequence[Path]) -> None:
    """Refuse to go on with what no run on a cluster has left: older answers are replaced by `overwrite` alone."""
    holds_answers(out, replacing=True)
    part, marker = (out.with_name(out.name + end) for end in (".part", ".done"))
    begun = any(place.exists() for shard in shards for place in _places(shard))
    if part.exists() or (out.exists() and not marker.exists() and not begun):
        raise OutputError(
            f"expected --resume to go on with a run of --engine ray, but {part if part.exists() else out} is of one "
            "without; leave out --engine, or replace what is there by --overwrite"
        )


def _jobs(inputs: Sequence[Place], out: Place) -> list[Job]:
    """The shards beside OUT, of inputs that follow each other; one for no inputs."""
    parts = [tuple(inputs[start : start + SHARD_INPUTS]) for start in range(0, len(inputs), SHARD_INPUTS)] or [()]
    return [
        Job(out.with_name(f"{out.stem}-ray-{number}-of-{len(parts)}{out.suffix}"), part, _on_disk(part))
        for number, part in enumerate(parts, start=1)
    ]


def _on_disk(inputs: Sequence[Place]) -> Path | None:
    return next((source for source in inputs if isinstance(source, Path) and source.exists()), None)


def _await_all(results: Iterator[int], jobs: Sequence[Job], progress: Callable[[int], None]) -> None:
    """Wait for all shards; each must be where this process sees it."""
    done = 0
    for job, answered in zip(jobs, results, strict=True):
        if not exists(job.path):
            raise RunError(
                f"expected a worker to write {job.path} where this process sees it, got no such file; choose --out in "
                "a folder or bucket that all machines share"
            )
        done += answered
        progress(done)


def _places(answers: Path) -> Iterator[Path]:
    """A file of answers and the files beside it."""
    return (answers.with_name(answers.name + end) for end in ("", ".part", ".done", ".tried"))


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


def _drop(shard: Path, inputs: Sequence[Place], predictor: Predictor) -> None:
    """Remove a shard whose lines are in OUT now, and leave one that answers another question."""
    places = list(_places(shard))
    if all(answers_these(path, inputs, predictor) for path in places[:2] if path.exists()):
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
        for place in (asked.artifact, asked.out.parent, asked.draw):
            if isinstance(place, Path):
                check_seen(place)
        if asked.seen:
            check_seen(asked.seen)
        with folder_at_hand(asked.artifact, MANIFEST) as artifact:
            self.predictor = load(
                artifact,
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
        name, draw = job.path.name, self.asked.draw
        note = job.path.with_name(f"{name}.tried")
        tried = Tried(note) if exists(note) else None
        if tried is None:
            write(note, "")
        with mirrored(job.path.parent) as work, ExitStack() as stack:
            work.fetch([name, f"{name}.done"])
            drawings = stack.enter_context(mirrored(draw.parent)) if draw else None
            if draw and not isinstance(draw, Path):
                # Drawings that were not sent are gone, so that what they show is done anew.
                for end in ("", ".part", ".done") if tried else (".part",):
                    work.copy.joinpath(f"{name}{end}").unlink(missing_ok=True)
            try:
                predict_file(
                    self.predictor,
                    job.inputs,
                    work.copy / name,
                    resume=True,
                    draw=drawings.copy / draw.name if drawings and draw else None,
                    named=work.copy / self.asked.out.name,
                    refuse=tried or (lambda source: None),
                )
            except Exception:
                if tried:
                    tried.withdraw()
                raise
            if drawings:
                drawings.send()
            work.send()
        remove(note)
        return len(job.inputs)


class Tried:
    """Which input a shard's process reads, written down before it does, so that the next process knows if it died.

    Its deaths are counted because a process may also have been lost for another reason. Nothing is written down for a
    shard that is begun for the first time, when no process has died.

    Args:
        note: the file; what a killed process has left of it may be half.
    """

    def __init__(self, note: Place) -> None:
        self.note = note
        with told(note):
            text = note.read_text(encoding="utf-8")
        try:
            said = json.loads(text)
            self.deaths = Counter(said["deaths"])
            if said["reads"] is not None:
                self.deaths[said["reads"]] += 1
        except (ValueError, KeyError, TypeError):
            self.deaths = Counter()

    def __call__(self, source: Place) -> str | None:
        """Note that this input is read next; if it has cost too many processes, the reason why it is not."""
        name = str(source)
        if self.deaths[name] >= DEATHS:
            return (
                f"expected to read it, but {self.deaths[name]} processes ended while they did; try it by itself with "
                "leanmed predict"
            )
        self._write(name)
        return None

    def withdraw(self) -> None:
        """Note that nothing is read: what went wrong has not ended this process."""
        self._write(None)

    def _write(self, reads: str | None) -> None:
        write(self.note, json.dumps({"reads": reads, "deaths": self.deaths}))
