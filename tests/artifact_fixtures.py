"""The manifest of a tiny artifact, which test files and fixtures share."""

from __future__ import annotations

from typing import Any

from leanmed import __version__
from leanmed.exporting.card import Basis
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.report.report import Report

LABELS = ("non-anemic", "anemic")


def manifest(**changes: Any) -> Manifest:
    """The manifest of the tiny artifact, with changes."""
    origin = Provenance(leanmed=__version__, data_sha256="0" * 64, seed=0, protocol="grouped", fold=0)
    content: dict[str, Any] = {
        "name": "mean-red",
        "task": "classification",
        "labels": LABELS,
        "input": Input(side=32),
        "threshold": 0.5,
        "temperature": 1.0,
        "main_score": "auc",
        "graphs": {},
        "provenance": origin,
    }
    return Manifest(**(content | changes))


def basis_of(report: Report) -> Basis:
    """What a card tells of the run that a report is of."""
    return Basis(
        images=report.table.group.size,
        groups=report.table.groups,
        protocol=report.protocol,
        notes=report.notes,
        figures=report.figures,
        terms=report.terms,
        subgroups=report.subgroups,
        made="This artifact is the model of fold 0.",
    )
