"""Time artifacts in FP32 and compressed: the whole graph, the network alone, and each step and layer of both.

python scripts/measure_quantize.py FP32 FP16 INT8 INT4 --before OLD-FP32 OLD-INT8 --images DIR --out FILE

All run in ONNX Runtime and OpenVINO, one thread each, taking turns. Times are the process's own CPU time, so that what
else a busy machine does is not counted; the median of many rounds. The whole graph is given a made photograph of
640 x 480, the network alone an input of random numbers; eager PyTorch runs the same backbone. `--before` names the same
artifacts as another version exported them, and the answers of both to `--images` are compared. Steps and layers are
what the runtimes' own profilers say, of each its least time, since their clocks count what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from leanmed.benchmark.benchmark import NETWORK, is_kernel, machine, profiled_events
from leanmed.benchmark.profile import made_image
from leanmed.compress.graph import parse, simplify
from leanmed.compress.network import Network, cut_out, find_network
from leanmed.files import write_json
from leanmed.reading.images import find_inputs, read_image
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import open_session

Action = Callable[[], Any]
Feed = Mapping[str, NDArray[Any]]
PROFILED = 100  # runs
IMAGES = 60  # to compare answers on
LAYERS = NETWORK | {"QGemm", "Convolution", "GroupConvolution", "FullyConnected", "FullyConnectedQuantizedLegacy"}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+", help="the float one first")
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="as another version exported them")
    parser.add_argument("--images", type=Path, help="a folder of images, to compare the answers of both versions on")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    artifacts, before = ([read_artifact(path) for path in paths] for paths in (given.artifacts, given.before))
    found = {
        "command": "python scripts/measure_quantize.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "bytes": {a.manifest.precision: len(a.graph) for a in artifacts},
        "whole_graph": compared(whole_graphs(artifacts, before), given.rounds),
        "network": compared(networks(artifacts), given.rounds),
        "steps_us": {
            "after": {a.manifest.precision: steps(a) for a in artifacts},
            "before": {a.manifest.precision: steps(a) for a in before},
        },
        "layers_us": (rows := layers([a for a in artifacts if a.manifest.precision in ("fp32", "int8")])),
        "kinds_us": kinds(rows),
    }
    if given.images:
        found["answers"] = answers(artifacts, before, given.images)
    write_json(given.out, found)
    for part in ("whole_graph", "network"):
        for name, value in found[part]["milliseconds"].items():
            ratio = found[part]["times_the_speed_of_onnxruntime_fp32"][name]
            print(f"{part:12} {name:28} {value:7.3f} ms  {ratio:5.2f}x")


def compared(todo: Mapping[str, Action], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each, and how many times as fast each is as FP32 in ONNX Runtime."""
    times = interleaved(todo, rounds)
    base = times["onnxruntime fp32"]
    ratios = {name: round(base / value, 3) for name, value in times.items()}
    return {"milliseconds": times, "times_the_speed_of_onnxruntime_fp32": ratios}


