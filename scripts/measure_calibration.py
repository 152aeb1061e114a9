"""Measure on real data whether calibrated answers are, and whether a card's figures hold for new patients.

OMP_NUM_THREADS=1 python scripts/measure_calibration.py train --data shared/data --work runs --sets anemia,ultrasound
OMP_NUM_THREADS=1 python scripts/measure_calibration.py nested --data shared/data --work runs
python scripts/measure_calibration.py measure --data shared/data --work runs --out docs/results/calibration.json

`train` trains five folds for each of three seeds of each set, at sizes and epochs that two cores can do.
`nested` puts a fifth of the groups aside, trains three folds on the rest, refits the model that `leanmed export` gives
by default, and keeps its answers to what was put aside; five times, so that each group is put aside once.
`measure` works out the figures. Both trainings go on where they were stopped.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import norm

from leanmed.benchmark.benchmark import machine
from leanmed.data import read_records
from leanmed.evaluation.runs import split_records
from leanmed.exporting.export import export
from leanmed.figures.bootstrap import resample_groups
from leanmed.figures.calibration import Evidence, fit_temperature
from leanmed.files import write_json, write_text
from leanmed.records import Record
from leanmed.report import markdown
from leanmed.runs import CALIBRATION, SPLITS, Run, read_csv, write_csv
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.lines import line_of, read_lines, write_lines
from leanmed.runtime.predictor import load
from leanmed.tasks import TASKS
from leanmed.tasks.recipes import load_recipe, open_run
from leanmed.training.train import train

RESAMPLES = 2000
BINS = 10
SEEDS = (0, 1, 2)
OUTER = 5  # fifths of the groups, each put aside once
IMAGENET = (
    "model.backbone_args={pad_type: same}",
    "model.mean=[.5, .5, .5]",
    "model.std=[.5, .5, .5]",
)
SMALL = (
    *IMAGENET,
    "model.side=96",
    "training.learning_rate=0.0005",
    "training.epochs=8",
    "training.patience=8",
    "training.select_by=auc",
)
COARSE = (
    "model.backbone=mobilenetv2_035",
    "model.weights=none",
    "model.side=352",
    "detector.zoom=1",
    "detector.levels=[4]",
    "detector.deepest=16",
    "detector.width=24",
    "detector.depth=1",
    "detector.crop=96",
    "detector.crops=3",
    "detector.matching=0.4",
    "detector.near=0.3",
    "training.learning_rate=0.004",
    "training.epochs=5",
    "training.patience=5",
    "training.average=0.97",
)


@dataclass(frozen=True)
class Set:
    """A real data set and how it is trained here."""

    folder: str
    recipe: str
    settings: tuple[str, ...]


SETS = {
    "anemia": Set("cp-anemic", "anemia", SMALL),
    "ultrasound": Set("busi", "folder", SMALL),
    "nodules": Set("luna16-slices", "nodules", COARSE),
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "nested", "measure"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    chosen = {name: SETS[name] for name in given.sets.split(",")}
    if given.step == "train":
        train_sets(chosen, given.data, given.work)
    elif given.step == "nested":
        nest_sets(chosen, given.data, given.work)
    else:
        found = measure(chosen, given.data, given.work, given.note)
        write_json(given.out, found)
        write_text(given.out.with_suffix(".md"), table(found))


def train_sets(chosen: Mapping[str, Set], data: Path, work: Path) -> None:
    """Five folds of each set for each seed."""
    for seed in SEEDS:
        for name, one in chosen.items():
            recipe = load_recipe(one.recipe, settings(one, data, seed))
            train(recipe, data / one.folder, work / f"{name}-{seed}", resume=True)


def nest_sets(chosen: Mapping[str, Set], data: Path, work: Path) -> None:
    """Of each set, what the model that is exported by default answers to groups that had no part in it."""
    for outer in range(OUTER):
        for name, one in chosen.items():
            answers = nested_answers(work, name, outer)
            if not answers.is_file():
                whole = open_run(work / f"{name}-0")
                records = split_records(whole, read_records(whole.recipe.data.dataset, data / one.folder))
                part = {row["image"]: row[f"fold_{outer}"] for row in read_csv(whole.path / SPLITS)}
                kept = [record for record in records if part[record.id] != "test"]
                aside = [record for record in records if part[record.id] == "test"]
                folder = make_subset(kept, data / one.folder, answers.parent / "data")
                more = ("split.folds=3", "split.groups=reader", f"data.labels=[{', '.join(whole.labels)}]")
                layout = () if has_boxes(kept) else ("data.dataset=folder",)
                recipe = load_recipe(one.recipe, settings(one, data, 0, (*more, *layout)))
                run = train(recipe, folder, answers.parent / "run", resume=True)
                export(run, answers.parent / "artifact", overwrite=True)
                predictor = load(answers.parent / "artifact")
                write_lines(answers, (line_of(r.id, predictor.predict_record(r)) for r in aside))


def nested_answers(work: Path, name: str, outer: int) -> Path:
    """Where the answers to one fifth of the groups lie."""
    return work / f"{name}-nested-{outer}" / "answers.jsonl"


def has_boxes(records: Sequence[Record]) -> bool:
    """Whether records are to be found in, not labelled."""
    return not isinstance(records[0].target, str)


def make_subset(records: Sequence[Record], root: Path, out: Path) -> Path:
    """A data set of some records of another, with the groups that were kept whole there."""
    shutil.rmtree(out, ignore_errors=True)
    for record in records:
        copy = out / record.image.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.image, copy)
    if not has_boxes(records):
        rows = [{"image": str(r.image.relative_to(root)), "label": r.label, "group": r.group} for r in records]
        write_csv(out / "labels.csv", rows)
        return out
    shutil.copy(root / "manifest.csv", out)
    return out


def measure(chosen: Mapping[str, Set], data: Path, work: Path, note: str) -> dict[str, Any]:
    """All figures, as plain values."""
    found: dict[str, Any] = {
        "command": shlex.join(["python", "scripts/measure_calibration.py", *sys.argv[1:]]),
        "note": note,
        "arms": {
            "T = 1": "as the network answers",
            "shipped": "each fold by the validation answers of all folds, but for groups that it is tested on",
            "one fold": "the temperature fitted to the fold's own validation answers alone",
        },
        "intervals": f"95 %, {RESAMPLES} resamples of groups, the same for both sides of a difference",
        "sets": {},
    }
    for name, one in chosen.items():
        runs = [open_run(work / f"{name}-{seed}") for seed in SEEDS if finished(work / f"{name}-{seed}")]
        records = split_records(runs[0], read_records(runs[0].recipe.data.dataset, data / one.folder))
        found["sets"][name] = {
            "settings": [*one.settings],
            "seeds": [run.recipe.training.seed for run in runs],
            "folds": runs[0].facts["folds"],
            "images": len(records),
            "groups": len({record.group for record in records}),
            "held-out answers": held_out(runs, records),
            "export": nested(work, name, runs[0], records),
        }
    return {**found, "machine": machine()}


def finished(path: Path) -> bool:
    """Whether a run is there and calibrated."""
    return (path / CALIBRATION).is_file()


def held_out(runs: Sequence[Run], records: Sequence[Record]) -> dict[str, Any]:
    """Answers to test parts under each arm, of all seeds together: a group's answers are drawn together."""
    known = {record.id: record for record in records}
    parts: dict[str, list[Losses]] = {"T = 1": [], "shipped": [], "one fold": []}
    temperatures: dict[str, list[float]] = {name: [] for name in parts}
    for run in runs:
        for fold in range(run.facts["folds"]):
            own, test = (evidence(run, run.uncalibrated(fold, part), known) for part in ("validation", "test"))
            alone = fit_temperature(own.logits, own.truth)
            chosen = {"T = 1": 1.0, "shipped": run.calibration["folds"][fold]["value"], "one fold": alone}
            for name, temperature in chosen.items():
                parts[name].append(Losses.of(test, temperature))
                temperatures[name].append(round(temperature, 3))
    return {"temperatures": temperatures, **compared({name: Losses.joined(found) for name, found in parts.items()})}


