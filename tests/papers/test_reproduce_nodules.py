from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection_fixtures import SETTINGS, constant_graph, planted, write_slices
from leanmed.errors import DataError
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.papers.nodules import measure_artifacts, table_3
from leanmed.papers.printed import NODULES
from leanmed.papers.reproduce import reproduce
from leanmed.runtime.artifact import write_artifact

ARMS = ["mobilenetv1", "mobilenetv2"]
RECIPE = {
    "name": "nodules",
    "data": {"dataset": "voc"},
    "split": {"groups": "reader"},
    "evaluation": {"resamples": 100},
}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones with planted answers: MobileNetV1 misses every fourth slice's nodule, MobileNetV2 every other."""
    base = tmp_path_factory.mktemp("reproduction")
    slices = write_slices(base / "slices")
    for name, precision in (("mobilenetv1", "fp32"), ("mobilenetv1-int8", "int8")):
        write_detector(base / "artifacts" / name, precision=precision)
    with planted(missed={"mobilenetv2": 2}):
        reproduce(
            "nodules",
            slices,
            base / "out",
            settings=SETTINGS,
            arms=ARMS,
            artifacts=base / "artifacts",
            tell=lambda line: None,
        )
    return base / "out"


def write_detector(path: Path, **changes: str) -> None:
    origin = Provenance(leanmed="0", data_sha256="0" * 64, seed=0, protocol="grouped", fold=0, recipe=RECIPE)
    manifest = Manifest(
        name="constant",
        task="detection",
        labels=("nodule",),
        input=Input(side=64, kind="slice", slices=1),
        threshold=0.5,
        temperature=1.0,
        main_score="ap50",
        graphs={},
        provenance=origin,
        **changes,
    )
    write_artifact(path, manifest, {"model": constant_graph()}, "# card\n")


def test_table_3_recomputed_has_its_headings_the_other_way_round() -> None:
    """Counts and rounding are the paper's; its columns come out right once they are exchanged."""
    right = table_3(NODULES.printed)
    for name, printed in NODULES.printed.items():
        assert right[name]["recall"] == pytest.approx(printed["precision"], abs=0.008)
        assert right[name]["precision"] == pytest.approx(printed["recall"], abs=0.006)
        assert right[name]["f1"] == pytest.approx(printed["f1"], abs=0.006)
        assert right[name]["boxes"] == 706


def test_the_nodules_of_one_test_set_differ_from_row_to_row() -> None:
    right = table_3(NODULES.printed)
    assert sorted(row["nodules"] for row in right.values()) == [277, 329, 377, 423, 434]
    assert right["mobilenetv1"]["share_of_all_nodules"] == pytest.approx(270 / 434)


def test_each_backbone_has_figures_counts_and_its_size(reproduced: Path) -> None:
    found = json.loads((reproduced / "nodules.json").read_text())
    assert list(found["arms"]) == ARMS
    first = found["arms"]["mobilenetv1"]["seeds"]["0"]
    assert first["metrics"]["recall"]["value"] == pytest.approx(30 / 40)
    assert first["counts"]["top"] == {"tp": 30, "fp": 10, "fn": 10}
    assert first["training_minutes"] == 2.0
    assert 0.5 < first["million_parameters"] < 10


def test_backbones_are_compared_on_the_same_slices(reproduced: Path) -> None:
    found = json.loads((reproduced / "nodules.json").read_text())["differences"]
    assert found["best"] == "mobilenetv1"
    change = found["minus_the_best"]["mobilenetv2"]["sensitivity"]
    assert change["value"] == pytest.approx(20 / 40 - 30 / 40)
    assert change["low"] <= change["value"] <= change["high"] < 0


def test_the_tables_show_the_paper_s_counts_ours_and_what_is_known(reproduced: Path) -> None:
    text = (reproduced / "nodules.md").read_text()
    assert "Not a medical device" in text
    assert "| mobilenetv1 | 270 | 436 | 7 | 0.970 | 0.380 | 0.382 | 0.975 | 0.549 | 0.622 |" in text
    assert "| mobilenetv1, seed 0 | 30 | 10 | 10 | 0.750" in text
    assert "Faster R-CNN (2D)" in text


def test_the_ranking_stands_beside_the_paper_s(reproduced: Path) -> None:
    """Of the two, the printed sensitivity puts MobileNetV1 first and its F1 last; ours puts it first."""
    lines = (reproduced / "nodules.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| rank by"))
    assert lines[start + 2].startswith("| mobilenetv1 | 1 | 2 | 1 |")
    assert lines[start + 3].startswith("| mobilenetv2 | 2 | 1 | 2 | -0.")


def test_artifacts_are_measured_by_name(reproduced: Path) -> None:
    found = json.loads((reproduced / "nodules.json").read_text())["artifacts"]
    assert [(name, row["precision"]) for name, row in found.items()] == [
        ("mobilenetv1", "fp32"),
        ("mobilenetv1-int8", "int8"),
    ]
    for row in found.values():
        assert row["megabytes"] == len(constant_graph()) / 1e6
        assert row["milliseconds"] > 0
        assert row["figures"]["ap50"]["value"] == pytest.approx(40 / 60)
        assert row["minus_the_first"]["ap50"]["value"] == 0
    assert "| mobilenetv1-int8 | int8 |" in (reproduced / "nodules.md").read_text()


def test_a_folder_without_such_artifacts_is_refused(tmp_path: Path, photographs: list[Path], refused) -> None:
    with refused(DataError, "mobilenetv1", str(tmp_path), "export them"):
        measure_artifacts(tmp_path, ARMS, tmp_path, photographs[0], tell=print)
