"""`leanmed reproduce anemia --quantization`: the paper's Tables 5 to 8 beside ours, over the held-out folds.

```
OUT/runs/ARM-SEED                                the runs of `leanmed reproduce anemia`, trained if they are not there
OUT/quantized/ARM-SEED/fold-0/fp32/              the fold's artifact
OUT/quantized/ARM-SEED/fold-0/int8.json          what compressing it gave, and its answers to the fold's test part
OUT/quantization.json, OUT/quantization.md       the tables
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from leanmed.benchmark.benchmark import machine
from leanmed.compress.bench import Options
from leanmed.compress.command import RecordImages, quantize_parts
from leanmed.compress.gate import Answer, answers, table_of
from leanmed.compress.parts import Parts, sample_records
from leanmed.errors import DataError
from leanmed.evaluation.runs import records_of
from leanmed.exporting.export import export
from leanmed.files import defined, write_json, write_text
from leanmed.papers.checkpoints import paper_bytes
from leanmed.papers.printed import ANEMIA
from leanmed.papers.published import PAPER
from leanmed.papers.reproduce import REPRODUCTION, recipe_of
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.report.markdown import cell, interval, table
from leanmed.report.pages import NOTICE
from leanmed.runs import FOLD, RUN, SPLITS, Run, read_csv
from leanmed.runtime.artifact import MANIFEST, Artifact, read_artifact
from leanmed.tasks.classification.figures import Scored, paired, point, score
from leanmed.tasks.classification.judge import CALIBRATION
from leanmed.tasks.recipes import open_run
from leanmed.training.train import train

ARMS = ("audited", "paper")
COLUMNS = ("loss", "accuracy", "precision", "recall", "f1", "auc")
TARGETS = ("fp16", "int8", "int4")  # of the paper
LAYER_HEAD = ("layer", "INT8", "INT4", "least input", "greatest")
WHY_FILES_GREW = (
    "Why the paper's INT8 and INT4 files grew: nothing in them is packed. Their sizes are those of saved PyTorch "
    "checkpoints of *fake-quantized* models, in which every weight is still a float and the quantizers' ranges come on "
    "top: in INT8 one for each output channel, in INT4 one for each block of 128 weights along a kernel's last axis, "
    "which is its width, 1 or 3, so that nearly every weight has a 4-byte range of its own. The formula stands in "
    "`leanmed/compress/checkpoints.py`; for MobileNetV2 with one output it gives:"
)
Fold = dict[str, dict[str, Any]]  # precision -> what its file holds


def reproduce_quantization(
    name: str,
    data: Path,
    out: Path,
    options: Options,
    *,
    settings: Sequence[str] = (),
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    command: str = "",
    tell: Callable[[str], None] = print,
) -> str:
    """Quantize every fold's model of every run, and write `quantization.json` and `quantization.md`.

    What is there already, runs or folds, is not made again.

    Args:
        name: the paper: anemia.
        data: the data set's folder.
        out: see above.
        options: of every quantization.
        settings: `--set` values, KEY=VALUE or ARM:KEY=VALUE, for runs that are not there yet.
        arms: which protocols; empty: those of `ARMS`.
        seeds: of splits and training both.
        command: what the user typed, for the record.
        tell: takes one line of progress at a time.

    Returns:
        The tables as text.

    Raises:
        OutputError: `out` holds something else than a reproduction.
        DataError: another paper, or no such arm.
    """
    _check(name, arms)
    REPRODUCTION.check(out, overwrite=True)
    found = {}
    for arm in arms or ARMS:
        for seed in seeds:
            title, place = ANEMIA.arms[arm].title, f"{arm}-{seed}"
            run = _finished(recipe_of(ANEMIA, arm, seed, settings), data, out / "runs" / place, tell)
            about = {"title": title, "leak": run.facts["leak"], "recipe": run.recipe.model_dump(mode="json")}
            found[place] = about | _quantize_run(run, data, out / "quantized" / place, options, tell)
    printed = {"citation": ANEMIA.citation, "printed": PAPER}
    printed |= {"megabytes_recomputed": {name: size / 1e6 for name, size in paper_bytes().items()}}
    about = {"command": command, "machine": machine(), "paper": printed, "options": asdict(options)}
    write_json(out / "quantization.json", about | {"runs": found})
    text = as_text(printed, found)
    write_text(out / "quantization.md", text)
    return text


def _check(name: str, arms: Sequence[str]) -> None:
    strange = [arm for arm in arms if arm not in ANEMIA.arms]
    if name != "anemia" or strange:
        raise DataError(
            f"expected --quantization with anemia and protocols among {', '.join(ANEMIA.arms)}, got {name} "
            f"{','.join(arms)}; its paper is the only one here that quantizes"
        )


def _finished(recipe: Recipe, data: Path, folder: Path, tell: Callable[[str], None]) -> Run:
    """The run, as it was trained, or trained now."""
    if (folder / RUN).is_file():
        run = open_run(folder)
        if all(run.done(fold) for fold in range(run.facts["folds"])):
            return run
    return train(recipe, data, folder, resume=folder.exists(), tell=tell)


def _quantize_run(run: Run, data: Path, out: Path, options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """All folds of a run: figures over all of them, and what each compression did."""
    records = records_of(run, data)
    folds: list[Fold] = []
    tables: dict[str, list[Scored]] = {name: [] for name in ("fp32", *TARGETS)}
    for number in range(run.facts["folds"]):
        tell(f"{run.path.name}, fold {number}")
        folder, parts = out / f"fold-{number}", fold_parts(run, records, number)
        artifact = _exported(run, data, folder / "fp32", number)
        fold: Fold = {to: _quantized(artifact, to, parts, folder / f"{to}.json", options, tell) for to in TARGETS}
        given = {"fp32": fold[TARGETS[0]]["float_answers"]} | {to: fold[to]["answers"] for to in TARGETS}
        for name, rows in given.items():
            tables[name].append(table_of(parts.test, [[np.array(row)] for row in rows], artifact.manifest))
        folds.append(fold)
    return _summary(folds, tables)


def _summary(folds: Sequence[Fold], tables: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    pooled = {name: _pool(parts) for name, parts in tables.items()}
    return {
        "images": pooled["fp32"].truth.size,
        "groups": pooled["fp32"].groups,
        "precisions": {
            name: {
                "mean": defined({column: fmean(point(part)[column] for part in tables[name]) for column in COLUMNS}),
                "pooled": defined(score(pooled[name])),
                "change": defined(paired(pooled["fp32"], pooled[name])),
                **(_float_cost(folds) if name == "fp32" else _cost(name, folds)),
            }
            for name in tables
        },
        "layers_of_fold_0": {to: folds[0][to]["outcome"]["layers"] for to in TARGETS},
    }


def _float_cost(folds: Sequence[Fold]) -> dict[str, Any]:
    outcomes = [fold[TARGETS[0]]["outcome"] for fold in folds]
    times = [outcome["attempts"][-1]["milliseconds"]["float network"] for outcome in outcomes]
    return {"megabytes": fmean(o["before_bytes"] for o in outcomes) / 1e6, "milliseconds": fmean(times)}


def _cost(name: str, folds: Sequence[Fold]) -> dict[str, Any]:
    """Means over folds of size and time, and how each fold was compressed."""
    outcomes = [fold[name]["outcome"] for fold in folds]
    kept = [outcome["attempts"][outcome["final"]] for outcome in outcomes]
    times = [attempt["milliseconds"] for attempt in kept]
    return {
        "megabytes": fmean(a["bytes"] for a in kept) / 1e6,
        "size": fmean(a["bytes"] / o["before_bytes"] for a, o in zip(kept, outcomes, strict=True)),
        "milliseconds": fmean(t["compressed network"] for t in times),
        "speed": fmean(t["float network"] / t["compressed network"] for t in times),
        "speed_of_whole_graph": fmean(t["float"] / t["compressed"] for t in times),
        "passed": [outcome["passed"] for outcome in outcomes],
        "techniques": [attempt["techniques"] for attempt in kept],
        "noise": [attempt["noise"] for attempt in kept],
    }


def fold_parts(run: Run, records: Sequence[Record], fold: int) -> Parts:
    """The images of one fold: the training part calibrates, the validation part chooses, the test part measures."""
    rows, known = read_csv(run.path / SPLITS), {record.id: record for record in records}
    training, validation, test = (
        [replace(known[row["image"]], group=row["group"]) for row in rows if row[f"fold_{fold}"] == part]
        for part in ("train", "validation", "test")
    )
    return Parts(sample_records(training, CALIBRATION), validation, test)


def _exported(run: Run, data: Path, folder: Path, fold: int) -> Artifact:
    made, trained = folder / MANIFEST, run.folder(fold) / FOLD
    if made.is_file() and made.stat().st_mtime > trained.stat().st_mtime:
        return read_artifact(folder)
    return export(run, folder, fold=fold, data=data, overwrite=True)


def _quantized(
    artifact: Artifact, to: str, parts: Parts, file: Path, options: Options, tell: Callable[[str], None]
) -> dict[str, Any]:
    """One compression, from its file if that holds the same artifact's with the same options."""
    made_of = {"artifact": artifact.sha256, "options": json.loads(json.dumps(asdict(options)))}
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found.get("made_of") == made_of:
            return found
    quantized = quantize_parts(artifact, to, parts, options, tell=tell)
    images = RecordImages(parts.test, artifact.manifest.input.side if artifact.manifest.input.reduced else None)
    before, after = (answers(artifact, images, graphs) for graphs in (artifact.graphs, quantized.graphs))
    found = {
        "made_of": made_of,
        "outcome": quantized.outcome.as_json(),
        "float_answers": _plain(before),
        "answers": _plain(after),
    }
    write_json(file, found)
    return found


