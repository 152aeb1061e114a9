"""Predictions on Ray: the same lines as one process, whatever dies on the way. A local Ray is started once."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from typer.testing import CliRunner

import leanmed
from leanmed import cluster
from leanmed.cli import app
from leanmed.errors import DataError, MissingExtraError, OutputError, RunError
from leanmed.reading.images import Limits
from leanmed.runtime import distributed
from leanmed.runtime.batch import predict_file
from leanmed.runtime.distributed import Asked, Job, ShardWorker, Tried, predict_distributed
from leanmed.runtime.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns of what is deprecated in it


def lost(done: int) -> None:
    """As a driver that is killed when the first shard is done."""
    raise KeyboardInterrupt


def timeless(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture
def predictor(tiny_artifact: Path) -> Predictor:
    return leanmed.load(tiny_artifact)


@pytest.fixture
def inputs(photographs: list[Path], tmp_path: Path) -> list[Path]:
    """Twenty inputs; the eleventh cannot be read."""
    places = [tmp_path / "in" / f"{number:02}.png" for number in range(20)]
    places[0].parent.mkdir()
    for number, place in enumerate(places):
        shutil.copy(photographs[number % len(photographs)], place)
    places[10].write_bytes(b"")
    return places


@pytest.fixture
def asked(predictor: Predictor, tiny_artifact: Path, tmp_path: Path) -> Asked:
    return Asked(
        tiny_artifact, predictor.artifact.sha256, predictor.limits, 0.5, False, tmp_path / "answers.jsonl", None
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' part of the work, without a cluster."""

    def run(make: Any, jobs: Any, *, workers: int = 0, folder: Path | None = None) -> Iterator[Any]:
        return map(make(), jobs)

    monkeypatch.setattr(cluster, "run", run)
    monkeypatch.setattr(distributed, "SHARD_INPUTS", 6)


