"""Answers as DICOM: masks right way up and in place, reports that refer to the right images, no error of a checker."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from node_fixtures import PATIENT, PLANE, chest_series, wedge_series
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from leanmed.dicom_node.inbox import Outcome
from leanmed.dicom_node.objects import own_code
from leanmed.phantoms.scans import AXIAL, write_enhanced
from leanmed.reading.ct import Grid
from leanmed.runtime.predictor import Predictor

Answered = Callable[..., tuple[dict[str, bytes], Outcome]]
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
UPSIDE_DOWN = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}


def one(found: tuple[dict[str, bytes], Outcome], form: str) -> Dataset:
    """The only object of a form."""
    objects, outcome = found
    assert not outcome.refused
    (content,) = [content for name, content in objects.items() if f"-{form}-" in name]
    return dcmread(io.BytesIO(content))


def as_itk(folder: Path) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def bright_places(image: Any, least: float) -> NDArray[np.float64]:
    """World x, y, z of every voxel that is brighter than a value, in order: (n, 3)."""
    z, y, x = np.nonzero(sitk.GetArrayFromImage(image) > least)
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    places = np.stack([x, y, z], axis=1) @ direction.T + np.array(image.GetOrigin())
    return places[np.lexsort(places.round(3).T)]


def seg_places(content: bytes, folder: Path) -> NDArray[np.float64]:
    """The same of a SEG, as SimpleITK reads it."""
    (folder / "seg.dcm").write_bytes(content)
    return bright_places(sitk.ReadImage(str(folder / "seg.dcm")), 0)


def segment(found: tuple[dict[str, bytes], Outcome]) -> bytes:
    (content,) = [content for name, content in found[0].items() if "-seg-" in name]
    return content


@pytest.mark.parametrize("direction", [AXIAL, FLIPPED, SAGITTAL, UPSIDE_DOWN])
def test_the_mask_of_a_volume_lies_where_the_voxels_lie_that_it_marks(
    answered: Answered, tmp_path: Path, direction: Any
) -> None:
    files = wedge_series(tmp_path / "mr", direction, **MR)
    found = answered(files, artifact="prostate", modality="MR", answers=("seg",))
    image = as_itk(tmp_path / "mr")
    voxels = sitk.GetArrayFromImage(image)
    wanted = bright_places(image, float(voxels.mean() + voxels.std()))
    assert len(wanted) > 100
    np.testing.assert_allclose(seg_places(segment(found), tmp_path), wanted, atol=1e-3)


@pytest.mark.parametrize("direction", [AXIAL, FLIPPED, SAGITTAL])
def test_masks_of_single_images_of_one_scan_make_one_seg_in_place(
    answered: Answered, tmp_path: Path, direction: Any
) -> None:
    files = wedge_series(tmp_path / "ct", direction)
    found = answered(files, artifact="bright", answers=("seg",))
    wanted = bright_places(as_itk(tmp_path / "ct"), 200)  # HU
    np.testing.assert_allclose(seg_places(segment(found), tmp_path), wanted, atol=1e-3)


@pytest.mark.parametrize("artifact", ["bright", "prostate"])
def test_the_mask_of_an_enhanced_object_lies_in_place(answered: Answered, tmp_path: Path, artifact: str) -> None:
    modality = "MR" if artifact == "prostate" else "CT"
    classic = wedge_series(tmp_path / "classic", Modality=modality)
    image = as_itk(tmp_path / "classic")
    stored = sitk.GetArrayFromImage(image).astype(np.int16)
    assert dcmread(classic[0]).ImagePositionPatient[2] == image.GetOrigin()[2]
    path = tmp_path / "whole.dcm"
    grid = Grid(stored.shape, image.GetSpacing(), image.GetOrigin(), AXIAL)
    about = PATIENT | PLANE | {"WindowCenter": "0", "WindowWidth": "500"}
    write_enhanced(path, stored, grid, modality, **about)  # type: ignore[arg-type]
    found = answered([path], artifact=artifact, modality=modality, answers=("seg", "sr"))
    np.testing.assert_allclose(seg_places(segment(found), tmp_path), bright_places(image, 0), atol=1e-3)
    report = one(found, "sr")
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(evidence.ReferencedSOPSequence) == 1


def test_a_seg_names_algorithm_images_patient_and_purpose(
    answered: Answered, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    codes = {"bright": {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"}}
    seg = one(answered(wedge_series(tmp_path / "ct"), artifact="bright", answers=("seg",), codes=codes), "seg")
    assert seg.SeriesDescription == "leanmed: bright (research use only)"
    assert seg.ContentDescription.startswith("Research use only. Not a medical device")
    assert (seg.PatientID, seg.StudyInstanceUID) == ("4711", PATIENT["StudyInstanceUID"])
    (described,) = seg.SegmentSequence
    assert described.SegmentLabel == "bright"
    assert described.SegmentedPropertyTypeCodeSequence[0].CodeValue == "27925004"
    algorithm = described.SegmentationAlgorithmIdentificationSequence[0]
    graph = predictors["bright"].manifest.graphs["model"].sha256
    assert graph in algorithm.AlgorithmParameters
    assert "decision threshold=0.5" in algorithm.AlgorithmParameters
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 6


def groups_of(report: Dataset) -> list[dict[str, Any]]:
    """Of each measurement group its finding, numbers, referenced image, region and algorithm."""
    found = []
    (measured,) = [item for item in report.ContentSequence if meaning(item) == "Imaging Measurements"]
    for group in measured.ContentSequence:
        about: dict[str, Any] = {}
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                about[meaning(item)] = float(item.MeasuredValueSequence[0].NumericValue)
            elif item.ValueType == "CODE":
                about[meaning(item)] = item.ConceptCodeSequence[0].CodeMeaning
            elif item.ValueType in ("SCOORD", "SCOORD3D"):
                about["region"] = [float(value) for value in item.GraphicData]
                for selected in item.get("ContentSequence") or []:
                    about["image"] = selected.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            elif item.ValueType == "IMAGE":
                about["image"] = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        found.append(about)
    return found


def meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def texts(report: Dataset) -> list[str]:
    return [item.TextValue for item in report.ContentSequence if meaning(item) == "Comment"]


def test_candidates_are_reported_with_their_box_in_the_slice_that_shows_them(
    answered: Answered, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    files = chest_series(tmp_path / "ct", slices=12)
    report = one(answered(files, artifact="nodules", answers=("sr",)), "sr")
    candidates = [c for c in predictors["nodules"].predict_scan(tmp_path / "ct").found if c.score >= 0.5]
    assert candidates
    groups = groups_of(report)
    assert len(groups) == len(candidates)
    for group, candidate in zip(groups, candidates, strict=True):
        x1, y1, x2, y2 = candidate.best.xyxy
        assert group["region"] == pytest.approx([x1, y1, x2, y1, x2, y2, x1, y2, x1, y1], abs=1e-3)
        assert group["image"] == dcmread(files[candidate.best.z]).SOPInstanceUID
        assert group["Finding"] == "nodule"
        assert group["Score"] == pytest.approx(candidate.score, abs=1e-4)
        assert group["Diameter"] == pytest.approx(candidate.diameter, abs=1e-3)
    assert texts(report)[0].startswith("Research use only. Not a medical device")


def test_candidates_of_a_scan_in_sagittal_slices_are_reported_as_points_in_the_patient(
    answered: Answered, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    from leanmed.phantoms.chest import made_chest
    from leanmed.phantoms.scans import drawn, made_grid, write_series

    chest = made_chest(1, depth=120.0)
    grid = made_grid(chest, (5.0, 5.0, 5.0))
    stored = np.ascontiguousarray(drawn(chest, grid).transpose(2, 0, 1)[:, ::-1])
    z, y, x = stored.shape
    folder = tmp_path / "sagittal"
    folder.mkdir()
    turned = Grid((z, y, x), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0), SAGITTAL)
    files = write_series(folder, stored, turned, **(PATIENT | PLANE))
    report = one(answered(files, artifact="nodules", answers=("sr",)), "sr")
    candidates = [c for c in predictors["nodules"].predict_scan(folder).found if c.score >= 0.5]
    assert candidates
    regions = [group["region"] for group in groups_of(report)]
    np.testing.assert_allclose(regions, [candidate.world for candidate in candidates], atol=1e-3)


def test_a_label_is_reported_for_each_image_with_every_probability(
    answered: Answered, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    files = wedge_series(tmp_path / "ct")
    report = one(answered(files, artifact="brightness", answers=("sr",)), "sr")
    groups = {group["image"]: group for group in groups_of(report)}
    assert len(groups) == len(files)
    for path in files:
        answer = predictors["brightness"].predict(path)
        group = groups[str(dcmread(path).SOPInstanceUID)]
        assert group["Finding"] == answer.label
        for label, probability in answer.probabilities.items():
            assert group[f"Probability of {label}"] == pytest.approx(probability, abs=1e-5)


def test_boxes_of_a_single_slice_are_reported_in_it(
    answered: Answered, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    path = chest_series(tmp_path / "ct")[15]
    (group,) = groups_of(one(answered([path], artifact="nodules", answers=("sr",)), "sr"))
    (box,) = predictors["nodules"].predict(path).boxes
    assert group["region"][:2] == pytest.approx(box[:2], abs=1e-3)
    assert group["region"][4:6] == pytest.approx(box[2:], abs=1e-3)


def test_where_nothing_is_found_the_report_says_so(answered: Answered, tmp_path: Path, make_artifact: Any) -> None:
    from detection_fixtures import constant_graph
    from leanmed.dicom_node.answering import answer_parts
    from leanmed.dicom_node.config import Rule
    from leanmed.dicom_node.inbox import Series, Store
    from leanmed.dicom_node.objects import Answerer, report
    from leanmed.manifest import Input
    from leanmed.runtime.predictor import load

    about = Input(kind="slice", side=64, slices=3, reduced=False)
    path = make_artifact(
        "strict", constant_graph(), task="detection", labels=("nodule",), threshold=0.95, input=about, main_score="ap50"
    )
    store = Store(tmp_path / "own", 10**8)
    (name,) = {store.put(file.read_bytes()).series for file in chest_series(tmp_path / "ct")}
    predictor, rule = load(path), Rule(artifact="strict", modality="CT")
    parts = answer_parts(predictor, Series.at(store.root / "series" / name), store.limits, pictures=False)
    made = report(parts, Answerer(predictor.manifest, predictor.artifact.sha256, rule.codes, "set"))
    (group,) = groups_of(made)
    assert (group["Finding"], group["Number found"]) == ("nodule", 0)
    assert texts(made)[1] == "Nothing was found that reaches the decision threshold."


def test_captures_hold_the_drawing(answered: Answered, predictors: dict[str, Predictor], tmp_path: Path) -> None:
    path = wedge_series(tmp_path / "ct")[2]
    made = one(answered([path], artifact="bright", answers=("capture",)), "capture")
    predictor = predictors["bright"]
    frame = predictor.frame(path)
    assert np.array_equal(made.pixel_array, predictor.decide(frame).draw(frame.pixels))
    scan = one(answered(chest_series(tmp_path / "scan", slices=8), artifact="nodules", answers=("capture",)), "capture")
    wanted = np.asarray(predictors["nodules"].predict_scan(tmp_path / "scan").picture().convert("RGB"))
    assert np.array_equal(scan.pixel_array, wanted)
    assert scan.SOPClassUID == SecondaryCaptureImageStorage


def test_images_that_leave_out_all_that_may_be_left_out_are_answered(answered: Answered, tmp_path: Path) -> None:
    """No frame of reference, no place in the patient, no study ID, no thickness: as some cameras send."""
    left_out = (
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
        "SeriesNumber",
    )
    bare = dict.fromkeys(left_out) | {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"}
    files = wedge_series(tmp_path / "photographs", slices=2, **bare)
    objects, outcome = answered(files, artifact="bright", modality="OT", answers=("seg", "sr", "capture"))
    assert not outcome.refused
    assert sorted(name.partition("-")[2] for name in objects) == [
        "capture-1.dcm", "capture-2.dcm", "seg-1.dcm", "seg-2.dcm", "sr-1.dcm",
    ]  # fmt: skip


def test_names_beyond_ascii_survive(answered: Answered, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "ct", slices=2, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    found = answered(files, artifact="bright", answers=("seg", "sr", "capture"))
    for name, content in found[0].items():
        assert dcmread(io.BytesIO(content)).PatientName == "Müller^Jürgen", name


def test_the_same_images_give_the_same_uids_and_other_images_others(answered: Answered, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "ct")

    def uids(part: Sequence[Path]) -> tuple[set[str], set[str]]:
        objects = [dcmread(io.BytesIO(c)) for c in answered(part, artifact="bright", answers=("seg", "sr"))[0].values()]
        return {str(o.SOPInstanceUID) for o in objects}, {str(o.SeriesInstanceUID) for o in objects}

    half, whole = uids(files[:3]), uids(files)
    assert uids(files) == whole
    assert not half[0] & whole[0]
    assert half[1] == whole[1], "they are of one series of answers for each form"


def test_own_codes_fit_into_dicom() -> None:
    assert own_code("nodule").value == "nodule"
    long = own_code("Probability of a very long name of something, longer than a code may be")
    assert len(long.value) <= 16
    assert len(long.meaning) <= 64


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("artifact", ["nodules", "bright", "brightness", "prostate"])
def test_the_checker_of_dicom3tools_finds_no_error(answered: Answered, tmp_path: Path, artifact: str) -> None:
    if artifact == "prostate":
        files = wedge_series(tmp_path / "mr", **MR)
        found = answered(files, artifact=artifact, modality="MR", answers=("seg", "sr", "capture"))
    else:
        files = chest_series(tmp_path / "ct", slices=10)
        found = answered(files, artifact=artifact, answers=("seg", "sr", "capture"))
    kinds = set()
    for name, content in found[0].items():
        path = tmp_path / name
        path.write_bytes(content)
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stderr
        kinds.add(dcmread(path).SOPClassUID)
    assert len(kinds) == (3 if artifact in ("bright", "prostate") else 2)


def test_highdicom_reads_the_report_back(answered: Answered, tmp_path: Path) -> None:
    objects, _ = answered(chest_series(tmp_path / "ct", slices=10), artifact="nodules", answers=("sr",))
    report = hd.sr.srread(io.BytesIO(next(iter(objects.values()))))
    groups = report.content.get_planar_roi_measurement_groups()
    assert groups
    assert {group.finding_type.meaning for group in groups} == {"nodule"}


def test_a_film_is_reported_frame_by_frame_and_has_no_seg(answered: Answered, tmp_path: Path) -> None:
    """Frames of ultrasound lie nowhere in the patient."""
    first = dcmread(wedge_series(tmp_path / "ct")[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(first, keyword)
    first.Modality, first.NumberOfFrames, first.PixelData = "US", 3, first.PixelData * 3
    path = tmp_path / "film.dcm"
    first.save_as(path)
    report = one(answered([path], artifact="brightness", modality="US", answers=("sr",)), "sr")
    assert len(groups_of(report)) == 3
    _, outcome = answered([path], artifact="bright", modality="US", answers=("seg", "sr"))
    assert outcome.refused["bright"].startswith("expected frames that say where they lie")
