"""A round trip through Orthanc in a real process: CT in, SR and SEG out, read back through DICOMweb and checked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_fixtures import STUDY, NodeProcess, chest_series, free_port, store, wait_for, write_config
from orthanc_process import IS_INSTALLED, Orthanc
from pydicom import dcmread
from test_dicom_objects import as_itk, bright_places, seg_places

pytestmark = [
    pytest.mark.skipif(not IS_INSTALLED, reason="the Debian packages orthanc and orthanc-dicomweb are not installed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
RULES: list[dict[str, Any]] = [
    {"artifact": "bright", "modality": "CT", "description": "(?i)thorax", "answers": ["seg", "sr"]},
    {"artifact": "nodules", "modality": "CT", "answers": ["sr", "capture"]},
]
CHECKERS = {"dciodvfy": ["dciodvfy"], "dcmdump": ["dcmdump", "-q"]}


def errors_of(checker: str, path: Path) -> list[str]:
    """The lines in which a checker calls something an error."""
    said = subprocess.run(
        [*CHECKERS[checker], str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = (said.stderr + (said.stdout if checker == "dciodvfy" else "")).splitlines()
    failed = [f"status {said.returncode}"] if checker == "dcmdump" and said.returncode else []
    return failed + [line for line in lines if line.startswith(("Error", "E:", "F:"))]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    made = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port())
    yield made.start()
    made.stop()


@pytest.mark.parametrize("by", ["peer", "web"])
def test_a_ct_of_thirty_slices_comes_back_with_reports_and_a_segmentation(
    orthanc: Orthanc, artifacts: dict[str, Path], tmp_path: Path, by: str
) -> None:
    study = f"{STUDY}.{int(by == 'web')}"
    files = chest_series(tmp_path / "ct", StudyInstanceUID=study)
    assert store(orthanc.dicom_port, files, called="ORTHANC") == [0] * 30
    node_port = orthanc.ask("/modalities/leanmed/configuration")["Port"]
    config = write_config(
        tmp_path / "node.yaml", RULES, getattr(orthanc, by), port=node_port, calling=["ORTHANC"], pause_seconds=0.5
    )
    given = [artifacts["bright"], artifacts["nodules"]]
    node = NodeProcess(config, given, tmp_path / "log").wait_until_it_listens()
    try:
        orthanc.send_to_node(str(dcmread(files[0]).SeriesInstanceUID))
        wait_for(lambda: bool(node.lines("sent")), "no answer was sent")
    finally:
        node.kill()
    series = orthanc.series_of(study)
    assert set(series) == {"CT", "SEG", "SR", "OT"}
    (segmentation,) = orthanc.objects(study, series["SEG"])
    wanted = bright_places(as_itk(tmp_path / "ct"), -250.0)
    places = seg_places(segmentation, tmp_path)
    assert len(places) > 1000
    assert {tuple(place) for place in places.round(2)} <= {tuple(place) for place in wanted.round(2)}
    for number, content in enumerate([segmentation, *orthanc.objects(study, series["SR"])]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content)
        dataset = dcmread(path)
        assert "research use only" in dataset.SeriesDescription
        assert dataset.StudyInstanceUID == study
        for checker in CHECKERS:
            if shutil.which(checker):
                assert errors_of(checker, path) == []


def test_answers_wait_until_orthanc_is_back(orthanc: Orthanc, artifacts: dict[str, Path], tmp_path: Path) -> None:
    study = f"{STUDY}.7"
    files = chest_series(tmp_path / "ct", slices=6, StudyInstanceUID=study)
    rules = [RULES[0] | {"answers": ["sr"]}]
    config = write_config(tmp_path / "node.yaml", rules, orthanc.peer)
    node = NodeProcess(config, [artifacts["bright"]], tmp_path / "log").wait_until_it_listens()
    orthanc.stop()
    try:
        assert store(node.port, files) == [0] * 6
        wait_for(lambda: bool(node.lines("not sent")), "it was not tried")
        orthanc.start()
        wait_for(lambda: bool(node.lines("sent")), "it was not tried again")
    finally:
        node.kill()
    assert set(orthanc.series_of(study)) == {"SR"}
