"""The manifest of a tiny artifact, which test files and fixtures share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from leanmed import __version__
from leanmed.exporting.card import Basis
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.report.report import Report

LABELS = ("non-anemic", "anemic")


def manifest(**changes: Any) -> Manifest:
    """The manifest of the tiny artifact, with changes."""
    origin = Provenance(leanmed=__version__, data_sha256="0" * 64, seed=0, protocol="grouped", fold=0)
    content: dict[str, Any] = {
        "name": "mean-red",
        "task": "classification",
        "labels": LABELS,
        "input": Input(side=32),
        "threshold": 0.5,
        "temperature": 1.0,
        "main_score": "auc",
        "graphs": {},
        "provenance": origin,
    }
    return Manifest(**(content | changes))


def basis_of(report: Report) -> Basis:
    """What a card tells of the run that a report is of."""
    return Basis(
        images=report.table.group.size,
        groups=report.table.groups,
        protocol=report.protocol,
        notes=report.notes,
        figures=report.figures,
        terms=report.terms,
        subgroups=report.subgroups,
        made="This artifact is the model of fold 0.",
    )


def mean_red_graph(classes: int = 2) -> bytes:
    """An ONNX graph that answers (1 - r, r), r being the mean red of a picture of any size, white being 1.

    With more than two classes, the rest of them get probability 0.
    """
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "first"], ["red"]),
        helper.make_node("Div", ["red", "white"], ["positive"]),
        helper.make_node("Sub", ["one", "positive"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive", "zeros"], ["probabilities"], axis=0),
    ]
    constants: dict[str, NDArray[Any]] = {
        "axes": np.array([0, 1]),
        "first": np.array([0]),
        "white": np.float32([255]),
        "one": np.float32([1]),
        "zeros": np.zeros(classes - 2, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "mean-red",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", "c"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [classes])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
