"""Measure whether explanations show what a model depends on, and whether that is the tumour, on breast ultrasound.

    OMP_NUM_THREADS=1 python scripts/measure_explanations.py train --data data --work work
    OMP_NUM_THREADS=1 python scripts/measure_explanations.py measure --data data --work work \
        --out docs/results/explanations.json

`train` trains a small classifier of benign and malignant tumours (BUSI) and exports it; copies of an image stay on one
side of its split. `measure` takes test images in an order drawn at random. The first 36 were looked at while the grid
and what covers show were chosen: `--skip 36` leaves them and their copies out, so that nothing is measured on what it
was chosen on.

Each saliency is judged twice. By the model itself: the areas under the curves of deletion and insertion, beside those
of random orders that are as smooth. By the doctors' masks: the share of what is positive in it that lies in the tumour,
and how often its peak does (the pointing game of Zhang et al. 2016, arXiv:1608.00507). The second says as much of the
model as of the explanation, for a model may depend on something else. `middle` is a saliency that never looks at the
image: the nearer to the middle, the higher.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanmed.benchmark.benchmark import machine
from leanmed.evaluation.runs import evaluate_run, records_of, split_records
from leanmed.exporting.export import export
from leanmed.figures.bootstrap import with_intervals
from leanmed.files import defined, write_json
from leanmed.records import Record
from leanmed.runs import SPLITS, read_csv
from leanmed.runtime.deletion import deletion, insertion, random_values
from leanmed.runtime.explain import followed, mean_colour, occlusion, random_masks
from leanmed.runtime.predictor import load
from leanmed.tasks.recipes import load_recipe, open_run
from leanmed.training.train import train

CLASSES = ("benign", "malignant")
SETTINGS = (
    "data.labels=[benign, malignant]",
    "split.protocol=holdout",
    "split.test=0.2",
    "model.backbone_args={pad_type: same}",
    "model.mean=[.5, .5, .5]",
    "model.std=[.5, .5, .5]",
    "model.side=128",
    "training.learning_rate=0.0005",
    "training.epochs=8",
    "training.patience=8",
    "training.select_by=auc",
)
ORDERS = 5  # random ones of each image, whose mean is taken
RESAMPLES = 2000

Floats = Any
Score = Callable[[Any], float]


def middle(pixels: Any) -> Floats:
    """The nearer to the middle, the higher; 0 half way to an edge, so that a quarter of the sides' product is above."""
    height, width = pixels.shape[:2]
    y, x = (np.abs(np.arange(side) + 0.5 - side / 2) / (side / 2) for side in (height, width))
    return 0.5 - np.maximum(y[:, None], x[None])


METHODS: Mapping[str, Callable[[Score, Any], Floats]] = {
    "occlusion": lambda score, pixels: occlusion(score, pixels)[0],
    "occlusion, 8 cells": lambda score, pixels: occlusion(score, pixels, cells=8)[0],
    "occlusion by the mean colour": lambda score, pixels: occlusion(score, pixels, canvas=mean_colour(pixels))[0],
    "RISE, 49 masks": lambda score, pixels: random_masks(score, pixels, masks=49),
    "RISE, 196 masks": lambda score, pixels: random_masks(score, pixels, masks=196),
    "middle": lambda score, pixels: middle(pixels),
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="the folder of busi/ and weights/")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--skip", type=int, default=36)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    if given.step == "train":
        train_classifier(given.data, given.work)
    else:
        write_json(given.out, defined(measure(given.work, given.skip, given.images, given.note)))


def train_classifier(data: Path, work: Path) -> None:
    """Copy the two classes with a tumour, train on them, and export the model of the one fold."""
    for name in CLASSES:
        shutil.copytree(data / "busi" / name, work / "data" / name, dirs_exist_ok=True)
    weights = data / "weights" / "mobilenetv2_100_tf_in1k.safetensors"
    run = train(
        load_recipe("folder", [f"model.weights={weights}", *SETTINGS]), work / "data", work / "run", resume=True
    )
    export(run, work / "artifact", fold=0)


