from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import leanmed
from leanmed import Prediction
from leanmed.errors import DataError, OutputError, RunError, UnreadableInput, UnsupportedInput
from leanmed.manifest import Input
from leanmed.runtime.batch import (
    IN_FLIGHT,
    Explanations,
    Pictures,
    Shard,
    _plain_name,
    answers,
    predict_file,
    predict_lines,
)
from leanmed.runtime.lines import as_text, line_of, read_lines, write_lines


@pytest.fixture
def predictor(tiny_artifact):
    return leanmed.load(tiny_artifact)


@pytest.fixture
def mixed(photographs, tmp_path):
    """Photographs with three inputs among them that cannot be read."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "half.png").write_bytes(photographs[0].read_bytes()[:60])
    return [
        photographs[1],
        tmp_path / "empty.png",
        photographs[2],
        tmp_path / "gone.png",
        tmp_path / "half.png",
    ]


def stub(predict: Callable[[Path], float]) -> Any:
    """What answers as a predictor does, by a function from the path to a probability."""

    def decide(frame: Any, prompts: None) -> Prediction:
        p = predict(frame.path)
        return Prediction("b", {"a": 1 - p, "b": p}, 0.5)

    return SimpleNamespace(
        takes_scans=False,
        frame=lambda path: SimpleNamespace(path=path, points=None),
        decide=decide,
        remark=lambda familiar: "",
        refuse_unfamiliar=False,
        manifest=SimpleNamespace(threshold=0.5),
        artifact=SimpleNamespace(sha256="f" * 64),
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(path)]


def test_each_input_gets_a_line_in_the_order_given(predictor, photographs, tmp_path):
    outcome = predict_file(predictor, photographs[::-1], tmp_path / "new" / "a.jsonl", workers=3)
    assert (outcome.answered, outcome.failed) == (12, ())
    found = lines(outcome.path)
    assert [line["input"] for line in found] == [str(path) for path in reversed(photographs)]
    assert [line["probability"] for line in found] == pytest.approx([20 * k / 255 for k in range(11, -1, -1)])
    keys = ["input", "label", "probability", "probabilities", "threshold", "familiar", "artifact", "version", "seconds"]
    assert list(found[0]) == keys
    assert found[0]["artifact"] == predictor.artifact.sha256
    assert found[0]["probabilities"].keys() == {"non-anemic", "anemic"}
    assert found[0]["threshold"] == 0.5


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(predictor, mixed, tmp_path):
    outcome = predict_file(predictor, mixed, tmp_path / "a.jsonl")
    assert outcome.answered == 2
    assert [name for name, _ in outcome.failed] == [str(mixed[i]) for i in (1, 3, 4)]
    assert "an empty file" in outcome.failed[0][1]
    assert "found nothing there" in outcome.failed[1][1]
    assert [sorted(line) for line in lines(outcome.path)][1] == ["error", "input"]
    marker = json.loads((tmp_path / "a.jsonl.done").read_text())
    assert marker["failed"] == [list(pair) for pair in outcome.failed]
    assert (marker["artifact"], marker["threshold"]) == (predictor.artifact.sha256, 0.5)


def test_a_graph_that_gives_nonsense_for_one_image_does_not_stop_the_batch(tmp_path):
    odd = stub(lambda path: float("nan") if path.name == "b" else 0.5)
    outcome = predict_file(odd, [Path("a"), Path("b"), Path("c")], tmp_path / "a.jsonl")
    assert outcome.answered == 2
    assert "expected probabilities" in outcome.failed[0][1]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_shards_share_the_inputs_out_and_mark_their_own_end(count, predictor, photographs, tmp_path):
    found = []
    for index in range(1, count + 1):
        outcome = predict_file(predictor, photographs, tmp_path / "a.jsonl", shard=Shard(index, count))
        assert outcome.path.name == ("a.jsonl" if count == 1 else f"a-{index}-of-{count}.jsonl")
        marker = json.loads(outcome.path.with_name(outcome.path.name + ".done").read_text())
        assert marker["shard"] == [index, count]
        assert marker["inputs"] == outcome.answered <= -(-12 // count)
        found += [line["input"] for line in lines(outcome.path)]
    assert sorted(found) == sorted(map(str, photographs))
    assert len(list(tmp_path.iterdir())) == 2 * count


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "/2", "-1/2", "a/b", "1/2/3", "1.0/2", ""])
def test_a_shard_that_is_none_is_refused(text, refused):
    with refused(RunError, "expected --shard I/N with 1 <= I <= N, such as 2/4, got"):
        Shard.parse(text)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.part", "a.jsonl.done"])
def test_nothing_is_overwritten(name, predictor, photographs, tmp_path, refused):
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with refused(OutputError, f"but {name} is a file of another kind; choose another --out"):
            predict_file(predictor, photographs, tmp_path / "a.jsonl", overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "folder").mkdir()
    with refused(OutputError, "expected --out", "folder to be a file, but it is a folder"):
        predict_file(predictor, photographs, tmp_path / "folder", overwrite=True)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_older_answers_stand_until_the_new_ones_are_whole(name, predictor, mixed, photographs, tmp_path, refused):
    out = tmp_path / name
    first = predict_file(predictor, mixed, out)
    before, marker = out.read_bytes(), out.with_name(f"{name}.done").read_bytes()
    with refused(OutputError, "but it holds answers; add --resume to go on with them, or --overwrite"):
        predict_file(predictor, photographs, out)
    with refused(OutputError, "expected --resume or --overwrite, got both"):
        predict_file(predictor, photographs, out, resume=True, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        predict_file(predictor, photographs, out, overwrite=True, progress=stop_at(3))
    assert (out.read_bytes(), out.with_name(f"{name}.done").read_bytes()) == (before, marker)
    steps: list[int] = []
    outcome = predict_file(predictor, photographs, out, resume=True, progress=steps.append)
    assert steps == list(range(4, 13))
    assert (outcome.answered, first.answered) == (12, len(mixed) - len(first.failed))
    assert predict_file(predictor, mixed, out, overwrite=True) == first
    assert sorted(path.name for path in tmp_path.glob(f"{name}*")) == [name, f"{name}.done"]


def test_a_stopped_prediction_may_be_begun_anew_and_half_a_line_is_no_loss(predictor, photographs, tmp_path):
    part = tmp_path / "a.jsonl.part"
    for left in ("", '{"inp', '{"input": "photogr', '{"input": "gone.png", "error": "no image"}\n{"in'):
        part.write_text(left)
        assert predict_file(predictor, photographs, tmp_path / "a.jsonl", overwrite=True).answered == 12
        assert not part.exists()


def test_files_of_earlier_inputs_beside_the_answers_go_with_them(predictor, photographs, tmp_path):
    """A mask whose image is not among the inputs any more would pass for one of the new artifact's."""
    out, beside = tmp_path / "a.jsonl", tmp_path / "a-files"
    predict_file(predictor, photographs[:2], out)
    beside.mkdir()
    kept, gone = (f"{_plain_name(path)}.nii.gz" for path in photographs[:2])
    for name in (kept, gone, "notes.txt"):
        (beside / name).touch()
    predict_file(predictor, photographs[:1], out, overwrite=True)
    assert {path.name for path in beside.iterdir()} == {kept, "notes.txt"}


