"""What an audit costs from ten thousand images to a million, predictions on a Ray cluster beside plain processes,
and training on several nodes.

    python scripts/measure_scale.py candidates --cache CACHE --count 10000 --count 100000 --count 1000000 --out FILE
    python scripts/measure_scale.py predict ARTIFACT FOLDER --work DIR --out FILE
    python scripts/measure_scale.py audit FOLDER --work DIR --out FILE
    python scripts/measure_scale.py train --work DIR --out FILE

CACHE is the cache of an audit, such as `audit-work/cache-10000` of `measure_audit.py scale`. Its features are mixed in
pairs into as many new images as are asked for; of ten images, the last is a copy of the first, in which 40 of 64
features are left, turned, larger and changed by noise. So the search for candidates, the one part of an audit whose
cost could grow faster than the number of images, is measured without reading a million files. The rest is linear: a
file is read once, and an image has at most eight candidates.

With `--searched 20`, every twentieth thousand of the images is looked up among all, and the time for all of them
follows from theirs.

`predict` answers for all images of a folder in one process, in four processes with a shard each, by four workers of a
local Ray, by a Ray of two nodes (raylets) on this machine of which one is killed halfway, and by a local Ray whose
driver is killed and then resumed. It says whether the lines are the same but for the seconds that each took.

`audit` audits a folder by two processes, by two workers of a local Ray, and by a Ray of two nodes of which one is
killed while the images are read. It says whether the findings are the same.

`train` trains on made photographs in one process, by `torchrun` on two "nodes" of two processes with a quarter of the
batch each, and by the same when a process is killed in the third epoch and the training resumed.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from leanmed.audit import candidates
from leanmed.audit.describe import Features
from leanmed.audit.store import FILE
from leanmed.audit.writing import CACHE
from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.runtime.lines import read_lines

MADE_TOGETHER, LEFT = 10, 40  # images of which the last is a copy of the first, and the features left in it
KILLED_AFTER = 10  # shards
NOISE = 12  # added to the numbers of a copy's descriptors, which are 0..255: at most
app = typer.Typer(add_completion=False, help=__doc__)


class Made:
    """Features of any number of images, the same for the same number, in no memory but that of the pool."""

    def __init__(self, cache: Path) -> None:
        rows = (
            sqlite3.connect(cache / FILE).execute("SELECT points, descriptors FROM image ORDER BY content").fetchall()
        )
        self.points = np.concatenate([np.frombuffer(row[0], np.float32).reshape(-1, 4) for row in rows])
        self.descriptors = np.concatenate([np.frombuffer(row[1], np.uint8).reshape(-1, 128) for row in rows])
        self.together = lru_cache(2)(self._together)
        self.seconds = 0.0  # of CPU that making them took, which is no part of an audit

    def read(self, numbers: Sequence[int]) -> Iterator[Features]:
        """As `find_candidates` asks for them."""
        for number in numbers:
            points, descriptors = self.together(number // MADE_TOGETHER)
            yield points[number % MADE_TOGETHER], descriptors[number % MADE_TOGETHER]

    def _together(self, block: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        begun = time.process_time()
        rng = np.random.default_rng(block)
        shape = (2, MADE_TOGETHER, candidates.INDEXED)
        first, second = rng.integers(len(self.points), size=shape)
        points, descriptors = self.points[first], self.descriptors[first] // 2 + self.descriptors[second] // 2
        noise = rng.integers(-NOISE, NOISE + 1, (LEFT, 128))
        descriptors[-1, :LEFT] = np.clip(descriptors[0, :LEFT] + noise, 0, 255)
        points[-1, :LEFT] = points[0, :LEFT] * np.float32([1, 1, 1.2, 1]) + np.float32([0, 0, 0, 30])
        self.seconds += time.process_time() - begun
        return points, descriptors


class Watch:
    """CPU seconds by stage, less those that making the features took, and the most memory."""

    def __init__(self, made: Made) -> None:
        self.made, self.process, self.peak = made, psutil.Process(), 0.0
        self.stages: dict[str, float] = {}
        self.begun, self.last = time.perf_counter(), self._now()

    def _now(self) -> float:
        return time.process_time() - self.made.seconds

    def advance(self, stage: str, done: int, total: int) -> None:
        """As `find_candidates` tells it; a stage's first call also bears what came before, such as the training."""
        now = self._now()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last, self.peak = now, max(self.peak, self.process.memory_info().rss / 2**20)


