"""SAMUS as a recipe names it: trained on made ultrasound, exported, and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from leanmed.compress.adapters import adapt
from leanmed.exporting.export import export
from leanmed.models.prompted import build_prompted
from leanmed.phantoms.nerves import write_nerves
from leanmed.prompts import Prompts
from leanmed.recipe.recipe import Adapters, Model, Recipe
from leanmed.runs import Run
from leanmed.runtime.predictor import load
from leanmed.tasks.building import build_task, load_task
from leanmed.tasks.recipes import check_recipe
from leanmed.training.train import train
from training_fixtures import silent

pytest.importorskip("transformers")

SIDE = 32
TINY = {"width": 16, "depth": 4, "heads": 2, "window": 2, "channels": 16}


def recipe(weights: str | Path) -> Recipe:
    return check_recipe(
        {
            "name": "tiny",
            "task": "prompted",
            "data": {"dataset": "masks"},
            "split": {"protocol": "holdout", "test": 0.25, "validation": 0.3, "groups": "reader"},
            "model": {"backbone": "samus-small", "weights": str(weights), "side": SIDE, "backbone_args": TINY},
            "prompter": {"localiser_backbone": "test_efficientnet"},
            "training": {"batch_size": 4, "epochs": 1, "learning_rate": 0.01},
            "evaluation": {"resamples": 100},
        },
        "here",
    )


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("sam") / "sam.safetensors"
    made = build_prompted(Model(backbone="sam-small", weights="none", side=SIDE, backbone_args=TINY))
    save_file(made.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(sam: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("samus")
    data = write_nerves(base / "data", patients=6, frames=2, side=SIDE)
    return train(recipe(sam), data, base / "run", tell=silent)


def test_a_run_leaves_sam_as_it_was(run: Run) -> None:
    begun, trained = build_task(run.recipe, run.labels), load_task(run, 0)
    before, after = begun.model.state_dict(), trained.model.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= begun.model.fresh


def test_the_artifact_answers_as_torch_does(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "artifact", fold=0, tell=silent)
    predictor, task = load(tmp_path / "artifact"), load_task(run, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    looked = predictor.look(pixels)
    with torch.inference_mode():
        embedding, _ = task.graph()(torch.from_numpy(pixels))
        points, labels, canvas = torch.tensor([[20.0, 10.0]]), torch.tensor([1]), torch.zeros(40, 50, dtype=torch.uint8)
        mask, _, score = task.further_graphs()["decoder"].module(embedding, points, labels, canvas)
    assert embedding.shape == (1, 16, SIDE // 8, SIDE // 8)
    answer = looked.answer(Prompts(points=((20, 10),), labels=(1,)))
    assert (answer.mask != mask.numpy()).mean() < 0.01
    assert answer.score == pytest.approx(float(score), abs=1e-4)
    assert looked.answer().mask.shape == (40, 50)  # the localiser points


@pytest.mark.parametrize("method", ["hierarchical", "decoder", "lora", "full"])
def test_adapters_may_be_put_beside_what_it_adds(sam: Path, method: str) -> None:
    task = build_task(recipe(sam), ("nerve",))
    adapt(task, Adapters(method=method))
    trained = {name.removeprefix("model.") for name, p in task.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in task.model.named_parameters()}
    assert task.model.fresh & parameters <= trained
    more = {name for name in trained - task.model.fresh if not name.startswith("localiser.")}
    inside = {
        "hierarchical": lambda name: ".adapter." in name,
        "decoder": lambda name: name.startswith("mask_decoder."),
        "lora": lambda name: ".lora_" in name,
        "full": lambda name: name.startswith(("mask_decoder.", "vision_encoder.")),
    }[method]
    assert more
    assert all(map(inside, more))
