"""What commands share: what was typed, what must be installed, errors and progress on the screen."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

EVERY = 30.0  # seconds between two plain lines of progress
STOPPED = 130  # the exit status that shells give to what Ctrl-C stopped

Item = TypeVar("Item")
Step = Callable[[int, int], None]  # done, total
Progress = Callable[[str, int, int], None]  # stage, done, total

Data = Annotated[Path, typer.Option(help="The data set's folder.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Where to write.", show_default=False)]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what an earlier such command of leanmed wrote to --out. A folder that holds anything else is "
        "refused.",
    ),
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable. leanmed recipe lists them."
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse images without a row in the table and rows without an image; without it, they are counted, listed "
        "and left out.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ray",
        help="Work on a Ray cluster: that of the environment variable RAY_ADDRESS, of which this machine is "
        "one, or else one that is started here. If not given, this process and its own do the work.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]


class Splitting:
    """Options for those keys of a recipe's `split` that a user meets first; `--set split.KEY` has them all."""

    Protocol = Annotated[
        str | None,
        typer.Option(
            help="How images are split: grouped (folds that keep groups whole), holdout (one such fold), site (each "
            "site is left out once), adapt (the same, but split.adapt of its groups are learned from), or paper (by "
            "image, as published, which leaks)."
        ),
    ]
    Groups = Annotated[
        str | None,
        typer.Option(
            metavar="audit|reader|FILE",
            help="Which images stay together in a split: those that an audit finds to be copies, with the patients "
            "that the data set names (audit, the default); those patients alone (reader); or the groups.csv that "
            "leanmed audit wrote.",
        ),
    ]
    Conflicts = Annotated[
        str | None,
        typer.Option(
            metavar="drop|keep",
            help="What to do with copies of one image that carry different labels, or masks that contradict each "
            "other: drop them (the default) or keep them.",
        ),
    ]


def paragraph(error: Exception) -> str:
    """What went wrong, in one paragraph."""
    if not isinstance(error, OSError):
        return str(error)
    where = error.filename or "a file"
    return f"{where}: expected to read or write it, got: {error.strerror or error}; mend that and start again"


class Evaluated(Protocol):
    """What an evaluation leaves to be told."""

    @property
    def leak(self) -> str | None:
        """Why the figures flatter, if they do."""

    @property
    def caution(self) -> str | None:
        """What else must be known before any figure is read."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the figures should know."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """Name -> value, low, high, n."""

    @property
    def undefined(self) -> Sequence[str]:
        """Which figures the images cannot tell, and why."""

    @property
    def main_score(self) -> str:
        """The figure to lead with."""

    @property
    def data_sets(self) -> Sequence[Any]:
        """Each with its name, figures, the name of the set that it is compared with, and the change."""

    @property
    def predictive_values(self) -> Sequence[Any]:
        """Each with whose prevalence it is, the prevalence, and figures."""


def echo_evaluation(found: Evaluated, *written: Path) -> None:
    """The leak first, if there is one, notes, a line for each figure with its interval, and the files."""
    for line in filter(None, (found.leak, found.caution, *found.notes)):
        typer.echo(line)
    for name, figure in found.figures.items():
        if figure.value == figure.value:
            typer.echo(f"{name:18} {shown(figure)}  n={figure.n}")
    for line in found.undefined:
        typer.echo(line)
    for row in found.predictive_values:
        values = ", ".join(f"{name} {shown(figure)}" for name, figure in row.figures.items())
        typer.echo(f"prevalence {row.prevalence:.4f} {row.of}: {values}")
    for row in found.data_sets:
        if found.main_score in row.figures:
            change = row.change.get(found.main_score)
            more = f", {shown(change, '+')} from {row.compared_with}" if change else ""
            typer.echo(f"{row.name}: {found.main_score} {shown(row.figures[found.main_score])}{more}")
    typer.echo(f"Research use only: not a medical device.\nwrote {' and '.join(map(str, written))}")


def shown(figure: Any, sign: str = "") -> str:
    """A figure with its 95 % interval in one line."""
    value, low, high = (f"{number:{sign}.4f}" for number in (figure.value, figure.low, figure.high))
    if "nan" in value:
        return "undefined"
    return f"{value}  (no interval)" if "nan" in (low, high) else f"{value}  ({low} to {high})"


def typed() -> str:
    """What the user typed, for the record."""
    return shlex.join(["leanmed", *sys.argv[1:]])


@contextmanager
def stoppable(flag: str = "") -> Iterator[None]:
    """Where Ctrl-C stops a command that can go on later, say how; Lightning makes an exit of it.

    Args:
        flag: what the command needs to go on, in place of --overwrite; empty: nothing.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        words = [word for word in sys.argv[1:] if not flag or word not in (flag, "--overwrite")]
        again = shlex.join(["leanmed", *words, *[flag] * bool(flag)])
        typer.echo(f"\nStopped. What was finished is kept; go on with:\n{again}", err=True)
        raise typer.Exit(STOPPED) from None


def silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


def nobody(done: int, total: int) -> None:
    """Show no progress of a stage."""


def tracked(items: Iterable[Item], step: Step, total: int, before: int = 0) -> Iterator[Item]:
    """The items, each reported to `step` when the next one is asked for.

    Args:
        items: what is worked on, one after the other.
        step: takes done and total.
        total: of the whole stage.
        before: how much of it was done before the first item.
    """
    for number, item in enumerate(items, start=before + 1):
        yield item
        step(number, total)


@contextmanager
def stages() -> Iterator[Progress]:
    """Shows the progress of work in stages, one after the other, each with its own total; see `progress_bar`.

    A stage that comes again, such as that of a second data set, begins anew.
    """
    with ExitStack() as stack:
        current: tuple[str, int] = ("", 0)
        reached = 0
        step: Callable[[int], None] = lambda done: None  # noqa: E731

        def advance(stage: str, done: int, total: int) -> None:
            nonlocal current, reached, step
            if (stage, total) != current or done < reached:
                stack.close()
                current, step = (stage, total), stack.enter_context(progress_bar(stage, total))
            reached = done
            step(done)

        yield advance


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error if a person watches, and else a plain line there now and then."""
    if not sys.stderr.isatty():
        say = now_and_then(lambda line: typer.echo(line, err=True))
        yield lambda done: say(what, done, total or 0)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # What is printed meanwhile goes above the bar, unless it goes to a file.
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def now_and_then(tell: Callable[[str], None], every: float = EVERY) -> Progress:
    """Progress as plain lines, none while all is quick.

    Args:
        tell: takes one line: the stage, done, total, and about how long the rest takes.
        every: seconds between two lines.
    """
    began: dict[str, float] = {}
    last = time.monotonic()

    def advance(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        since = began.setdefault(stage, now)
        if now - last < every:
            return
        last = now
        share = f"{done} of {total}" if total else f"{done} done"
        rest = (now - since) / done * (total - done) if done else 0.0
        tell(f"{stage}: {share}{f', about {in_time(rest)} left' if rest > 0 else ''}")

    return advance


def in_time(seconds: float) -> str:
    """Seconds in words: 40 s, 5 min, 3 h 20 min."""
    if seconds < 100:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
