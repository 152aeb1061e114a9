from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from contracts.task_contract import SIZES, MaskContract, pixels
from leanmed.compress.adapter_files import load_adapters, save_adapters
from leanmed.compress.adapters import adapt
from leanmed.errors import RecipeError
from leanmed.models.prompted import NETWORKS
from leanmed.models.sam_hq import sam_hq_vit
from leanmed.recipe.recipe import Adapters
from leanmed.tasks.base import Batch
from leanmed.tasks.prompted.training import Prompted, overlap
from leanmed.tasks.recipes import check_recipe

pytest.importorskip("transformers")

SIDE = 32
TINY = {"width": 16, "depth": 4, "heads": 2, "window": 2, "channels": 16}
# Parts of SAM for masks as prompts and for several masks as answers; they are kept so that its weights fit.
UNUSED = ("prompt_encoder.mask_embed", *(f"output_hypernetworks_mlps.{k}" for k in (1, 2, 3)))


def prompted(**sections: dict) -> Prompted:
    torch.manual_seed(0)
    model = {"backbone": "sam-small", "weights": "none", "side": SIDE, "backbone_args": TINY}
    recipe = {"name": "tiny", "task": "prompted", "model": model, **sections}
    return Prompted(check_recipe(recipe, "here"), ("nerve",))


def squares() -> Batch:
    """Eight images of noise with a brighter square."""
    generator = torch.Generator().manual_seed(1)
    colour, masks = (
        0.3 * torch.rand(8, 3, SIDE, SIDE, generator=generator),
        torch.zeros(8, SIDE, SIDE, dtype=torch.uint8),
    )
    for k in range(8):
        place = (k, slice(6, 20), slice(2 * k, 2 * k + 12))
        masks[place] = 1
        colour[:, :1][place[0], 0, place[1], place[2]] += 0.6
    image = torch.cat([colour, torch.ones(8, 1, SIDE, SIDE)], 1)
    return Batch({"image": image}, {"mask": masks, "case": torch.arange(8)})


class TestPrompted(MaskContract):
    STEPS, RATE = 16, 1e-2

    @pytest.fixture
    def task(self) -> Prompted:
        return prompted()

    @pytest.fixture
    def batch(self, task: Prompted) -> Batch:
        return task.augment(squares(), 0)

    @pytest.mark.parametrize("size", SIZES)
    def test_an_image_of_any_size_is_prepared_to_one_shape(self, task, batch, size) -> None:
        assert {name: tensor.shape for name, tensor in task.prepare(pixels(*size)).items()} == {
            "image": (4, SIDE, SIDE)
        }

    def test_every_parameter_learns(self, task, batch) -> None:
        """But for parts of SAM that serve other prompts and answers."""
        network, localiser = [], []
        for seed in range(4):  # points and boxes among them
            task.train().loss(task.augment(squares(), seed)).backward()
        for name, parameter in task.named_parameters():
            if any(unused in name for unused in UNUSED):
                assert parameter.grad is None, name
            else:
                (localiser if name.startswith("localiser") else network).append(parameter.grad.abs().max().item())
        assert min(network) > 0
        assert localiser[0] > 0  # its first layer; the ends of its blocks are zero at first, and so hide what is within
        assert localiser[-1] > 0

    def alike(self, again, wanted) -> None:
        super().alike(again, wanted)
        assert again.points == wanted.points


def test_what_is_scored_is_pointed_at_by_the_localiser_and_not_by_the_truth() -> None:
    task, batch = prompted().eval(), squares()
    inputs = task.augment(batch, 0).inputs
    with torch.inference_mode():
        own, drawn = task({"image": inputs["image"]}), task(inputs)
        points = own["point"][:, None] * SIDE - 0.5
        again = task(inputs | {"points": points, "labels": torch.ones(8, 1, dtype=torch.int64)})
    assert torch.allclose(own["logits"], again["logits"])
    assert not torch.allclose(own["logits"], drawn["logits"])


def test_the_localiser_and_the_network_hand_each_other_no_gradient() -> None:
    task, batch = prompted().train(), squares()
    revealed = task.reveal({"image": batch.inputs["image"]})
    revealed["logits"].sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in task.localiser.parameters())
    task.zero_grad()
    revealed["point"].sum().backward()
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_images_without_an_object_move_no_point() -> None:
    task = prompted().train()
    batch = squares()
    empty = Batch(batch.inputs, batch.targets | {"mask": torch.zeros_like(batch.targets["mask"])})
    task.loss(task.augment(empty, 0)).backward()
    assert all(parameter.grad is None for parameter in task.localiser.parameters())


def test_the_overlap_is_counted_where_something_is_known() -> None:
    logits = torch.tensor([[5.0, 5.0, -5.0, 5.0]]).view(1, 1, 1, 4)
    masks = torch.tensor([[[1, 0, 1, 255]]], dtype=torch.uint8)
    assert overlap(logits, masks).tolist() == [pytest.approx(1 / 3)]
    assert overlap(-logits.abs(), torch.zeros(1, 1, 4, dtype=torch.uint8)).tolist() == [1.0]


