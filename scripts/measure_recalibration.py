"""Measure what recalibration on n new groups of a place gains there, on real and on made data.

OMP_NUM_THREADS=1 python scripts/measure_recalibration.py train --data data --work runs
OMP_NUM_THREADS=1 python scripts/measure_recalibration.py measure --data data --work runs \
    --out docs/results/recalibration.json

`train` trains on CP-AnemiC with each region of Ghana left out once, by two small networks; a run that was stopped goes
on. By hospital there would be too few photographs to recalibrate on and to test with: copies together, the largest has
44. `measure` draws n groups (photographs with their copies) of a region at random, recalibrates the answers of the
model that saw none of the region on these, as `leanmed recalibrate` does, and judges on the groups that are left; many
times over. The made data are answers whose logits are three times too large and moved by 1, or right but for the
prevalence. Then `leanmed recalibrate` itself is run on the artifact of one fold.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from leanmed.benchmark.benchmark import machine
from leanmed.data import DATASETS, anemia
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.runs import run_answers
from leanmed.exporting.export import export
from leanmed.exporting.recalibrate import recalibrate
from leanmed.figures.bootstrap import percentiles, resample_groups
from leanmed.figures.recalibration import Answers, Recalibration, fit
from leanmed.files import defined, write_json
from leanmed.records import Record, Records
from leanmed.runs import Run, write_csv
from leanmed.runtime.predictor import load
from leanmed.tasks import TASKS
from leanmed.tasks.classification.figures import ECE_BINS, ece_bin
from leanmed.tasks.recipes import load_recipe, open_run
from leanmed.training.train import train

Floats = NDArray[np.float64]
DATASET, FOLDER = "cp-anemic-regions", "cp-anemic"
NEW = (20, 50)  # groups
MADE = (20, 50, 100, 400)
LEAST_LEFT = 12  # groups to judge on
DRAWS, RESAMPLES = 100, 1000
COMMON = (
    f"data.dataset={DATASET}",
    "data.labels=[non-anemic, anemic]",
    "split.protocol=site",
    "split.validation=0.2",
    "evaluation.subgroups=[sex]",
    "model.side=96",
    "training.select_by=auc",
)
NETWORKS = {
    "tissue-colours": (
        "model.backbone=tissue-colours",
        "model.weights=none",
        "training.epochs=40",
        "training.learning_rate=0.003",
    ),
    "mobilenetv2_100": (
        "model.backbone_args={pad_type: same}",
        "model.mean=[.5, .5, .5]",
        "model.std=[.5, .5, .5]",
        "training.epochs=8",
        "training.patience=8",
        "training.learning_rate=0.0005",
    ),
}
Arm = Callable[[Answers], Recalibration]


def unpulled(seen: Answers) -> Recalibration:
    """The intercept alone, by maximum likelihood: the mean probability becomes the share of positive images."""
    logits = np.log(np.clip(seen.probabilities, 1e-9, 1)) @ [-1, 1]
    share = float((seen.truth == 1).mean())
    return Recalibration(1.0, (0.0, float(brentq(lambda b: expit(logits + b).mean() - share, -40, 40))))


ARMS: Mapping[str, Arm] = {
    "as it is": lambda seen: Recalibration(1.0, (0.0, 0.0)),
    "by the rule": lambda seen: fit(seen, slope=seen.suffice_for_slope),
    "intercept alone": lambda seen: fit(seen, slope=False),
    "slope and intercept": lambda seen: fit(seen, slope=True),
    "intercept alone, without a prior": unpulled,
}


def by_region(root: Path) -> Records:
    """CP-AnemiC with its regions as the sites."""
    found = anemia.read(root)
    return found.like(replace(record, site=str(record.attributes["region"])) for record in found)


DATASETS[DATASET] = by_region


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds cp-anemic and weights")
    parser.add_argument("--work", type=Path, required=True, help="where runs lie")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    given = parser.parse_args()
    if given.step == "train":
        for name, settings in NETWORKS.items():
            weights = given.data / "weights" / "mobilenetv2_100_tf_in1k.safetensors"
            own = () if "model.weights=none" in settings else (f"model.weights={weights}",)
            recipe = load_recipe("anemia", [*COMMON, *settings, *own])
            train(recipe, given.data / FOLDER, given.work / name, resume=True)
        return
    write_json(given.out, defined(measured(given.data, given.work)))


def measured(data: Path, work: Path) -> dict[str, Any]:
    """All that is written."""
    records = by_region(data / FOLDER)
    return {
        "command": shlex.join(["python", "scripts/measure_recalibration.py", *sys.argv[1:]]),
        "data": f"data/{FOLDER}",
        "how": "a region of Ghana left out at a time; of its groups (photographs with their copies), n are drawn and "
        f"recalibrated on, and the others are judged; means of {DRAWS} draws; 95 % intervals over groups, {RESAMPLES} "
        "resamples, the same for all draws and arms",
        "arms": {
            "by the rule": "as leanmed recalibrate: an intercept, and the slope too if each label has 20 groups or "
            "more; pulled towards no change by the prior",
            "intercept alone, without a prior": "by maximum likelihood, every image counting alike",
            "loss rises": "the share of draws in which the log loss on the groups that were left is higher than as it "
            "is",
        },
        "note": "The prior of the intercept and the effective number of groups were chosen after the arm without them "
        "had been measured on these very data.",
        "seed": 0,
        "networks": {
            name: {
                "settings": [*COMMON, *NETWORKS[name]],
                **network(open_run(work / name), records),
            }
            for name in NETWORKS
        },
        "made: logits times 3, plus 1": {f"{n} new images": made(n, 3.0, 1.0) for n in MADE},
        "made: logits plus 2.5, another prevalence": {f"{n} new images": made(n, 1.0, 2.5) for n in MADE},
        "the command": command(open_run(work / "tissue-colours"), records, data, work),
        "machine": machine(),
    }


def network(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """Every region by itself, and all that have enough groups together."""
    regions = {}
    for fold in run.folds():
        answered = run_answers(run, records, [fold])
        name = answered.records[0].site
        labels = [record.label for record in answered.records]
        regions[str(name)] = Answers(
            probabilities=np.array([list(answer.probabilities.values()) for answer in answered.answers]),
            truth=np.array([run.labels.index(label) for label in labels]),
            group=np.array([f"{name}: {record.group}" for record in answered.records]),
            labels=run.labels,
        )
    found: dict[str, Any] = {}
    for n in NEW:
        enough = {name: seen for name, seen in regions.items() if seen.groups >= n + LEAST_LEFT}
        parts = {name: {name: seen} for name, seen in enough.items()}
        found[f"{n} new groups"] = {
            name: compared(chosen, n) for name, chosen in {"all regions": enough, **parts}.items()
        }
    return {
        "regions": {
            name: {
                "images": len(seen.truth),
                "groups": seen.groups,
                "groups of each label": dict(zip(seen.labels, seen.groups_of_each, strict=True)),
                "share of anemic images": round(float(seen.truth.mean()), 3),
                "auc": round(auc(seen), 3),
            }
            for name, seen in regions.items()
        },
        **found,
    }


def auc(seen: Answers) -> float:
    """The area under the ROC curve."""
    p = seen.probabilities[:, 1]
    above = p[seen.truth == 1][:, None] - p[seen.truth == 0]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def compared(regions: Mapping[str, Answers], n: int) -> dict[str, Any]:
    """Figures of each arm on what is left of some regions, each recalibrated by itself on n of its groups."""
    group = np.concatenate([seen.group for seen in regions.values()])
    truth = np.concatenate([seen.truth for seen in regions.values()])
    weights = np.concatenate([np.ones((1, group.size)), *resample_groups(group, RESAMPLES, 0)])
    sums: dict[str, dict[str, Floats]] = {}
    used, rises, slopes = 0, dict.fromkeys(ARMS, 0.0), 0.0
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        new = [np.isin(seen.group, drawn(seen, n, rng)) for seen in regions.values()]
        used += int(sum(own.sum() for own in new))
        left = ~np.concatenate(new)
        losses = {}
        for arm, fitted in ARMS.items():
            p = np.concatenate([answered(seen, own, fitted) for seen, own in zip(regions.values(), new, strict=True)])
            values = figures(p[left], truth[left], weights[:, left])
            losses[arm] = values["log loss"][0]
            for name, column in values.items():
                sums.setdefault(arm, {}).setdefault(name, np.zeros(len(weights)))
                sums[arm][name] += column / DRAWS
        for arm in ARMS:
            rises[arm] += (losses[arm] > losses["as it is"]) / DRAWS
        slopes += np.mean([subset(s, own).suffice_for_slope for s, own in zip(regions.values(), new, strict=True)])
    before = sums["as it is"]
    return {
        "images drawn from each region": round(used / DRAWS / len(regions), 1),
        "share of draws in which the rule fits the slope": round(slopes / DRAWS, 2),
        "figures": {arm: {name: interval(own) for name, own in values.items()} for arm, values in sums.items()},
        "change": {
            arm: {name: interval(own - before[name]) for name, own in values.items()}
            for arm, values in sums.items()
            if arm != "as it is"
        },
        "loss rises": {arm: round(share, 2) for arm, share in rises.items() if arm != "as it is"},
    }


def drawn(seen: Answers, n: int, rng: np.random.Generator) -> NDArray[np.str_]:
    """n groups with each label in two of them or more, as the command asks for; drawn again if they have not."""
    names = np.unique(seen.group)
    while True:
        chosen = rng.choice(names, n, replace=False)
        inside = np.isin(seen.group, chosen)
        if all(np.unique(seen.group[inside & (seen.truth == k)]).size >= 2 for k in (0, 1)):
            return np.asarray(chosen, np.str_)


def answered(seen: Answers, new: NDArray[np.bool_], fitted: Arm) -> Floats:
    """Probabilities of the positive label of all images, recalibrated on the new ones."""
    return fitted(subset(seen, new)).applied(seen.probabilities)[:, 1]


def subset(seen: Answers, which: NDArray[np.bool_]) -> Answers:
    """Some of the answers."""
    return Answers(seen.probabilities[which], seen.truth[which], seen.group[which], seen.labels)


def figures(p: Floats, truth: NDArray[np.int64], weights: Floats) -> dict[str, Floats]:
    """Log loss, Brier score and ECE as in leanmed's reports, of weights (b, n): (b,) each."""
    total = weights.sum(axis=1)
    surprise = -np.log(np.clip(np.where(truth == 1, p, 1 - p), np.finfo(np.float64).eps, 1))
    gaps = np.where(np.arange(ECE_BINS) == ece_bin(p)[:, None], (p - truth)[:, None], 0.0)
    return {
        "log loss": weights @ surprise / total,
        "Brier": weights @ np.square(p - truth) / total,
        "ECE": np.abs(weights @ gaps).sum(axis=1) / total,
    }