class SomeSearches:
    """In place of the search: looks up every `every`-th chunk of images only, and keeps count of its CPU seconds."""

    def __init__(self, every: int, search: Callable[..., Iterator[tuple[int, int]]]) -> None:
        self.every, self.search, self.seconds = every, search, 0.0

    def __call__(self, part: candidates._Coded, *index: object) -> list[tuple[int, int]]:
        """The partners of the images of a chunk, or none."""
        if part.owner[0] // candidates.CHUNK % self.every:
            return []
        begun = time.process_time()
        found = list(self.search(part, *index))
        self.seconds += time.process_time() - begun
        return found


@app.command("candidates")
def measure_candidates(
    cache: Annotated[Path, typer.Option()],
    count: Annotated[list[int], typer.Option()],
    out: Annotated[Path, typer.Option()],
    searched: int = 1,
) -> None:
    """Find candidates among so many images."""
    made = Made(cache)
    search = candidates._search
    for images in count:
        candidates._search = some = SomeSearches(searched, search)
        watch = Watch(made)
        pairs = set(candidates.find_candidates(images, made.read, watch.advance))
        starts = range(0, images, candidates.CHUNK * searched)
        looked_up = [n for start in starts for n in range(start, min(start + candidates.CHUNK, images), MADE_TOGETHER)]
        found = sum((n, n + MADE_TOGETHER - 1) in pairs for n in looked_up)
        share = len(looked_up) * MADE_TOGETHER / images
        searching = watch.stages["search"] + some.seconds * (1 / share - 1)
        cost = {"index": watch.stages["index"], "search": searching}
        row = {
            "command": shlex.join(["python", *sys.argv]),
            "images": images,
            "share of the images that was looked up": share,
            "CPU seconds": {stage: round(seconds, 1) for stage, seconds in cost.items()},
            "CPU milliseconds per image": round(1000 * sum(cost.values()) / images, 3),
            "seconds it ran": round(time.perf_counter() - watch.begun, 1),
            "peak memory MiB": round(watch.peak),
            "candidates per image": round(len(pairs) / share / images, 2),
            "copies found": round(found / len(looked_up), 4),
        }
        typer.echo(row)
        keep(out, "audit candidates", {str(images): row})


def keep(out: Path, part: str, rows: dict[str, object]) -> None:
    """Add rows to a part of the results."""
    content = json.loads(out.read_text()) if out.is_file() else {}
    packages = {name: version(name) for name in ("faiss-cpu", "opencv-python-headless", "ray", "pyarrow")}
    about = machine()
    about["packages"] |= packages
    write_json(out, content | {"machine": about, part: content.get(part, {}) | rows})


Predict = Callable[..., list[str]]


@app.command("predict")
def measure_predictions(
    artifact: Path,
    folder: Path,
    work: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
) -> None:
    """Predict a folder in each way."""
    work.mkdir(parents=True)
    manifest = json.loads((artifact / "leanmed.json").read_text())
    about_artifact = (
        f"{manifest['task']}, {manifest['precision']}, {sum(f.stat().st_size for f in artifact.iterdir())} bytes"
    )

    def command(name: str, *more: str) -> list[str]:
        target = str(work / f"{name}.jsonl")
        return [sys.executable, "-m", "leanmed", "predict", str(artifact), str(folder), "--out", target, *more]

    ways = {
        "one process": in_one_process,
        "four processes": in_four_processes,
        "local Ray, 4 workers": on_local_ray,
        "Ray of two nodes, one killed": on_two_nodes,
        "local Ray, driver killed and resumed": with_a_lost_driver,
    }
    expected: list[dict[str, object]] = []
    for number, (way, answer) in enumerate(ways.items()):
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        name = f"way{number}"
        about = answer(work, name, command)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = without_seconds(work / f"{name}.jsonl")
        expected = expected or lines
        row = {
            "command": shlex.join(["python", *sys.argv]),
            "artifact": about_artifact,
            "images": len(lines),
            "failed": sum("error" in line for line in lines),
            "the same lines as one process": lines == expected,
            "seconds": round(seconds, 1),
            "images a second": round(len(lines) / seconds, 1),
            "CPU seconds of waited-for children": round(after.ru_utime - before.ru_utime, 1),
            **about,
        }
        typer.echo({way: row})
        keep(out, "predictions", {f"{len(lines)} images, {artifact.name}, {way}": row})


def without_seconds(path: Path) -> list[dict[str, object]]:
    """The lines of a file of answers, but for the time that each took."""
    with path.open() as file:
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file]


def in_one_process(work: Path, name: str, command: Predict) -> dict[str, object]:
    subprocess.run(command(name, "--workers", "1"), check=False, capture_output=True)
    return {}


