"""What one network costs: parameters, FLOPs, size, latency and memory, of a recipe, a run or an artifact.

A recipe or a run is measured as the network that it describes, in PyTorch, on a square of the network's own side. Its
weights are random, since none of the figures depends on them; so no data are needed, and a run need not be finished.
An artifact is measured as it predicts, the whole graph in ONNX Runtime, resizing included, and without torch.

FLOPs are two for each multiply-accumulate of convolutions and matrix products, for one image. Normalisations,
activations and the resizing of images are not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.benchmark.benchmark import interleaved, is_kernel, machine, profiled_events
from leanmed.errors import RecipeError, RunError
from leanmed.manifest import Input
from leanmed.outputs import Output
from leanmed.phantoms.eyelids import eyelid
from leanmed.recipe.recipe import Recipe, shipped_recipes
from leanmed.runs import RUN
from leanmed.runtime.artifact import MANIFEST
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Feeds, Outputs
from leanmed.tasks.recipes import check_recipe, load_recipe, open_run

if TYPE_CHECKING:
    from leanmed.tasks.base import Named, Task

SECONDS = 60.0  # for which predictions are timed
PROFILE = Output("a profile", ("subject", "flops", "how"))
Subject = Literal["recipe", "run", "artifact"]
Shape = Sequence[int]

FLOPS = "2 for each multiply-accumulate of convolutions and matrix products"
MEMORY = "what a process of its own grows by, at its peak, while it loads the model and answers once"
UNKNOWN = "–"
PHOTOGRAPH = (480, 640)  # height and width of the made image
SLICE = (384, 384)
LABELS = (("object",), ("negative", "positive"))  # of a recipe that names none: the first that its kind of task takes
# Which input of a convolution holds its weights; some operators are of ONNX Runtime's own, as it rewrites graphs.
WEIGHT = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
TRANSPOSABLE = frozenset({"Gemm", "FusedGemm", "QGemm", "FusedMatMul"})  # products that may take the transposed matrix
PRODUCTS = TRANSPOSABLE | {
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
}
ARTIFACT_CHILD = "import sys; from leanmed.benchmark import profile as p; print(p.artifact_memory(*sys.argv[1:]))"
NETWORK_CHILD = "import sys; from leanmed.benchmark import profile as p; print(p.network_memory(*sys.argv[1:]))"


def subject_of(name: str) -> Subject:
    """Which of the three a name or path stands for; a folder goes before a shipped recipe of the same name.

    Raises:
        RecipeError: it is none of them.
    """
    path = Path(name)
    if (path / RUN).is_file():
        return "run"
    if (path / MANIFEST).is_file():
        return "artifact"
    if name in shipped_recipes() or (path.is_file() and path.suffix != ".onnx"):
        return "recipe"
    raise RecipeError(
        f"expected a recipe's name ({', '.join(shipped_recipes())}), a YAML file, a run folder (with {RUN}) or an "
        f"artifact folder (with {MANIFEST}), got {name!r}, which is none of them; check the path"
    )


def profile(name: str, settings: Sequence[str] = (), *, repeats: int = 30, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure what one network costs.

    Args:
        name: a shipped recipe's name, a YAML file, a run folder or an artifact folder.
        settings: `key.path=value`, changes of a recipe.
        repeats: predictions that are timed, at most, after two to warm up.
        seconds: no further prediction is timed when this time is over, but three are in any case.

    Returns:
        Plain values for JSON: `parameters` (None: not counted), `flops`, `bytes`, `latency_ms`, `peak_mib` (None: not
        measured), under `how` what each of them means, and what was measured on what.

    Raises:
        RecipeError, RunError, ArtifactError: there is none, it is damaged, or settings are given with no recipe.
    """
    subject = subject_of(name)
    if settings and subject != "recipe":
        raise RecipeError(f"expected --set with a recipe only, got it with the {subject} {name}; leave it out")
    if subject == "artifact":
        found = _profile_artifact(Path(name), repeats, seconds)
    elif subject == "run":
        run = open_run(Path(name))
        found = _profile_network(run.recipe, run.labels, repeats, seconds)
    else:
        recipe = load_recipe(name, settings)
        found = _profile_network(recipe, recipe.data.labels or _any_labels(recipe.task), repeats, seconds)
    return {"subject": name, "of": subject, **found, "machine": machine()}


def _any_labels(task: str) -> tuple[str, ...]:
    """As few labels as a kind of task takes."""
    return next(labels for labels in LABELS if _takes(task, labels))


def _takes(task: str, labels: tuple[str, ...]) -> bool:
    try:
        TASKS[task].answer.check(labels, 0.5)
    except ValueError:
        return False
    return True


def made_image(shape: Input) -> NDArray[Any]:
    """An image that a graph takes: a photograph of 640 x 480, or three slices of 384 x 384 with random values."""
    rng = np.random.default_rng(0)
    if shape.kind == "photograph":
        scene = Image.fromarray(eyelid(rng, 11.0, cutout=False)[..., :3])
        return np.array(scene.resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC))
    mean, deviation = (128, 40) if shape.dtype == "uint8" else (0, 1 if shape.dtype == "float32" else 500)
    values = rng.normal(mean, deviation, (*SLICE, 3))
    return (values.clip(0, 255) if shape.dtype == "uint8" else values).astype(shape.dtype)


