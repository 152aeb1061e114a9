from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from threadpoolctl import threadpool_info

from leanmed.audit.reading import batches, processes, run, worker

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


def test_each_of_several_processes_takes_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the matrix products of each process start a thread per core of the machine, and wait for each other."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    with processes(2, tmp_path) as pool:
        assert pool is not None
        libraries = pool.submit(threadpool_info).result()
    assert libraries
    assert {library["num_threads"] for library in libraries} == {1}


def test_a_process_that_works_alone_has_its_threads_back_afterwards(tmp_path: Path):
    before = threadpool_info()
    with processes(1, tmp_path):
        assert {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"} == {1}
    assert threadpool_info() == before
