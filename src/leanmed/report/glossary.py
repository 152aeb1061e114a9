"""How a figure is called and what it means; the kinds of task say it of theirs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """How a figure is called, what it means, and what images it cannot do without."""

    title: str
    meaning: str
    needs: str = ""
    lower_is_better: bool = False


@dataclass(frozen=True)
class Words:
    """What the report's page calls things."""

    things: str
    positives: str
    dash: str
    mistakes: str
    threshold: str
    fitted: str = "Threshold and temperature"  # what `threshold` explains
