"""A table of how fast another device is, by which the latency of an artifact there is worked out on this machine.

On the device, `measure_device` runs some artifacts under ONNX Runtime's profiler and fits, for each class of node,
nanoseconds for each unit of work and for each call. A class is the operator that ONNX Runtime executes, whether it
computes in integers or floats and, of convolutions, whether they are depthwise. Work is multiply-accumulates of
convolutions and matrix products, and bytes of input and output of all others.

Elsewhere, `DeviceTable.estimate` runs an artifact once for the shapes of its nodes, and adds up what they cost by the
table. Which nodes there are is what ONNX Runtime makes of the graph on the machine that asks; another processor may
be given other ones, and what the table then lacks is guessed and told. Needs no torch and no onnx.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leanmed.benchmark.benchmark import deadline, machine, profiled_events
from leanmed.benchmark.profile import PRODUCTS, WEIGHT, graph_runs, made_image, multiplications
from leanmed.errors import DataError, RunError
from leanmed.files import encodable, write_json
from leanmed.outputs import Output
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.kind import Feeds

DEVICE_TABLE = Output("a device table", ("device_table", "classes"), option="--device-table")
MAX_TABLE_BYTES = 2**20
MOST_NAME, MOST_COMMAND = 200, 10_000  # characters
TURNS = 3  # in which the artifacts are measured one after the other
LEAST = 3  # runs of a graph in each turn, if there is time; the first warms up
RESOLUTION = 500.0  # ns: the profiler counts whole microseconds, so that a node of 0 took half a one
ITERATIONS = 500  # of the fit, which hardly moves after some dozens
TINY = 1e-3  # ns, from which a call can still grow
CONTROL = frozenset({"If", "Loop", "Scan"})  # their time is that of the nodes within them, which are told too
TRANSPOSED = "ConvTranspose"
FLOATS = frozenset({"float", "float16", "bfloat16", "double"})
BYTES = {"double": 8, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2} | dict.fromkeys(
    ("int8", "uint8", "bool", "int4", "uint4"), 1
)
RELATIVES = (  # that cost about as much, or of which one processor runs this and another that for the same layer
    frozenset({"Conv", "FusedConv", "NhwcFusedConv"}),
    PRODUCTS,
    frozenset({"Transpose", "ReorderInput", "ReorderOutput"}),
    frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish"}),
    frozenset({"Sigmoid", "Tanh", "Exp", "Log", "Erf", "Gelu", "Softmax"}),
    frozenset({"QLinearAdd", "QLinearMul"}),
    frozenset({"QuantizeLinear", "DequantizeLinear"}),
)

Arithmetic = Literal["integer", "float"]
Unit = Literal["multiply-accumulate", "byte"]
Text = Annotated[str, Field(max_length=MOST_NAME)]
Key = tuple[str, str, str]


class Class(NamedTuple):
    """Nodes that cost alike: the operator, its arithmetic, and whether it is depthwise.

    The arithmetic is that of floats if the first input or the first output are floats.
    """

    operator: str
    arithmetic: Arithmetic
    depthwise: bool

    def __str__(self) -> str:
        return f"{self.operator}, {self.arithmetic}{', depthwise' * self.depthwise}"

    @property
    def unit(self) -> Unit:
        """What its work is counted in."""
        return "multiply-accumulate" if _multiplies(self.operator) else "byte"

    @property
    def family(self) -> frozenset[str]:
        """Operators that do much the same as this one."""
        return next((found for found in RELATIVES if self.operator in found), frozenset({self.operator}))


@dataclass(frozen=True)
class Node:
    """One node as ONNX Runtime executes it.

    Args:
        of: its class.
        work: multiply-accumulates or bytes.
    """

    of: Class
    work: int


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Rate(_Strict):
    """What nodes of one class cost on the device."""

    operator: str = Field(pattern=r"^[A-Za-z0-9_]{1,100}$", description="as ONNX Runtime executes it")
    arithmetic: Arithmetic
    depthwise: bool
    ns_per_unit: float = Field(
        ge=0, le=1e9, description="for each multiply-accumulate, or each byte of other operators"
    )
    ns_per_call: float = Field(ge=0, le=1e12, description="for each node, however little it does")
    calls: int = Field(gt=0, description="nodes behind it, in one answer of each of the artifacts")
    milliseconds: float = Field(ge=0, description="that they took together")

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        if not self.ns_per_unit + self.ns_per_call > 0:
            raise ValueError(f"expected {self.of} to take some time, got 0 for its rates")
        return self

    @property
    def of(self) -> Class:
        """The class that it is of."""
        return Class(self.operator, self.arithmetic, self.depthwise)

    def nanoseconds(self, work: int) -> float:
        """What one node takes."""
        return work * self.ns_per_unit + self.ns_per_call


class Source(_Strict):
    """An artifact that a table was made from."""

    name: Text
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its manifest")
    precision: Text
    measured_ms: float = Field(ge=0, description="the nodes of one answer")
    estimated_ms: float = Field(ge=0, description="the same by the table: how well it describes what it was made from")


@dataclass(frozen=True)
class Estimate:
    """What one answer of an artifact would take on a device.

    Args:
        milliseconds: in all.
        by_class: class -> milliseconds.
        guessed: class that the table lacks -> the one whose rate was taken instead.
    """

    milliseconds: float
    by_class: Mapping[Class, float]
    guessed: Mapping[Class, str]

    def lines(self) -> list[str]:
        """What is to be said of classes that the table lacks; nothing, if it lacks none."""
        return [
            f"the device table knows no {of}: {self.by_class[of]:.3f} ms of {self.milliseconds:.3f} are guessed, at "
            f"the slowest rate that fits, of {instead}"
            for of, instead in self.guessed.items()
        ]


class DeviceTable(_Strict):
    """How fast a device is, class by class; see the module."""

    device_table: Literal[1] = Field(default=1, description="the format of this file")
    command: str = Field(default="", max_length=MOST_COMMAND)
    machine: dict[Text, Text | int | dict[Text, Text]] = Field(max_length=50)
    artifacts: list[Source] = Field(max_length=1000)
    classes: list[Rate] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _no_class_twice(self) -> Self:
        if len(self._rates) < len(self.classes):
            raise ValueError("expected each class once, got one twice")
        return self

    @cached_property
    def _rates(self) -> dict[Class, Rate]:
        return {rate.of: rate for rate in self.classes}

    def milliseconds(self, artifact: Path, *, tell: Callable[[str], None] = print) -> float:
        """What one answer of an artifact to a made image would take on the device, in milliseconds.

        Args:
            artifact: its folder.
            tell: takes one line for each class of node that the table lacks, and whose rate is a guess.

        Raises:
            ArtifactError: there is none, or it is damaged.
            RunError: the table has nothing by which its nodes could be guessed.
        """
        found = self.estimate(artifact)
        for line in found.lines():
            tell(line)
        return found.milliseconds

    def estimate(self, artifact: Path) -> Estimate:
        """As `milliseconds`, with what each class takes, and which the table lacks."""
        return self.estimate_nodes(executed_nodes(load(artifact)))

    def estimate_nodes(self, nodes: Iterable[Node]) -> Estimate:
        """What nodes would take, of whichever graph.

        A class that the table lacks takes the slowest rate known for such a node: of operators that do much the same;
        else of all that count in the same unit and arithmetic; else in the same unit.

        Raises:
            RunError: it has no class of that unit.
        """
        milliseconds: dict[Class, float] = defaultdict(float)
        guessed: dict[Class, str] = {}
        for node in nodes:
            rate = self._rates.get(node.of)
            if rate is None:
                rate = self._slowest(node)
                guessed[node.of] = str(rate.of)
            milliseconds[node.of] += rate.nanoseconds(node.work) / 1e6
        return Estimate(sum(milliseconds.values()), dict(milliseconds), guessed)

    def _slowest(self, node: Node) -> Rate:
        """The slowest rate of the nearest group in which the table has one."""
        of = node.of
        in_unit = [rate for rate in self.classes if rate.of.unit == of.unit]
        alike = [rate for rate in in_unit if rate.arithmetic == of.arithmetic]
        family = [rate for rate in alike if rate.operator in of.family and rate.depthwise == of.depthwise]
        if known := family or alike or in_unit:
            return max(known, key=lambda rate: rate.nanoseconds(node.work))
        raise RunError(
            f"expected a device table with a rate of {of}, or of any operator whose work is counted in {of.unit}s, got "
            "none; make the table from an artifact that is like this one"
        )


def measure_device(
    artifacts: Sequence[Path],
    *,
    repeats: int = 30,
    seconds: float = 300.0,
    command: str = "",
    tell: Callable[[str], None] = print,
) -> DeviceTable:
    """Measure this machine, one thread, on a made image.

    Args:
        artifacts: their folders. A table is the better, the more they are like those that it is asked about: floats and
            integers, small and large.
        repeats: runs of each graph, at most; six are made in any case.
        seconds: no further run is begun when this time is over, shared by the artifacts.
        command: for the record.
        tell: takes one line of progress at a time.

    Raises:
        ArtifactError: one is missing or damaged.
        DataError: none is given.
    """
    if not artifacts:
        raise DataError("expected artifacts to measure this device by, got none; give some")
    predictors = [load(path) for path in artifacts]
    spent: list[dict[tuple[str, Key], list[float]]] = [defaultdict(list) for _ in artifacts]
    each = seconds / (TURNS * len(artifacts))
    for turn in range(TURNS):
        for path, predictor, times in zip(artifacts, predictors, spent, strict=True):
            tell(f"nodes of {path.name}, turn {turn + 1} of {TURNS}")
            for key, durations in _timed(predictor, -(-repeats // TURNS), each):
                times[key].extend(durations)
    measured = [_joined(predictor, times) for predictor, times in zip(predictors, spent, strict=True)]
    rates = _fitted([pair for pairs in measured for pair in pairs])
    table = DeviceTable(command=encodable(command)[:MOST_COMMAND], machine=machine(), artifacts=[], classes=rates)
    sources = [
        Source(
            name=encodable(path.resolve().name)[:MOST_NAME],
            sha256=predictor.artifact.sha256,
            precision=predictor.manifest.precision,
            measured_ms=sum(nanoseconds for _, nanoseconds in pairs) / 1e6,
            estimated_ms=table.estimate_nodes(node for node, _ in pairs).milliseconds,
        )
        for path, predictor, pairs in zip(artifacts, predictors, measured, strict=True)
    ]
    return table.model_copy(update={"artifacts": sources})


def _timed(predictor: Predictor, repeats: int, seconds: float) -> Iterator[tuple[tuple[str, Key], list[float]]]:
    """Of each node that one answer executes, its nanoseconds in some runs after one to warm up."""
    runs = graph_runs(predictor, made_image(predictor.manifest.input))
    is_over = deadline(seconds)
    for name, feeds in runs:
        events = profiled_events(
            predictor.artifact.graphs[name], feeds, max(repeats, LEAST), 0 if is_over() else seconds / len(runs)
        )
        times: dict[Key, list[float]] = defaultdict(list)
        for event in _node_events(events):
            times[_key(event)].append(1e3 * event["dur"])
        for key, durations in times.items():
            yield (name, key), durations[1:]


def _joined(predictor: Predictor, times: Mapping[tuple[str, Key], Sequence[float]]) -> list[tuple[Node, float]]:
    """Each node that one answer executes, with the nanoseconds it took."""
    return [(node, _typical(times[key])) for key, node in _keyed_nodes(predictor) if times.get(key)]


def _typical(values: Sequence[float]) -> float:
    """The mean of the fastest quarter, since other work only ever adds to a time; of whole microseconds, a single one
    of them would be too coarse."""
    fastest = sorted(values)[: -(-len(values) // 4)]
    return max(statistics.fmean(fastest), RESOLUTION)


def executed_nodes(predictor: Predictor) -> list[Node]:
    """The nodes that ONNX Runtime executes on this machine for one answer to a made image, without prompts.

    Raises:
        RunError: its profiler does not tell the shapes of a convolution's weights.
    """
    return [node for _, node in _keyed_nodes(predictor)]


def _keyed_nodes(predictor: Predictor) -> Iterator[tuple[tuple[str, Key], Node]]:
    """Weights that are packed are missing among the shapes that the profiler tells, so that here they are not."""
    for name, feeds in graph_runs(predictor, made_image(predictor.manifest.input)):
        for key, node in _shaped(predictor.artifact.graphs[name], feeds):
            yield (name, key), node


def _shaped(graph: bytes, feeds: Feeds) -> Iterator[tuple[Key, Node]]:
    for event in _node_events(profiled_events(graph, feeds, 1, packed=False)):
        yield _key(event), _node(event["args"])


def _node_events(events: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in sorted(events, key=lambda e: e["ts"]):
        is_kernel = event["cat"] == "Node" and event["name"].endswith("_kernel_time")
        if is_kernel and event["args"]["op_name"] not in CONTROL:
            yield event


def _key(event: Mapping[str, Any]) -> Key:
    return event["name"], event["args"]["node_index"], event["args"]["op_name"]


def _node(told: Mapping[str, Any]) -> Node:
    """The class and work of what the profiler tells of one node."""
    operator = told["op_name"]
    inputs, outputs = (
        [next(iter(entry.items())) for entry in told[f"{way}_type_shape"]] for way in ("input", "output")
    )
    first = {kind for kind, _ in (*inputs[:1], *outputs[:1])}
    arithmetic: Arithmetic = "float" if first & FLOATS else "integer"
    if not _multiplies(operator):
        work = sum(prod(shape) * BYTES.get(kind, 4) for kind, shape in (*inputs, *outputs))
        return Node(Class(operator, arithmetic, depthwise=False), work)
    taken, given = ([shape for _, shape in entries] for entries in (inputs, outputs))
    position = WEIGHT.get(operator)
    if position is not None and (len(taken) <= position or len(taken[position]) < 3):
        raise RunError(
            f"expected the shape of the weights of each {operator} from the profiler of ONNX Runtime, got "
            f"{taken}; install another version of onnxruntime"
        )
    depthwise = position is not None and _is_depthwise(taken[0], taken[position], given[0])
    return Node(Class(operator, arithmetic, depthwise), multiplications(operator, taken, given))


def _multiplies(operator: str) -> bool:
    return operator in WEIGHT or operator in PRODUCTS or operator == TRANSPOSED


def _is_depthwise(image: Sequence[int], weight: Sequence[int], output: Sequence[int]) -> bool:
    """Each channel by itself, of which there are several; they stand second, or last in some operators."""
    channels = image[1] if output[1] == weight[0] else image[-1]
    return weight[1] == 1 and channels > 1


def _fitted(nodes: Sequence[tuple[Node, float]]) -> list[Rate]:
    """The rates of each class, by nodes and their nanoseconds."""
    found: dict[Class, list[tuple[int, float]]] = defaultdict(list)
    for node, nanoseconds in nodes:
        found[node.of].append((node.work, nanoseconds))
    alike = {
        of: [pair for other in found if other[1:] == of[1:] and other.unit == of.unit for pair in found[other]]
        for of in found
    }
    return [_rate(of, pairs, fit(*_columns(alike[of]))) for of, pairs in sorted(found.items())]


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[Any, Any]:
    work, times = np.array(pairs, dtype=np.float64).T
    return work, times


def _rate(of: Class, pairs: Sequence[tuple[int, float]], start: tuple[float, float]) -> Rate:
    work, times = _columns(pairs)
    per_unit, per_call = fit(work, times, start)
    return Rate(
        operator=of.operator,
        arithmetic=of.arithmetic,
        depthwise=of.depthwise,
        ns_per_unit=per_unit,
        ns_per_call=per_call,
        calls=len(pairs),
        milliseconds=float(times.sum()) / 1e6,
    )


def fit(work: Any, times: Any, start: tuple[float, float] | None = None) -> tuple[float, float]:
    """The most likely time for each unit of work and for each call, where the variance of a time is as its mean.

    So long nodes count for more than short ones, but not by the square; neither figure can become negative; and the
    times by the fit add up to those measured. The updates are those of Richardson and Lucy (1972, 1974), which
    Shepp and Vardi (1982) showed to be expectation maximisation. Where all nodes do the same work, nothing tells the
    two figures apart, and both keep the proportion that they start with: that of all classes of the kind.

    Args:
        work: of each node, (n,).
        times: that each took, (n,), above 0.
        start: both figures to start from; None: the shortest time is that of a call.

    Returns:
        Time for each unit of work, and for each call.
    """
    total = float(work.sum())
    if start is None:
        start = float(times.sum() / total) if total else 0.0, float(times.min())
    per_unit, per_call = start[0], max(start[1], TINY)
    for _ in range(ITERATIONS):
        ratio = times / (per_unit * work + per_call)
        per_unit *= float((work * ratio).sum()) / total if total else 1.0
        per_call *= float(ratio.mean())
    return per_unit, per_call


def write_table(out: Path, table: DeviceTable) -> None:
    """Write a table as JSON, whole or not at all; `DEVICE_TABLE.check` says whether it may take that place."""
    write_json(out, table.model_dump(mode="json"))


def read_table(path: Path) -> DeviceTable:
    """Read a table, which may come from anybody.

    Raises:
        DataError: it is missing, too large, or no table.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TABLE_BYTES + 1)
        if len(content) > MAX_TABLE_BYTES:
            raise ValueError(f"more than {MAX_TABLE_BYTES:,} bytes")
        return DeviceTable.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected a device table at {path}, as leanmed benchmark --device-table writes it, got {_reason(error)}; "
            "make it again on the device, or check the path"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'another content'}: {' '.join(first['msg'].split())[:200]}"
    return (error.strerror or repr(error)) if isinstance(error, OSError) else str(error)


def told(table: DeviceTable) -> list[str]:
    """What a table says, in lines of text."""
    processor = table.machine.get("processor", "this device")
    described = [
        f"{source.name}: {source.measured_ms:.2f} ms measured, {source.estimated_ms:.2f} ms by the table"
        for source in table.artifacts
    ]
    return [f"{processor}: {len(table.classes)} classes of nodes, one thread", *described]