def _plain(found: Sequence[Answer]) -> list[list[float]]:
    return [answer[0].astype(float).tolist() for answer in found]


def _pool(tables: Sequence[Scored]) -> Scored:
    """The test parts of all folds as one table."""
    return Scored(
        truth=np.concatenate([t.truth for t in tables]),
        probabilities=np.concatenate([t.probabilities for t in tables]),
        predicted=np.concatenate([t.predicted for t in tables]),
        group=np.concatenate([t.group for t in tables]),
        labels=tables[0].labels,
    )


def as_text(paper: Mapping[str, Any], runs: Mapping[str, Any]) -> str:
    """The tables as Markdown; what leaks says so in the first lines."""
    leaks = dict.fromkeys(f"{name}: {run['leak']}" for name, run in runs.items() if run["leak"])
    sections = [
        "\n".join([*leaks, NOTICE]),
        "Tables 5, 6 and 8: means over folds; ms of the network alone, on one thread.",
        table(("", *COLUMNS, "MB", "ms"), [*_printed(paper["printed"]), *_ours(runs)]),
        "What compression changed, over the test parts of all folds, with paired 95 % intervals over groups; size and "
        "speed against FP32 in the same runtime:",
        table(("", "accuracy", "auc", "agreement", "size", "speed", "folds passed"), _changes(runs)),
        "Table 7, in fold 0: bits of the weights, and the range in which a layer's input is rounded.",
        *(f"{name}:\n\n{table(LAYER_HEAD, _layers(run['layers_of_fold_0']))}" for name, run in runs.items()),
        WHY_FILES_GREW,
        table(("", "printed, MB", "recomputed, MB"), _sizes(paper)),
    ]
    return "\n\n".join(sections) + "\n"


