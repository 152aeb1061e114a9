"""`leanmed reproduce`: a paper's protocol and ours by the same code, and its tables beside ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from leanmed.benchmark.benchmark import machine
from leanmed.compress.distil import Teacher
from leanmed.errors import DataError
from leanmed.evaluation.runs import evaluate_run
from leanmed.files import check_free, is_leftover, put_aside, write_json, write_text
from leanmed.outputs import Output, check_one
from leanmed.papers import anemia as reproduce_anemia
from leanmed.papers import nerves as reproduce_nerves
from leanmed.papers import nodules as reproduce_nodules
from leanmed.papers import prostate as reproduce_prostate
from leanmed.papers.anemia import mean
from leanmed.papers.printed import PAPERS, Arm, Paper
from leanmed.reading.images import read_image
from leanmed.recipe.recipe import Recipe
from leanmed.report.report import Report, as_json, write_report
from leanmed.runs import RUN, RUN_FOLDER, Run
from leanmed.tasks.recipes import load_recipe
from leanmed.training.train import train

KEPT = ("metrics", "fold_mean", "per_fold", "subgroups", "notes")  # of each seed's report
REPRODUCTION = Output(
    "a reproduction",
    RUN_FOLDER.keys,
    f"runs/*/{RUN}",
    (
        "runs",
        "reports",
        "quantized",
        *(f"{name}.{end}" for name in (*PAPERS, "quantization") for end in ("json", "md")),
    ),
    resumed=True,
)
Tell = Callable[[str], None]


class Tables(Protocol):
    """What one paper's reproduction has of its own."""

    def measure(self, run: Run, report: Report, data: Path, out: Path, tell: Tell) -> tuple[Report, dict[str, Any]]:
        """A run's report, labelled as leaking if it was found to, and what else is measured of the run."""

    def beside(
        self, runs: Mapping[str, Mapping[int, Run]], data: Path, artifacts: Path | None, tell: Tell
    ) -> dict[str, Any]:
        """What is told of all runs together, arm -> seed -> run, and of the paper."""

    def as_text(self, found: Mapping[str, Any]) -> str:
        """The tables as Markdown; what leaks says so in the first line."""


TABLES: dict[str, Tables] = {
    "anemia": reproduce_anemia,
    "nodules": reproduce_nodules,
    "prostate": reproduce_prostate,
    "nerves": reproduce_nerves,
}


def reproduce(
    name: str,
    data: Path,
    out: Path,
    *,
    settings: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    artifacts: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    tell: Tell = print,
) -> str:
    """Train and score every arm with every seed, and write `NAME.json` and `NAME.md`.

    Args:
        name: the paper's recipe.
        data: the data set's folder.
        out: takes one run and one report per arm and seed, and the tables.
        settings: `--set` values, KEY=VALUE for every arm or ARM:KEY=VALUE for one.
        arms: which protocols or models; empty: all of the paper's. Before one that learns from a teacher, that
            teacher's arm is trained, and the arm of the same network without a teacher.
        seeds: of splits and training both; a `split.seed` among the settings holds the split fixed.
        artifacts: a folder with artifacts named as the arms are, and as ARM-int8 and so on, to be measured too.
        resume: go on with what is there, or add to it.
        overwrite: replace an older reproduction, as soon as the first run of the new one has started.
        command: what the user typed, for the record.
        tell: takes one line of progress at a time.

    Returns:
        The tables as text.

    Raises:
        OutputError: `out` holds something else, or a reproduction while neither `resume` nor `overwrite` is given.
        DataError: no such paper or arm.
    """
    paper, tables = _choose(PAPERS, name, "paper"), TABLES[name]
    asked = with_companions(arms or tuple(paper.arms), paper.arms)
    recipes = {(arm, seed): recipe_of(paper, arm, seed, settings) for arm in asked for seed in seeds}  # before any run
    _check_room(out, resume, overwrite)
    runs: dict[str, dict[int, Run]] = {}
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    with put_aside(out, begun=lambda: _begun(out)) if overwrite and _begun(out) else nullcontext():
        for arm in asked:
            for seed in seeds:
                tell(f"{arm}, seed {seed}")
                recipe = recipes[arm, seed]
                folder = out / "runs" / f"{arm}-{seed}"
                taught_by = paper.arms[arm].teacher
                teacher = Teacher(runs[taught_by][seed]) if taught_by else None
                run = train(recipe, data, folder, resume=resume and folder.exists(), teacher=teacher, tell=tell)
                report, more = tables.measure(run, evaluate_run(run, data=data, command=command), data, out, tell)
                write_report(out / "reports" / folder.name, report, read=read_image, overwrite=True)
                runs.setdefault(arm, {})[seed] = run
                reports.setdefault(arm, {})[seed] = as_json(report) | {"more": {**more, **_effort(run)}}
        found = {
            "command": command,
            "machine": machine(),
            "paper": {"citation": paper.citation, "printed": paper.printed, "differences": paper.differences},
            "arms": {arm: _summary(paper.arms[arm], by_seed) for arm, by_seed in reports.items()},
            **tables.beside(runs, data, artifacts, tell),
        }
        write_json(out / f"{name}.json", found)
        text = tables.as_text(found)
        write_text(out / f"{name}.md", text)
    return text


