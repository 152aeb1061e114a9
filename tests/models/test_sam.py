from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.errors import MissingExtraError, RecipeError
from leanmed.models.prompted import NETWORKS, build_prompted
from leanmed.models.sam import PromptedSegmenter, Sam, checkpoint_blocks, sam_vit
from leanmed.models.sam_weights import load_sam_weights
from leanmed.recipe.recipe import Model

# Without the frequencies, which are no parameters of Meta's code either.
COUNTED = {"sam-vit-b": 93_735_472, "sam-vit-l": 312_342_832, "sam-vit-h": 641_090_608, "sam-small": 6_482_944}
INSIDE, OUTSIDE, NO_POINT = 1, 0, -1


def sam(side: int = 64, window: int = 3) -> Any:
    """A tiny network with nothing at zero, so that every part of it shows: 4 x 4 patches, in padded windows of 3."""
    torch.manual_seed(0)
    network = sam_vit(8, 2, 2, (1,), side, window, 16, 32)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", COUNTED)
def test_the_parameters_are_as_many_as_in_metas_networks_and_six_million_in_the_small_one(name: str) -> None:
    side = 224 if name == "sam-small" else 1024
    with torch.device("meta"):
        network = build_prompted(Model(backbone=name, weights="none", side=side))
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTED[name]
    assert len(network.blocks) == {"sam-vit-l": 24, "sam-vit-h": 32}.get(name, 12)
    assert [i for i, block in enumerate(network.blocks) if block.window_size == 0] == list(network.global_blocks)
    assert list(NETWORKS) == [*COUNTED, *(f"sam-hq-vit-{size}" for size in "blh"), "samus-vit-b", "samus-small"]


def test_an_embedding_has_a_16th_of_the_side_and_a_mask_a_quarter() -> None:
    network = sam().eval()
    embeddings = network.embed(images(2, 3, 64, 64))
    assert embeddings.shape == (2, 16, 4, 4)
    points, labels = torch.zeros(2, 3, 2), torch.ones(2, 3, dtype=torch.long)
    logits, scores = network.decode(embeddings, points, labels)
    assert logits.shape == (2, 1, 16, 16)
    assert scores.shape == (2,)
    together = network(images(2, 3, 64, 64), points, labels)
    assert torch.equal(together[0], logits)


