"""The paper of nerves in ultrasound: adapters of many kinds in one trained network, beside networks of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanmed.compress.adapters import RECORD, Adapted, adapter_tensors
from leanmed.data import read_records
from leanmed.data.masks import read_mask
from leanmed.evaluation.runs import records_of
from leanmed.models.point_localiser import distance_peak
from leanmed.papers.judged import ALL, Judged, judged_runs
from leanmed.papers.printed import DATA_SETS, NERVES
from leanmed.prompts import Prompts
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.report import markdown
from leanmed.report.pages import NOTICE
from leanmed.report.report import Report
from leanmed.runs import Run
from leanmed.runtime.predictor import load
from leanmed.tasks.building import build_task, load_task
from leanmed.tasks.segmentation.judge import table_of
from leanmed.training.oracle import oracle_answers

if TYPE_CHECKING:
    from leanmed.tasks.base import Task

REFERENCE = "hierarchical"
DIGITS = 3
SCORES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95"}
UNTRAINED = "SAM, no training"
# Table 2: Dice on NBSBP, as printed.
ABLATION = {
    "hierarchical": 83.04,
    "reversed": 82.55,
    "first-removed": 80.75,
    "last-removed": 80.25,
    "strategy-1": 82.74,
    "strategy-2": 82.89,
}


def measure(
    run: Run, report: Report, data: Path, out: Path, tell: Callable[[str], None]
) -> tuple[Report, dict[str, Any]]:
    """How many parameters are trained and there are, the localiser left out."""
    task = build_task(run.recipe, run.labels, pretrained=False)
    named = [(name, p) for name, p in task.named_parameters() if not name.startswith("localiser.")]
    return report, {
        "trained_parameters": sum(p.numel() for _, p in named if p.requires_grad),
        "parameters": sum(p.numel() for _, p in named),
    }


def beside(
    runs: Mapping[str, Mapping[int, Run]], data: Path, artifacts: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Figures by the localiser's points and, apart from them, by points of the true masks; the depth of what changed.

    Artifacts are not looked at.
    """
    by_arm = {arm: list(by_seed.values()) for arm, by_seed in runs.items()}
    records = records_of(next(iter(by_arm.values()))[0], data)
    prompted = {arm: own for arm, own in by_arm.items() if not NERVES.arms[arm].recipe}
    own = {arm: judged_runs(of_arm, records) for arm, of_arm in by_arm.items()}
    tell("answering anew with points of the true masks")
    told = {arm: judged_runs(of_arm, records, oracle_answers) for arm, of_arm in prompted.items()}
    begun = [of_arm for of_arm in prompted.values() if _starts_as_sam(of_arm[0].recipe)]
    if begun:
        told |= {UNTRAINED: judged_runs(begun[0], records, _untrained_answers)}
    return {
        "localiser": {arm: _figures(judged) for arm, judged in own.items()},
        "oracle": {arm: _figures(judged) for arm, judged in told.items()},
        "reference": REFERENCE,
        "changes": {"localiser": _changes(own), "oracle": _changes(told)},
        "ablation": ABLATION,
        "depth": {arm: depth(of_arm[0]) for arm, of_arm in prompted.items()},
    }


def _untrained_answers(run: Run, records: Sequence[Record]) -> Any:
    return oracle_answers(run, records, load=lambda own, fold: _as_begun(own.recipe, own.labels))


def _starts_as_sam(recipe: Recipe) -> bool:
    """Whether the network before its first step is the SAM whose weights the recipe names, as adapters leave it."""
    return recipe.model.weights != "none" and recipe.adapters.method != "none"


def _as_begun(recipe: Recipe, labels: tuple[str, ...]) -> Task:
    """The network before its first step, with the weights that its recipe names: adapters start as the identity."""
    return build_task(recipe, labels).eval()


def _figures(judged: Judged) -> dict[str, Any]:
    found = judged.by_site()[ALL]
    return {name: found[name] for name in SCORES}


def _changes(judged: Mapping[str, Judged]) -> dict[str, Any]:
    """Each arm minus the reference on the same images, with the paper's paired t-test beside the interval."""
    if REFERENCE not in judged:
        return {}
    first = judged[REFERENCE]
    return {
        arm: {"dice": own.minus(first)[ALL]["dice"], "t_test_p": t_test(own, first)}
        for arm, own in judged.items()
        if arm != REFERENCE
    }


def t_test(one: Judged, other: Judged) -> float | None:
    """The two-sided p of the paired t-test of Dice over images, as in the paper; None where nothing differs.

    It takes images of one patient for independent ones, which the intervals over groups do not.
    """
    from scipy.stats import ttest_rel

    a, b = one.table.mean_dice(), other.table.mean_dice()
    return None if np.allclose(a, b) else float(ttest_rel(a, b).pvalue)


def depth(run: Run) -> list[dict[str, float]]:
    """For each block of the encoder the width of its adapter, and how far its own weights moved (Fig. 4, our reading).

    `moved` is the norm of the change of a block's weights from those that the recipe names, as a share of their norm,
    in the run's first fold. It is 0 where only adapters were trained. A network that began with random weights, or has
    no adapters, has no rows.
    """
    begun = _as_begun(run.recipe, run.labels)
    record: Adapted | None = getattr(begun, RECORD, None)
    if record is None or run.recipe.model.weights == "none":
        return []
    before, after = begun.state_dict(), load_task(run, run.folds()[0].number).state_dict()
    adapters = adapter_tensors(begun)
    rows = []
    for path, width in zip(record.blocks, record.widths or (0,) * len(record.blocks), strict=True):
        names = [name for name in before if name.startswith(f"{path}.") and name in after and name not in adapters]
        moved = sum(float((after[name] - before[name]).square().sum()) for name in names)
        whole = sum(float(before[name].square().sum()) for name in names)
        rows.append({"width": width, "moved": round((moved / whole) ** 0.5, 6)})
    return rows


