"""`leanmed compress`, from a run to an artifact inside a budget."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leanmed.benchmark.device import measure_device, read_table, write_table
from leanmed.cli import main
from leanmed.compress.precisions import PRECISIONS
from leanmed.errors import ArtifactError
from leanmed.exporting.export import export
from leanmed.runs import read_csv
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import load
from leanmed.search import workshop
from leanmed.training.train import train
from training_fixtures import made_data, silent, tiny_recipe, trained_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compress")


@pytest.fixture
def compress(base: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Command:
    """`compress(out, "--budget", ...)` of the tiny run: exit status, standard output and standard error."""
    run, data = trained_run(base).path, made_data(base)

    def command(out: Path, *more: str) -> tuple[int, str, str]:
        words = ["compress", run, "--data", data, "--out", out, "--calibration", "8", "--attempts", "1", *more]
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return command


def test_the_best_artifact_inside_is_given_with_the_front_and_a_report(compress: Command, base: Path) -> None:
    out = base / "small"
    student = ("--student", "lean:training.epochs=1", "--student", "lean:model.dropout=0.1")
    status, said, error = compress(out, "--budget", "size=150kB", *student, "--fold", "1")
    assert status == 0, error
    report = json.loads((out / "report.json").read_text())
    measured = {one["name"]: one for one in report["candidates"]}
    assert set(measured) == {f"{n}-{p}" for n in ("test_efficientnet", "lean") for p in ("fp32", *PRECISIONS)}
    given = measured[report["given"]]
    assert given["costs"]["size"] <= 150e3
    artifact = read_artifact(out / "artifact")
    assert artifact.manifest.bytes == given["costs"]["size"]
    assert artifact.manifest.provenance.fold == (1 if given["network"] == "test_efficientnet" else 0)
    assert f"\n## Chosen under a budget\n\n{report['answer']}\n" in artifact.card
    assert report["answer"] in said
    assert load(out / "artifact").predict(made_data(base) / "images" / "00000.png").label in artifact.manifest.labels
    assert sorted(path.name for path in (out / "front").iterdir()) == sorted(report["front"])
    for name in report["front"]:
        assert read_artifact(out / "front" / name).manifest.bytes == measured[name]["costs"]["size"]
    tested = report["tested"]
    assert artifact.manifest.figures["auc"]["value"] == tested["artifacts"][1]["figures"]["auc"]["value"]
    page = (out / "report.html").read_text()
    assert "Research use only" in page
    assert all(name in page for name in measured)
    other = ("--student", "lean:training.epochs=2")
    status, _, error = compress(out, "--budget", "size=1MB", "--fold", "1", "--resume", *other)
    assert status == 2
    assert "started otherwise (student lean had other settings" in error

    # The student was trained on the fold's own split, so that the images that test the run's model test it too.
    rows = read_csv(trained_run(base).path / "splits.csv")
    student = read_csv(base / "small-work" / "students" / "lean" / "splits.csv")
    assert [row["fold_1"] for row in rows] == [row["fold_0"] for row in student]
    assert list(student[0]) == ["image", "label", "group", "fold_0"]


def test_a_search_that_was_stopped_goes_on_and_another_budget_needs_nothing_new(compress: Command, base: Path) -> None:
    out = base / "again"
    first = compress(out, "--budget", "size=1B", "--no-students", "--minutes", "0")
    assert first[0] == 2
    assert "None of the 1 artifacts made keeps within size 1 B" in " ".join(first[2].split())
    assert not (out / "artifact").exists()
    status, _, error = compress(out, "--budget", "size=1MB", "--no-students")
    assert status == 2
    assert "--resume" in error
    made = base / "again-work" / "candidates" / "test_efficientnet-fp32" / "measured.json"
    before = made.stat().st_mtime_ns
    status, said, _ = compress(out, "--budget", "size=1MB", "--no-students", "--resume", "--minutes", "0")
    assert status == 0
    assert made.stat().st_mtime_ns == before
    assert "test_efficientnet-fp32 keeps within size 1 MB" in said
    status, _, error = compress(out, "--budget", "size=1MB", "--no-students", "--resume", "--fold", "1")
    assert status == 2
    assert "started otherwise (another model" in error


def test_a_run_that_leaks_is_labelled_on_the_screen_before_the_answer(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = train(
        tiny_recipe(split={"protocol": "paper"}, training={"epochs": 1}), made_data(base), base / "leaking", tell=silent
    )
    words = [
        "compress",
        run.path,
        "--data",
        made_data(base),
        "--out",
        base / "leaks",
        "--no-students",
        "--minutes",
        "0",
    ]
    for budget, status in (("size=1MB", 0), ("size=1B", 2)):
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, words), "--resume", "--budget", budget])
        with pytest.raises(SystemExit) as ended:
            main()
        assert int(ended.value.code or 0) == status
        said = " ".join("".join(capsys.readouterr()).split())
        assert "This result LEAKS" in said
        assert said.index("This result LEAKS") < said.index("keeps within")
    assert "<title>LEAKS: " in (base / "leaks" / "report.html").read_text()


def test_data_that_changed_since_the_run_are_refused_before_any_work(
    compress: Command, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shutil.copytree(made_data(base), tmp_path / "changed")
    table = changed / "labels.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]) + "\n")
    status, _, error = compress(tmp_path / "out", "--budget", "size=1MB", "--data", str(changed))
    assert status == 2
    assert "changed" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed"]


def test_a_folder_of_that_name_that_holds_something_else_is_not_touched(compress: Command, tmp_path: Path) -> None:
    thesis = tmp_path / "out-work" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for more in ((), ("--overwrite",), ("--resume",)):
        status, _, error = compress(tmp_path / "out", "--budget", "size=1MB", *more)
        assert status == 2
        assert "but it holds something else" in error
    assert thesis.read_text() == "years of work"


def test_a_technique_that_cannot_be_done_is_told_and_the_search_goes_on(
    compress: Command, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workshop.quantize_parts

    def broken(artifact: Any, to: str, *more: Any, **named: Any) -> Any:
        if to == "int4":
            raise ArtifactError("no layer that takes 4 bits")
        return whole(artifact, to, *more, **named)

    monkeypatch.setattr(workshop, "quantize_parts", broken)
    out = base / "broken"
    status, said, _ = compress(out, "--budget", "size=1MB", "--no-students")
    assert status == 0
    assert "test_efficientnet-int4: not made: no layer that takes 4 bits" in said
    assert "no layer that takes 4 bits" in (out / "report.html").read_text()


def test_latency_is_another_devices_where_its_table_is_given(compress: Command, base: Path) -> None:
    table = base / "phone.json"
    out = base / "phone"
    first = compress(out, "--budget", "latency=1s", "--no-students", "--minutes", "0", "--device", str(table))
    assert first[0] == 2
    assert "phone.json" in first[2]
    export(trained_run(base), base / "float", fold=0, tell=silent)
    write_table(table, measure_device([base / "float"], repeats=3, seconds=1, tell=silent))
    status, _, error = compress(
        out, "--budget", "latency=1s", "--no-students", "--minutes", "0", "--device", str(table)
    )
    assert status == 0, error
    report = json.loads((out / "report.json").read_text())
    assert report["timed_on"].startswith("the device of the table ")
    float_model = base / "phone-work" / "candidates" / "test_efficientnet-fp32" / "artifact"
    expected = read_table(table).milliseconds(float_model, tell=silent)
    assert report["candidates"][0]["costs"]["latency"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--budget", "size=3"), "expected --budget as"),
        (("--budget", "size=1MB", "--fold", "7"), "expected a fold"),
        (("--budget", "size=1MB", "--student", "x:model.sides=3"), "student x: model.sides: unknown key"),
        (("--budget", "size=1MB", "--student", "x:model.backbone=nonexist"), "nonexist"),
        (("--budget", "size=1MB", "--student", "x:model.side=64", "--no-students"), "expected --student or"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    compress: Command, tmp_path: Path, more: tuple[str, ...], expected: str
) -> None:
    status, _, error = compress(tmp_path / "out", *more)
    assert status == 2
    assert expected in " ".join(error.split())
    assert not (tmp_path / "out").exists()
