"""What every ONNX graph that leanmed writes has in common, and a new end for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from leanmed.errors import ArtifactError


def parse(graph: bytes) -> onnx.ModelProto:
    """Bytes to a checked ONNX model.

    Raises:
        ArtifactError: they are no ONNX graph.
    """
    try:
        model = onnx.load_model_from_string(graph)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"expected an ONNX graph, got something damaged ({reason}); export the artifact again"
        ) from error
    return model


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of its own, to change."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop from a graph, in place, what no runtime needs.

    The exporter's notes (3 % of a small network, and the paths of its builder), the shapes of intermediate tensors,
    which any runtime infers again, constants that nothing reads, and operator sets that no node belongs to.
    """
    nodes = list(_walk(model.graph.node))
    notes = (model, model.graph, *nodes, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for entry in notes:
        entry.doc_string = ""
        del entry.metadata_props[:]
    del model.graph.value_info[:]
    read = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    constants = [constant for constant in model.graph.initializer if constant.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    domains = {node.domain for node in nodes} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, those in the branches and bodies of others too: they read constants of the graph around them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk(graph.node)


def own_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the branches of a graph, in place, constants of their own.

    They may read those of the graph around them, but then no list of a node's inputs tells so, and what cuts a graph
    into pieces or renames its tensors would lose them.
    """
    around = {constant.name: constant for constant in model.graph.initializer}
    for branch in _branches(model.graph.node):
        made = {constant.name for constant in branch.initializer} | {o for node in branch.node for o in node.output}
        wanted = dict.fromkeys(name for node in branch.node for name in node.input)
        branch.initializer.extend(around[name] for name in wanted if name in around and name not in made)
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    del model.graph.initializer[:]
    model.graph.initializer.extend(constant for name, constant in around.items() if name in read)
    return model


def _branches(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs inside nodes, at any depth."""
    for node in _walk(nodes):
        for attribute in node.attribute:
            yield from (graph for graph in (attribute.g, *attribute.graphs) if graph.node)


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose tensors have short names and whose nodes have none, but for its inputs and outputs.

    Of a small network in integers, with a rounding beside every layer, names weigh in the file.
    """
    model = copy(model)
    kept = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    fresh = (name for number in count() if (name := _letters(number)) not in kept)
    short: dict[str, str] = dict.fromkeys(kept | {""}, "")
    short |= {name: name for name in kept}

    def renamed(name: str) -> str:
        if name not in short:
            short[name] = next(fresh)
        return short[name]

    for graph in (model.graph, *_branches(model.graph.node)):
        for constant in graph.initializer:
            constant.name = renamed(constant.name)
        for entry in (*graph.input, *graph.output):
            entry.name = renamed(entry.name)
        del graph.value_info[:]
    for node in _walk(model.graph.node):
        node.ClearField("name")
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    return model


def _letters(number: int) -> str:
    """0, 1, 2... as a, b, ... z, aa, ab..."""
    text = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        text, number = chr(ord("a") + letter) + text, number - 1
    return text


def recalibrated(
    model: onnx.ModelProto, output: str, slope: float, intercepts: Sequence[float], least: float
) -> onnx.ModelProto:
    """A graph whose probabilities are recalibrated at its end, in float32: softmax(slope * ln p + intercepts).

    Args:
        model: whatever its weights are stored as.
        output: of the graph, (K,) probabilities.
        slope, intercepts: see `leanmed.figures.recalibration`.
        least: a probability below it counts as this one.
    """
    model = copy(model)
    nodes = list(_walk(model.graph.node))
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    start = next(
        text for number in count(1) if not any(n.startswith(text := f"recalibration_{number}_") for n in taken)
    )
    for node in nodes:
        node.input[:] = [f"{start}before" if name == output else name for name in node.input]
        node.output[:] = [f"{start}before" if name == output else name for name in node.output]
    constants = {"least": [least], "slope": [slope], "intercepts": intercepts}
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), start + name))
    last = f"{start}before"
    for op, constant in (("Max", "least"), ("Log", ""), ("Mul", "slope"), ("Add", "intercepts")):
        reads, last = [last, *([start + constant] if constant else [])], f"{start}{op.lower()}"
        model.graph.node.append(helper.make_node(op, reads, [last], name=last))
    model.graph.node.append(helper.make_node("Softmax", [last], [output], name=f"{start}softmax", axis=-1))
    return model
