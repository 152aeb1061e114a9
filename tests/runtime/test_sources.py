"""What a graph takes: the kinds of input, their types and units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from artifact_fixtures import manifest as made
from leanmed.errors import ArtifactError, DataError, UnsupportedInput
from leanmed.manifest import Input
from leanmed.prompts import Prompts
from leanmed.reading.images import DEFAULT_LIMITS
from leanmed.runtime.artifact import write_artifact
from leanmed.runtime.predictor import load
from leanmed.runtime.sources import Frame, inverse, open_frame
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Kind

MRI = Input(kind="intensities", dtype="float32", unit="", side=16)
HU = Input(kind="intensities", dtype="int16", unit="HU", side=16)


def positive_share_graph(kind: int) -> bytes:
    """From (h, w, c) of a type to the share of values above 0, as the second of two probabilities."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["floats", "zero"], ["above"]),
        helper.make_node("Cast", ["above"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["ones"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "single"], ["share"]),
        helper.make_node("Sub", ["one", "share"], ["rest"]),
        helper.make_node("Concat", ["rest", "share"], ["probabilities"], axis=0),
    ]
    constants = {"zero": np.float32(0), "one": np.float32([1]), "single": np.int64([1])}
    graph = helper.make_graph(
        nodes,
        "share",
        [helper.make_tensor_value_info("pixels", kind, ["h", "w", "c"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("about", "kind", "values"),
    [
        (HU, TensorProto.INT16, np.int16([[-1000, 40], [300, 2000]])),
        (HU, TensorProto.INT16, np.int32([[-1000, 40], [300, 2000]])),
        (MRI, TensorProto.FLOAT, np.float64([[-0.5, 0.25], [1e4, 3.0]])),
    ],
)
def test_a_graph_of_intensities_is_given_the_values_as_they_are(
    about: Input, kind: int, values: NDArray[Any], tmp_path: Path
) -> None:
    write_artifact(tmp_path / "a", made(input=about), {"model": positive_share_graph(kind)}, "# card\n")
    predictor = load(tmp_path / "a")
    image = np.tile(values, (8, 8))
    assert predictor.frame(image).pixels.tolist() == image[..., np.newaxis].tolist()
    assert predictor.frame(image).pixels.dtype == about.dtype
    assert predictor.predict(image).probability == 0.75


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 4), np.uint8), ("HU", "uint8", "values unscaled")),
        (np.zeros((2, 4, 4, 1), np.int16), ("(2, 4, 4, 1)", "one image")),
        (np.full((9, 9), np.nan, np.float32), ("finite HU", "int16")),
        (np.full((9, 9), 70000), ("finite HU", "int16 can hold")),
        (b"no DICOM", ("an array of int16 with HU", "a CT slice in DICOM")),
    ],
)
def test_what_is_no_image_of_intensities_is_refused(source: Any, words: tuple[str, ...], refused: Any) -> None:
    with refused(UnsupportedInput, *words):
        open_frame(source, HU, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "about", [{"kind": "intensities"}, {"kind": "photograph", "dtype": "int16"}, {"kind": "slice", "dtype": "float32"}]
)
def test_the_type_must_go_with_the_kind_of_input(about: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected int16 or float32 for intensities, else uint8"):
        Input(side=16, **about)


def test_a_graph_of_another_type_than_declared_is_refused(tmp_path: Path, refused: Any) -> None:
    write_artifact(tmp_path / "a", made(input=HU), {"model": positive_share_graph(TensorProto.FLOAT)}, "# card\n")
    with refused(ArtifactError, "from int16 pixels", "tensor(float)"):
        load(tmp_path / "a")


def test_places_come_back_from_another_frame_the_way_they_went() -> None:
    def turned(points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Axes swapped, the new x twice as fine, the new y reversed and three times as fine."""
        return points[:, ::-1] * [2.0, -3.0] + [5.0, 60.0]

    shown = np.array([[1.0, 2.0], [3.5, 0.25]])
    assert turned(shown).tolist() == [[9.0, 57.0], [5.5, 49.5]]
    np.testing.assert_allclose(inverse(turned)(turned(shown)), shown, atol=1e-12)
    frame = Frame(np.zeros((10, 20, 3), np.uint8), turned)  # of a stored image with x from 5 to 25 and y from 0 to 60
    found = frame.shown(Prompts(((9.0, 57.0),), (0,), (5.5, 49.5, 9.0, 57.0)))
    assert found.labels == (0,)
    np.testing.assert_allclose(found.points, [[1.0, 2.0]])
    np.testing.assert_allclose(found.box, [1.0, 0.25, 3.5, 2.0], atol=1e-12)  # its corners in order again


@pytest.mark.parametrize("points", [None, lambda points: points * 4 + [3.0, 0.0]])
def test_prompts_outside_what_is_shown_are_refused_in_stored_pixels(points: Any, refused: Any) -> None:
    frame = Frame(np.zeros((10, 20, 3), np.uint8), points)
    region = "x from 0 to 20 and y from 0 to 10" if points is None else "x from 3 to 83 and y from 0 to 40"
    with refused(DataError, "inside the image", region, "got (100, 5); correct them"):
        frame.shown(Prompts(((8.0, 5.0), (100.0, 5.0))))


def test_a_file_read_at_a_reduced_scale_takes_and_gives_places_in_its_own_upright_pixels(tmp_path: Path) -> None:
    """A JPEG of 600 x 400 that EXIF turns to 400 x 600; 4 times smaller, both sides are still 3 times the network's."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((400, 600, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    frame = open_frame(tmp_path / "a.jpg", Input(side=32), DEFAULT_LIMITS)
    assert frame.pixels.shape == (150, 100, 4)
    assert frame.shown(Prompts(((200.0, 580.0),))).points == ((50.0, 145.0),)
    assert frame.points is not None
    assert frame.points(np.array([[50.0, 145.0]])).tolist() == [[200.0, 580.0]]
    assert open_frame(tmp_path / "a.jpg", Input(side=32, reduced=False), DEFAULT_LIMITS).points is None


class TestSeveralGraphs:
    """A kind may have up to four graphs, such as an encoder and a decoder."""

    @pytest.fixture
    def kind(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Labels whose artifacts have a second graph, which turns pixels into two numbers."""
        answer = TASKS["classification"].answer
        graphs = {"model": ("probabilities",), "second": ("probabilities",)}
        both = Kind("leanmed.tasks.classification")
        part = type(
            "Part",
            (),
            {"GRAPHS": graphs, "INPUTS": {"second": ("pixels",)}, "check": answer.check, "fits": answer.fits},
        )
        both.__dict__["answer"] = part
        monkeypatch.setitem(TASKS, "both", both)
        return "both"

    def test_each_is_opened_and_can_be_run(self, kind: str, tmp_path: Path) -> None:
        graph = positive_share_graph(TensorProto.UINT8)
        write_artifact(tmp_path / "a", made(task=kind), {"model": graph, "second": graph}, "# card\n")
        predictor = load(tmp_path / "a")
        pixels = np.uint8([[[0, 0, 0]], [[1, 1, 1]]])
        assert predictor.run("second", {"pixels": pixels})[0].tolist() == [0.5, 0.5]
        assert {path.name for path in (tmp_path / "a").glob("*.onnx")} == {"model.onnx", "second.onnx"}

    def test_one_that_is_missing_is_named(self, kind: str, tmp_path: Path, refused: Callable[..., Any]) -> None:
        write_artifact(tmp_path / "a", made(task=kind), {"model": positive_share_graph(TensorProto.UINT8)}, "# card\n")
        with refused(ArtifactError, "with the graphs model, second", "got ['model']"):
            load(tmp_path / "a")


def test_a_threshold_given_decides_and_one_that_fits_no_such_artifact_is_refused(
    tiny_artifact: Path, make_artifact: Callable[..., Path], refused: Callable[..., Any]
) -> None:
    pixels = np.full((40, 40, 3), 102, np.uint8)  # a probability of .4
    assert load(tiny_artifact).predict(pixels).label == "non-anemic"
    lower = load(tiny_artifact, threshold=0.4).predict(pixels)
    assert (lower.label, lower.threshold) == ("anemic", 0.4)
    with refused(ArtifactError, "from 0 to 1", "1.5"):
        load(tiny_artifact, threshold=1.5)
    three = make_artifact(labels=("a", "b", "c"), threshold=None)
    with refused(ArtifactError, "takes no threshold", "two labels only"):
        load(three, threshold=0.5)
