from __future__ import annotations

from dataclasses import replace

import pytest

from artifact_fixtures import basis_of
from detection_fixtures import constant_graph
from leanmed.evaluation.runs import evaluate_run
from leanmed.exporting.card import without_folders, write_card
from leanmed.figures.bootstrap import Figure
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.card import ITEMS


@pytest.fixture(scope="module")
def basis(finished_run):
    return basis_of(evaluate_run(finished_run))


@pytest.fixture
def manifest(make_artifact):
    """`manifest(**changes)`: as `leanmed.json` would say it."""
    return lambda **changes: read_artifact(make_artifact(**changes)).manifest


def test_a_card_says_what_it_is_for_what_it_does_and_what_is_not_known(manifest, basis):
    card = write_card(manifest(threshold=0.25), basis, 3e-7)
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert headings == [
        *("Intended use", "What it does", "Data and protocol", "How good it is", "Subgroups", "Limits"),
        *("Checks", "What a training cannot know"),
    ]
    assert card.startswith("# mean-red (fp32)\n\n## Intended use\n\nResearch use only. Not a medical device")
    assert "answers `anemic` when that probability is at least 0.250" in card
    assert "60 images in" in card
    assert "differ by at most 3.0e-07" in card
    assert all(f"- **{key}**: {question}\n  *open*\n" in card for key, question in ITEMS.items())


def test_a_leak_is_the_first_line(manifest, basis):
    card = write_card(manifest(leak="This result LEAKS."), basis, 0)
    assert card.startswith("> **This result LEAKS.**\n\n# mean-red")
    assert "- The figures above leak and say nothing about new patients." in card


def test_figures_stand_with_their_intervals_beside_those_of_the_run(manifest, basis):
    figures = {"auc": {"value": 0.875, "low": 0.75, "high": 0.9, "n": 20}, "f1": {"value": None}}
    card = write_card(manifest(figures=figures), basis, 0)
    whole = basis.figures["auc"]
    expected = f"{whole.value:.3f} ({whole.low:.3f} to {whole.high:.3f})"
    assert f"| ROC-AUC | 0.875 (0.750 to 0.900) | {expected} |" in card
    assert "| F1 | – |" in card
    assert "Brier" not in card  # not measured on this artifact


def test_a_figure_without_interval_stands_alone(manifest, basis):
    figures = {"auc": {"value": 0.875, "low": None, "high": None, "n": 20}}
    alone = replace(basis, figures={"auc": Figure(0.5, float("nan"), float("nan"), 60)})
    assert "| ROC-AUC | 0.875 | 0.500 |" in write_card(manifest(figures=figures), alone, 0)


def test_subgroups_are_a_table_whatever_their_values_are_called(manifest, basis):
    row = replace(basis.subgroups[0], name="ward", value="A|B")
    card = write_card(manifest(), replace(basis, subgroups=[row]), 0)
    (line,) = [line for line in card.splitlines() if line.startswith("| ward")]
    assert line.startswith(f"| ward: A\\|B | {row.n} | {row.groups} | ")
    assert line.replace("\\|", "").count("|") == 7


def test_a_card_without_subgroups_says_why(manifest, basis):
    assert "names no attribute to form subgroups by" in write_card(manifest(), replace(basis, subgroups=[]), 0)


def test_a_card_names_the_teacher(manifest, basis):
    alone = manifest()
    teacher = {"name": "prostate", "backbone": "unetplusplus", "sha256": "ab" * 32}
    taught = alone.model_copy(update={"provenance": alone.provenance.model_copy(update={"teacher": teacher})})
    assert "learned from a teacher too: the run `prostate` with the backbone `unetplusplus`" in write_card(
        taught, basis, 0
    )
    assert "teacher" not in write_card(alone, basis, 0)


def test_three_labels_have_no_threshold(manifest, basis):
    card = write_card(manifest(labels=("a", "b", "c"), threshold=None), basis, 0)
    assert "calibrated probabilities of `a`, `b`, `c`" in card
    assert "It answers the likeliest label." in card


def test_few_groups_are_called_few(manifest, basis):
    assert "groups are few: the intervals are wide" in write_card(manifest(), basis, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Name them in a table /home/ann/eyes/data/groups.csv (image, group).",
            "Name them in a table data/groups.csv (image, group).",
        ),
        ("3 files were passed over in work/eyes/data: 3 masks", "3 files were passed over in eyes/data: 3 masks"),
        ("Put them into SITE/images and SITE/masks.", "Put them into SITE/images and SITE/masks."),
        ("See https://example.org/a/b/c for that.", "See https://example.org/a/b/c for that."),
    ],
)
def test_a_card_does_not_say_where_the_data_lay(text: str, told: str) -> None:
    assert without_folders(text) == told


@pytest.mark.parametrize(("kind", "said"), [("slice", "From one axial slice"), ("photograph", "From one image")])
def test_a_detectors_card_says_what_it_looks_at(manifest, basis, kind, said):
    boxes = {"task": "detection", "labels": ("node",), "input": {"side": 64, "kind": kind}}
    card = write_card(manifest(graph=constant_graph(), **boxes), replace(basis, subgroups=[]), 0)
    assert said in card
    assert "boxes of `node`" in card


def test_a_model_of_all_images_has_the_cross_validated_figures_alone_and_says_so(manifest, basis):
    card = write_card(manifest(figures_of="folds", figures={"auc": {"value": 0.5}}), basis, 0)
    whole = basis.figures["auc"]
    assert f"| ROC-AUC | {whole.value:.3f} ({whole.low:.3f} to {whole.high:.3f}) |" in card
    assert "No image was kept from this model" in card
    assert "its own test part" not in card


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("f1", "chosen on validation images for the best F1."),
        ("youden", "for the best sum of sensitivity and specificity."),
        ("sensitivity:0.95", "for the best specificity with a sensitivity of at least 0.95."),
        ("given", "that was given as a number."),
    ],
)
def test_a_card_says_how_the_threshold_was_chosen(manifest, basis, rule, said):
    assert said in write_card(manifest(threshold=0.25, threshold_rule=rule), basis, 0)
