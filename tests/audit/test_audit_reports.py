"""Conflicts, the split check, and the files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_pictures import Pixels, texture

from leanmed.audit import Findings, audit, find_conflicts, split_check
from leanmed.audit.describe import Facts
from leanmed.audit.split import Leaked
from leanmed.audit.writing import as_json, write_findings
from leanmed.records import Record

Save = Callable[[str, Pixels], tuple[str, Path]]
HERE = Path("x.png")


def record(name: str, target: str = "a", group: str = "content-1", **more: object) -> Record:
    return Record(id=name, image=HERE, target=target, group=group, **more)  # type: ignore[arg-type]


def test_copies_that_disagree_are_told_field_by_field_labels_first():
    records = [
        record("1", "anemic", site="North", attributes={"hb": 9.5, "sex": "f"}),
        record("2", "anemic", site="South", attributes={"hb": 12.0, "sex": "f"}),
        record("3", "healthy", attributes={"hb": 9.5}),
    ]
    first, *rest = find_conflicts({"1": ["1", "2", "3"]}, records)
    assert first.field == "label"
    assert first.values == {"anemic": ("1", "2"), "healthy": ("3",)}
    assert first.spread is None
    assert {(c.field, c.spread) for c in rest} == {("site", None), ("hb", 2.5)}


def test_two_patients_in_one_photograph_are_a_conflict_but_two_contents_are_not():
    assert find_conflicts({"1": ["1", "2"]}, [record("1"), record("2", group="content-2")]) == []
    (conflict,) = find_conflicts({"1": ["1", "2"]}, [record("1", group="ann"), record("2", group="bob")])
    assert conflict.field == "group"


def test_images_without_a_record_contradict_nothing():
    assert find_conflicts({"1": ["1", "2"]}, [record("1")]) == []


def test_a_split_is_told_which_test_images_training_has_seen(save: Save):
    def saved(name: str, image: Pixels, group: str) -> Record:
        return Record(id=name.split("/")[1], image=save(name, image)[1], target="t", group=group)

    image = texture(60)
    train = [
        saved("train/1.png", image, "ann"),
        saved("train/2.png", texture(61), "ben"),
        saved("train/3.png", texture(62), "ben"),
    ]
    test = [
        saved("test/1.png", texture(63), "cat"),  # the same id as in training, and another image
        saved("test/4.png", np.ascontiguousarray(image[:, ::-1]), "dan"),
        saved("test/5.png", texture(64), "ben"),
    ]
    found = split_check(train, test, workers=1)
    assert found.leaked == (
        Leaked("4.png", copies=("1.png",), siblings=()),
        Leaked("5.png", copies=(), siblings=("2.png", "3.png")),
    )
    pairs = [(pair.test, pair.train, pair.kind, pair.verified is not None) for pair in found.pairs()]
    assert pairs == [
        ("4.png", "1.png", "copy", True),
        ("5.png", "2.png", "sibling", False),
        ("5.png", "3.png", "sibling", False),
    ]
    assert found.verified["4.png", "1.png"].transformation.startswith("mirror=1 turn=0.0")


def test_siblings_are_found_through_copies(save: Save):
    """Test image 2 is of dan, whose other test image is a copy of ann's first: what training knows of ann, it knows of
    him."""

    def saved(name: str, image: Pixels, group: str) -> Record:
        return Record(id=name, image=save(name, image)[1], target="t", group=group)

    image = texture(60)
    train = [saved("1.png", image, "ann"), saved("3.png", texture(61), "ann"), saved("4.png", texture(62), "ben")]
    test = [saved("5.png", np.ascontiguousarray(image[:, ::-1]), "dan"), saved("2.png", texture(63), "dan")]
    assert split_check(train, test, workers=1).leaked == (
        Leaked("5.png", copies=("1.png",), siblings=("3.png",)),
        Leaked("2.png", copies=(), siblings=("1.png", "3.png")),
    )


@pytest.fixture
def audited(save: Save, tmp_path: Path) -> tuple[Findings, dict[str, Path], list[Record]]:
    """Two copies with hostile names and labels, a stranger, a blank image and a broken one."""
    evil = "<script>alert(1)</script>&"
    images = dict([save("b.png", texture(70)), save("z.png", np.full((20, 20, 4), 255, np.uint8))])
    images[f"{evil}.png"] = save("1.png", texture(71))[1]
    images[f"{evil}2.png"] = save("2.png", np.ascontiguousarray(texture(71)[:, ::-1]))[1]
    images["broken.png"] = tmp_path / "broken.png"
    records = [
        Record(id=i, image=p, target=f"{evil}{len(i) % 2}", group="content-1", site=evil) for i, p in images.items()
    ]
    return audit(list(images.items()), workers=1), images, records


def test_the_tables_hold_every_pair_and_every_readable_image(audited, tmp_path: Path):
    found, images, records = audited
    write_findings(tmp_path / "out", found, images, records)
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["a", "b", "score", "transformation"]
    assert row["transformation"].startswith("mirror=1 turn=0.0 scale=1.000")
    assert float(row["score"]) > 0.95
    with (tmp_path / "out" / "groups.csv").open(newline="") as file:
        groups = {r["image"]: r["group"] for r in csv.DictReader(file)}
    assert groups == found.groups
    assert len(groups) == 4


def test_the_page_stands_alone_and_escapes_what_it_shows(audited, tmp_path: Path):
    write_findings(tmp_path / "out", *audited)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Research use only. Not a medical device." in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "different labels" in page


def test_the_report_counts_what_the_tables_hold(audited, tmp_path: Path):
    found, images, records = audited
    conflicts = write_findings(tmp_path / "out", found, images, records)
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    counts = [report[key] for key in ("images", "groups", "copies", "pairs", "complete")]
    assert counts == [4, 3, 2, 1, True]
    assert [c["field"] for c in report["conflicts"]] == [c.field for c in conflicts] == ["label"]
    assert list(report["unreadable"]) == ["broken.png"]
    assert report["near_empty"] == ["z.png"]
    assert sum(report["classes"].values()) == len(records)


def test_names_that_are_no_text_are_written(tmp_path: Path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    facts = Facts("p", 9, 9, 1.0, 50.0, 9.0)
    write_findings(tmp_path, Findings({name: facts}, {name: name}, (), {}), {name: HERE})
    assert b"caf\xe9.png" in (tmp_path / "groups.csv").read_bytes()


def made_findings(**measures: list[float]) -> Findings:
    count = len(next(iter(measures.values())))
    rows = [{"height": 100, "width": 100, "tissue": 1.0, "mean": 90 + k % 3, "deviation": 30} for k in range(count)]
    for name, values in measures.items():
        rows = [row | {name: value} for row, value in zip(rows, values, strict=True)]
    facts = {str(k): Facts(str(k), **row) for k, row in enumerate(rows)}  # type: ignore[arg-type]
    return Findings(facts, {i: i for i in facts}, (), {})


def test_an_image_far_from_the_median_is_an_outlier():
    found = made_findings(width=[100, 101, 99, 102, 98] * 6 + [300])
    assert [(o.image, o.measure, o.value, o.median) for o in found.outliers] == [("30", "width", 300, 100)]


def test_among_few_images_there_are_no_outliers():
    assert made_findings(width=[100, 101, 99, 400]).outliers == []


def test_where_all_are_equal_nothing_is_an_outlier():
    assert [o for o in made_findings(width=[100] * 30 + [101]).outliers if o.measure == "width"] == []


def test_an_audit_that_found_nothing_reports_that(tmp_path: Path):
    found = made_findings(width=[100.0] * 3)
    assert as_json(found, [], [])["largest"] == []
    write_findings(tmp_path, found, dict.fromkeys(found.facts, HERE))
    assert "No image is a copy of another." in (tmp_path / "report.html").read_text()
    assert (tmp_path / "pairs.csv").read_text().strip() == "a,b,score,transformation"
