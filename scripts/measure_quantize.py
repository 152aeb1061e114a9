"""Time a network in FP32 and compressed, in ONNX Runtime, OpenVINO and eager PyTorch, one thread each, taking turns.

python scripts/measure_quantize.py ARTIFACT ARTIFACT-FP16 ARTIFACT-INT8 ARTIFACT-INT4 --out FILE

Times are the process's own CPU time, so that what else a busy machine does is not counted; the median of many rounds.
The network alone is timed, without pre- and post-processing; eager PyTorch runs the same backbone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from leanmed.benchmark.benchmark import machine
from leanmed.compress.graph import parse, simplify
from leanmed.compress.network import cut_out, find_network
from leanmed.files import write_json
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import open_session

Action = Callable[[], Any]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+", help="the float one first")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    artifacts = [read_artifact(path) for path in given.artifacts]
    times = interleaved(actions(artifacts), given.rounds)
    base = times["onnxruntime fp32"]
    found = {
        "command": "python scripts/measure_quantize.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "bytes": {a.manifest.precision: len(a.graph) for a in artifacts},
        "milliseconds": times,
        "times_the_speed_of_onnxruntime_fp32": {name: base / value for name, value in times.items()},
    }
    write_json(given.out, found)
    for name, value in times.items():
        print(f"{name:22} {value:7.3f} ms  {base / value:5.2f}x")


def actions(artifacts: list[Artifact]) -> dict[str, Action]:
    """What to time, by name."""
    network = find_network(simplify(parse(artifacts[0].graph)))
    side = artifacts[0].manifest.input.side
    sample = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    found: dict[str, Action] = {}
    for artifact in artifacts:
        whole = network.model if artifact is artifacts[0] else parse(artifact.graph)
        core = cut_out(network, whole).SerializeToString()
        precision = artifact.manifest.precision
        found[f"onnxruntime {precision}"] = runtime(core, {network.inputs[0]: sample})
        found[f"openvino {precision}"] = openvino(core, sample)
    found["torch eager fp32"] = eager(artifacts[0], sample)
    return found


def runtime(graph: bytes, feed: Mapping[str, NDArray[np.float32]]) -> Action:
    """One run in ONNX Runtime."""
    session = open_session(graph)
    return lambda: session.run(None, dict(feed))


def openvino(graph: bytes, sample: NDArray[np.float32]) -> Action:
    """One run in OpenVINO."""
    from openvino import Core

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = Core().compile_model(Core().read_model(graph), "CPU", options).create_infer_request()
    return lambda: request.infer([sample])


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
