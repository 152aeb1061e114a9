from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image

import leanmed
from explained_fixtures import mask_graph
from leanmed.cli import app, main
from leanmed.errors import ArtifactError
from leanmed.manifest import Input
from leanmed.runs import read_csv
from made_hospitals import origin_of, write_hospital

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("predict", ...)`: exit status, standard output and standard error of `leanmed predict ...`."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return command


def examples() -> list[tuple[str, str]]:
    found = [
        (name, re.findall(r"Example: `(leanmed [^`]+)`", command.help or "")) for name, command in COMMANDS.items()
    ]
    return [(name, lines[0] if lines else "") for name, lines in found]


@pytest.mark.parametrize(("name", "example"), examples())
def test_the_help_of_every_command_has_an_example_that_it_would_take(name, example, run):
    words = shlex.split(example)
    assert words[:2] == ["leanmed", name]
    COMMANDS[name].make_context(name, words[2:])
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"Example: leanmed {name}" in re.sub(r"\s+", " ", out)


def test_every_option_is_explained():
    options = [option for command in COMMANDS.values() for option in command.params if option.name != "help"]
    assert [option.name for option in options if not option.help] == []


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"leanmed {leanmed.__version__}\n", "")


def test_recipes_are_listed_with_every_key(run):
    status, out, _ = run("recipe")
    assert status == 0
    assert out.startswith("shipped recipes: anemia, ")
    assert "\nmodel.side = 224  [>= 32, <= 1024]" in out


def test_predict_writes_one_line_an_image(run, tiny_artifact, photographs, tmp_path):
    pattern = photographs[0].parent / "0*.png"
    status, out, err = run("predict", tiny_artifact, pattern, photographs[11], "--out", tmp_path / "a.jsonl")
    assert (status, out) == (0, "")
    assert err == f"11 answered -> {tmp_path / 'a.jsonl'}   Research use only: not a medical device.\n"
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 11


def test_predict_writes_lines_to_the_screen_and_all_else_beside_them(run, tiny_artifact, photographs, tmp_path):
    (tmp_path / "empty.png").touch()
    status, out, err = run("predict", tiny_artifact, *photographs, tmp_path / "empty.png", "--out", "-")
    assert status == 1
    assert [json.loads(line)["input"] for line in out.splitlines()] == [*map(str, photographs), f"{tmp_path}/empty.png"]
    assert err.startswith("12 answered -> -   Research use only: not a medical device.\n")
    status, out, err = run("predict", tiny_artifact, *photographs, "--out", "-", "--resume")
    assert (status, out) == (2, "")
    assert "expected --resume with a file, got --out -" in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.png"]


def test_predict_takes_a_threshold_writes_a_table_and_draws(run, tiny_artifact, photographs, tmp_path):
    arguments = ("--out", tmp_path / "a.csv", "--threshold", 0.1, "--draw", tmp_path / "drawn")
    assert run("predict", tiny_artifact, *photographs, *arguments)[0] == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels == ["non-anemic"] * 2 + ["anemic"] * 10
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 12
    assert run("predict", tiny_artifact, *photographs, "--out", tmp_path / "b.csv", "--threshold", 2)[0] == 2


def test_evaluate_a_file_of_answers_says_how_good_they_are(run, tiny_artifact, made_eyelids, tmp_path):
    answers, pictures = tmp_path / "answers.jsonl", made_eyelids / "images"
    assert run("predict", tiny_artifact, pictures, "--out", answers)[0] == 0
    for name, subject in (("file", answers), ("artifact", tiny_artifact)):
        assert run("evaluate", subject, "--data", made_eyelids, "--out", tmp_path / name)[0] == 0
    told = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("file", "artifact")]
    assert told[0]["metrics"] == told[1]["metrics"]
    assert "is not known" in told[0]["protocol"]


