from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from leanmed import cluster, remote
from leanmed.audit.command import audit_folder
from leanmed.cli import app
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.runs import read_csv, write_csv


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty made eyelids, about half of them copies, none with another label."""
    return PHANTOMS["eyelids"](tmp_path_factory.mktemp("copied") / "eyelids", count=20, copies=0.5, seed=1)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", *map(str, arguments), "--workers", "1"])
    return result.exit_code, result.output + str(result.exception or "")


def test_an_audit_leaves_its_four_files_and_exits_0_without_conflicts(copied: Path, tmp_path: Path) -> None:
    status, said = run(copied, "--out", tmp_path)

    assert status == 0
    assert "20 images" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["groups"] == len({row["group"] for row in read_csv(tmp_path / "groups.csv")}) < 20
    assert report["pairs"] == len(read_csv(tmp_path / "pairs.csv")) > 0
    assert "Not a medical device" in (tmp_path / "report.html").read_text()


def test_copies_with_different_labels_exit_1(copied: Path, tmp_path: Path) -> None:
    picture = next((copied / "images").iterdir())
    for label in ("ill", "well"):
        (tmp_path / "data" / label).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "data" / label / "same.png")

    status, said = run(tmp_path / "data", "--out", tmp_path / "out")

    assert status == 1
    assert "1 of them between labels" in said


def test_a_split_with_a_copy_on_both_sides_exits_1_and_names_it(copied: Path, tmp_path: Path) -> None:
    pictures = sorted((copied / "images").iterdir())[:3]
    for side, names in {"train": pictures[:2], "test": pictures[2:] + pictures[:1]}.items():
        (tmp_path / side).mkdir()
        for number, picture in enumerate(names):
            shutil.copy(picture, tmp_path / side / f"{number}.png")

    status, said = run("--split", tmp_path / "train", tmp_path / "test", "--out", tmp_path / "out")

    assert status == 1
    assert "1.png: 0.png" in said
    assert (tmp_path / "out" / "split.json").is_file()


def test_a_sound_split_given_as_tables_exits_0(copied: Path) -> None:
    told = read_csv(copied / "labels.csv")
    groups = sorted({row["group"] for row in told})
    for side, chosen in {"train": groups[: len(groups) // 2], "test": groups[len(groups) // 2 :]}.items():
        rows = [{k: row[k] for k in ("image", "group")} for row in told if row["group"] in chosen]
        write_csv(copied / f"{side}.csv", rows)

    status, said = run("--split", copied / "train.csv", copied / "test.csv")

    assert (status, said.split(" ")[0]) == (0, "0")


def test_without_a_folder_or_a_split_the_error_says_what_to_give() -> None:
    result = CliRunner().invoke(app, ["audit"])

    assert "expected DIR and --out, or --split TRAIN TEST" in str(result.exception)


def test_a_set_with_boxes_gets_a_report_without_label_conflicts(tmp_path: Path) -> None:
    """The second image is the first one flipped, and their boxes differ, which contradicts nothing."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (16, 16)), np.ones((12, 12))).astype(np.uint8)
    (tmp_path / "d/images").mkdir(parents=True)
    for name, pixels, text in (
        ("a", picture, "0 .2 .5 .1 .1"),
        ("b", picture[:, ::-1], "0 .8 .5 .1 .1"),
        ("c", picture.T, ""),
    ):
        Image.fromarray(pixels).save(tmp_path / f"d/images/{name}.png")
        (tmp_path / f"d/images/{name}.txt").write_text(text)
    lines, sound = audit_folder(tmp_path / "d", "yolo", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert sound
    assert report["classes"] == {"with boxes": 2, "without boxes": 1}
    assert (tmp_path / "out/report.html").is_file()
    assert any("Nothing names the patients" in line for line in lines)


def test_images_behind_a_url_are_audited_as_those_in_a_folder(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("upath", reason="needs the extra leanmed[ray]")
    folders = []

    def work(make: Any, jobs: Any, *, folder: Path | None, **options: Any) -> Any:
        folders.append(folder)
        return map(make(), jobs)

    monkeypatch.setattr(cluster, "run", work)
    monkeypatch.setitem(remote.SCHEMES, "local", "fsspec")
    assert run(copied / "images", "--dataset", "images", "--out", tmp_path / "here")[0] == 0
    url = f"local://{copied / 'images'}"
    assert run(url, "--dataset", "images", "--engine", "ray", "--out", tmp_path / "there")[0] == 0
    assert folders == [None], "workers need no folder of the driver's"
    for name in ("pairs.csv", "groups.csv"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()
    page = (tmp_path / "there" / "report.html").read_text()
    assert page.count("data:image/jpeg") == (tmp_path / "here" / "report.html").read_text().count("data:image/jpeg") > 0


def test_a_url_is_refused_without_an_engine_and_with_labels_and_for_findings(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("upath", reason="needs the extra leanmed[ray]")
    monkeypatch.setitem(remote.SCHEMES, "local", "fsspec")
    url = f"local://{copied}"
    status, said = run(url, "--dataset", "images", "--out", tmp_path / "out")
    assert status != 0
    assert "expected --engine ray with URLs" in said
    status, said = run(url, "--engine", "ray", "--out", tmp_path / "out")
    assert status != 0
    assert "expected --dataset images with the URL of a folder" in said
    status, said = run(copied, "--out", "s3://bucket/audit")
    assert status != 0
    assert "expected --out to be a folder of this machine, got s3:/bucket/audit" in said
