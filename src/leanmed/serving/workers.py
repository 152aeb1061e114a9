"""Processes that answer: one image at a time each, so that one that dies loses one request and no other."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from PIL import Image

from leanmed.errors import ArtifactError, InputTooLarge, LeanmedError, MissingExtraError, UnfamiliarInput
from leanmed.prompts import Prompts
from leanmed.reading.raster import Limits
from leanmed.runtime.batch import about_answer
from leanmed.runtime.lines import line_of
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.drawing import as_picture
from leanmed.tasks.kind import AsFile

NAME = "image"  # of the input in a line: what the client calls its file is nobody's business here
START_SECONDS = 120.0  # to open the artifacts
UNREADABLE, TOO_LARGE, REFUSED, FAILED = 422, 413, 400, 500
READY = "ready"


@dataclass(frozen=True)
class Job:
    """One request.

    Args:
        artifact: its name.
        content: the bytes of an image's file.
        points, labels, box: as `Prompts.parse` takes them.
        form: json; or png: the image with the answer on it, which page shows; or mask: the answer's own file, of masks.
    """

    artifact: str
    content: bytes
    points: Sequence[str] = ()
    labels: Sequence[str] = ()
    box: str | None = None
    form: str = "json"


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Args:
        status: of HTTP.
        line: the answer as `leanmed predict` writes it, or `error`.
        file: of the forms png, page and mask.
        fault: the kind of a fault of the server, for its log; empty: there was none.
    """

    status: int
    line: Mapping[str, Any]
    file: bytes = b""
    fault: str = ""


class WorkerDied(Exception):
    """The process ended, or was ended since it took too long, while it worked on a job."""


def answer_job(predictor: Predictor, job: Job) -> Done:
    """Answer for one image."""
    started = time.perf_counter()
    try:
        prompts = Prompts.parse(job.points, job.labels, job.box) if job.points or job.labels or job.box else None
        frame = predictor.frame(job.content)
        predictor.check_prompts(frame, prompts)
    except InputTooLarge as error:
        return Done(TOO_LARGE, {"error": str(error)})
    except LeanmedError as error:
        status = FAILED if isinstance(error, MissingExtraError) else UNREADABLE
        return Done(status, {"error": str(error)}, fault=type(error).__name__ if status == FAILED else "")
    try:
        found = predictor.decide(frame, prompts)
    except UnfamiliarInput as error:
        return Done(UNREADABLE, {"familiar": error.familiar, "error": str(error)})
    placed = found.placed(frame.points) if frame.points else found
    line = line_of(NAME, placed, **about_answer(predictor, placed, prompts), seconds=time.perf_counter() - started)
    if job.form in ("png", "page"):
        return Done(200, line, _png(Image.fromarray(found.draw(as_picture(frame.pixels)))))
    if job.form == "mask":
        if not isinstance(placed, AsFile):
            return Done(REFUSED, {"error": "expected form=mask of an artifact that gives masks; take form=json or png"})
        return Done(200, line, placed.file()[1])
    return Done(200, line)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def work(connection: Connection, artifacts: Mapping[str, Path], limits: Limits, refuse_unfamiliar: bool) -> None:
    """Answer jobs until the other side is gone, or SIGTERM comes; runs in a process of its own.

    A job that was begun is finished. Ctrl-C is for the server alone.
    """
    is_busy, is_over = False, False

    def end(*about: Any) -> None:
        nonlocal is_over
        is_over = True
        if not is_busy:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    try:
        opened = {n: load(path, limits=limits, refuse_unfamiliar=refuse_unfamiliar) for n, path in artifacts.items()}
    except LeanmedError as error:
        connection.send(str(error))
        return
    connection.send(READY)
    while not is_over:
        try:
            number, job = connection.recv()
        except EOFError:
            return
        is_busy = True
        try:
            done = answer_job(opened[job.artifact], job)
        except Exception as error:  # of ours or of the artifact's: its words may tell of the image
            done = Done(FAILED, {"error": "the server failed on this image"}, fault=type(error).__name__)
        connection.send((number, done))
        is_busy = False


@dataclass(eq=False)
class Worker:
    """One such process, seen from the server.

    Args:
        artifacts: name -> folder.
        limits: of images.
        refuse_unfamiliar: give no answer to images unlike the training images.
        target: what the process does; see `work`.
        starts: of processes, so far.
        closed: no process is started any more.
    """

    artifacts: Mapping[str, Path]
    limits: Limits
    refuse_unfamiliar: bool = False
    target: Callable[..., None] = work
    starts: int = 0
    closed: bool = False
    _process: Any = field(default=None, repr=False)
    _connection: Any = field(default=None, repr=False)
    _numbers: Any = field(default_factory=itertools.count, repr=False)

    def start(self) -> None:
        """Start the process, and wait until it has opened the artifacts.

        Raises:
            ArtifactError: it cannot open them.
            WorkerDied: it does not come to that, or the worker is closed.
        """
        if self.closed:
            raise WorkerDied
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, dict(self.artifacts), self.limits, self.refuse_unfamiliar)
        self._process = context.Process(target=self.target, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.starts += 1
        try:
            said = self._receive(START_SECONDS)
        except WorkerDied:
            self.stop()
            raise
        if said != READY:
            self.stop()
            raise ArtifactError(said)

    def ask(self, job: Job, seconds: float) -> Done:
        """The answer to a job. A process that takes longer is ended; the next job, or `start`, makes another one.

        Raises:
            WorkerDied: there is no answer.
        """
        number = next(self._numbers)
        try:
            if not self.is_alive:
                self.start()
            self._connection.send((number, job))
            told, done = self._receive(seconds)
            if told != number:  # never give one client the answer to another
                raise WorkerDied
        except Exception as error:
            self.stop()
            raise WorkerDied from error
        return cast(Done, done)

    def _receive(self, seconds: float) -> Any:
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        raise WorkerDied

    @property
    def is_alive(self) -> bool:
        """Whether there is a process."""
        process = self._process
        return process is not None and process.is_alive()

    @property
    def process(self) -> int | None:
        """Its number; None: there is none."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
            self._connection.close()

    def close(self) -> None:
        """End the process for good."""
        self.closed = True
        self.stop()