def in_four_processes(work: Path, name: str, command: Predict) -> dict[str, object]:
    """Four shards at once, then their lines in the order of the inputs."""
    running = [
        subprocess.Popen(command(name, "--workers", "1", "--shard", f"{i}/4"), stderr=subprocess.DEVNULL)
        for i in range(1, 5)
    ]
    for process in running:
        process.wait()
    shards = [(work / f"{name}-{i}-of-4.jsonl").read_text().splitlines(keepends=True) for i in range(1, 5)]
    (work / f"{name}.jsonl").write_text("".join(line for row in zip_longest(*shards, fillvalue="") for line in row))
    return {}


def on_local_ray(work: Path, name: str, command: Predict) -> dict[str, object]:
    subprocess.run(command(name, "--workers", "4", "--engine", "ray"), check=False, capture_output=True)
    return {}


def done_shards(work: Path, name: str) -> int:
    return len(list(work.glob(f"{name}-*-of-*.done")))


def on_two_nodes(work: Path, name: str, command: Predict) -> dict[str, object]:
    """Kill the second node when a few shards are done."""
    arguments = command(name, "--workers", "4", "--engine", "ray")
    status, done = while_a_node_is_killed(
        arguments, lambda: done_shards(work, name) >= KILLED_AFTER, lambda: done_shards(work, name)
    )
    return {"shards done when a node was killed": done, "exit status": status}