def _profile_network(recipe: Recipe, labels: tuple[str, ...], repeats: int, seconds: float) -> dict[str, Any]:
    import torch

    from leanmed.benchmark.peer import torch_threads
    from leanmed.compress.adapters import merge
    from leanmed.tasks.building import build_task

    task = build_task(recipe, labels, pretrained=False).eval()
    merge(task)  # as in what is exported
    shape = Input(**task.manifest()["input"])
    inputs = _inputs(task, shape)
    with torch_threads(1), torch.inference_mode():
        latency = interleaved({"network": lambda: task(inputs)}, repeats, seconds)["network"]
    return {
        "network": recipe.model.backbone,
        "labels": list(labels),
        "image": [shape.side, shape.side],
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "flops": count_flops(task, inputs),
        "bytes": sum(value.numel() * value.element_size() for value in task.state_dict().values()),
        "latency_ms": latency["median_ms"],
        "peak_mib": _child(NETWORK_CHILD, json.dumps(recipe.model_dump(mode="json")), json.dumps(labels)),
        "how": {
            "parameters": "the weights and biases",
            "flops": FLOPS,
            "bytes": "the weights, and the means and variances of batch normalisation",
            "latency_ms": f"PyTorch {version('torch')}, {_timed(latency)}",
            "peak_mib": MEMORY,
        },
    }


def _inputs(task: Task, shape: Input) -> Named:
    """A batch of one made image."""
    return {name: tensor[None] for name, tensor in task.prepare(made_image(shape)).items()}


def count_flops(task: Task, inputs: Named) -> int:
    """Two for each multiply-accumulate of convolutions and matrix products, as PyTorch counts them.

    Nothing is computed, since shapes are enough (PyTorch's meta device), unless the network looks at values.

    Args:
        task: in evaluation mode.
        inputs: a batch.
    """
    try:
        return _counted(deepcopy(task).to("meta"), {name: tensor.to("meta") for name, tensor in inputs.items()})
    except RuntimeError:  # there are no values on the meta device
        return _counted(task, inputs)


def _counted(task: Task, inputs: Named) -> int:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The CPU's fused kernel of attention is unknown to the counter, which sees the products of the plain one.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        task.reveal(inputs)
    return int(counter.get_total_flops())


def _profile_artifact(path: Path, repeats: int, seconds: float) -> dict[str, Any]:
    predictor = load(path)
    artifact, manifest = predictor.artifact, predictor.manifest
    pixels = made_image(manifest.input)
    latency = interleaved({"graphs": lambda: predictor.outputs(pixels)}, repeats, seconds)["graphs"]
    numbers = [stored_numbers(graph) for graph in artifact.graphs.values()]
    counted = sum(count for count in numbers if count is not None) if None not in numbers else None
    return {
        "network": manifest.provenance.recipe.get("model", {}).get("backbone", ""),
        "labels": list(manifest.labels),
        "precision": manifest.precision,
        "image": list(pixels.shape[:2]),
        "parameters": counted,
        "flops": sum(count_graph_flops(artifact.graphs[name], feeds) for name, feeds in graph_runs(predictor, pixels)),
        "bytes": manifest.bytes,
        "latency_ms": latency["median_ms"],
        "peak_mib": peak_mib(path, manifest.input),
        "how": {
            "parameters": "the numbers in the file, without the scales and zero points of quantization"
            if counted is not None
            else "not counted: that needs onnx, which pip install 'leanmed[train]' brings",
            "flops": f"{FLOPS}, of whichever precision",
            "bytes": "the graph's file" if len(artifact.graphs) == 1 else f"the {len(artifact.graphs)} graphs' files",
            "latency_ms": f"ONNX Runtime {version('onnxruntime')}, from pixels to outputs, {_timed(latency)}",
            "peak_mib": MEMORY,
        },
    }


def graph_runs(predictor: Predictor, pixels: NDArray[Any]) -> list[tuple[str, Feeds]]:
    """The graphs that one answer without prompts runs, in order, each with what it is given."""
    runs: list[tuple[str, Feeds]] = []

    def run(name: str, feeds: Feeds) -> Outputs:
        runs.append((name, feeds))
        return predictor.run(name, feeds)

    predictor.kind_of_task.outputs(pixels, run)
    return runs


def _timed(latency: Mapping[str, float]) -> str:
    return f"one thread, median of {latency['rounds']} runs after warming up"


def stored_numbers(graph: bytes) -> int | None:
    """How many weights, biases and other constants an ONNX graph holds; None where onnx is not installed.

    Scales and zero points of quantization, shapes, indices and single numbers are left out. Batch normalisation is
    mostly folded into weights, so there are somewhat fewer than the network has parameters.
    """
    try:
        import onnx
    except ImportError:
        return None
    content = onnx.load_model_from_string(graph).graph
    quantizers = [node for node in content.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in quantizers for name in node.input[1:]}
    indices = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    counts: list[int] = [
        prod(constant.dims)
        for constant in content.initializer
        if constant.dims and constant.data_type not in indices and constant.name not in scales
    ]
    return sum(counts)


