"""Processes that answer: one image at a time each, so that one that dies loses one request and no other."""

from __future__ import annotations

import io
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from leanmed.errors import InputTooLarge, LeanmedError, UnfamiliarInput
from leanmed.prompts import Prompts
from leanmed.reading.raster import Limits
from leanmed.runtime.batch import about_answer
from leanmed.runtime.lines import line_of
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.drawing import as_picture
from leanmed.tasks.kind import AsFile

NAME = "image"  # of the input in a line: what the client calls its file is nobody's business here
START_SECONDS = 120.0  # to open the artifacts
UNREADABLE, TOO_LARGE, REFUSED = 422, 413, 400


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
        file: of the forms png and mask.
    """

    status: int
    line: Mapping[str, Any]
    file: bytes = b""


class WorkerDied(Exception):
    """The process ended, or was ended since it took too long, while it worked on a job."""


def answer_job(predictor: Predictor, job: Job) -> Done:
    """Answer for one image."""
    started = time.perf_counter()
    try:
        prompts = Prompts.parse(job.points, job.labels, job.box) if job.points or job.labels or job.box else None
        frame = predictor.frame(job.content)
        found = predictor.decide(frame, prompts)
    except UnfamiliarInput as error:
        return Done(UNREADABLE, {"familiar": error.familiar, "error": str(error)})
    except InputTooLarge as error:
        return Done(TOO_LARGE, {"error": str(error)})
    except LeanmedError as error:
        return Done(UNREADABLE, {"error": str(error)})
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
    """Answer jobs until the other side is gone; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which lets its workers finish
    opened = {name: load(path, limits=limits, refuse_unfamiliar=refuse_unfamiliar) for name, path in artifacts.items()}
    connection.send("ready")
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        try:
            done = answer_job(opened[job.artifact], job)
        except Exception as error:  # a fault of ours: told to the server's log by its kind alone
            done = Done(
                500, {"error": "the server failed on this image; its log has more", "kind": type(error).__name__}
            )
        connection.send(done)


@dataclass(eq=False)
class Worker:
    """One such process, seen from the server.

    Args:
        artifacts: name -> folder.
        limits: of images.
        refuse_unfamiliar: give no answer to images unlike the training images.
        target: what the process does; see `work`.
        starts: of processes, so far.
    """

    artifacts: Mapping[str, Path]
    limits: Limits
    refuse_unfamiliar: bool = False
    target: Callable[..., None] = work
    starts: int = 0
    _process: Any = field(default=None, repr=False)
    _connection: Any = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process, and wait until it has opened the artifacts.

        Raises:
            WorkerDied: it does not come to that.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, dict(self.artifacts), self.limits, self.refuse_unfamiliar)
        self._process = context.Process(target=self.target, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.starts += 1
        self._receive(START_SECONDS)

    def ask(self, job: Job, seconds: float) -> Done:
        """The answer to a job; a process that takes longer is ended. Afterwards there is a process in any case.

        Raises:
            WorkerDied: there is no answer.
        """
        if not self.is_alive:
            self.start()
        try:
            self._connection.send(job)
            done: Done = self._receive(seconds)
        except (WorkerDied, OSError) as error:
            self.stop()
            self.start()
            raise WorkerDied from error
        return done

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
        return self._process is not None and self._process.is_alive()

    @property
    def process(self) -> int | None:
        """Its number; None: there is none."""
        return self._process.pid if self.is_alive else None

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None
