"""Processes that answer: what they say, and what happens when one ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from leanmed.errors import ArtifactError
from leanmed.reading.raster import Limits
from leanmed.runtime.batch import answer as answer_file
from leanmed.runtime.predictor import load
from leanmed.serving.workers import READY, Job, Worker, WorkerDied, answer_job

IGNORED = ("input", "seconds")


def strange(connection: Connection, artifacts: Mapping[str, Path], limits: Limits, refuse: bool) -> None:
    """In place of `work`: does what a job's bytes say."""
    connection.send(READY)
    while True:
        number, job = connection.recv()
        if job.content == b"die":
            os._exit(1)
        if job.content == b"sleep":
            time.sleep(60)
        connection.send((number - (job.content == b"late"), os.getpid()))


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker({}, Limits(), target=strange)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("content", [b"die", b"sleep", b"late"])
def test_a_process_that_ends_or_hangs_loses_one_job_and_another_takes_its_place(worker: Worker, content: bytes) -> None:
    first = worker.ask(Job("a", b"hello"), 20)
    with pytest.raises(WorkerDied):
        worker.ask(Job("a", content), 0.5 if content == b"sleep" else 20)
    second = worker.ask(Job("a", b"hello"), 20)
    assert first != second
    assert worker.starts == 2


def test_a_process_that_ended_between_jobs_is_replaced(worker: Worker) -> None:
    assert worker.process is not None
    os.kill(worker.process, 9)
    worker._process.join()
    assert isinstance(worker.ask(Job("a", b"hello"), 20), int)
    assert worker.starts == 2


def test_a_closed_worker_has_no_process_and_gets_none(worker: Worker) -> None:
    worker.close()
    assert not worker.is_alive
    assert worker.process is None
    with pytest.raises(WorkerDied):
        worker.ask(Job("a", b"hello"), 20)
    assert worker.starts == 1


def test_an_artifact_that_cannot_be_opened_is_told_of_when_the_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected an artifact"):
        Worker({"a": tmp_path}, Limits()).start()


def test_a_job_that_was_begun_is_finished_when_the_process_is_told_to_end(
    tiny_artifact: Path, photographs: list[Path]
) -> None:
    one = Worker({"a": tiny_artifact}, Limits())
    one.start()
    try:
        process = one.process
        assert process is not None
        one._connection.send((0, Job("a", photographs[0].read_bytes())))
        number, done = one._receive(20)
        assert (number, done.status) == (0, 200)
        os.kill(process, signal.SIGTERM)
        one._process.join(20)
        assert one._process.exitcode == 0
    finally:
        one.close()


def test_the_answer_is_the_line_that_predict_writes(tiny_artifact: Path, photographs: list[Path]) -> None:
    predictor = load(tiny_artifact)
    done = answer_job(predictor, Job("a", photographs[3].read_bytes()))
    line = answer_file(predictor, photographs[3])
    assert done.status == 200
    assert {k: v for k, v in done.line.items() if k not in IGNORED} == {
        k: v for k, v in line.items() if k not in IGNORED
    }
    assert done.line["input"] == "image"


@pytest.mark.parametrize(
    ("content", "more", "status", "said"),
    [
        (b"no image", {}, 422, "expected"),
        (b"", {}, 422, "expected"),
        (None, {"points": ["3,4"]}, 422, "expected no points or boxes"),
        (None, {"points": ["x"]}, 422, "expected a point X,Y"),
        (None, {"form": "mask"}, 400, "expected form=mask of an artifact that gives masks"),
    ],
)
def test_what_cannot_be_answered_has_a_status_and_a_reason(
    content: bytes | None, more: dict[str, Any], status: int, said: str, tiny_artifact: Path, photographs: list[Path]
) -> None:
    given = photographs[0].read_bytes() if content is None else content
    done = answer_job(load(tiny_artifact), Job("a", given, **more))
    assert done.status == status
    assert said in done.line["error"]


def test_an_image_of_too_many_pixels_is_too_large(tiny_artifact: Path, photographs: list[Path]) -> None:
    done = answer_job(load(tiny_artifact, limits=Limits(max_pixels=10)), Job("a", photographs[0].read_bytes()))
    assert done.status == 413


def test_a_drawing_is_a_png(tiny_artifact: Path, photographs: list[Path]) -> None:
    done = answer_job(load(tiny_artifact), Job("a", photographs[0].read_bytes(), form="png"))
    assert done.file.startswith(b"\x89PNG")
    assert done.line["label"]