def interval(values: Floats) -> dict[str, float]:
    """The first is the value, the others are resamples."""
    low, high = percentiles(values[1:])
    return {"value": round(float(values[0]), 4), "low": round(low, 4), "high": round(high, 4)}


def made(n: int, scale: float, shift: float, fresh: int = 20_000) -> dict[str, Any]:
    """Answers sigmoid(scale * z + shift) where sigmoid(z) comes true: what n give, and how good it is on others.

    Where only the prevalence is another one, z is lower than where the model was made: the label comes true less often.
    """
    rng = np.random.default_rng(n)

    def draw(count: int) -> Answers:
        z = rng.normal(0 if scale > 1 else -shift, 1.5, count)
        p = expit(scale * z + shift)
        truth = (rng.random(count) < expit(z)).astype(np.int64)
        p, group = np.stack([1 - p, p], 1), np.arange(count).astype(str)
        few = np.bincount(truth, minlength=2).min() < 2  # refused by the command
        return draw(count) if few else Answers(p, truth, group, ("no", "yes"))

    test, once = draw(fresh), np.ones((1, fresh))
    rows: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    numbers = []
    for _ in range(DRAWS):
        seen = draw(n)
        for arm, fitted in ARMS.items():
            found = fitted(seen)
            p = found.applied(test.probabilities)[:, 1]
            rows[arm].append([float(v[0]) for v in figures(p, test.truth, once).values()])
            if arm == "slope and intercept":
                numbers.append([found.slope, found.intercepts[1]])
    slope, intercept = np.array(numbers).T
    known = np.log(test.probabilities[:, 1] / test.probabilities[:, 0])
    best = figures(expit((known - shift) / scale), test.truth, once)
    return {
        "true slope and intercept": [round(1 / scale, 4), round(-shift / scale, 4)],
        "share of positive images": round(float(test.truth.mean()), 3),
        "slope and intercept, slope": spread(slope),
        "slope and intercept, intercept": spread(intercept),
        "of the true probabilities": {name: round(float(v[0]), 4) for name, v in best.items()},
        "figures on others": {
            arm: {name: spread(column) for name, column in zip(best, np.array(values).T, strict=True)}
            for arm, values in rows.items()
        },
        "loss rises": {
            arm: round(float(np.mean(np.array(values)[:, 0] > np.array(rows["as it is"])[:, 0])), 2)
            for arm, values in rows.items()
            if arm != "as it is"
        },
    }


