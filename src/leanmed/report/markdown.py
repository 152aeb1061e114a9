"""Tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Rows below a head; a bar in a cell is escaped."""
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: float | None, digits: int = 4) -> str:
    """A number, or a dash for what is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(figure: Mapping[str, float | int | None], digits: int = 4) -> str:
    """`0.81 (0.77 to 0.85)` of a figure with value, low and high; without the bracket where they are undefined."""
    value, low, high = (cell(figure.get(key), digits) for key in ("value", "low", "high"))
    return value if "–" in (value, low, high) else f"{value} ({low} to {high})"


def bullets(lines: Iterable[str]) -> str:
    """One line each."""
    return "\n".join(f"- {line}" for line in lines)
