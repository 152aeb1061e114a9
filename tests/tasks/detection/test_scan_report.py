from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from leanmed.console import echo_evaluation
from leanmed.data import content_hashes
from leanmed.errors import ArtifactError, DataError
from leanmed.phantoms.scans import AXIAL, write_mhd
from leanmed.reading.ct import Grid
from leanmed.records import Boxes, Record
from leanmed.runs import read_csv
from leanmed.tasks.detection import scan_report as scan_evaluation
from leanmed.tasks.detection.candidates import Candidate
from leanmed.tasks.detection.scan_report import evaluate_scans, judge_artifact, write_candidates

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


def predictor(*seen: str) -> SimpleNamespace:
    """What finds in every scan .9 at the nodule's place and .4 elsewhere."""
    found = [Candidate(0.9, (0, 0, 0), NODULE, 5.0, ()), Candidate(0.4, (0, 0, 0), (1.0, 1.0, 1.0), 5.0, ())]
    origin = SimpleNamespace(seen_images=seen, seed=0, recipe={})
    manifest = SimpleNamespace(provenance=origin, leak=None, name="made", precision="fp32")
    artifact = SimpleNamespace(sha256="0123")
    return SimpleNamespace(manifest=manifest, artifact=artifact, find_candidates=lambda path: found)


def test_scans_are_judged_by_luna16_s_rules(luna16: Path, tmp_path: Path) -> None:
    """Both nodules are found at once; the mark on the excluded finding counts neither way."""
    steps: list[int] = []
    result = evaluate_scans(predictor(), luna16, progress=steps.append)
    assert result.report.figures["cpm"].value == 1
    assert result.report.figures["cpm"].n == 3
    assert steps == [1, 2, 3]
    write_candidates(tmp_path / "candidates.csv", result.candidates)
    rows = read_csv(tmp_path / "candidates.csv")
    assert len(rows) == 6
    assert rows[0] == {"seriesuid": "a", "coordX": "5.0", "coordY": "6.0", "coordZ": "7.0", "probability": "0.9"}
    (small,) = result.report.subgroups
    assert (small.value, small.n, small.positives) == ("6 to < 8 mm", 2, 2)


def test_scans_the_artifact_was_made_from_are_left_out(luna16: Path) -> None:
    records = [Record(uid, luna16 / "subset0" / f"{uid}.mhd", Boxes(), uid) for uid in "abc"]
    seen = [content[:16] for content in content_hashes(records)]
    result = evaluate_scans(predictor(seen[0]), luna16)
    assert result.report.notes == ["a, or another scan of its patient, was used to make the artifact; left out."]
    assert list(result.candidates) == ["b", "c"]
    with pytest.raises(DataError, match="expected scans new to this artifact"):
        evaluate_scans(predictor(*seen), luna16)


def test_other_scans_of_a_patient_who_made_the_artifact_are_left_out_too(luna16: Path) -> None:
    table = "seriesuid,patient_id\na,one\nb,two\nc,one\n"
    (luna16 / "luna16_series_to_patient.csv").write_text(table)
    seen = content_hashes([Record("a", luna16 / "subset0" / "a.mhd", Boxes(), "one")])[0][:16]
    assert list(evaluate_scans(predictor(seen), luna16).candidates) == ["b"]


def test_what_the_artifact_was_made_from_and_is_not_here_is_told(luna16: Path) -> None:
    assert (
        evaluate_scans(predictor("0" * 16), luna16)
        .report.notes[0]
        .startswith("1 of 1 images that made the artifact are not")
    )


def test_a_nodule_outside_its_scan_is_refused(luna16: Path) -> None:
    table = luna16 / "annotations.csv"
    table.write_text(f"{table.read_text()}b,900,0,0,8\n")
    with pytest.raises(DataError, match="b: expected nodules inside the scan"):
        evaluate_scans(predictor(), luna16)


def test_without_candidates_the_table_has_its_head_alone(luna16: Path, tmp_path: Path) -> None:
    nothing = predictor()
    nothing.find_candidates = lambda path: []
    write_candidates(tmp_path / "candidates.csv", evaluate_scans(nothing, luna16).candidates)
    assert (tmp_path / "candidates.csv").read_text() == "seriesuid,coordX,coordY,coordZ,probability\n"


def test_the_command_writes_both_files_and_tells_the_figures(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (luna16 / "subset0" / "b.raw").unlink()
    monkeypatch.setattr(scan_evaluation, "load", lambda path: predictor())

    files = [tmp_path / "out" / name for name in ("report.html", "report.json", "candidates.csv")]
    echo_evaluation(judge_artifact(tmp_path / "artifact", luna16, tmp_path / "out", command="typed"), *files)

    note, cpm, *_, notice, written = capsys.readouterr().out.splitlines()
    assert note.startswith("Not answered: b: ")
    assert cpm.startswith("cpm                1.0000  (")
    assert notice == "Research use only: not a medical device."
    assert written.removeprefix("wrote ").split(" and ") == list(map(str, files))
    assert all(path.is_file() for path in files)
    told = json.loads(files[1].read_text())
    assert (told["command"], told["leak"], told["main_score"]) == ("typed", None, "cpm")
    page = files[0].read_text()
    assert "artifact 0123" in page
    assert "FROC curve" in page
    assert "on 2 scans" in page


def test_a_run_is_no_artifact_yet(luna16: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="leanmed export"):
        judge_artifact(tmp_path, luna16, tmp_path / "out")
