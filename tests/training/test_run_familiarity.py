"""What a run keeps to tell how familiar an image looks, what its answers say of it, and its artifact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from leanmed.data import read_records
from leanmed.evaluation.runs import evaluate_run, fold_answers, split_records
from leanmed.exporting.export import export
from leanmed.figures.familiarity import UNFAMILIAR, Scale
from leanmed.models.familiarity import Descriptor
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.runs import CALIBRATION, DISTANCES, FAMILIARITY, SPLITS, Run, read_csv
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import load
from leanmed.tasks.recipes import open_run
from leanmed.training.calibrate import calibrate
from leanmed.training.familiarity import keep_familiarity, load_familiarity, read_distances, scales_of
from leanmed.training.train import train
from training_fixtures import silent, tiny_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PHANTOMS["eyelids"](tmp_path_factory.mktemp("familiar") / "eyelids", count=90, signal=3.0, side=96)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three folds with enough validation images."""
    recipe = tiny_recipe(split={"folds": 3, "validation": 0.3}, training={"epochs": 1})
    return train(recipe, data, tmp_path_factory.mktemp("familiar-run") / "run", tell=silent)


@pytest.fixture
def own_run(run: Run, tmp_path: Path) -> Run:
    """A copy to damage."""
    return open_run(Path(shutil.copytree(run.path, tmp_path / "run")))


def part_of(run: Run, fold: int, *parts: str) -> set[str]:
    return {row["image"] for row in read_csv(run.path / SPLITS) if row[f"fold_{fold}"] in parts}


def test_a_fold_keeps_the_distances_of_all_images_that_it_was_not_trained_on(run: Run) -> None:
    for fold in range(3):
        distances = read_distances(run, fold)
        assert distances is not None
        assert {part: set(own) for part, own in distances.items()} == {
            part: part_of(run, fold, part) for part in ("validation", "test")
        }
        assert all(distance > 0.2 for own in distances.values() for distance in own.values())


def test_its_scale_leaves_out_what_it_is_tested_on_and_that_of_all_images_leaves_out_nothing(run: Run) -> None:
    known = run.calibration["familiarity"]
    every = [own["validation"] for own in (read_distances(run, fold) for fold in range(3)) if own]
    assert known["whole"] == json.loads(json.dumps(scale(d for own in every for d in own.values()).as_json()))
    for fold, kept in enumerate(known["folds"]):
        tested = part_of(run, fold, "test")
        assert Scale.from_json(kept) == scale(d for own in every for name, d in own.items() if name not in tested)


def scale(distances: object) -> Scale:
    made = Scale.of(list(distances))  # type: ignore[call-overload]
    assert made is not None
    return made


def test_the_answers_of_a_run_say_how_familiar_each_test_image_looked_to_its_fold(run: Run) -> None:
    for fold in range(3):
        own, distances = Scale.from_json(run.calibration["familiarity"]["folds"][fold]), read_distances(run, fold)
        assert distances is not None
        for name, answer in fold_answers(run, run.fold(fold), "test"):
            assert answer.familiar == own.familiar([distances["test"][name]])[0]


def test_the_report_counts_those_that_look_unfamiliar(run: Run, data: Path) -> None:
    familiar = [answer.familiar or 0.0 for fold in range(3) for _, answer in fold_answers(run, run.fold(fold), "test")]
    below = sum(value < UNFAMILIAR for value in familiar)
    (said,) = [remark for remark in evaluate_run(run, data=data).remarks if "look unlike" in remark]
    assert said.startswith(f"{below} of 90 images, {100 * below / 90:.1f} %")


def test_the_artifact_of_a_fold_tells_what_the_run_keeps_of_its_test_images(
    run: Run, data: Path, tmp_path: Path
) -> None:
    artifact = export(run, tmp_path / "artifact", fold=0, tell=silent)
    about = artifact.manifest.familiar
    assert about is not None
    assert about.threshold == UNFAMILIAR
    assert about.images == run.calibration["familiarity"]["folds"][0]["images"]
    assert about.bytes < 200_000
    assert about.suspected["n"] == len(part_of(run, 0, "test"))
    predictor = load(tmp_path / "artifact")
    known = {record.id: record for record in split_records(run, read_records("folder", data))}
    for name, answer in fold_answers(run, run.fold(0), "test"):
        assert predictor.predict_record(known[name]).familiar == pytest.approx(answer.familiar, abs=0.01)
    card = read_artifact(tmp_path / "artifact").card
    assert f"{about.images} validation images of the run's folds set it" in card
    assert "## How it knows an image of another kind" in card
    assert "it cannot say that an image is of another kind" not in card


def test_a_graph_that_tells_otherwise_than_the_model_is_written_without_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanmed.exporting.export.FAMILIAR_TOLERANCE", -1.0)
    told: list[str] = []
    artifact = export(run, tmp_path / "artifact", fold=0, tell=told.append)
    (line,) = [line for line in told if "will not tell how familiar" in line]
    assert "please report it" in line
    assert artifact.manifest.familiar is None
    assert load(tmp_path / "artifact").kind.GRAPHS


def test_a_run_without_what_it_takes_does_not_tell(own_run: Run, data: Path) -> None:
    for fold in range(3):
        (own_run.folder(fold) / DISTANCES).unlink()
        (own_run.folder(fold) / FAMILIARITY).unlink()
    (own_run.path / CALIBRATION).unlink()
    calibrate(own_run, split_records(own_run, read_records("folder", data)))
    assert "familiarity" not in own_run.calibration
    assert {answer.familiar for _, answer in fold_answers(own_run, own_run.fold(0), "test")} == {None}
    assert not [remark for remark in evaluate_run(own_run, data=data).remarks if "look unlike" in remark]


def test_groups_are_left_out_whole_and_a_fold_without_distances_leaves_none() -> None:
    names = [f"{k}" for k in range(60)]
    units = {name: f"g{int(name) // 2}" for name in names}
    distances = [{name: float(name) for name in names[:30]}, {name: float(name) for name in names[30:]}]
    made = scales_of(distances, units, [{"g0"}, {f"g{k}" for k in range(15, 30)}])
    assert made is not None
    assert (made.whole.images, [own.images for own in made.folds]) == (60, [58, 30])
    assert scales_of([distances[0], None], units, [set(), set()]) is None
    assert scales_of([{}, {}], units, [set(), set()]) is None


def test_too_few_training_images_keep_nothing(tmp_path: Path) -> None:
    class Watched:
        def watched(self) -> object:
            return object()

    nothing: list[Descriptor] = []
    keep_familiarity(tmp_path, Watched(), [None] * 19, {"test": ([], nothing)}, 8)  # type: ignore[arg-type, list-item]
    assert list(tmp_path.iterdir()) == []


def test_a_fold_that_kept_nothing_has_none_to_load(own_run: Run) -> None:
    assert load_familiarity(own_run, 0) is not None
    assert load_familiarity(own_run, None) is None
    assert read_distances(own_run, 7) is None