def spread(values: Floats) -> dict[str, float]:
    """The mean, and where 95 % of the draws lie."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def command(run: Run, records: Sequence[Record], data: Path, work: Path) -> dict[str, Any]:
    """`leanmed recalibrate` on half of the groups of one region, and both artifacts on the other half."""
    fold = run.fold(0)
    artifact, folder = work / "artifact", work / "region"
    export(run, artifact, fold=fold.number, data=data / FOLDER)
    there = run_answers(run, records, [fold]).records
    names = np.random.default_rng(0).permutation(sorted({record.group for record in there}))
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    for half, chosen in zip(("new", "left"), halves, strict=True):
        subfolder(folder / half, [record for record in there if record.group in set(chosen)])
    found = recalibrate(artifact, folder / "new", work / "recalibrated", dataset="folder")
    facts = found.artifact.manifest.recalibration
    both = {
        name: evaluate_artifact(load(work / name), folder / "left", dataset="folder")
        for name in ("artifact", "recalibrated")
    }
    judge, tables = TASKS[run.recipe.task].judge, [report.table for report in both.values()]
    return {
        "region": there[0].site,
        "new images": facts["images"],
        "new groups": facts["groups"],
        "fitted": facts["parameters"],
        "threshold": facts["threshold"],
        "cross-fitted on the new ones": facts["measured"],
        "on the other half": {
            "images": tables[0].group.size,
            "groups": tables[0].groups,
            **{name: report.figures for name, report in both.items()},
            "change": judge.paired(*tables),
        },
    }


def subfolder(root: Path, records: Sequence[Record]) -> None:
    """A data set of some records, with the groups that were kept whole."""
    shutil.rmtree(root, ignore_errors=True)
    rows = []
    for record in records:
        copy = root / record.id
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.image, copy)
        rows.append({"image": record.id, "label": record.label, "group": record.group})
    write_csv(root / "labels.csv", rows)


if __name__ == "__main__":
    main()
