"""Kill a run with SIGKILL in a chosen fold, resume it, and compare it with an unbroken one.

python scripts/kill_and_resume.py --data cp-anemic --out docs/results/resume.json -- RECIPE [--set ...]
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leanmed.benchmark.benchmark import machine
from leanmed.files import sha256_file, write_json
from leanmed.runs import MODEL, PREDICTIONS
from leanmed.tasks.recipes import open_run


def main() -> None:
    """Train twice, once with a kill, and write what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=3)
    parser.add_argument("train", nargs=argparse.REMAINDER, help="-- RECIPE [--set ...]")
    given = parser.parse_args()
    arguments = [a for a in given.train if a != "--"]
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        subprocess.run(command(arguments, given.data, whole), check=True)
        killed_at = kill_in_fold(command(arguments, given.data, broken), broken, given.fold)
        subprocess.run([*command(arguments, given.data, broken), "--resume"], check=True)
        found = {
            "command": "python scripts/kill_and_resume.py " + " ".join(sys.argv[1:]),
            "killed_in_fold": given.fold,
            "killed_after": killed_at,
            "folds": [compare(whole, broken, fold) for fold in range(open_run(whole).facts["folds"])],
            "machine": machine(),
        }
    write_json(given.out, found)
    print(json.dumps(found["folds"], indent=1))


def command(arguments: list[str], data: Path, out: Path) -> list[str]:
    """One training run in a process of its own."""
    return [sys.executable, "-m", "leanmed", "train", *arguments, "--data", str(data), "--out", str(out)]


def kill_in_fold(start: list[str], run: Path, fold: int) -> str:
    """Start a run, and kill it once the fold has a checkpoint and is in its next epoch."""
    process = subprocess.Popen(start)
    checkpoint = run / f"fold-{fold}" / "last.ckpt"
    while not checkpoint.is_file():
        if process.poll() is not None:
            raise SystemExit(f"the run ended before fold {fold} could be killed; give it more epochs")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = [number for number in range(fold + 1) if open_run(run).done(number)]
    return f"folds {done} finished, fold {fold} after its first checkpoint; exit status {process.returncode}"


def compare(whole: Path, broken: Path, fold: int) -> dict[str, object]:
    """Whether weights, predictions and validation figures of a fold are the same, byte for byte."""
    folders = [open_run(path).folder(fold) for path in (whole, broken)]
    facts = [open_run(path).fold(fold).facts for path in (whole, broken)]
    same = {name: sha256_file(folders[0] / name) == sha256_file(folders[1] / name) for name in (MODEL, PREDICTIONS)}
    return {
        "fold": fold,
        "weights_equal": same[MODEL],
        "predictions_equal": same[PREDICTIONS],
        "validation_equal": facts[0]["validation"] == facts[1]["validation"],
        "validation_auc": facts[0]["validation"]["auc"],
    }


if __name__ == "__main__":
    main()
