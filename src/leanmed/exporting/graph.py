"""What every ONNX graph that leanmed writes has in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


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
