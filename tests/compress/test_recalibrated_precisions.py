"""The new end of a graph goes onto weights in any precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_artifacts import LABELS, made_artifact, made_gate, made_manifest
from made_networks import made_images
from PIL import Image

from leanmed.compress.bench import Options
from leanmed.compress.quantize import quantize
from leanmed.exporting.graph import parse, recalibrated
from leanmed.exporting.recalibrate import recalibrate
from leanmed.figures.recalibration import LEAST, Recalibration
from leanmed.runtime.artifact import read_artifact, write_artifact
from leanmed.runtime.predictor import load, open_session
from made_hospitals import origin_of

ARTIFACT = made_artifact()


def graph_in(precision: Any) -> bytes:
    if precision == "fp32":
        return ARTIFACT.graph
    return quantize(ARTIFACT, precision, made_images(16), made_gate(ARTIFACT), Options(1.0, 0.0)).graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_the_end_of_a_graph_in_any_precision_is_recalibrated(precision: str) -> None:
    graph, found = graph_in(precision), Recalibration(0.4, (0.0, -1.2))
    changed = recalibrated(parse(graph), "probabilities", found.slope, found.intercepts, LEAST).SerializeToString()
    before, after = (open_session(own) for own in (graph, changed))
    for pixels in made_images(8, seed=3):
        (old,), (new,) = (own.run(None, {"pixels": pixels}) for own in (before, after))
        assert new == pytest.approx(found.applied(old[None])[0], abs=1e-6)
    assert [entry.name for entry in after.get_outputs()] == ["probabilities"]
    assert len(changed) < len(graph) + 2000


def test_an_int8_artifact_is_recalibrated(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["image,label,group"]
    manifest = made_manifest(precision="int8", provenance=origin_of(), threshold_rule="f1")
    write_artifact(tmp_path / "int8", manifest, {"model": graph_in("int8")}, "# made (int8)\n")
    predictor = load(tmp_path / "int8")
    for k, pixels in enumerate(made_images(60, seed=5)):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{LABELS[int(rng.random() < 0.5 * predictor.predict(pixels).probability)]},p{k}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    recalibrate(tmp_path / "int8", tmp_path, tmp_path / "new")
    new = read_artifact(tmp_path / "new").manifest
    assert new.precision == "int8"
    assert new.recalibration["intercepts"][LABELS[1]] < 0
    found = Recalibration(new.recalibration["slope"], tuple(new.recalibration["intercepts"].values()))
    for k in range(0, 60, 7):
        own = predictor.predict(tmp_path / f"{k}.png").probability
        wanted = found.applied(np.array([[1 - own, own]]))[0, 1]
        assert load(tmp_path / "new").predict(tmp_path / f"{k}.png").probability == pytest.approx(wanted, abs=1e-5)