def test_evaluate_takes_the_order_of_labels_with_a_file_only(run, tiny_artifact, made_eyelids, tmp_path):
    arguments = ("--data", made_eyelids, "--out", tmp_path / "out", "--labels", "non-anemic,anemic")
    status, _, err = run("evaluate", tiny_artifact, *arguments)
    assert status == 2
    assert "expected --labels with a file of answers only" in err


def test_predict_explains_the_first_images_and_says_how_many(run, tiny_artifact, photographs, tmp_path):
    why = tmp_path / "why"
    arguments = ("--explain", why, "--explain-most", 2)
    status, out, err = run("predict", tiny_artifact, *photographs, "--out", "-", *arguments)
    assert status == 0
    told = err.splitlines()
    assert told[0] == f"explaining 2 of 12 images -> {why}, which are the first 2 of all; --explain-most explains more"
    assert ["explanation" in json.loads(line) for line in out.splitlines()] == [True, True] + [False] * 10
    assert len(list(why.iterdir())) == 2
    arguments = ("--out", tmp_path / "a.csv", "--explain", why, "--shard", "2/2", "--resume")
    status, out, err = run("predict", tiny_artifact, *photographs[:4], *arguments)
    assert (status, out) == (0, "")
    assert err.splitlines()[:2] == [
        f"explaining 2 of 2 images -> {why}",
        "images that were answered before are not explained",
    ]
    assert len(list(why.iterdir())) == 2 + 1, "of images 2 and 4 the second was explained before, at the same place"


@pytest.mark.parametrize(
    ("changes", "graph", "file", "words"),
    [
        ({"task": "segmentation", "labels": ("vessel",), "main_score": "dice"}, mask_graph, "a.png", "the kind segm"),
        ({"input": Input(side=32, kind="slice", slices=1)}, None, "chest.mhd", "got a whole scan"),
    ],
)
def test_predict_refuses_to_explain_masks_and_scans_before_it_writes_anything(
    changes, graph, file, words, run, make_artifact, tmp_path
):
    artifact = make_artifact(graph=graph and graph(), **changes)
    before = sorted(tmp_path.iterdir())
    status, out, err = run("predict", artifact, file, "--out", tmp_path / "o", "--explain", tmp_path / "why")
    assert (status, out) == (2, "")
    assert words in err
    assert sorted(tmp_path.iterdir()) == before


def test_predict_lists_what_failed_at_its_end_and_says_so_by_its_status(run, tiny_artifact, photographs, tmp_path):
    (tmp_path / "empty.png").touch()
    paths = [tmp_path / "gone.png", *photographs, tmp_path / "empty.png"]
    status, _, err = run("predict", tiny_artifact, *paths, "--out", tmp_path / "a.jsonl", "--workers", 2)
    assert status == 1
    answered, gone, empty, end = err.splitlines()
    assert answered.startswith("12 answered")
    assert gone.startswith(f"failed: {tmp_path / 'gone.png'}: ")
    assert empty.startswith(f"failed: {tmp_path / 'empty.png'}: ")
    assert end == "2 of 14 inputs failed"


def test_predict_takes_shards_and_goes_on(run, tiny_artifact, photographs, tmp_path):
    for arguments in (["--shard", "2/5"], ["--shard", "2/5", "--resume"]):
        status, _, err = run("predict", tiny_artifact, *photographs, "--out", tmp_path / "a.jsonl", *arguments)
        assert status == 0
        assert err.startswith(f"3 answered -> {tmp_path / 'a-2-of-5.jsonl'}")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-2-of-5.jsonl", "a-2-of-5.jsonl.done"]


def test_the_cap_on_pixels_is_an_option(run, tiny_artifact, tmp_path):
    Image.fromarray(np.zeros((1000, 1100), np.uint8)).save(tmp_path / "big.png")
    arguments = ("predict", tiny_artifact, tmp_path / "big.png", "--out")
    status, _, err = run(*arguments, tmp_path / "a.jsonl", "--max-megapixels", 1)
    assert status == 1
    assert "expected at most 1,000,000 pixels, got 1100 x 1000" in err
    assert run(*arguments, tmp_path / "b.jsonl", "--max-megapixels", 2)[0] == 0