def evidence(run: Run, file: Path, known: Mapping[str, Record]) -> Evidence:
    """Answers at a temperature of 1 beside what is true."""
    kind, lines = TASKS[run.recipe.task], list(read_lines(file))
    seen = kind.judge.evidence(
        [known[line["input"]] for line in lines], [kind.answer.answer_of(line) for line in lines], run.labels
    )
    assert seen is not None
    return seen


@dataclass(frozen=True)
class Losses:
    """Of each answer: log loss, squared error, confidence less outcome, bin of the confidence, group."""

    loss: Any
    brier: Any
    gap: Any
    bin: Any
    group: Any

    @classmethod
    def of(cls, seen: Evidence, temperature: float) -> Losses:
        """At a temperature."""
        logits = seen.logits / temperature
        columns = np.stack([np.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
        log_p = log_softmax(columns, axis=1)
        truth = np.eye(columns.shape[1])[seen.truth]
        binary = columns.shape[1] == 2
        confidence = np.exp(log_p)[:, 1] if binary else np.exp(log_p).max(1)
        outcome = truth[:, 1] if binary else (log_p.argmax(1) == seen.truth).astype(float)
        return cls(
            loss=-(log_p * truth).sum(1),
            brier=np.square(np.exp(log_p) - truth).sum(1) / (2 if binary else 1),
            gap=confidence - outcome,
            bin=np.minimum((confidence * BINS).astype(int), BINS - 1),
            group=seen.group,
        )

    @classmethod
    def joined(cls, parts: Sequence[Losses]) -> Losses:
        """Several, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def measured(self, weights: Any) -> dict[str, Any]:
        """Figures (b,) of resamples given as weights (b, n)."""
        total = weights.sum(1)
        gaps = np.where(np.arange(BINS) == self.bin[:, None], self.gap[:, None], 0.0)
        return {
            "log loss": weights @ self.loss / total,
            "Brier": weights @ self.brier / total,
            "ECE": np.abs(weights @ gaps).sum(1) / total,
        }


def compared(arms: Mapping[str, Losses]) -> dict[str, Any]:
    """Figures of each arm, and how `shipped` differs from the others."""
    group = next(iter(arms.values())).group
    drawn: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for weights in (np.ones((1, group.size)), *resample_groups(group, RESAMPLES, 0)):
        for name, arm in arms.items():
            drawn[name].append(arm.measured(weights))
    values = {n: {k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for n, parts in drawn.items()}
    others = [name for name in arms if name != "shipped"]
    return {
        "answers": group.size,
        "figures": {name: {k: with_interval(v) for k, v in own.items()} for name, own in values.items()},
        "shipped minus": {
            name: {k: with_interval(values["shipped"][k] - v) for k, v in values[name].items()} for name in others
        },
    }


def with_interval(values: Any) -> dict[str, float]:
    """The first is the value, the others are resamples."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def nested(work: Path, name: str, whole: Run, records: Sequence[Record]) -> dict[str, Any]:
    """The exported model on groups that had no part in it, beside what its card says."""
    known, kind = {record.id: record for record in records}, TASKS[whole.recipe.task]
    inside: dict[str, list[bool]] = {}
    compatible: dict[str, list[bool]] = {}
    by_chance, folds = [], []
    arms: dict[str, list[Losses]] = {"T = 1": [], "shipped": []}
    for outer in range(OUTER):
        file = nested_answers(work, name, outer)
        if not file.is_file():
            continue
        manifest, lines = read_artifact(file.parent / "artifact").manifest, list(read_lines(file))
        aside = [known[line["input"]] for line in lines]
        answers = [kind.answer.answer_of(line) for line in lines]
        measured = kind.judge.score(kind.judge.table_of(aside, answers, whole.labels), resamples=RESAMPLES)
        inner = open_run(file.parent / "run")
        groups = {row["group"] for row in read_csv(inner.path / SPLITS)}, {record.group for record in aside}
        ratio = len(groups[0]) / len(groups[1])
        by_chance.append(2 * norm.cdf(norm.ppf(0.975) / (1 + ratio) ** 0.5) - 1)
        folds.append({"groups of the card": len(groups[0]), "groups put aside": len(groups[1])})
        for figure, card in manifest.figures.items():
            new = measured[figure]
            if None in (card["value"], card["low"]) or np.isnan([new.value, new.low]).any():
                continue
            inside.setdefault(figure, []).append(bool(card["low"] <= new.value <= card["high"]))
            room = ((card["high"] - card["low"]) ** 2 + (new.high - new.low) ** 2) ** 0.5 / 2
            compatible.setdefault(figure, []).append(bool(abs(card["value"] - new.value) <= room))
        seen = kind.judge.evidence(aside, answers, whole.labels)
        assert seen is not None
        uncalibrated = replace(seen, logits=seen.logits * manifest.temperature)
        arms["T = 1"].append(Losses.of(uncalibrated, 1.0))
        arms["shipped"].append(Losses.of(uncalibrated, manifest.temperature))
    if not folds:
        return {}
    return {
        "how": f"{len(folds)} of {OUTER} fifths of the groups put aside, one at a time; three folds on the rest, then "
        "export",
        "folds": folds,
        "held-out figures inside the card's interval": shares(inside),
        "expected of a true interval, as the held-out figures vary by chance too": round(float(np.mean(by_chance)), 3),
        "held-out figures that differ from the card's by no more than both intervals allow": shares(compatible),
        "calibration": compared({arm: Losses.joined(parts) for arm, parts in arms.items()}),
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    rows, changes, cards = [], [], []
    for name, one in found["sets"].items():
        answers, seeds = one["held-out answers"], len(one["seeds"])
        for arm, figures in answers["figures"].items():
            rows.append((name, seeds, answers["answers"], arm, *map(_cell, figures.values())))
        for arm, figures in answers["shipped minus"].items():
            changes.append((name, f"shipped minus {arm}", *map(_cell, figures.values())))
        if card := one["export"]:
            calibrated = card["calibration"]["shipped minus"]["T = 1"]
            cards.append(
                (
                    name,
                    len(card["folds"]),
                    card["held-out figures inside the card's interval"]["all"],
                    card["expected of a true interval, as the held-out figures vary by chance too"],
                    card["held-out figures that differ from the card's by no more than both intervals allow"]["all"],
                    _cell(calibrated["log loss"]),
                )
            )
    notice = "Research use only. Not a medical device."
    inside, fit = "figures inside the card's interval", "figures compatible with the card"
    return "\n\n".join(
        (
            notice,
            "Held-out answers of all folds and seeds together, in brackets 95 % intervals over groups:",
            markdown.table(("set", "seeds", "answers", "temperature", "log loss", "Brier", "ECE"), rows),
            "Paired differences, below zero where the shipped temperature is better:",
            markdown.table(("set", "", "log loss", "Brier", "ECE"), changes),
            "The exported model on groups that had no part in it:",
            markdown.table(("set", "times", inside, "expected share", fit, "log loss, shipped minus T = 1"), cards),
            f"`{found['command']}`\n",
        )
    )


def _cell(figure: Mapping[str, float]) -> str:
    return markdown.interval(figure, 3)


def shares(found: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """How often, of each figure and of all together."""
    every = [value for values in found.values() for value in values]
    each = {name: f"{sum(values)} of {len(values)}" for name, values in found.items()}
    return {"all": f"{sum(every)} of {len(every)}", **each}


def settings(one: Set, data: Path, seed: int, more: Iterable[str] = ()) -> list[str]:
    """As `--set` takes them."""
    weights = data / "weights" / "mobilenetv2_100_tf_in1k.safetensors"
    seeds = (f"split.seed={seed}", f"training.seed={seed}")
    return [f"model.weights={weights}", *one.settings, *seeds, *more]


if __name__ == "__main__":
    main()
