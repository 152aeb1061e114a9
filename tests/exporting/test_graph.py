"""What a graph does not need to carry."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import parametrize

from leanmed.exporting.export import export_graph
from leanmed.exporting.graph import _letters, compact, own_constants, slim
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


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=False)
        parametrize.register_parametrization(self.linear, "weight", Doubled())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(pixels[..., :3].float())


def test_a_weight_that_is_computed_from_another_is_a_constant_of_the_graph() -> None:
    module = Weighted().eval()
    graph = onnx.load_from_string(export_graph(module, ["sums"]))
    constants = [numpy_helper.to_array(value) for value in graph.graph.initializer]
    wanted = module.linear.weight.detach().numpy()
    assert any(value.shape in ((2, 3), (3, 2)) and np.isin(wanted, value).all() for value in constants)
    assert "Mul" not in {node.op_type for node in graph.graph.node}
    assert parametrize.is_parametrized(module.linear)  # what was given is left as it was


def test_branches_get_constants_of_their_own_and_answer_as_before() -> None:
    model = own_constants(branching())
    assert [constant.name for constant in model.graph.initializer] == ["zero"]
    inside = {a.name: [constant.name for constant in a.g.initializer] for a in model.graph.node[1].attribute}
    assert inside == {"then_branch": ["two"], "else_branch": ["one"]}
    session = open_session(model.SerializeToString())
    assert [float(session.run(None, {"x": np.array([v], np.float32)})[0][0]) for v in (-1, 3)] == [0, 5]


def test_short_names_change_no_answer_and_reach_into_branches() -> None:
    """A graph with an `If` whose branches read a tensor and a constant of the graph around them."""
    x = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [3])
    y = helper.make_tensor_value_info("a", TensorProto.FLOAT, [3])  # as the first short name would be
    inner = helper.make_tensor_value_info("branch.result", TensorProto.FLOAT, [3])
    both = ["doubled.value", "shift"]
    branches = {
        name: helper.make_graph([helper.make_node(op, both, ["branch.result"])], name, [], [inner])
        for name, op in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    nodes = [
        helper.make_node("Add", ["pixels", "pixels"], ["doubled.value"], name="first"),
        helper.make_node("ReduceMax", ["doubled.value"], ["largest"], keepdims=0, name="second"),
        helper.make_node("Greater", ["largest", "limit"], ["is_large"]),
        helper.make_node("If", ["is_large"], ["a"], **branches),
    ]
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("shift", [1, 2, 3]), ("limit", 5.0))
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    short = compact(model)
    onnx.checker.check_model(short, full_check=True)
    assert short.ByteSize() < model.ByteSize()
    assert [entry.name for entry in (*short.graph.input, *short.graph.output)] == ["pixels", "a"]
    assert not any(node.name for node in short.graph.node)
    for pixels in ([1.0, 2.0, 0.0], [4.0, 5.0, 6.0]):
        answers = [
            onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"pixels": np.array(pixels, np.float32)}
            )[0]
            for g in (model, short)
        ]
        assert (answers[0] == answers[1]).all()


def test_letters_count_on() -> None:
    assert [_letters(n) for n in (0, 1, 25, 26, 27, 701, 702)] == ["a", "b", "z", "aa", "ab", "zz", "aaa"]
