"""`leanmed quantize`, from an artifact and a data set on disk to an artifact and its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from made_artifacts import LABELS, made_artifact, made_manifest, write_selected
from PIL import Image

from detection_fixtures import SETTINGS, write_slices
from leanmed.audit.grouping import AUDIT
from leanmed.cli import main
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.outcome import GateError
from leanmed.data import content_hashes, read_records
from leanmed.errors import ArtifactError, DataError, OutputError
from leanmed.exporting.export import export_graph
from leanmed.files import sha256_file
from leanmed.manifest import Manifest
from leanmed.reading.images import read_image
from leanmed.runtime.artifact import read_artifact, write_artifact
from leanmed.runtime.predictor import Predictor, load
from leanmed.tasks.building import build_task
from leanmed.tasks.detection.answer import GRAPHS
from leanmed.tasks.detection.figures import iou
from leanmed.tasks.recipes import load_recipe

LENIENT = Options(max_drop=1.0, min_agreement=0.0)


def silent(line: str) -> None:
    """Where nobody watches."""


@pytest.fixture(scope="module")
def artifact(made_eyelids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_selected(tmp_path_factory.mktemp("quantize") / "artifact", made_eyelids)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained detector that claims to have been trained on slices of 20 patients, and those slices."""
    folder = tmp_path_factory.mktemp("detector")
    data = write_slices(folder / "slices")
    rng = np.random.default_rng(0)
    for path in sorted((data / "JPEGImages").iterdir()):  # noise, for an untrained network sees nothing in plain grey
        Image.fromarray(rng.integers(0, 255, (48, 64), np.uint8)).save(path)
    hashes = [content[:16] for content in content_hashes(read_records("voc", data))]
    small = ("model.backbone=mobilenetv2", "detector.deepest=8")
    recipe = load_recipe("nodules", [*SETTINGS, *small])
    task = build_task(recipe, ("nodule",), pretrained=False).eval()
    with torch.no_grad():  # scores about one half that differ from place to place
        for name, value in task.model.heads.named_parameters():
            value.mul_(10.0 if name.endswith("weight") else 0.0)
    origin = made_manifest().provenance.model_copy(
        update={
            "seen_images": tuple(hashes[:40]),
            "selected_images": tuple(hashes[30:40]),
            "recipe": recipe.model_dump(mode="json"),
        }
    )
    manifest = Manifest(name="made", graphs={}, provenance=origin, **task.manifest())
    graph = export_graph(task.graph().eval(), GRAPHS["model"])
    write_artifact(folder / "artifact", manifest, {"model": graph}, "# made (fp32)\n")
    return folder / "artifact", data


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """`run("quantize", ...)`: exit status, standard output and standard error."""

    def command(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leanmed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return command


@pytest.mark.parametrize("to", ["fp16", "w8", "int8", "int4"])
def test_an_artifact_becomes_another_one_with_a_report_beside_it(
    to: str, artifact: Path, made_eyelids: Path, tmp_path: Path
) -> None:
    out = tmp_path / to
    outcome = quantize_artifact(artifact, to, made_eyelids, out, LENIENT, tell=silent)
    made, source = read_artifact(out), read_artifact(artifact)
    manifest = made.manifest
    assert load(out).predict(made_eyelids / "images" / "00000.png").label in LABELS
    assert (manifest.precision, manifest.labels) == (to, source.manifest.labels)
    assert manifest.provenance.parents == (source.sha256,)
    assert made.card.startswith(f"# made ({to})\n\n## Compression\n")
    assert manifest.figures["auc"]["value"] == outcome.measured.after["auc"].value
    assert sorted(path.name for path in (tmp_path / f"{to}-report").iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize("to", ["fp16", "w8", "int8", "int4"])
def test_a_detector_is_compressed_from_pixels_to_boxes(to: str, detector: tuple[Path, Path], tmp_path: Path) -> None:
    source, data = detector
    once = replace(LENIENT, ladder=())
    outcome = quantize_artifact(source, to, data, tmp_path / to, once, calibration=8, tell=silent)
    image = data / "JPEGImages" / "01.png"
    before, after = (load(path).outputs(read_image(image)) for path in (source, tmp_path / to))
    share = {"fp16": 0.56, "w8": 0.45, "int8": 0.45, "int4": 0.36}[to]
    assert outcome.final.bytes < share * outcome.before_bytes
    assert outcome.measured.main_score == "ap50"
    assert after[0].shape[1] == 4
    assert before[1][:5].min() > 0.58, "farther from one half, a ruined network's answer, than what is allowed below"
    assert np.abs(before[1][:5] - after[1][:5]).max() < {"fp16": 0.005, "w8": 0.02, "int8": 0.03, "int4": 0.06}[to]
    assert iou(before[0][:1], after[0]).max() > 0.5
    heads = [row for row in outcome.layers if row.name.startswith("heads")]
    assert [row.activation_bits for row in heads] == [32, 32], "they give the answer"
    page = (tmp_path / f"{to}-report" / "report.html").read_text()
    assert "AP" in page
    assert "the anemia paper" not in page


def test_only_training_images_calibrate_and_only_new_ones_give_the_figures(
    artifact: Path, made_eyelids: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    seen: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        assert stage not in seen or seen[stage] == (done - 1, total) or stage in ("read", "index", "search", "compare")
        seen[stage] = done, total

    how: dict[str, Any] = {"calibration": 20, "tell": told.append, "progress": progress}
    outcome = quantize_artifact(artifact, "int8", made_eyelids, tmp_path / "a", LENIENT, **how)
    assert told[1].startswith("attempt 1 of at most 4: gptq")
    assert told[2].startswith("gptq: auc ")
    assert told[2].endswith(" bytes, passes")
    checked, tested = outcome.final.judged.images, outcome.tested
    attempt = "attempt 1: "
    assert [name for name in seen if name.startswith(attempt)] == [
        f"{attempt}ranges of activations",
        f"{attempt}inputs of layers",
        f"{attempt}rounding to 8 bits",
        f"{attempt}checking on other images",
    ]
    assert seen["calibration images"] == (20, 20)
    assert seen["answers of the float model"] == seen[f"{attempt}checking on other images"] == (checked, checked)
    assert tested is not None
    assert seen["testing the compressed model on new images"] == (tested.images, tested.images)
    assert all(done == total for done, total in seen.values())
    manifest = read_artifact(tmp_path / "a").manifest
    origin = manifest.provenance
    used = set(manifest.quantization["calibrated_on"])
    assert used <= set(origin.seen_images) - set(origin.selected_images)
    assert len(manifest.quantization["calibrated_on"]) == 20
    assert outcome.tested is not None
    assert outcome.tested.images == manifest.quantization["images"]
    assert outcome.final.judged.images + outcome.tested.images < 60 - 20
    assert manifest.quantization["measured_on"] == "images new to the artifact"


def test_what_loses_too_much_is_refused_and_only_the_report_is_written(
    artifact: Path, made_eyelids: Path, tmp_path: Path, refused: Callable[..., Any]
) -> None:
    with refused(GateError, "got gptq: ", "gptq, equalize", "only the report was written", "--max-drop"):
        quantize_artifact(artifact, "int8", made_eyelids, tmp_path / "a", Options(max_drop=-1.0), tell=silent)
    assert {path.name for path in tmp_path.iterdir()} == {"a-report", AUDIT}  # the groups of the data, for the next try
    report = json.loads((tmp_path / "a-report" / "report.json").read_text())
    assert report["outcomes"][0]["passed"] is False
    assert "refused" in (tmp_path / "a-report" / "report.html").read_text()


def test_the_command_line_prints_figures_and_sizes(
    run: Any, artifact: Path, made_eyelids: Path, tmp_path: Path
) -> None:
    arguments = ("quantize", artifact, "--to", "int8", "--data", made_eyelids, "--out", tmp_path / "a")
    status, out, _ = run(*arguments, "--max-drop", 1, "--min-agreement", 0)
    assert status == 0
    assert "training images calibrate" in out
    assert "\nauc " in out
    assert "\nagreement " in out
    assert "Research use only: not a medical device." in out
    made = read_artifact(tmp_path / "a")
    status, _, error = run(*arguments, "--max-drop", -1, "--overwrite")
    assert status == 2
    assert error.startswith("leanmed: expected int8 to cost at most -1 of auc")
    assert read_artifact(tmp_path / "a") == made
    passed = [
        json.loads((tmp_path / f"a{end}" / "report.json").read_text())["outcomes"][0]["passed"]
        for end in ("-report", "-refused-report")
    ]
    assert passed == [True, False], "the older artifact keeps its own report"
    smaller = [*arguments[:3], "fp16", *arguments[4:], "--max-drop", 1, "--min-agreement", 0]
    status, _, error = run(*smaller)
    assert (status, read_artifact(tmp_path / "a")) == (2, made)
    assert "but it holds an artifact; add --overwrite to replace it" in error
    assert run(*smaller, "--overwrite")[0] == 0
    assert read_artifact(tmp_path / "a").manifest.precision == "fp16"


def test_bad_requests_are_refused_before_any_work(
    artifact: Path, made_eyelids: Path, tmp_path: Path, refused: Callable[..., Any]
) -> None:
    with refused(DataError, "expected --to as one of fp16, w8, int8, int4, got 'int2'"):
        quantize_artifact(artifact, "int2", made_eyelids, tmp_path / "a", LENIENT)
    with refused(ArtifactError, "another folder", "still needed"):
        quantize_artifact(artifact, "int8", made_eyelids, artifact, LENIENT)
    with refused(OutputError, "new or empty"):
        quantize_artifact(artifact, "int8", made_eyelids, made_eyelids, LENIENT)
    with refused(ArtifactError, "expected an artifact, a folder with"):
        quantize_artifact(tmp_path, "int8", made_eyelids, tmp_path / "a", LENIENT)
    assert list(tmp_path.iterdir()) == []


def test_data_without_the_training_images_cannot_calibrate(
    artifact: Path, made_eyelids: Path, tmp_path: Path, refused: Callable[..., Any]
) -> None:
    data, seen = tmp_path / "data", set(read_artifact(artifact).manifest.provenance.seen_images)
    for record in read_records("folder", made_eyelids):
        if sha256_file(record.image)[:16] not in seen:
            (data / str(record.target)).mkdir(parents=True, exist_ok=True)
            (data / str(record.target) / record.image.name).symlink_to(record.image)
    with refused(DataError, "expected calibration images, got none"):
        quantize_artifact(artifact, "int8", data, tmp_path / "a", LENIENT, tell=silent)


def test_a_runtime_without_int4_is_told_of_unpacking(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]
) -> None:
    def older(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("opset 21 is not supported")

    packed, plain = made_artifact(precision="int4"), made_artifact()
    monkeypatch.setattr(onnxruntime, "InferenceSession", older)
    with refused(ArtifactError, "opset 21 is not supported", "newer onnxruntime", "--to int4 --unpack"):
        Predictor(packed)
    with pytest.raises(ArtifactError) as caught:
        Predictor(plain)
    assert "--unpack" not in str(caught.value)
