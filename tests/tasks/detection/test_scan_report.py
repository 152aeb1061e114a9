from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import leanmed
from leanmed.cli import main
from leanmed.data import content_hashes
from leanmed.errors import ArtifactError, DataError
from leanmed.evaluation.artifacts import evaluate_scans
from leanmed.phantoms.scans import AXIAL, write_mhd
from leanmed.reading.ct import Grid
from leanmed.records import Boxes, Record
from leanmed.runs import read_csv
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.detection.candidates import Candidate, Candidates
from leanmed.tasks.detection.scan_report import ScanResult, judge_scans

NODULE = (5.0, 6.0, 7.0)


@pytest.fixture
def luna16(tmp_path: Path) -> Path:
    """Three scans; `a` and `c` hold a nodule of 6 mm, `b` an excluded finding of 4 mm at the same place."""
    folder = tmp_path / "luna16" / "subset0"
    folder.mkdir(parents=True)
    for number, uid in enumerate("abc"):
        write_mhd(
            folder / f"{uid}.mhd", np.full((8, 8, 8), number, np.int16), Grid((8, 8, 8), (2, 2, 2), (0, 0, 0), AXIAL)
        )
    place = ",".join(map(str, NODULE))
    head = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    (folder.parent / "annotations.csv").write_text(f"{head}a,{place},6\nc,{place},6\n")
    (folder.parent / "annotations_excluded.csv").write_text(f"{head}b,{place},4\n")
    return folder.parent


FOUND = (Candidate(0.9, (0, 0, 0), NODULE, 5.0, ()), Candidate(0.4, (0, 0, 0), (1.0, 1.0, 1.0), 5.0, ()))


def manifest(*seen: str) -> SimpleNamespace:
    """Of an artifact that was made from such images."""
    origin = SimpleNamespace(seen_images=seen, seed=0, recipe={})
    return SimpleNamespace(provenance=origin, leak=None, name="made", precision="fp32", task="detection")


def judged(root: Path, *seen: str, found: tuple[Candidate, ...] = FOUND, **options: Any) -> ScanResult:
    """An artifact that finds in every scan .9 at the nodule's place and .4 elsewhere."""
    return judge_scans(manifest(*seen), "made", root, lambda path: Candidates(found, 0.5, None), **options)


def test_scans_are_judged_by_luna16_s_rules(luna16: Path, tmp_path: Path) -> None:
    """Both nodules are found at once; the mark on the excluded finding counts neither way."""
    steps: list[tuple[int, int]] = []
    result = judged(luna16, progress=lambda *step: steps.append(step))
    assert result.report.figures["cpm"].value == 1
    assert result.report.figures["cpm"].n == 3
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert result.write(tmp_path) == tmp_path / "candidates.csv"
    rows = read_csv(tmp_path / "candidates.csv")
    assert len(rows) == 6
    assert rows[0] == {"seriesuid": "a", "coordX": "5.0", "coordY": "6.0", "coordZ": "7.0", "probability": "0.9"}
    (small,) = result.report.subgroups
    assert (small.value, small.n, small.positives) == ("6 to < 8 mm", 2, 2)


def test_scans_the_artifact_was_made_from_are_left_out(luna16: Path) -> None:
    records = [Record(uid, luna16 / "subset0" / f"{uid}.mhd", Boxes(), uid) for uid in "abc"]
    seen = [content[:16] for content in content_hashes(records)]
    result = judged(luna16, seen[0])
    patients, left_out = result.report.notes
    assert patients.startswith("No table names the patients of 3 of 3 series")
    assert left_out == "a, or another scan of its patient, was used to make the artifact; left out."
    assert list(result.candidates) == ["b", "c"]
    with pytest.raises(DataError, match="expected scans new to this artifact"):
        judged(luna16, *seen)


def test_other_scans_of_a_patient_who_made_the_artifact_are_left_out_too(luna16: Path) -> None:
    table = "seriesuid,patient_id\na,one\nb,two\nc,one\n"
    (luna16 / "luna16_series_to_patient.csv").write_text(table)
    seen = content_hashes([Record("a", luna16 / "subset0" / "a.mhd", Boxes(), "one")])[0][:16]
    assert list(judged(luna16, seen).candidates) == ["b"]


def test_what_the_artifact_was_made_from_and_is_not_here_is_told(luna16: Path) -> None:
    _patients, told = judged(luna16, "0" * 16).report.notes
    assert told.startswith("1 of 1 images that made the artifact are not")


def test_a_nodule_outside_its_scan_is_refused(luna16: Path) -> None:
    table = luna16 / "annotations.csv"
    table.write_text(f"{table.read_text()}b,900,0,0,8\n")
    with pytest.raises(DataError, match="b: expected nodules inside the scan"):
        judged(luna16)


def test_without_candidates_the_table_has_its_head_alone(luna16: Path, tmp_path: Path) -> None:
    judged(luna16, found=()).write(tmp_path)
    assert (tmp_path / "candidates.csv").read_text() == "seriesuid,coordX,coordY,coordZ,probability\n"


def test_the_command_writes_both_files_and_tells_the_figures(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (luna16 / "subset0" / "b.raw").unlink()
    asked: list[int | None] = []

    class Searching(Predictor):
        def __init__(self) -> None:
            self._manifest, self.artifact = manifest(), SimpleNamespace(sha256="0123")  # type: ignore[assignment]

        def predict_scan(self, path: Path, *, count: int | None = None) -> Candidates:
            asked.append(count)
            return Candidates(FOUND, 0.5, None)

    monkeypatch.setattr("leanmed.evaluation.command.load", lambda path: Searching())

    files = [tmp_path / "out" / name for name in ("report.html", "report.json", "candidates.csv")]
    typed = ["leanmed", "evaluate", "artifact", "--scans", "--data", str(luna16), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", typed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert asked == [None, None], "all candidates make the curve"

    patients, note, cpm, *_, notice, written = capsys.readouterr().out.splitlines()
    assert patients.startswith("No table names the patients")
    assert note.startswith("Not answered: b: ")
    assert cpm.startswith("cpm                1.0000  (")
    assert notice == "Research use only: not a medical device."
    assert written.removeprefix("wrote ").split(" and ") == list(map(str, files))
    assert all(path.is_file() for path in files)
    told = json.loads(files[1].read_text())
    assert (told["command"], told["leak"], told["main_score"]) == (" ".join(typed), None, "cpm")
    page = files[0].read_text()
    assert "artifact 0123" in page
    assert "FROC curve" in page
    assert "on 2 scans" in page


def test_a_run_is_no_artifact_yet(luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "run.json").write_text("{}")
    typed = ["leanmed", "evaluate", str(tmp_path), "--scans", "--data", str(luna16), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", typed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "leanmed export" in capsys.readouterr().err


def test_an_artifact_that_answers_for_no_scans_is_refused(luna16: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="artifact"):
        evaluate_scans(leanmed.load(tiny_artifact), luna16, tmp_path / "out")
    assert not (tmp_path / "out").exists()
