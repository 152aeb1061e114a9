"""What an artifact that tells how familiar an image looks changes for whoever predicts, and what an older one does not.

The graph of these tests says that an image is as familiar as it is green: white green is 1.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import leanmed
from artifact_fixtures import mean_red_graph
from leanmed.cli import main
from leanmed.errors import ArtifactError, DataError, RunError, UnfamiliarInput
from leanmed.manifest import Familiar
from leanmed.runtime.batch import predict_file
from leanmed.runtime.predictor import open_graphs

ABOUT = Familiar(threshold=0.1, images=100, bytes=1000)
RED, GREENISH = (204, 0, 0), (204, 204, 0)


def green_graph(times: float = 1 / 255) -> bytes:
    """The graph of the mean red with a second output: the mean green, so many times."""
    model = onnx.load_model_from_string(mean_red_graph())
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([1]), "second"), numpy_helper.from_array(np.float32([times]), "times")]
    )
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["means", "second"], ["green"]),
            helper.make_node("Mul", ["green", "times"], ["familiar"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("familiar", TensorProto.FLOAT, [1]))
    return bytes(model.SerializeToString())


@pytest.fixture
def artifact(make_artifact: Callable[..., Path]) -> Path:
    return make_artifact("familiar", green_graph(), familiar=ABOUT)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two familiar pictures, one that is not, and an empty file."""
    colours = {"a": GREENISH, "b": RED, "c": GREENISH}
    for name, colour in colours.items():
        Image.fromarray(np.full((9, 9, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").touch()
    return [tmp_path / f"{name}.png" for name in "abcd"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_answer_says_how_familiar_its_image_looks(artifact: Path, images: list[Path]) -> None:
    predictor = leanmed.load(artifact)
    found = [predictor.predict(path) for path in images[:2]]
    assert [answer.familiar for answer in found] == pytest.approx([0.8, 0.0])
    assert [answer.probability for answer in found] == pytest.approx([0.8, 0.8]), "the answer is what it was"
    assert [answer.as_json()["familiar"] for answer in found] == [answer.familiar for answer in found]
    assert predictor.look(images[0]).answer() == found[0]


def test_of_an_older_artifact_it_is_not_known(tiny_artifact: Path, images: list[Path], tmp_path: Path) -> None:
    predictor = leanmed.load(tiny_artifact)
    assert predictor.predict(images[1]).familiar is None
    (line,) = lines(predict_file(predictor, images[1:2], tmp_path / "a.jsonl").path)
    assert line["familiar"] is None
    assert "remark" not in line
    with pytest.raises(ArtifactError, match="expected an artifact that tells how familiar an image looks"):
        leanmed.load(tiny_artifact, refuse_unfamiliar=True)


def test_below_the_threshold_a_line_has_a_remark_and_the_outcome_names_it(
    artifact: Path, images: list[Path], tmp_path: Path
) -> None:
    found = predict_file(leanmed.load(artifact), images, tmp_path / "a.jsonl", workers=2)
    assert (found.answered, found.unfamiliar) == (3, (str(images[1]),))
    first, second, third, fourth = lines(found.path)
    assert "unlike those that the model was trained on (familiar 0.000, below 0.1)" in second["remark"]
    assert second["label"] == first["label"] == "anemic"
    assert not any("remark" in line for line in (first, third, fourth))


def test_refused_it_has_a_reason_in_place_of_an_answer(artifact: Path, images: list[Path], tmp_path: Path) -> None:
    predictor = leanmed.load(artifact, refuse_unfamiliar=True)
    with pytest.raises(UnfamiliarInput, match="refused: This image looks unlike") as caught:
        predictor.predict(images[1])
    assert caught.value.familiar == 0
    found = predict_file(predictor, images, tmp_path / "a.jsonl")
    assert [name for name, _ in found.failed] == [str(images[1]), str(images[3])]
    assert found.unfamiliar == ()
    refused = lines(found.path)[1]
    assert set(refused) == {"input", "familiar", "error"}
    assert predictor.predict(images[0]).familiar == pytest.approx(0.8)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("first", [True, False])
def test_going_on_with_the_other_choice_is_refused(
    artifact: Path, images: list[Path], tmp_path: Path, ending: str, first: bool, refused: Callable[..., Any]
) -> None:
    one, other = (leanmed.load(artifact, refuse_unfamiliar=choice) for choice in (first, not first))
    out = tmp_path / f"a.{ending}"
    whole = predict_file(one, images, out)
    assert predict_file(one, images, out, resume=True) == whole
    with refused(RunError, "another choice of --refuse-unfamiliar"):
        predict_file(other, images, out, resume=True)


def test_a_table_has_a_column_for_it(artifact: Path, images: list[Path], tmp_path: Path) -> None:
    with predict_file(leanmed.load(artifact), images, tmp_path / "a.csv").path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["familiar"] for row in rows] == ["0.8", "0.0", "0.8", ""]
    assert [bool(row["remark"]) for row in rows] == [False, True, False, False]


def test_the_command_says_how_many_look_unfamiliar_and_refuses_them_with_status_1(
    artifact: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def run(*more: str) -> tuple[int, str]:
        arguments = ["predict", artifact, *images[:3], "--out", tmp_path / f"{len(more)}.jsonl", *more]
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), re.sub(r"\s+", " ", capsys.readouterr().err)

    status, told = run()
    assert status == 0
    assert "1 of 3 look unlike the images that the model was trained on" in told
    assert "b.png" in told
    status, told = run("--refuse-unfamiliar")
    assert status == 1
    assert "2 answered" in told
    assert "1 of 3 inputs failed" in told
    assert f"failed: {images[1]}: refused: This image looks unlike" in told


def test_a_share_that_is_none_is_refused(make_artifact: Callable[..., Path], images: list[Path]) -> None:
    predictor = leanmed.load(make_artifact("unsound", green_graph(times=1.0), familiar=ABOUT))
    with pytest.raises(DataError, match="expected `familiar` from 0 to 1, got 204"):
        predictor.predict(images[0])


def test_graph_and_manifest_must_agree_on_it(make_artifact: Callable[..., Path]) -> None:
    with pytest.raises(ArtifactError, match="to give probabilities, familiar, got probabilities; export it again"):
        leanmed.load(make_artifact("lacking", familiar=ABOUT))
    with pytest.raises(ArtifactError, match="to give probabilities, got probabilities, familiar; export it again"):
        leanmed.load(make_artifact("untold", green_graph()))


def test_whoever_judges_outputs_does_not_see_it(artifact: Path) -> None:
    pixels = np.full((9, 9, 3), RED, np.uint8)
    predictor = leanmed.load(artifact)
    run = open_graphs(predictor.artifact.graphs)
    (outputs,) = run("model", {"pixels": pixels})
    assert outputs == pytest.approx(predictor.outputs(pixels)[0])
