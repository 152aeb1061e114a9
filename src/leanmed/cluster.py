"""Work on a Ray cluster: one object per worker process, jobs in order, and what a worker refuses told by its driver.

Ray starts a job again on another worker when its process or its machine is lost, so a job must bear to be begun twice.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from leanmed import __version__
from leanmed.cores import available_cores
from leanmed.errors import LeanmedError, RunError
from leanmed.extras import needs
from leanmed.remote import Place, exists

Job = TypeVar("Job")
Result = TypeVar("Result")

ENGINE = "ray"
LOCAL, AUTO = "local", "auto"  # what RAY_ADDRESS may say in place of an address
PACKAGES = ("numpy", "onnxruntime", "Pillow")  # of the default install, on which an answer depends
READERS = ("pillow-heif", "imagecodecs", "pydicom", "nibabel", "scipy", "h5py")  # that read some files, where installed
SHARE = 0.5  # of the cluster's cores that the workers reserve: Ray Data's own tasks wait for ever if none is left
MOST_CORES = 0.5  # that one worker reserves; each computes with one thread
CONNECT_SECONDS = 5
TOLD = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt): ")  # a line of a traceback


def is_engine(engine: str | None) -> bool:
    """Whether an option `--engine` asks for Ray; None asks for the processes of this machine.

    Raises:
        RunError: it asks for something else.
    """
    if engine is None or engine == ENGINE:
        return engine is not None
    raise RunError(
        f"expected --engine ray, got {engine!r}; name a cluster by the environment variable RAY_ADDRESS=HOST:6379, or "
        "leave the option out for no cluster"
    )


def run(
    make: Callable[[], Callable[[Job], Result]],
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    packages: Sequence[str] = (),
    folder: Path | None = None,
) -> Iterator[Result]:
    """The results of the jobs, in order, from the workers of a Ray cluster.

    The cluster is that of the environment variable RAY_ADDRESS, one of whose machines this is; without the variable, it
    is one that is started on this machine and ends with the work.

    Args:
        make: called once in each worker process; what it makes takes the jobs. Both must be importable there.
        jobs: whatever can be pickled.
        workers: processes; 0: one for each core of the cluster.
        packages: distributions of which the workers must have the versions of this process, besides `versions`.
        folder: in which the workers work, so that paths mean to them what they mean to the driver; None: anywhere.

    Raises:
        LeanmedError: what `make` or a job raised in a worker.
        MissingExtraError: Ray is not installed.
        RunError: there is no cluster at that address, its workers have other versions than this process, or one of
            them has failed for a reason of its machine or of Ray.
    """
    needs("--engine ray", "ray", "ray")
    with _connected(), _quiet_in_order():
        import ray

        resources: Callable[[], dict[str, float]] = ray.cluster_resources
        cores = resources().get("CPU", 1.0)
        workers = min(workers or int(cores), len(jobs)) or 1
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        results = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map_batches(
            _Worker,
            fn_constructor_args=(pickle.dumps(make), versions(packages), folder),
            batch_size=1,
            concurrency=workers,
            num_cpus=min(MOST_CORES, SHARE * cores / workers),
        )
        for found in _found(results):
            if isinstance(found, LeanmedError):
                raise found
            yield found


def _found(results: Any) -> Iterator[Any]:
    """What the workers found, in order; what Ray itself raises is told in one sentence."""
    from ray.exceptions import RayError

    try:
        for row in results.iter_rows():
            yield pickle.loads(row["result"])  # noqa: S301 (of our own workers)
    except RayError as error:
        raise RunError(
            f"expected the workers on Ray to finish, got {_reason(error)}; see to it, and repeat the command, with "
            "--resume if it has that option"
        ) from error


def _reason(error: Exception) -> str:
    """Of tracebacks, which is what Ray makes of an error in a worker, the first error; else the first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next(filter(TOLD.match, lines), lines[0]).rstrip(".")


