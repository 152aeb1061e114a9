from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from made_pictures import Pixels, texture
from threadpoolctl import threadpool_info

from leanmed import cluster
from leanmed.audit import audit, reading
from leanmed.audit.reading import Describer, batches, processes, run, worker
from leanmed.errors import RunError
from leanmed.files import sha256_file

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


@pytest.fixture
def strangers(save: Callable[[str, Pixels], tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Images of which none is a copy of another."""
    return [save(f"stranger{k}.png", texture(100 + k)) for k in range(3)]


def end_at_deadly(path: Path) -> str:
    if path.name == "deadly.png":
        os._exit(9)
    return sha256_file(path)


def plant() -> None:
    reading._content = end_at_deadly


class Deadly(Describer):
    """Describes in a process that ends as soon as it reads `deadly.png`."""

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), plant)


def test_an_image_that_ends_the_worker_s_process_is_named_and_the_rest_goes_on(strangers: list[tuple[str, Path]]):
    name, path = strangers[0]
    deadly = shutil.copy(path, path.with_name("deadly.png"))
    worker = Deadly(frozenset(), path)
    described, read, failed = worker([(name, path), ("deadly", deadly), *strangers[1:]])
    assert sorted(read) == sorted(each for each, _ in strangers)
    assert described.keys() == set(read.values())
    assert failed.keys() == {"deadly"}
    assert "the process that did so ended" in failed["deadly"]


def test_what_is_described_already_is_not_described_again(strangers: list[tuple[str, Path]]):
    name, path = strangers[0]
    worker = Describer(frozenset({sha256_file(path)}), path)
    assert worker([(name, path)]) == ({}, {name: sha256_file(path)}, {})


def test_a_folder_that_only_the_driver_sees_is_named(tmp_path: Path):
    with pytest.raises(RunError, match="expected all machines to see"):
        Describer(frozenset(), tmp_path / "gone.png")


def test_an_engine_s_workers_find_what_the_processes_find(
    strangers: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "run", lambda make, jobs, **options: map(make(), jobs))
    assert audit(strangers, engine="ray") == audit(strangers, workers=1)
