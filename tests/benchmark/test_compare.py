"""Artifacts beside each other: the same images, paired changes, what each costs, and what cannot be compared."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifact_fixtures import mean_red_graph
from leanmed.benchmark import compare
from leanmed.benchmark.compare import Compared, compare_artifacts, told, write_comparison
from leanmed.cli import main
from leanmed.errors import ArtifactError, DataError
from leanmed.files import sha256_file
from leanmed.manifest import Input, Provenance, image_mark

LABELS = ("non-anemic", "anemic")


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A folder of 40 pictures of 40 patients: number k has red 6 * k; from 20 on they are anemic, but for the last."""
    root = tmp_path / "clinic"
    (root / "images").mkdir(parents=True)
    rows = ["image,label,group"]
    for k in range(40):
        Image.fromarray(np.full((10, 12, 3), (6 * k, 50, 50), np.uint8)).save(root / "images" / f"{k:02}.png")
        rows.append(f"images/{k:02}.png,{LABELS[20 <= k < 39]},p{k}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed for long, and no process is started to measure its memory."""
    monkeypatch.setattr(compare, "REPEATS", 3)
    monkeypatch.setattr(compare, "peak_mib", lambda path, shape: 12.0)


def origin(**changes: object) -> Provenance:
    made = {"leanmed": "0", "data_sha256": "0" * 64, "seed": 4, "protocol": "grouped", "fold": 0}
    return Provenance(**(made | changes))


@pytest.mark.usefixtures("quick")
def test_changes_are_those_of_the_figures_on_the_same_images(clinic: Path, make_artifact: Callable[..., Path]) -> None:
    exact, timid = make_artifact("exact", threshold=117 / 255), make_artifact("timid", threshold=200 / 255)
    found = compare_artifacts([exact, timid], clinic, resamples=200)
    first, second = found.rows
    assert (first.name, second.name) == ("exact", "timid")
    assert first.figures["accuracy"].value == pytest.approx(39 / 40)
    missed = sum(1 for k in range(20, 39) if 6 * k < 200)
    assert second.figures["accuracy"].value == pytest.approx((39 - missed) / 40)
    assert second.change["accuracy"].value == pytest.approx(-missed / 40)
    assert second.change["accuracy"].low < -missed / 40 < second.change["accuracy"].high < 0
    assert second.change["auc"].value == 0  # a threshold does not change the order
    assert second.change["agreement"].value == pytest.approx(1 - missed / 40)
    assert first.change == {}
    assert (found.images, found.groups, found.size) == (40, 40, (10, 12))
    assert all(row.milliseconds[n] > 0 for row in found.rows for n in (1, 2))


@pytest.mark.usefixtures("quick")
def test_images_that_one_of_them_has_seen_judge_none(clinic: Path, make_artifact: Callable[..., Path]) -> None:
    marks = [image_mark(sha256_file(clinic / "images" / f"{k:02}.png")) for k in range(40)]
    early = make_artifact("early", provenance=origin(seen_images=tuple(sorted(marks[:5]))))
    late = make_artifact("late", provenance=origin(seen_images=tuple(sorted(marks[30:]))))
    found = compare_artifacts([early, late], clinic, resamples=50)
    assert found.images == 25
    assert any(note.endswith("does not read them: 10 image(s).") for note in found.notes)
    rest = make_artifact("rest", provenance=origin(seen_images=tuple(sorted(marks[5:]))))
    with pytest.raises(DataError, match="new to all of these artifacts, got none"):
        compare_artifacts([early, rest], clinic)


def test_artifacts_that_answer_different_questions_are_refused(
    clinic: Path, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    one = make_artifact("one")
    with pytest.raises(ArtifactError, match="expected at least two artifacts to compare, got 1"):
        compare_artifacts([one], clinic)
    with pytest.raises(ArtifactError, match="each artifact once, got one twice"):
        compare_artifacts([one, tmp_path / "." / "one"], clinic)
    three = ("non-anemic", "anemic", "severe")
    other = make_artifact(
        "other", graph=mean_red_graph(3), labels=three, threshold=None, main_score="balanced_accuracy"
    )
    with pytest.raises(
        ArtifactError, match="one with the labels non-anemic, anemic and other with non-anemic, anemic, severe"
    ):
        compare_artifacts([one, other], clinic)


def test_each_artifact_is_timed_on_the_image_as_it_reads_it(
    clinic: Path, make_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(large).save(clinic / "images" / "00.jpg")
    (clinic / "images" / "00.png").unlink()
    table = clinic / "labels.csv"
    table.write_text(table.read_text().replace("images/00.png", "images/00.jpg"))
    timed: dict[str, tuple[int, ...]] = {}

    def look(actions: dict[str, Any], repeats: int, seconds: float) -> dict[str, dict[str, float]]:
        timed.update({name: action.args[0].shape for name, action in actions.items()})
        return {name: {"median_ms": 1.0} for name in actions}

    monkeypatch.setattr(compare, "interleaved", look)
    monkeypatch.setattr(compare, "peak_mib", lambda path, shape: None)
    paths = [make_artifact("small", input=Input(side=32)), make_artifact("large", input=Input(side=512))]
    found = compare_artifacts(paths, clinic, resamples=50)
    assert timed["small"][0] < 200
    assert timed["large"][:2] == (600, 800)
    assert found.size == (600, 800)
    assert found.rows[0].peak_mib is None


@pytest.mark.usefixtures("quick")
def test_artifacts_of_one_name_are_told_apart_by_their_paths(
    clinic: Path, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [make_artifact("a/model"), make_artifact("b/model")]
    assert [row.name for row in compare_artifacts(paths, clinic, resamples=50).rows] == [str(path) for path in paths]


@pytest.mark.usefixtures("quick")
def test_the_report_holds_what_was_found_and_no_markup_of_names(
    clinic: Path, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    leaking = make_artifact("<b>paper", leak="This result LEAKS.")
    found = compare_artifacts([make_artifact("own"), leaking], clinic, resamples=200, command="leanmed compare")
    write_comparison(tmp_path / "out", found)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>paper" not in page
    assert "&lt;b&gt;paper: This result LEAKS." in page
    assert "Research use only. Not a medical device." in page
    assert "0.925" in page  # of the accuracy at a threshold of one half
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["compared_with"] == "own"
    assert written["artifacts"][1]["change"]["auc"]["value"] == 0
    assert written["artifacts"][0]["bytes"] == found.rows[0].bytes
    assert told(found)[0].startswith("<b>paper: This result LEAKS.")


@pytest.mark.usefixtures("quick")
def test_a_figure_that_the_images_cannot_tell_is_left_out(
    clinic: Path, make_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    for k in range(20, 40):
        (clinic / "images" / f"{k:02}.png").unlink()
    table = (clinic / "labels.csv").read_text().splitlines()[:21]
    (clinic / "labels.csv").write_text("\n".join(table) + "\n")
    found = compare_artifacts([make_artifact("one"), make_artifact("two", threshold=0.1)], clinic, resamples=50)
    assert "auc" not in found.shown
    write_comparison(tmp_path / "out", found)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<figure>" not in page
    assert ">nan<" not in page
    assert "two: auc undefined" in told(found)[-1]


def test_the_command_compares_and_tells(
    clinic: Path,
    make_artifact: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Compared] = []
    monkeypatch.setattr(compare, "told", lambda found: seen.append(found) or told(found))  # type: ignore[func-returns-value]
    paths = [str(make_artifact("one")), str(make_artifact("two", threshold=0.9))]
    typed = ["leanmed", "compare", *paths, "--data", str(clinic), "--out", str(tmp_path / "out"), "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert any(
        re.match(r"two: auc .* from one, [0-9.]+ % the same answer; 0.00 MB, .* ms on 1 thread", line) for line in lines
    )
    assert lines[-2] == "Research use only: not a medical device."
    (found,) = seen
    assert all(row.peak_mib is None or row.peak_mib > 0 for row in found.rows)
