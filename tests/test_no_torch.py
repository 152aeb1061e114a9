"""What the default install must do by itself, tried in a process where nothing else can be imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ABSENT = ("torch", "torchvision", "timm", "lightning", "sklearn", "scipy", "matplotlib", "jinja2", "onnx")
BLOCKED = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
COMMAND = "from leanmed.cli import main; main()"


def without_extras(code, *arguments):
    program = [sys.executable, "-W", "error", "-c", BLOCKED + code, *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_block_holds():
    assert "No module named 'torch'" in without_extras("import torch").stderr


def test_an_artifact_answers_in_python(tiny_artifact, photographs):
    code = "import leanmed; print(leanmed.load(sys.argv[1]).predict(sys.argv[2]).probability)"
    done = without_extras(code, tiny_artifact, photographs[3])
    assert float(done.stdout) == pytest.approx(60 / 255)
    assert done.stderr == ""


def test_an_artifact_answers_on_the_command_line(tiny_artifact, photographs, tmp_path):
    folder = photographs[0].parent
    done = without_extras(COMMAND, "predict", tiny_artifact, folder, "--out", tmp_path / "a.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("12 answered")
    answers = [json.loads(line)["label"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert answers == ["non-anemic"] * 7 + ["anemic"] * 5


def test_an_artifact_is_profiled(tiny_artifact):
    done = without_extras(COMMAND, "profile", tiny_artifact, "--repeats", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not counted: that needs onnx" in done.stdout
    assert "peak memory" in done.stdout


def test_help_needs_no_extras():
    done = without_extras(COMMAND, "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "leanmed train folder --data my-images --out run" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "folder", "--data", ".", "--out", "run"], "train"),
        (["evaluate", "run", "--data", ".", "--out", "x"], "report"),
        (["profile", "retina"], "train"),
    ],
)
def test_a_command_that_needs_an_extra_says_which(arguments, extra, tmp_path):
    done = without_extras(COMMAND, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"leanmed: {arguments[0]} needs packages that the default install leaves out; install them with: "
        f"pip install 'leanmed[{extra}]'\n"
    )