def _begun(out: Path) -> bool:
    """Whether a reproduction has a run that has started."""
    return any(out.glob(REPRODUCTION.marker))


def _check_room(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot become the reproduction's, before any work is done."""
    check_one(resume=resume, overwrite=overwrite)
    if _begun(out):
        REPRODUCTION.check(out, overwrite=resume or overwrite)
    else:  # killed before its first run, it has an audit there and nothing to lose
        check_free(out, passed_over=lambda entry: is_leftover(entry) or entry.name == "runs")


def _effort(run: Run) -> dict[str, Any]:
    """What the training of a run took."""
    folds = run.folds()
    return {
        "epochs": [fold.facts["epochs"] for fold in folds],
        "training_minutes": round(sum(fold.facts["seconds"] for fold in folds) / 60, 1),
    }


def recipe_of(paper: Paper, arm: str, seed: int, settings: Sequence[str]) -> Recipe:
    """The recipe of one arm with one seed, of splits and training both unless a setting holds one of them fixed.

    Args:
        settings: `--set` values, KEY=VALUE for every arm or ARM:KEY=VALUE for one.

    Raises:
        DataError: no such arm.
    """
    chosen: Arm = _choose(paper.arms, arm, "protocol")
    # what is said of distillation holds for those that learn by it
    others = (*chosen.own, *(() if chosen.teacher else ("distillation.",)))
    given = settings_of(arm, settings, paper.arms, others)
    seeded = (f"split.seed={seed}", f"training.seed={seed}")  # what is given comes later, and wins
    return load_recipe(chosen.recipe or paper.recipe, [*seeded, *chosen.unless_set, *given, *chosen.settings])


def with_companions(asked: Sequence[str], arms: Mapping[str, Arm]) -> list[str]:
    """The arms asked for, each once; before one that learns from a teacher, the teacher and the student alone.

    Raises:
        DataError: no such arm.
    """
    found: dict[str, None] = {}
    for name in asked:
        arm: Arm = _choose(arms, name, "protocol")
        found.update(dict.fromkeys([*filter(None, (arm.teacher, arm.alone)), name]))
    return list(found)


def settings_of(arm: str, settings: Sequence[str], arms: Collection[str], others: Sequence[str] = ()) -> list[str]:
    """The `--set` values that hold for one arm: those for all, then its own without the name before them.

    Args:
        arm: whose.
        settings: KEY=VALUE, or ARM:KEY=VALUE.
        arms: all there are.
        others: how the keys begin whose values for all arms are not for this one.

    Raises:
        DataError: a value for an arm that is not there.
    """
    named = [(key.partition(":")[0] if ":" in (key := text.partition("=")[0]) else "", text) for text in settings]
    for name, text in named:
        if name and name not in arms:
            raise DataError(f"expected --set KEY=VALUE, or ARM:KEY=VALUE with one of {', '.join(arms)}, got {text!r}")
    shared = [text for name, text in named if not name and not text.startswith(tuple(others))]
    return shared + [text.partition(":")[2] for name, text in named if name == arm]


def parse_seeds(text: str) -> list[int]:
    """Read `0,1,2`.

    Raises:
        DataError: something else.
    """
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise DataError(f"expected --seeds as whole numbers with commas, for example 0,1,2; got {text!r}")
    return [int(part) for part in text.split(",")]


def _choose(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise DataError(f"expected a {what} among {', '.join(known)}, got {name!r}")
    return known[name]


def _summary(arm: Arm, by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One arm: the mean over seeds of the folds' means, its range, and each seed's pooled figures."""
    first = next(iter(by_seed.values()))
    means = {name: [report["fold_mean"][name]["mean"] for report in by_seed.values()] for name in first["fold_mean"]}
    return {
        "title": arm.title,
        "leak": next((report["leak"] for report in by_seed.values() if report["leak"]), None),
        "images": first["images"],
        "groups": first["groups"],
        "mean": {name: mean(values) for name, values in means.items()},
        "seed_range": {n: [min(v), max(v)] for n, v in means.items() if None not in v},
        "recipe": first["recipe"],
        "data_hash": first["data_hash"],
        "seeds": {seed: {k: report[k] for k in KEPT} | report["more"] for seed, report in by_seed.items()},
    }
