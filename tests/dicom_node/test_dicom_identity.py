"""Answers belong to one patient, say of themselves what they answer, and copy nothing that is wrong or unknown."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_bench import Bench
from node_fixtures import PATIENT, PLANE, Pacs, chest_series, wedge_series
from pydicom import Dataset, dcmread
from pydicom.uid import ComprehensiveSRStorage

from leanmed.dicom_node.inbox import Outcome
from leanmed.phantoms.scans import AXIAL, write_enhanced
from leanmed.reading.ct import Grid

Answered = Callable[..., tuple[dict[str, bytes], Outcome]]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def changed(path: Path, **changes: Any) -> Path:
    """The file, with elements set or, by None, left out; values may be invalid."""
    dataset = dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        elif keyword in dataset and keyword != "PatientName":
            dataset[keyword]._value = value
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def objects(found: tuple[dict[str, bytes], Outcome]) -> dict[str, Dataset]:
    """Form and number -> object."""
    return {name.partition("-")[2][:-4]: dcmread(io.BytesIO(content)) for name, content in found[0].items()}


def comments(report: Dataset) -> str:
    return " ".join(item.get("TextValue", "") for item in report.ContentSequence)


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "IssuerOfPatientID", "FrameOfReferenceUID"])
def test_two_patients_in_one_series_are_refused_and_not_named(answered: Answered, tmp_path: Path, keyword: str) -> None:
    files = wedge_series(tmp_path / "ct")
    changed(files[3], **{keyword: "1.2.3"})
    made, outcome = answered(files)
    assert not made
    assert outcome.refused[""].startswith(f"expected images of one patient and one series, got 2 values of {keyword}")
    assert "1.2.3" not in outcome.refused[""]


@pytest.mark.parametrize("change", [{"PatientID": "4712"}, {"StudyInstanceUID": "1.2.3.4"}])
def test_a_corrected_study_has_other_answers(answered: Answered, tmp_path: Path, change: dict[str, str]) -> None:
    files = wedge_series(tmp_path / "ct")
    before = objects(answered(files, answers=("sr",)))["sr-1"]
    after = objects(answered([changed(path, **change) for path in files], answers=("sr",)))["sr-1"]
    assert before.SOPInstanceUID != after.SOPInstanceUID
    assert before.SeriesInstanceUID != after.SeriesInstanceUID


def test_other_codes_make_other_answers(answered: Answered, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "ct")
    codes = {"bright": {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"}}
    plain, coded = (objects(answered(files, answers=("sr",), codes=one))["sr-1"] for one in ({}, codes))
    assert plain.SOPInstanceUID != coded.SOPInstanceUID


SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


@pytest.mark.parametrize(("direction", "wanted"), [(AXIAL, ["L", "P"]), (SAGITTAL, ["P", "F"])])
def test_a_capture_says_how_its_image_lies(
    answered: Answered, tmp_path: Path, direction: Any, wanted: list[str]
) -> None:
    files = wedge_series(tmp_path / "ct", direction, slices=1)
    assert list(objects(answered(files, answers=("capture",)))["capture-1"].PatientOrientation) == wanted


def test_a_capture_does_not_say_how_montages_and_images_without_a_place_lie(answered: Answered, tmp_path: Path) -> None:
    bare = {"ImageOrientationPatient": None, "ImagePositionPatient": None}
    single = changed(wedge_series(tmp_path / "ct", slices=1)[0], **bare)
    assert not objects(answered([single], answers=("capture",)))["capture-1"].PatientOrientation
    montage = answered(chest_series(tmp_path / "scan", slices=8), artifact="nodules", answers=("capture",))
    assert not objects(montage)["capture-1"].PatientOrientation


@pytest.mark.parametrize("said", ["YES", "NO", None])
def test_a_capture_repeats_whether_names_are_burned_in(answered: Answered, tmp_path: Path, said: str | None) -> None:
    about = {"BurnedInAnnotation": said} if said else {}
    path = changed(wedge_series(tmp_path / "ct", slices=1)[0], **about)
    assert objects(answered([path], answers=("capture",)))["capture-1"].get("BurnedInAnnotation") == said


def test_an_answer_to_half_a_series_says_so_and_is_replaced(bench: Bench, peer: Pacs, slices: list[Path]) -> None:
    bench.send(slices[:3])
    bench.work()
    bench.send(slices)
    bench.work()
    half, whole = [one for one in peer.objects if one.SOPClassUID != "1.2.840.10008.5.1.4.1.1.66.4"]
    assert "This report answers 3 images of the series." in comments(half)
    assert "This report answers 6 images of the series." in comments(whole)
    assert "It replaces an earlier report" in comments(whole)
    assert (half.InstanceNumber, whole.InstanceNumber) == (1, 2)
    (study,) = whole.PredecessorDocumentsSequence
    replaced = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert replaced == half.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in half


CHARACTERS = {
    "japanese": (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
    "korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
        "Hong^Gildong=洪^吉洞",
    ),
    "latin": ("ISO 2022 IR 100", "Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    "none": ("", b"Mueller^Juergen", "Mueller^Juergen"),
}


@pytest.mark.parametrize("script", CHARACTERS)
def test_every_answer_is_in_unicode(answered: Answered, tmp_path: Path, script: str) -> None:
    character_set, written, name = CHARACTERS[script]
    path = wedge_series(tmp_path / "ct", slices=1)[0]
    content = path.read_bytes()
    dataset = dcmread(io.BytesIO(content))
    dataset.SpecificCharacterSet = character_set or None
    padded = written + b" " * (len(written) % 2)
    dataset.PatientName = "X" * len(padded)
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"X" * len(padded), padded))
    codes = {"bright": {"value": "1", "scheme": "99X", "meaning": "Knötchen"}}
    found = objects(answered([path], answers=("seg", "sr", "capture"), codes=codes))
    assert len(found) == 3
    for one in found.values():
        assert one.SpecificCharacterSet == "ISO_IR 192"
        assert one.PatientName == name
    assert found["seg-1"].SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Knötchen"


def enhanced(folder: Path, count: int) -> list[Path]:
    """A series of enhanced objects of one frame each."""
    stored = np.full((count, 20, 24), 100, np.int16)
    stored[:, :5, :7] = 300
    folder.mkdir()
    about = PATIENT | PLANE | {"WindowCenter": "200", "WindowWidth": "100", "SeriesInstanceUID": "1.2.3.4.5"}
    files = []
    for z in range(count):
        grid = Grid((1, 20, 24), (0.8, 0.9, 2.5), (-10.0, 20.0, 2.5 * z), AXIAL)
        files.append(folder / f"{z}.dcm")
        write_enhanced(files[-1], stored[z : z + 1], grid, **(about | {"SOPInstanceUID": f"1.2.3.4.5.{z}"}))  # type: ignore[arg-type]
    return files


def test_enhanced_objects_of_one_frame_are_read_as_they_are_shown(answered: Answered, tmp_path: Path) -> None:
    files = enhanced(tmp_path / "ct", 2)
    found = objects(answered(files, answers=("seg", "sr")))
    segs = [one for name, one in found.items() if name.startswith("seg")]
    assert len(segs) == 2
    assert [int(seg.pixel_array.sum()) for seg in segs] == [35, 35]


def test_an_image_that_cannot_be_read_does_not_take_the_others_with_it(answered: Answered, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "ct")
    changed(files[2], Rows=5000)
    found = answered(files)
    assert sorted(objects(found)) == ["seg-1", "sr-1"]
    report = objects(found)["sr-1"]
    assert "This report answers 5 images of the series." in comments(report)
    assert "1 images could not be read or answered" in comments(report)
    (what,) = found[1].refused
    assert what.startswith("bright ")


def test_a_form_that_cannot_be_made_does_not_take_the_others_with_it(answered: Answered, tmp_path: Path) -> None:
    files = [changed(path, PixelSpacing=None) for path in wedge_series(tmp_path / "ct")]
    found = answered(files)
    assert sorted(objects(found)) == ["sr-1"]
    assert found[1].refused["bright seg"].startswith("expected images with PixelSpacing")
    assert objects(found)["sr-1"].SOPClassUID != ComprehensiveSRStorage


DIRTY = {"PatientBirthDate": "00000000", "StudyDate": "2020-01-01", "PatientName": ["A^B", "C^D"], "StudyTime": "late"}


@pytest.mark.parametrize("keyword", DIRTY)
def test_what_dicom_does_not_allow_is_left_empty(answered: Answered, tmp_path: Path, keyword: str) -> None:
    files = [changed(path, **{keyword: DIRTY[keyword]}) for path in wedge_series(tmp_path / "ct", slices=2)]
    found = answered(files, answers=("seg", "sr", "capture"))
    assert not found[1].refused
    assert {str(one.get(keyword) or "") for one in objects(found).values()} == {""}


def test_an_empty_mask_is_no_finding(answered: Answered, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "ct", slices=2, WindowCenter="3000", WindowWidth="10")
    report = objects(answered(files, answers=("sr",)))["sr-1"]
    assert "Nothing was found that reaches the decision threshold." in comments(report)
    assert "LO: 'Finding'" not in str(report)
    bright = wedge_series(tmp_path / "bright", slices=2)
    assert "LO: 'Finding'" in str(objects(answered(bright, answers=("sr",)))["sr-1"])
