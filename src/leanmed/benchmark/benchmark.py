"""Size, latency, start and memory of artifacts, side by side with PyTorch on the same pixels.

Machines are noisy, so all candidates are measured in turn, round after round, and medians and their ratios
are reported. Starting is measured in a process of its own, from nothing to the first answer. Each measurement ends
when its share of the time is over, so that slow graphs and many artifacts get fewer rounds; how many is reported.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from leanmed.cores import available_cores
from leanmed.errors import RunError
from leanmed.outputs import Output
from leanmed.phantoms.eyelids import PHANTOMS, eyelid
from leanmed.reading.images import find_inputs, read_image
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.batch import answers
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Feeds
from leanmed.tasks.recipes import open_run

COUNT = 1000  # images predicted end to end, at most
STARTS = 5  # of each candidate, at most
WARM, LEAST = 2, 3  # rounds of timing that are not kept, at most; and that are, at least
MOST_IN_TURN = 100  # images that one candidate predicts before the next has its turn
SECONDS = 300.0  # that all measurements take together, about
PARTS = 5  # which share them: latency on one thread and on two, starts, images end to end, steps
NETWORK = frozenset({"Conv", "FusedConv", "QLinearConv", "MatMul", "Gemm", "ConvInteger", "NhwcFusedConv"})
START_OURS = "import sys, leanmed; leanmed.load(sys.argv[1]).predict(sys.argv[2])"
START_PEER = """import sys; from pathlib import Path; from leanmed.benchmark.peer import Peer
Peer(Path(sys.argv[1]), int(sys.argv[3]) if sys.argv[3].isdigit() else None).predict(Path(sys.argv[2]))"""
# Linux counts the parent's memory into a child's ru_maxrss, but starts VmHWM afresh with each program.
PEAK = """
from pathlib import Path
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.is_file() else []
print(next((line.split()[1] for line in lines if line.startswith("VmHWM")), ""))"""
BENCHMARK = Output("a benchmark", ("machine", "latency_ms_by_threads"))
Action = Callable[[], Any]


def benchmark(
    artifacts: Sequence[Path],
    *,
    run: Path | None = None,
    images: Path | None = None,
    repeats: int = 30,
    count: int = COUNT,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure artifacts, and the first one's model in PyTorch if its run is given.

    Args:
        artifacts: artifact folders.
        run: the run folder the first artifact was exported from.
        images: a folder of images to predict; None: made ones.
        repeats: interleaved rounds of single predictions, at most.
        count: images predicted end to end, at most; given ones are repeated until there are as many.
        seconds: no further round is begun when this time is over. A fifth of it is for each of the measurements. Three
            rounds are made however long they take, and loading models and reading images come on top.
        tell: takes one line of progress at a time.

    Returns:
        Plain values for JSON: machine, and per candidate bytes, latency, start, memory, throughput and steps, with the
        number of rounds behind them.
    """
    share = seconds / PARTS
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(images, Path(scratch))
        photograph = _photograph(Path(scratch) / "12-megapixels.jpg")
        fold = _fold_of(artifacts[0], run)
        size = list(read_image(files[0]).shape[:2])
        tell("latency of one image")
        latency = {
            str(threads): _latency(artifacts, run, fold, files[0], threads, repeats, share) for threads in (1, 2)
        }
        tell("start to first answer")
        start = _starts(artifacts, run, fold, files[0], share)
        tell(f"{count} images end to end")
        throughput = _throughput(artifacts, run, fold, list(islice(cycle(files), count)), share)
        tell("steps of one prediction")
        each = share / (3 * len(artifacts))
        steps = {
            str(a): {"small": _steps(a, files[0], each), "12 megapixels": _steps(a, photograph, each)}
            for a in artifacts
        }
        reduced = {str(p): _reduced_scale(load(p), photograph, each) for p in artifacts if _may_reduce(p)}
    return {
        "machine": machine(),
        "seconds": seconds,
        "images": {
            "files": len(files),
            "predicted": min(found["images"] for found in throughput.values()),
            "size": size,
        },
        "bytes": {str(a): read_artifact(a).manifest.bytes for a in artifacts},
        "latency_ms_by_threads": latency,
        "start": start,
        "throughput": throughput,
        "steps_ms": steps,
        "reduced_decode": reduced,
    }


