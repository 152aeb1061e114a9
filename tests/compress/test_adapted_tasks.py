"""Adapters as a recipe names them: a classifier trained, exported and compressed, and SAM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contracts.task_contract import answer_of, pixels
from leanmed.compress.adapters import adapt, sam_parts
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.errors import RecipeError
from leanmed.exporting.export import export, export_graph
from leanmed.recipe.recipe import Adapters
from leanmed.runtime.predictor import load, open_session
from leanmed.tasks.base import Batch
from leanmed.tasks.building import build_task, load_task
from leanmed.training.train import train
from training_fixtures import made_data, silent, tiny_recipe, weights

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_args": SHAPE}
BUFFERS = re.compile(r"(temperature|threshold|\.mean|\.std)$")
LABELS = ("no", "yes")


def recipe(adapters: dict[str, Any], **sections: Any) -> Any:
    return tiny_recipe(**{"model": VIT, "adapters": adapters, **sections})


def test_a_convolutional_backbone_is_refused():
    with pytest.raises(RecipeError, match="expected a network with a sequence of transformer blocks"):
        build_task(tiny_recipe(adapters={"method": "hierarchical"}), LABELS)


def test_colours_are_refused():
    wrong = recipe({"method": "hierarchical"}, model={"backbone": "tissue-colours", "weights": "none"})
    with pytest.raises(RecipeError, match="expected a network with a sequence of transformer blocks"):
        build_task(wrong, LABELS)


@pytest.mark.parametrize("method", ["hierarchical", "lora", "decoder"])
def test_a_classifier_trains_its_adapters_and_its_last_layer(method):
    torch.manual_seed(0)
    task = build_task(recipe({"method": method}), LABELS)
    for name, parameter in task.named_parameters():
        if name.endswith("down.bias"):
            nn.init.ones_(parameter)  # a ReLU of one unit may answer to no image
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    batch = Batch({"image": torch.rand(4, 4, 32, 32)}, {"label": torch.arange(4) % 2})
    for _ in range(2):
        optimizer.zero_grad()
        task.loss(batch).backward()
        optimizer.step()
    changed = {name for name, tensor in task.state_dict().items() if not torch.equal(tensor, before[name])}
    own = {name for name in before if ".adapter." in name or ".lora_" in name}
    assert changed == own | {"model.backbone.head.weight", "model.backbone.head.bias"}
    assert bool(own) == (method != "decoder")


@pytest.fixture(scope="module", params=["hierarchical", "lora"])
def trained(request, tmp_path_factory):
    """A run, and what its training told."""
    data, out = made_data(tmp_path_factory.getbasetemp()), tmp_path_factory.mktemp(request.param)
    told: list[str] = []
    short = {"epochs": 1, "batch_size": 8}
    settings = recipe({"method": request.param}, split={"protocol": "holdout"}, training=short)
    return train(settings, data, out / "run", tell=told.append), told


def test_a_training_tells_how_few_parameters_it_trains(trained):
    run, told = trained
    bottlenecks, lora = 2 * 2 * (2 * 16 * 1 + 1 + 16), 2 * 2 * (16 * 4 + 4 * 16)
    own = {"hierarchical": bottlenecks, "lora": lora}[run.recipe.adapters.method]
    whole = sum(tensor.numel() for name, tensor in weights(run, 0).items() if not BUFFERS.search(name))
    assert f"fold 0: trains {own + 17:,} of {whole:,} parameters" in told


def test_what_is_exported_answers_as_the_run_with_lora_merged(trained):
    run, _ = trained
    task = load_task(run, 0)
    names = {name for name in task.state_dict() if ".lora_" in name or ".adapter." in name}
    assert bool(names) == (run.recipe.adapters.method == "hierarchical")
    graph = export_graph(task.graph().eval(), ["probabilities"])
    assert b"lora" not in graph
    unmerged = build_task(run.recipe, run.labels, pretrained=False)
    unmerged.load_state_dict(weights(run, 0))
    image = pixels(40, 50)
    wanted = answer_of(unmerged.eval().graph(), image)[0]
    assert open_session(graph).run(None, {"pixels": image})[0] == pytest.approx(wanted, abs=1e-5)


# LoRA is merged, so that its graph is that of any network: see the test above.
@pytest.mark.parametrize("trained", ["hierarchical"], indirect=True)
def test_an_adapted_run_is_exported_and_compressed(trained, tmp_path):
    run, _ = trained
    data, before, after = Path(run.facts["data"]), tmp_path / "artifact", tmp_path / "int8"
    export(run, before, fold=0, tell=silent)
    # trained for one epoch, it answers nearly the same to all images, so that their order says nothing
    loose = Options(max_drop=1.0, min_agreement=0, ladder=())
    quantize_artifact(before, "int8", data, after, loose, tell=silent)
    float_answer, whole_answer = (load(path).predict(next(data.rglob("*.png"))) for path in (before, after))
    assert whole_answer.probability == pytest.approx(float_answer.probability, abs=0.01)


def tiny_sam() -> Any:
    """12 blocks of width 8, on images of 32 x 32."""
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 8, "num_hidden_layers": 12, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    vision |= {"output_channels": 8, "mlp_dim": 16, "window_size": 2, "num_pos_feats": 4, "initializer_range": 0.02}
    vision |= {"global_attn_indexes": [2, 5, 8, 11]}
    prompt = {"hidden_size": 8, "image_size": 32, "patch_size": 8, "image_embedding_size": 4, "mask_input_channels": 4}
    decoder = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8}
    torch.manual_seed(0)
    return transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )


def answered(model: Any) -> Any:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model(pixel_values=images, input_points=torch.tensor([[[[9.0, 11.0]]]]), multimask_output=True)


@pytest.mark.parametrize("method", ["hierarchical", "med-sa", "lora", "full", "decoder"])
def test_sam_answers_as_before_and_trains_what_it_should(method):
    model = tiny_sam()
    with torch.no_grad():
        wanted = answered(model.eval()).pred_masks
        record = adapt(model, Adapters(method=method))
        found = answered(model).pred_masks
        if method == "lora":  # its queries, keys and values come of products of their own, rounded as the CPU likes
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        else:
            assert torch.equal(found, wanted)
    assert record.blocks == tuple(f"vision_encoder.layers.{k}" for k in range(12))
    for name, parameter in model.named_parameters():
        own = ".adapter." in name or ".lora_" in name
        encoder, decoder = (name.startswith(part) for part in ("vision_encoder.", "mask_decoder."))
        trained = {"full": encoder or decoder, "decoder": decoder}.get(method, own)
        assert parameter.requires_grad == trained, name
        if name.endswith("down.bias"):
            nn.init.ones_(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        found = answered(model)
        (found.pred_masks.square().mean() + found.iou_scores.square().mean()).backward()
        optimizer.step()
    may_change = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= may_change
    assert len(changed) > len(may_change) / 2


def test_every_adapter_in_sam_learns():
    model = tiny_sam().eval()
    adapt(model, Adapters(method="hierarchical", ratio=0.5))
    found = answered(model)
    (found.pred_masks.square().mean() + found.iou_scores.square().mean()).backward()
    ups = {name: p for name, p in model.named_parameters() if name.endswith("adapter.up.bias")}
    assert len(ups) == 24
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ups.values())


def test_the_decoder_may_be_trained_beside_lora_as_in_samed():
    model = tiny_sam()
    adapt(model, Adapters(method="lora", decoder=True))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in model.named_parameters() if name.startswith("mask_decoder.")} <= trained
    assert all(name.startswith("mask_decoder.") or ".lora_" in name for name in trained)


@pytest.mark.parametrize(
    ("method", "count"),
    [("hierarchical", 1_789_056), ("hierarchical-0.24", 6_815_046), ("med-sa", 7_100_928), ("lora", 147_456)],
)
def test_adapters_of_the_vit_b_of_sam_have_the_stated_counts(method, count):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.SamModel(transformers.SamConfig())
    record = adapt(model, Adapters(method=method))
    assert record.added == record.trainable == count


def test_the_parts_of_sam_inside_a_task_have_longer_paths():
    assert sam_parts("model").encoder == "model.vision_encoder"
    assert sam_parts("model").decoder == ("model.mask_decoder",)
