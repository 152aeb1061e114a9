"""`leanmed reproduce anemia --quantization`, on a run whose folds are made networks."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from made_artifacts import made_manifest
from made_networks import made_network
from sklearn.metrics import roc_auc_score

from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_parts
from leanmed.compress.parts import Parts
from leanmed.compress.quantize import Quantized
from leanmed.errors import DataError
from leanmed.evaluation.runs import fold_answers, records_of
from leanmed.papers import quantization
from leanmed.papers.quantization import fold_parts, reproduce_quantization
from leanmed.runs import Run
from leanmed.runtime.artifact import Artifact, write_artifact

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


def test_every_fold_is_scored_on_its_own_test_part(reproduced: Path, finished_run: Run, made_eyelids: Path) -> None:
    (run,) = json.loads((reproduced / "quantization.json").read_text())["runs"].values()
    assert run["images"] == 60
    assert set(run["precisions"]) == {"fp32", "fp16", "int8", "int4"}
    for name, found in run["precisions"].items():
        assert found["pooled"]["accuracy"]["n"] == 60
        assert found["mean"]["auc"] == pytest.approx(mean_auc(finished_run, made_eyelids, reproduced, name))
    assert run["precisions"]["fp32"]["change"]["agreement"]["value"] == 1.0
    assert len(run["layers_of_fold_0"]["int8"]) == 8


def mean_auc(run: Run, data: Path, out: Path, precision: str) -> float:
    """The mean over folds of scikit-learn's AUC of the answers that were kept."""
    file, key = ("fp16", "float_answers") if precision == "fp32" else (precision, "answers")
    folds = []
    for fold in range(run.facts["folds"]):
        kept = json.loads((out / "quantized" / "audited-0" / f"fold-{fold}" / f"{file}.json").read_text())[key]
        truth = [record.target == "anemic" for record in fold_parts(run, records_of(run, data), fold).test]
        folds.append(roc_auc_score(truth, [anemic for _, anemic in kept]))
    return fmean(folds)


def test_the_folds_that_pass_are_counted(
    finished_run: Run, made_eyelids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fold 0 may lose all, and fold 1 would have to gain more than there is."""
    limits = iter([1.0] * 3 + [-1.0] * 3)

    def limited(artifact: Artifact, to: str, parts: Parts, options: Options, **more: Any) -> Quantized:
        return quantize_parts(artifact, to, parts, replace(options, max_drop=next(limits)), **more)

    monkeypatch.setattr(quantization, "quantize_parts", limited)
    once, out = replace(LENIENT, ladder=()), made_folder(finished_run, tmp_path)
    text = reproduce_quantization("anemia", made_eyelids, out, once, arms=["audited"], tell=silent)
    (run,) = json.loads((out / "quantization.json").read_text())["runs"].values()
    assert [run["precisions"][name]["passed"] for name in ("fp16", "int8", "int4")] == [[True, False]] * 3
    assert text.count("| 1 of 2 |") == 3


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
    rows = fold_answers(finished_run, finished_run.fold(1), "test")
    assert [record.id for record in parts.test] == sorted(name for name, _ in rows)
    sides = [{r.group for r in side} for side in (parts.training, parts.validation, parts.test)]
    assert all(not one & other for one, other in itertools.combinations(sides, 2))


@pytest.mark.parametrize(("name", "arms"), [("nodules", []), ("anemia", ["unknown"])])
def test_another_paper_or_protocol_is_refused(
    name: str, arms: list[str], tmp_path: Path, refused: Callable[..., Any]
) -> None:
    with refused(DataError, "--quantization with anemia", "paper, content, audited"):
        reproduce_quantization(name, tmp_path, tmp_path, LENIENT, arms=arms)
