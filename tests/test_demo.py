from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel
import pytest

from leanmed import demo
from leanmed.demo import MARK, NERVES, NODULES, PROSTATE, found_in_scans, run_demo
from leanmed.errors import OutputError
from leanmed.files import write_json, write_text
from leanmed.recipe.recipe import Recipe
from leanmed.tasks.recipes import load_recipe

Refused = Callable[..., AbstractContextManager[None]]


FEW = {
    "demo": ("training.epochs=1", "split.folds=2", "split.validation=0.25", "model.side=32"),
    "demo-nodules": ("training.epochs=1", "model.side=96", "detector.crops=1", "detector.width=8"),
    "demo-prostate": ("training.epochs=1", "model.side=32", "split.validation=0.45", "evaluation.resamples=100"),
    "demo-nerves": (
        "training.epochs=1",
        "model.side=32",
        "model.backbone_args={width: 16, depth: 4, heads: 2, window: 2, channels: 16}",
        "evaluation.resamples=100",
    ),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and epochs; every step is taken."""

    def shortened(name: str, settings: Sequence[str] = ()) -> Recipe:
        return load_recipe(name, [*settings, *FEW[name]])

    monkeypatch.setattr(demo, "COUNT", 60)
    monkeypatch.setattr(demo, "load_recipe", shortened)
    for name, few in {
        "SITES": 2,
        "CASES": 2,
        "SLICES": 4,
        "SIDE": 32,
        "PATIENTS": 20,
        "FRAMES": 1,
        "BEAM": 32,
        "NEW_PATIENTS": 2,
    }.items():
        monkeypatch.setattr(demo, name, few)


@pytest.mark.usefixtures("short")
def test_the_demo_leaves_what_the_readme_promises(tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "leanmed-demo"

    run_demo(out, tell=lambda line: None)

    for name in ("report/report.html", "report/report.json", "artifact/leanmed.json", "artifact/CARD.md"):
        assert (out / name).is_file(), name
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 60
    assert all(line["probability"] == line["probabilities"]["anemic"] for line in lines)
    assert all(Path(line["input"]).is_file() for line in lines)
    with refused(OutputError, "--overwrite"):
        run_demo(out, tell=lambda line: None)


@pytest.mark.usefixtures("short")
def test_the_demo_of_nodules_goes_from_slices_to_pictures_of_whole_scans(tmp_path: Path, refused: Refused) -> None:
    out, told = tmp_path / "leanmed-demo", list[str]()

    run_demo(out, NODULES, tell=told.append)

    for name in ("report/report.html", "report/report.json", "artifact/leanmed.json", "phantoms/scans/annotations.csv"):
        assert (out / name).is_file(), name
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["made.10000.mhd", "made.10001.mhd"]
    assert all((out / line["picture"]).is_file() for line in lines)
    score, planted, pictures, report = told[-4:]
    assert score.startswith("AP at IoU 0.5 ")
    assert " of 6 planted nodules are among the " in planted
    assert (pictures.split(": ")[0], report) == (
        f"open {out / 'answers-montages'}",
        f"open {out / 'report' / 'report.html'}",
    )
    with refused(OutputError, "--overwrite"):
        run_demo(out, tell=lambda line: None)


@pytest.mark.usefixtures("short")
def test_the_demo_of_the_prostate_goes_from_a_teacher_to_masks_of_whole_volumes(
    tmp_path: Path, refused: Refused
) -> None:
    out, told = tmp_path / "leanmed-demo", list[str]()

    run_demo(out, PROSTATE, tell=told.append)

    assert told[0] == "1  making 4 MR volumes of 2 sites, and 2 of another: made data, no patients"
    assert json.loads((out / "run" / "run.json").read_text())["teacher"]["backbone"] == "mobilenetv2_035"
    for name in ("report/report.html", "report/report.json", "artifact/leanmed.json", "artifact/CARD.md"):
        assert (out / name).is_file(), name
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["Case00.nii.gz", "Case01.nii.gz"]
    for line in lines:
        assert (out / line["picture"]).is_file()
        mask, volume = nibabel.load(out / line["file"]), nibabel.load(line["input"])
        assert mask.shape == volume.shape == (32, 32, 4)
        assert (mask.affine == volume.affine).all()
    score, volumes, pictures, files, report = told[-5:]
    assert score.startswith("Dice 0.")
    assert score.endswith(") on made data")
    assert " in 2 whole volumes of a site that no model saw (" in volumes
    assert pictures.startswith(f"open {out / 'answers-montages'}: ")
    assert files.startswith(f"open {out / 'answers-files'}: ")
    assert report == f"open {out / 'report' / 'report.html'}"


@pytest.mark.usefixtures("short")
def test_the_demo_of_nerves_goes_from_frames_to_pictures_of_masks_at_points(tmp_path: Path) -> None:
    out, told = tmp_path / "leanmed-demo", list[str]()

    run_demo(out, NERVES, tell=told.append)

    for name in ("report/report.html", "artifact/model.onnx", "artifact/decoder.onnx", "artifact/localiser.onnx"):
        assert (out / name).is_file(), name
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == len(list((out / "pictures").glob("*.png"))) == 2
    assert all(len(line["pointed"]) == 1 and (out / line["file"]).is_file() for line in lines)
    points = next(line for line in told if "by the localiser's points" in line)
    assert points.endswith("by points of the true masks, in 2 frames of patients whom no model saw")
    assert f"open {out / 'pictures'}: {NERVES.pictures}" in told


def test_a_planted_nodule_is_found_within_half_its_diameter(tmp_path: Path) -> None:
    """Of scan a, a hit below the threshold, the same again, and a false alarm; of b, a miss by 4 mm of 6 mm's half."""
    rows = ("seriesuid,coordX,coordY,coordZ,diameter_mm", "a,10,20,30,6", "a,50,50,50,6", "b,10,20,30,6")
    (tmp_path / "annotations.csv").write_text("\n".join(rows))
    places = {"a": [((10, 20, 32), 0.4), ((10, 21, 30), 0.3), ((90, 90, 90), 0.9)], "b": [((10, 20, 34), 0.8)]}
    answers = [
        {
            "input": f"scans/{uid}.mhd",
            "candidates": [{"world_mm_xyz": at, "score": score, "answered": score > 0.5} for at, score in found],
        }
        for uid, found in places.items()
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))

    told = found_in_scans(tmp_path / "answers.jsonl", tmp_path)

    expected = "1 of 3 planted nodules are among the 4 candidates in the scans, 0 among the 2 that reach the threshold"
    assert told == expected


@pytest.mark.usefixtures("short")
def test_an_older_demo_is_back_when_the_new_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "leanmed-demo"
    write_json(out / MARK, {"note": "made data, no patients"})
    write_text(out / "report" / "report.html", "the older report")
    made: list[Path] = []

    def fail(recipe: Recipe, data: Path, *arguments: object, **options: object) -> None:
        made.extend((data / "images").iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train", fail)
    with pytest.raises(KeyboardInterrupt):
        run_demo(out, overwrite=True, tell=lambda line: None)
    assert len(made) == 60
    assert {path.name for path in out.iterdir()} == {"phantoms", "report"}
    assert (out / "report" / "report.html").read_text() == "the older report"
    assert [path.name for path in tmp_path.iterdir()] == ["leanmed-demo"]


def test_the_demo_replaces_nothing_but_a_demo(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with refused(OutputError, "to be new or empty, or to hold nothing but a demo, but it"):
        run_demo(tmp_path, overwrite=True, tell=lambda line: None)
    (tmp_path / "phantoms").mkdir()
    (tmp_path / MARK).write_text("{}")
    with refused(OutputError, "to hold nothing but a demo, but it holds thesis.txt"):
        run_demo(tmp_path, overwrite=True, tell=lambda line: None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
