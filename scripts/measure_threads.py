"""Time a short training beside a busy process, with waiting threads that sleep and with threads that spin.

python scripts/measure_threads.py --out docs/results/threads.json --note "What else the machine did."

Both arms train the recipe demo for two epochs on one fold of made photographs, each time in a process of its own, in
turn. `sleeping` is leanmed as it is. In `spinning`, torch is imported before leanmed, too early for what leanmed sets,
so that its threads wait as its OpenMP library has it by default. Seconds are those of the whole process, imports too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.phantoms.eyelids import PHANTOMS

IMAGES = 160
VARIABLES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
ARMS = {
    "sleeping": "from leanmed.cli import main; main()",
    "spinning": "import torch; from leanmed.cli import main; main()",
}
SETTINGS = ("training.epochs=2", "split.protocol=holdout", "split.groups=reader")
BUSY = "while True: pass"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    seconds: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder, busy_process():
        data = PHANTOMS["eyelids"](Path(folder) / "data", count=IMAGES, seed=0)
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        for number in range(given.rounds):
            for arm, code in ARMS.items():
                out = Path(folder) / f"{arm}-{number}"
                command = ["train", "demo", "--data", str(data), "--out", str(out), "--accelerator", "cpu", *options]
                seconds[arm].append(timed([sys.executable, "-c", code, *command]))
                print(f"round {number + 1}, {arm}: wall and CPU seconds {seconds[arm][-1]}", flush=True)
    medians = {
        arm: {"wall_s": statistics.median(wall for wall, _ in runs), "cpu_s": statistics.median(cpu for _, cpu in runs)}
        for arm, runs in seconds.items()
    }
    found = {
        "command": shlex.join(["python", "scripts/measure_threads.py", *sys.argv[1:]]),
        "note": given.note,
        "trained": f"recipe demo on {IMAGES} made photographs, {', '.join(SETTINGS)}, beside one busy process",
        "load_average_before": round(load, 2),
        "medians": medians,
        "spinning_over_sleeping": {
            name: round(medians["spinning"][name] / medians["sleeping"][name], 2) for name in ("wall_s", "cpu_s")
        },
        "wall_and_cpu_s_of_each_round": seconds,
        "machine": machine(),
    }
    write_json(given.out, found)
    print(found)


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process in which nobody has set how threads behave."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"expected the training to end well, got exit status {process.returncode}")
    return round(time.perf_counter() - started, 1), round(usage.ru_utime + usage.ru_stime, 1)


if __name__ == "__main__":
    main()
