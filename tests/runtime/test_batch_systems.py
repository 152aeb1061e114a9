"""The ready files for Kubernetes and SLURM: valid, and their very commands run here, a shard after the other.

Of their eight shards two are made, which takes less time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import leanmed
from leanmed.runtime.batch import predict_file

FILES = Path(__file__).resolve().parents[2] / "docs" / "batch"
JOB, ARRAY = FILES / "kubernetes-job.yaml", FILES / "slurm-array.sh"
IN_FILES, SHARDS = 8, 2
OF_SBATCH = {"job-name", "array", "cpus-per-task", "mem", "time", "requeue", "output"}  # from `man sbatch`


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load(JOB.read_text(encoding="utf-8"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which `leanmed` is this one, as it is in the image of a pod and on the machines of a cluster."""
    command = tmp_path / "bin" / "leanmed"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m leanmed "$@"\n')
    command.chmod(0o755)
    source = str(Path(leanmed.__file__).parents[1])
    return os.environ | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}


@pytest.fixture
def images(photographs: list[Path], tmp_path: Path) -> Path:
    """A folder of five images, of which one cannot be read."""
    folder = tmp_path / "my images"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(photographs[number % len(photographs)].read_bytes() if number else b"")
    return folder


def joined(answers: Path) -> list[dict[str, Any]]:
    """The lines of all shards, in the order of the inputs, without the seconds that each took."""
    lines = [
        json.loads(line)
        for path in answers.glob(f"answers-*-of-{SHARDS}.jsonl")
        for line in path.read_text().splitlines()
    ]
    return sorted(({k: v for k, v in line.items() if k != "seconds"} for line in lines), key=lambda line: line["input"])


def expected(artifact: Path, images: Path, tmp_path: Path) -> list[dict[str, Any]]:
    plain = predict_file(leanmed.load(artifact), sorted(images.iterdir()), tmp_path / "plain.jsonl").path
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in plain.read_text().splitlines()]


def test_the_job_is_one_by_kubernetes_own_schema(job: dict[str, Any]):
    validate = pytest.importorskip("kubernetes_validate", reason="needs the extra leanmed[dev]")
    validate.validate(job, "1.33", strict=True)
    job["spec"]["completion"] = 8
    with pytest.raises(validate.ValidationError):
        validate.validate(job, "1.33", strict=True)


def test_the_job_s_command_answers_each_image_once(
    job: dict[str, Any], environment: dict[str, str], tiny_artifact: Path, images: Path, tmp_path: Path
):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["spec"]["completions"] == int(given["SHARDS"]) == IN_FILES
    answers = tmp_path / "answers"
    answers.mkdir()
    given |= {"ARTIFACT": str(tiny_artifact), "IMAGES": str(images), "ANSWERS": str(answers), "SHARDS": str(SHARDS)}
    command = [*container["command"], *container["args"]]
    for index in range(SHARDS):
        subprocess.run(command, env=environment | given | {"JOB_COMPLETION_INDEX": str(index)}, check=True)
    assert joined(answers) == expected(tiny_artifact, images, tmp_path)


def test_the_array_s_options_are_those_of_sbatch():
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", ARRAY.read_text(encoding="utf-8"), re.MULTILINE))
    assert options.keys() == OF_SBATCH
    assert options["array"] == f"1-{IN_FILES}"
    assert ARRAY.read_text().count("#SBATCH") == len(options)


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """The array's script for fewer shards."""
    text = ARRAY.read_text(encoding="utf-8")
    assert text.count(f"shards={IN_FILES}") == 1
    script = tmp_path / ARRAY.name
    script.write_text(text.replace(f"shards={IN_FILES}", f"shards={SHARDS}"), encoding="utf-8")
    return script


def test_the_array_s_command_answers_each_image_once(
    array: Path, environment: dict[str, str], tiny_artifact: Path, images: Path, tmp_path: Path
):
    answers = tmp_path / "answers"
    command = ["bash", str(array), str(tiny_artifact), str(images), str(answers)]
    for number in range(1, SHARDS + 1):
        subprocess.run(command, env=environment | {"SLURM_ARRAY_TASK_ID": str(number)}, check=True)
    assert joined(answers) == expected(tiny_artifact, images, tmp_path)


@pytest.mark.parametrize("system", ["kubernetes", "slurm"])
def test_a_failure_is_told_to_the_batch_system_though_another_artifact_s_shard_is_whole(
    system: str,
    job: dict[str, Any],
    array: Path,
    environment: dict[str, str],
    tiny_artifact: Path,
    images: Path,
    tmp_path: Path,
):
    first = tmp_path / f"answers-1-of-{SHARDS}.jsonl"
    predict_file(leanmed.load(tiny_artifact), sorted(images.iterdir())[::SHARDS], first)
    (marker := first.with_name(f"{first.name}.done")).write_text(
        marker.read_text().replace('"artifact": "', '"artifact": "0')
    )
    first.write_text(first.read_text().replace('"artifact": "', '"artifact": "0'))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {"ARTIFACT": str(tiny_artifact), "IMAGES": str(images), "ANSWERS": str(tmp_path), "SHARDS": str(SHARDS)}
    command, more = {
        "kubernetes": ([*container["command"], *container["args"]], given | {"JOB_COMPLETION_INDEX": "0"}),
        "slurm": (
            ["bash", str(array), str(tiny_artifact), str(images), str(tmp_path)],
            {"SLURM_ARRAY_TASK_ID": "1"},
        ),
    }[system]
    ended = subprocess.run(command, env=environment | more, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "was answered by another artifact" in ended.stderr
    assert marker.exists()
