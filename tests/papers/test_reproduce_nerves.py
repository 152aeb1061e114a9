from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from leanmed.errors import RunError
from leanmed.evaluation.runs import ORACLE, evaluate_run, records_of
from leanmed.models.prompted import build_prompted
from leanmed.papers.nerves import ABLATION, UNTRAINED, _starts_as_sam
from leanmed.papers.printed import NERVES
from leanmed.papers.reproduce import recipe_of, reproduce
from leanmed.phantoms.nerves import write_nerves
from leanmed.tasks.recipes import open_run
from leanmed.training.oracle import oracle_answers

TINY = (
    "data.labels=null",
    "model.side=32",
    "model.backbone=sam-small",
    "model.backbone_args={width: 32, heads: 2, window: 2, channels: 32, depth: 4}",
    "prompter.localiser_backbone=mobilenetv3_small_050",
    "adapters.ratio=0.25",
    "split.protocol=holdout",
    "split.test=0.3",
    "split.validation=0.3",
    "training.batch_size=4",
    "training.epochs=1",
    "evaluation.resamples=100",
    "unet:model.backbone_args={width: 2}",
)
ARMS = ["hierarchical", "decoder", "samus-small", "unet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nerves(tmp_path_factory.mktemp("nerves") / "data", patients=8, frames=2, side=32)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("reproduction") / "out"
    recipe = recipe_of(NERVES, "hierarchical", 0, [*TINY, "model.weights=none"])
    weights = tmp_path_factory.mktemp("weights") / "sam.safetensors"
    save_file(build_prompted(recipe.model).state_dict(), weights)
    settings = [*TINY, f"model.weights={weights}"]
    reproduce("nerves", data, out, settings=settings, arms=ARMS, tell=lambda line: None)
    return out


def found_in(reproduced: Path) -> dict[str, Any]:
    return dict(json.loads((reproduced / "nerves.json").read_text()))


def test_settings_for_prompts_and_adapters_do_not_reach_networks_without_them() -> None:
    recipe = recipe_of(NERVES, "transunet", 0, ["prompter.point=centroid", "model.weights=none", "training.epochs=3"])
    assert (recipe.task, recipe.model.backbone, recipe.training.epochs) == ("segmentation", "transunet", 3)
    assert recipe.adapters.method == "none"


def test_a_seed_that_is_set_holds_for_every_run() -> None:
    recipes = [recipe_of(NERVES, "uniform", seed, ["split.seed=7"]) for seed in (1, 2)]
    assert [(own.split.seed, own.training.seed) for own in recipes] == [(7, 1), (7, 2)]


def test_the_arms_of_equal_budget_differ_from_the_others_in_that_alone() -> None:
    plain, equal = (recipe_of(NERVES, arm, 0, ()).adapters for arm in ("strategy-1", "strategy-1-equal"))
    assert not plain.equal_budget
    assert equal == plain.model_copy(update={"equal_budget": True})
    assert set(ABLATION) <= set(NERVES.arms)


def test_points_of_the_localiser_and_of_the_truth_stand_in_tables_of_their_own(reproduced: Path) -> None:
    found = found_in(reproduced)
    assert list(found["localiser"]) == ARMS
    assert list(found["oracle"]) == ["hierarchical", "decoder", "samus-small", UNTRAINED]
    for points, arms in (
        ("localiser", ["decoder", "samus-small", "unet"]),
        ("oracle", ["decoder", "samus-small", UNTRAINED]),
    ):
        assert list(found["changes"][points]) == arms
        for arm in arms:
            expected = found[points][arm]["dice"]["value"] - found[points]["hierarchical"]["dice"]["value"]
            assert found["changes"][points][arm]["dice"]["value"] == pytest.approx(expected, abs=1e-6)
    text = (reproduced / "nerves.md").read_text()
    assert "Not a medical device" in text
    assert text.index("localiser, to which no true mask was shown") < text.index("ORACLE")
    assert "| HA-SAM | 6.82 | 83.04 / 70.43 / 15.08 |" in text


def test_only_what_is_trained_moves(reproduced: Path) -> None:
    depth = found_in(reproduced)["depth"]
    assert [row["width"] for row in depth["hierarchical"]] == [4, 8, 8, 12]
    assert {row["moved"] for rows in depth.values() for row in rows} == {0.0}
    trained = {arm: own["seeds"]["0"]["trained_parameters"] for arm, own in found_in(reproduced)["arms"].items()}
    assert 0 < trained["hierarchical"] < trained["decoder"]


def test_samus_trains_what_it_adds_and_takes_no_settings_of_adapters(reproduced: Path) -> None:
    run = open_run(reproduced / "runs" / "samus-small-0")
    assert (run.recipe.adapters.method, run.recipe.adapters.ratio) == ("none", None)
    network = build_prompted(run.recipe.model, pretrained=False)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    counted = found_in(reproduced)["arms"]["samus-small"]["seeds"]["0"]
    assert counted["trained_parameters"] == sum(sizes[name] for name in network.fresh)
    assert counted["parameters"] == sum(sizes.values())
    arm = recipe_of(NERVES, "samus", 0, ["adapters.ratio=0.25"])
    assert (arm.model.backbone, arm.model.side, arm.adapters.ratio) == ("samus-vit-b", 256, None)


def test_only_a_network_that_starts_as_sam_stands_for_sam_without_training() -> None:
    assert _starts_as_sam(recipe_of(NERVES, "decoder", 0, ()))
    assert not _starts_as_sam(recipe_of(NERVES, "decoder", 0, ["model.weights=none"]))
    assert not _starts_as_sam(recipe_of(NERVES, "samus", 0, ()))


def test_a_report_by_the_truth_says_so_and_answers_at_the_true_point(reproduced: Path, data: Path) -> None:
    run = open_run(reproduced / "runs" / "hierarchical-0")
    answered = oracle_answers(run, records_of(run, data))
    assert answered.records
    for record, answer in zip(answered.records, answered.answers, strict=True):
        ((x, y),) = answer.points
        mask = answered.judge.masks.read_mask(record, answered.labels)
        assert mask[int(y), int(x)] == 1 or run.recipe.prompter.point == "centroid"
    report = evaluate_run(run, data=data, oracle=oracle_answers)
    assert (report.leak, report.caution) == (None, ORACLE)
    assert ORACLE.startswith("ORACLE: beside each image the model was given a point from the true answer")
    own = evaluate_run(run, data=data)
    assert own.leak is own.caution is None


def test_a_run_without_prompts_cannot_be_told_anything(reproduced: Path, data: Path, refused) -> None:
    run = open_run(reproduced / "runs" / "unet-0")
    with refused(RunError, "whose task takes points or boxes", "got segmentation with none; leave out --oracle"):
        evaluate_run(run, data=data, oracle=oracle_answers)
