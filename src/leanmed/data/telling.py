"""How readers tell what is wrong: the first few names, and several faults at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from leanmed.errors import DataError

SHOWN = 5
Item = TypeVar("Item")
Result = TypeVar("Result")


def some(names: Collection[str]) -> str:
    """The first five of some names, sorted, for a message."""
    listed = ", ".join(sorted(names)[:SHOWN])
    return f"{listed}, ... ({len(names)} in all)" if len(names) > SHOWN else listed or "none"


def each(items: Iterable[Item], read: Callable[[Item], Result]) -> list[Result]:
    """Read every item, so that all that is wrong is told at once.

    Raises:
        DataError: what `read` refused: one fault as it is, of several the first five and how many there are.
    """
    found, faults = [], []
    for item in items:
        try:
            found.append(read(item))
        except DataError as error:
            faults.append(str(error))
    if len(faults) > 1:
        shown = " ".join(f"({number}) {fault}." for number, fault in enumerate(faults[:SHOWN], start=1))
        first = f"the first {SHOWN}: " if len(faults) > SHOWN else ""
        raise DataError(f"{len(faults)} faults; {first}{shown}")
    if faults:
        raise DataError(faults[0])
    return found
