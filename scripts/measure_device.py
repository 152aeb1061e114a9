"""How well a device table predicts the latency of artifacts that it was not made from.

python scripts/measure_device.py --table A A-INT8 B --others C C-INT8 --out docs/results/device_table.json

Table and measured times are of this machine, one thread each, the artifacts taking turns. So the error is that of the
table itself, without another processor's choice of nodes. A busy machine interrupts answers: beside the median of all
time, the thread's own CPU time is given, which is what a table predicts and its error is held against. What comes
before the first convolution is the same in all artifacts, since the made image is resized, and easy to predict. So the
error is also given as a share of the rest. Table and times are made anew in each round.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from leanmed.benchmark.benchmark import machine
from leanmed.benchmark.device import DeviceTable, executed_nodes, measure_device
from leanmed.benchmark.profile import made_image
from leanmed.files import write_json
from leanmed.runtime.predictor import load

WARM = 3  # answers of each artifact that are not kept


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, nargs="+", required=True, help="artifacts that the table is made from")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="artifacts that it has not seen")
    parser.add_argument("--repeats", type=int, default=45)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    rounds = [one_round(given.table, given.others, given.repeats, given.seconds) for _ in range(given.rounds)]
    found = {
        "command": shlex.join(["python", "scripts/measure_device.py", *sys.argv[1:]]),
        "note": given.note,
        "machine": machine(),
        "load_average_before": round(load_before, 2),
        "rounds": rounds,
    }
    write_json(given.out, found)
    for number, entry in enumerate(rounds):
        for part in ("made_from", "not_seen"):
            print(f"round {number + 1}, {part}: {entry[f'{part}_error']}")


def one_round(table_of: Sequence[Path], others: Sequence[Path], repeats: int, seconds: float) -> dict[str, Any]:
    """A table from some artifacts, and what it predicts of them and of others, beside what is measured."""
    table = measure_device(table_of, repeats=repeats, seconds=seconds)
    measured = timed([*table_of, *others], repeats)
    parts = {"made_from": table_of, "not_seen": others}
    found = {
        part: {path.name: compared(table, path, measured[path]) for path in paths} for part, paths in parts.items()
    }
    return found | {f"{part}_error": error_of(list(entries.values())) for part, entries in found.items()}


def error_of(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean and largest error, of the whole answer and as a share of what follows the resizing."""
    whole = [abs(entry["predicted_ms"] / entry["cpu_ms"] - 1) for entry in entries]
    rest = [abs(e["predicted_ms"] - e["cpu_ms"]) / (e["cpu_ms"] - e["before_network_ms"]) for e in entries]
    return {
        "mean": round(statistics.fmean(whole), 3),
        "largest": round(max(whole), 3),
        "mean_of_network": round(statistics.fmean(rest), 3),
        "largest_of_network": round(max(rest), 3),
    }


def timed(artifacts: Sequence[Path], repeats: int) -> dict[Path, dict[str, float]]:
    """Medians of the milliseconds of one answer, of all time and of the thread's own, taking turns."""
    answer = {path: load(path) for path in artifacts}
    images = {path: made_image(predictor.manifest.input) for path, predictor in answer.items()}
    times: dict[Path, list[tuple[float, float]]] = {path: [] for path in artifacts}
    for number in range(WARM + repeats):
        for path, predictor in answer.items():
            wall, own = time.perf_counter(), time.thread_time()
            predictor.outputs(images[path])
            if number >= WARM:
                times[path].append((time.perf_counter() - wall, time.thread_time() - own))
    return {
        path: {
            name: round(1e3 * statistics.median(values), 3)
            for name, values in zip(("wall_ms", "cpu_ms"), zip(*pairs, strict=True), strict=True)
        }
        for path, pairs in times.items()
    }


def compared(table: DeviceTable, path: Path, measured: dict[str, float]) -> dict[str, Any]:
    """What the table predicts of an artifact, beside what was measured."""
    nodes = executed_nodes(load(path))
    estimate = table.estimate_nodes(nodes)
    before = takewhile(lambda node: "Conv" not in node.of.operator, nodes)
    return {
        "predicted_ms": round(estimate.milliseconds, 3),
        **measured,
        "before_network_ms": round(table.estimate_nodes(before).milliseconds, 3),
        "predicted_over_wall": round(estimate.milliseconds / measured["wall_ms"], 3),
        "predicted_over_cpu": round(estimate.milliseconds / measured["cpu_ms"], 3),
        "guessed": {str(of): round(estimate.by_class[of], 3) for of in estimate.guessed},
    }


if __name__ == "__main__":
    main()
