"""Cores that a process may use, from affinity and from control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from leanmed import cores
from leanmed.cores import available_cores, available_processes, set_thread_defaults

VARIABLES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 64 cores on which this process may use `pinned`, and is in control groups with quotas."""

    def make(membership: str = "", files: Mapping[str, str] | None = None, pinned: int = 64) -> None:
        for name, content in (files or {}).items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        (tmp_path / "membership").write_text(membership)
        monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "membership")
        monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(pinned)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 64)

    return make


def test_without_a_limit_all_cores_are_available(machine):
    machine()
    assert available_cores() == 64
    machine("0::/\n", {"cpu.max": "max 100000"})
    assert available_cores() == 64


def test_affinity_limits_the_cores(machine):
    machine(pinned=3)
    assert available_cores() == 3


def test_where_affinity_is_unknown_the_machines_cores_count(machine, monkeypatch):
    machine()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 64


def test_a_script_that_may_not_bear_it_is_not_imported_again_by_further_processes(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 4)
    for program, wanted in (
        (SimpleNamespace(__file__="/home/me/study.py", __spec__=None), 1),
        (SimpleNamespace(__file__="/usr/bin/leanmed", __spec__=None), 4),
        (SimpleNamespace(__file__="/somewhere/pytest/__main__.py", __spec__=object()), 4),
        (SimpleNamespace(__spec__=None), 4),  # a notebook
    ):
        monkeypatch.setitem(sys.modules, "__main__", program)
        assert available_processes() == wanted


def test_a_missing_list_of_control_groups_limits_nothing(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "none")
    assert available_cores() == 64


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("100000 50000", 2)],
    ids=["two", "one and a half", "half", "a shorter period"],
)
def test_a_quota_of_version_2_is_rounded_up(machine, limit, wanted):
    machine("0::/job\n", {"job/cpu.max": limit})
    assert available_cores() == wanted


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1(machine, controllers):
    files = {f"{controllers}/job/cpu.cfs_quota_us": "400000", f"{controllers}/job/cpu.cfs_period_us": "100000"}
    machine(f"9:memory:/job\n4:{controllers}:/job\n0::/\n", files)
    assert available_cores() == 4


def test_minus_one_is_no_quota_in_version_1(machine):
    machine("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"})
    assert available_cores() == 64


def test_the_least_quota_of_a_group_and_its_parents_holds(machine):
    groups = {"cpu.max": "max 100000", "slurm/cpu.max": "300000 100000", "slurm/job/cpu.max": "800000 100000"}
    machine("0::/slurm/job/step\n", groups)
    assert available_cores() == 3
    machine("0::/slurm/job/step\n", groups, pinned=2)
    assert available_cores() == 2


def test_a_container_that_sees_the_hosts_path_finds_its_quota_at_the_root(machine):
    machine("0::/docker/0123456789ab\n", {"cpu.max": "100000 100000"})
    assert available_cores() == 1


def test_a_quota_beside_version_1_is_found(machine):
    machine("1:name=systemd:/\n0::/\n", {"unified/cpu.max": "500000 100000"})
    assert available_cores() == 5


def test_a_quota_of_another_resource_is_none_of_the_cores(machine):
    machine("4:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"})
    assert available_cores() == 64


def settings(machine, monkeypatch, before: Mapping[str, str], **limits: object) -> dict[str, str]:
    machine(**limits)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards, even if it was not set
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    set_thread_defaults()
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_waiting_threads_sleep(machine, monkeypatch):
    assert settings(machine, monkeypatch, {}) == {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def test_fewer_cores_are_fewer_threads(machine, monkeypatch):
    assert settings(machine, monkeypatch, {}, pinned=2)["OMP_NUM_THREADS"] == "2"


def test_what_the_user_set_stays(machine, monkeypatch):
    chosen = {"OMP_WAIT_POLICY": "ACTIVE", "KMP_BLOCKTIME": "200", "OMP_NUM_THREADS": "7"}
    assert settings(machine, monkeypatch, chosen, pinned=2) == chosen


def test_the_defaults_are_set_before_torch_can_be_imported():
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code = "import sys, os, leanmed; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "False PASSIVE\n"


def test_no_module_counts_the_machines_cores_by_itself():
    folder = Path(cores.__file__).parent
    found = [path.name for path in folder.rglob("*.py") if "cpu_count" in path.read_text("utf-8")]
    assert found == ["cores.py"]
