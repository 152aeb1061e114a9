"""An artifact on whole scans, judged by LUNA16's rules: its CPM, and its candidates as LUNA16 wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from leanmed import __version__
from leanmed.audit.grouping import absent
from leanmed.console import Step, nobody
from leanmed.data import content_hash
from leanmed.data.luna16 import Finding, Scans, check_places, read_scans
from leanmed.errors import DataError, InputError
from leanmed.files import defined, sha256_json
from leanmed.manifest import Manifest, image_mark
from leanmed.report.report import Provenance, Report
from leanmed.runs import write_csv
from leanmed.tasks.detection.candidates import Candidate, Candidates
from leanmed.tasks.detection.luna16_rules import NO_POINTS, Points, by_diameter, cpm, match_scans
from leanmed.tasks.detection.plots import froc_of
from leanmed.tasks.detection.words import OF_SCANS, SCANS

CANDIDATES = "candidates.csv"
Found = TypeVar("Found")
Place = tuple[float, float, float, float]  # x, y, z in world mm, and a score or a diameter


PROTOCOL = "Whole scans, judged by LUNA16's rules; none of a patient that the artifact is known to have seen"


@dataclass(frozen=True)
class ScanResult:
    """What whole scans showed: a report, and the candidates by series, best first."""

    report: Report
    candidates: Mapping[str, Sequence[Candidate]]

    def write(self, out: Path) -> Path:
        """`candidates.csv` in a folder; its path."""
        write_candidates(out / CANDIDATES, self.candidates)
        return out / CANDIDATES


def judge_scans(
    manifest: Manifest,
    name: str,
    root: Path,
    answer: Callable[[Path], Candidates],
    *,
    command: str = "",
    progress: Step = nobody,
) -> ScanResult:
    """Candidates of every scan below LUNA16's folder that is new to an artifact, and how good they are.

    Left out are the scans that the artifact was made from, and others of their patients.

    Args:
        manifest: of the artifact.
        name: of the artifact, for the title.
        root: LUNA16's folder.
        answer: from a scan's path to its candidates, all of them.
        command: what the user typed, for the record.
        progress: takes how many scans are through, and of how many.

    Raises:
        DataError: the annotations are unsound, or no scan is left.
    """
    scans = read_scans(root)
    found, notes, marks = _search(manifest, answer, scans, progress)
    if not found:
        raise DataError(f"{root}: expected scans new to this artifact that can be read, got none; give others")
    places = points({uid: [(*c.world, c.score) for c in of] for uid, of in found.items()})
    judged = (list(found), places, _places(scans.nodules), _places(scans.excluded))
    matched, series = match_scans(*judged), np.array(list(found))
    report = Report(
        title=f"{name} on whole scans",
        protocol=PROTOCOL,
        leak=manifest.leak and f"{manifest.leak} This artifact was made under it.",
        figures=cpm(*judged),
        main_score="cpm",
        subgroups=by_diameter(*judged),
        notes=[*scans.notes, *notes],
        plots=[froc_of(matched, series, per="scan", what="candidates")] if matched.home.size else [],
        terms=SCANS,
        words=OF_SCANS,
        provenance=Provenance(
            data_hash=sha256_json([marks, defined(scans.nodules), defined(scans.excluded)]),
            seeds=[manifest.provenance.seed],
            versions={"leanmed": __version__},
            recipe=manifest.provenance.recipe,
            command=command,
        ),
    )
    return ScanResult(report, found)


def _search(
    manifest: Manifest, answer: Callable[[Path], Candidates], scans: Scans, step: Step
) -> tuple[dict[str, Sequence[Candidate]], list[str], dict[str, str]]:
    """Candidates by series, what to say of scans left out, and the mark of each scan that can be read."""
    found: dict[str, Sequence[Candidate]] = {}
    notes: list[str] = []
    seen = manifest.provenance.seen_images

    def answered(uid: str, of: Callable[[Path], Found]) -> Found | None:
        try:
            return of(scans.files[uid])
        except (InputError, DataError) as error:
            notes.append(f"Not answered: {uid}: {error}")
            return None

    marks = {uid: mark for uid in scans.files if (mark := answered(uid, _mark))}
    check_places(scans, marks)
    made_from = set(seen)
    known = {scans.groups[uid] for uid, mark in marks.items() if mark in made_from}
    notes += absent(seen, list(marks.values()))
    for number, uid in enumerate(marks, start=1):
        if scans.groups[uid] in known:
            notes.append(f"{uid}, or another scan of its patient, was used to make the artifact; left out.")
        elif (candidates := answered(uid, answer)) is not None:
            found[uid] = candidates.found
        step(number, len(marks))
    return found, notes, marks


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


def write_candidates(path: Path, candidates: Mapping[str, Sequence[Candidate]]) -> None:
    """A table of candidates by series, with the columns of LUNA16's submissions."""
    columns = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
    rows = [
        dict(zip(columns, (uid, *candidate.world, candidate.score), strict=True))
        for uid, of in candidates.items()
        for candidate in of
    ]
    write_csv(path, rows, columns)
