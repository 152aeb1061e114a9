"""The audit of a split as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pictures import Pixels, texture

from leanmed.audit import SplitFindings, split_check
from leanmed.audit.split import Leaked
from leanmed.audit.split_files import read_split, render, write_split
from leanmed.errors import DataError
from leanmed.files import sha256_file
from leanmed.records import Record

Save = Callable[[str, Pixels], tuple[str, Path]]
Sides = tuple[SplitFindings, list[Record], list[Record]]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def sides(save: Save) -> Sides:
    """Test image 1 is ann's in training, mirrored; 2 shows ben again; 3 is a stranger's; the file 4 is damaged."""

    def saved(name: str, image: Pixels, group: str) -> Record:
        return Record(id=name.split("/")[1], image=save(name, image)[1], target="t", group=group)

    image = texture(60)
    train = [
        saved("train/a.png", image, "ann"),
        saved("train/b.png", texture(61), "ben"),
        saved(f"train/{EVIL.replace('/', '')}.png", texture(62), "ben"),
    ]
    test = [
        saved("test/1.png", np.ascontiguousarray(image[:, ::-1]), "dan"),
        saved("test/2.png", texture(63), "ben"),
        saved("test/3.png", texture(64), "eve"),
        saved("test/4.png", texture(65), "eva"),
    ]
    test[3].image.write_bytes(b"\x89PNG\r\n\x1a\n")
    return split_check(train, test, workers=1), train, test


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_pair_is_listed_for_programs(sides: Sides, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_split(out, *sides)
    pairs = rows(out / "pairs.csv")
    strange = sides[1][2].id
    found = [(row["test"], row["train"], row["kind"]) for row in pairs]
    assert found == [("1.png", "a.png", "copy"), ("2.png", "b.png", "sibling"), ("2.png", strange, "sibling")]
    assert pairs[0]["transformation"].startswith("mirror=1 turn=0.0 scale=1.000")
    assert float(pairs[0]["score"]) > 0.95
    assert [(row["score"], row["transformation"]) for row in pairs[1:]] == [("", ""), ("", "")]
    told = json.loads((out / "split.json").read_text("utf-8"))
    assert (told["train_images"], told["test_images"], told["pairs"]) == (3, 4, 3)
    assert told["leaked"][1] == {"image": "2.png", "copies": [], "siblings": ["b.png", strange]}
    assert [(pair["test"], pair["train"]) for pair in told["verified"]] == [("1.png", "a.png")]
    assert list(told["unreadable"]) == ["test:4.png"]
    assert "Not a medical device" in told["notice"]


def test_an_evaluation_is_told_of_every_test_image_by_its_content(sides: Sides, tmp_path: Path, refused: Any) -> None:
    out, test = tmp_path / "out", sides[2]
    write_split(out, *sides)
    leaks = ["copy", "sibling", "", ""]
    assert read_split(out).leaks == {sha256_file(record.image): leak for record, leak in zip(test, leaks, strict=True)}
    with refused(DataError, "expected an audit of a split", "leanmed audit --split TRAIN TEST --out DIR"):
        read_split(tmp_path)
    table = out / "test.csv"
    table.write_text(table.read_text().replace(",copy", ",maybe"))
    with refused(
        DataError, "expected copy, sibling or nothing in the column leaks, got 'maybe'; audit the split again"
    ):
        read_split(out)


def test_of_equal_files_one_that_leaks_speaks_for_all(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("image,sha256,leaks\na,12ab,copy\nb,12ab,\n")
    assert read_split(tmp_path).leaks == {"12ab": "copy"}


def test_the_page_shows_the_pairs_side_by_side_and_escapes_their_names(sides: Sides, tmp_path: Path) -> None:
    write_split(tmp_path / "out", *sides)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 4
    assert "2 of 4 test images leak: 1 have a copy among the 3 training" in page
    assert "score 1.00: mirror=1 turn=0.0" in page
    assert "a sibling: of one group" in page
    assert page.count("<tr><td>") == 4  # three pairs, and the file that cannot be read
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Research use only. Not a medical device." in page


def test_a_page_shows_the_first_fifty_images_and_lists_ten_thousand_pairs(save: Save) -> None:
    """Of 101 test images, each with 100 siblings, there are 10,100 pairs."""
    file = save("one.png", texture(1, 30, 30))[1]
    train, test = ([Record(f"{side}{k}", file, "t", "g") for k in range(n)] for side, n in (("r", 100), ("t", 101)))
    leaked = tuple(Leaked(record.id, (), tuple(r.id for r in train)) for record in test)
    values = {"leaked": leaked, "test_images": 101, "train_images": 100, "pairs": 10_100, "unreadable": {}}
    page = render(SplitFindings(leaked, {}, {}), train, test, values)
    assert page.count("data:image/jpeg;base64,") == 100
    assert "and 51 more test images" in page
    assert page.count("<tr><td>") == 10_000
    assert "and 100 more in pairs.csv" in page


def test_a_split_that_keeps_apart_says_so(sides: Sides, tmp_path: Path) -> None:
    _, train, test = sides
    write_split(tmp_path / "out", split_check(train, test[2:3], workers=1), train, test[2:3])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "No test image has a copy or a sibling in training." in page
    assert "too good" not in page
    assert rows(tmp_path / "out" / "pairs.csv") == []
