from __future__ import annotations

import json
import shutil

import pytest

from leanmed.errors import RecipeError, RunError
from leanmed.runs import FOLD, HISTORY, PREDICTIONS, RECIPE, RUN, read_csv, write_csv
from leanmed.tasks.recipes import open_run


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run to damage."""
    return shutil.copytree(finished_run.path, tmp_path / "run")


def test_a_finished_run_is_read_back(finished_run):
    folds = finished_run.folds()
    assert finished_run.labels == ("non-anemic", "anemic")
    assert finished_run.recipe.split.folds == 2
    assert [fold.number for fold in folds] == [0, 1]
    assert [row["epoch"] for row in folds[0].history] == ["0", "1"]
    tested = [row["image"] for fold in folds for row in fold.part("test")]
    assert len(tested) == len(set(tested)) == 60


def test_a_folder_that_is_no_run_is_refused(tmp_path, refused):
    for path in (tmp_path, tmp_path / "nowhere"):
        with refused(RunError, str(path), "expected a run folder (with run.json and recipe.yaml)", "leanmed train"):
            open_run(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}", '{"labels": [], "folds": 2}'])
def test_a_damaged_run_is_refused(content, own_run, refused):
    (own_run / RUN).write_text(content)
    with refused(RunError, RUN, "is damaged", "train again into another folder"):
        open_run(own_run)


def test_what_a_run_lacks_is_named(own_run, refused):
    facts = json.loads((own_run / RUN).read_text())
    del facts["leak"], facts["labels"]
    (own_run / RUN).write_text(json.dumps(facts))
    with refused(RunError, "it lacks labels, leak"):
        open_run(own_run)


def test_a_run_with_a_damaged_recipe_is_refused(own_run, refused):
    (own_run / RECIPE).write_text("name: x\nmodel: {side: 1}\n")
    with refused(RecipeError, RECIPE, "model.side"):
        open_run(own_run)


def test_an_unfinished_fold_says_how_to_go_on(own_run, refused):
    (own_run / "fold-1" / FOLD).unlink()
    run = open_run(own_run)
    assert run.done(0)
    assert not run.done(1)
    with refused(RunError, "fold 1 of", "is not finished; go on with: leanmed train ... --resume"):
        run.folds()


@pytest.mark.parametrize("number", [-1, 2])
def test_a_fold_that_does_not_exist_is_refused(number, finished_run, refused):
    with refused(RunError, "expected a fold of", f"from 0 to 1, got {number}"):
        finished_run.fold(number)


def test_a_damaged_fold_is_refused(own_run, refused):
    run = open_run(own_run)
    (own_run / "fold-0" / FOLD).write_text("{")
    (own_run / "fold-1" / HISTORY).unlink()
    for number in (0, 1):
        with refused(RunError, f"fold-{number} is damaged", "remove it, then: leanmed train ... --resume"):
            run.fold(number)


def test_rows_survive_a_csv(tmp_path):
    rows = [{"image": 'a "b",c.png', "label": "x\ny"}, {"image": "é", "label": ""}]
    write_csv(tmp_path / PREDICTIONS, rows)
    assert read_csv(tmp_path / PREDICTIONS) == rows
