"""Masks of several runs that tested the same cases, each case with the mean over seeds of its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.evaluation.answered import Answered
from leanmed.evaluation.runs import run_answers
from leanmed.files import defined
from leanmed.records import Record
from leanmed.runs import Run
from leanmed.tasks.segmentation.figures import Segmented, paired, score

ALL = "all sites"
SCORES = ("dice", "iou", "hd95", "asd", "cl_dice")
MEANS = ("dice", "iou", "hd95", "asd", "cl_dice", "tp", "fp", "fn", "histograms")  # columns, averaged over seeds


def _own_answers(run: Run, records: Sequence[Record]) -> Answered:
    return run_answers(run, records, run.folds())


@dataclass(frozen=True, eq=False)
class Judged:
    """The cases that all seeds of an arm tested.

    Args:
        table: of n cases, each with the mean over seeds of its figures.
        sites: (n,) where each comes from; empty if not known.
    """

    table: Segmented
    sites: NDArray[np.str_]

    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """Which cases are of each site, and of all."""
        names = [str(site) for site in np.unique(self.sites) if site]
        return {site: self.sites == site for site in names} | {ALL: np.ones(len(self.sites), bool)}

    def by_site(self) -> dict[str, dict[str, Any]]:
        """Figures of each site and of all, with intervals over patients."""
        return {site: _chosen(score(self.table.subset(which))) for site, which in self.parts().items()}

    def minus(self, other: Judged) -> dict[str, dict[str, Any]]:
        """How much these figures exceed those of another arm on the same cases."""
        parts = self.parts().items()
        return {site: _chosen(paired(other.table.subset(which), self.table.subset(which))) for site, which in parts}


def judged_runs(
    runs: Sequence[Run], records: Sequence[Record], answers: Callable[[Run, Sequence[Record]], Answered] = _own_answers
) -> Judged:
    """The runs of one arm, one for each seed, as one table of those cases that each of them tested.

    Args:
        runs: of masks.
        records: of their data set.
        answers: what a run answered for the images that it tested.

    Raises:
        DataError: no case is tested by all of them.
    """
    tables: list[dict[str, Any]] = []
    of_case: dict[str, Record] = {}
    for run in runs:
        answered = answers(run, records)
        table = cast(Segmented, answered.table())
        first = [answered.records[i] for i in table.first]
        of_case |= {record.id: record for record in first}
        tables.append({record.id: (table, k) for k, record in enumerate(first)})
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if not common:
        raise DataError(
            "expected some cases that are tested with every seed, got none; take split.protocol grouped or site, or "
            "one seed"
        )
    found = []
    for cases in tables:
        table = cases[common[0]][0]
        found.append(table.subset(np.array([cases[name][1] for name in common])))
    return Judged(mean_over_seeds(found), np.array([of_case[name].site or "" for name in common]))


def mean_over_seeds(tables: Sequence[Segmented]) -> Segmented:
    """Tables of the same cases as one: figures and counts of pixels are averaged, so that tables of other numbers of
    seeds can be compared.

    A case without a distance in one of them has none.
    """
    first = tables[0]
    columns = {name: [getattr(table, name) for table in tables] for name in MEANS}
    known = {name: np.stack(values) for name, values in columns.items() if all(v is not None for v in values)}
    return replace(first, **{name: values.mean(axis=0) for name, values in known.items()})


def _chosen(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: defined(figures[name]) for name in SCORES if name in figures}