def _fold_of(artifact: Path, run: Path | None) -> int | None:
    """The fold that the artifact came from, or None of a model of all images, once it is sure that it is this run's."""
    origin = read_artifact(artifact).manifest.provenance
    if run:
        found = open_run(run)
        if (found.facts["data_sha256"], found.recipe.model_dump(mode="json")) != (origin.data_sha256, origin.recipe):
            raise RunError(f"expected --run to be the run that {artifact} was exported from, got {run}; give that one")
        if TASKS[found.recipe.task].answer.GRAPHS != {"model": ("probabilities",)}:
            raise RunError(f"expected --run to be one for labels, got one for {found.recipe.task}; leave --run out")
        if origin.made == "ensemble":
            raise RunError(f"expected {artifact} to be one model, got the models of all folds; leave --run out")
    return origin.fold


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("onnxruntime", "numpy", "Pillow", "torch", "torchvision", "timm")
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: found for name in names if (found := _version(name))},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({platform.machine()})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _files(images: Path | None, scratch: Path) -> list[Path]:
    folder = images or PHANTOMS["eyelids"](scratch / "eyelids", count=100, seed=0)
    return list(find_inputs([str(folder)]))


def _photograph(path: Path) -> Path:
    """A made photograph as a phone takes it: 4000 x 3000, JPEG."""
    scene = Image.fromarray(eyelid(np.random.default_rng(0), 11.0, cutout=False, side=1000)[..., :3])
    grain = np.random.default_rng(1).normal(0, 4, (3000, 4000, 1))
    pixels = np.asarray(scene.resize((4000, 3000), Image.Resampling.BICUBIC)) + grain
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def interleaved(actions: Mapping[str, Action], repeats: int, seconds: float = math.inf) -> dict[str, dict[str, float]]:
    """Time actions in turn, round after round, with each median's ratio to the first.

    Args:
        actions: what to time.
        repeats: rounds, at most, after two to warm up.
        seconds: no further round is begun when this time is over, but three are made in any case, after one to warm up.

    Returns:
        Name -> `median_ms`, `min_ms`, `max_ms`, `times_the_first`, `rounds`.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    is_over = deadline(seconds)
    for number in range(WARM):
        if not (number and is_over()):
            for action in actions.values():
                action()
    for number in range(repeats):
        if number >= LEAST and is_over():
            break
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    return {
        name: {
            "median_ms": round(1e3 * medians[name], 3),
            "min_ms": round(1e3 * min(values), 3),
            "max_ms": round(1e3 * max(values), 3),
            "times_the_first": round(medians[name] / first, 3),
            "rounds": len(values),
        }
        for name, values in times.items()
    }


def deadline(seconds: float) -> Callable[[], bool]:
    """Says whether so many seconds are over since now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def _latency(
    artifacts: Sequence[Path],
    run: Path | None,
    fold: int | None,
    file: Path,
    threads: int,
    repeats: int,
    seconds: float,
) -> Any:
    """One decoded image, all candidates in turn."""
    pixels = read_image(file)
    actions: dict[str, Action] = {}
    for path in artifacts:
        actions[str(path)] = _bound(load(path, threads=threads).outputs, pixels)
    if not run:
        return interleaved(actions, repeats, seconds)
    import torch

    from leanmed.benchmark.peer import Peer, torch_threads

    with torch_threads(threads):
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        actions["PyTorch eager"] = _bound(Peer(run, fold).probabilities, tensor)
        last = Peer(run, fold)
        last.task.to(memory_format=torch.channels_last)
        actions["PyTorch eager, channels last"] = _bound(last.probabilities, tensor)
        actions["torch.compile"] = _bound(Peer(run, fold, compiled=True).probabilities, tensor)
        return interleaved(actions, repeats, seconds)


