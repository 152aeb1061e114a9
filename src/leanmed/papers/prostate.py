"""The prostate paper: students that learn from a teacher, at each site, beside those that do not."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leanmed.data import read_records
from leanmed.evaluation.runs import records_of
from leanmed.papers.judged import ALL, Judged, judged_runs
from leanmed.papers.printed import PROSTATE
from leanmed.reading.mr import open_mr, read_whole
from leanmed.report import markdown
from leanmed.report.pages import NOTICE
from leanmed.report.report import Report
from leanmed.runs import Run
from leanmed.tasks.building import load_task

DIGITS = 3
# ENet from DeepLabV3+ at site 1, as printed; the arms of the same terms.
ABLATION = {
    "logits": 0.691,
    "affinity": 0.700,
    "kernel": 0.698,
    "kernel-logits": 0.763,
    "affinity-logits": 0.772,
    "affinity-kernel": 0.781,
    "enet-distilled": 0.810,
}
# Channels, million parameters and GFLOPs of 384 x 384 pixels and two classes, as printed.
COST = {
    "espnet": (3, 0.1837, 1.27),
    "enet": (1, 0.3538, 2.18),
    "erfnet": (1, 2.063, 16.53),
    "unetplusplus": (1, 36.63, 620.8),
    "deeplabv3plus": (3, 56.80, 273.6),
}
SIDE, CLASSES = 384, 2


def measure(
    run: Run, report: Report, data: Path, out: Path, tell: Callable[[str], None]
) -> tuple[Report, dict[str, Any]]:
    """The network's size."""
    network = load_task(run, run.folds()[0].number)
    return report, {
        "million_parameters": round(sum(p.numel() for p in network.parameters()) / 1e6, 4),
    }


def beside(
    runs: Mapping[str, Mapping[int, Run]], data: Path, artifacts: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Figures by site, students minus their teachers and minus themselves alone; the ablation; what networks cost.

    Artifacts are not looked at.
    """
    records = records_of(next(iter(next(iter(runs.values())).values())), data)
    judged = {arm: judged_runs(list(by_seed.values()), records) for arm, by_seed in runs.items()}
    return {
        "sites": {arm: found.by_site() for arm, found in judged.items()},
        "differences": {arm: differences(arm, judged) for arm in judged if PROSTATE.arms[arm].teacher},
        "ablation": ABLATION,
        "cost": cost(),
    }


def differences(arm: str, judged: Mapping[str, Judged]) -> dict[str, Any]:
    """A student minus its teacher and minus the same network without one, on the same cases."""
    own = PROSTATE.arms[arm]
    return {
        "teacher": own.teacher,
        "alone": own.alone,
        "minus_teacher": judged[arm].minus(judged[own.teacher]),
        "minus_alone": judged[arm].minus(judged[own.alone]),
    }


def cost() -> dict[str, dict[str, float]]:
    """Parameters and FLOPs as printed, and as counted of our networks: 2 for each product of a convolution."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from leanmed.models.segmenter import build_segmenter
    from leanmed.recipe.recipe import Model

    rows = {}
    for name, (channels, millions, gigaflops) in COST.items():
        with torch.device("meta"):
            network = build_segmenter(Model(backbone=name, weights="none", side=SIDE), channels, CLASSES).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.empty(1, channels, SIDE, SIDE))
        rows[name] = {
            "printed_million_parameters": millions,
            "million_parameters": round(sum(p.numel() for p in network.parameters()) / 1e6, 4),
            "printed_gigaflops": gigaflops,
            "gigaflops": round(counter.get_total_flops() / 1e9, 2),
        }
    return rows


def as_text(found: Mapping[str, Any]) -> str:
    """The tables as Markdown; what leaks says so in the first line."""
    arms = found["arms"]
    parts = [
        *(arm["leak"] for arm in arms.values() if arm["leak"]),
        NOTICE,
        "Ours: Dice of each site, the mean over patients with a 95 % interval over them. Each student that learned "
        "from a teacher stands below its teacher and itself alone; the last two columns are the changes from them on "
        "the same patients, over all sites. An interval that holds 0 leaves open which is better.",
        *_blocks(found),
        *_changes(found),
        *_other_scores(found),
        "What was trained:",
        markdown.table(("", "million parameters", "epochs of each fold", "minutes"), _trained(arms)),
        *_ablation(found),
        *_printed(found),
        *_cost(found["cost"]),
        "Where ours differs from the paper:",
        markdown.bullets(found["paper"]["differences"]),
    ]
    return "\n\n".join(parts) + "\n"


