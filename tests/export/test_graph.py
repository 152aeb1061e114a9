"""What a graph does not need to carry."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leanmed.export.graph import slim
from leanmed.runtime.predictor import open_session


def constant(name: str, value: float) -> TensorProto:
    return numpy_helper.from_array(np.array([value], np.float32), name)


def branching() -> onnx.ModelProto:
    """x + 2 if x > 0, else x + 1; the constants of the branches belong to the graph around them."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    branches = {
        key: helper.make_graph(
            [helper.make_node("Add", ["x", name], [f"{name}_y"], doc_string="made by /home/somebody")],
            key,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1])],
        )
        for key, name in (("then_branch", "two"), ("else_branch", "one"))
    }
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("If", ["above"], ["y"], doc_string="note", **branches),
    ]
    values = [constant("zero", 0), constant("one", 1), constant("two", 2), constant("unread", 9)]
    graph = helper.make_graph(nodes, "graph", [x], [y], values, value_info=[x])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("nobody.asks", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_only_what_is_read_is_kept() -> None:
    model = slim(branching())
    assert [c.name for c in model.graph.initializer] == ["zero", "one", "two"]
    assert [opset.domain for opset in model.opset_import] == [""]
    assert not model.graph.value_info
    assert b"somebody" not in model.SerializeToString()
    assert b"note" not in model.SerializeToString()


def test_the_answers_stay() -> None:
    session = open_session(slim(branching()).SerializeToString())
    found = [session.run(None, {"x": np.array([x], np.float32)})[0].item() for x in (3, -3)]
    assert found == [5, -2]
