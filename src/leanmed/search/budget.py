"""What a device allows an artifact to cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from leanmed.errors import DataError

BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
UNITS = {"size": BYTES, "latency": {"ms": 1.0, "s": 1e3}, "memory": BYTES}
MEANING = {
    "size": "bytes of all the artifact's graphs",
    "latency": "milliseconds of one answer, from decoded pixels to the outputs, on one thread",
    "memory": "bytes that a process grows by, at its peak, while it loads the artifact and answers once",
}
"""Every cost, in bytes or milliseconds."""
_ENTRY = re.compile(r"\s*([a-z]+)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*")
Costs = Mapping[str, float | None]
"""Name -> bytes or milliseconds; None: not known."""


@dataclass(frozen=True)
class Budget:
    """The most that each cost may be.

    Args:
        limits: cost -> bytes or milliseconds, above 0; there is at least one.
    """

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`size=3MB,latency=20ms,memory=200MB` in any order, each at most once.

        Raises:
            DataError: it is not of this form.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            found = _ENTRY.fullmatch(part)
            name, number, unit = found.groups() if found else ("", "0", "")
            wrong = "got one of another form"
            if name in limits:
                wrong = f"got {name} twice"
            elif name in UNITS and unit not in UNITS[name]:
                wrong = f"got the unit {unit} of {name} (capitals matter)"
            elif name in UNITS and float(number) > 0:
                wrong = ""
            if wrong:
                raise DataError(
                    "expected --budget as one or more of size=3MB, latency=20ms, memory=200MB, with commas between "
                    f"them, numbers above 0 with a decimal point, and units of bytes ({', '.join(BYTES)}) or time "
                    f"(ms, s); {wrong} in {text!r}: mend {part.strip()!r}"
                )
            limits[name] = float(number) * UNITS[name][unit]
        return cls(limits)

    def over(self, costs: Costs) -> dict[str, float]:
        """Cost -> how many times its limit it is, of those beyond it. What is not known counts as beyond all limits."""
        found = {name: cost_of(costs, name) / limit for name, limit in self.limits.items()}
        return {name: times for name, times in found.items() if times > 1}

    def holds(self, costs: Costs) -> bool:
        """Whether no cost is beyond its limit."""
        return not self.over(costs)

    def __str__(self) -> str:
        return ", ".join(f"{name} {amount(name, limit)}" for name, limit in self.limits.items())


def cost_of(costs: Costs, name: str) -> float:
    """A cost; infinite if it is not known."""
    value = costs.get(name)
    return math.inf if value is None else value


def amount(name: str, value: float | None) -> str:
    """A cost in words: `1.39 MB`, `8.9 ms`."""
    if value is None:
        return "not known"
    unit, scale = ("ms", 1.0) if name == "latency" else _unit(value)
    number = value / scale
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


def _unit(count: float) -> tuple[str, float]:
    """The largest unit of bytes that a count, rounded to three digits, reaches."""
    return next(((unit, BYTES[unit]) for unit in ("MB", "kB") if count >= 0.9995 * BYTES[unit]), ("B", 1.0))