@pytest.mark.usefixtures("in_this_process")
def test_shards_become_one_file_of_the_lines_that_one_process_writes(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    plain = predict_file(predictor, inputs, tmp_path / "plain.jsonl")
    out = tmp_path / "out" / "answers.jsonl"
    found = predict_distributed(predictor, tiny_artifact, inputs, out)
    assert timeless(out) == timeless(plain.path)
    assert replace(found, path=plain.path) == plain
    assert sorted(path.name for path in out.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.done"]


@pytest.mark.usefixtures("in_this_process")
def test_a_lost_driver_s_shards_are_kept_and_the_rest_is_answered(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        predict_distributed(predictor, tiny_artifact, inputs, out, progress=lost)
    first = tmp_path / "answers-ray-1-of-4.jsonl"
    kept = first.read_bytes()
    with pytest.raises(OutputError, match="add --resume"):
        predict_distributed(predictor, tiny_artifact, inputs, out)
    predict_distributed(predictor, tiny_artifact, inputs, out, resume=True)
    assert out.read_bytes().startswith(kept)
    assert [line["input"] for line in timeless(out)] == [str(path) for path in inputs]


@pytest.mark.usefixtures("in_this_process")
def test_overwrite_replaces_the_answers_and_shards_of_an_earlier_run(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    out = tmp_path / "answers.jsonl"
    predict_distributed(predictor, tiny_artifact, inputs[:7], out)
    with pytest.raises(KeyboardInterrupt):
        predict_distributed(predictor, tiny_artifact, inputs, out, overwrite=True, progress=lost)
    found = predict_distributed(predictor, tiny_artifact, inputs, out, overwrite=True)
    assert found.answered == 19


@pytest.mark.usefixtures("in_this_process")
def test_a_lost_run_that_replaces_answers_is_gone_on_with_and_the_old_ones_are_not_taken_for_its_own(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], photographs: list[Path], tmp_path: Path
):
    out = tmp_path / "answers.jsonl"
    predict_distributed(predictor, tiny_artifact, inputs, out)
    old = out.read_bytes()
    shutil.copy(photographs[0], inputs[10])  # now it can be read, under the same name
    with pytest.raises(KeyboardInterrupt):
        predict_distributed(predictor, tiny_artifact, inputs, out, overwrite=True, progress=lost)
    assert out.read_bytes() == old
    assert predict_distributed(predictor, tiny_artifact, inputs, out, resume=True).answered == 20
    assert sorted(path.name for path in tmp_path.glob("answers*")) == ["answers.jsonl", "answers.jsonl.done"]


@pytest.mark.usefixtures("in_this_process")
def test_a_file_of_somebody_else_in_a_shard_s_place_is_left_alone(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    notes = tmp_path / "answers-ray-1-of-4.jsonl"
    notes.write_text("my notes\n")
    with pytest.raises(OutputError, match="a file of another kind"):
        predict_distributed(predictor, tiny_artifact, inputs, tmp_path / "answers.jsonl", overwrite=True)
    assert notes.read_text() == "my notes\n"


@pytest.mark.usefixtures("in_this_process")
def test_shards_of_another_question_stay_when_whole_answers_are_resumed(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    out = tmp_path / "answers.jsonl"
    whole = predict_distributed(predictor, tiny_artifact, inputs, out)
    other = predict_file(predictor, inputs[10:14], tmp_path / "answers-ray-1-of-4.jsonl").path
    assert predict_distributed(predictor, tiny_artifact, inputs, out, resume=True) == whole
    assert other.exists()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("end", ["", ".part"])
def test_answers_of_a_run_without_a_cluster_are_not_resumed_by_one(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path, end: str
):
    predict_file(predictor, inputs, tmp_path / "plain.jsonl").path.rename(tmp_path / f"answers.jsonl{end}")
    with pytest.raises(OutputError, match="is of one without"):
        predict_distributed(predictor, tiny_artifact, inputs, tmp_path / "answers.jsonl", resume=True)


@pytest.mark.usefixtures("in_this_process")
def test_no_inputs_give_no_lines(predictor: Predictor, tiny_artifact: Path, tmp_path: Path):
    found = predict_distributed(predictor, tiny_artifact, [], tmp_path / "answers.jsonl")
    assert (found.answered, found.path.read_bytes()) == (0, b"")


@pytest.mark.usefixtures("in_this_process")
def test_the_folder_of_drawings_is_made_before_the_work_begins(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    draw = tmp_path / "more" / "drawn"
    predict_distributed(predictor, tiny_artifact, inputs[:2], tmp_path / "answers.jsonl", draw=draw)
    assert len(list(draw.iterdir())) == 2


def behind(path: Path) -> Any:
    """A place in what stands for an object store."""
    upath = pytest.importorskip("upath", reason="needs the extra leanmed[ray]")
    return upath.UPath(f"local://{path}", auto_mkdir=True)


def in_bucket(inputs: list[Path]) -> list[Any]:
    return [behind(path) for path in inputs]


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.mark.usefixtures("in_this_process")
def test_behind_urls_the_lines_are_those_of_one_process_with_the_urls_as_names(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path, tmp_path: Path
):
    plain = predict_file(predictor, inputs, tmp_path / "plain.jsonl")
    out, draw = behind(bucket / "answers.jsonl"), behind(bucket / "drawn")
    found = predict_distributed(predictor, behind(tiny_artifact), in_bucket(inputs), out, draw=draw)
    expected = [
        line | {"input": f"local://{line['input']}"} | ({"error": _of_url(line)} if "error" in line else {})
        for line in timeless(plain.path)
    ]
    written = timeless(bucket / "answers.jsonl")
    drawn = [line.pop("picture") for line in written if "picture" in line]
    assert written == expected
    assert (found.path, found.answered, len(found.failed)) == (out, 19, 1)
    assert sorted(path.name for path in bucket.iterdir()) == ["answers.jsonl", "answers.jsonl.done", "drawn"]
    assert sorted(f"drawn/{path.name}" for path in (bucket / "drawn").iterdir()) == sorted(drawn)
    assert len(drawn) == 19


def _of_url(line: dict[str, Any]) -> str:
    return str(line["error"]).replace(line["input"], f"local://{line['input']}")


@pytest.mark.usefixtures("in_this_process")
def test_behind_urls_a_lost_driver_s_shards_are_kept_and_the_rest_is_answered(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path
):
    places, out, answers = in_bucket(inputs), behind(bucket / "answers.jsonl"), bucket / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        predict_distributed(predictor, tiny_artifact, places, out, progress=lost)
    first = bucket / "answers-ray-1-of-4.jsonl"
    kept = first.read_bytes()
    with pytest.raises(OutputError, match=f"local://{first} of an earlier run is there; add --resume"):
        predict_distributed(predictor, tiny_artifact, places, out)
    predict_distributed(predictor, tiny_artifact, places, out, resume=True)
    assert answers.read_bytes().startswith(kept)
    assert [line["input"] for line in timeless(answers)] == [str(place) for place in places]
    assert not first.exists()
    again = predict_distributed(predictor, tiny_artifact, places[:7], out, overwrite=True)
    assert (again.answered, len(timeless(answers))) == (7, 7)


@pytest.mark.usefixtures("in_this_process")
def test_behind_a_url_a_file_of_somebody_else_is_left_alone(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path
):
    bucket.mkdir()
    (bucket / "answers.jsonl").write_text("my notes\n")
    with pytest.raises(OutputError, match=f"local://{bucket}/answers.jsonl to be new.*a file of another kind"):
        predict_distributed(predictor, tiny_artifact, inputs, behind(bucket / "answers.jsonl"), overwrite=True)
    assert (bucket / "answers.jsonl").read_text() == "my notes\n"


@pytest.mark.usefixtures("in_this_process")
def test_an_image_behind_a_url_that_is_too_large_fails_and_the_rest_goes_on(
    tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    predictor = leanmed.load(tiny_artifact, limits=Limits(max_bytes=max(path.stat().st_size for path in inputs)))
    inputs[3].write_bytes(bytes(predictor.limits.max_bytes + 1))
    found = predict_distributed(predictor, tiny_artifact, in_bucket(inputs), tmp_path / "answers.jsonl")
    assert [name for name, _ in found.failed] == [f"local://{inputs[3]}", f"local://{inputs[10]}"]
    assert "expected at most" in found.failed[0][1]


@pytest.mark.usefixtures("in_this_process")
def test_a_network_that_fails_is_no_answer_and_counts_for_no_death(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    places, out = in_bucket(inputs), tmp_path / "answers.jsonl"
    files = type(places[0].fs)
    opened = files.open

    def fails(self: Any, path: str, *args: Any, **more: Any) -> Any:
        if path.endswith("07.png"):
            raise TimeoutError("no answer")
        return opened(self, path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", fails)
        for number in range(4):
            with pytest.raises(RunError, match=r"expected to reach .*07\.png, got TimeoutError: no answer"):
                predict_distributed(predictor, tiny_artifact, places, out, resume=number > 0)
    assert not out.exists()
    assert predict_distributed(predictor, tiny_artifact, places, out, resume=True).answered == 19


@pytest.mark.usefixtures("in_this_process")
def test_drawings_that_were_not_sent_are_drawn_anew(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path, tmp_path: Path
):
    """A worker was lost after three lines, with its drawings; the lines lie in the folder that all share."""
    out = tmp_path / "answers.jsonl"
    plain = predict_file(predictor, inputs[:3], tmp_path / "plain.jsonl", draw=tmp_path / "drawn").path
    plain.rename(tmp_path / "answers-ray-1-of-4.jsonl.part")
    predict_distributed(predictor, tiny_artifact, inputs, out, draw=behind(bucket / "drawn"), resume=True)
    pictures = {f"drawn/{path.name}" for path in (bucket / "drawn").iterdir()}
    assert {line["picture"] for line in timeless(out) if "picture" in line} == pictures
    assert len(pictures) == 19


@pytest.mark.usefixtures("in_this_process")
def test_drawings_of_a_whole_shard_that_were_not_sent_are_drawn_anew(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path, tmp_path: Path
):
    """A worker was lost when its shard was whole, and its drawings were not sent: its note is still there."""
    shard = tmp_path / "answers-ray-1-of-4.jsonl"
    predict_file(predictor, inputs[:6], shard, draw=tmp_path / "drawn")
    shard.with_name(f"{shard.name}.tried").touch()
    draw = behind(bucket / "drawn")
    predict_distributed(predictor, tiny_artifact, inputs, tmp_path / "answers.jsonl", draw=draw, resume=True)
    assert len(list((bucket / "drawn").iterdir())) == 19


@pytest.mark.usefixtures("in_this_process")
def test_drawings_may_go_to_the_folder_at_hand(
    predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    predict_distributed(predictor, tiny_artifact, inputs[:2], tmp_path / "answers.jsonl", draw=Path())
    assert len(list((tmp_path / "here").iterdir())) == 2


def test_a_worker_that_does_not_see_the_bucket_is_refused(asked: Asked, tmp_path: Path):
    with pytest.raises(RunError, match=r"does not; give it the same credentials"):
        ShardWorker(replace(asked, seen=behind(tmp_path / "gone.png")))


@pytest.mark.usefixtures("in_this_process")
def test_a_bucket_itself_is_no_file_of_answers(predictor: Predictor, tiny_artifact: Path, inputs: list[Path]):
    with pytest.raises(DataError, match="expected --out with a name below the bucket"):
        predict_distributed(predictor, tiny_artifact, inputs, behind(Path("/")))


def test_a_folder_of_drawings_that_a_worker_does_not_see_is_named(asked: Asked, tmp_path: Path):
    with pytest.raises(RunError, match=r"expected all machines to see .*drawn"):
        ShardWorker(replace(asked, draw=tmp_path / "drawn"))


def test_a_writer_that_was_taken_for_lost_writes_into_nothing(predictor: Predictor, inputs: list[Path], tmp_path: Path):
    part = tmp_path / "answers.jsonl.part"
    whole = predict_file(predictor, inputs, tmp_path / "plain.jsonl").path
    part.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:3]))
    with part.open("ab") as old:
        predict_file(predictor, inputs, tmp_path / "answers.jsonl", resume=True, progress=lambda done: shout(old))
    assert timeless(tmp_path / "answers.jsonl") == timeless(whole)


def shout(file: BinaryIO) -> None:
    file.write(b'{"input": "late"}\n')
    file.flush()


def test_a_damaged_tail_of_a_shard_is_answered_again(predictor: Predictor, inputs: list[Path], tmp_path: Path):
    whole = predict_file(predictor, inputs, tmp_path / "plain.jsonl").path
    lines = whole.read_bytes().splitlines(keepends=True)
    (tmp_path / "answers.jsonl.part").write_bytes(b"".join(lines[:3]) + b"\0" * 50 + b"\n" + lines[4])
    steps: list[int] = []
    predict_file(predictor, inputs, tmp_path / "answers.jsonl", resume=True, progress=steps.append)
    assert steps[0] == 4
    assert timeless(tmp_path / "answers.jsonl") == timeless(whole)


@pytest.mark.usefixtures("in_this_process")
def test_a_table_is_refused(predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path):
    with pytest.raises(DataError, match=r"ends in \.jsonl"):
        predict_distributed(predictor, tiny_artifact, inputs, tmp_path / "answers.csv")


def work(asked: Asked, job: Job, deadly: Path) -> None:
    """What a worker's process does that ends as soon as it reads a deadly input."""
    worker = ShardWorker(asked)
    read = worker.predictor.frame
    worker.predictor.frame = lambda source: os._exit(9) if source == deadly else read(source)  # type: ignore[method-assign]
    worker(job)


def test_an_input_that_costs_two_processes_is_named_and_the_rest_goes_on(
    asked: Asked, inputs: list[Path], tmp_path: Path
):
    """The process ends in its first attempt, then twice while it notes which input it reads."""
    job = Job(tmp_path / "answers-ray-1-of-1.jsonl", tuple(inputs), inputs[0])
    ends = []
    for _ in range(4):
        process = get_context("spawn").Process(target=work, args=(asked, job, inputs[7]))
        process.start()
        process.join()
        ends.append(process.exitcode)
    assert ends == [9, 9, 9, 0]
    lines = timeless(job.path)
    assert [line["input"] for line in lines] == [str(path) for path in inputs]
    assert "2 processes ended" in lines[7]["error"]
    assert [number for number, line in enumerate(lines) if "error" in line] == [7, 10]


def test_half_a_note_counts_for_none(tmp_path: Path):
    note = tmp_path / "note"
    note.write_text('{"reads": "a.pn')
    assert Tried(note)(Path("a.png")) is None
    assert Tried(note).deaths == {"a.png": 1}


def test_a_path_that_only_the_driver_sees_is_named(asked: Asked, inputs: list[Path], tmp_path: Path):
    with pytest.raises(RunError, match=r"expected all machines to see .*elsewhere"):
        ShardWorker(replace(asked, artifact=tmp_path / "elsewhere"))
    gone = tmp_path / "gone.png"
    with pytest.raises(RunError, match=r"all machines to see .*gone.png"):
        ShardWorker(asked)(Job(tmp_path / "answers-ray-1-of-1.jsonl", (gone,), gone))


def test_another_artifact_on_a_worker_is_refused(asked: Asked):
    with pytest.raises(RunError, match="the same on all machines"):
        ShardWorker(replace(asked, sha256="0" * 64))


@pytest.mark.parametrize(
    "words",
    [
        ["s3://b/artifact", "a.png", "--out", "a.jsonl"],
        ["artifact", "s3://b/a.png", "--out", "a.jsonl"],
        ["artifact", "a.png", "--out", "s3://b/a.jsonl"],
        ["artifact", "a.png", "--out", "a.jsonl", "--draw", "s3://b/drawn"],
        ["artifact", "a.png", "--out", "a.jsonl", "--explain", "s3://b/why"],
    ],
)
def test_urls_are_refused_without_the_engine(words: list[str]):
    found = CliRunner().invoke(app, ["predict", *words])
    assert re.match(r"expected --engine ray with URLs, got s3:/+b/", str(found.exception))


def test_without_ray_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leanmed.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"leanmed\[ray\]"):
        list(cluster.run(lambda: abs, [1]))


@pytest.mark.parametrize("engine", ["dask", "ray:", "ray://head:10001"])
def test_another_engine_is_refused(engine: str):
    with pytest.raises(RunError, match="expected --engine ray"):
        cluster.is_engine(engine)


def test_an_address_where_no_ray_listens_is_refused_at_once():
    with pytest.raises(RunError, match=r"expected Ray at 127\.0\.0\.1:9, got no connection"):
        cluster._check_answers("127.0.0.1:9")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", ":6379", "head:"])
def test_an_address_of_another_form_is_refused(address: str):
    with pytest.raises(RunError, match="expected RAY_ADDRESS to be HOST:6379, local or auto"):
        cluster._check_answers(address)


def test_versions_of_readers_are_compared_and_what_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch):
    driver = cluster.versions(["no-such-package"])
    assert driver["no-such-package"] is None
    cluster._check_versions(driver)
    with pytest.raises(RunError, match=r"no-such-package \(none\) in place of 1\.0"):
        cluster._check_versions(driver | {"no-such-package": "1.0"})
    installed = cluster._version
    monkeypatch.setattr(cluster, "_version", lambda name: "0.1" if name == "pydicom" else installed(name))
    with pytest.raises(RunError, match=r"pydicom 0\.1 in place of"):
        cluster._check_versions(driver)


def test_a_worker_of_another_version_refuses_before_it_loads_what_the_driver_sent():
    worker = cluster._Worker(b"made by another version", {"leanmed": "0.0.0"}, Path.cwd())
    (found,) = worker({"job": [b"as well"]})["result"]
    assert re.search(r"leanmed \S+ in place of 0\.0\.0", str(pickle.loads(found)))


def refuses_to_write(job: int) -> None:
    raise OSError(28, "No space left on device")


def makes_one() -> Callable[[int], None]:
    return refuses_to_write


def test_what_the_operating_system_refuses_a_worker_is_told_in_a_sentence():
    worker = cluster._Worker(pickle.dumps(makes_one), cluster.versions(), Path.cwd())
    (found,) = worker({"job": [pickle.dumps(1)]})["result"]
    error = pickle.loads(found)
    assert isinstance(error, RunError)
    assert "No space left on device" in str(error)


class OnRay:
    """A job gives its worker's process; a negative one ends it the first time, and a text is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, job: Any) -> tuple[Any, int]:
        if isinstance(job, str):
            raise RunError(job)
        if job < 0 and not (self.folder / str(job)).exists():
            (self.folder / str(job)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return job, os.getpid()


class Make:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> OnRay:
        return OnRay(self.folder)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A Ray of this machine, whose workers can import this module; skipped without the extra."""
    found = pytest.importorskip("ray", reason="needs the extra leanmed[ray]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
        found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        found.shutdown()


def test_ray_gives_results_in_order_after_a_worker_is_lost(ray: None, tmp_path: Path):
    jobs = [3, 1, -2, 5]
    assert [job for job, _ in cluster.run(Make(tmp_path), jobs, workers=2)] == jobs
    assert (tmp_path / "-2").exists()


def test_ray_tells_what_a_worker_refuses(ray: None, tmp_path: Path):
    with pytest.raises(RunError, match="no such shard"):
        list(cluster.run(Make(tmp_path), ["no such shard"]))


def test_ray_s_own_failures_are_told_in_a_sentence(ray: None, tmp_path: Path):
    with pytest.raises(RunError, match="expected the workers on Ray to finish, got TypeError"):
        list(cluster.run(Make(tmp_path), [None]))


def test_ray_predicts_the_same_lines(
    ray: None, predictor: Predictor, tiny_artifact: Path, inputs: list[Path], tmp_path: Path
):
    plain = predict_file(predictor, inputs, tmp_path / "plain.jsonl")
    out = tmp_path / "answers.jsonl"
    predict_distributed(predictor, tiny_artifact, inputs, out, workers=2)
    assert timeless(out) == timeless(plain.path)


def test_ray_predicts_behind_urls(
    ray: None, predictor: Predictor, tiny_artifact: Path, inputs: list[Path], bucket: Path
):
    places = in_bucket(inputs)
    predict_distributed(predictor, behind(tiny_artifact), places, behind(bucket / "answers.jsonl"), workers=2)
    lines = timeless(bucket / "answers.jsonl")
    assert [line["input"] for line in lines] == [str(place) for place in places]
    assert sum("label" in line for line in lines) == 19
