"""`leanmed reproduce`: a paper's protocol and ours by the same code, and its tables beside ours."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leanmed.benchmark import machine
from leanmed.config import Split, load_recipe
from leanmed.errors import DataError
from leanmed.evaluation import evaluate_run, records_of
from leanmed.files import write_json, write_text
from leanmed.grouping import group_records
from leanmed.papers import PAPERS, Arm
from leanmed.report import NOTICE, as_json, write_report
from leanmed.runs import SPLITS, Run, read_csv
from leanmed.runtime.input import read_image
from leanmed.training import AUDIT, train

COLUMNS = ("loss", "accuracy", "precision", "recall", "f1", "auc")


# The networks of the paper's Table 1, by their torchvision names.
COPIES_HEAD = (
    "| | share of test images with a copy in training | accuracy on those | accuracy on the others | "
    "accuracy of perfect memory |",
    "|---|---|---|---|---|",
)
TABLE_1 = ("alexnet", "vgg16", "resnet50", "mobilenet_v2", "vit_b_16", "convnext_base")


def reproduce(
    name: str,
    data: Path,
    out: Path,
    *,
    settings: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    resume: bool = False,
    command: str = "",
    tell: Callable[[str], None] = print,
) -> str:
    """Train and score every arm with every seed, and write `NAME.json` and `NAME.md`.

    Args:
        name: the paper's recipe.
        data: the data set's folder.
        out: takes one run and one report per arm and seed, and the tables.
        settings: `--set` values for every arm.
        arms: which protocols; empty: all of the paper's.
        seeds: of splits and training both.
        resume: go on with what is there.
        command: what the user typed, for the record.
        tell: takes one line of progress at a time.

    Returns:
        The tables as text.

    Raises:
        DataError: no such paper or arm.
    """
    paper = _choose(PAPERS, name, "paper")
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in arms or paper.arms:
        chosen = _choose(paper.arms, arm, "protocol").settings
        for seed in seeds:
            tell(f"{arm}, seed {seed}")
            seeded = (f"split.seed={seed}", f"training.seed={seed}")
            recipe = load_recipe(paper.recipe, [*chosen, *settings, *seeded])
            folder = out / "runs" / f"{arm}-{seed}"
            run = train(recipe, data, folder, resume=resume and folder.exists(), tell=tell)
            report = evaluate_run(run, data=data, command=command)
            copies = copies_in_training(run, read_groups_of(run, data, out, tell))
            report = replace(report, leak=report.leak or _leak(copies["share_with_a_copy_in_training"]))
            write_report(out / "reports" / folder.name, report, read=read_image)
            rows.setdefault(arm, {})[seed] = as_json(report) | {"copies": copies}
    found = {
        "command": command,
        "machine": machine(),
        "paper": {"citation": paper.citation, "printed": paper.printed, "differences": paper.differences},
        "arms": {arm: _summary(paper.arms[arm], by_seed) for arm, by_seed in rows.items()},
        "table_1": table_1(),
    }
    write_json(out / f"{name}.json", found)
    text = as_text(found)
    write_text(out / f"{name}.md", text)
    return text


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
    copied: list[bool] = []
    fresh: list[bool] = []
    memory: list[bool] = []
    for fold in run.folds():
        labels: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row[f"fold_{fold.number}"] in ("train", "validation"):
                labels[groups[row["image"]]].append(row["label"])
        for row in fold.part("test"):
            known = labels.get(groups[row["image"]])
            (copied if known else fresh).append(row["label"] == row["truth"])
            if known:
                memory.append(max(sorted(set(known)), key=known.count) == row["truth"])
    return {
        "share_with_a_copy_in_training": len(copied) / (len(copied) + len(fresh)),
        "accuracy_with_a_copy": _mean(copied),
        "accuracy_without": _mean(fresh),
        "memory_accuracy": _mean(memory),
    }


def _summary(arm: Arm, by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One arm: the mean over seeds of the folds' means, its range, and each seed's pooled figures."""
    first = next(iter(by_seed.values()))
    means = {name: [report["fold_mean"][name]["mean"] for report in by_seed.values()] for name in first["fold_mean"]}
    return {
        "title": arm.title,
        "leak": first["leak"],
        "images": first["images"],
        "groups": first["groups"],
        "mean": {name: _mean(values) for name, values in means.items()},
        "seed_range": {n: [min(v), max(v)] for n, v in means.items() if None not in v},
        "recipe": first["recipe"],
        "data_hash": first["data_hash"],
        "seeds": {
            seed: {key: report[key] for key in ("metrics", "fold_mean", "per_fold", "subgroups", "notes", "copies")}
            for seed, report in by_seed.items()
        },
    }


def _leak(share: float | None) -> str | None:
    """What must stand first when test images had copies in training, whatever the protocol is called."""
    return f"This result LEAKS: {share:.0%} of its test images have a copy in training." if share else None


def _mean(values: Sequence[float | None]) -> float | None:
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
    leaks = [arm["leak"] for arm in found["arms"].values() if arm["leak"]]
    lines = [*leaks, NOTICE, "", f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, printed in found["paper"]["printed"].items():
        lines.append(_row(f"printed: {name}", [_cell(printed.get(column)) for column in COLUMNS]))
    for arm in found["arms"].values():
        counts = f"{arm['images']} images, {arm['groups']} groups, {len(arm['seeds'])} seed(s)"
        title = f"ours: {arm['title']}; {counts}"
        lines.append(_row(title, [_cell(arm["mean"][column]) for column in COLUMNS]))
    lines += ["", "Ours: mean over folds and seeds. Pooled over folds, with 95 % intervals over groups:", ""]
    lines += [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, arm in found["arms"].items():
        for seed, values in arm["seeds"].items():
            lines.append(_row(f"{name}, seed {seed}", [_interval(values["metrics"][column]) for column in COLUMNS]))
    lines += ["", "What copies in training did:", "", *COPIES_HEAD]
    for name, arm in found["arms"].items():
        for seed, values in arm["seeds"].items():
            lines.append(_row(f"{name}, seed {seed}", [_cell(value) for value in values["copies"].values()]))
    lines += [
        "",
        "Where ours differs from the paper:",
        "",
        *(f"- {text}" for text in found["paper"]["differences"]),
        "",
    ]
    lines += ["| Table 1 recomputed | million parameters | MB in FP32 | GFLOPs |", "|---|---|---|---|"]
    lines += [_row(name, [str(value) for value in row.values()]) for name, row in found["table_1"].items()]
    return "\n".join(lines) + "\n"


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(figure: Mapping[str, float | None]) -> str:
    return f"{_cell(figure['value'])} ({_cell(figure['low'])} to {_cell(figure['high'])})"