def versions(packages: Sequence[str] = ()) -> dict[str, str | None]:
    """Of what an answer depends on, and of more packages; None: not installed."""
    return {"leanmed": __version__} | {name: _version(name) for name in (*PACKAGES, *READERS, *packages)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class _Worker:
    """What Ray Data keeps in each worker process. A refusal is a result: what is raised, Ray would try again.

    Args:
        make: as of `run`, pickled, since it may not even be there in another version.
        expected: the versions of the driver.
        folder: as of `run`.
    """

    def __init__(self, make: bytes, expected: dict[str, str | None], folder: Path | None) -> None:
        self.work: Callable[[Any], Any]
        self.refusal: LeanmedError | None = None
        try:
            _check_versions(expected)
            if folder is not None:
                check_seen(folder)
                os.chdir(folder)
            self.work = pickle.loads(make)()  # noqa: S301 (of our driver)
        except LeanmedError as error:
            self.refusal = error
        except OSError as error:
            self.refusal = _refused_by_machine(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the one job of a batch."""
        return {"result": [pickle.dumps(self._result(batch["job"][0]))]}

    def _result(self, job: bytes) -> object:
        if self.refusal is not None:
            return self.refusal
        try:
            return self.work(pickle.loads(job))  # noqa: S301 (of our driver)
        except LeanmedError as error:
            return error
        except OSError as error:
            return _refused_by_machine(error)


def _refused_by_machine(error: OSError) -> RunError:
    return RunError(
        f"expected {socket.gethostname()} to read and write files for its worker, got {error}; see to it, and repeat "
        "the command, with --resume if it has that option"
    )


def _check_versions(expected: dict[str, str | None]) -> None:
    here = versions([name for name in expected if name != "leanmed"])
    differ = [
        f"{name} {here[name] or '(none)'} in place of {wanted or 'none'}"
        for name, wanted in expected.items()
        if here[name] != wanted
    ]
    if differ:
        raise RunError(
            f"expected the worker on {socket.gethostname()} to have the versions of the driver, got "
            f"{', '.join(differ)}; install the same on all machines"
        )


def check_seen(place: Place) -> None:
    """Refuse a place that the driver sees and this worker does not.

    Raises:
        RunError: it does not exist here, or its URL cannot be reached.
    """
    if exists(place):
        return
    here = socket.gethostname()
    if isinstance(place, Path):
        raise RunError(
            f"expected all machines to see {place.absolute()}, but {here} does not; put it into a folder that they "
            "share, or copy it there"
        )
    raise RunError(
        f"expected all machines to see {place}, but {here} does not; give it the same credentials and settings of the "
        "object store as the driver has"
    )


@contextmanager
def _quiet_in_order() -> Iterator[None]:
    """Let Ray Data keep the order of its rows and not show its own progress, and then do as before."""
    from ray.data import DataContext

    context = DataContext.get_current()
    options = context.execution_options
    before = context.enable_progress_bars, options.preserve_order
    context.enable_progress_bars, options.preserve_order = False, True
    try:
        yield
    finally:
        context.enable_progress_bars, options.preserve_order = before


@contextmanager
def _connected() -> Iterator[None]:
    """A connection to the cluster; one that was there before stays."""
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of its own progress
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address == LOCAL:  # without an address, Ray would take any cluster that somebody has started here
            ray.init(LOCAL, num_cpus=available_cores(), include_dashboard=False, **quiet)
        else:
            _check_answers(address)
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"expected to connect to Ray at {address}, got {_reason(error)}; start it with `ray start`, by the "
            "same versions of Python and Ray as here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise RunError(
            f"expected RAY_ADDRESS to be HOST:6379, local or auto, got {address!r}; correct it, and start the command "
            "on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"expected Ray at {address}, got no connection ({error}); start it there with `ray start --head`, or unset "
            "RAY_ADDRESS to work on this machine alone"
        ) from error
