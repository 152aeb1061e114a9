"""Whole scans, and single slices of CT, answered by an artifact that finds what is bright."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import leanmed
from leanmed.cli import main
from leanmed.errors import ArtifactError, DataError, UnsupportedInput
from leanmed.manifest import Input
from leanmed.phantoms.chest import Chest, made_chest
from leanmed.phantoms.scans import drawn, made_grid, write_mhd, write_series
from leanmed.prompts import Prompts
from leanmed.reading.images import find_inputs
from leanmed.reading.lung_slices import prepare, window
from leanmed.reading.volume import open_slice
from leanmed.runtime.batch import Pictures, Shard, answers, predict_file
from leanmed.runtime.predictor import MOST
from leanmed.tasks.detection.candidates import Candidate, Candidates, Mark, montage

TURNED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
SPACING = (1.5, 1.2, 2.5)
DIAMETER = 12.0


def graph(nodes: list[onnx.NodeProto], **constants: Any) -> bytes:
    """A graph of such nodes from `pixels` to `boxes` and `scores`."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", "c"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["m"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString())


def bright_graph() -> bytes:
    """Finds the extent of all that is over 250 in the first channel, if anything is; its score is its width / 16."""
    node, nodes = helper.make_node, []
    nodes += [node("Gather", ["pixels", "first"], ["grey"], axis=2), node("Cast", ["grey"], ["floats"], to=1)]
    nodes += [node("Greater", ["floats", "limit"], ["over"]), node("Cast", ["over"], ["bright"], to=1)]
    for axis, other, side in ((1, "zero", "x"), (0, "one", "y")):
        nodes += [
            node("ReduceMax", ["bright", other], [f"any_{side}"], keepdims=0),
            node("Shape", ["floats"], [f"size_{side}"], start=axis, end=axis + 1),
            node("Squeeze", [f"size_{side}"], [f"n_{side}"]),
            node("Range", ["start", f"n_{side}", "step"], [f"at_{side}"]),
            node("Sub", [f"n_{side}", f"at_{side}"], [f"left_{side}"]),
            node("Add", [f"at_{side}", "step"], [f"right_{side}"]),
        ]
        for end in ("left", "right"):
            nodes += [
                node("Cast", [f"{end}_{side}"], [f"{end}_f{side}"], to=1),
                node("Mul", [f"any_{side}", f"{end}_f{side}"], [f"{end}_m{side}"]),
                node("ReduceMax", [f"{end}_m{side}"], [f"{end}_{side}1"], keepdims=1),
            ]
        nodes += [
            node("Cast", [f"size_{side}"], [f"size_f{side}"], to=1),
            node("Sub", [f"size_f{side}", f"left_{side}1"], [f"low_{side}"]),
        ]
    nodes += [
        node("Concat", ["low_x", "low_y", "right_x1", "right_y1"], ["four"], axis=0),
        node("Reshape", ["four", "row"], ["box"]),
        node("Greater", ["right_x1", "none"], ["found"]),
        node("Compress", ["box", "found"], ["boxes"], axis=0),
        node("Sub", ["right_x1", "low_x"], ["width"]),
        node("Div", ["width", "sixteen"], ["score"]),
        node("Compress", ["score", "found"], ["scores"], axis=0),
    ]
    numbers = {"first": 0, "start": 0, "step": 1, "zero": [0], "one": [1], "row": [1, 4]}
    floats = {"limit": 250, "none": [0], "sixteen": [16]}
    constants = {name: np.int64(value) for name, value in numbers.items()}
    return graph(nodes, **constants, **{name: np.float32(value) for name, value in floats.items()})


def constant_graph(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> bytes:
    """Finds the same in whatever it is shown."""
    constants = {"boxes": boxes, "scores": scores}
    return graph(
        [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v, n)) for n, v in constants.items()]
    )


@pytest.fixture
def make_detector(make_artifact) -> Callable[..., leanmed.Predictor]:
    """`make_detector(threshold=0.9)`: a detector of what is bright in slices of CT."""

    def make(made: bytes | None = None, slices: int = 1, kind: str = "slice", **changes: Any) -> leanmed.Predictor:
        about = {"task": "detection", "labels": ("nodule",), "main_score": "ap50"}
        about |= {"input": Input(side=64, kind=kind, slices=slices)}
        return leanmed.load(make_artifact("detector", made or bright_graph(), **(about | changes)))

    return make


