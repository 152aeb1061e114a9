"""Several processes that train one model: which of them comes first, and how the others wait for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from leanmed.errors import RunError

PATIENCE = timedelta(days=2)  # an audit of a million images takes hours


def is_first() -> bool:
    """Whether this process is the one that writes; torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def first_alone(work: str = "start") -> Iterator[bool]:
    """Run a block in the first process while the others wait until it is through; it is told whether it is first.

    Args:
        work: what is done, for the others to wait for.

    Raises:
        RunError: in the others, the first one has failed.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield True
        return
    from torch.distributed.rendezvous import rendezvous

    rank = int(os.environ["RANK"])
    store, _, _ = next(rendezvous("env://", rank, world))
    key = f"leanmed/{work}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if rank:
        store.wait([key], PATIENCE)
        if said := store.get(key).decode():
            raise RunError(f"the first process has failed, and this one stops with it: {said}")
        yield False
        return
    try:
        yield True
    except BaseException as error:
        store.set(key, str(error) or type(error).__name__)
        raise
    store.set(key, "")
