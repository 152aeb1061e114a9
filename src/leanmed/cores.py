"""How many cores this process may use, and how the threads of other libraries behave on them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")  # of Linux: which control groups this process is in
CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """The cores that this process may use: those of the machine, less what affinity and CPU quotas take away.

    A batch system or `taskset` pins a process to some cores; a container's limit, such as `docker run --cpus 2`, is a
    quota of its control group or of one of that group's parents (version 1 or 2). A quota of 1.5 cores keeps 2 busy.
    """
    quotas = [math.ceil(quota) for quota in _quotas()]
    return max(1, min([_pinned_cores(), *quotas]))


def available_processes() -> int:
    """How many processes may work beside each other: one for each core, or one alone where starting more would fail.

    A process that is started anew imports the program's main module again. The command line, `python -m` and a notebook
    bear that, and so does a script whose work stands below `if __name__ == "__main__":`; of a script it is not known.
    """
    program = sys.modules["__main__"]
    script = Path(getattr(program, "__file__", None) or "")
    again = getattr(program, "__spec__", None) is not None or script.stem in ("", "leanmed")
    return available_cores() if again else 1


def set_thread_defaults() -> None:
    """Let torch's waiting threads sleep, and start no more of them than there are cores; what the user set stays.

    Threads that wait for work spin by default, so that on a busy machine they take the cores that the others wait for.
    The OpenMP libraries read these variables of the environment when they are loaded, which is when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    cores = available_cores()
    if cores < (os.cpu_count() or 1):  # torch knows of affinity, but of no quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _pinned_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """In cores, the quota of each control group that this process is in, itself or by its parents."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path).parts[1:]
        for root in _mounts(controllers):
            for depth in range(len(parts) + 1):
                yield from _quota(root.joinpath(*parts[:depth]))


def _mounts(controllers: str) -> tuple[Path, ...]:
    """Where the tree of control groups is mounted that a line of `MEMBERSHIP` speaks of."""
    if not controllers:  # version 2, which may stand beside version 1
        return CGROUPS, CGROUPS / "unified"
    if "cpu" in controllers.split(","):
        return (CGROUPS / controllers,)
    return ()


def _quota(group: Path) -> Iterator[float]:
    """The quota of one control group, if it has one: `cpu.max` holds both numbers, version 1 has a file for each."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
