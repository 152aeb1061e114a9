from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import leanmed
from leanmed.errors import ArtifactError, DataError, InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.manifest import Input
from leanmed.reading.images import Limits
from leanmed.records import Record
from leanmed.runtime.artifact import read_artifact, write_artifact
from leanmed.runtime.predictor import open_session


def graph(*nodes: onnx.NodeProto, pixels: str = "pixels") -> bytes:
    """A graph of such nodes from `pixels` to two `probabilities`."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(pixels, TensorProto.UINT8, ["h", "w", "c"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2])],
        [onnx.numpy_helper.from_array(np.array(v), n) for n, v in (("rows", [0, 8]), ("axes", [1, 2]))],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def constant(*values: float) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["probabilities"], value_floats=list(values))


def test_every_kind_of_input_gets_the_same_answer(tiny_artifact, photographs):
    predictor, path = leanmed.load(tiny_artifact), photographs[3]
    with Image.open(path) as image:
        answers = [predictor.predict(source) for source in (path, str(path), path.read_bytes(), image)]
        answers += [
            predictor.predict(np.asarray(image)),
            predictor.predict(np.asarray(image.convert("RGBA"))),
        ]
    assert [answer.probability for answer in answers] == pytest.approx([60 / 255] * 6)


def test_the_artifact_can_be_named_by_a_string(tiny_artifact):
    assert leanmed.load(str(tiny_artifact)).manifest.name == "mean-red"


@pytest.mark.parametrize(("threshold", "label"), [(0.25, "non-anemic"), (51 / 255, "anemic"), (0.0, "anemic")])
def test_the_answer_is_positive_from_the_threshold_on(threshold, label, make_artifact):
    predictor = leanmed.load(make_artifact(threshold=threshold))
    assert predictor.predict(np.full((9, 9, 3), 51, np.uint8)).label == label


def test_of_three_labels_the_likeliest_is_the_answer(make_artifact):
    predictor = leanmed.load(make_artifact(labels=("a", "b", "c"), threshold=None))
    assert predictor.predict(np.full((9, 9, 3), 200, np.uint8)).label == "b"


def test_a_file_that_is_no_image_is_refused(tiny_artifact, tmp_path, refused):
    (tmp_path / "a.png").write_text("no picture")
    with refused(UnreadableInput, "a.png", "expected JPEG, PNG, TIFF, BMP, WebP or DICOM"):
        leanmed.load(tiny_artifact).predict(tmp_path / "a.png")


def test_the_caps_can_be_raised(tiny_artifact, refused):
    big = np.zeros((100, 100, 3), np.uint8)
    with refused(InputTooLarge, "expected at most 5,000 pixels", "raise max_pixels"):
        leanmed.load(tiny_artifact, limits=Limits(max_pixels=5_000)).predict(big)
    assert leanmed.load(tiny_artifact, limits=Limits(max_pixels=10_000)).predict(big).label == "non-anemic"


def test_the_artifact_says_how_small_an_image_may_be(make_artifact, refused):
    predictor = leanmed.load(make_artifact(input=Input(side=32, min_side=20)))
    with refused(UnsupportedInput, "at least 20 pixels, got 30 x 19"):
        predictor.predict(np.zeros((19, 30, 3), np.uint8))
    assert predictor.predict(np.zeros((20, 30, 3), np.uint8)).probability == 0


def test_threads_that_share_a_predictor_get_the_answers_they_would_get_alone(tiny_artifact, photographs):
    predictor = leanmed.load(tiny_artifact)
    alone = [predictor.predict(path) for path in photographs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.predict, photographs * 8)) == alone * 8


@pytest.mark.parametrize("answer", [(0.5, 0.6), (float("nan"), float("nan")), (2.0, -1.0)])
def test_a_graph_that_gives_no_probabilities_is_an_error_and_no_answer(answer, make_artifact, refused):
    predictor = leanmed.load(make_artifact(graph=graph(constant(*answer))))
    with refused(DataError, "expected probabilities in [0, 1] that sum to 1", "the model or the line is unsound"):
        predictor.predict(np.zeros((9, 9, 3), np.uint8))


def test_a_graph_that_fails_on_an_image_is_an_error_of_ours(make_artifact, refused, capfd):
    rows_1_and_9 = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["floats", "rows"], ["two"], axis=0),
        helper.make_node("ReduceMean", ["two", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"]),
    ]
    predictor = leanmed.load(make_artifact(graph=graph(*rows_1_and_9)))
    assert predictor.predict(np.zeros((9, 9, 3), np.uint8)).probability == 0.5
    with refused(ArtifactError, "expected the graph to take pixels of shape (8, 9, 4), got:", "export it again"):
        predictor.predict(np.zeros((8, 9, 3), np.uint8))
    assert capfd.readouterr() == ("", "")  # ONNX Runtime prints nothing of its own


def test_a_graph_of_another_kind_is_refused_when_it_is_loaded(make_artifact, refused):
    expected = "expected a graph from uint8 pixels (h, w, c) to probabilities of {}, got one from"
    with refused(ArtifactError, expected.format("non-anemic, anemic"), "'image'", "export it again"):
        leanmed.load(make_artifact(graph=graph(constant(0, 1), pixels="image")))
    with refused(ArtifactError, expected.format("a, b, c"), "{'probabilities': [2]}"):
        leanmed.load(make_artifact("three", graph=graph(constant(0, 1)), labels=("a", "b", "c"), threshold=None))


def test_a_file_that_is_no_graph_is_refused(make_artifact, refused, capfd):
    with refused(ArtifactError, "ONNX Runtime", "cannot open this graph", "install a newer onnxruntime"):
        leanmed.load(make_artifact(graph=b"no graph"))
    assert capfd.readouterr() == ("", "")


def test_a_graph_cannot_reach_for_files_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0\1")
    model = onnx.load_from_string(graph(helper.make_node("Identity", ["weights"], ["probabilities"])))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    weights = onnx.numpy_helper.from_array(np.uint8([0, 1]), "weights")
    onnx.external_data_helper.set_external_data(weights, "weights.bin", offset=0, length=2)
    weights.ClearField("raw_data")
    model.graph.initializer.append(weights)
    with pytest.raises(ArtifactError, match="cannot open this graph"):
        open_session(model.SerializeToString())


def test_outputs_of_another_name_or_graphs_of_another_name_are_refused(make_artifact, tmp_path, refused):
    renamed = onnx.load_from_string(graph(constant(0, 1)))
    renamed.graph.node[0].output[0] = renamed.graph.output[0].name = "answers"
    with refused(ArtifactError, "expected the graph model to give probabilities, got answers; export it again"):
        leanmed.load(make_artifact(graph=renamed.SerializeToString()))
    made = read_artifact(make_artifact("sound"))
    write_artifact(tmp_path / "other", made.manifest, {"encoder": made.graph}, "")
    with refused(ArtifactError, "expected an artifact with the graphs model, got ['encoder']"):
        leanmed.load(tmp_path / "other")


def test_a_threshold_may_be_given_instead_of_the_artifacts_own(tiny_artifact, make_artifact, refused):
    grey = np.full((9, 9, 3), 51, np.uint8)  # one fifth
    own, moved = leanmed.load(tiny_artifact), leanmed.load(tiny_artifact, threshold=0.2)
    assert (own.predict(grey).label, moved.predict(grey).label) == ("non-anemic", "anemic")
    assert (own.predict(grey).threshold, moved.predict(grey).threshold) == (0.5, 0.2)
    assert own.predict(grey).probabilities == moved.predict(grey).probabilities
    assert (own.manifest.threshold, moved.manifest.threshold, moved.artifact.sha256) == (0.5, 0.2, own.artifact.sha256)
    for value in (-0.1, 1.5, float("nan")):
        with refused(ArtifactError, "expected a threshold from 0 to 1, got"):
            leanmed.load(tiny_artifact, threshold=value)
    with refused(ArtifactError, "takes no threshold: expected a threshold for two labels only", "leave it out"):
        leanmed.load(make_artifact(labels=("a", "b", "c"), threshold=None), threshold=0.5)


def test_the_graphs_outputs_are_decided_into_the_answer(tiny_artifact):
    predictor, grey = leanmed.load(tiny_artifact), np.full((9, 9, 3), 204, np.uint8)
    (probabilities,) = predictor.outputs(grey)
    assert probabilities == pytest.approx([0.2, 0.8])
    answer = predictor.answer(predictor.frame(grey))
    assert answer == predictor.decide(predictor.frame(grey)) == predictor.predict(grey)
    assert answer.as_json() == {
        "label": "anemic",
        "probability": answer.probability,
        "probabilities": dict(zip(("non-anemic", "anemic"), map(float, probabilities), strict=True)),
        "threshold": 0.5,
        "familiar": None,
    }


def test_a_record_is_answered_as_its_image_is(tiny_artifact, photographs):
    predictor = leanmed.load(tiny_artifact)
    record = Record("a", photographs[5], "anemic", "a")
    assert predictor.predict_record(record) == predictor.predict(photographs[5])


def test_a_classifier_gives_no_boxes(tiny_artifact, photographs, refused):
    with refused(ArtifactError, "expected an artifact that gives boxes, got one that gives probabilities"):
        leanmed.load(tiny_artifact).predict_boxes(photographs[0])
