from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from leanmed.audit.reading import batches, run, worker

KILLED = """
import os, sys
from pathlib import Path
from leanmed.audit.reading import processes

if __name__ == "__main__":
    with processes(2, Path(sys.argv[1])) as pool:
        print(*(pool.submit(os.getpid).result() for _ in range(8)), flush=True)
        os.kill(os.getpid(), 9)
"""


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == -9
    workers = [psutil.Process(p) for p in {int(p) for p in done.stdout.split()} if psutil.pid_exists(p)]
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_results_come_in_the_order_of_the_jobs():
    assert list(run(None, lambda part: sum(part), batches(range(130)))) == [2016, 6112, 257]


def test_nothing_is_a_worker_before_it_was_started():
    with pytest.raises(RuntimeError, match="no worker"):
        worker()
