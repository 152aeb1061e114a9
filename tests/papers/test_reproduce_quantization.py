"""`leanmed reproduce anemia --quantization`, on a run whose folds are made networks."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_artifacts import made_manifest
from made_networks import made_network

from leanmed.compress.quantize import Options
from leanmed.errors import DataError
from leanmed.evaluation.runs import records_of
from leanmed.papers.quantization import fold_parts, reproduce_quantization
from leanmed.runs import Run
from leanmed.runtime.artifact import write_artifact

LENIENT = Options(max_drop=1.0, min_agreement=0.0)


def silent(line: str) -> None:
    """Where nobody watches."""


def made_folder(run: Run, out: Path) -> Path:
    """Where the run is trained and exported already."""
    shutil.copytree(run.path, out / "runs" / "audited-0")
    for fold in range(run.facts["folds"]):
        folder = out / "quantized" / "audited-0" / f"fold-{fold}" / "fp32"
        write_artifact(folder, made_manifest(), {"model": made_network(seed=fold)}, "# made (fp32)\n")
    return out


@pytest.fixture(scope="module")
def reproduced(finished_run: Run, made_eyelids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = made_folder(finished_run, tmp_path_factory.mktemp("reproduced"))
    reproduce_quantization("anemia", made_eyelids, out, LENIENT, arms=["audited"], tell=silent)
    return out


def test_every_fold_is_scored_on_its_own_test_part(reproduced: Path) -> None:
    (run,) = json.loads((reproduced / "quantization.json").read_text())["runs"].values()
    assert run["images"] == 60
    assert set(run["precisions"]) == {"fp32", "fp16", "int8", "int4"}
    for name, found in run["precisions"].items():
        assert found["pooled"]["accuracy"]["n"] == 60
        assert 0 <= found["mean"]["auc"] <= 1
        assert (found["change"]["agreement"]["value"] == 1.0) or name != "fp32"
    assert run["precisions"]["int4"]["passed"] == [True, True]
    assert len(run["layers_of_fold_0"]["int8"]) == 8


def test_the_tables_stand_beside_the_papers(reproduced: Path) -> None:
    text = (reproduced / "quantization.md").read_text()
    assert text.startswith("Research use only.")
    assert "| printed: INT4 | 2.3136 | 0.4313 | 0.2000 | 0.0100 | 0.0196 | 0.6387 | 17.75 | 49.5 |" in text
    assert "| audited-0: INT4 |" in text
    assert "| INT4 | 17.75 | 17.76 |" in text
    assert "| stem |" in text


def test_what_is_there_is_not_made_again(reproduced: Path, made_eyelids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((reproduced / "quantization.json").read_text())["runs"]
    monkeypatch.setattr("leanmed.papers.quantization.quantize_parts", None)
    reproduce_quantization("anemia", made_eyelids, reproduced, LENIENT, arms=["audited"], tell=silent)
    assert json.loads((reproduced / "quantization.json").read_text())["runs"] == before


def test_the_parts_of_a_fold_are_those_of_its_split(finished_run: Run, made_eyelids: Path) -> None:
    records = records_of(finished_run, made_eyelids)
    parts = fold_parts(finished_run, records, 1)
    rows = finished_run.fold(1).part("test")
    assert [record.id for record in parts.test] == sorted(row["image"] for row in rows)
    sides = [{r.group for r in side} for side in (parts.training, parts.validation, parts.test)]
    assert all(not one & other for one, other in itertools.combinations(sides, 2))


@pytest.mark.parametrize(("name", "arms"), [("nodules", []), ("anemia", ["unknown"])])
def test_another_paper_or_protocol_is_refused(
    name: str, arms: list[str], tmp_path: Path, refused: Callable[..., Any]
) -> None:
    with refused(DataError, "--quantization with anemia", "paper, content, audited"):
        reproduce_quantization(name, tmp_path, tmp_path, LENIENT, arms=arms)