def as_text(found: Mapping[str, Any]) -> str:
    """The tables as Markdown; what leaks says so in the first line."""
    arms = found["arms"]
    parts = [
        *(arm["leak"] for arm in arms.values() if arm["leak"]),
        NOTICE,
        "Ours, by the points of each model's own localiser, to which no true mask was shown. Figures are means over "
        "images with a 95 % interval over groups; those of an image are the means over seeds. Distances are in pixels "
        "of the image where the size of a pixel is not known. The change is that from "
        f"`{found['reference']}` in Dice, on the same images, and p is that of the paired t-test that the paper uses, "
        "which takes images of one patient for independent.",
        _table(found, "localiser"),
        "ORACLE: by one point from the true mask of each image, the one that the localiser learns to find, not moved; "
        "images without an object are left out. The truth takes part in these answers: they say how good the masks are "
        "where one points well.",
        _table(found, "oracle"),
        "What was trained:",
        markdown.table(("", "parameters trained", "of", "epochs of each fold", "minutes"), _trained(arms)),
        *_depth(found),
        *_ablation(found),
        *_printed(found),
        "Where ours differs from the paper:",
        markdown.bullets(found["paper"]["differences"]),
    ]
    return "\n\n".join(parts) + "\n"


def _title(found: Mapping[str, Any], arm: str) -> str:
    return str(found["arms"][arm]["title"]) if arm in found["arms"] else arm


def _table(found: Mapping[str, Any], points: str) -> str:
    changes = found["changes"][points]
    rows = []
    for arm, figures in found[points].items():
        change = changes.get(arm)
        p = change and change["t_test_p"]
        cells = [markdown.interval(figures[name], DIGITS) for name in SCORES]
        cells += [markdown.interval(change["dice"], DIGITS) if change else "", "" if p is None else f"{p:.2g}"]
        rows.append([_title(found, arm), *cells])
    return markdown.table(("", *SCORES.values(), "change in Dice", "p"), rows)


def _trained(arms: Mapping[str, Any]) -> list[list[object]]:
    return [
        [
            f"{arm['title']}, seed {seed}",
            f"{own['trained_parameters']:,}",
            f"{own['parameters']:,}",
            ", ".join(map(str, own["epochs"])),
            own["training_minutes"],
        ]
        for arm in arms.values()
        for seed, own in arm["seeds"].items()
    ]


def _depth(found: Mapping[str, Any]) -> list[str]:
    """What stands for the paper's Fig. 4."""
    shown = {arm: rows for arm, rows in found["depth"].items() if rows}
    if not shown:
        return []
    blocks = len(next(iter(shown.values())))
    table = [[_title(found, arm), *map(_block, rows)] for arm, rows in shown.items()]
    return [
        "By depth (the paper's Fig. 4, in our reading): the width of the adapters of each block of the encoder, or, "
        "where the block's own weights were trained, how far they moved as a share of their norm.",
        markdown.table(("block", *map(str, range(1, blocks + 1))), table),
    ]


def _block(row: Mapping[str, float]) -> str:
    return f"{row['width']}" if row["width"] else f"moved {100 * row['moved']:.1f} %" if row["moved"] else ""


def _ablation(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for arm, dice in found["ablation"].items():
        ours = [
            markdown.interval(found[points][arm]["dice"], DIGITS) if arm in found[points] else ""
            for points in ("localiser", "oracle")
        ]
        rows.append([NERVES.arms[arm].title, f"{dice:.2f}", *ours])
    return [
        "The paper's Table 2, Dice in % on its set NBSBP, and ours on the data given here:",
        markdown.table(("", "printed", "ours, localiser", "ours, oracle"), rows),
    ]


def _printed(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            f"{row['million']:.2f}",
            *(" / ".join(f"{row[f'{data} {score}']:.2f}" for score in ("Dice", "IoU", "HD95")) for data in DATA_SETS),
        ]
        for name, row in found["paper"]["printed"].items()
    ]
    return [
        "The paper's Table 1: trainable parameters in millions as printed, and Dice / IoU / HD95 on its three sets:",
        markdown.table(("", "million", *DATA_SETS), rows),
    ]


def by_points(answers: Path, images: Path) -> str:
    """How well frames were answered by the localiser's points and are by points of the true masks, in a sentence.

    Args:
        answers: a file of `predict_file`, with the artifact that gave them beside it, in `artifact`.
        images: the frames' folder, in a data set that `masks` reads.
    """
    predictor = load(answers.parent / "artifact")
    records = read_records("masks", images.parent)
    own, told = [], []
    for record in records:
        truth = read_mask(record, predictor.manifest.labels)
        height, width = truth.shape
        x, y = distance_peak(truth == 1)
        looked = predictor.look(record.image)
        own.append(looked.answer())
        told.append(looked.answer(Prompts(((x * width, y * height),))))
    dice = [table_of(records, found, predictor.manifest.labels).mean_dice().mean() for found in (own, told)]
    return (
        f"Dice {dice[0]:.3f} by the localiser's points and {dice[1]:.3f} by points of the true masks, in "
        f"{len(records)} frames of patients whom no model saw"
    )