def test_evaluate_a_run_writes_both_reports_and_prints_the_figures(run, finished_run, made_eyelids, tmp_path):
    status, out, _ = run("evaluate", finished_run.path, "--data", made_eyelids, "--out", tmp_path / "report")
    assert status == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(0.9)
    assert report["command"].startswith("leanmed evaluate ")
    rows = read_csv(tmp_path / "report" / "answers.csv")
    assert list(rows[0])[:6] == ["image", "truth", "group", "site", "fold", "label"]
    assert len({row["image"] for row in rows}) == report["images"] == len(rows)
    assert sum(row["truth"] == row["label"] for row in rows) == pytest.approx(0.9 * len(rows))
    assert "answers.csv" in out
    assert "accuracy           0.9000  (" in out
    assert "Research use only: not a medical device." in out
    assert "Not a medical device" in (tmp_path / "report" / "report.html").read_text()


def test_evaluate_an_artifact_says_what_it_left_out(run, tiny_artifact, made_eyelids, tmp_path):
    data = shutil.copytree(made_eyelids, tmp_path / "data")
    (data / "images" / "00007.png").write_bytes(b"")
    status, out, _ = run("evaluate", tiny_artifact, "--data", data, "--out", tmp_path / "report")
    assert status == 0
    assert "\nNot answered: images/00007.png: " in out
    assert "n=59" in out


def test_evaluate_shows_other_hospitals_beside_and_predictive_values(run, make_artifact, tmp_path):
    carried = {"auc": {"value": 0.9, "low": 0.85, "high": 0.94, "n": 300}}
    artifact = make_artifact(provenance=origin_of(), figures=carried, figures_of="folds")
    mine, north = write_hospital(tmp_path / "mine", 50), write_hospital(tmp_path / "n", 40, shift=2, seed=1)
    arguments = ("--data", mine, "--also", f"north={north}", "--prevalence", "0.05", "--out", tmp_path / "report")
    status, out, err = run("evaluate", artifact, *arguments)
    assert (status, err) == (0, "")
    assert "cross-validated: auc 0.9000  (0.8500 to 0.9400)\n" in out
    assert re.search(r"\nnorth: auc 0\.\d{4}  \(.*\), [+-]0\.\d{4}  \([+-].* to [+-].*\) from mine\n", out)
    assert re.search(r"\nprevalence 0\.0500 as stated: ppv 0\.\d{4}  \(.*\), npv 0\.\d{4}", out)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [one["name"] for one in report["data_sets"]] == ["cross-validated", "mine", "north"]
    assert report["predictive_values"][1]["prevalence"] == 0.05
    rows = read_csv(tmp_path / "report" / "answers.csv")
    assert [row["data_set"] for row in rows].count("north") == 40


def test_one_file_of_answers_answers_several_folders(run, make_artifact, tmp_path):
    artifact = make_artifact(provenance=origin_of())
    mine, north = write_hospital(tmp_path / "mine", 40), write_hospital(tmp_path / "north", 30, shift=2, seed=1)
    answers = tmp_path / "answers.jsonl"
    assert run("predict", artifact, mine / "images", north / "images", "--out", answers)[0] == 0
    assert run("evaluate", answers, "--data", mine, "--also", north, "--out", tmp_path / "report")[0] == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [(one["name"], one["images"]) for one in report["data_sets"]] == [("mine", 40), ("north", 30)]