def test_the_decoder_takes_points_in_the_frame_of_the_image() -> None:
    """A wide image is padded below: its point is the same share of the square's side."""
    task = prompted().eval()
    image = torch.from_numpy(pixels(20, 64, 3))
    embed, decoder = task.graph(), task.further_graphs()["decoder"].module
    with torch.inference_mode():
        embedding, _ = embed(image)
        mask, confidence, score = decoder(
            embedding, torch.tensor([[48.0, 10.0]]), torch.tensor([1]), torch.zeros(20, 64, dtype=torch.uint8)
        )
        low, iou = task.model.decode(embedding, torch.tensor([[[23.5, 4.5]]]), torch.tensor([[1]]))
    assert mask.shape == confidence.shape == (20, 64)
    wanted = F.interpolate(low, (64, 64), mode="bilinear").sigmoid()[0, 0, :20] * 255
    assert (confidence.float() - wanted).abs().mean() < 3
    assert score.item() == pytest.approx(iou.clamp(0, 1).item())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"segmenter": {"crop": 32}}, "whole images"),
        ({"segmenter": {"slices": 1}}, "three channels"),
        ({"prompter": {"positives": 0}}, "prompter.positives"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sections: dict, message: str, refused) -> None:
    with refused(RecipeError, message):
        prompted(**sections)


def test_a_side_that_is_no_multiple_of_a_patch_is_refused(refused) -> None:
    with refused(RecipeError, "multiple of 16"):
        prompted(model={"backbone": "sam-small", "weights": "none", "side": 40, "backbone_args": TINY})


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for which in ("none", "all"):
        task = prompted(prompter={"checkpointing": which}).train()
        batch = task.augment(squares(), 0)
        task.loss(batch).backward()
        gradients.append([p.grad for p in task.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_batches_are_what_single_images_are() -> None:
    task = prompted().eval()
    prepared = [task.prepare(pixels(*size)) for size in SIZES[:3]]
    with torch.inference_mode():
        together = task(default_collate(prepared))["logits"]
        alone = torch.cat([task(default_collate([one]))["logits"] for one in prepared])
    assert torch.allclose(together, alone, atol=1e-5)
    assert isinstance(task.graph(), nn.Module)


def test_the_truth_tells_the_localiser_s_point_and_nothing_of_an_image_without_an_object() -> None:
    task = prompted()
    told = task.told({"point": torch.tensor([[0.25, 0.5]])})
    assert told["points"].tolist() == [[[0.25 * SIDE - 0.5, 0.5 * SIDE - 0.5]]]
    assert told["labels"].tolist() == [[1]]
    assert task.told({"point": torch.full((1, 2), torch.nan)}) == {}


def test_a_box_is_drawn_whatever_the_image_s_turn() -> None:
    """The first number of each generator decides: of the turn, and of whether there is a box."""
    task = prompted(prompter={"boxes": 0.5}, augment={"rotation": 10})
    turns, boxes = [], []
    for seed in range(60):
        one = Batch({k: v[:1] for k, v in squares().inputs.items()}, {k: v[:1] for k, v in squares().targets.items()})
        boxes.append(bool((task.augment(one, seed).inputs["labels"] >= 2).any()))
        turns.append(torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() < 0.5)
    assert 15 < sum(a == b for a, b in zip(turns, boxes, strict=True)) < 45


def test_adapters_of_a_trained_task_fit_a_fresh_one_of_the_same_weights(tmp_path) -> None:
    settings = Adapters(method="hierarchical", ratio=0.25)
    task = prompted()
    adapt(task, settings)
    batch = task.train().augment(squares(), 0)
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=0.01)
    task.loss(batch).backward()
    optimizer.step()
    save_adapters(task, tmp_path / "adapters.safetensors")
    fresh = prompted()
    load_adapters(fresh, tmp_path / "adapters.safetensors")
    with torch.inference_mode():
        one, other = (own.eval()(squares().inputs) for own in (task, fresh))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_embedding_may_hold_more_than_sam_s(monkeypatch) -> None:
    """As that of SAM-HQ does: the decoder's graph takes what the encoder's gives."""
    monkeypatch.setitem(NETWORKS, "sam-hq-vit-b", lambda side: sam_hq_vit(16, 4, 2, (1, 3), side, 2, 16, 32))
    task = prompted(model={"backbone": "sam-hq-vit-b", "weights": "none", "side": SIDE}).eval()
    graphs = task.further_graphs()
    with torch.inference_mode():
        embedding, _ = task.graph()(torch.from_numpy(pixels(20, 64, 3)))
        canvas = torch.zeros(20, 64, dtype=torch.uint8)
        mask, _, _ = graphs["decoder"].module(embedding, torch.tensor([[48.0, 10.0]]), torch.tensor([1]), canvas)
    assert embedding.shape == graphs["decoder"].examples[0]["embedding"].shape == (1, 32, 2, 2)
    assert mask.shape == (20, 64)
    task.train().loss(task.augment(squares(), 0)).backward()