def _blocks(found: Mapping[str, Any]) -> list[str]:
    """A table for each teacher and network: the teacher, the student alone, and all that learned; then the others."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for arm, change in found["differences"].items():
        blocks.setdefault((change["teacher"], change["alone"]), []).append(arm)
    shown = [[*pair, *arms] for pair, arms in blocks.items()]
    others = [arm for arm in found["arms"] if not any(arm in block for block in shown)]
    return [_block(found, block) for block in [*shown, others] if block]


def _block(found: Mapping[str, Any], arms: Sequence[str]) -> str:
    sites = _sites(found)
    rows = []
    for arm in arms:
        figures, change = found["sites"][arm], found["differences"].get(arm)
        cells = [markdown.interval(figures[site]["dice"], DIGITS) for site in sites]
        pair = ("minus_alone", "minus_teacher")
        cells += [markdown.interval(change[name][ALL]["dice"], DIGITS) if change else "" for name in pair]
        rows.append([_named(found, arm), *cells])
    return markdown.table(("Dice", *sites, "minus alone", "minus its teacher"), rows)


def _changes(found: Mapping[str, Any]) -> list[str]:
    sites, changes = _sites(found), found["differences"]
    if not changes or len(sites) == 1:
        return []
    rows = [
        [_named(found, arm), *(markdown.interval(change["minus_alone"][site]["dice"], DIGITS) for site in sites)]
        for arm, change in changes.items()
    ]
    return ["What the teacher changes at each site, in Dice:", markdown.table(("minus alone", *sites), rows)]


def _other_scores(found: Mapping[str, Any]) -> list[str]:
    names = {"hd95": "HD95", "asd": "mean surface distance", "cl_dice": "clDice"}
    first = next(iter(found["sites"].values()))[ALL]
    known = {name: title for name, title in names.items() if name in first}
    rows = [
        [_named(found, arm), *(markdown.interval(of[ALL][name], DIGITS) for name in known)]
        for arm, of in found["sites"].items()
    ]
    rows += [
        [f"{_named(found, arm)}, minus alone"]
        + [markdown.interval(change["minus_alone"][ALL][name], DIGITS) for name in known]
        for arm, change in found["differences"].items()
    ]
    return [
        "Other figures, over all sites. Of distances less is better; they are in mm if the size of a pixel is known.",
        markdown.table(("", *known.values()), rows),
    ]


def _trained(arms: Mapping[str, Any]) -> list[list[object]]:
    return [
        [
            f"{arm['title']}, seed {seed}",
            v["million_parameters"],
            ", ".join(map(str, v["epochs"])),
            v["training_minutes"],
        ]
        for arm in arms.values()
        for seed, v in arm["seeds"].items()
    ]


def _ablation(found: Mapping[str, Any]) -> list[str]:
    """The paper's Table 4 and ours, if any of its arms is there."""
    changes = found["differences"]
    rows = []
    for arm, dice in found["ablation"].items():
        own = [markdown.interval(found["sites"][arm][ALL]["dice"], DIGITS)] if arm in changes else [""]
        own += [markdown.interval(changes[arm]["minus_alone"][ALL]["dice"], DIGITS)] if arm in changes else [""]
        rows.append([PROSTATE.arms[arm].title, f"{dice:.3f}", *own])
    return [
        "Which terms do it. The paper's column is ENet from DeepLabV3+ at site 1, where ENet alone has 0.714; ours is "
        "ENet from UNet++ over all sites:",
        markdown.table(("", "printed", "ours", "ours minus alone"), rows),
    ]


def _printed(found: Mapping[str, Any]) -> list[str]:
    printed = found["paper"]["printed"]
    sites = list(next(iter(printed.values())))
    rows = [
        [name, *(f"{row[site]:.3f}" for site in sites), f"{statistics.fmean(row.values()):.3f}"]
        for name, row in printed.items()
    ]
    return ["The paper's Dice, and the mean of its sites:", markdown.table(("printed", *sites, "mean"), rows)]


def _cost(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"Parameters and FLOPs of one image of {SIDE} x {SIDE} pixels with {CLASSES} classes. Ours count 2 for each "
        "product of a convolution; the paper counts normalisations and activations too, and of DeepLabV3+ a classifier "
        "of ImageNet that no mask needs.",
        markdown.table(
            ("", "million parameters, printed", "ours", "GFLOPs, printed", "ours"),
            [[name, *row.values()] for name, row in rows.items()],
        ),
    ]


def _sites(found: Mapping[str, Any]) -> list[str]:
    return list(next(iter(found["sites"].values())))


def _named(found: Mapping[str, Any], arm: str) -> str:
    title: str = found["arms"][arm]["title"]
    return title


def dice_of_volumes(answers: Path, volumes: Path) -> str:
    """How well whole volumes were answered, in a sentence.

    Args:
        answers: a file of `predict_file`, of volumes.
        volumes: their folder, with the true masks, as `mr-sites` reads it.
    """
    truths = {record.image.resolve(): record.mask.files[0] for record in read_records("mr-sites", volumes)}
    found = []
    for line in map(json.loads, answers.read_text("utf-8").splitlines()):
        one, other = truths[Path(line["input"]).resolve()], answers.parent / line["file"]
        truth, answer = (read_whole(open_mr(path)) > 0 for path in (one, other))
        found.append(2 * int(np.sum(truth & answer)) / max(int(np.sum(truth)) + int(np.sum(answer)), 1))
    each = ", ".join(f"{dice:.3f}" for dice in found)
    return f"Dice {statistics.fmean(found):.3f} in {len(found)} whole volumes of a site that no model saw ({each})"
