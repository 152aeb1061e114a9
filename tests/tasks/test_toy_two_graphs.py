"""A kind whose answers take two graphs and may be prompted: is it bright where the points are, or in the middle?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from contracts.kind_contract import KindContract, groups_of
from leanmed.benchmark.profile import graph_runs, made_image, profile
from leanmed.cli import main
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.gate import answers
from leanmed.errors import ArtifactError, DataError, ExportError
from leanmed.evaluation.artifacts import evaluate_artifact
from leanmed.exporting.export import export
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.models.classifier import Classifier
from leanmed.models.familiarity import Tap, Watched
from leanmed.prompts import Prompts
from leanmed.records import Record
from leanmed.runtime.artifact import read_artifact, write_artifact
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks import TASKS
from leanmed.tasks.base import FurtherGraph, Named
from leanmed.tasks.classification import answer as labels_answer
from leanmed.tasks.classification.training import Classification, labels_of
from leanmed.tasks.kind import Kind, Outputs, RunGraph
from leanmed.tasks.recipes import check_recipe
from leanmed.training.train import train

LABELS = ("dark", "bright")
SIDE, SHARPNESS = 32, 600.0
RECIPE: dict[str, Any] = {
    "name": "brightness",
    "task": "pointing",
    "split": {"folds": 2, "validation": 0.25, "groups": "reader"},
    "model": {"weights": "none", "side": SIDE},
    "data": {"labels": list(LABELS)},
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-6},
    "evaluation": {"resamples": 100},
}
LEFT, MIDDLE, RIGHT = (5.0, 20.0), (30.0, 20.0), (55.0, 20.0)  # of images of 60 x 40 pixels, thirds of which differ
MIDDLE_OF_ALL = np.float32([[0.5, 0.5]])


class Network(nn.Module):
    """Maps whose first channel is the brightness, by weights that are set; the rest of them is random and unused."""

    resize = Classifier.resize

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.last = nn.Linear(8, 1)
        with torch.no_grad():
            for layer in (self.layers[0], self.layers[2]):
                layer.weight[0], layer.bias[0] = 0.0, 0.0
            self.layers[0].weight[0] = 1 / 3
            self.layers[2].weight[0, 0] = 1.0
            self.last.weight.zero_()
            self.last.weight[0, 0], self.last.bias[0] = 10.0, -5.0

    def maps(self, image: Tensor) -> Tensor:
        """(b, 4, side, side) in [0, 1] to (b, 8, side, side)."""
        found: Tensor = self.layers(image[:, :3])
        return found

    def at(self, maps: Tensor, places: Tensor, signs: Tensor) -> Tensor:
        """Maps (b, 8, side, side), places (n, 2) as shares of the sides and signs (n,) to logits (b, 1)."""
        steps = (torch.arange(self.side) + 0.5) / self.side
        near = (places[:, 1, None, None] - steps[:, None]) ** 2 + (places[:, 0, None, None] - steps) ** 2
        weights = (-SHARPNESS * near).flatten(1).softmax(1)
        logits = self.last(weights @ maps.flatten(2).transpose(1, 2))[..., 0]  # (b, n)
        return (logits * signs).mean(1, keepdim=True)

    def reveal(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(image)
        return self.at(maps, torch.from_numpy(MIDDLE_OF_ALL), torch.ones(1)), maps

    def forward(self, image: Tensor) -> Tensor:
        return self.reveal(image)[0]


class Pointing(Classification):
    """Bright or dark where it is asked."""

    def __init__(self, recipe: Any, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super(Classification, self).__init__()
        self.labels, self.binary, self.settings = labels, True, recipe
        self.model = Network(recipe.model.side)  # type: ignore[assignment]
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        return {"logits": self.reveal(inputs)["logits"][:, 0]}

    def watched(self) -> Watched:
        return Watched("model.layers", (Tap("model.layers.1"),))

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        image = inputs["image"]
        return super().reveal({"image": image / 255 if image.dtype == torch.uint8 else image})

    def graph(self) -> nn.Module:
        return PixelsToMaps(self)

    def further_graphs(self) -> Mapping[str, FurtherGraph]:
        points = torch.export.Dim("points", min=1, max=16)
        examples = [
            {"maps": torch.rand(8, SIDE, SIDE), "places": torch.rand(n, 2), "signs": torch.ones(n)} for n in (2, 1, 5)
        ]
        return {"head": FurtherGraph(MapsToLabel(self), examples, {"places": {0: points}, "signs": {0: points}})}

    def manifest(self) -> dict[str, Any]:
        return super().manifest() | {"task": "pointing"}


class PixelsToMaps(nn.Module):
    def __init__(self, task: Pointing) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixels: Tensor) -> Tensor:
        model = self.task.model
        return model.maps(model.resize(pixels)[None])[0]  # type: ignore[operator,no-any-return]


class MapsToLabel(nn.Module):
    def __init__(self, task: Pointing) -> None:
        super().__init__()
        self.task = task

    def forward(self, maps: Tensor, places: Tensor, signs: Tensor) -> Tensor:
        logits = self.task.model.at(maps[None], places, signs)  # type: ignore[operator]
        return self.task.probabilities(logits[:, 0])[0]


def finish(outputs: Outputs, size: tuple[int, int], prompts: Prompts | None, run: RunGraph) -> Outputs:
    """The label where the points are, those with the label 0 being where it is not; without points, in the middle."""
    places, signs = MIDDLE_OF_ALL, np.ones(1, np.float32)
    if prompts is not None:
        places = np.float32(prompts.points) / np.float32(size[::-1])
        signs = np.float32(prompts.labels) * 2 - 1
    return run("head", {"maps": outputs[0], "places": places, "signs": signs})


@pytest.fixture(scope="module", autouse=True)
def pointing() -> Iterator[Kind]:
    kind = Kind("leanmed.tasks.classification")
    graphs = {
        "GRAPHS": {"model": ("maps",), "head": ("probabilities",)},
        "INPUTS": {"head": ("maps", "places", "signs")},
    }
    kind.__dict__["answer"] = SimpleNamespace(**(vars(labels_answer) | graphs), finish=finish)
    kind.__dict__["training"] = SimpleNamespace(TASK=Pointing, labels_of=labels_of)
    known = dict(TASKS)
    TASKS.clear()
    TASKS.update({"pointing": kind, **known})  # the first, since its lines are like those of another kind
    yield kind
    del TASKS["pointing"]


def thirds(*levels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(40, 60, 3), a third of the width of each grey level."""
    return np.repeat(np.tile(np.repeat(np.uint8(levels), 20), (40, 1))[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images whose middle third is bright or dark."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = ["image,label,group"]
    for k in range(40):
        bright = k % 2
        middle = int(rng.integers(150, 250) if bright else rng.integers(5, 105))
        Image.fromarray(thirds(int(rng.integers(256)), middle, int(rng.integers(256)))).save(root / f"{k:02}.png")
        rows.append(f"{k:02}.png,{LABELS[bright]},p{k}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def artifact(pointing: Kind, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    run = train(check_recipe(RECIPE, "a test"), data, root / "run", tell=lambda line: None)
    export(run, root / "artifact", fold=0)
    return root / "artifact"


@pytest.fixture
def predictor(artifact: Path) -> Predictor:
    return load(artifact)


def test_both_graphs_are_written_and_named(artifact: Path) -> None:
    manifest = read_artifact(artifact).manifest
    assert list(manifest.graphs) == ["model", "head"]
    assert manifest.bytes == sum((artifact / f"{name}.onnx").stat().st_size for name in ("model", "head"))


def test_it_answers_without_a_prompt_and_with_points_of_both_labels(predictor: Predictor) -> None:
    image = thirds(20, 230, 20)
    assert predictor.predict(image).label == "bright"
    assert predictor.predict(image, Prompts((LEFT,))).label == "dark"
    assert predictor.predict(image, Prompts((MIDDLE,))).probability == pytest.approx(
        predictor.predict(image).probability, abs=1e-3
    )
    assert predictor.predict(image, Prompts((LEFT, MIDDLE, RIGHT))).label == "dark"
    assert predictor.predict(image, Prompts((LEFT, MIDDLE, RIGHT), (0, 1, 0))).label == "bright"


def test_a_second_prompt_costs_the_further_graph_alone(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run = predictor._run
    monkeypatch.setattr(predictor, "_run", lambda name, *more: (ran.append(name), run(name, *more))[1])
    looked = predictor.look(thirds(20, 230, 120))
    assert ran == ["model"]
    found = [looked.answer(Prompts((point,))) for point in (LEFT, MIDDLE)]
    assert [answer.label for answer in found] == ["dark", "bright"]
    assert looked.answer() == predictor.predict(thirds(20, 230, 120))
    assert ran == ["model", "head", "head", "head", "model", "head"]


def test_points_are_in_the_pixels_of_a_file_that_is_read_at_a_reduced_scale(artifact: Path, tmp_path: Path) -> None:
    made = read_artifact(artifact)
    about = made.manifest.input.model_copy(update={"reduced": True})
    write_artifact(tmp_path / "a", made.manifest.model_copy(update={"input": about}), made.graphs, "")
    Image.fromarray(thirds(20, 20, 230).repeat(10, axis=0).repeat(10, axis=1)).save(tmp_path / "large.png")
    predictor = load(tmp_path / "a")
    assert predictor.frame(tmp_path / "large.png").pixels.shape == (100, 150, 4)
    assert predictor.predict(tmp_path / "large.png", Prompts(((550.0, 200.0),))).label == "bright"
    assert predictor.predict(tmp_path / "large.png", Prompts(((140.0, 90.0),))).label == "dark"


def test_points_outside_the_image_cost_no_graph(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]
) -> None:
    monkeypatch.setattr(predictor, "run", None)
    with refused(DataError, "inside the image", "x from 0 to 60 and y from 0 to 40 pixels", "got (60, 20)"):
        predictor.predict(thirds(1, 2, 3), Prompts(((60.0, 20.0),)))


def test_it_is_compressed_by_its_first_graph_and_judged_by_what_the_second_makes_of_it(
    artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanmed.compress.int8_storage.FLOOR", 1)  # its head has eight weights
    options = Options(max_drop=0.5, min_agreement=0.5)
    outcome = quantize_artifact(artifact, "int8", data, tmp_path / "small", options, tell=lambda line: None)
    before, after = read_artifact(artifact), read_artifact(tmp_path / "small")
    head = onnx.load_model_from_string(after.graphs["head"]).graph
    assert [constant.data_type for constant in head.initializer].count(onnx.TensorProto.INT8) == 1
    assert after.graphs["model"] != before.graphs["model"]
    assert (outcome.before_bytes, outcome.final.bytes) == (before.manifest.bytes, after.manifest.bytes)
    assert outcome.measured.after["auc"].value == 1
    small = load(tmp_path / "small")
    assert [small.predict(thirds(20, 230, 20), Prompts((p,))).label for p in (LEFT, MIDDLE)] == ["dark", "bright"]
    images = [thirds(20, 230, 20)]
    (own,), (other,) = answers(before, images), answers(before, images, after.graphs)
    assert own[0].tolist() == load(artifact).outputs(images[0])[0].tolist()
    assert other[0].tolist() == small.outputs(images[0])[0].tolist()


def test_a_second_graph_that_does_not_bear_8_bits_keeps_16(
    artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
        found = onnx.ModelProto.FromString(model.SerializeToString())
        for constant in found.graph.initializer:
            value = onnx.numpy_helper.to_array(constant)
            if value.dtype == np.float32 and value.size >= 8:
                constant.CopyFrom(onnx.numpy_helper.from_array(-value, constant.name))
        return found, {}

    monkeypatch.setattr("leanmed.compress.precisions.store_int8", spoilt)
    options = Options(max_drop=0.1, min_agreement=0.5)
    outcome = quantize_artifact(artifact, "int8", data, tmp_path / "small", options, tell=lambda line: None)
    first, second = outcome.attempts[:2]
    assert (first.techniques, first.passed) == (("gptq",), False)
    assert (second.techniques, second.passed) == (("gptq", "fp16-beside"), True)
    assert outcome.final.techniques[-1] == "fp16-beside"
    small = load(tmp_path / "small")
    assert [small.predict(thirds(20, 230, 20), Prompts((p,))).label for p in (LEFT, MIDDLE)] == ["dark", "bright"]


def test_it_is_evaluated_without_prompts(predictor: Predictor, data: Path) -> None:
    report = evaluate_artifact(predictor, data)
    assert report.figures["accuracy"].value == 1
    assert report.figures["accuracy"].n == 20  # the fold's test part


def test_its_profile_counts_both_graphs(artifact: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanmed.benchmark.profile._child", lambda *about: None)  # where nobody knows this kind
    pixels = made_image(predictor.manifest.input)
    assert [name for name, _ in graph_runs(predictor, pixels)] == ["model", "head"]
    found = profile(str(artifact), repeats=3)
    # Two convolutions of 3 to 8 and 8 to 8 channels; one point's 1024 weights times 8 maps; and a layer of 8.
    assert found["flops"] == 2 * (SIDE**2 * (3 * 8 + 8 * 8) + SIDE**2 * 8 + 8)
    assert found["bytes"] == predictor.manifest.bytes
    assert found["how"]["bytes"] == "the 2 graphs' files"


def test_a_further_graph_that_disagrees_with_its_module_is_refused(
    pointing: Kind, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]
) -> None:
    from leanmed.exporting.export import compare_further, export_further
    from leanmed.tasks.building import build_task

    task = build_task(check_recipe(RECIPE, "a test"), LABELS).eval()
    further, (inputs, outputs) = task.further_graphs()["head"], (pointing.inputs["head"], ("probabilities",))
    exported = export_further(further, inputs, outputs)
    compare_further("head", further, exported, inputs)
    task.decide_by(3.0, 0.5)
    with refused(ExportError, "the graph head differs from its model by", "places (2, 2)", "nothing was written"):
        compare_further("head", further, exported, inputs)


def test_a_further_graph_of_other_inputs_is_refused(
    artifact: Path, tmp_path: Path, pointing: Kind, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]
) -> None:
    monkeypatch.setattr(pointing.answer, "INPUTS", {"head": ("maps", "places")})
    with refused(ArtifactError, "expected the graph head to take maps, places, got maps, places, signs; export it"):
        load(artifact)


def test_the_command_line_takes_points(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> tuple[int, str]:
        words = ["leanmed", "predict", artifact, tmp_path / "a.png", "--out", tmp_path / "a.jsonl", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    Image.fromarray(thirds(20, 230, 20)).save(tmp_path / "a.png")
    status, said = run("--point", "5,20", "--point", "30,40", "--label", "0", "--label", "1")
    assert (status, said.count("\n")) == (2, 1)
    assert (
        "expected points and boxes inside the image, with x from 0 to 60 and y from 0 to 40 pixels, got (30, 40)"
        in said
    )
    assert not (tmp_path / "a.jsonl").exists()
    assert run("--point", "5,20", "--point", "30,20", "--label", "0", "--label", "1")[0] == 0
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert line["label"] == "bright"
    assert line["prompts"] == {"points": [[5.0, 20.0], [30.0, 20.0]], "labels": [0, 1], "box": None}


class TestPointing(KindContract):
    name = "pointing"
    wrong_labels = ("one",)

    @pytest.fixture
    def manifest(self) -> Manifest:
        origin = Provenance(leanmed="0", data_sha256="0" * 64, seed=0, protocol="grouped", fold=0)
        return Manifest(
            name="toy",
            task="pointing",
            labels=LABELS,
            input=Input(side=SIDE),
            threshold=0.5,
            temperature=1.0,
            main_score="auc",
            graphs={},
            provenance=origin,
        )

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [[np.float32([0.99 - k / 20, 0.01 + k / 20])] for k in range(20)]

    @pytest.fixture
    def others(self, outputs: list[Outputs]) -> list[Outputs]:
        return [[own[0][::-1]] if k % 3 == 0 else own for k, own in enumerate(outputs)]

    @pytest.fixture
    def records(self) -> list[Record]:
        return groups_of([LABELS[(k > 10) != (k % 8 == 7)] for k in range(20)])

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.float32([1, 0])]