def _bound(function: Callable[[Any], Any], argument: Any) -> Action:
    return lambda: function(argument)


def _starts(
    artifacts: Sequence[Path], run: Path | None, fold: int | None, file: Path, seconds: float
) -> dict[str, dict[str, float]]:
    """From no process to the first answer, and the process's peak memory, in turn; the first round is not kept."""
    commands = {str(path): [START_OURS, str(path), str(file)] for path in artifacts}
    if run:
        commands["PyTorch eager"] = [START_PEER, str(run), str(file), str(fold)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    is_over = deadline(seconds)
    for number in range(STARTS + 1):
        if number > 1 and is_over():
            break
        for name, command in commands.items():
            measured = _start([sys.executable, "-c", command[0] + PEAK, *command[1:]])
            if number:
                found[name].append(measured)
    return {
        name: {
            "median_s": round(statistics.median(seconds for seconds, _ in pairs), 3),
            "peak_mib": round(statistics.median(memory for _, memory in pairs), 1),
            "starts": len(pairs),
        }
        for name, pairs in found.items()
    }


def _start(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak MiB of one process."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RunError(
            f"expected a prediction, got exit status {process.returncode}; run it by hand: {shlex.join(command)}"
        )
    if said.strip():
        return seconds, int(said) / 2**10
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _throughput(
    artifacts: Sequence[Path], run: Path | None, fold: int | None, files: Sequence[Path], limit: float
) -> dict[str, Any]:
    """Files to answers on all cores: ours one image per core at a time, PyTorch one image on all cores."""
    cores = available_cores()
    runners = {str(path): _answering(load(path), cores) for path in artifacts}
    if run:
        from leanmed.benchmark.peer import Peer, torch_threads

        peer = Peer(run, fold)

        def usual(part: Sequence[Path]) -> list[Any]:
            with torch_threads(cores):
                return [peer.predict(path) for path in part]

        runners["PyTorch eager"] = usual
    seconds = dict.fromkeys(runners, 0.0)
    is_over = deadline(limit)
    for runner in runners.values():
        runner(files[:cores])
    done = 0
    for chunk in growing_chunks(files, cores):
        if done and is_over():
            break
        for name, runner in runners.items():
            started = time.perf_counter()
            runner(chunk)
            seconds[name] += time.perf_counter() - started
        done += len(chunk)
    return {
        name: {"seconds": round(s, 2), "images": done, "images_per_s": round(done / s, 1)}
        for name, s in seconds.items()
    }


def growing_chunks(files: Sequence[Path], first: int) -> Iterator[Sequence[Path]]:
    """Files in parts: so many first, for a slow graph to be soon through them, then twice as many each time, to 100."""
    start, size = 0, first
    while start < len(files):
        yield files[start : start + size]
        start, size = start + size, min(2 * size, MOST_IN_TURN)


def _answering(predictor: Predictor, workers: int) -> Callable[[Sequence[Path]], list[Any]]:
    return lambda files: list(answers(predictor, files, workers))


def _steps(artifact: Path, file: Path, seconds: float, repeats: int = 9) -> dict[str, float]:
    """Medians: decoding; in the graph `model`, what comes before the network's first layer; and the rest."""
    predictor = load(artifact)
    decode = interleaved({"decode": lambda: predictor.read(file)}, repeats, seconds / 2)["decode"]["median_ms"]
    before, network = _graph_steps(predictor, predictor.read(file), repeats, seconds / 2)
    return {"decode": decode, "resize": round(before, 3), "network": round(network, 3)}


def _graph_steps(predictor: Predictor, pixels: Any, repeats: int, seconds: float) -> tuple[float, float]:
    events = profiled_events(predictor.artifact.graph, {"pixels": pixels}, repeats, seconds)
    runs: list[list[float]] = []
    for event in sorted(events, key=lambda e: e["ts"]):
        if event["name"] == "model_run":
            runs.append([0.0, 0.0])
        elif is_kernel(event) and runs:
            started = runs[-1][1] > 0 or event["args"]["op_name"] in NETWORK
            runs[-1][started] += event["dur"] / 1e3
    before, network = zip(*runs[1:], strict=True)
    return statistics.median(before), statistics.median(network)


def is_kernel(event: Mapping[str, Any]) -> bool:
    """Whether an event of ONNX Runtime's profiler is one run of a node. An If is none: the nodes in its branch are."""
    of_node: bool = event["cat"] == "Node" and event["name"].endswith("_kernel_time")
    return of_node and event["args"]["op_name"] != "If"


def profiled_events(
    graph: bytes,
    feeds: Feeds,
    repeats: int,
    seconds: float = math.inf,
    *,
    optimize: bool = True,
    packed: bool = True,
) -> list[dict[str, Any]]:
    """What ONNX Runtime's profiler writes of some runs of a graph on one thread.

    Args:
        graph: an ONNX file's content.
        feeds: what the graph takes.
        repeats: runs, at most.
        seconds: no further run is begun when this time is over, but two are made in any case.
        optimize: rewrite the graph first, as for predictions; false: its nodes are run as they stand in the file.
        packed: let kernels pack weights in forms of their own, as for predictions and only if `optimize`; false: the
            shapes of all weights are among those of the inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not (optimize and packed):  # what is packed is missing among the inputs' shapes
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        is_over = deadline(seconds)
        for number in range(repeats):
            if number > 1 and is_over():
                break
            session.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def _may_reduce(artifact: Path) -> bool:
    return read_artifact(artifact).manifest.input.reduced


def _reduced_scale(predictor: Predictor, photograph: Path, seconds: float) -> dict[str, Any]:
    """What decoding a 12-megapixel photograph at a reduced scale saves, and how far it moves the answer."""
    whole, less = (predictor.outputs(pixels)[0] for pixels in (read_image(photograph), predictor.read(photograph)))
    times = interleaved(
        {
            "reduced": lambda: predictor.outputs(predictor.read(photograph)),
            "whole": lambda: predictor.outputs(read_image(photograph)),
        },
        5,
        seconds,
    )
    return {
        "largest_difference": float(np.abs(whole - less).max()),
        "ms": {n: t["median_ms"] for n, t in times.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """The main figures as text."""
    lines = [f"{'':32} {'MB':>6} {'ms, 1 thread':>13} {'2 threads':>10} {'start s':>8} {'MiB':>6} {'images/s':>9}"]
    one, two = (found["latency_ms_by_threads"][threads] for threads in ("1", "2"))
    for name in one:
        size = found["bytes"].get(name)
        start, rate = found["start"].get(name, {}), found["throughput"].get(name, {})
        cells = (
            f"{size / 1e6:.2f}" if size else "–",
            one[name]["median_ms"],
            two[name]["median_ms"],
            start.get("median_s", "–"),
            start.get("peak_mib", "–"),
            rate.get("images_per_s", "–"),
        )
        lines.append("{:32} {:>6} {:>13} {:>10} {:>8} {:>6} {:>9}".format(name[-32:], *cells))
    rounds = [next(iter(times.values()))["rounds"] for times in (one, two)]
    starts = next(iter(found["start"].values()))["starts"]
    lines.append(
        f"Medians of {rounds[0]} rounds on 1 thread, {rounds[1]} on 2, and {starts} start(s); "
        f"{found['images']['predicted']} images end to end. --seconds {found['seconds']:g} limits them."
    )
    return "\n".join(lines)
