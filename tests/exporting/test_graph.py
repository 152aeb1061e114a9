"""What a graph does not need to carry."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import parametrize

from leanmed.exporting.export import export_graph
from leanmed.exporting.graph import own_constants, slim
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