@pytest.mark.parametrize("prompt", ["points", "points and box", "box"])
def test_the_answer_is_that_of_transformers(prompt: str, reference: Any) -> None:
    theirs, network = reference
    x = images(1, 3, 64, 64)
    points, labels = torch.tensor([[[3.0, 50.0], [20.5, 7.0]]]), torch.tensor([[INSIDE, OUTSIDE]])
    boxes = torch.tensor([[4.0, 8.0, 30.0, 41.0]])
    with torch.inference_mode():
        wanted = theirs(
            x,
            input_points=None if prompt == "box" else points[:, None],
            input_labels=None if prompt == "box" else labels[:, None],
            input_boxes=None if prompt == "points" else boxes[:, None],
            multimask_output=False,
        )
        if prompt == "box":
            labels = torch.full_like(labels, NO_POINT)
        logits, scores = network(x, points, labels, None if prompt == "points" else boxes)
    assert wanted.pred_masks.std() > 1e-3
    assert torch.allclose(logits, wanted.pred_masks[:, 0], atol=1e-5)
    assert torch.allclose(scores, wanted.iou_scores[:, 0, 0], atol=1e-5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Transformers' own network with random weights, and ours with the same from the folder where it saves itself."""
    from transformers import SamConfig, SamModel

    made = sam()
    config = SamConfig(
        vision_config=made.vision_encoder.config.to_dict(),
        prompt_encoder_config={"hidden_size": 16, "image_size": 64},
        mask_decoder_config=made.mask_decoder.config.to_dict(),
    )
    theirs = SamModel(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    folder = tmp_path_factory.mktemp("sam")
    theirs.save_pretrained(folder)
    load_sam_weights(made, str(folder), "sam-small")
    return theirs, made.eval()


def test_padding_changes_nothing_wherever_it_lies() -> None:
    network = sam().eval()
    embeddings = network.embed(images(2, 3, 64, 64))
    points = torch.tensor([[[5.0, 6.0], [40.0, 50.0]], [[9.0, 9.0], [60.0, 2.0]]])
    labels = torch.tensor([[INSIDE, OUTSIDE], [NO_POINT, INSIDE]])
    boxes = torch.tensor([[1.0, 2.0, 30.0, 31.0]] * 2)
    for box in (None, boxes):
        logits, scores = network.decode(embeddings, points, labels, box)
        alone = network.decode(embeddings[1:], points[1:, 1:], labels[1:, 1:], None if box is None else box[1:])
        assert torch.allclose(logits[1:], alone[0], atol=1e-5)
        assert torch.allclose(scores[1:], alone[1], atol=1e-5)
        assert not torch.allclose(logits[:1], alone[0], atol=1e-3)


def test_a_box_is_two_points_and_may_stand_beside_images_without_one() -> None:
    network = sam().eval()
    embeddings = network.embed(images(2, 3, 64, 64))
    point, box = torch.tensor([[[5.0, 6.0]]]), torch.tensor([[1.0, 2.0, 30.0, 31.0]])
    wanted = torch.cat(
        [
            network.decode(embeddings[:1], point, torch.tensor([[INSIDE]]), box)[0],
            network.decode(embeddings[1:], point, torch.tensor([[INSIDE]]))[0],
        ]
    )
    points = torch.cat([point, box.view(1, 2, 2)], 1).expand(2, -1, -1)
    found, _ = network.decode(embeddings, points, torch.tensor([[INSIDE, 2, 3], [INSIDE, NO_POINT, NO_POINT]]))
    assert torch.allclose(found, wanted, atol=1e-5)
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
    alone, _ = network.decode(embeddings[:1], *nothing, box)
    other, _ = network.decode(embeddings[:1], box.view(1, 2, 2), torch.tensor([[2, 3]]))
    assert torch.allclose(alone, other, atol=1e-5)


def test_one_image_answers_several_prompts() -> None:
    network = sam().eval()
    embedding = network.embed(images(1, 3, 64, 64))
    points, labels = torch.tensor([[[5.0, 6.0]], [[40.0, 50.0]]]), torch.tensor([[INSIDE], [OUTSIDE]])
    logits, scores = network.decode(embedding, points, labels)
    second = network.decode(embedding, points[1:], labels[1:])
    assert torch.allclose(logits[1:], second[0], atol=1e-5)
    assert torch.allclose(scores[1:], second[1], atol=1e-5)


def test_every_parameter_learns_but_those_of_masks_as_prompts_and_of_several_answers() -> None:
    network = sam().train()
    points = torch.tensor([[[5.0, 6.0], [40.0, 50.0], [0.0, 0.0]]])
    box = torch.tensor([[1.0, 2.0, 30.0, 31.0]])
    loss: Any = 0
    for boxes in (None, box):
        logits, scores = network(images(1, 3, 64, 64), points, torch.tensor([[INSIDE, OUTSIDE, NO_POINT]]), boxes)
        loss = loss + (logits**2).mean() + scores.sum()
    loss.backward()
    without = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    }
    others = [f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)]
    unused = ("prompt_encoder.mask_embed.", *others)
    assert without == {name for name, _ in network.named_parameters() if name.startswith(unused)}


def test_a_network_with_random_weights_learns_to_mark_the_square_that_the_point_lies_in() -> None:
    network = sam(32).train()
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 4:12, 4:12] = x[:, :, 20:28, 20:28] = 2
    targets = torch.zeros(2, 1, 8, 8)
    targets[0, :, 1:3, 1:3] = targets[1, :, 5:7, 5:7] = 1
    points, labels = torch.tensor([[[8.0, 8.0]], [[24.0, 24.0]]]), torch.ones(2, 1, dtype=torch.long)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(90):
        logits, _ = network(x, points, labels)
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.04  # without the point, 8 of 64 pixels are as likely in as out: ln 2 / 8 = .087


