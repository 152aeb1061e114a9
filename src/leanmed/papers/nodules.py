"""The nodule paper: its Table 3 with the right headings, its ranking of backbones put to the test, known CPMs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leanmed.compress.gate import latency
from leanmed.data import read_pixels
from leanmed.errors import DataError
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.evaluation.runs import records_of, run_answers
from leanmed.figures.bootstrap import Figure
from leanmed.files import defined
from leanmed.papers.printed import NODULES
from leanmed.records import Record
from leanmed.report import markdown
from leanmed.report.pages import NOTICE
from leanmed.report.report import Report, as_json
from leanmed.runs import Run
from leanmed.runtime.artifact import MANIFEST
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.building import load_task
from leanmed.tasks.detection.figures import Detected, paired, point
from leanmed.tasks.detection.froc import RATES
from leanmed.tasks.detection.luna16_rules import Points, match_scans, read_points
from leanmed.tasks.detection.scan_report import points

HONEST = ("ap50", "froc", "sensitivity", "precision", "recall", "f1")
TOP = ("top_precision", "top_recall", "top_f1")
COMPARED = ("ap50", "froc", "sensitivity")
ENDINGS = ("", "-fp16", "-int8", "-int4")  # endings of an arm's artifacts
KNOWN_CPM = {
    "best reported": "0.959",
    "MONAI RetinaNet (3D)": "0.936",
    "nnDetection (3D)": "0.930",
    "Faster R-CNN (2D), the fair reference for slices": "0.775 to 0.790",
}


def measure(
    run: Run, report: Report, data: Path, out: Path, tell: Callable[[str], None]
) -> tuple[Report, dict[str, Any]]:
    """The counts behind the rates, and the network's size."""
    network = load_task(run, run.folds()[0].number)
    more = {
        "counts": as_json(report)["counts"],
        "million_parameters": round(sum(p.numel() for p in network.parameters()) / 1e6, 3),
    }
    return report, more


