"""An artifact on whole scans, judged by LUNA16's rules: its CPM, and its candidates as LUNA16 wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from leanmed.console import echo_figures, progress_bar
from leanmed.data import content_hash
from leanmed.data.luna16 import Finding, read_scans
from leanmed.errors import ArtifactError, DataError, InputError
from leanmed.files import write_json
from leanmed.metrics import Figure
from leanmed.report import NOTICE, defined
from leanmed.runs import RUN, write_csv
from leanmed.runtime.artifact import image_mark
from leanmed.runtime.predictor import Predictor, load
from leanmed.runtime.scan import Candidate
from leanmed.scans import NO_POINTS, Points, cpm

Place = tuple[float, float, float, float]  # x, y, z in world mm, and a score or a diameter


@dataclass(frozen=True)
class ScanResult:
    """What whole scans showed.

    Args:
        figures: as `leanmed.scans.cpm` gives them.
        candidates: by series, best first.
        notes: which scans were left out, and why.
    """

    figures: Mapping[str, Figure]
    candidates: Mapping[str, Sequence[Candidate]]
    notes: Sequence[str]


def judge_artifact(artifact: Path, root: Path, out: Path) -> None:
    """What `leanmed evaluate --scans` does: evaluate, write, and tell the figures.

    Raises:
        ArtifactError: it is none, or a run.
        DataError: as `evaluate_scans`.
    """
    if (artifact / RUN).is_file():
        raise ArtifactError(f"expected an artifact, got the run {artifact}; make one with leanmed export")
    with progress_bar("scans") as step:
        result = evaluate_scans(load(artifact), root, progress=step)
    write_scan_result(out, result)
    for line in result.notes:
        typer.echo(line)
    echo_figures(result.figures)
    typer.echo(f"Research use only: not a medical device.\nwrote {out / 'scans.json'} and {out / 'candidates.csv'}")


def evaluate_scans(
    predictor: Predictor, root: Path, *, progress: Callable[[int], None] = lambda done: None
) -> ScanResult:
    """Candidates of every scan below LUNA16's folder that the artifact was not made from, and how good they are.

    Raises:
        DataError: the annotations are unsound, or no scan is left.
    """
    scans, found, notes = read_scans(root), {}, []
    seen = set(predictor.manifest.provenance.seen_images)
    for number, (uid, path) in enumerate(scans.files.items(), start=1):
        try:
            if image_mark(content_hash(path)) in seen:
                notes.append(f"{uid} was used to make the artifact and is left out.")
            else:
                found[uid] = predictor.find_candidates(path)
        except InputError as error:
            notes.append(f"Not answered: {uid}: {error}")
        progress(number)
    if not found:
        raise DataError(f"{root}: expected scans new to this artifact that can be read, got none; give others")
    marks = points({uid: [(*c.world, c.score) for c in candidates] for uid, candidates in found.items()})
    return ScanResult(cpm(list(found), marks, *map(_places, (scans.nodules, scans.excluded))), found, notes)


def _places(findings: Mapping[str, Sequence[Finding]]) -> Points:
    return points({uid: [(*finding.world, finding.diameter) for finding in of] for uid, of in findings.items()})


def points(places: Mapping[str, Sequence[Place]]) -> Points:
    """Places of many scans as one table."""
    rows = [(uid, place) for uid, of in places.items() for place in of]
    if not rows:
        return NO_POINTS
    numbers = np.array([place for _, place in rows])
    return Points(np.array([uid for uid, _ in rows]), numbers[:, :3], numbers[:, 3])


def write_scan_result(out: Path, result: ScanResult) -> None:
    """`scans.json` with the figures, and `candidates.csv` with the columns of LUNA16's submissions."""
    columns = ("coordX", "coordY", "coordZ", "probability")
    rows = [
        {"seriesuid": uid} | dict(zip(columns, (*candidate.world, candidate.score), strict=True))
        for uid, candidates in result.candidates.items()
        for candidate in candidates
    ]
    write_csv(out / "candidates.csv", rows or [dict.fromkeys(("seriesuid", *columns), "")])
    content = {"notice": NOTICE, "scans": len(result.candidates), "metrics": result.figures, "notes": result.notes}
    write_json(out / "scans.json", defined(content))