def test_images_of_one_label_are_evaluated_and_what_they_cannot_tell_is_told(run, tiny_artifact, tmp_path):
    (tmp_path / "data" / "anemic").mkdir(parents=True)
    for k in range(12):
        Image.fromarray(np.full((9, 8, 3), (20 * k, 9, k), np.uint8)).save(tmp_path / "data" / "anemic" / f"{k}.png")
    status, out, _ = run("evaluate", tiny_artifact, "--data", tmp_path / "data", "--out", tmp_path / "report")
    assert status == 0
    assert "recall             0.4167  (" in out
    assert not re.search(r"^auc|nan", out, re.MULTILINE)
    assert "Undefined (–) without images of every label: ROC-AUC, " in out


def test_recalibrate_tells_what_it_fitted_and_what_it_gains(run, make_artifact, tmp_path):
    north = write_hospital(tmp_path / "north", 120, scale=3, shift=1)
    artifact, new = make_artifact(provenance=origin_of()), tmp_path / "new"
    status, out, err = run("recalibrate", artifact, "--data", north, "--out", new, "--threshold", "youden")
    assert (status, err) == (0, "")
    assert "slope and intercept fitted to 120 images of 120 groups\n" in out
    assert re.search(r"\nloss +\d\.\d{4} -> \d\.\d{4}  -0\.\d{4} \(-0\.\d{4} to [+-]0\.\d{4}\)\n", out)
    assert re.search(r"\nthreshold +0\.5000 -> 0\.\d{4}  \(youden\)\n", out)
    assert out.endswith(f"wrote {new}: artifact {leanmed.load(new).artifact.sha256[:12]}\n")


WRONG = {
    "a prevalence of 5 %": (
        ["evaluate", "ARTIFACT", "--data", ".", "--out", "o", "--prevalence", "5"],
        "expected --prevalence as a share above 0 and below 1, such as 0.05, got 5; correct it",
    ),
    "a run beside others": (
        ["evaluate", "RUN", "--data", ".", "--also", "x", "--out", "o"],
        "expected an artifact or a file of answers with --also, got the run",
    ),
    "scans beside others": (
        ["evaluate", "ARTIFACT", "--data", ".", "--also", "x", "--scans", "--out", "o"],
        "expected neither --also nor --prevalence with --scans",
    ),
    "no rule": (
        ["recalibrate", "ARTIFACT", "--data", ".", "--out", "o", "--threshold", "best"],
        "expected a threshold as a number from 0 to 1, f1, youden or sensitivity:0.95, got 'best'",
    ),
    "no artifact": (
        ["predict", "nowhere", "a.png", "--out", "o"],
        "nowhere: expected an artifact, a folder with",
    ),
    "no images": (["predict", "ARTIFACT", "*.none", "--out", "o"], "expected at least one image, found none"),
    "no shard": (["predict", "ARTIFACT", "a.png", "--out", "o", "--shard", "0/2"], "expected --shard I/N"),
    "no point": (["predict", "ARTIFACT", "a.png", "--out", "o", "--point", "3;4"], "expected a point X,Y such as"),
    "no label for a point": (
        ["predict", "ARTIFACT", "a.png", "--out", "o", "--point", "3,4", "--point", "-5,6", "--label", "0"],
        "expected one label for each of 2 points, or none if all points are on what is meant, got 1;",
    ),
    "a label alone": (["predict", "ARTIFACT", "a.png", "--out", "o", "--label", "1"], "at least one point or a box"),
    "no box": (["predict", "ARTIFACT", "a.png", "--out", "o", "--box", "9,9,3,3"], "with x1 < x2 and y1 < y2"),
    "points in two images": (
        ["predict", "ARTIFACT", "a.png", "b.png", "--out", "o", "--point", "3,4"],
        "expected one image and no --resume with --point or --box, which are places in it, got 2 images; predict one",
    ),
    "points to explain": (
        ["predict", "ARTIFACT", "a.png", "--out", "o", "--point", "3,4", "--explain", "why"],
        "expected no --point or --box with --explain, which covers parts of an image that nobody points into, got both",
    ),
    "no run": (
        ["export", "nowhere", "--out", "o"],
        "expected a run folder (with run.json and recipe.yaml) at",
    ),
    "no recipe": (["train", "anaemia", "--data", ".", "--out", "o"], "or a YAML file, got 'anaemia'"),
    "unknown key": (
        ["train", "folder", "--data", ".", "--out", "o", "--set", "model.sides=9"],
        "model.sides: unknown key",
    ),
    "no data": (
        ["evaluate", "RUN", "--data", "nowhere", "--out", "o"],
        "expected the data to be a folder, found none",
    ),
    "a file for a folder": (
        ["predict", "ARTIFACT", "a.png", "--out", "file/o"],
        "expected to read or write it, got:",
    ),
}