def beside(
    runs: Mapping[str, Mapping[int, Run]], data: Path, artifacts: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Table 3 recomputed, the backbones compared on the same images, artifacts measured, and CPMs known from others."""
    first = {arm: next(iter(by_seed.values())) for arm, by_seed in runs.items()}
    records = records_of(next(iter(first.values())), data)
    tables = {arm: _boxes(run_answers(run, records, run.folds()).table()) for arm, run in first.items()}
    return {
        "table_3": table_3(NODULES.printed),
        "differences": differences(tables),
        "artifacts": measure_artifacts(artifacts, list(runs), data, records[0], tell) if artifacts else {},
        "known_cpm": KNOWN_CPM,
    }


def table_3(printed: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 from the printed counts, and the share of the nodules that must have been there.

    One test set has one number of nodules; the rows' TP + FN differ, and the largest is the least it can be.
    """
    nodules = max(row["tp"] + row["fn"] for row in printed.values())
    return {name: _recomputed(row["tp"], row["fp"], row["fn"], nodules) for name, row in printed.items()}


def _recomputed(tp: float, fp: float, fn: float, nodules: float) -> dict[str, float]:
    return {
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "boxes": tp + fp,
        "nodules": tp + fn,
        "share_of_all_nodules": tp / nodules,
    }


def differences(tables: Mapping[str, Detected]) -> dict[str, Any]:
    """Each arm minus the one with the best AP on the same images, with intervals over patients."""
    best = max(tables, key=lambda arm: point(tables[arm])["ap50"])
    changes = {arm: _chosen(paired(tables[best], table)) for arm, table in tables.items() if arm != best}
    return {"best": best, "minus_the_best": changes}


def measure_artifacts(
    folder: Path, arms: Sequence[str], data: Path, example: Record, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Size, time and figures of every artifact in a folder that is named after an arm, on images new to it.

    The time is that of the example on one thread, float and compressed graphs taking turns. `minus_the_first` holds the
    differences from the arm's first artifact, the float one, on the same images.

    Raises:
        DataError: there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        names = [name for end in ENDINGS if (folder / (name := arm + end) / MANIFEST).is_file()]
        if names:
            tell(f"measuring {', '.join(names)}")
            found |= _measured({name: load(folder / name) for name in names}, data, example)
    if not found:
        raise DataError(f"expected artifacts named {', '.join(arms)} (and -int8...) in {folder}, got none; export them")
    return found


def _measured(predictors: Mapping[str, Predictor], data: Path, example: Record) -> dict[str, dict[str, Any]]:
    graphs = {name: predictor.artifact.graph for name, predictor in predictors.items()}
    pixels = read_pixels(example)
    times = latency(graphs, {name: {"pixels": pixels} for name in graphs})
    reports = {name: evaluate_artifact(predictor, data) for name, predictor in predictors.items()}
    first = _boxes(next(iter(reports.values())).table)
    return {
        name: {
            "precision": predictors[name].manifest.precision,
            "megabytes": len(graphs[name]) / 1e6,
            "milliseconds": times[name],
            "figures": _chosen(report.figures),
            "minus_the_first": _chosen(paired(first, _boxes(report.table))),
        }
        for name, report in reports.items()
    }


def _boxes(table: Any) -> Detected:
    return cast(Detected, table)


def _chosen(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: defined(figures[name]) for name in COMPARED}


def as_text(found: Mapping[str, Any]) -> str:
    """The tables as Markdown; what leaks says so in the first line."""
    parts = [*(arm["leak"] for arm in found["arms"].values() if arm["leak"]), NOTICE, *_printed(found), *_ours(found)]
    parts += [*_ranking(found), *_by_rate(found)]
    parts += _artifacts(found["artifacts"]) if found["artifacts"] else []
    parts += [
        "CPMs known on LUNA16's whole scans, which figures per slice do not compare with:",
        markdown.table(("", "CPM"), found["known_cpm"].items()),
        "Where ours differs from the paper:",
        markdown.bullets(found["paper"]["differences"]),
    ]
    return "\n\n".join(parts) + "\n"


def _printed(found: Mapping[str, Any]) -> list[str]:
    head = ("Table 3", "TP", "FP", "FN", "printed as precision", "printed as recall", "precision", "recall", "F1")
    printed = found["paper"]["printed"]
    rows = []
    for name, right in found["table_3"].items():
        row = printed[name]
        counted = [row["tp"], row["fp"], row["fn"], *(_short(row[key]) for key in ("precision", "recall"))]
        values = (right[key] for key in ("precision", "recall", "f1", "share_of_all_nodules"))
        rows.append([name, *counted, *map(_short, values)])
    most = max(row["nodules"] for row in found["table_3"].values())
    return [
        "The paper's Table 3. By its own counts, precision and recall stand under each other's headings. TP + FP is "
        "the number of test images in every row: one box for each. TP + FN should be the number of nodules and differs "
        f"from row to row, so these recalls do not compare; the last column divides by the largest, {most}.",
        markdown.table((*head, f"found of {most}"), rows),
    ]


def _ours(found: Mapping[str, Any]) -> list[str]:
    arms = found["arms"]
    return [
        "Ours, per slice, all folds together, with 95 % intervals over patients; precision, recall and F1 are of the "
        "boxes answered at the threshold chosen on validation images:",
        markdown.table(
            ("", "AP50", "FROC", "sensitivity at 1 FP", "precision", "recall", "F1", "million parameters", "minutes"),
            _each(arms, lambda v: [*_figures(v, HONEST), v["million_parameters"], v["training_minutes"]]),
        ),
        "Ours in the paper's protocol: the best box of each slice that holds a nodule, whatever its score:",
        markdown.table(
            ("", "TP", "FP", "FN", "precision", "recall", "F1"),
            _each(arms, lambda v: [*v["counts"]["top"].values(), *_figures(v, TOP)]),
        ),
    ]


def _ranking(found: Mapping[str, Any]) -> list[str]:
    """The order that the paper's figures give the backbones, and the order that ours do."""
    printed, arms = found["paper"]["printed"], found["arms"]
    ours = {
        arm: next(iter(values["seeds"].values()))["metrics"]["ap50"]["value"] or 0.0 for arm, values in arms.items()
    }
    columns = (
        _ranks({arm: printed[arm]["sensitivity"] for arm in arms}),
        _ranks({arm: found["table_3"][arm]["f1"] for arm in arms}),
        _ranks(ours),
    )
    changes, best = found["differences"]["minus_the_best"], found["differences"]["best"]
    rows = [
        [arm, *(ranks[arm] for ranks in columns), *(_interval(changes.get(arm), name) for name in COMPARED)]
        for arm in sorted(arms, key=lambda arm: columns[-1][arm])
    ]
    head = ("rank by", "printed sensitivity", "F1 of the printed counts", "our AP50")
    return [
        f"The ranking put to the test. On the right: ours minus {best} on the same images; an interval that holds 0 "
        "leaves open which is better:",
        markdown.table((*head, "AP50", "FROC", "sensitivity at 1 FP"), rows),
    ]


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _by_rate(found: Mapping[str, Any]) -> list[str]:
    names = ["sensitivity" if rate == 1 else f"sensitivity@{rate:g}" for rate in RATES]
    return [
        "Sensitivity by false positives per slice:",
        markdown.table(("", *map(str, RATES)), _each(found["arms"], lambda v: _figures(v, names))),
    ]


def _artifacts(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [name, row["precision"], f"{row['megabytes']:.2f}", f"{row['milliseconds']:.1f}"]
        + [markdown.interval(row["figures"][score], 3) for score in COMPARED]
        + [markdown.interval(row["minus_the_first"]["ap50"])]
        for name, row in measured.items()
    ]
    head = ("", "precision", "MB", "ms", "AP50", "FROC", "sensitivity at 1 FP", "AP50 minus the float artifact's")
    return [
        "Artifacts, on the images that none of them was trained or selected on; ms: one slice on one thread:",
        markdown.table(head, rows),
    ]


def _figures(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [markdown.interval(values["metrics"][name], 3) for name in names]


def _interval(change: Mapping[str, Mapping[str, float | int | None]] | None, name: str) -> str:
    return markdown.interval(change[name], 3) if change else ""


def _short(value: float) -> str:
    return markdown.cell(value, 3)


def _each(arms: Mapping[str, Any], cells: Callable[[Mapping[str, Any]], Sequence[object]]) -> list[list[object]]:
    return [
        [f"{name}, seed {seed}", *cells(values)] for name, arm in arms.items() for seed, values in arm["seeds"].items()
    ]


def found_in_scans(answers: Path, scans: Path) -> str:
    """How many of the nodules planted in scans are among the candidates, by LUNA16's rule.

    Args:
        answers: a file of `predict_file`, of scans.
        scans: their folder, in LUNA16's layout.
    """
    lines = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    found = {Path(line["input"]).stem: line["candidates"] for line in lines}
    sure = {uid: [candidate for candidate in of if candidate["answered"]] for uid, of in found.items()}
    nodules = read_points(scans / "annotations.csv", "diameter_mm")
    (hits, marks), (sure_hits, sure_marks) = (_hits(candidates, nodules) for candidates in (found, sure))
    return (
        f"{hits} of {len(nodules.scan)} planted nodules are among the {marks} candidates in the scans, "
        f"{sure_hits} among the {sure_marks} that reach the threshold"
    )


def _hits(found: Mapping[str, list[Any]], nodules: Points) -> tuple[int, int]:
    """How many nodules the candidates of the scans hit, and how many candidates there are."""
    candidates = points({uid: [(*c["world_mm_xyz"], c["score"]) for c in of] for uid, of in found.items()})
    return int(match_scans(list(found), candidates, nodules).hit.sum()), len(candidates.scan)