def _printed(rows: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    return [
        [
            f"printed: {name.upper()}",
            *(cell(row[c]) for c in COLUMNS),
            cell(row["megabytes"], 2),
            cell(row["milliseconds"], 1),
        ]
        for name, row in rows.items()
    ]


def _ours(runs: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{run}: {name.upper()}",
            *(cell(row["mean"][c]) for c in COLUMNS),
            cell(row["megabytes"], 2),
            cell(row["milliseconds"], 2),
        ]
        for run, found in runs.items()
        for name, row in found["precisions"].items()
    ]


def _changes(runs: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{run}: {name.upper()}",
            *(interval(row["change"][c]) for c in ("accuracy", "auc", "agreement")),
            f"{cell(row['size'], 3)}×",
            f"{cell(row['speed'], 2)}×",
            f"{sum(row['passed'])} of {len(row['passed'])}",
        ]
        for run, found in runs.items()
        for name, row in found["precisions"].items()
        if name != "fp32"
    ]


def _layers(layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    return [
        [eight["name"], eight["weight_bits"], four["weight_bits"], cell(eight["low"], 2), cell(eight["high"], 2)]
        for eight, four in zip(layers["int8"], layers["int4"], strict=True)
    ]


def _sizes(paper: Mapping[str, Any]) -> list[list[str]]:
    printed, recomputed = paper["printed"], paper["megabytes_recomputed"]
    return [[name.upper(), cell(printed[name]["megabytes"], 2), cell(recomputed[name], 2)] for name in printed]
