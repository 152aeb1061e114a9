"""`leanmed watch`: the live page of a run, made of the files that its training writes.

The page is served to this machine alone, and holds no script: it asks the browser to load it anew every few seconds.
It only reads, so that it may be opened before a training, during it, and after it, from another process.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from leanmed.console import in_time
from leanmed.errors import LeanmedError, RunError
from leanmed.evaluation.runs import history_of
from leanmed.report.pages import render_page
from leanmed.report.plots import History, Plot, training
from leanmed.runs import HISTORY, PROGRESS, RUN, Run, read_csv
from leanmed.tasks.recipes import open_run

HOST = "127.0.0.1"  # nobody else can connect
REFRESH = 5  # seconds
QUIET = 600.0  # seconds beside five epochs, after which a training without news is taken for a stopped one
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
REFITTED = "all images"  # what the training of the model of all images is called
NOTHING: dict[str, Any] = {"about": "", "leak": None, "score": "", "rows": [], "plot": None}  # known of the run
State = Literal["waiting", "training", "stopped", "done"]


@dataclass(frozen=True)
class Training:
    """How far one training of a run is: of a fold, or of the model of all images.

    Args:
        name: what it is called.
        state: of it.
        epoch, epochs: how many are through, and how many there are at most.
        history: what each epoch gave, as text by column.
        best: the number of the best epoch so far, from 0; None: there is none, or no validation.
        images_per_second, seconds_an_epoch: its pace; None: not known.
        seconds_ago: since the last news; None: there is none.
    """

    name: str
    state: State
    epoch: int
    epochs: int
    history: tuple[Mapping[str, str], ...] = ()
    best: int | None = None
    images_per_second: float | None = None
    seconds_an_epoch: float | None = None
    seconds_ago: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """The most that it still takes."""
        if self.state != "training" or self.seconds_an_epoch is None:
            return None
        return max(self.epochs - self.epoch, 0) * self.seconds_an_epoch


def trainings_of(run: Run) -> list[Training]:
    """Each fold of a run, and the model of all images if its training has begun."""
    found = [_training(run, number) for number in range(run.facts["folds"])]
    return [*found, *([_training(run, None)] if run.folder(None).is_dir() else [])]


def _training(run: Run, fold: int | None) -> Training:
    folder, settings = run.folder(fold), run.recipe.training
    name = REFITTED if fold is None else f"fold {fold}"
    rows = tuple(read_csv(folder / HISTORY)) if (folder / HISTORY).is_file() else ()
    best = _best(rows, settings.select_by)
    if run.done(fold):
        return Training(name, "done", len(rows), len(rows), rows, best)
    told = _progress(folder / PROGRESS)
    if not told and not rows:
        return Training(name, "waiting", 0, settings.epochs)
    ago = None if "written" not in told else max(time.time() - told["written"], 0.0)
    return Training(
        name,
        "training" if _lives(told, ago) else "stopped",
        len(rows),
        told.get("epochs", settings.epochs),
        rows,
        best,
        told.get("images_per_second"),
        told.get("seconds_an_epoch"),
        ago,
    )


def _best(rows: tuple[Mapping[str, str], ...], select_by: str) -> int | None:
    """The first epoch that none is better than, as the training chooses it."""
    sign, column = -1 if select_by == "loss" else 1, f"val_{select_by}"
    scores = [sign * float(row[column]) for row in rows if row.get(column)]
    return scores.index(max(scores)) if scores else None


def _progress(file: Path) -> dict[str, Any]:
    """What a training says of itself; nothing if it says nothing, or something else."""
    try:
        told = json.loads(file.read_bytes())
        numbers = [told[name] for name in ("written", "process", "epochs")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return dict(told) if all(isinstance(number, int | float) for number in numbers) else {}


def _lives(told: Mapping[str, Any], ago: float | None) -> bool:
    """Whether the process that trains is still there, as far as can be known."""
    if ago is None or ago > QUIET + 5 * (told.get("seconds_an_epoch") or 0.0):
        return False
    if os.name != "posix" or told.get("host") != platform.node():
        return True  # of a process elsewhere nothing more is known
    try:
        os.kill(int(told["process"]), 0)  # asks, and stops nothing
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def page_of(path: Path) -> str:
    """The page of a run folder as it is now, as one HTML text; of one that is not there yet, too."""
    try:
        run = open_run(path) if (path / RUN).is_file() else None
        trainings = trainings_of(run) if run else []
        finished = run is not None and _finished(run, trainings)
    except (LeanmedError, OSError, ValueError, KeyError) as error:  # it may be replaced at this moment
        return _render(path, f"{path} cannot be read at the moment: {error}", **NOTHING, finished=False)
    if run is None:
        return _render(path, f"No training has begun in {path} yet.", **NOTHING, finished=False)
    about = f"{run.recipe.name}, {run.recipe.model.backbone}: {run.facts['folds']} fold(s)"
    score, leak = run.recipe.training.select_by, run.facts["leak"]
    rows, plot = [_row(found, score) for found in trainings], _plot(run, trainings)
    headline = _headline(run, trainings, finished)
    return _render(path, headline, about=about, leak=leak, score=score, rows=rows, plot=plot, finished=finished)


def _render(path: Path, headline: str, *, finished: bool, **content: Any) -> str:
    refresh = None if finished else REFRESH
    at = time.strftime("%H:%M:%S")
    return render_page("watch.html", path=str(path), headline=headline, refresh=refresh, at=at, **content)


def _finished(run: Run, trainings: Sequence[Training]) -> bool:
    """All folds are trained, and calibrated, be it together or, by an older version, one by one."""
    return all(t.state == "done" for t in trainings) and bool(run.calibration or run.calibrated_alone())


def _headline(run: Run, trainings: Sequence[Training], finished: bool) -> str:
    """What is going on, and what to do next."""
    if finished:
        return f"The training is finished. Now: leanmed evaluate {run.path} --data {run.facts['data']} --out REPORT"
    going = next((t for t in trainings if t.state == "training"), None)
    stopped = next((t for t in trainings if t.state == "stopped"), None)
    if going:
        each, waiting = going.seconds_an_epoch, [t for t in trainings if t.state == "waiting"]
        start = f"{going.name.capitalize()} is training: epoch {going.epoch} of {going.epochs} is over."
        left = (going.seconds_left or 0.0) + sum(t.epochs for t in waiting) * (each or 0.0)
        return start if each is None else f"{start} At most {in_time(left)} left in all."
    if stopped:
        ago = "" if stopped.seconds_ago is None else f" The last news is {in_time(stopped.seconds_ago)} old."
        verb = "leanmed export" if stopped.name == REFITTED else "leanmed train ... --resume"
        return f"The training was stopped in {stopped.name}, after epoch {stopped.epoch}.{ago} Go on with: {verb}"
    if all(t.state == "done" for t in trainings):
        return "All folds are trained, and are being calibrated; if that was stopped: leanmed train ... --resume"
    return "The next fold is being prepared; if that was stopped: leanmed train ... --resume"


def _row(found: Training, select_by: str) -> dict[str, Any]:
    """One line of the table."""
    last = found.history[-1] if found.history else {}
    best = found.history[found.best] if found.best is not None else {}
    left = found.seconds_left
    return {
        "name": found.name,
        "state": found.state,
        "epoch": found.epoch,
        "epochs": found.epochs,
        "train_loss": _number(last.get("train_loss")),
        "val_loss": _number(last.get("val_loss")),
        "score": _number(last.get(f"val_{select_by}")),
        "best": None if found.best is None else found.best + 1,
        "best_score": _number(best.get(f"val_{select_by}")),
        "pace": "" if found.images_per_second is None else f"{found.images_per_second:.3g}",
        "left": "" if left is None else in_time(left),
    }


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _plot(run: Run, trainings: Sequence[Training]) -> Plot | None:
    """Losses and scores of the folds that have an epoch behind them."""
    begun = [(k, t) for k, t in enumerate(trainings) if t.history and t.name != REFITTED]
    return _drawn(tuple(history_of(k, t.history, run.recipe, t.best) for k, t in begun)) if begun else None


_drawing = Lock()  # matplotlib's settings are those of the whole process


@lru_cache(maxsize=4)
def _drawn(histories: tuple[History, ...]) -> Plot:
    """The plot; drawn once for each epoch, and not each time that the page is loaded."""
    with _drawing:
        return training(histories)


class Server(ThreadingHTTPServer):
    """Serves the page of a run to this machine.

    Args:
        run: its folder; it need not be there yet.
        port: 0: any that is free.

    Raises:
        RunError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, run: Path, port: int = 0) -> None:
        self.run = run
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise RunError(
                f"expected port {port} of this machine to be free, got: {error.strerror}; choose another --port, or "
                "leave it out for any that is free"
            ) from error

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser that means this server calls it; another name is another site's that points here."""
        return tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for the one page, and nothing else."""

    server: Server
    timeout = 30
    server_version, sys_version = "leanmed", ""

    def do_GET(self) -> None:
        """The page, unless something else is asked for, or by a page of another site."""
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(HTTPStatus.FORBIDDEN, f"Open {self.server.address} on this machine.", "text/plain")
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, f"There is one page: {self.server.address}", "text/plain")
        else:
            self._answer(HTTPStatus.OK, page_of(self.server.run), "text/html")

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {
            **SECURITY,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each reload tells nobody anything."""


def watch(
    run: Path, port: int = 0, *, show: Callable[[str], object] | None = None, tell: Callable[[str], None] = print
) -> None:
    """Serve the page of a run until Ctrl-C.

    Args:
        run: its folder; it need not be there yet.
        port: 0: any that is free.
        show: opens an address in a browser; None: nobody does.
        tell: takes one line at a time.

    Raises:
        RunError: the port is taken, or `run` is a file.
    """
    if run.is_file():
        raise RunError(f"expected a run folder, got the file {run}; give the --out of leanmed train")
    with Server(run, port) as server:
        tell(f"{server.address} shows {run}; Ctrl-C ends this, and not the training")
        if show:
            show(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            tell("")