def test_points_are_refused_by_an_artifact_that_takes_none(run, tiny_artifact, photographs, tmp_path):
    arguments = ("predict", tiny_artifact, photographs[3], "--out", tmp_path / "o", "--point", "3,4")
    assert run(*arguments)[::2] == (
        2,
        "leanmed: expected no points or boxes, since artifacts of the kind classification take the image alone, got "
        "some; leave them out, or take an artifact that takes prompts\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", WRONG)
def test_an_error_is_one_paragraph_and_status_2(kind, run, tiny_artifact, finished_run, tmp_path, monkeypatch):
    arguments, expected = WRONG[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    places = {"ARTIFACT": tiny_artifact, "RUN": finished_run.path}
    status, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("leanmed: ")
    assert expected in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing half-written


@pytest.mark.parametrize("arguments", [["bogus"], ["predict"], ["predict", "a", "b", "--out", "o", "--workers", "-1"]])
def test_wrong_usage_is_status_2_and_points_to_the_help(arguments, run):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "--help" in err
    assert "Traceback" not in err


def test_debug_gives_the_error_itself(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["leanmed", "predict", "nowhere", "a.png", "--out", "o", "--debug"])
    with pytest.raises(ArtifactError):
        main()


def test_a_process_says_the_same_and_shows_a_traceback_only_when_asked(own_artifact, tmp_path):
    with (own_artifact / "model.onnx").open("ab") as graph:
        graph.write(b"!")
    command = [sys.executable, "-m", "leanmed", "predict", own_artifact, "a.png", "--out", tmp_path / "o"]
    plain, debug = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=False) for more in ([], ["--debug"])
    )
    assert plain.returncode == 2
    assert re.fullmatch(r"leanmed: .*model\.onnx: expected \d+ bytes, got \d+: damaged; .*\n", plain.stderr)
    assert "Traceback" in debug.stderr
    assert "ArtifactError" in debug.stderr


def test_a_damaged_table_stops_evaluation_before_anything_is_written(run, finished_run, made_eyelids, tmp_path):
    data = shutil.copytree(made_eyelids, tmp_path / "data")
    (data / "labels.csv").write_text("image;class?\n")
    status, _, err = run("evaluate", finished_run.path, "--data", data, "--out", tmp_path / "report")
    assert status == 2
    assert "expected columns label, each once; missing: label, got: class?, image" in err
    assert not (tmp_path / "report").exists()


def test_profile_prints_what_a_network_costs_and_writes_it_down(run, tiny_artifact, tmp_path):
    status, out, err = run("profile", tiny_artifact, "--repeats", 3, "--out", tmp_path / "profile.json")
    assert (status, err) == (0, "")
    first, *rows, last = out.splitlines()
    assert first == f"{tiny_artifact}: artifact (fp32, 2 labels), one image of 640 x 480"
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == ["parameters", "FLOPs", "size", "latency", "peak memory"]
    assert last == f"wrote {tmp_path / 'profile.json'}"
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["bytes"] == (tiny_artifact / "model.onnx").stat().st_size
    assert found["command"].startswith("leanmed profile ")


def test_profile_refuses_a_path_where_nothing_is(run, tmp_path):
    status, out, err = run("profile", tmp_path / "gone")
    assert (status, out) == (2, "")
    assert "expected a recipe's name" in err
    assert "check the path" in err