def measure(work: Path, skip: int, images: int, note: str) -> dict[str, Any]:
    """All figures, as plain values."""
    run, predictor = open_run(work / "run"), load(work / "artifact")
    tested = {row["image"] for row in read_csv(run.path / SPLITS) if row["fold_0"] == "test"}
    records = [r for r in split_records(run, records_of(run, work / "data")) if r.id in tested]
    group = {record.id: record.group for record in records}
    order = np.random.default_rng(0).permutation(sorted(group)).tolist()
    looked_at = {group[name] for name in order[:skip]}
    chosen = [name for name in order[skip:] if group[name] not in looked_at][:images]
    rows = [judged(predictor, record) for record in records if record.id in chosen]
    sure = [row for row in rows if row["answered"] == CLASSES[1]]
    figures = evaluate_run(run, data=work / "data").figures
    return {
        "command": shlex.join(["python", "scripts/measure_explanations.py", *sys.argv[1:]]),
        "notice": "Research use only. Not a medical device.",
        "note": note,
        "data": "BUSI, benign and malignant, the test part of one holdout split with copies of an image kept together",
        "settings": list(SETTINGS),
        "seeds": {"split": run.recipe.split.seed, "training": run.recipe.training.seed, "images": 0, "random": 0},
        "model": {
            "test images": figures["auc"].n,
            **{name: vars(figures[name]) for name in ("auc", "recall", "specificity")},
        },
        "explained": "the probability of malignant",
        "intervals": f"95 %, {RESAMPLES} resamples of groups, each image's figures being taken together",
        "all": summed(rows),
        "answered malignant": summed(sure),
        "answered benign": summed([row for row in rows if row["answered"] == CLASSES[0]]),
        "machine": machine(),
    }


def judged(predictor: Any, record: Record) -> dict[str, Any]:
    """What each saliency of one image is worth."""
    pixels = predictor.frame(record.image).pixels
    tumour = mask_of(record.image)
    _, score = followed(predictor, pixels)
    row: dict[str, Any] = {
        "group": record.group,
        "answered": predictor.predict(record.image).label,
        "score": score(pixels),
        "mask": float(tumour.mean()),
    }
    for name, method in METHODS.items():
        calls, counted = counting(score)
        started = time.perf_counter()
        values = method(counted, pixels)
        seconds = time.perf_counter() - started
        positive = np.maximum(values, 0.0)
        row[name] = {
            "deletion": deletion(score, pixels, values).area,
            "insertion": insertion(score, pixels, values).area,
            "share in the tumour": float(positive[tumour].sum() / positive.sum()) if positive.any() else np.nan,
            "peak in the tumour": float(tumour[np.unravel_index(values.argmax(), values.shape)]),
            "answers": calls[0],
            "seconds": seconds,
        }
    orders = [random_values(pixels, seed=seed) for seed in range(ORDERS)]
    row["random"] = {
        "deletion": float(np.mean([deletion(score, pixels, values).area for values in orders])),
        "insertion": float(np.mean([insertion(score, pixels, values).area for values in orders])),
        "peak in the tumour": float(tumour.mean()),
    }
    return row


def counting(score: Score) -> tuple[list[int], Score]:
    """A score that counts how often it is asked."""
    calls = [0]

    def counted(pixels: Any) -> float:
        calls[0] += 1
        return score(pixels)

    return calls, counted


def mask_of(image: Path) -> Any:
    """(h, w) whether a pixel lies in one of the masks beside an image."""
    masks = [path for path in image.parent.iterdir() if path.name.startswith(f"{image.stem}_mask")]
    return np.any([np.asarray(Image.open(path).convert("L")) > 127 for path in masks], axis=0)


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over images with intervals over groups, and what each method differs by from chance on the same images."""
    group = np.array([row["group"] for row in rows])

    def means(columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        found = {}
        for name, column in columns.items():
            values = np.array(column, np.float64)
            known = np.isfinite(values)
            figure = with_intervals(mean_of(values[known]), group[known], resamples=RESAMPLES)["mean"]
            found[name] = {key: round(float(value), 4) for key, value in vars(figure).items()}
        return found

    chance = {
        "deletion": [row["random"]["deletion"] for row in rows],
        "insertion": [row["random"]["insertion"] for row in rows],
        "share in the tumour": [row["mask"] for row in rows],
        "peak in the tumour": [row["mask"] for row in rows],
    }
    methods, first = {}, {key: [row["occlusion"][key] for row in rows] for key in chance}
    for name in METHODS:
        own = {key: [row[name][key] for row in rows] for key in chance}
        differences = {key: np.subtract(own[key], chance[key]).tolist() for key in chance}
        methods[name] = {
            "answers": round(float(np.mean([row[name]["answers"] for row in rows])), 1),
            "seconds": round(float(np.mean([row[name]["seconds"] for row in rows])), 3),
            **means(own),
            "more than by chance": means(differences),
            "more than occlusion": means({key: np.subtract(own[key], first[key]).tolist() for key in chance}),
        }
    return {
        "images": len(rows),
        "groups": int(np.unique(group).size),
        "score": means({"mean": [row["score"] for row in rows]})["mean"],
        "by chance": means(chance),
        "methods": methods,
    }


def mean_of(values: Any) -> Callable[[Any], dict[str, Any]]:
    """Weights (b, n) to the mean."""
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


if __name__ == "__main__":
    main()
