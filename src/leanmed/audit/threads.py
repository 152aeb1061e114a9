"""How many threads the products of matrices take.

OpenBLAS, which numpy brings, starts a thread for each core of the machine in every process and wakes them all even for
a product of two small matrices, where they mostly wait for each other, spinning. An audit has a process for each core
already: with these threads beside them, its comparisons took three times as long, and more with more cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Let products of matrices take so many threads, in this whole process, and then as many as before."""
    with threadpool_limits(count, user_api="blas"):
        yield


def single_threaded() -> None:
    """Let every library of this process, which is one of several that share the work, take one thread from now on."""
    threadpool_limits(1)
