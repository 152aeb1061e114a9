from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leanmed import data as reading_data
from leanmed.compress.distil import Teacher
from leanmed.data import read_records
from leanmed.data.splits import make_folds
from leanmed.errors import DataError, LeanmedError, OutputError, RunError
from leanmed.evaluation.runs import fold_answers, fold_figures
from leanmed.files import write_text
from leanmed.recipe.recipe import dump_recipe
from leanmed.runs import CALIBRATION, FOLD, HISTORY, MODEL, PROGRESS, RECIPE, REFIT, RUN, SPLITS, Run, read_csv
from leanmed.tasks.recipes import load_recipe, open_run
from leanmed.training import fit
from leanmed.training import train as training
from leanmed.training.loop import BEST, LAST, Loop
from leanmed.training.machines import Machines
from leanmed.training.train import resumed_recipe, train
from training_fixtures import (
    DEATHS,
    made_data,
    outcome,
    silent,
    tiny_recipe,
    train_and_die,
    trained_run,
    weights,
)

ONE_FOLD = {"protocol": "holdout", "validation": 0.25, "test": 0.3}
BRIEF = {"epochs": 1}
ANSWERS = ("answers-validation.jsonl", "answers-test.jsonl")
UNCALIBRATED = ("uncalibrated-validation.jsonl", "uncalibrated-test.jsonl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_data(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_run(tmp_path_factory.getbasetemp())


def assert_same_fold(found: Run, wanted: Run, fold: int) -> None:
    assert outcome(found, fold) == outcome(wanted, fold)
    ours, theirs = weights(found, fold), weights(wanted, fold)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_finished_fold_leaves_what_the_run_folder_promises(unbroken: Run) -> None:
    names = {path.name for path in unbroken.folder(0).iterdir()}
    assert names == {MODEL, *ANSWERS, *UNCALIBRATED, FOLD, HISTORY, "tensorboard"}
    assert {p.name for p in unbroken.path.iterdir()} - {REFIT} == {RECIPE, RUN, SPLITS, CALIBRATION, "fold-0", "fold-1"}
    assert any("tfevents" in path.name for path in (unbroken.folder(0) / "tensorboard").iterdir())
    readable = 0o044
    assert all(path.stat().st_mode & readable == readable for path in unbroken.folder(0).iterdir())


def test_every_image_is_tested_in_one_fold_and_predicted_where_the_split_says(unbroken: Run) -> None:
    splits = read_csv(unbroken.path / SPLITS)
    for fold in unbroken.folds():
        for part in ("validation", "test"):
            wanted = [row["image"] for row in splits if row[f"fold_{fold.number}"] == part]
            assert [name for name, _ in fold_answers(unbroken, fold, part)] == wanted
    tested = [name for fold in unbroken.folds() for name, _ in fold_answers(unbroken, fold, "test")]
    assert sorted(tested) == sorted(row["image"] for row in splits)


def test_the_kept_epoch_is_the_first_of_the_best_and_patience_ends_the_fold(unbroken: Run) -> None:
    for fold in unbroken.folds():
        scores = [float(row["val_f1"]) for row in fold.history]
        assert fold.facts["best_epoch"] == scores.index(max(scores))
        assert len(scores) == fold.facts["epochs"] == min(6, fold.facts["best_epoch"] + 3)


def test_training_again_gives_the_same_weights(unbroken: Run, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    np.random.seed(1234)  # noqa: NPY002 (the state that all of a process shares)
    recipe = unbroken.recipe
    again = train(recipe, data, tmp_path / "run", tell=silent)
    assert_same_fold(again, unbroken, 0)
    assert_same_fold(again, unbroken, 1)


@pytest.fixture(scope="module")
def survivor(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[int | None], list[set[str]], list[str], Run]:
    """One run killed at each of `DEATHS` in turn, then resumed to its end.

    Exit codes; the files of the fold at hand after each death; what the last resume told; the run.
    """
    out = tmp_path_factory.mktemp("killed") / "run"
    processes = multiprocessing.get_context("forkserver")  # forks a clean process that has imported torch
    processes.set_forkserver_preload(["leanmed.training.train"])
    codes, files, told = [], [], []
    for point, fold in zip(DEATHS, (0, 1, 1), strict=True):
        process = processes.Process(target=train_and_die, args=(point, tiny_recipe(), data, out))
        process.start()
        process.join(300)
        codes.append(process.exitcode)
        files.append({path.name for path in (out / f"fold-{fold}").iterdir()})
    run = train(tiny_recipe(), data, out, resume=True, tell=told.append)
    return codes, files, told, run


def test_each_process_died_where_it_should(
    survivor: tuple[list[int | None], list[set[str]], list[str], Run],
) -> None:
    codes, (stopped, interrupted, written), _, run = survivor
    assert codes == [-signal.SIGKILL] * 3
    assert stopped == {LAST, BEST, HISTORY, PROGRESS, "tensorboard"}
    assert interrupted == {LAST, BEST, HISTORY, PROGRESS, "tensorboard"}
    assert written == {LAST, BEST, HISTORY, PROGRESS, "tensorboard", MODEL, *UNCALIBRATED}
    assert len(run.fold(0).history) < run.recipe.training.epochs  # so it did stop early


@pytest.mark.parametrize("fold", [0, 1])
def test_a_run_killed_three_times_ends_as_an_unbroken_one(
    survivor: tuple[list[int | None], list[set[str]], list[str], Run], unbroken: Run, fold: int
) -> None:
    assert_same_fold(survivor[-1], unbroken, fold)
    assert (survivor[-1].path / SPLITS).read_bytes() == (unbroken.path / SPLITS).read_bytes()


def test_a_resume_repeats_no_epoch_of_what_is_trained_already(
    survivor: tuple[list[int | None], list[set[str]], list[str], Run],
) -> None:
    told, run = survivor[2:]
    assert not [line for line in told if "epoch" in line]
    assert f"to look on while it trains: leanmed watch {run.path}" in told


def test_finished_folds_are_not_trained_again(unbroken: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train_fold", None)
    assert train(tiny_recipe(), data, unbroken.path, resume=True, tell=silent).path == unbroken.path


class Stopped(BaseException):
    """As good as a kill for what is left on disk, without a process."""


@pytest.fixture
def stop_in_epoch_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    step = Loop.training_step

    def stopping(loop: Loop, batch: Any, number: int) -> torch.Tensor:
        if (loop.current_epoch, number) == (2, 1):
            raise Stopped
        return step(loop, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "training_step", stopping)
        yield patch


def test_averages_schedule_and_best_epoch_survive_a_stop_and_a_move_of_the_folder(
    data: Path, tmp_path: Path, stop_in_epoch_two: pytest.MonkeyPatch
) -> None:
    settings = {"average": 0.8, "schedule": "cosine", "epochs": 4, "patience": 4, "select_by": "loss"}
    recipe = tiny_recipe(split=ONE_FOLD, training=settings)
    with pytest.raises(Stopped):
        train(recipe, data, tmp_path / "here", tell=silent)
    told = json.loads((tmp_path / "here" / "fold-0" / PROGRESS).read_text())
    assert (told["epoch"], told["epochs"], told["process"]) == (2, 4, os.getpid())
    assert told["images_per_second"] > 0
    assert told["seconds_an_epoch"] > 0
    stop_in_epoch_two.undo()
    resumed = train(recipe, data, (tmp_path / "here").rename(tmp_path / "there"), resume=True, tell=silent)
    whole = train(recipe, data, tmp_path / "whole", tell=silent)
    assert len(whole.fold(0).history) == 4
    assert_same_fold(resumed, whole, 0)


def test_an_existing_run_is_refused_without_resume(unbroken: Run, data: Path) -> None:
    with pytest.raises(OutputError, match="but it holds a run; add --resume to go on with it, or --overwrite"):
        train(unbroken.recipe, data, unbroken.path, tell=silent)


def test_an_older_run_is_replaced_when_the_new_one_is_sure_to_start(data: Path, unbroken: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(unbroken.path, tmp_path / "run"))
    with pytest.raises(RunError, match=r"the teacher .* it is still needed"):
        train(tiny_recipe(), data, out, overwrite=True, teacher=Teacher(open_run(out)), tell=silent)
    with pytest.raises(LeanmedError, match="no_such_network"):
        train(tiny_recipe(model={"backbone": "no_such_network"}), data, out, overwrite=True, tell=silent)
    assert_same_fold(open_run(out), unbroken, 1)
    run = train(tiny_recipe(split=ONE_FOLD, training=BRIEF), data, out, overwrite=True, tell=silent)
    assert len(run.folds()) == 1
    assert {path.name for path in out.iterdir()} == {RECIPE, RUN, SPLITS, CALIBRATION, "fold-0"}


def test_resume_refuses_another_recipe(unbroken: Run, data: Path) -> None:
    other = tiny_recipe(training={"learning_rate": 1e-3})
    with pytest.raises(RunError, match="started with another recipe"):
        train(other, data, unbroken.path, resume=True, tell=silent)


def test_resume_needs_no_settings_again_and_names_those_that_differ(unbroken: Run, tmp_path: Path) -> None:
    asked = load_recipe("folder", ["name=" + unbroken.recipe.name])
    assert resumed_recipe(unbroken.path, asked, []) == unbroken.recipe
    settings = [f"model.side={unbroken.recipe.model.side}", "training.epochs=7"]
    asked = load_recipe("folder", ["name=" + unbroken.recipe.name, *settings])
    assert resumed_recipe(unbroken.path, asked, settings[:1]) == unbroken.recipe
    with pytest.raises(RunError, match=r"other settings than those given now \(training\.epochs: 6 -> 7\)"):
        resumed_recipe(unbroken.path, asked, settings)
    assert resumed_recipe(tmp_path / "new", asked, settings) == asked


def test_a_run_folder_without_an_epoch_can_be_started_anew(data: Path, unbroken: Run, tmp_path: Path) -> None:
    for name in (RECIPE, RUN, SPLITS):
        shutil.copy(unbroken.path / name, tmp_path / name)
    recipe = tiny_recipe(split=ONE_FOLD, training=BRIEF)
    run = train(recipe, data, tmp_path, tell=silent)
    assert open_run(tmp_path).recipe == run.recipe == recipe
    assert len(run.folds()) == 1


def test_resume_refuses_other_data(unbroken: Run, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    first = next(path for path in sorted((other / "images").iterdir()))
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first)
    with pytest.raises(RunError, match="started with another data set"):
        train(unbroken.recipe, other, unbroken.path, resume=True, tell=silent)


def test_resume_refuses_another_split_of_the_same_data(unbroken: Run, data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(unbroken.path, tmp_path / "own"))
    splits = own / SPLITS
    splits.write_text(splits.read_text().replace("test,train", "train,test", 1))
    with pytest.raises(RunError, match="started with another split"):
        train(unbroken.recipe, data, own, resume=True, tell=silent)


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    for resume in (False, True):
        with pytest.raises(OutputError, match="to be new or empty, but it"):
            train(tiny_recipe(), data, tmp_path, resume=resume, tell=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_in_its_first_second_can_be_started_again(data: Path, tmp_path: Path) -> None:
    for name in (SPLITS, f".{RUN}.77.part"):
        (tmp_path / name).write_text("half of it")
    run = train(tiny_recipe(split=ONE_FOLD, training=BRIEF), data, tmp_path, resume=True, tell=silent)
    assert len(read_csv(run.path / SPLITS)) == 40


def test_an_unreadable_image_is_named_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "own"))
    (own / "images" / "00003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"1 of 40 images cannot be read(.|\n)*00003\.png"):
        train(tiny_recipe(), own, tmp_path / "run", tell=silent)
    assert not (tmp_path / "run").exists()


def test_the_test_part_is_opened_once_when_the_epoch_is_chosen_and_no_image_by_the_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    read = reading_data.read_image

    def reading(path: Path, *, side: int | None = None) -> Any:
        if side:  # without, `check_readable` only decodes
            events.append(f"images/{path.name}")
        return read(path, side=side)

    def told(where: Any, name: str) -> Any:
        step = getattr(where, name)

        def telling(*arguments: Any) -> Any:
            events.append(name)
            return step(*arguments)

        return telling

    monkeypatch.setattr(reading_data, "read_image", reading)
    for where, name in ((fit, "_finish_fold"), (training, "calibrate")):
        monkeypatch.setattr(where, name, told(where, name))
    run = train(tiny_recipe(split=ONE_FOLD, training=BRIEF), data, tmp_path / "run", tell=silent)
    parts = {row["image"]: row["fold_0"] for row in read_csv(run.path / SPLITS)}
    at = events.index("_finish_fold")
    assert {parts[name] for name in events[:at]} == {"train", "validation"}
    assert {parts[name] for name in events[at + 1 : -1]} == {"validation", "test"}
    assert events[-1] == "calibrate"
    times = Counter(name for name in events if name in parts)
    # Of what training keeps, no image is read twice; those that are answered are read again, exactly.
    assert {(parts[name], count) for name, count in times.items()} == {("train", 1), ("validation", 2), ("test", 1)}


def table(folder: Path, data: Path, rows: list[dict[str, str]]) -> Path:
    """A data set of some of the made images, under another table."""
    (folder / "images").mkdir(parents=True)
    for row in rows:
        shutil.copy(data / row["image"], folder / row["image"])
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    write_text(folder / "labels.csv", "\n".join(lines) + "\n")
    return folder


def test_a_site_of_one_label_is_tested_alone_and_no_fold_outlives_its_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (data / "labels.csv").open() as file:
        known = [{"image": row["image"], "label": row["label"]} for row in csv.DictReader(file)]
    clinic = [row["image"] for row in known if row["label"] == "non-anemic"][:5]
    others = cycle(["hospital", "school"])
    rows = [row | {"site": "clinic" if row["image"] in clinic else next(others)} for row in known]
    alive: list[weakref.ref[Loop]] = []

    class Watched(Loop):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.append(weakref.ref(self))

    monkeypatch.setattr(fit, "Loop", Watched)
    recipe = tiny_recipe(split={"protocol": "site"}, training=BRIEF)
    root = table(tmp_path / "data", data, rows)
    run = train(recipe, root, tmp_path / "run", tell=silent)
    answers = fold_answers(run, run.fold(0), "test")
    assert sorted(name for name, _ in answers) == clinic
    figures = fold_figures(run, read_records("folder", root), 0)
    assert np.isnan(figures["auc"].value)
    assert figures["recall"].value == np.mean([answer.label == "non-anemic" for _, answer in answers])
    assert [ref() for ref in alive] == [None] * 3


def test_three_labels_train_even_while_one_is_never_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, number in ((label, k) for label in "abc" for k in range(9)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "data" / label / f"{number}.png")
    run = train(tiny_recipe(split=ONE_FOLD, training=BRIEF), tmp_path / "data", tmp_path / "run", tell=silent)
    fold = run.fold(0)
    assert fold.facts["manifest"]["threshold"] is None
    assert len({answer.label for _, answer in fold_answers(run, fold, "validation")}) < 3
    assert fold.facts["validation"]["precision"] is None  # undefined, and so not a number in JSON
    tested = [answer for _, answer in fold_answers(run, fold, "test")]
    assert {(tuple(answer.probabilities), answer.threshold) for answer in tested} == {(("a", "b", "c"), None)}
    sums = [sum(answer.probabilities.values()) for answer in tested]
    assert sums == pytest.approx([1.0] * len(sums), abs=1e-6)


def test_a_last_batch_of_one_image_does_not_stop_batch_normalisation(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(split=ONE_FOLD)
    images = len(make_folds(read_records("folder", data), recipe.split)[0].train)
    recipe = tiny_recipe(split=ONE_FOLD, training=BRIEF | {"batch_size": images - 1})
    assert len(train(recipe, data, tmp_path / "run", tell=silent).fold(0).history) == 1


@pytest.mark.parametrize(
    ("processes", "machines"),
    [(None, {"devices": 2}), (None, {"nodes": 2}), ("2", {}), ("4", {"devices": 2})],
)
def test_as_many_processes_as_devices_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, processes: str | None, machines: dict[str, int]
) -> None:
    if processes:
        monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(RunError, match=r"one process for each of .* torchrun"):
        Machines(**machines)


WITNESS = """
import os, sys, torch
from pathlib import Path
from leanmed.cli import main
from leanmed.training.loop import Loop

def witness(loop):
    path = Path(sys.argv[-1]) / f"fold-{loop.fold}-rank-{os.environ['RANK']}.pt"
    torch.save({"weights": loop.task.state_dict(), "history": loop.history}, path)

Loop.on_train_end = witness
main()
"""


def test_two_processes_end_with_the_same_weights_and_write_one_run_folder(data: Path, tmp_path: Path) -> None:
    """The last argument, `--out`, takes each process's weights too."""
    recipe = tiny_recipe(training={"epochs": 2})
    write_text(tmp_path / "tiny.yaml", dump_recipe(recipe))
    write_text(tmp_path / "witness.py", WITNESS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [str(tmp_path / "witness.py"), "train", str(tmp_path / "tiny.yaml"), "--data", str(data)]
    command += ["--devices", "2", "--strategy", "ddp", "--accelerator", "cpu", "--out", str(tmp_path / "run")]
    result = subprocess.run(
        [*launch, *command],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("fold 1  epoch 1 of") == 1  # one process speaks for both
    run = open_run(tmp_path / "run")
    for fold in run.folds():
        ranks = [torch.load(run.path / f"fold-{fold.number}-rank-{k}.pt") for k in (0, 1)]
        different = [n for n, v in ranks[0]["weights"].items() if not torch.equal(v, ranks[1]["weights"][n])]
        assert different == []
        assert json.dumps(ranks[0]["history"]) == json.dumps(ranks[1]["history"])
        assert sum(len(fold_answers(run, fold, part)) for part in ("test", "validation")) > 20


def test_a_run_whose_folds_were_calibrated_in_two_ways_is_refused_with_what_to_remove(
    unbroken: Run, data: Path, tmp_path: Path, refused: Callable[..., Any]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken.path, out)
    for part in ("validation", "test"):
        (out / "fold-0" / f"uncalibrated-{part}.jsonl").unlink()
    (out / "fold-1" / FOLD).unlink()
    with refused(RunError, "got fold-0", "remove these folders to train them again"):
        train(tiny_recipe(), data, out, resume=True, tell=silent)


def test_a_fold_that_is_trained_again_takes_the_calibration_with_it(
    unbroken: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken.path, out)
    shutil.rmtree(out / "fold-1")
    (out / REFIT).mkdir(exist_ok=True)
    (out / REFIT / FOLD).write_text("{}")  # a model of all images, made before

    def dying(*arguments: Any) -> None:
        raise Stopped

    monkeypatch.setattr(fit, "_finish_fold", dying)
    with pytest.raises(Stopped):
        train(tiny_recipe(), data, out, resume=True, tell=silent)
    assert not (out / CALIBRATION).exists()
    assert not (out / REFIT / FOLD).exists()
    monkeypatch.undo()
    train(tiny_recipe(), data, out, resume=True, tell=silent)
    assert (out / CALIBRATION).read_bytes() == (unbroken.path / CALIBRATION).read_bytes()
