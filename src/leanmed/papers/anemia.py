"""The anemia paper: what copies of photographs in training do for its figures, and its Table 1 recomputed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from leanmed.audit.grouping import AUDIT, group_records
from leanmed.evaluation.runs import fold_answers, records_of
from leanmed.recipe.recipe import Split
from leanmed.report import markdown
from leanmed.report.pages import NOTICE
from leanmed.report.report import Report
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.tasks.classification.answer import Prediction

COLUMNS = ("loss", "accuracy", "precision", "recall", "f1", "auc")
COPIES = (
    "share of test images with a copy in training",
    "accuracy on those",
    "accuracy on the others",
    "accuracy of perfect memory",
)
TABLE_1 = ("alexnet", "vgg16", "resnet50", "mobilenet_v2", "vit_b_16", "convnext_base")  # by their torchvision names


def measure(
    run: Run, report: Report, data: Path, out: Path, tell: Callable[[str], None]
) -> tuple[Report, dict[str, Any]]:
    """What copies did, and the label that a result with copies in training must carry."""
    copies = copies_in_training(run, read_groups_of(run, data, out, tell))
    return replace(report, leak=report.leak or leak(copies["share_with_a_copy_in_training"])), {"copies": copies}


def beside(
    runs: Mapping[str, Mapping[int, Run]], data: Path, artifacts: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Table 1; artifacts are not looked at."""
    return {"table_1": table_1()}


def read_groups_of(run: Run, data: Path, out: Path, tell: Callable[[str], None]) -> dict[str, str]:
    """Image -> group of copies, as the audit finds them, whatever the run itself was split by."""
    records = records_of(run, data)
    split = Split(groups="audit", conflicts="keep")
    found = group_records(records, split, out / "runs" / AUDIT, data_sha256=run.facts["data_sha256"], tell=tell)
    return {record.id: record.group for record in found.records}


def copies_in_training(run: Run, groups: Mapping[str, str]) -> dict[str, float | None]:
    """What copies did for the figures: how many test images had one in training, and how they were answered.

    `memory_accuracy` is what a model would reach on them that recognised every copy and repeated the label
    that most of its copies in training carry.
    """
    rows = read_csv(run.path / SPLITS)
    truth = {row["image"]: row["label"] for row in rows}
    copied: list[bool] = []
    fresh: list[bool] = []
    memory: list[bool] = []
    for fold in run.folds():
        labels: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row[f"fold_{fold.number}"] in ("train", "validation"):
                labels[groups[row["image"]]].append(row["label"])
        for name, answer in fold_answers(run, fold, "test"):
            known = labels.get(groups[name])
            (copied if known else fresh).append(cast(Prediction, answer).label == truth[name])
            if known:
                memory.append(max(sorted(set(known)), key=known.count) == truth[name])
    return {
        "share_with_a_copy_in_training": len(copied) / (len(copied) + len(fresh)),
        "accuracy_with_a_copy": mean(copied),
        "accuracy_without": mean(fresh),
        "memory_accuracy": mean(memory),
    }


def leak(share: float | None) -> str | None:
    """What must stand first when test images had copies in training, whatever the protocol is called."""
    return f"This result LEAKS: {share:.0%} of its test images have a copy in training." if share else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is defined everywhere; None when a fold could not tell."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def table_1() -> dict[str, dict[str, float]]:
    """Parameters, FP32 size and FLOPs (2 per multiply-add) of the paper's networks at 224 x 224."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision import models

    rows = {}
    for name in TABLE_1:
        with torch.device("meta"):
            network = models.get_model(name).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.empty(1, 3, 224, 224))
        parameters = sum(p.numel() for p in network.parameters())
        rows[name] = {
            "parameters_millions": round(parameters / 1e6, 3),
            "megabytes_fp32": round(4 * parameters / 1e6, 2),
            "gigaflops": round(counter.get_total_flops() / 1e9, 3),
        }
    return rows


def as_text(found: Mapping[str, Any]) -> str:
    """The tables as Markdown; what leaks says so in the first line."""
    arms = found["arms"]
    parts = [
        *(arm["leak"] for arm in arms.values() if arm["leak"]),
        NOTICE,
        markdown.table(("", *COLUMNS), [*_printed(found), *map(_ours, arms.values())]),
        "Ours: mean over folds and seeds. Pooled over folds, with 95 % intervals over groups:",
        markdown.table(("", *COLUMNS), _each(arms, lambda v: [markdown.interval(v["metrics"][c]) for c in COLUMNS])),
        "What copies in training did:",
        markdown.table(("", *COPIES), _each(arms, lambda v: map(markdown.cell, v["copies"].values()))),
        "Where ours differs from the paper:",
        markdown.bullets(found["paper"]["differences"]),
        markdown.table(
            ("Table 1 recomputed", "million parameters", "MB in FP32", "GFLOPs"),
            [(name, *row.values()) for name, row in found["table_1"].items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _printed(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"printed: {name}", *(markdown.cell(row.get(column)) for column in COLUMNS)]
        for name, row in found["paper"]["printed"].items()
    ]


def _ours(arm: Mapping[str, Any]) -> list[str]:
    counts = f"{arm['images']} images, {arm['groups']} groups, {len(arm['seeds'])} seed(s)"
    return [f"ours: {arm['title']}; {counts}", *(markdown.cell(arm["mean"][column]) for column in COLUMNS)]


def _each(arms: Mapping[str, Any], cells: Callable[[Mapping[str, Any]], Iterable[str]]) -> list[list[str]]:
    return [
        [f"{name}, seed {seed}", *cells(values)] for name, arm in arms.items() for seed, values in arm["seeds"].items()
    ]
