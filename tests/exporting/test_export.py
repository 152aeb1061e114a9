from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from leanmed.audit.traces import Traces
from leanmed.data import content_hashes, read_pixels, read_records
from leanmed.errors import ExportError, OutputError, RunError
from leanmed.evaluation import runs as runs_module
from leanmed.evaluation.runs import evaluate_run, fold_answers, fold_figures, split_records
from leanmed.exporting import export as module
from leanmed.exporting.export import (
    NOT_WATCHED,
    OPSET,
    SHAPES,
    TOLERANCE,
    _apart,
    compare,
    export,
    sample_images,
    torch_graphs,
)
from leanmed.files import write_json
from leanmed.runs import CALIBRATION, FOLD, HISTORY, MODEL, SPLITS, Run, read_csv
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import load, open_graphs
from leanmed.tasks import TASKS
from leanmed.tasks.building import load_task
from leanmed.tasks.recipes import open_run
from leanmed.training.fit import refit
from leanmed.training.loop import Loop
from training_fixtures import made_data, silent, trained_run, weights

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


@pytest.fixture(scope="module")
def refitted(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What is exported when nothing else is asked for, and what was told."""
    told: list[str] = []
    path = tmp_path_factory.mktemp("refit") / "artifact"
    export(run, path, tell=told.append)
    return path, told


def test_by_default_a_model_of_all_images_is_trained_for_the_median_epoch_of_the_folds(
    run: Run, data: Path, refitted: tuple[Path, list[str]]
) -> None:
    path, told = refitted
    chosen = [fold.facts["best_epoch"] + 1 for fold in run.folds()]
    epochs = round(statistics.median(chosen))
    history = read_csv(run.folder(None) / HISTORY)
    assert [int(row["epoch"]) for row in history] == list(range(epochs))
    assert run.refit()["images"] == {"train": 40}
    assert f"training on all 40 images for {epochs} epoch(s)" in told[0]
    origin = load(path).manifest.provenance
    assert (origin.made, origin.fold) == ("refit", None)
    assert set(origin.seen_images) == {digest[:16] for digest in content_hashes(read_records("folder", data))}
    assert origin.selected_images == ()
    assert not list(run.folder(None).glob("*.ckpt"))


def test_its_figures_are_the_cross_validated_ones_and_it_is_decided_by_all_folds_answers(
    run: Run, refitted: tuple[Path, list[str]]
) -> None:
    manifest, report = load(refitted[0]).manifest, evaluate_run(run)
    assert manifest.figures_of == "folds"
    assert {name: figure["value"] for name, figure in manifest.figures.items()} == {
        name: figure.value for name, figure in report.figures.items()
    }
    assert manifest.threshold == run.calibration["threshold"]
    assert manifest.temperature == pytest.approx(run.calibration["value"])
    assert manifest.threshold_rule == "f1"


def test_its_weights_are_those_of_no_fold_and_its_graph_gives_what_it_gives(
    run: Run, data: Path, refitted: tuple[Path, list[str]]
) -> None:
    predictor, task = load(refitted[0]), load_task(run, None)
    mine = weights(run, None)
    assert not any(all(torch.equal(mine[k], weights(run, fold)[k]) for k in mine) for fold in (0, 1))
    (one, *_) = read_records("folder", data)
    pixels = np.ascontiguousarray(read_pixels(one))
    with torch.inference_mode():
        wanted = task.graph()(torch.from_numpy(pixels)).numpy()
    assert TASKS["classification"].answer.apart([wanted], predictor.outputs(pixels)) <= TOLERANCE


def test_a_second_export_trains_nothing(run: Run, refitted: tuple[Path, list[str]], tmp_path: Path) -> None:
    trained = (run.folder(None) / MODEL).stat().st_mtime_ns
    told: list[str] = []
    again = export(run, tmp_path / "again", tell=told.append)
    assert told == [NOT_WATCHED], "fifteen training images are too few to tell what is familiar"
    assert again.manifest.familiar is None
    assert "it cannot say that an image is of another kind" in again.card
    assert (run.folder(None) / MODEL).stat().st_mtime_ns == trained
    assert again.graph == load(refitted[0]).artifact.graph


def test_a_training_on_all_images_that_was_killed_goes_on_and_ends_as_an_unbroken_one(
    run: Run, own_run: Run, data: Path, refitted: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kept in own_run.folder(None).iterdir() if own_run.folder(None).is_dir() else []:
        kept.unlink() if kept.is_file() else shutil.rmtree(kept)
    step, died = Loop.training_step, []

    def mortal(loop: Loop, batch: Any, number: int) -> Any:
        if loop.current_epoch == 1 and number == 2 and not died:
            died.append(number)
            raise KeyboardInterrupt
        return step(loop, batch, number)

    monkeypatch.setattr(Loop, "training_step", mortal)
    records = split_records(own_run, read_records("folder", data))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        refit(own_run, records, tell=silent)
    assert died
    assert not own_run.done(None)
    refit(own_run, records, tell=silent)
    assert all(torch.equal(value, weights(run, None)[name]) for name, value in weights(own_run, None).items())
    assert read_csv(own_run.folder(None) / HISTORY) == read_csv(run.folder(None) / HISTORY)


def test_a_run_whose_folds_an_older_version_calibrated_has_no_model_of_all_images(own_run: Run, tmp_path: Path) -> None:
    shutil.rmtree(own_run.folder(None), ignore_errors=True)
    (own_run.path / CALIBRATION).unlink()
    for fold in (0, 1):
        own_run.uncalibrated(fold, "test").unlink()
    for how in ({}, {"ensemble": True}, {"fold": 0, "threshold": 0.5}):
        with pytest.raises((RunError, ExportError), match="of an earlier version"):
            export(own_run, tmp_path / "artifact", tell=silent, **how)  # type: ignore[arg-type]
    export(own_run, tmp_path / "artifact", fold=0)


def test_the_ensemble_gives_the_mean_of_the_folds_probabilities(run: Run, data: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "ensemble", ensemble=True)
    predictor = load(tmp_path / "ensemble")
    assert predictor.manifest.provenance.made == "ensemble"
    assert predictor.manifest.figures_of == "folds"
    pixels = np.ascontiguousarray(read_pixels(read_records("folder", data)[3]))
    said = []
    for fold in (0, 1):
        task = load_task(run, fold)
        task.decide_by(run.calibration["value"], run.calibration["threshold"])
        with torch.inference_mode():
            said.append(task.graph()(torch.from_numpy(pixels)).numpy())
    assert said[0] != pytest.approx(said[1], abs=1e-4)
    assert predictor.outputs(pixels)[0] == pytest.approx(np.mean(said, axis=0), abs=1e-5)


def test_a_threshold_given_as_a_number_decides_and_its_figures_are_worked_out_anew(run: Run, tmp_path: Path) -> None:
    manifest = export(run, tmp_path / "all", fold=EXPORTED, threshold=0.0).manifest
    assert (manifest.threshold, manifest.threshold_rule) == (0.0, "given")
    assert manifest.figures["recall"]["value"] == 1.0
    assert manifest.figures["specificity"]["value"] == 0.0
    assert "that was given as a number" in load(tmp_path / "all").artifact.card
    none = export(run, tmp_path / "none", threshold=1.0, tell=silent).manifest
    assert none.figures["recall"]["value"] == 0.0
    assert none.figures["auc"] == export(run, tmp_path / "as it is", tell=silent).manifest.figures["auc"]


def test_a_threshold_chosen_by_a_rule_is_chosen_on_validation_answers(run: Run, data: Path, tmp_path: Path) -> None:
    manifest = export(run, tmp_path / "artifact", threshold="sensitivity:1", tell=silent).manifest
    assert manifest.threshold_rule == "sensitivity:1"
    positive = [
        answer.probability
        for fold in run.folds()
        for name, answer in fold_answers(run, fold, "validation")
        if name in {r.id for r in read_records("folder", data) if r.label == run.labels[1]}
    ]
    assert manifest.threshold is not None
    assert manifest.threshold <= min(positive) + 0.05  # the folds' own temperatures are near that of all


def test_a_threshold_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = module.rules_of(run, split_records(run, read_records("folder", Path(run.facts["data"]))))
    several = replace(rules, whole=(rules.whole[0], None))
    monkeypatch.setattr(module, "rules_of", lambda *arguments: several)  # as of three labels
    monkeypatch.setattr(module, "refit", None)
    with pytest.raises(ExportError, match="of which the likeliest is answered; leave it out"):
        export(run, tmp_path / "artifact", threshold=0.3)


def test_one_fold_and_all_of_them_are_not_exported_at_once(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="leave one out"):
        export(run, tmp_path / "artifact", fold=0, ensemble=True)


def test_an_artifact_keeps_traces_of_the_images_that_made_it_if_copies_were_looked_for(
    run: Run, artifact: Artifact, tmp_path: Path
) -> None:
    assert artifact.traces == b""  # its run was made with groups: reader
    split = run.recipe.split.model_copy(update={"groups": "audit"})
    audited = replace(run, recipe=run.recipe.model_copy(update={"split": split}))
    export(audited, tmp_path / "artifact", fold=EXPORTED)
    kept = load(tmp_path / "artifact").artifact
    assert len(Traces.from_bytes(kept.traces).counts) == len(kept.manifest.provenance.seen_images)
    assert "What it keeps of its training images" in kept.card


def test_an_export_reads_the_data_set_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    counted = runs_module.content_hashes
    monkeypatch.setattr(runs_module, "content_hashes", lambda records: (seen.append(len(records)), counted(records))[1])
    export(run, tmp_path / "artifact", fold=EXPORTED)
    assert seen == [40]


def test_a_graph_that_disagrees_is_refused_and_nothing_is_written(
    run: Run, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "export_graph", lambda network, outputs, dtype: artifact.graph)
    export(run, tmp_path / "same", fold=EXPORTED)
    with pytest.raises(ExportError, match=r"differs from the model by .*, more than 0\.0001; nothing was written"):
        export(run, tmp_path / "other", fold=1 - EXPORTED)
    with pytest.raises(ExportError, match="nothing was written"):
        export(run, tmp_path / "same", fold=1 - EXPORTED, overwrite=True)
    with pytest.raises(OutputError, match="but it holds an artifact; add --overwrite to replace it"):
        export(run, tmp_path / "same", fold=EXPORTED)
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
    before = read_artifact(tmp_path / "same")
    assert before.manifest.provenance.fold == EXPORTED
    changed = export(run, tmp_path / "same", fold=EXPORTED, threshold=0.25, overwrite=True)
    assert read_artifact(tmp_path / "same") == changed != before


def test_an_output_that_is_no_number_is_a_disagreement(run: Run, artifact: Artifact) -> None:
    task = load_task(run, EXPORTED)
    image = np.full((30, 40, 4), 128, np.uint8)
    kind = TASKS["classification"]
    both = torch_graphs(task.graph().eval(), {}, kind), open_graphs(artifact.graphs)
    assert compare(*both, [image], kind) <= TOLERANCE
    task.get_buffer("temperature").fill_(float("nan"))
    with pytest.raises(ExportError, match="on an image of 40 x 30 pixels"):
        compare(*both, [image], kind)


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


def test_whole_numbers_may_be_rounded_to_either_side_and_do_not_wrap() -> None:
    one, other = np.array([0, 10], np.uint8), np.array([1, 9], np.uint8)
    assert _apart(one, other) == 0
    assert _apart(one, np.array([0, 15], np.uint8)) == pytest.approx(4 / 10)
    assert _apart(np.array([0.5]), np.array([0.25])) == 0.25
    assert not _apart(np.array([np.nan]), np.array([0.0])) <= 1
