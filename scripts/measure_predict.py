"""Predict many images and watch the memory of the process.

python scripts/measure_predict.py ARTIFACT IMAGES --count 10000 --out docs/results/predict_memory.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import psutil

from leanmed.benchmark.benchmark import machine
from leanmed.cores import available_cores
from leanmed.files import write_json
from leanmed.reading.images import find_inputs
from leanmed.runtime.batch import predict_file
from leanmed.runtime.predictor import load


def main() -> None:
    """Predict and write the resident memory after every thousand images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    files = list(islice(cycle(find_inputs([given.images])), given.count))
    process, memory = psutil.Process(), {}

    def watch(done: int) -> None:
        if done % 1000 == 0:
            memory[done] = round(process.memory_info().rss / 2**20, 1)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = predict_file(
            load(given.artifact),
            files,
            Path(folder) / "answers.jsonl",
            workers=available_cores(),
            progress=watch,
        )
    seconds = time.perf_counter() - started
    found = {
        "command": "python scripts/measure_predict.py " + " ".join(sys.argv[1:]),
        "answered": outcome.answered,
        "failed": len(outcome.failed),
        "images_per_s": round(given.count / seconds, 1),
        "resident_mib_after": memory,
        "machine": machine(),
    }
    write_json(given.out, found)
    print(found)


if __name__ == "__main__":
    main()