@pytest.mark.parametrize(("which", "again"), [("none", []), ("global", [1]), ("all", [0, 1])])
def test_checkpointed_blocks_are_computed_twice_and_give_the_same_gradients(which: Any, again: list[int]) -> None:
    network = sam().train()
    calls = [0, 0]
    for i, block in enumerate(network.blocks):
        block.layer_norm1.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    x = images(1, 3, 64, 64)
    network.embed(x).square().sum().backward()
    wanted = [p.grad.clone() for p in network.vision_encoder.parameters()]
    network.zero_grad()
    calls[:] = [0, 0]
    checkpoint_blocks(network, which)
    network.embed(x).square().sum().backward()
    assert [i for i, count in enumerate(calls) if count == 2] == again
    for found, gradient in zip(network.vision_encoder.parameters(), wanted, strict=True):
        assert torch.allclose(found.grad, gradient, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        calls[:] = [0, 0]
        network.eval().embed(x)
    assert calls == [1, 1]


class Part(nn.Module):
    """One of a network's two methods as a graph of its own."""

    def __init__(self, network: PromptedSegmenter, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.network, self.method)(*inputs)


def test_onnx_runtime_embeds_as_torch_does() -> None:
    network, x = sam().eval(), images(1, 3, 64, 64)
    program = torch.onnx.export(Part(network, "embed").eval(), (x,), dynamo=True, opset_version=21, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(found - network.embed(x).detach().numpy()).max() <= 1e-4


def test_onnx_runtime_decodes_any_number_of_points_and_a_box_as_torch_does_with_one_graph() -> None:
    network = sam().eval()
    embedding = network.embed(images(1, 3, 64, 64)).detach()
    n = torch.export.Dim.DYNAMIC
    example = embedding, torch.rand(1, 3, 2) * 64, torch.tensor([[INSIDE, OUTSIDE, NO_POINT]])
    program = torch.onnx.export(
        Part(network, "decode").eval(),
        example,
        dynamo=True,
        opset_version=21,
        verbose=False,
        input_names=["embedding", "points", "labels"],
        dynamic_shapes=((None, {1: n}, {1: n}),),
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for labels in ([INSIDE], [INSIDE, OUTSIDE], [2, 3], [INSIDE, 2, 3, NO_POINT], [NO_POINT] * 5):
        points, kinds = images(1, len(labels), 2) * 20 + 32, torch.tensor([labels])
        found = session.run(None, {"embedding": embedding.numpy(), "points": points.numpy(), "labels": kinds.numpy()})
        for ours, wanted in zip(found, network.decode(embedding, points, kinds), strict=True):
            assert np.abs(ours - wanted.detach().numpy()).max() <= 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "sam-vit-x"}, "to be one of sam-vit-b, sam-vit-l, .*, samus-small, got 'sam-vit-x'"),
        ({"side": 100}, "sam-small to be a multiple of 16, got 100; set it to 96"),
        ({"backbone_args": {"widht": 8}}, "no keys but width, depth, heads, window, channels, got widht"),
        ({"backbone": "sam-vit-b", "backbone_args": {"width": 8}}, "sam-vit-b to have no keys but none, got width"),
        ({"backbone_args": {"width": "wide"}}, "expected width to be a whole number of at least 1, got 'wide'"),
        ({"backbone_args": {"window": 0}}, "expected window to be a whole number of at least 1, got 0"),
        ({"backbone_args": {"heads": 5}}, "got width 192, heads 5, depth 12, channels 128"),
    ],
)
def test_unknown_names_arguments_and_sides_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_prompted(Model.model_validate({"backbone": "sam-small", "weights": "none", **settings}))


def test_without_transformers_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"model.backbone sam-small needs .* pip install 'leanmed\[sam\]'"):
        build_prompted(Model(backbone="sam-small", weights="none"))


def test_trained_weights_may_follow_without_those_that_the_recipe_names() -> None:
    model = Model(
        backbone="sam-small", weights="nowhere.pth", side=32, backbone_args={"width": 8, "depth": 4, "heads": 1}
    )
    assert isinstance(build_prompted(model, pretrained=False), Sam)
