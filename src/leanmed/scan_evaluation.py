"""An artifact on whole scans, judged by LUNA16's rules: its CPM, and its candidates as LUNA16 wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from leanmed.data import content_hash
from leanmed.data.luna16 import Finding, check_places, read_scans
from leanmed.errors import ArtifactError, DataError, InputError
from leanmed.files import defined, write_json
from leanmed.grouping import absent
from leanmed.metrics import Figure
from leanmed.report import NOTICE
from leanmed.runs import RUN, write_csv
from leanmed.runtime.artifact import image_mark
from leanmed.runtime.predictor import Predictor, load
from leanmed.runtime.scan import Candidate
from leanmed.scans import NO_POINTS, Points, cpm

Answer = TypeVar("Answer")
Place = tuple[float, float, float, float]  # x, y, z in world mm, and a score or a diameter


@dataclass(frozen=True)
class ScanResult:
    """What whole scans showed.

    Args:
        figures: as `leanmed.scans.cpm` gives them.
        candidates: by series, best first.
        notes: which scans were left out, and why; what cannot be told of the others.
        leak: what the artifact was made under, if it leaks.
        artifact: its hash.
    """

    figures: Mapping[str, Figure]
    candidates: Mapping[str, Sequence[Candidate]]
    notes: Sequence[str]
    leak: str | None
    artifact: str


def judge_artifact(
    folder: Path, root: Path, out: Path, *, command: str = "", progress: Callable[[int], None] = lambda done: None
) -> ScanResult:
    """What `leanmed evaluate --scans` does: evaluate, then write `scans.json` and `candidates.csv`.

    Raises:
        ArtifactError: it is none, or a run.
        DataError: as `evaluate_scans`.
    """
    if (folder / RUN).is_file():
        raise ArtifactError(f"expected an artifact, got the run {folder}; make one with leanmed export")
    result = evaluate_scans(load(folder), root, progress=progress)
    write_scan_result(out, result, command)
    return result


def evaluate_scans(
    predictor: Predictor, root: Path, *, progress: Callable[[int], None] = lambda done: None
) -> ScanResult:
    """Candidates of every scan below LUNA16's folder that is new to the artifact, and how good they are.

    Left out are the scans that the artifact was made from, and others of their patients.

    Raises:
        DataError: the annotations are unsound, or no scan is left.
    """
    scans, origin = read_scans(root), predictor.manifest.provenance
    found, notes = {}, []

    def answered(uid: str, answer: Callable[[Path], Answer]) -> Answer | None:
        try:
            return answer(scans.files[uid])
        except (InputError, DataError) as error:
            notes.append(f"Not answered: {uid}: {error}")
            return None

    marks = {uid: mark for uid in scans.files if (mark := answered(uid, _mark))}
    check_places(scans, marks)
    known = {scans.groups[uid] for uid, mark in marks.items() if mark in set(origin.seen_images)}
    notes += absent(origin.seen_images, list(marks.values()))
    for number, uid in enumerate(marks, start=1):
        if scans.groups[uid] in known:
            notes.append(f"{uid}, or another scan of its patient, was used to make the artifact; left out.")
        elif (candidates := answered(uid, predictor.find_candidates)) is not None:
            found[uid] = candidates
        progress(number)
    if not found:
        raise DataError(f"{root}: expected scans new to this artifact that can be read, got none; give others")
    places = points({uid: [(*c.world, c.score) for c in of] for uid, of in found.items()})
    figures = cpm(list(found), places, *map(_places, (scans.nodules, scans.excluded)))
    return ScanResult(figures, found, notes, predictor.manifest.leak, predictor.artifact.sha256)


def _mark(path: Path) -> str:
    return image_mark(content_hash(path))


def _places(findings: Mapping[str, Sequence[Finding]]) -> Points:
    return points({uid: [(*finding.world, finding.diameter) for finding in of] for uid, of in findings.items()})


def points(places: Mapping[str, Sequence[Place]]) -> Points:
    """Places of many scans as one table."""
    rows = [(uid, place) for uid, of in places.items() for place in of]
    if not rows:
        return NO_POINTS
    numbers = np.array([place for _, place in rows])
    return Points(np.array([uid for uid, _ in rows]), numbers[:, :3], numbers[:, 3])


def write_scan_result(out: Path, result: ScanResult, command: str = "") -> None:
    """`scans.json` with the figures, and `candidates.csv` with the columns of LUNA16's submissions."""
    columns = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
    rows = [
        dict(zip(columns, (uid, *candidate.world, candidate.score), strict=True))
        for uid, candidates in result.candidates.items()
        for candidate in candidates
    ]
    write_csv(out / "candidates.csv", rows, columns)
    content = {
        "leak": result.leak,
        "notice": NOTICE,
        "command": command,
        "artifact": result.artifact,
        "scans": len(result.candidates),
        "metrics": result.figures,
        "notes": result.notes,
    }
    write_json(out / "scans.json", defined(content))
