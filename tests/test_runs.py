from __future__ import annotations

import json
import shutil

import pytest

from leanmed.errors import RecipeError, RunError
from leanmed.evaluation.runs import evaluate_run, fold_answers
from leanmed.runs import FOLD, HISTORY, PREDICTIONS, RECIPE, RUN, SPLITS, read_csv, write_csv
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
    parts = {part: [fold_answers(finished_run, fold, part) for fold in folds] for part in ("validation", "test")}
    tested = [name for answers in parts["test"] for name, _ in answers]
    assert len(tested) == len(set(tested)) == 60
    for number, fold in enumerate(parts["validation"]):
        rows = read_csv(finished_run.path / SPLITS)
        assert {name for name, _ in fold} == {r["image"] for r in rows if r[f"fold_{number}"] == "validation"}


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


@pytest.mark.parametrize(
    "content", ["{", '{"input": "a"}', '{"input": "a", "label": "anemic", "probabilities": 3}', None]
)
def test_a_fold_with_damaged_answers_is_refused(content, own_run, refused):
    run = open_run(own_run)
    if content is None:
        run.answers(1, "test").unlink()
    else:
        run.answers(1, "test").write_text(content + "\n")
    with refused(RunError, "fold-1 is damaged", "remove it, then: leanmed train ... --resume"):
        fold_answers(run, run.fold(1), "test")


def test_a_run_that_kept_its_answers_as_a_table_gives_the_same_report(finished_run, own_run):
    """Format 1 kept predictions.csv: image, part, label and a probability for each label."""
    run = open_run(own_run)
    for fold in run.folds():
        rows = []
        for part in ("validation", "test"):
            rows += [
                {"image": name, "part": part, "label": answer.label, "truth": "", "group": ""}
                | {f"p_{label}": p for label, p in answer.probabilities.items()}
                for name, answer in fold_answers(run, fold, part)
            ]
            run.answers(fold.number, part).unlink()
        write_csv(run.folder(fold.number) / PREDICTIONS, rows)
    for fold in run.folds():
        for part in ("validation", "test"):
            new, old = (dict(fold_answers(r, fold, part)) for r in (finished_run, run))
            assert list(old) == list(new)
            assert [a.label for a in old.values()] == [a.label for a in new.values()]
            assert [a.probability for a in old.values()] == pytest.approx([a.probability for a in new.values()])
    assert evaluate_run(run).figures == evaluate_run(finished_run).figures


def test_rows_survive_a_csv(tmp_path):
    rows = [{"image": 'a "b",c.png', "label": "x\ny"}, {"image": "é", "label": ""}]
    write_csv(tmp_path / PREDICTIONS, rows)
    assert read_csv(tmp_path / PREDICTIONS) == rows