@pytest.fixture
def detector(make_detector) -> leanmed.Predictor:
    return make_detector()


@pytest.fixture(scope="session")
def chest() -> Chest:
    """A short chest with one calcified ball in a lung, and nothing else in the lungs."""
    made = made_chest(1, nodules=0, depth=50)
    place = made.lungs[0][:3] + np.array([9.0, -14.0, 4.0])
    return replace(made, balls=np.array([[*place, DIAMETER / 2, 1200.0]]))


@pytest.fixture(scope="session")
def grid(chest):
    return made_grid(chest, SPACING, direction=TURNED)


@pytest.fixture(scope="session")
def hu(chest, grid) -> NDArray[np.int16]:
    """The chest with noise, (20, 217, 220)."""
    return drawn(chest, grid)


def world(chest, grid) -> Any:
    return grid.world(chest.balls[0, :3] / SPACING)


def written(folder: Path, form: str, hu: NDArray[np.int16], grid: Any) -> Path:
    """The scan in one of the forms it may have, and what names it."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = replace(grid, shape=hu.shape)
    if form == "series":
        write_series(folder, hu, grid)
        return folder
    if form == "mhd":
        write_mhd(folder / "a.mhd", hu, grid)
        return folder / "a.mhd"
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(grid.direction) * grid.spacing, grid.origin
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / form)
    return folder / form


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["mhd", "a.nii", "a.nii.gz", "series"])
def test_a_candidate_lies_where_the_nodule_was_put(form, detector, chest, grid, hu, tmp_path):
    path = written(tmp_path / "scans" / "x", form, hu, grid)
    outcome = predict_file(detector, [path], tmp_path / "out" / "a.jsonl")
    assert (outcome.answered, outcome.failed) == (1, ())
    (line,) = lines(outcome.path)
    keys = ["input", "candidates", "threshold", "slices", "familiar", "picture", "artifact", "version", "seconds"]
    assert list(line) == keys
    (only,) = line["candidates"]
    assert np.linalg.norm(only["world_mm_xyz"] - world(chest, grid)) < 1
    assert np.linalg.norm(only["voxel_xyz"] * np.array(SPACING) - chest.balls[0, :3]) < 1
    assert only["diameter_mm"] == pytest.approx(DIAMETER, abs=1.6)
    assert only["score"] == pytest.approx(DIAMETER / 16, abs=0.1)
    assert (only["answered"], line["threshold"]) == (True, 0.5)
    assert [mark["z"] for mark in only["slices"]] == [10, 11, 12, 13]  # the ball reaches from 23 to 35 mm
    assert line["slices"] == 20
    assert line["artifact"] == detector.artifact.sha256
    with Image.open(tmp_path / "out" / line["picture"]) as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == (255, 200, 0)).all(axis=-1).any()


def test_in_python_a_scan_gives_candidates(detector, chest, grid, hu, tmp_path):
    path = written(tmp_path, "mhd", hu, grid)
    (by_path,), (by_scan,) = detector.find_candidates(str(path)), detector.find_candidates(detector.open_scan(path))
    assert isinstance(by_path, leanmed.Candidate)
    assert by_path == by_scan
    whole = detector.predict(path)
    assert isinstance(whole, leanmed.Candidates)
    assert (whole.found, whole.threshold) == ((by_path,), 0.5)
    assert whole.scan.volume.grid.shape == hu.shape
    assert detector.predict_scan(path).as_json() == whole.as_json()
    assert np.linalg.norm(by_path.world - world(chest, grid)) < 1


@pytest.mark.parametrize(("slices", "alike"), [(1, True), (3, False)])
def test_the_channels_are_those_the_artifact_was_taught_on(slices, alike, make_detector, grid, hu, tmp_path):
    taught, shown = make_detector(slices=slices), []
    taught._seen = lambda pixels: shown.append(pixels) or ((np.empty((0, 4)), np.empty(0)), None)
    assert taught.find_candidates(written(tmp_path, "mhd", hu, grid)) == []
    assert all((pixels[..., 0] == pixels[..., 2]).all() for pixels in shown) == alike


@pytest.mark.parametrize("changes", [{}, {"kind": "photograph"}])
@pytest.mark.parametrize("name", ["find_candidates", "predict_scan"])
def test_other_artifacts_refuse_scans(name, changes, tiny_artifact, make_detector, grid, hu, tmp_path, refused):
    other = make_detector(**changes) if changes else leanmed.load(tiny_artifact)
    with refused(ArtifactError, "for slices of scans, got one for a photograph; take another artifact"):
        getattr(other, name)(written(tmp_path, "mhd", hu, grid))


def test_a_classifier_of_slices_refuses_scans(make_artifact, grid, hu, tmp_path, refused):
    slices = leanmed.load(make_artifact(input=Input(side=32, kind="slice", slices=1)))
    with refused(ArtifactError, "expected an artifact that searches scans, got one that gives a label for each slice"):
        slices.predict(written(tmp_path, "mhd", hu, grid))


def test_a_folder_that_holds_a_series_is_one_input_however_deep(grid, hu, tmp_path):
    written(tmp_path / "b" / "deep" / "series", "series", hu[:3], grid)
    written(tmp_path / "b" / "deep", "mhd", hu[:3], grid)
    for path in ("b/deep/series/view.png", "b/deep/one.dcm", ".git/a.mhd", "c.nii.gz"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_inputs([str(tmp_path)], scans=True)]
    assert names == ["c.nii.gz", "b/deep/a.mhd", "b/deep/one.dcm", "b/deep/series", "b/deep/series/view.png"]
    series = tmp_path / "b/deep/series"
    assert list(find_inputs([str(series)], scans=True)) == [series, series / "view.png"]
    assert [path.name for path in find_inputs([str(series)])] == ["0001.dcm", "0002.dcm", "0003.dcm", "view.png"]


def test_slices_without_a_suffix_are_a_series_and_other_dicom_is_none(grid, hu, tmp_path):
    for name, modality in (("ct", "CT"), ("photographs", "XC"), ("one", "CT")):
        (tmp_path / name).mkdir()
        for path in write_series(tmp_path / name, hu[: 1 if name == "one" else 3], grid, Modality=modality):
            if name == "ct":
                path.rename(path.with_suffix(""))
    names = [path.relative_to(tmp_path).as_posix() for path in find_inputs([str(tmp_path)], scans=True)]
    assert names == ["ct", "one/0001.dcm", *(f"photographs/000{k}.dcm" for k in (1, 2, 3))]


def test_a_classifier_answers_the_slices_of_a_series_one_by_one(run, tiny_artifact, grid, hu, tmp_path):
    series = written(tmp_path / "series", "series", hu[:3], grid)
    assert run(tiny_artifact, series, "--out", tmp_path / "a.jsonl") == 0
    found = lines(tmp_path / "a.jsonl")
    assert [Path(line["input"]).name for line in found] == ["0001.dcm", "0002.dcm", "0003.dcm"]
    assert all("label" in line for line in found)


@pytest.fixture
def run(monkeypatch) -> Callable[..., int]:
    """`run(artifact, ...)`: the exit status of `leanmed predict`."""

    def call(*arguments: Any) -> int:
        monkeypatch.setattr("sys.argv", ["leanmed", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


@pytest.fixture
def bad_scans(grid, hu, tmp_path) -> dict[Path, str]:
    """Scans that must be refused, and words of the reason."""
    few, root = hu[8:13], tmp_path / "bad"
    found = {written(root / "no-raw", "mhd", few, grid): ".raw"}
    (root / "no-raw" / "a.raw").unlink()
    found[written(root / "no-lungs", "mhd", np.full_like(few, 40), grid)] = "with lungs in it, found none"
    wide = replace(grid, spacing=(40.0, 40.0, 2.5))
    found[written(root / "wide", "mhd", few, wide)] = "at most 2000 mm, got 8680 x 8800 mm; check the spacing"
    found[written(root / "two", "series", few, grid)] = "expected one series, got 2"
    (root / "other").mkdir()
    for path in write_series(root / "other", few, grid):
        path.rename(root / "two" / f"other-{path.name}")
    (root / "other").rmdir()
    for name, changes, reason in (
        ("tilted", {"GantryDetectorTilt": 12}, "a gantry that is not tilted"),
        ("no-slope", {"RescaleSlope": None}, "expected RescaleSlope, got nothing"),
    ):
        (root / name).mkdir()
        write_series(root / name, few, grid, **changes)
        found[root / name] = reason
    mixed = written(root / "mixed", "series", few, grid)
    write_series(mixed, few[:1], grid, Modality="SR")
    found[mixed] = "0001.dcm: expected CT in Hounsfield units, got SR"
    return dict(sorted(found.items()))


def test_what_is_wrong_with_a_scan_is_its_line_and_the_rest_goes_on(run, detector, bad_scans, grid, hu, tmp_path):
    good = written(tmp_path / "good", "mhd", hu, grid)
    artifact, out = tmp_path / "detector", tmp_path / "a.jsonl"
    assert run(artifact, tmp_path / "bad", good, "--out", out, "--workers", "2") == 1
    *failed, answered = lines(out)
    assert [Path(line["input"]) for line in failed] == list(bad_scans)
    assert all(line.keys() == {"input", "error"} for line in failed)
    assert not [line for line in failed if bad_scans[Path(line["input"])] not in line["error"]]
    assert len(answered["candidates"]) == 1
    assert len(list((tmp_path / "a-montages").iterdir())) == 1


@pytest.fixture
def tree(grid, hu, tmp_path) -> list[Path]:
    """A series, a scan, a picture of a slice, a scan that fails, and a scan of the same name as the first."""
    root, few = tmp_path / "tree", hu[8:15]
    written(root / "a", "series", few, grid)
    for name in ("b", "c", "d"):
        written(root / name, "mhd", few, grid)
    (root / "c" / "a.raw").unlink()
    Image.fromarray(window(hu[11])).save(root / "b" / "slice.png")
    return list(find_inputs([str(root)], scans=True))


def timeless(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(path)]


def test_scans_among_images_are_resumed_at_any_line(detector, tree, tmp_path):
    whole = predict_file(detector, tree, tmp_path / "whole.jsonl")
    assert [next(k for k in ("candidates", "boxes", "error") if k in line) for line in lines(whole.path)] == [
        "candidates",
        "candidates",
        "boxes",
        "error",
        "candidates",
    ]
    content = whole.path.read_bytes().splitlines(keepends=True)
    pictures = [line["picture"] for line in lines(whole.path) if "picture" in line]
    assert len(set(pictures)) == len(list((tmp_path / "whole-montages").iterdir())) == 3
    for kept in range(6):
        part = tmp_path / str(kept) / "whole.jsonl.part"
        part.parent.mkdir()
        part.write_bytes(b"".join(content[:kept]) + b'{"input": "half')
        outcome = predict_file(detector, tree, part.with_suffix(""), resume=True)
        assert timeless(outcome.path) == timeless(whole.path)
        made = sorted(path.name for path in part.parent.glob("whole-montages/*"))
        expected = [line["picture"] for line in lines(whole.path)[kept:] if "picture" in line]
        assert made == sorted(Path(name).name for name in expected)


def test_shards_answer_each_scan_once_and_share_the_folder_of_montages(detector, tree, tmp_path):
    found = []
    for index in (1, 2):
        outcome = predict_file(detector, tree, tmp_path / "a.jsonl", shard=Shard(index, 2))
        assert outcome.path == tmp_path / f"a-{index}-of-2.jsonl"
        found += lines(outcome.path)
    assert sorted(line["input"] for line in found) == sorted(map(str, tree))
    pictures = [tmp_path / line["picture"] for line in found if "picture" in line]
    assert sorted(pictures) == sorted((tmp_path / "a-montages").iterdir())


@pytest.mark.parametrize(
    "name",
    ["../../up.mhd", "..", ".", "a/..", "a/../b.mhd", "..\\up.mhd", "é\udcff\n.mhd", "x" * 200 + ".mhd", "-rf.mhd"],
)
def test_no_name_leads_out_of_the_folder_of_montages(name, monkeypatch, tmp_path):
    monkeypatch.setattr("leanmed.runtime.batch.is_scan", lambda path: True)
    paths = [Path(name), Path("elsewhere", name)]
    found = list(answers(stub(lambda path: nothing()), paths, 1, Pictures(tmp_path / "made" / "a-montages")))
    shown = [tmp_path / "made" / line["picture"] for line in found]
    assert len(set(shown)) == 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(shown)
    for path, line in zip(shown, found, strict=True):
        assert path.parent == tmp_path / "made" / "a-montages"
        assert line["picture"] == f"a-montages/{path.name}"
        assert path.name.isascii()
        assert path.name[0].isalnum()
        assert len(path.name) < 100
        assert not set(path.name) & set("/\\\n :")


def stub(search: Callable[[Path], Candidates]) -> Any:
    """What answers scans as a detector does."""
    known = SimpleNamespace(sha256="f" * 64)
    return SimpleNamespace(takes_scans=True, artifact=known, predict_scan=search, remark=lambda familiar: "")


def nothing(scan: Any = None) -> Candidates:
    """No candidates in a scan."""
    return Candidates((), 0.5, scan or SimpleNamespace(searched=(), volume=SimpleNamespace(notes=())))


@pytest.mark.parametrize("workers", [1, 3])
def test_no_worker_holds_more_than_one_scan(workers, monkeypatch):
    lock, held, most = Lock(), 0, 0
    monkeypatch.setattr("leanmed.runtime.batch.is_scan", lambda path: True)

    class Held:
        searched = ()
        volume = SimpleNamespace(notes=())

        def __init__(self) -> None:
            nonlocal held, most
            with lock:
                held += 1
                most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            with lock:
                held -= 1

    counting = stub(lambda path: nothing(Held()))
    assert len(list(answers(counting, map(Path, map(str, range(40))), workers))) == 40
    assert 1 <= most <= workers
    assert held == 0


def test_the_best_fifty_are_written_and_those_below_the_threshold_are_not_answered(make_detector, grid, hu, tmp_path):
    corners = np.array([(5 * k % 150, 5 * (5 * k // 150) + 3) for k in range(60)], np.float32)
    scores = np.linspace(0.9, 0.31, 60, dtype=np.float32)
    faint = make_detector(constant_graph(np.hstack([corners, corners + 4]), scores), threshold=0.605)
    outcome = predict_file(faint, [written(tmp_path, "mhd", hu[8:11], grid)], tmp_path / "a.jsonl")
    (line,) = lines(outcome.path)
    assert [found["score"] for found in line["candidates"]] == pytest.approx(scores[:MOST].tolist(), abs=1e-4)
    assert [found["answered"] for found in line["candidates"]] == [True] * 30 + [False] * 20


def test_boxes_below_the_threshold_are_grey_and_the_notice_is_whole(detector, grid, hu, tmp_path):
    scan = detector.open_scan(written(tmp_path, "mhd", hu[8:12], grid))
    found = [
        Candidate(score, (0, 0, 1), (0, 0, 0), 12.0, (Mark(1, (60.0, 90.0, 68.0, 100.0), score),))
        for score in (0.5, 0.4999)
    ]
    two, one = (np.asarray(montage(scan, some, threshold=0.5)) for some in (found, found[:1]))
    coloured, grey = ((two == colour).all(axis=-1)[:192] for colour in ((255, 200, 0), (150, 150, 150)))
    assert coloured[:, :192].sum() == grey[:, 194:386].sum() > 100
    assert not coloured[:, 194:].any()
    for picture in (two, one):  # the line below ends before the edge
        written_at = np.flatnonzero((picture[-16:] > 200).any(axis=(0, 2)))
        assert 386 < written_at.max() < picture.shape[1] - 1


UNSOUND = [
    ((1, 2, 5, 6), 1.5),
    ((1, 2, 5, 6), np.nan),
    ((1, np.nan, 5, 6), 0.5),
    ((5, 5, 5, 5), 0.5),
    ((60, 60, 20, 20), 0.5),
    ((1, 1, 1e30, 1e30), 0.5),
]


@pytest.mark.parametrize(("box", "score"), UNSOUND)
def test_a_graph_that_is_unsound_is_the_scan_s_error(box, score, make_detector, grid, hu, tmp_path):
    unsound = make_detector(constant_graph(np.float32([box]), np.float32([score])))
    outcome = predict_file(unsound, [written(tmp_path, "mhd", hu[8:12], grid)], tmp_path / "a.jsonl")
    assert "expected boxes with a size near the image and scores in [0, 1]" in outcome.failed[0][1]
    assert not (tmp_path / "a-montages").exists()


def test_boxes_in_numbers_of_pixels_lie_half_a_pixel_further_in_the_patient(make_detector, grid, hu, tmp_path):
    path = written(tmp_path, "mhd", hu[8:12], grid)
    box = constant_graph(np.float32([[40, 60, 50, 70]]), np.float32([0.9]))
    found = {}
    for origin in ("corner", "centre"):
        about = Input(side=64, kind="slice", slices=1, origin=origin)
        (found[origin],) = make_detector(box, input=about).find_candidates(path)
    moved = np.subtract(found["centre"].world, found["corner"].world)
    assert moved == pytest.approx(np.array([0.5, 0.5, 0]), abs=0.01)
    x, y, z = np.subtract(found["centre"].voxel, found["corner"].voxel)  # as stored, the other way
    assert (x * SPACING[0], y * SPACING[1], z) == pytest.approx((-0.5, -0.5, 0), abs=0.01)


def test_a_glob_finds_the_folders_of_series(grid, hu, tmp_path):
    folder = written(tmp_path / "scan-1", "series", hu[8:12], grid)
    (tmp_path / "scan-2").mkdir()
    assert list(find_inputs([str(tmp_path / "scan-*")], scans=True)) == [folder]


# --- single slices


def slice_file(folder: Path, grid: Any, hu: NDArray[np.int16], z: int = 11, **changes: Any) -> Path:
    folder.mkdir()
    return write_series(folder, hu[z : z + 1], grid, **changes)[0]


def test_boxes_in_a_dicom_slice_are_in_pixels_as_stored(detector, chest, grid, hu, tmp_path):
    path = slice_file(tmp_path / "one", grid, hu)
    outcome = predict_file(detector, list(find_inputs([str(path)], scans=True)), tmp_path / "a.jsonl")
    (line,) = lines(outcome.path)
    (box,) = line["boxes"]
    (x, y, z), (dx, dy, dz) = chest.balls[0, :3], SPACING
    assert [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] == pytest.approx([x / dx + 0.5, y / dy + 0.5], abs=0.6)
    across = 2 * np.sqrt((DIAMETER / 2) ** 2 - (11 * dz - z) ** 2)
    assert [box[2] - box[0], box[3] - box[1]] == pytest.approx([across / dx, across / dy], abs=1.4)
    by_bytes = detector.predict(path.read_bytes())
    assert isinstance(by_bytes, leanmed.Detections)
    assert [list(box) for box in by_bytes.boxes] == line["boxes"]


def test_prompts_in_pixels_of_a_dicom_slice_as_stored_are_shown_where_an_answer_there_came_from(
    detector, grid, hu, tmp_path, refused
):
    frame = detector.frame(slice_file(tmp_path / "one", grid, hu))
    (seen,) = detector.decide(frame).boxes
    (stored,) = detector.answer(frame).boxes
    assert stored != pytest.approx(seen, abs=5)  # of other pixels, cut out, and of other axes
    found = frame.shown(Prompts((stored[:2],), box=stored))
    assert found.box == pytest.approx(seen, abs=1e-6)
    with refused(DataError, "expected points and boxes inside the image, with x from"):
        frame.shown(Prompts(((0.0, 0.0),)))  # the frame is cut out around the lungs


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RescaleSlope": None}, "expected RescaleSlope, got nothing"),
        ({"GantryDetectorTilt": 12}, "a gantry that is not tilted"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "expected axial slices"),
        ({"ImageOrientationPatient": [0.8, 0, 0.6, 0.36, 0.8, -0.48]}, "got oblique ones"),
        ({"PixelData": b"\0\0"}, "reading failed"),
        ({"PixelData": np.full((217, 220), 1064, "<i2").tobytes()}, "with lungs in it, found none"),
    ],
)
def test_a_ct_slice_that_has_no_single_reading_is_refused(changes, reason, detector, grid, hu, tmp_path):
    path = slice_file(tmp_path / "one", grid, hu, **changes)
    outcome = predict_file(detector, [path], tmp_path / "a.jsonl")
    ((name, error),) = outcome.failed
    assert name == str(path)
    assert reason in error
    assert "\n" not in error


def test_other_dicom_and_other_artifacts_see_what_the_display_shows(make_detector, grid, hu, tmp_path):
    photograph = slice_file(tmp_path / "xc", grid, hu, Modality="XC", WindowCenter=1000, WindowWidth=100)
    ct = slice_file(tmp_path / "ct", grid, hu, WindowCenter=1000, WindowWidth=100)
    shown = {}
    for kind in ("slice", "photograph"):
        detector = make_detector(kind=kind)
        nothing_found = np.empty((0, 4)), np.empty(0)
        detector._seen = lambda pixels, kind=kind, end=nothing_found: shown.update({kind: pixels}) or (end, None)
        detector.predict(photograph if kind == "slice" else ct)
    assert shown["slice"].shape == (*hu.shape[1:], 4)
    assert (shown["slice"] == shown["photograph"]).all()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_an_array_in_hounsfield_units_is_windowed(dtype, detector):
    hu = np.full((40, 50), -860, dtype)
    hu[10:16, 20:29] = 3000
    expected = leanmed.Detections(((20.0, 10.0, 29.0, 16.0),), (9 / 16,), threshold=0.5)
    assert detector.predict(hu) == expected
    assert detector.predict(np.stack([hu] * 3, axis=-1)) == expected
    assert detector.predict(window(hu)) == expected
    assert detector.predict(np.full((40, 50), -1000, dtype)) == leanmed.Detections((), (), threshold=0.5)


@pytest.mark.parametrize("modality", ["MR", ""])
def test_dicom_of_another_modality_is_refused_by_a_detector_for_ct(modality, detector, grid, hu, tmp_path, refused):
    path = slice_file(tmp_path / "other", grid, hu, Modality=modality)
    with refused(UnsupportedInput, "expected CT", modality or "unknown", "give CT"):
        detector.predict(path)


@pytest.mark.parametrize("pixels", [np.full((40, 50), 200, np.int64), np.full((40, 50), 0.5, np.float32)])
def test_arrays_that_cannot_be_hounsfield_units_are_refused(pixels, detector, refused):
    with refused(UnsupportedInput, "expected Hounsfield units", "uint8"):
        detector.predict(pixels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_hounsfield_units_that_are_not_finite_are_refused(value, detector, refused):
    hu = np.full((40, 50), -860, np.float32)
    hu[3, 4] = value
    with refused(UnsupportedInput, "expected finite Hounsfield units, got NaN or infinity; put -1000, air"):
        detector.predict(hu)


def test_hounsfield_units_have_no_alpha_and_photographs_no_hounsfield_units(detector, make_detector, refused):
    with refused(UnsupportedInput, "height x width x 1 or 3, got int64 of shape (40, 50, 4)", "leave alpha out"):
        detector.predict(np.zeros((40, 50, 4), np.int64))
    with refused(UnsupportedInput, "expected uint8, uint16 or bool, got int16, whose range is not known"):
        make_detector(kind="photograph").predict(np.zeros((40, 50), np.int16))


def test_a_slice_by_itself_is_made_ready_as_a_scan_of_one(grid, hu, tmp_path):
    volume = open_slice(slice_file(tmp_path / "one", grid, hu))
    assert (volume.grid.shape, volume.grid.spacing) == ((1, *hu.shape[1:]), (1.5, 1.2, 1.0))
    np.testing.assert_array_equal(volume.voxels(0, 1), hu[11:12])
    (piece,) = prepare(volume).slices()
    assert (piece.pixels[..., 0] == piece.pixels[..., 2]).all()


def test_the_names_of_the_interface_can_be_imported():
    assert {"Boxes", "Candidate", "Candidates", "Detections", "Prediction"} <= set(dir(leanmed))
    assert leanmed.Boxes.__module__ == "leanmed.records"
