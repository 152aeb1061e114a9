from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from leanmed.data import content_hashes, read_records
from leanmed.errors import ExportError, RunError
from leanmed.evaluation.runs import fold_answers, fold_figures
from leanmed.export import export as module
from leanmed.export.export import OPSET, SHAPES, TOLERANCE, best_fold, compare, export, sample_images
from leanmed.files import write_json
from leanmed.runs import FOLD, SPLITS, Run, read_csv
from leanmed.runtime.artifact import Artifact
from leanmed.runtime.lines import read_lines, write_lines
from leanmed.runtime.predictor import load
from leanmed.tasks.building import load_task
from leanmed.tasks.classification.answer import apart
from leanmed.tasks.recipes import open_run
from training_fixtures import made_data, trained_run

EXPORTED = 0  # the fold, given by number: what the tests of one artifact are about


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_data(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "artifact"
    export(run, path, fold=EXPORTED)
    return path


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return load(folder).artifact


@pytest.fixture
def own_run(run: Run, tmp_path: Path) -> Run:
    """A copy to damage."""
    return open_run(Path(shutil.copytree(run.path, tmp_path / "own")))


def changed_facts(run: Run, fold: int, **changes: object) -> None:
    facts = run.fold(fold).facts
    write_json(run.folder(fold) / FOLD, facts | changes)


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "torchvision", "timm", "lightning", "onnx"):
    sys.modules[name] = None
import numpy as np, leanmed
predictor = leanmed.load(sys.argv[1])
print(json.dumps([predictor.outputs(np.load(path))[0].tolist() for path in sys.argv[2:]]))
"""


def test_the_artifact_answers_without_torch_as_the_model_does_for_every_shape(
    run: Run, folder: Path, data: Path, tmp_path: Path
) -> None:
    """Portrait, landscape, 20 x 20, 64 x 1000 and 12 megapixels, the last being 4000 x 3000."""
    images = list(sample_images(read_records("folder", data)[:1]))
    assert {image.shape[:2] for image in images} >= set(SHAPES)
    paths = [tmp_path / f"{k}.npy" for k in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    graph = load_task(run, EXPORTED).graph().eval()
    with torch.inference_mode():
        wanted = np.stack([graph(torch.from_numpy(image)).numpy() for image in images])
    assert np.abs(np.array(json.loads(result.stdout)) - wanted).max() <= TOLERANCE


def test_the_artifact_answers_as_the_fold_kept(run: Run, folder: Path, data: Path) -> None:
    predictor = load(folder)
    for name, kept in fold_answers(run, run.fold(EXPORTED), "test"):
        found = predictor.predict(data / name)
        assert (found.label, found.threshold) == (kept.label, kept.threshold)
        assert found.probability == pytest.approx(kept.probability, abs=TOLERANCE)


def test_the_graph_takes_bytes_of_any_size_and_gives_one_row_of_probabilities(artifact: Artifact) -> None:
    graph = onnx.load_from_string(artifact.graph)
    onnx.checker.check_model(graph)
    (pixels,), (answer,) = graph.graph.input, graph.graph.output
    assert (pixels.name, answer.name) == ("pixels", "probabilities")
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert all(size.dim_param and not size.dim_value for size in pixels.type.tensor_type.shape.dim)
    assert [size.dim_value for size in answer.type.tensor_type.shape.dim] == [2]
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == OPSET


def test_the_graph_carries_no_notes_and_no_paths_of_its_builder(artifact: Artifact) -> None:
    graph = onnx.load_from_string(artifact.graph)
    parts = [graph, graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.functions]
    assert not [part for part in parts if part.doc_string or part.metadata_props]
    assert not graph.graph.value_info
    traces = [
        b"site-packages",
        b".py",
        str(Path.home()).encode(),
        str(Path(module.__file__).parents[3]).encode(),
    ]
    assert not [trace for trace in traces if len(trace) > 1 and trace in artifact.graph]


def test_the_manifest_says_what_was_trained_and_how_good_it_is(run: Run, data: Path, artifact: Artifact) -> None:
    manifest, facts = artifact.manifest, run.fold(EXPORTED).facts["manifest"]
    assert manifest.labels == run.labels
    assert (manifest.threshold, manifest.temperature) == (facts["threshold"], facts["temperature"])
    assert manifest.provenance.fold == EXPORTED
    assert manifest.provenance.data_sha256 == run.facts["data_sha256"]
    wanted = fold_figures(run, read_records("folder", data), EXPORTED)
    assert manifest.figures["auc"]["value"] == wanted["auc"].value
    assert manifest.figures["auc"]["n"] == len(fold_answers(run, run.fold(EXPORTED), "test"))


def test_seen_images_are_those_trained_on_or_selected_by_in_that_fold_and_no_others(
    run: Run, data: Path, artifact: Artifact
) -> None:
    records = read_records("folder", data)
    digests = dict(zip((r.id for r in records), content_hashes(records), strict=True))
    parts = {digests[row["image"]][:16]: row[f"fold_{EXPORTED}"] for row in read_csv(run.path / SPLITS)}
    seen = artifact.manifest.provenance.seen_images
    assert set(seen) == {digest for digest, part in parts.items() if part in ("train", "validation")}
    assert len(seen) == len(set(seen)) == len(parts) - list(parts.values()).count("test")


@pytest.mark.parametrize("best", [0, 1])
def test_the_fold_with_the_best_validation_score_is_chosen_whatever_the_test_says(own_run: Run, best: int) -> None:
    for fold in (0, 1):
        changed_facts(own_run, fold, validation={"auc": 0.9 if fold == best else 0.8, "f1": 1 - 0.5 * fold})
    kept, other = own_run.answers(best, "test"), dict(zip(own_run.labels, reversed(own_run.labels), strict=True))
    truth = {row["image"]: row["label"] for row in read_csv(own_run.path / SPLITS)}
    write_lines(kept, [line | {"label": other[truth[line["input"]]]} for line in read_lines(kept)])  # all wrong now
    assert best_fold(own_run) == best


def test_a_graph_that_disagrees_is_refused_and_nothing_is_written(
    run: Run, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "export_graph", lambda network, outputs: artifact.graph)
    export(run, tmp_path / "same", fold=EXPORTED)
    with pytest.raises(ExportError, match=r"differs from the model by .*, more than 0\.0001; nothing was written"):
        export(run, tmp_path / "other", fold=1 - EXPORTED)
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_an_output_that_is_no_number_is_a_disagreement(run: Run, artifact: Artifact) -> None:
    task = load_task(run, EXPORTED)
    image = np.full((30, 40, 4), 128, np.uint8)
    graph = task.graph().eval()
    assert compare(graph, artifact.graph, [image], apart) <= TOLERANCE
    task.get_buffer("temperature").fill_(float("nan"))
    with pytest.raises(ExportError, match="on an image of 40 x 30 pixels"):
        compare(graph, artifact.graph, [image], apart)


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_the_run_does_not_have_is_refused(run: Run, tmp_path: Path, fold: int) -> None:
    with pytest.raises(RunError, match="fold"):
        export(run, tmp_path / "artifact", fold=fold)


def test_an_unfinished_run_is_refused(own_run: Run, tmp_path: Path) -> None:
    (own_run.folder(1) / FOLD).unlink()
    with pytest.raises(RunError, match=r"fold 1 .* is not finished"):
        export(own_run, tmp_path / "artifact")


def test_images_that_have_changed_since_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "own"))
    (own / "images" / "00000.png").write_bytes((own / "images" / "00001.png").read_bytes())
    with pytest.raises(RunError, match="was trained on, got others"):
        export(run, tmp_path / "artifact", data=own)
