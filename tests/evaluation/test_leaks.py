"""What an audit of the split found in training is left out, and the report has the figures with and without it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leanmed.audit.command import audit_split
from leanmed.cli import main
from leanmed.errors import DataError
from leanmed.evaluation.files import evaluate_answers
from leanmed.report.report import as_json, render
from leanmed.runs import Run

COUNT, WRONG = 12, (4, 5, 6)
LABELS = ("non-anemic", "anemic")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve test images. Training holds the files of the first two, and other images of the patients of 2 and 3.

    `answers.jsonl` is right but for three images, none of which leaks; `audit` is what the audit of the split wrote.
    """
    base, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    rows = {"train": ["image,label,group"], "test": ["image,label,group"]}
    (base / "train").mkdir()
    (base / "test").mkdir()
    lines = []
    for k in range(COUNT):
        label = LABELS[k % 2]
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(base / "test" / f"{k:02}.png")
        rows["test"].append(f"{k:02}.png,{label},p{k}")
        p = 0.9 if (k % 2) != (k in WRONG) else 0.1
        shares = dict(zip(LABELS, (1 - p, p), strict=True))
        lines.append({"input": f"{k:02}.png", "label": LABELS[p > 0.5], "probabilities": shares, "threshold": 0.5})
    for k in range(8):
        if k < 2:
            shutil.copy(base / "test" / f"{k:02}.png", base / "train" / f"{k}.png")
        else:
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(base / "train" / f"{k}.png")
        rows["train"].append(f"{k}.png,{LABELS[k % 2]},{f'p{k}' if k in (2, 3) else f'q{k}'}")
    for side, table in rows.items():
        (base / side / "labels.csv").write_text("\n".join(table) + "\n")
    (base / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines_told, sound = audit_split(base / "train", base / "test", out=base / "audit", workers=1)
    assert not sound
    assert lines_told[0].startswith("4 of 12 test images leak: 2 have a copy in training, 2 only a sibling")
    return base


def test_leaking_images_are_left_out_and_the_figures_with_and_without_them_are_told(split: Path) -> None:
    """All four that leak were answered rightly: 9 of 12 are right with them, and 5 of 8 without.

    A right answer has probability 0.9 and a wrong one 0.1, so that by counting pairs of labels the ROC-AUC is
    (5 x 4 + (5 x 2 + 1 x 4) / 2) / 36 with them, and (3 x 2 + (3 x 2 + 1 x 2) / 2) / 16 without.
    """
    answers, data = split / "answers.jsonl", split / "test"
    report = evaluate_answers(answers, data, labels=LABELS, groups="reader", split_audit=split / "audit")
    assert (report.figures["accuracy"].value, report.figures["accuracy"].n) == (0.625, 8)
    ((title, before),) = report.beside.items()
    assert title == "With the 4 images that leak from training"
    assert (before["accuracy"].value, before["accuracy"].n) == (0.75, 12)
    note = report.notes[0]
    assert note.startswith(
        f"4 of 12 images leak from training, by the audit of the split in {split / 'audit'}: 2 have a"
    )
    assert "and 2 a sibling. They are left out. ROC-AUC is 0.750 (" in note
    assert ") with them and 0.625 (" in note
    assert as_json(report)["beside"][title]["accuracy"]["value"] == 0.75
    assert title in render(report)
    assert {row["image"] for row in report.answers} == {f"{k:02}.png" for k in range(4, COUNT)}


def test_without_leaks_the_report_says_that_there_are_none(split: Path, tmp_path: Path) -> None:
    """The same images, which a part of the training set that holds none of them is checked against."""
    (tmp_path / "train.csv").write_text("image\nother.png\n")
    shutil.copy(split / "train" / "7.png", tmp_path / "other.png")
    assert audit_split(tmp_path / "train.csv", split / "test", out=tmp_path / "audit", workers=1)[1]
    answers, data = split / "answers.jsonl", split / "test"
    report = evaluate_answers(answers, data, labels=LABELS, groups="reader", split_audit=tmp_path / "audit")
    assert report.figures["accuracy"].n == 12
    assert report.notes[0].startswith("None of these 12 images leaks from training")
    assert report.beside == {}


def test_images_that_the_audit_has_not_seen_or_that_all_leak_are_refused(
    split: Path, tmp_path: Path, refused: Any
) -> None:
    data = Path(shutil.copytree(split / "test", tmp_path / "test"))
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(data / "11.png")
    how: dict[str, Any] = {"labels": LABELS, "groups": "reader"}
    with refused(DataError, "has compared, got 1 others among 12, such as 11.png; audit with these as the test side"):
        evaluate_answers(split / "answers.jsonl", data, split_audit=split / "audit", **how)
    audit_split(split / "test", split / "test", out=tmp_path / "audit", workers=1)
    with refused(DataError, "expected an image that does not leak from training, got 12 that all do"):
        evaluate_answers(split / "answers.jsonl", split / "test", split_audit=tmp_path / "audit", **how)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return command


def test_an_artifact_is_judged_without_them_too(
    run: Callable[..., tuple[int, str, str]], split: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", tiny_artifact, "--data", split / "test", "--out", tmp_path / "report")
    status, out, _ = run(*arguments, "--split-audit", split / "audit")
    assert status == 0
    assert out.startswith("4 of 12 images leak from training")
    assert "n=8" in out
    told = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert [figures["accuracy"]["n"] for figures in told["beside"].values()] == [12]


def test_it_is_refused_with_a_run_or_scans(
    run: Callable[..., tuple[int, str, str]], split: Path, finished_run: Run, tiny_artifact: Path, tmp_path: Path
) -> None:
    how = ("--data", split / "test", "--out", tmp_path / "report", "--split-audit", split / "audit")
    for subject, more in ((finished_run.path, ()), (tiny_artifact, ("--scans",))):
        status, _, err = run("evaluate", subject, *how, *more)
        assert status == 2
        assert "expected --split-audit with an artifact or a file of answers and one data set, got it with " in err
    assert list(tmp_path.iterdir()) == []
