from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leanmed
from leanmed.errors import ArtifactError, OutputError
from leanmed.files import sha256_json
from leanmed.manifest import FORMAT
from leanmed.runtime.artifact import CARD, MANIFEST, TRACES, read_artifact, write_artifact


def edit(artifact: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> None:
    """Change `leanmed.json`; signed, its hash is right again, as whoever made the file could make it."""
    content = json.loads((artifact / MANIFEST).read_text())
    change(content)
    if sign:
        content.pop("sha256")
        content["sha256"] = sha256_json(content)
    (artifact / MANIFEST).write_text(json.dumps(content))


def test_what_was_written_is_read_back(make_artifact):
    path = make_artifact(threshold=0.25, figures={"auc": {"value": 0.9, "low": None, "high": 1, "n": 10}})
    read = read_artifact(path)
    assert read.manifest.threshold == 0.25
    assert read.manifest.figures["auc"] == {"value": 0.9, "low": None, "high": 1, "n": 10}
    assert read.graph == (path / "model.onnx").read_bytes()
    assert read.card == "# card\n"
    assert read.manifest.graphs["model"].bytes == len(read.graph)
    assert "Not a medical device" in read.manifest.intended_use


def test_the_hash_names_what_is_in_an_artifact(make_artifact):
    hashes = [read_artifact(make_artifact(str(n), threshold=t)).sha256 for n, t in enumerate((0.2, 0.2, 0.3))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_manifest_edited_by_hand_is_refused(own_artifact, refused):
    edit(own_artifact, lambda content: content.update(threshold=0.1))
    with refused(ArtifactError, MANIFEST, "was edited or damaged", "take a fresh copy or export again"):
        read_artifact(own_artifact)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_graph_with_one_other_byte_is_refused(position, own_artifact, refused):
    graph = bytearray((own_artifact / "model.onnx").read_bytes())
    graph[position] ^= 1
    (own_artifact / "model.onnx").write_bytes(graph)
    with refused(ArtifactError, "model.onnx does not match its hash in leanmed.json", "take a fresh copy"):
        read_artifact(own_artifact)


def test_a_truncated_or_grown_graph_is_refused(own_artifact, refused):
    whole = (own_artifact / "model.onnx").read_bytes()
    for other in (b"", whole[:-1], whole + b"\0"):
        (own_artifact / "model.onnx").write_bytes(other)
        with refused(ArtifactError, f"expected {len(whole)} bytes, got {len(other)}", "take a fresh copy"):
            read_artifact(own_artifact)


def test_a_missing_graph_is_refused(own_artifact, refused):
    (own_artifact / "model.onnx").unlink()
    with refused(ArtifactError, "model.onnx cannot be read (No such file", "take a fresh copy"):
        read_artifact(own_artifact)


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/x.onnx", "a/b.onnx", "model.onnx\n", "..", "model.txt"])
def test_a_graph_outside_the_folder_is_never_opened(name, own_artifact, refused):
    edit(own_artifact, lambda content: content["graphs"]["model"].update(file=name), sign=True)
    with refused(ArtifactError, MANIFEST, "graphs.model.file: String should match pattern"):
        read_artifact(own_artifact)


def test_a_newer_format_asks_for_a_newer_leanmed(own_artifact, refused):
    edit(own_artifact, lambda content: content.update(format=FORMAT + 1, news=1), sign=True)
    with refused(ArtifactError, f"expected format {FORMAT} or older, got {FORMAT + 1}; install a newer leanmed"):
        read_artifact(own_artifact)


UNSOUND = {
    "unknown key": (lambda c: c.update(news=1), "news: Extra inputs are not permitted"),
    "missing key": (lambda c: c.pop("labels"), "labels: Field required"),
    "no label": (lambda c: c.update(labels=[]), "labels: Tuple should have at least 1 item"),
    "one label": (lambda c: c.update(labels=["ill"]), "expected at least two labels to choose from, got ['ill']"),
    "two labels of boxes": (lambda c: c.update(task="detection"), "expected one label, the name of what the boxes"),
    "boxes without threshold": (
        lambda c: c.update(task="detection", labels=["nodule"], threshold=None),
        "expected a threshold for boxes, got none",
    ),
    "intensities of eight bits": (
        lambda c: c["input"].update(kind="intensities"),
        "expected int16 or float32 for intensities",
    ),
    "a label twice": (lambda c: c.update(labels=["ill", "ill"]), "expected different labels"),
    "threshold of three": (
        lambda c: c.update(labels=["a", "b", "c"]),
        "expected a threshold for two labels only",
    ),
    "threshold": (lambda c: c.update(threshold=float("nan")), "threshold: Input should be"),
    "temperature": (lambda c: c.update(temperature=0), "temperature: Input should be greater than 0"),
    "an endless graph": (
        lambda c: c["graphs"]["model"].update(bytes=2**40),
        "graphs.model.bytes: Input should be",
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_a_signed_but_unsound_manifest_is_refused(kind, own_artifact, refused):
    change, expected = UNSOUND[kind]
    edit(own_artifact, change, sign=True)
    with refused(ArtifactError, MANIFEST, "is damaged", expected, "take a fresh copy of the artifact"):
        read_artifact(own_artifact)


def test_a_kind_of_task_to_come_asks_for_a_newer_leanmed(own_artifact, refused):
    edit(own_artifact, lambda content: content.update(task="telepathy"), sign=True)
    with refused(
        ArtifactError,
        "among classification, detection, segmentation, prompted, got 'telepathy'; install a newer leanmed",
    ):
        read_artifact(own_artifact)


def test_an_artifact_of_format_1_is_read_with_the_same_answers_and_hash(own_artifact, tiny_artifact, photographs):
    """Format 1 named what the graph gives, which the kind of task says."""
    edit(own_artifact, lambda content: content.update(format=1, output="probabilities"), sign=True)
    old, new = read_artifact(own_artifact), read_artifact(tiny_artifact)
    assert old.manifest == new.manifest
    assert old.sha256 == json.loads((own_artifact / MANIFEST).read_text())["sha256"] != new.sha256
    assert leanmed.load(own_artifact).predict(photographs[3]) == leanmed.load(tiny_artifact).predict(photographs[3])


def test_an_artifact_of_format_2_is_read_with_what_its_recipe_says_of_the_threshold(own_artifact, tiny_artifact):
    """Up to format 2 the card had a hash, and nothing said what the figures were of."""

    def as_format_2(content: dict[str, Any]) -> None:
        for name in ("traces", "figures_of", "threshold_rule"):
            del content[name]
        del content["provenance"]["made"]
        content["provenance"]["recipe"] = {"training": {"threshold": "youden"}}
        content |= {"format": 2, "card_sha256": "0" * 64}

    edit(own_artifact, as_format_2, sign=True)
    old, new = read_artifact(own_artifact).manifest, read_artifact(tiny_artifact).manifest
    assert (old.threshold_rule, old.figures_of, old.traces, old.provenance.made) == ("youden", "itself", None, "fold")
    assert old.figures == new.figures
    assert old.threshold == new.threshold


DEEP = 100_000
DAMAGED = {
    "empty": b"",
    "half": b'{"format": 1, "name": "x',
    "no JSON": b"\x89PNG\r\n",
    "no UTF-8": b'{"name": "\xff"}',
    "a list": b"[1]",
    "null": b"null",
    "a number": b"1e999",
    "without hash": b'{"format": 1}',
    "format of words": b'{"format": "one"}',
    "nested too deeply": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nested deeply": b'{"sha256": "0", "a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "half a character": b'{"sha256": "0", "a": "\\ud800"}',
    "endless digits": b'{"format": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_manifest_is_refused(kind, own_artifact, refused):
    (own_artifact / MANIFEST).write_bytes(DAMAGED[kind])
    with refused(ArtifactError, MANIFEST, "damaged", "take a fresh copy"):
        read_artifact(own_artifact)


def test_a_huge_manifest_is_refused_before_it_is_read(own_artifact, refused):
    with (own_artifact / MANIFEST).open("r+b") as file:
        file.truncate(2**26 + 1)  # a hole: it takes no room on the disk
    with refused(ArtifactError, "expected at most 67,108,864 bytes, got 67,108,865"):
        read_artifact(own_artifact)


def test_a_folder_without_manifest_is_no_artifact(tmp_path, refused):
    for path in (tmp_path, tmp_path / "nowhere"):
        with refused(ArtifactError, str(path), "expected an artifact, a folder with leanmed.json", "check the path"):
            read_artifact(path)


def test_an_artifact_without_its_card_still_works(own_artifact):
    (own_artifact / CARD).unlink()
    assert read_artifact(own_artifact).card == ""


def test_traces_travel_with_the_artifact_and_are_checked_and_may_be_left_behind(own_artifact, tiny_artifact, refused):
    old = read_artifact(tiny_artifact)
    new = write_artifact(own_artifact, old.manifest, old.graphs, "# card\n", b"some codes", overwrite=True)
    assert new.manifest.traces.bytes == 10
    assert read_artifact(own_artifact) == new
    (own_artifact / TRACES).write_bytes(b"same bytes")
    with refused(ArtifactError, TRACES, "does not match its hash"):
        read_artifact(own_artifact)
    (own_artifact / TRACES).unlink()
    assert read_artifact(own_artifact).traces == b""


def test_an_artifact_of_other_graphs_has_no_single_one(own_artifact, refused):
    def rename(content: dict[str, Any]) -> None:
        content["graphs"] = {"encoder": content["graphs"]["model"]}

    edit(own_artifact, rename, sign=True)
    with refused(ArtifactError, "expected an artifact with a graph `model`, got ['encoder']"):
        _ = read_artifact(own_artifact).graph


def test_writing_replaces_an_older_artifact_whole(own_artifact, tiny_artifact):
    (own_artifact / "left-over.onnx").write_bytes(b"old")
    old = read_artifact(tiny_artifact)
    about = old.manifest.model_copy(update={"name": "new"})
    new = write_artifact(own_artifact, about, old.graphs, "# new\n", overwrite=True)
    assert sorted(path.name for path in own_artifact.iterdir()) == [CARD, MANIFEST, "model.onnx"]
    assert read_artifact(own_artifact) == new


@pytest.mark.parametrize("name", ["photographs", "photographs/a.png"])
def test_writing_over_anything_else_is_refused(name, tmp_path, tiny_artifact, refused):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.png").write_text("precious")
    old = read_artifact(tiny_artifact)
    for overwrite in (False, True):
        with refused(OutputError, "to be ", ", but it ", "; choose another --out"):
            write_artifact(tmp_path / name, old.manifest, old.graphs, old.card, overwrite=overwrite)
    assert (tmp_path / "photographs" / "a.png").read_text() == "precious"
