"""The scale by which a compressed graph tells how familiar an image looks, moved as compression moves the distances.

Integers in place of floats change the spreads of a network's early maps a little, and with them how far every image
lies from the training images: in MobileNetV2 images lie twice as far (docs/results/familiar_scale.json). A scale that
was made of the float network's distances would then call most images unfamiliar. What the same images' distances are
before and after says how to move it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from leanmed.compress.graph import Array
from leanmed.runtime.predictor import open_session
from leanmed.tasks.kind import FAMILIAR

LEAST_IMAGES = 20  # fewer say too little about how distances move
APART = 1e-6  # between two knots, in units of the farthest


@dataclass(frozen=True)
class _Place:
    """Where a graph holds its scale: see `leanmed.models.familiarity.Familiarity.forward`.

    Args:
        distance: the tensor with an image's distance.
        start: the constant with all knots but the last.
        width: the constant with the distances from each to the next.
    """

    distance: str
    start: str
    width: str


def distances(graph: bytes, images: Iterable[NDArray[np.uint8]]) -> Array | None:
    """How far images (h, w, c) lie from the training images, in order; None: the graph holds no such scale."""
    model = onnx.load_from_string(graph)
    place = _place(model)
    if place is None:
        return None
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(place.distance, onnx.TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString())
    return np.array([float(session.run(None, {"pixels": image})[0].reshape(-1)[0]) for image in images])


def moved(graph: bytes, before: Array, after: Array) -> bytes:
    """A compressed graph whose scale fits its own distances.

    The k-th smallest of the distances before is taken for the k-th smallest after; between them it is interpolated, and
    beyond them the scale is stretched.

    Args:
        graph: with a scale, made of the float network's distances.
        before, after: distances of the same images by the float graph and by this one, (n,).
    """
    model = onnx.load_from_string(graph)
    place = _place(model)
    if place is None or len(before) < LEAST_IMAGES:
        return graph
    constants = {constant.name: constant for constant in model.graph.initializer}
    start, width = (onnx.numpy_helper.to_array(constants[name]) for name in (place.start, place.width))
    knots = _moved(np.append(start, start[-1] + width[-1]).astype(np.float64), np.sort(before), np.sort(after))
    for name, values, kind in ((place.start, knots[:-1], start.dtype), (place.width, np.diff(knots), width.dtype)):
        constants[name].CopyFrom(onnx.numpy_helper.from_array(values.astype(kind), name))
    return bytes(model.SerializeToString())


def _moved(knots: Array, before: Array, after: Array) -> Array:
    low, high = (after[end] / max(before[end], 1e-12) for end in (0, -1))
    inside = np.interp(knots, before, after)
    found = np.where(knots < before[0], knots * low, np.where(knots > before[-1], knots * high, inside))
    steps = np.maximum(np.diff(found), APART * found[-1])  # two knots at one place would be divided by zero
    return np.concatenate([found[:1], found[0] + np.cumsum(steps)])


def _place(model: onnx.ModelProto) -> _Place | None:
    """Follow `familiar` back to the distance: the first subtraction on the way takes the knots from it."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {constant.name for constant in model.graph.initializer}
    name, width = FAMILIAR, ""
    while name in makers:
        node = makers[name]
        computed = [entry for entry in node.input if entry and entry not in constants]
        fixed = [entry for entry in node.input if entry in constants]
        if node.op_type == "Sub":
            is_found = len(node.input) == 2 and fixed == [node.input[1]] and width
            return _Place(node.input[0], fixed[0], width) if is_found else None
        if node.op_type == "Div":
            width = fixed[0] if fixed == [node.input[1]] else ""
        made = [entry for entry in computed if entry in makers and makers[entry].op_type != "Constant"]
        if len(made) != 1:
            return None
        name = made[0]
    return None