def answers(artifacts: Sequence[Artifact], before: Sequence[Artifact], images: Path) -> dict[str, Any]:
    """How far the answers of two versions lie apart at most, and how far compressed ones from FP32's on average.

    Images with alpha are asked about a second time without it.
    """
    files = list(find_inputs([str(images)]))
    pixels = [read_image(file) for file in files[:: max(1, len(files) // IMAGES)][:IMAGES]]
    pixels += [np.ascontiguousarray(image[..., :3]) for image in pixels if image.shape[2] == 4]
    given = {}
    for end, some in (("", artifacts), (" before", before)):
        for artifact in some:
            session = open_session(artifact.graph)
            own = [session.run(None, {"pixels": image})[0] for image in pixels]
            given[artifact.manifest.precision + end] = np.array(own)
    both = [name for name in given if f"{name} before" in given]
    apart = {name: float(np.abs(given[name] - given[f"{name} before"]).max()) for name in both}
    rounded = {name: float(np.abs(own - given["fp32"]).mean()) for name, own in given.items() if "fp32" not in name}
    return {"images": len(pixels), "largest_difference_from_before": apart, "mean_difference_from_fp32": rounded}


def whole_graphs(artifacts: Sequence[Artifact], before: Sequence[Artifact]) -> dict[str, Action]:
    """What to time, by name: from pixels to answer."""
    found: dict[str, Action] = {}
    for end, some in (("", artifacts), (" before", before)):
        for artifact in some:
            pixels, precision = made_image(artifact.manifest.input), artifact.manifest.precision
            found[f"onnxruntime {precision}{end}"] = runtime(artifact.graph, {"pixels": pixels})
            found[f"openvino {precision}{end}"] = openvino(artifact.graph, {"pixels": pixels})
            masked = np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=128)
            found[f"onnxruntime {precision} with alpha{end}"] = runtime(artifact.graph, {"pixels": masked})
    return found


def networks(artifacts: Sequence[Artifact]) -> dict[str, Action]:
    """What to time, by name: the network alone."""
    found: dict[str, Action] = {}
    cores, feed = network_parts(artifacts)
    for artifact, (_, core) in zip(artifacts, cores, strict=True):
        found[f"onnxruntime {artifact.manifest.precision}"] = runtime(core, feed)
        found[f"openvino {artifact.manifest.precision}"] = openvino(core, feed)
    every = quantized_throughout(cores[0][1], feed)
    found["onnxruntime every layer int8"], found["openvino every layer int8"] = (
        runtime(every, feed),
        openvino(every, feed),
    )
    found["torch eager fp32"] = eager(artifacts[0], next(iter(feed.values())))
    return found


def quantized_throughout(core: bytes, feed: Feed) -> bytes:
    """A float network with every layer in integers, by ONNX Runtime's own quantizer; its answers do not matter."""

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [dict(feed)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(core)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(given, made, Once(), per_channel=True, **kinds)
        return made.read_bytes()


def network_parts(artifacts: Sequence[Artifact]) -> tuple[list[tuple[Network, bytes]], Feed]:
    """The network of each artifact, and a made input of them."""
    network = find_network(simplify(parse(artifacts[0].graph)))
    side = artifacts[0].manifest.input.side
    sample = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    wholes = [network.model if artifact is artifacts[0] else parse(artifact.graph) for artifact in artifacts]
    return [(network, cut_out(network, whole).SerializeToString()) for whole in wholes], {network.inputs[0]: sample}


def steps(artifact: Artifact) -> dict[str, int]:
    """Microseconds of each step before the network in ONNX Runtime, in order, then of the network, and of the rest."""
    found: dict[str, float] = {}
    events = node_times(artifact.graph, {"pixels": made_image(artifact.manifest.input)})
    inside = [number for number, (op, _) in enumerate(events) if op in LAYERS]
    for number, (op, duration) in enumerate(events):
        place = "network" if inside[0] <= number <= inside[-1] else "answer"
        name = op if number < inside[0] else place
        found[name] = found.get(name, 0.0) + duration
    return {name: round(value) for name, value in found.items()}


def layers(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Each layer's name, weight's shape and microseconds in both runtimes; last, what lies between the layers."""
    cores, feed = network_parts(artifacts)
    network = cores[0][0]
    rows: list[dict[str, Any]] = [{"layer": own.name, "shape": list(own.shape)} for own in network.layers]
    between: dict[str, Any] = {"layer": "between the layers", "shape": []}
    for artifact, (_, core) in zip(artifacts, cores, strict=True):
        for name, events in (("onnxruntime", node_times(core, feed)), ("openvino", openvino_times(core, feed))):
            column = f"{name} {artifact.manifest.precision}"
            own = [duration for op, duration in events if op in LAYERS]
            if len(own) == len(rows):
                for row, duration in zip(rows, own, strict=True):
                    row[column] = round(duration)
                between[column] = round(sum(duration for op, duration in events if op not in LAYERS))
    return [*rows, between]


def kinds(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """The sums of `layers` over the layers of a kind."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = found.setdefault(kind_of(row["shape"]), {})
        for column in row.keys() - {"layer", "shape"}:
            sums[column] = sums.get(column, 0) + row[column]
    return found


def kind_of(shape: Sequence[int]) -> str:
    """What a layer with such a weight is called."""
    if len(shape) != 4:
        return "matrix products" if shape else "between the layers"
    if shape[1] == 1:
        return "depthwise convolutions"
    return "pointwise convolutions" if shape[2:] == [1, 1] else "other convolutions"


def node_times(graph: bytes, feed: Feed) -> list[tuple[str, float]]:
    """Operator and microseconds of each node that ONNX Runtime runs, in order."""
    found: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in sorted(profiled_events(graph, feed, PROFILED), key=lambda event: event["ts"]):
        if is_kernel(event):
            found.setdefault(event["name"], []).append(event["dur"])
            kinds[event["name"]] = event["args"]["op_name"]
    return [(kinds[name], min(times)) for name, times in found.items()]


def openvino_times(graph: bytes, feed: Feed) -> list[tuple[str, float]]:
    """Operator and microseconds of each node that OpenVINO runs, in order; it tells the mean of all runs so far."""
    found: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    request = openvino_request(graph, PERF_COUNT=True)
    for number in range(PROFILED):
        request.infer(dict(feed))
        for node in request.profiling_info if number > 2 else []:
            if microseconds := 1e6 * node.real_time.total_seconds():
                found.setdefault(node.node_name, []).append(microseconds)
                kinds[node.node_name] = node.node_type
    return [(kinds[name], min(times)) for name, times in found.items()]


def runtime(graph: bytes, feed: Feed) -> Action:
    """One run in ONNX Runtime."""
    session = open_session(graph)
    return lambda: session.run(None, dict(feed))


def openvino(graph: bytes, feed: Feed) -> Action:
    """One run in OpenVINO, which need not copy what it is given, nor its answer: ONNX Runtime does not either."""
    request = openvino_request(graph)
    return lambda: request.infer(dict(feed), share_inputs=True, share_outputs=True)


def openvino_request(graph: bytes, **options: Any) -> Any:
    """What runs a graph in OpenVINO."""
    from openvino import Core

    options |= {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return Core().compile_model(Core().read_model(graph), "CPU", options).create_infer_request()


def eager(artifact: Artifact, sample: NDArray[np.float32]) -> Action:
    """One run of the backbone in PyTorch; its weights do not matter to its speed."""
    settings = artifact.manifest.provenance.recipe["model"]
    network = timm.create_model(settings["backbone"], num_classes=1, **settings["backbone_args"]).eval()
    tensor = torch.from_numpy(sample)

    def run() -> None:
        with torch.inference_mode():
            network(tensor)

    return run


def interleaved(todo: Mapping[str, Action], rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU time of each."""
    times: dict[str, list[float]] = {name: [] for name in todo}
    for number in range(rounds + 3):
        for name, action in todo.items():
            start = time.process_time()
            action()
            if number >= 3:
                times[name].append(1e3 * (time.process_time() - start))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


if __name__ == "__main__":
    main()
