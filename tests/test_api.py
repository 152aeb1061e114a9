"""The steps of the command line as functions give what the commands give."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import leanmed
from leanmed.api import _overrides
from leanmed.errors import ArtifactError, DataError, MissingExtraError, OutputError, RecipeError, RunError
from leanmed.tasks.recipes import load_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of made photographs, and what the functions made of it."""
    from leanmed.phantoms.eyelids import eyelids

    root = tmp_path_factory.mktemp("api")
    data = eyelids(root / "data", count=90, signal=3.0, seed=0)
    colours = {"model.backbone": "tissue-colours", "model.weights": "none", "model.side": 32, "training.epochs": 2}
    run = leanmed.train(data, root / "run", preset="fast", settings=colours, tell=lambda line: None)
    return root, data, run


def test_a_run_is_judged_as_by_the_command(made):
    root, data, run = made
    by_value = leanmed.evaluate(run, data)
    by_place = leanmed.evaluate(root / "run", data, root / "report")
    written = json.loads((root / "report" / "report.json").read_text())
    assert by_value.figures == by_place.figures
    assert written["metrics"]["auc"]["value"] == by_place.figures["auc"].value
    assert written["protocol"].startswith("One held-out test part")  # of the preset


def test_a_file_of_answers_and_a_second_data_set_are_judged_as_by_the_command(made, tmp_path):
    _, data, run = made
    leanmed.export(run, tmp_path / "artifact", fold=0, tell=lambda line: None)
    command = [sys.executable, "-m", "leanmed", "predict", tmp_path / "artifact", data / "images"]
    subprocess.run([*command, "--out", tmp_path / "answers.jsonl"], check=True, capture_output=True)
    labels = list(run.labels)
    report = leanmed.evaluate(tmp_path / "answers.jsonl", data, labels=labels, also={"again": data}, prevalence=0.1)
    assert report.figures["auc"].n == 90
    assert [row.name for row in report.data_sets] == [data.name, "again"]
    assert {row.prevalence for row in report.predictive_values} >= {0.1}
    with pytest.raises(DataError, match="expected --labels with a file of answers only"):
        leanmed.evaluate(run, data, labels=labels)
    with pytest.raises(ArtifactError, match="expected an artifact, got the run"):
        leanmed.evaluate(run, data, tmp_path / "report", scans=True)


def test_the_figures_come_as_a_table(made):
    _, data, run = made
    report = leanmed.evaluate(run, data)
    assert repr(report).startswith(f"Report of {report.title}:\n")
    assert f"auc: {report.figures['auc'].value:.4f} (" in repr(report)
    assert len(repr(report)) < 2000
    frame = report.to_frame().set_index("figure")
    assert frame.columns.tolist() == ["value", "low", "high", "n"]
    assert frame.loc["auc", "value"] == report.figures["auc"].value


def test_a_fold_is_exported_answers_and_is_judged(made):
    root, data, run = made
    artifact = leanmed.export(run, root / "artifact", fold=0, threshold=0.25, tell=lambda line: None)
    assert artifact.manifest.threshold == 0.25
    before = sorted(path.name for path in root.iterdir())
    report = leanmed.evaluate(root / "artifact", data)
    assert sorted(path.name for path in root.iterdir()) == before, "nothing is written where nothing is asked for"
    answers = leanmed.predict(root / "artifact", data / "images")
    assert len(answers) == 90
    assert report.figures["auc"].n < 90  # those that it was trained on are left out
    with pytest.raises(DataError, match="got both"):
        leanmed.export(run, root / "other", fold=0, ensemble=True)


def test_a_stopped_run_goes_on_and_a_finished_one_is_not_lost(made):
    root, data, _ = made
    with pytest.raises(OutputError, match="it holds a run; add --resume"):
        leanmed.train(data, root / "run", settings={"model.side": 32})
    with pytest.raises(RunError, match=r"model\.side: 32 -> 64"):
        leanmed.train(data, root / "run", settings={"model.side": 64}, resume=True)
    assert leanmed.train(data, root / "run", resume=True, tell=lambda line: None).path == root / "run"


def test_settings_are_what_the_command_line_would_take(tmp_path):
    values = {
        "data.labels": ["a b", "c"],
        "model.weights": tmp_path / "weights.pth",
        "training.epochs": 3,
        "data.strict": True,
    }
    recipe = load_recipe("folder", _overrides(values))
    assert recipe.data.labels == ("a b", "c")
    assert recipe.model.weights == str(tmp_path / "weights.pth")
    assert (recipe.training.epochs, recipe.data.strict) == (3, True)
    assert _overrides(["model.side=64"]) == ["model.side=64"]


def test_an_unknown_preset_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(RecipeError, match="--preset among fast, best"):
        leanmed.train(tmp_path, tmp_path / "run", preset="slow")
    assert not (tmp_path / "run").exists()


def test_the_audit_says_whether_labels_agree(made, capsys):
    root, data, _ = made
    assert leanmed.audit_folder(data, root / "audit")
    assert "90 images" in capsys.readouterr().out
    assert (root / "audit" / "report.html").is_file()
    with pytest.raises(OutputError, match="it holds an audit"):
        leanmed.audit_folder(data, root / "audit")
    assert leanmed.audit_folder(data, root / "audit", overwrite=True)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("leanmed.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"leanmed\[train\]"):
        leanmed.train(tmp_path, tmp_path / "run")
    with pytest.raises(MissingExtraError, match=r"leanmed\[report\]"):
        leanmed.evaluate(tmp_path, tmp_path)
