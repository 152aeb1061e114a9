"""SAMUS: as many parameters as were printed, SAM's weights in its frozen part, and a start at what SAM would answer."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.errors import RecipeError
from leanmed.models.prompted import build_prompted
from leanmed.models.sam import checkpoint_blocks
from leanmed.models.samus import CrossedBlock
from leanmed.recipe.recipe import Model
from sam_fixtures import in_metas_layout

SIDE = 32  # 4 x 4 tokens
TINY = {"width": 16, "depth": 8, "heads": 2, "window": 3, "channels": 16}
ADDED = ("feature_adapter.", "position_adapter.", "branch.", ".cross.", ".feature_adapter.", ".refine.")


def built(backbone: str = "samus-small", weights: str | Path = "none", side: int = SIDE, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_prompted(Model(backbone=backbone, weights=str(weights), side=side, backbone_args=TINY))


def drawn(network: Any) -> Any:
    """With nothing at zero, so that every part shows."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def images(count: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def step(network: Any, rate: float = 0.01) -> None:
    points, labels = torch.tensor([[[5.0, 6.0]]]), torch.ones(1, 1, dtype=torch.long)
    optimizer = torch.optim.SGD(network.parameters(), rate)
    optimizer.zero_grad()
    logits, scores = network.train()(images(), points, labels)
    (logits.square().mean() + scores.sum()).backward()
    optimizer.step()


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small SAM that has as many positions as SAMUS takes."""
    file = tmp_path_factory.mktemp("sam") / "sam.safetensors"
    save_file(drawn(built("sam-small", side=4 * SIDE, seed=5)).state_dict(), file)
    return file


def test_the_parameters_are_as_many_as_stated_and_as_many_as_printed_by_the_count_of_layers() -> None:
    with torch.device("meta"):
        network: Any = build_prompted(Model(backbone="samus-vit-b", weights="none", side=256))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(sizes.values()) == 133_322_800
    assert sum(sizes[name] for name in network.fresh) == 39_620_096
    # SAM's at this side: 4 x 2 tables of relative positions have 63 rows of 64 in place of 127
    assert sum(sizes.values()) - sum(sizes[name] for name in network.fresh) == 93_735_472 - 8 * 64 * 64
    convolution, bottleneck, attention = 9 * 768**2, 2 * 768 * 192 + 192 + 768, 4 * (768**2 + 768)
    widths = (3, 64, 128, 256, 768)
    stem = sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    refining = 4 * (convolution + 2 * 768)
    assert stem + refining + convolution + 768 + 5 * bottleneck + 4 * attention == 39_620_096
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)
    counted = [module for module in network.modules() if type(module) in layers]
    assert sum(p.numel() for module in counted for p in module.parameters()) == 130_104_584  # printed: 130.10M
    assert isinstance(network.vision_encoder.layers[11], CrossedBlock)


def test_an_embedding_has_an_eighth_of_the_side_and_a_mask_a_half() -> None:
    network = built().eval()
    embeddings = network.embed(images(2))
    assert embeddings.shape == (2, 16, 4, 4)
    logits, scores = network.decode(embeddings, torch.zeros(2, 3, 2), torch.ones(2, 3, dtype=torch.long))
    assert logits.shape == (2, 1, 16, 16)
    assert scores.shape == (2,)


def test_before_training_it_answers_as_sam_with_overlapping_patches(sam: Path) -> None:
    network, plain = built(weights=sam).eval(), built("sam-small", sam, side=2 * SIDE).eval()  # as many tokens
    encoder = plain.vision_encoder
    projection, positions = encoder.patch_embed.projection, network.vision_encoder.pos_embed
    with torch.inference_mode():
        x = F.conv2d(F.pad(images(), (4, 4, 4, 4)), projection.weight, projection.bias, stride=8).permute(0, 2, 3, 1)
        x = x + positions.unflatten(1, (4, 2)).unflatten(3, (4, 2)).amax((2, 4))
        for block in encoder.layers:
            x = block(x)
        wanted = encoder.neck(x)
        assert torch.allclose(network.embed(images()), wanted, atol=1e-5)
    step(network, 1.0)
    with torch.inference_mode():
        assert not torch.allclose(network.eval().embed(images()), wanted, atol=1e-3)


def test_where_sam_s_weights_are_loaded_what_is_added_trains_and_nothing_else(sam: Path) -> None:
    network = built(weights=sam)
    assert all(name.startswith(ADDED[:3]) or any(part in name for part in ADDED[3:]) for name in network.fresh)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == network.fresh
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for _ in range(3):  # what starts at zero hides what is behind it
        step(network, 1.0)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    # what is added to all keys adds the same to all scores of a query, and softmax takes no notice
    assert changed == {name for name in network.fresh if not name.endswith("cross.k.bias")}
    again = build_prompted(
        Model(backbone="samus-small", weights="nowhere", side=SIDE, backbone_args=TINY), pretrained=False
    )
    assert {name for name, p in again.named_parameters() if p.requires_grad} == network.fresh


def test_without_weights_all_of_it_trains() -> None:
    network = drawn(built())
    step(network)
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    unused = ("prompt_encoder.", *(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    assert all(name.startswith(unused) for name in without)


def test_weights_of_sam_fill_the_frozen_part_whatever_their_layout(sam: Path, tmp_path: Path) -> None:
    donor = built("sam-small", sam, side=4 * SIDE)
    wanted = donor.state_dict()
    meta, folder = tmp_path / "sam.pth", tmp_path / "folder"
    torch.save(in_metas_layout(donor), meta)
    folder.mkdir()
    save_file(wanted, folder / "model.safetensors")
    for source in (sam, meta, folder):
        network = built(weights=source, seed=2)
        found = network.state_dict()
        assert set(found) - set(wanted) == network.fresh
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == [
            f"vision_encoder.layers.{i}.attn.rel_pos_{axis}" for i in network.global_blocks for axis in "hw"
        ]  # resized: 16 tokens along each side become 4


def test_a_run_of_samus_fits_whole_or_not_at_all(tmp_path: Path) -> None:
    donor, file = drawn(built()), tmp_path / "model.safetensors"
    tensors = {f"model.{name}": value.clone() for name, value in donor.state_dict().items()}
    save_file(tensors | {"localiser.fc.bias": torch.zeros(2)}, file)
    found = built(weights=file, seed=3).state_dict()
    assert all(torch.equal(found[name], value) for name, value in donor.state_dict().items())
    del tensors["model.branch.0.0.weight"]
    save_file(tensors | {"localiser.fc.bias": torch.zeros(2)}, file)
    with pytest.raises(RecipeError, match=r"1 missing \(branch.0.0.weight\)"):
        built(weights=file)
    with pytest.raises(RecipeError, match="not known"):
        built("sam-small", file)


def test_a_tensor_of_sam_that_is_missing_is_named(tmp_path: Path) -> None:
    tensors, file = built("sam-small").state_dict(), tmp_path / "sam.safetensors"
    del tensors["vision_encoder.layers.3.attn.proj.bias"]
    save_file(tensors, file)
    with pytest.raises(RecipeError, match=r"1 missing \(vision_encoder.layers.3.attn.proj.bias\)"):
        built(weights=file)


def test_the_tokens_are_given_what_those_places_of_the_branch_hold_that_they_ask_for() -> None:
    """One head of one place each: the softmax of the products of queries and keys, by hand."""
    torch.manual_seed(0)
    cross = drawn(CrossedBlock(built("sam-small").blocks[1], 16, 1).cross)
    tokens, maps = torch.randn(1, 1, 2, 16), torch.randn(1, 16, 1, 2)
    query = cross.q(tokens[0, 0])
    seen = maps[0, :, 0].T
    weights = (query @ cross.k(seen).T / math.sqrt(16)).softmax(-1)
    wanted = cross.proj(weights @ cross.v(seen))
    assert torch.allclose(cross(tokens, maps)[0, 0], wanted, atol=1e-4)


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    network = drawn(built()).train()
    network.embed(images()).square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    checkpoint_blocks(network, "all")
    network.embed(images()).square().mean().backward()
    for name, gradient in wanted.items():
        assert torch.allclose(network.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-5), name
