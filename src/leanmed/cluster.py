"""Work on a Ray cluster: one object per worker process, jobs in order, and what a worker refuses told by its driver.

Ray starts a job again on another worker when its process or its machine is lost, so a job must bear to be begun twice.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from leanmed import __version__
from leanmed.cores import available_cores
from leanmed.errors import LeanmedError, RunError
from leanmed.extras import needs

Job = TypeVar("Job")
Result = TypeVar("Result")

ENGINE, SCHEME = "ray", "ray://"
SHARE = 0.5  # of the cluster's cores that the workers reserve: Ray Data's own tasks wait for ever if none is left
MOST_CORES = 0.5  # that one worker reserves; each computes with one thread
CONNECT_SECONDS = 5


def is_engine(engine: str | None) -> bool:
    """Whether an option `--engine` asks for Ray; None asks for the processes of this machine.

    Raises:
        RunError: it asks for something else.
    """
    if engine is None or engine == ENGINE or engine.startswith(SCHEME):
        return engine is not None
    raise RunError(f"expected --engine ray or --engine ray://HOST:PORT, got {engine!r}; leave it out for no cluster")


def run(
    engine: str, make: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job], *, workers: int = 0
) -> Iterator[Result]:
    """The results of the jobs, in order.

    Args:
        engine: `ray`: the cluster of the environment variable RAY_ADDRESS, or else one that is started on this machine
            and ends with the work; `ray://HOST:PORT`: that cluster, by way of its Ray client server.
        make: called once in each worker process; what it makes takes the jobs. Both must be importable there.
        jobs: whatever can be pickled.
        workers: processes; 0: one for each core of the cluster.

    Raises:
        LeanmedError: what `make` or a job raised in a worker.
        MissingExtraError: Ray is not installed.
        RunError: there is no cluster at that address, or its workers have other versions than this process.
    """
    needs("--engine ray", "ray", "ray")
    with _connected(engine):
        import ray

        resources: Callable[[], dict[str, float]] = ray.cluster_resources
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        cores = resources().get("CPU", 1.0)
        workers = min(workers or int(cores), len(jobs)) or 1
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        results = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map_batches(
            _Worker,
            fn_constructor_args=(make, versions(), Path.cwd()),
            batch_size=1,
            concurrency=workers,
            num_cpus=min(MOST_CORES, SHARE * cores / workers),
        )
        for row in results.iter_rows():
            found = pickle.loads(row["result"])  # noqa: S301 (of our own workers)
            if isinstance(found, LeanmedError):
                raise found
            yield found


def versions() -> dict[str, str]:
    """Of what an answer depends on."""
    return {"leanmed": __version__} | {name: version(name) for name in ("numpy", "onnxruntime", "Pillow")}


class _Worker:
    """What Ray Data keeps in each worker process. A refusal is a result: what is raised, Ray would try again."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], expected: dict[str, str], folder: Path) -> None:
        self.work: Callable[[Any], Any]
        self.refusal: LeanmedError | None = None
        try:
            _check_versions(expected)
            check_seen(folder)
            os.chdir(folder)  # so that paths mean here what they mean to the driver
            self.work = make()
        except LeanmedError as error:
            self.refusal = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the one job of a batch."""
        return {"result": [pickle.dumps(self._result(pickle.loads(batch["job"][0])))]}  # noqa: S301 (of our driver)

    def _result(self, job: object) -> object:
        if self.refusal is not None:
            return self.refusal
        try:
            return self.work(job)
        except LeanmedError as error:
            return error


def _check_versions(expected: dict[str, str]) -> None:
    here = versions()
    differ = [f"{name} {here[name]} in place of {wanted}" for name, wanted in expected.items() if here[name] != wanted]
    if differ:
        raise RunError(
            f"expected the worker on {socket.gethostname()} to have the versions of the driver, got "
            f"{', '.join(differ)}; install the same on all machines"
        )


def check_seen(path: Path) -> None:
    """Refuse a path that the driver sees and this worker does not.

    Raises:
        RunError: it does not exist here.
    """
    if not path.exists():
        raise RunError(
            f"expected all machines to see {path.absolute()}, but {socket.gethostname()} does not; put it into a "
            "folder that they share, or copy it there"
        )


@contextmanager
def _connected(engine: str) -> Iterator[None]:
    """A connection to the cluster; one that was there before stays."""
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    address = engine if engine.startswith(SCHEME) else os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of its own progress
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            _check_answers(address)
            ray.init(address, **quiet)
        else:
            ray.init(num_cpus=available_cores(), include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"expected to connect to Ray at {address or 'this machine'}, got {str(error).splitlines()[0]}; start it "
            "with `ray start`, by the same versions of Python and Ray as here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        if address == "auto":
            return
        raise RunError(f"expected an address of Ray such as ray://HOST:10001, got {address!r}; correct it")
    try:
        socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(
            f"expected Ray at {address}, got no connection ({error}); start it there with `ray start --head`, or use "
            "--engine ray without an address for this machine alone"
        ) from error