def while_a_node_is_killed(
    arguments: list[str], is_time: Callable[[], bool], measure: Callable[[], int]
) -> tuple[int, int]:
    """Run a command on a Ray of two nodes, and kill one: the exit status, and a measure of how far it was then."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_ADDRESS": nodes.address})
    while not is_time() and process.poll() is None:
        time.sleep(0.2)
    measured = measure()
    nodes.remove_node(second, allow_graceful=False)
    status = process.wait()
    nodes.shutdown()
    return status, measured


def with_a_lost_driver(work: Path, name: str, command: Predict) -> dict[str, object]:
    """Kill the process that was started when a few shards are done, and start it again."""
    arguments = command(name, "--workers", "4", "--engine", "ray")
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    while done_shards(work, name) < KILLED_AFTER and process.poll() is None:
        time.sleep(0.2)
    process.kill()
    process.wait()
    about = {"shards done when the driver was killed": done_shards(work, name)}
    subprocess.run([*arguments, "--resume"], check=False, capture_output=True)
    return about


FINDINGS = ("pairs.csv", "groups.csv", "report.json")
READ_BEFORE = 50 * 2**20  # bytes of descriptions that are kept when a node is killed


@app.command("audit")
def measure_audits(
    folder: Path,
    work: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
) -> None:
    """Audit a folder in each way."""
    work.mkdir(parents=True)

    def command(name: str, *more: str) -> list[str]:
        given = [str(folder), "--dataset", "images", "--out", str(work / name), "--workers", "2"]
        return [sys.executable, "-m", "leanmed", "audit", *given, *more]

    ways = {
        "two processes": audit_in_processes,
        "local Ray, 2 workers": audit_on_local_ray,
        "Ray of two nodes, one killed": audit_on_two_nodes,
    }
    expected: list[bytes] = []
    for number, (way, audit) in enumerate(ways.items()):
        begun = time.perf_counter()
        about = audit(work, f"way{number}", command)
        seconds = time.perf_counter() - begun
        found = [(work / f"way{number}" / name).read_bytes() for name in FINDINGS]
        expected = expected or found
        images = json.loads(found[-1])["images"]
        row = {
            "command": shlex.join(["python", *sys.argv]),
            "images": images,
            "the same findings as two processes": found == expected,
            "seconds": round(seconds, 1),
            **about,
        }
        typer.echo({way: row})
        keep(out, "audits on Ray", {f"{images} images, {way}": row})


def audit_in_processes(work: Path, name: str, command: Predict) -> dict[str, object]:
    return {"exit status": subprocess.run(command(name), check=False, capture_output=True).returncode}


def audit_on_local_ray(work: Path, name: str, command: Predict) -> dict[str, object]:
    ended = subprocess.run(command(name, "--engine", "ray"), check=False, capture_output=True)
    return {"exit status": ended.returncode}


def audit_on_two_nodes(work: Path, name: str, command: Predict) -> dict[str, object]:
    """Kill the second node when some images are read."""
    cache = work / name / CACHE / FILE

    def some_are_read() -> bool:
        return cache.is_file() and cache.stat().st_size > READ_BEFORE

    arguments = command(name, "--engine", "ray")
    status, size = while_a_node_is_killed(arguments, some_are_read, lambda: cache.stat().st_size)
    return {"exit status": status, "MiB of descriptions when a node was killed": size // 2**20}


NODES, PROCESSES, BATCH = 2, 2, 32
STILL = ["horizontal_flip=0", "rotation=0", "shift=0", "scale=[1,1]"]  # nothing drawn: processes draw each their own
SETTINGS = [
    "data.dataset=folder",
    "data.labels=[non-anemic, anemic]",
    "split.folds=2",
    "split.groups=audit",
    "model.weights=none",
    "model.side=160",
    "model.dropout=0",
    "training.epochs=4",
    "training.learning_rate=0.001",
    *(f"augment.{setting}" for setting in STILL),
]


@app.command("train")
def measure_training(
    work: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    backbone: str = "test_vit",
) -> None:
    """Train in one process, on two nodes, and on two nodes of which one is lost."""
    work.mkdir(parents=True)
    data = PHANTOMS["eyelids"](work / "data", count=160, signal=3.0, side=128)
    settings = [*SETTINGS, f"model.backbone={backbone}"]
    alone = train_arguments(data, work / "alone", settings, BATCH)
    subprocess.run([sys.executable, *alone], check=True, capture_output=True)
    quarter = BATCH // (NODES * PROCESSES)
    together = train_arguments(data, work / "together", settings, quarter, "--nodes", "2", "--devices", "2")
    status = [process.wait() for process in on_nodes(together)]
    audits = (work / "together.log").read_text().count("fold(s) -> ")
    lost = train_arguments(data, work / "lost", settings, quarter, "--nodes", "2", "--devices", "2")
    running = on_nodes(lost)
    history = work / "lost" / "fold-0" / "history.csv"
    while not (history.is_file() and len(history.read_text().splitlines()) > 2):
        time.sleep(0.05)
    last_rank(running[1]).kill()
    failed = [process.wait() for process in running]
    resumed = [process.wait() for process in on_nodes([*lost, "--resume"])]
    row = {
        "command": shlex.join(["python", *sys.argv]),
        "nodes": NODES,
        "processes on each": PROCESSES,
        "batch of each process": quarter,
        "batch of one process": BATCH,
        "exit status of the nodes": status,
        "when a process was killed": failed,
        "resumed": resumed,
        "audits and splits": audits,
        "nodes and one process": differences(work / "together", work / "alone"),
        "resumed and not stopped": differences(work / "lost", work / "together"),
    }
    typer.echo(row)
    keep(out, "training", {backbone: row})


def train_arguments(data: Path, out: Path, settings: Sequence[str], batch: int, *more: str) -> list[str]:
    """What follows the interpreter, or torchrun."""
    sets = [word for setting in [*settings, f"training.batch_size={batch}"] for word in ("--set", setting)]
    start = ["-m", "leanmed", "train", "folder", "--data", str(data), "--out", str(out)]
    return [*start, "--accelerator", "cpu", *sets, *more]


def on_nodes(arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """One torchrun for each node; the first one's words go to `RUN.log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(arguments[arguments.index("--out") + 1]).with_suffix(".log")
    running = []
    for node in range(NODES):
        where = ["--nnodes", str(NODES), "--node-rank", str(node), "--nproc-per-node", str(PROCESSES)]
        where += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        command = [sys.executable, "-m", "torch.distributed.run", *where, *arguments]
        with (log if node == 0 else log.with_suffix(".second.log")).open("ab") as file:
            running.append(subprocess.Popen(command, stdout=file, stderr=file))
    return running


def last_rank(node: subprocess.Popen[bytes]) -> psutil.Process:
    """A process that trains, of a node that is not the first."""
    return psutil.Process(node.pid).children()[-1]


def differences(first: Path, second: Path) -> dict[str, float]:
    """The greatest difference of losses, of validation figures, and of the probabilities of the test part."""
    found = {"loss": 0.0, "validation figures": 0.0, "probabilities": 0.0}
    for fold in (0, 1):
        rows = [list(csv.DictReader((run / f"fold-{fold}" / "history.csv").open())) for run in (first, second)]
        if len(rows[0]) != len(rows[1]):
            raise SystemExit(f"expected as many epochs in {first} as in {second}")
        for one, other in zip(*rows, strict=True):
            for name in one.keys() - {"epoch"}:
                what = "loss" if "loss" in name else "validation figures"
                found[what] = max(found[what], abs(float(one[name]) - float(other[name])))
        lines = [list(read_lines(run / f"fold-{fold}" / "answers-test.jsonl")) for run in (first, second)]
        for one, other in zip(*lines, strict=True):
            found["probabilities"] = max(found["probabilities"], abs(one["probability"] - other["probability"]))
    return found


if __name__ == "__main__":
    app()
