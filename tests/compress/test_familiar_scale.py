"""A compressed graph's scale of how familiar an image looks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leanmed.compress.familiar_scale import LEAST_IMAGES, distances, moved
from leanmed.figures.familiarity import Scale
from leanmed.runtime.predictor import open_session


def telling_graph(scale: Scale, stretch: float = 1.0) -> bytes:
    """A graph whose distance is the mean of all pixels times `stretch`, and which tells its share as artifacts do."""
    knots, shares = np.float32(scale.distances), np.float32(scale.shares)
    constants = {
        "stretch": np.float32(stretch),
        "start": knots[:-1],
        "width": np.diff(knots),
        "steps": np.diff(shares),
        "first": shares[0],
        "low": np.float32(0),
        "high": np.float32(1),
        "axis": np.array([1]),
        "flat": np.array([1, 1]),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "stretch"], ["distance"]),
        helper.make_node("Reshape", ["distance", "flat"], ["placed"]),
        helper.make_node("Sub", ["placed", "start"], ["gone"]),
        helper.make_node("Div", ["gone", "width"], ["part"]),
        helper.make_node("Clip", ["part", "low", "high"], ["clipped"]),
        helper.make_node("Mul", ["clipped", "steps"], ["lost"]),
        helper.make_node("ReduceSum", ["lost", "axis"], ["all"], keepdims=0),
        helper.make_node("Add", ["first", "all"], ["share"]),
        helper.make_node("Clip", ["share", "low", "high"], ["familiar"]),
    ]
    graph = helper.make_graph(
        nodes,
        "telling",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", "c"])],
        [helper.make_tensor_value_info("familiar", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def images(count: int) -> list[np.ndarray]:
    """Images whose means lie around 50."""
    rng = np.random.default_rng(0)
    return [np.full((4, 4, 4), value, np.uint8) for value in rng.normal(50, 12, count).clip(5, 120).round()]


def shares(graph: bytes, seen: list[np.ndarray]) -> np.ndarray:
    session = open_session(graph)
    return np.array([session.run(["familiar"], {"pixels": image})[0][0] for image in seen])


@pytest.fixture
def scale() -> Scale:
    found = Scale.of([float(image.mean()) for image in images(60)])
    assert found
    return found


def test_the_distance_is_found_in_a_graph(scale: Scale) -> None:
    seen = images(5)
    found = distances(telling_graph(scale, 1.5), seen)
    assert found is not None
    assert found == pytest.approx([1.5 * image.mean() for image in seen])


@pytest.mark.parametrize("stretch", [0.4, 1.0, 2.5])
def test_a_moved_scale_tells_what_the_float_graph_told(stretch: float, scale: Scale) -> None:
    seen, before, after = images(80), telling_graph(scale), telling_graph(scale, stretch)
    found = moved(after, distances(before, seen), distances(after, seen))
    fresh = [*images(30), np.full((4, 4, 4), 1, np.uint8), np.full((4, 4, 4), 250, np.uint8)]
    assert shares(found, fresh) == pytest.approx(shares(before, fresh), abs=0.02)
    if stretch != 1.0:
        assert abs(shares(after, fresh) - shares(before, fresh)).max() > 0.2, "else nothing was tried"


def test_images_that_come_to_lie_at_one_distance_leave_a_sound_scale(scale: Scale) -> None:
    graph = telling_graph(scale)
    before = distances(graph, images(40))
    found = moved(graph, before, np.full(40, 60.0))
    told = shares(found, images(20))
    assert np.isfinite(told).all()
    assert (np.diff(shares(found, [np.full((2, 2, 4), v, np.uint8) for v in range(20, 200, 5)])) <= 1e-6).all()


def test_too_few_images_and_graphs_without_a_scale_are_left_as_they_are(scale: Scale) -> None:
    graph = telling_graph(scale)
    few = np.arange(LEAST_IMAGES - 1.0)
    assert moved(graph, few, 2 * few) == graph
    model = onnx.load_from_string(graph)
    del model.graph.node[4:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("placed", TensorProto.FLOAT, [1, 1]))
    assert distances(model.SerializeToString(), images(2)) is None