def cuts(content: bytes) -> Iterator[int]:
    """Every kind of place to stop at: within a line, about its end, at the very start and end."""
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    yield from (0, 1)
    for start, end in zip([0, *ends], ends, strict=False):
        yield from (start + 30, (start + end) // 2, end - 2, end - 1, end)


def test_a_batch_killed_at_any_byte_goes_on_to_the_same_answers(predictor, mixed, tmp_path):
    whole = predict_file(predictor, mixed, tmp_path / "whole.jsonl")
    content = whole.path.read_bytes()
    for cut in cuts(content):
        (tmp_path / "a.jsonl.part").write_bytes(content[:cut])
        outcome = predict_file(predictor, mixed, tmp_path / "a.jsonl", resume=True)
        assert timeless(outcome.path) == timeless(whole.path)
        assert outcome.failed == whole.failed
        assert not (tmp_path / "a.jsonl.part").exists()
        for name in ("a.jsonl", "a.jsonl.done"):
            (tmp_path / name).unlink()


def test_what_is_answered_is_not_answered_again(tmp_path):
    asked: list[str] = []
    steps: list[int] = []
    paths = [Path(f"{k}") for k in range(9)]
    counting = stub(lambda path: asked.append(path.name) or 0.5)
    predict_file(counting, paths, tmp_path / "a.jsonl")
    content = (tmp_path / "a.jsonl").read_bytes()
    for name in ("a.jsonl", "a.jsonl.done"):
        (tmp_path / name).unlink()
    (tmp_path / "a.jsonl.part").write_bytes(b"".join(content.splitlines(True)[:6]) + b'{"input": "6", "la')
    asked.clear()
    predict_file(counting, paths, tmp_path / "a.jsonl", resume=True, progress=steps.append)
    assert asked == ["6", "7", "8"]
    assert steps == [7, 8, 9]


def test_a_process_killed_in_the_middle_can_be_resumed(tiny_artifact, photographs, tmp_path):
    code = """import os, signal, sys, leanmed; from pathlib import Path
from leanmed.runtime.batch import predict_file
def die(number):
    if number == 5: os.kill(os.getpid(), signal.SIGKILL)
artifact, out, *photographs = map(Path, sys.argv[1:])
predict_file(leanmed.load(artifact), photographs, out, workers=2, progress=die)"""
    out = tmp_path / "a.jsonl"
    killed = subprocess.run([sys.executable, "-c", code, tiny_artifact, out, *photographs], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["a.jsonl.part"]  # noqa: PTH208
    assert predict_file(leanmed.load(tiny_artifact), photographs, out, resume=True).answered == 12


def test_a_batch_stopped_before_its_marker_gets_it_on_resuming(predictor, photographs, tmp_path):
    predict_file(predictor, photographs, tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    marker = (tmp_path / "a.jsonl.done").read_bytes()
    (tmp_path / "a.jsonl.done").unlink()
    assert predict_file(predictor, photographs, tmp_path / "a.jsonl", resume=True).answered == 12
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert (tmp_path / "a.jsonl.done").read_bytes() == marker


def test_a_finished_batch_is_left_as_it_is(photographs, predictor, mixed, tmp_path):
    first = predict_file(predictor, mixed, tmp_path / "a.jsonl")
    before = first.path.read_bytes()
    again = predict_file(predictor, mixed, tmp_path / "a.jsonl", resume=True, progress=pytest.fail)
    assert again == first
    assert first.path.read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
def test_going_on_with_another_artifact_or_other_inputs_is_refused(
    finished, predictor, make_artifact, photographs, tmp_path, refused
):
    out, half = tmp_path / "a.jsonl", tmp_path / "a.jsonl.part"
    predict_file(predictor, photographs, out)
    kept = out if finished else half
    if not finished:
        out.rename(half)
    before = kept.read_bytes()
    other = leanmed.load(make_artifact(threshold=0.1))
    with refused(RunError, str(kept), "was answered by another artifact", "choose another --out"):
        predict_file(other, photographs, out, resume=True)
    for inputs in (photographs[::-1], photographs[:5]):
        with refused(RunError, str(kept), "answers other inputs; remove it, or choose another --out"):
            predict_file(predictor, inputs, out, resume=True)
    assert kept.read_bytes() == before
    assert (tmp_path / "a.jsonl.done").exists() == finished


def test_a_finished_batch_does_not_pass_for_one_of_more_inputs(predictor, photographs, tmp_path, refused):
    predict_file(predictor, photographs[:5], tmp_path / "a.jsonl")
    with refused(RunError, "to answer 12 inputs, got 5; choose another --out"):
        predict_file(predictor, photographs, tmp_path / "a.jsonl", resume=True)


@pytest.mark.parametrize("content", [b"\x00\x00\n", b"[]\n", b"{}\n", b'"input"\n', b'{"input": \n', b"\xff\n"])
def test_a_file_that_holds_no_answers_is_left_alone(content, predictor, photographs, tmp_path, refused):
    (tmp_path / "a.jsonl.part").write_bytes(content)
    with refused(RunError, "a.jsonl.part to hold answers, got", "remove it, or choose another --out"):
        predict_file(predictor, photographs, tmp_path / "a.jsonl", resume=True)
    assert (tmp_path / "a.jsonl.part").read_bytes() == content


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_names_that_are_no_utf8_are_answered_and_resumed(name, predictor, photographs, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes(photographs[1].read_bytes())
    inputs = [odd, tmp_path / os.fsdecode(b"gone-\xff.png"), *photographs]
    outcome = predict_file(predictor, inputs, tmp_path / name)
    if name == "a.jsonl":
        assert lines(outcome.path)[0]["input"] == str(odd)
    assert outcome.answered == 13
    assert outcome.failed[0][0] == str(inputs[1])
    assert predict_file(predictor, inputs, tmp_path / name, resume=True) == outcome


@pytest.mark.parametrize("workers", [1, 3])
def test_only_a_few_images_are_in_flight_however_many_there_are(workers):
    pulled = 0

    def endless() -> Iterator[Path]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Path(f"{pulled}")

    found = answers(stub(lambda path: 0.5), endless(), workers)
    for taken in range(1, 200):
        assert next(found)["input"] == str(taken)
        assert pulled - taken < IN_FLIGHT * workers
    found.close()


def test_several_workers_work_at_once_and_the_order_is_kept():
    second_has_begun = Event()

    def first_waits_for_second(path: Path) -> float:
        if path.name == "second":
            second_has_begun.set()
        elif not second_has_begun.wait(timeout=60):
            raise UnreadableInput("the second was never begun")
        return 0.5

    found = answers(stub(first_waits_for_second), [Path("first"), Path("second")], workers=2)
    assert [(line["input"], line.get("error")) for line in found] == [("first", None), ("second", None)]


def test_no_inputs_give_an_empty_file_and_a_marker(predictor, tmp_path):
    assert predict_file(predictor, [], tmp_path / "a.jsonl").answered == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert (tmp_path / "a.jsonl.done").exists()


def test_lines_go_to_a_stream_as_they_come_and_nothing_else_is_written(predictor, mixed, tmp_path):
    before, stream = sorted(tmp_path.iterdir()), io.StringIO()
    outcome = predict_lines(predictor, mixed, stream)
    whole = predict_file(predictor, mixed, tmp_path / "a.jsonl")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [{**line, "seconds": 0} for line in found] == [{**line, "seconds": 0} for line in lines(whole.path)]
    assert (outcome.answered, outcome.failed) == (whole.answered, whole.failed)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl.done").unlink()
    assert sorted(tmp_path.iterdir()) == before


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_name_that_ends_in_csv_gets_a_table_of_the_same_answers(predictor, mixed, tmp_path):
    whole = predict_file(predictor, mixed, tmp_path / "a.jsonl")
    table = predict_file(predictor, mixed, tmp_path / "a.csv", workers=2)
    assert (table.answered, table.failed) == (whole.answered, whole.failed)
    found = rows(table.path)
    keys = ["input", "label", "p_non-anemic", "p_anemic", "familiar"]
    keys += ["artifact", "version", "seconds", "remark", "error"]
    assert list(found[0]) == keys
    for row, line in zip(found, lines(whole.path), strict=True):
        assert row["input"] == line["input"]
        assert row["error"] == line.get("error", "")
        if "error" not in line:
            assert row["label"] == line["label"]
            assert float(row["p_anemic"]) == line["probabilities"]["anemic"]
            assert row["artifact"] == line["artifact"]
    assert sorted(path.name for path in tmp_path.glob("a.csv*")) == ["a.csv", "a.csv.done"]


def test_a_table_that_was_stopped_goes_on_and_a_finished_one_is_left_as_it_is(
    predictor, make_artifact, mixed, tmp_path, refused
):
    whole = predict_file(predictor, mixed, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        predict_file(predictor, mixed, tmp_path / "a.csv", progress=stop_at(3))
    assert not (tmp_path / "a.csv").exists()
    with refused(OutputError, "a.csv", "add --resume to go on with them, or --overwrite"):
        predict_file(predictor, mixed, tmp_path / "a.csv")
    steps: list[int] = []
    outcome = predict_file(predictor, mixed, tmp_path / "a.csv", resume=True, progress=steps.append)
    assert steps == [4, 5]
    assert (outcome.answered, outcome.failed) == (whole.answered, whole.failed)
    timed = [[{**row, "seconds": ""} for row in rows(path)] for path in (outcome.path, whole.path)]
    assert timed[0] == timed[1]
    before = outcome.path.read_bytes()
    assert predict_file(predictor, mixed, outcome.path, resume=True, progress=pytest.fail) == outcome
    assert outcome.path.read_bytes() == before
    with refused(RunError, "a.csv", "was answered by another artifact"):
        predict_file(leanmed.load(make_artifact(threshold=0.1)), mixed, outcome.path, resume=True)
    (tmp_path / "a.csv.done").unlink()
    with refused(RunError, "expected a.csv.done beside", "got none; remove"):
        predict_file(predictor, mixed, outcome.path, resume=True)


def stop_at(number: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return progress


def test_another_threshold_decides_is_told_and_is_not_mixed_with_the_artifacts_own(
    predictor, tiny_artifact, photographs, tmp_path, refused
):
    other = leanmed.load(tiny_artifact, threshold=0.1)
    own, moved = (predict_file(p, photographs, tmp_path / f"{k}.jsonl") for k, p in enumerate((predictor, other)))
    for before, after in zip(lines(own.path), lines(moved.path), strict=True):
        assert (before["threshold"], after["threshold"]) == (0.5, 0.1)
        assert before["probabilities"] == after["probabilities"]
        assert after["label"] == ("anemic" if after["probability"] >= 0.1 else "non-anemic")
    assert sum(line["label"] == "anemic" for line in lines(moved.path)) == 10
    with refused(RunError, "was answered with another threshold; remove it, or choose another --out"):
        predict_file(other, photographs, own.path, resume=True)


def test_each_image_is_drawn_with_its_answer_and_its_line_names_the_picture(predictor, mixed, tmp_path):
    outcome = predict_file(predictor, mixed, tmp_path / "a.jsonl", draw=tmp_path / "drawn")
    found = lines(outcome.path)
    pictures = [tmp_path / line["picture"] for line in found if "picture" in line]
    assert sorted(pictures) == sorted((tmp_path / "drawn").iterdir())
    assert [("picture" in line) for line in found] == [True, False, True, False, False]
    for path, source in zip(pictures, (mixed[0], mixed[2]), strict=True):
        with Image.open(path) as picture, Image.open(source) as image:
            assert picture.format == "PNG"
            width, height = image.size
            shown = np.asarray(picture)
            assert (shown[:height, :width] == np.asarray(image)).all()
            assert picture.width >= width
            assert shown[height:].max() > 200, "the answer, in white letters"


def test_two_images_of_one_name_get_two_pictures(photographs, tmp_path):
    made = Pictures(tmp_path / "drawn", images=True)
    with Image.open(photographs[0]) as image:
        names = {made.save(Path(folder) / "a.png", image) for folder in ("one", "two")}
    assert len(names) == 2
    assert sorted(f"drawn/{path.name}" for path in (tmp_path / "drawn").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("name", "start"), [("case.nii.gz", "case-"), ("eye.PNG", "eye-"), ("1.2.840", "1.2.840-"), ("é.png", "image-")]
)
def test_a_picture_is_called_as_its_input_without_the_ending(name, start, tmp_path):
    saved = Pictures(tmp_path / "drawn", images=True).save(Path(name), Image.new("L", (4, 4)))
    assert saved is not None
    assert Path(saved).name.startswith(start)
    assert Path(saved).suffixes[-1:] == [".png"]


def test_lines_that_were_written_are_read_back_and_damaged_ones_are_refused(tmp_path, refused):
    answer = Prediction("b", {"a": 0.25, "b": 0.75}, 0.5)
    made = [line_of("x/é.png", answer, seconds=1), {"input": "y", "error": "why"}]
    write_lines(tmp_path / "a.jsonl", made)
    assert (tmp_path / "a.jsonl").read_text() == "".join(map(as_text, made))
    assert list(read_lines(tmp_path / "a.jsonl")) == made
    for damaged in (b"[]", b"{}", b'{"input": 3}', b'{"input": ', b"\xff"):
        (tmp_path / "a.jsonl").write_bytes(as_text(made[1]).encode() + b"\n" + damaged + b"\n")
        with refused(DataError, "a.jsonl, line 3: expected an answer as a line of JSON, got", "correct the line"):
            list(read_lines(tmp_path / "a.jsonl"))


def explained(predictor, inputs, folder, most=50):
    return Explanations.of(predictor, inputs, folder, most)


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_images_of_all_are_explained_in_whichever_shard_they_are(count, predictor, photographs, tmp_path):
    chosen = explained(predictor, photographs, tmp_path / "why", 3)
    found = []
    for index in range(1, count + 1):
        shard = Shard(index, count)
        outcome = predict_file(predictor, photographs, tmp_path / "a.jsonl", shard=shard, explanations=chosen)
        found += lines(outcome.path)
    named = {line["input"]: tmp_path / line["explanation"] for line in found if "explanation" in line}
    assert sorted(named) == list(map(str, photographs[:3]))
    assert sorted(named.values()) == sorted((tmp_path / "why").iterdir())
    for path in named.values():
        with Image.open(path) as picture:
            assert (picture.format, picture.width >= 2 * 512) == ("PNG", True)


def test_pictures_of_answers_and_of_why_may_share_a_folder(predictor, photographs, tmp_path):
    both, chosen = tmp_path / "both", explained(predictor, photographs[:2], tmp_path / "both")
    outcome = predict_file(predictor, photographs[:2], tmp_path / "a.jsonl", draw=both, explanations=chosen)
    names = [line[key] for line in lines(outcome.path) for key in ("picture", "explanation")]
    assert sorted(names) == sorted(f"both/{path.name}" for path in both.iterdir())
    assert len(set(names)) == 4


def test_an_answer_is_the_same_with_and_without_its_explanation(predictor, mixed, tmp_path):
    plain = predict_file(predictor, mixed, tmp_path / "a.jsonl")
    stream = io.StringIO()
    with_why = predict_lines(predictor, mixed, stream, explanations=explained(predictor, mixed, tmp_path / "why"))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ["explanation" in line for line in found] == [True, False, True, False, False]
    assert (with_why.answered, with_why.failed) == (plain.answered, plain.failed)
    bare = [{k: v for k, v in line.items() if k not in ("seconds", "explanation")} for line in found]
    assert bare == timeless(plain.path)


def test_what_is_answered_already_is_not_explained_again(predictor, photographs, tmp_path):
    chosen = explained(predictor, photographs, tmp_path / "why", 4)
    with pytest.raises(KeyboardInterrupt):
        predict_file(predictor, photographs, tmp_path / "a.jsonl", explanations=chosen, progress=stop_at(2))
    for path in (tmp_path / "why").iterdir():
        path.unlink()
    outcome = predict_file(predictor, photographs, tmp_path / "a.jsonl", explanations=chosen, resume=True)
    assert ["explanation" in line for line in lines(outcome.path)] == [k < 4 for k in range(12)]
    assert len(list((tmp_path / "why").iterdir())) == 2


def test_explanations_may_be_by_random_masks(predictor, tmp_path):
    source, pixels = tmp_path / "a.png", np.zeros((40, 60, 4), np.uint8)
    pixels[:, :20, 0], pixels[..., 3] = 255, 255
    pictures = []
    for masks in (0, 5):
        chosen = Explanations.of(predictor, [source], tmp_path / f"{masks}", 1, masks)
        with Image.open(tmp_path / chosen.save(predictor, source, pixels)["explanation"]) as picture:
            pictures.append(np.asarray(picture)[:300])
    assert (pictures[0][:, :512] == pictures[1][:, :512]).all(), "the image itself"
    assert (pictures[0][:, 512:1024] != pictures[1][:, 512:1024]).any()


def test_a_scan_among_the_inputs_is_refused_before_anything_is_explained(make_artifact, photographs, tmp_path, refused):
    slices = leanmed.load(make_artifact(input=Input(side=32, kind="slice", slices=1)))
    with refused(UnsupportedInput, "chest.mhd: expected single images to explain, got a whole scan"):
        explained(slices, [*photographs, Path("chest.mhd")], tmp_path / "why", 1)