def count_graph_flops(graph: bytes, feeds: Feeds) -> int:
    """As `count_flops`, of an ONNX graph, by the shapes of its tensors in one run on such inputs."""
    return 2 * sum(map(_multiplications, profiled_events(graph, feeds, 1, optimize=False)))


def _multiplications(event: Mapping[str, Any]) -> int:
    """Multiply-accumulates of what ONNX Runtime's profiler tells of one node; of anything else, 0."""
    if not is_kernel(event):
        return 0
    shapes = (
        [next(iter(entry.values())) for entry in event["args"][f"{way}_type_shape"]] for way in ("input", "output")
    )
    return multiplications(event["args"]["op_name"], *shapes)


def multiplications(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiply-accumulates of one ONNX node; 0 of an operator that is neither a convolution nor a matrix product.

    Args:
        operator: its type.
        inputs, outputs: their shapes.
    """
    if operator in WEIGHT:  # each output value is a sum over the kernel, and over the channels of its group
        return prod(outputs[0]) * prod(inputs[WEIGHT[operator]][1:])
    if operator == "ConvTranspose":  # each input value is spread by the kernel to the channels of its group
        return prod(inputs[0]) * prod(inputs[1][1:])
    if operator not in PRODUCTS:
        return 0
    count, taken = prod(outputs[0]), inputs[0]
    if operator in TRANSPOSABLE and count:
        return count * (taken[-2] * taken[-1] // outputs[0][-2])
    return count * taken[-1]


def _child(code: str, *arguments: str) -> float | None:
    """MiB that a process of its own tells; None if its system does not say."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RunError(
            f"expected a process to measure memory in, got exit status {done.returncode} from it ({last}); free some "
            "memory, or close other programs, and try again"
        )
    grown = json.loads(done.stdout)
    return None if grown is None else round(grown / 2**20, 1)


def peak_mib(artifact: Path, shape: Input) -> float | None:
    """What a process of its own grows by, at its peak, while it loads an artifact and answers once; None: not known."""
    return _child(ARTIFACT_CHILD, str(artifact), shape.model_dump_json())


def artifact_memory(path: str, shape: str) -> str:
    """What this process grows by, in bytes as JSON, while it loads an artifact and answers for one image.

    Args:
        path: of the artifact.
        shape: its `Input` in JSON.
    """
    pixels = made_image(Input.model_validate_json(shape))
    return json.dumps(_growth(lambda: load(path).outputs(pixels)))


def network_memory(recipe: str, labels: str) -> str:
    """As `artifact_memory`, of a network in PyTorch.

    Args:
        recipe, labels: in JSON.
    """
    import torch

    from leanmed.compress.adapters import merge
    from leanmed.tasks.building import build_task

    torch.set_num_threads(1)
    chosen = check_recipe(json.loads(recipe), "the recipe")
    TASKS[chosen.task].training  # noqa: B018 (its packages are imported now, and so are not counted)

    def answer() -> None:
        task = build_task(chosen, tuple(json.loads(labels)), pretrained=False).eval()
        merge(task)
        with torch.inference_mode():
            task(_inputs(task, Input(**task.manifest()["input"])))

    return json.dumps(_growth(answer))


def _growth(action: Callable[[], Any]) -> int | None:
    before = peak_bytes()
    action()
    after = peak_bytes()
    return None if before is None or after is None else after - before


def peak_bytes() -> int | None:
    """The most memory, in bytes, that this process has had so far; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts the parent's memory into ru_maxrss, but starts VmHWM afresh with each program
        lines = status.read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    if sys.platform != "darwin":
        return None
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def table(found: Mapping[str, Any]) -> str:
    """What `profile` found as lines of text: name, value with its unit, and what it means."""
    labels = f"{len(found['labels'])} label{'s' if len(found['labels']) > 1 else ''}"
    height, width = found["image"]
    about = ", ".join(filter(None, (found["network"], found.get("precision"), labels)))
    parameters, memory = found["parameters"], found["peak_mib"]
    values = {
        "parameters": ("parameters", f"{parameters:,}" if parameters is not None else UNKNOWN),
        "flops": ("FLOPs", _in_thousands(found["flops"])),
        "bytes": ("size", f"{found['bytes'] / 1e6:.2f} MB"),
        "latency_ms": ("latency", f"{found['latency_ms']:.1f} ms"),
        "peak_mib": ("peak memory", f"{memory:.1f} MiB" if memory is not None else UNKNOWN),
    }
    rows = [f"{name:12} {value:>12}   {found['how'][key]}" for key, (name, value) in values.items()]
    return "\n".join([f"{found['subject']}: {found['of']} ({about}), one image of {width} x {height}", *rows])


def _in_thousands(count: int) -> str:
    """Millions, or thousands of millions, of operations."""
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
