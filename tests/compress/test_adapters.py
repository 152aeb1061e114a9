"""Adapters in networks: where they are, what trains, and that they change nothing before they are trained."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from leanmed.compress.adapter_files import base_sha256, load_adapters, save_adapters
from leanmed.compress.adapter_layers import Bottleneck
from leanmed.compress.adapters import adapt, adapter_tensors, find_blocks, merge, remove, trainable_parameters
from leanmed.errors import ArtifactError, RecipeError
from leanmed.recipe.recipe import Adapters
from leanmed.tasks.base import Parts

BOTTLENECKS = ["hierarchical", "hierarchical-0.24", "uniform", "reversed", "first-removed", "last-removed"]
BOTTLENECKS += ["strategy-1", "strategy-2", "med-sa"]
METHODS = [*BOTTLENECKS, "lora", "full", "decoder"]
HEAD = Parts("", fresh=("head",))


def vit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 2}
    return timm.create_model("vit_tiny_patch16_224", **shape)


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def settings(method: str, **more: Any) -> Adapters:
    return Adapters.model_validate({"method": method, **more})


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def step(model: nn.Module) -> set[str]:
    """Names of the tensors that two steps of training change; the first leaves `down` alone, since `up` is zero."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.down.bias)  # a ReLU of one unit may answer to no token
    before = tensors(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("method", METHODS)
def test_before_training_nothing_has_changed(method):
    model = vit().eval()
    with torch.no_grad():
        before = model(images())
        adapt(model, settings(method), parts=HEAD)
        assert torch.equal(model(images()), before)


@pytest.mark.parametrize("method", BOTTLENECKS)
def test_only_bottlenecks_and_the_new_head_are_trained(method):
    model = vit()
    record = adapt(model, settings(method), parts=HEAD)
    own = {name for name in model.state_dict() if ".adapter." in name}
    assert own == set(adapter_tensors(model))
    wanted = own | {"head.weight", "head.bias"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == wanted
    assert step(model) == wanted
    assert record.trainable == record.added + 2 * 16 + 2
    assert record.added == sum(2 * (2 * 16 * w + w + 16) for w in record.widths if w)


def test_only_lora_of_queries_and_values_is_trained():
    model = vit()
    record = adapt(model, settings("lora", rank=2), parts=HEAD)
    layers = [f"blocks.{k}.attn.qkv.{part}" for k in range(3) for part in "qv"]
    own = {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == own | {"head.weight", "head.bias"}
    assert step(model) == own | {"head.weight", "head.bias"}
    assert record.added == 3 * 2 * (16 * 2 + 2 * 16)


def test_full_trains_all_and_decoder_the_head_alone():
    model = vit()
    adapt(model, settings("full"), parts=HEAD)
    assert step(model) == set(model.state_dict())
    model = vit()
    adapt(model, settings("decoder"), parts=HEAD)
    assert step(model) == {"head.weight", "head.bias"}


def test_a_bottleneck_lies_after_attention_and_one_beside_the_mlp():
    model = vit().eval()
    adapt(model, settings("hierarchical"))
    block = model.blocks[2]
    for part in (block.attn.adapter, block.mlp.adapter):
        nn.init.normal_(part.up.weight)
        nn.init.normal_(part.up.bias)
    plain = deepcopy(model)
    remove(plain)
    x = torch.randn(1, 4, 16)

    def bottleneck(part: Bottleneck, given: Tensor) -> Tensor:
        return torch.relu(given @ part.down.weight.T + part.down.bias) @ part.up.weight.T + part.up.bias

    with torch.no_grad():
        attended = plain.blocks[2].attn(block.norm1(x))
        x1 = x + attended + bottleneck(block.attn.adapter, attended)
        given = block.norm2(x1)
        wanted = x1 + plain.blocks[2].mlp(given) + bottleneck(block.mlp.adapter, given)
        assert torch.allclose(block(x), wanted, atol=1e-6)


def test_the_adapter_of_med_sa_beside_the_mlp_counts_half_and_has_gelu():
    model = vit()
    adapt(model, settings("med-sa"))
    part = model.blocks[0].mlp.adapter
    nn.init.normal_(part.up.weight)
    x = torch.randn(2, 16)
    assert torch.allclose(part(x), 0.5 * part.up(nn.functional.gelu(part.down(x))))
    assert model.blocks[0].attn.adapter.scale == 1


def test_a_copy_uses_its_own_adapters():
    model = vit().eval()
    adapt(model, settings("uniform"))
    copy = deepcopy(model)
    nn.init.normal_(copy.blocks[0].attn.adapter.up.weight)
    with torch.no_grad():
        assert torch.equal(model(images()), vit().eval()(images()))
        assert not torch.equal(copy(images()), model(images()))


@pytest.mark.parametrize("method", ["hierarchical", "med-sa", "lora"])
def test_removed_adapters_leave_the_network_as_it_was(method):
    model, plain = vit(), vit()
    adapt(model, settings(method))
    step(model)
    assert remove(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), plain.eval()(images()))
    adapt(model, settings(method))  # and it can be adapted again


def test_merged_lora_answers_alike_with_the_layers_of_the_network():
    model, plain = vit(), vit()
    adapt(model, settings("lora"))
    step(model)
    with torch.no_grad():
        before = model.eval()(images())
        assert merge(model) == [f"blocks.{k}.attn.qkv.{part}" for k in range(3) for part in "qv"]
        assert torch.allclose(model(images()), before, atol=1e-5)
        assert not torch.allclose(plain.eval()(images()), before, atol=1e-3)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    changed = model.state_dict()["blocks.0.attn.qkv.weight"] != plain.state_dict()["blocks.0.attn.qkv.weight"]
    assert changed[:16].any()  # queries
    assert not changed[16:32].any()  # keys
    assert changed[32:].any()  # values


def test_merging_leaves_bottlenecks_in_place():
    model = vit()
    adapt(model, settings("hierarchical"))
    assert merge(model) == []
    assert adapter_tensors(model)


def test_the_counts_are_true():
    model = vit()
    record = adapt(model, settings("uniform", ratio=0.25), parts=HEAD)
    assert record.widths == (4, 4, 4)
    assert record.added == 3 * 2 * (2 * 16 * 4 + 4 + 16)
    assert record.trainable == trainable_parameters(model) == record.added + 2 * 16 + 2


def test_the_stages_of_swin_are_one_sequence():
    shape = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2, **shape).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        record = adapt(model, settings("uniform", ratio=0.5))
        assert torch.equal(model(x), before)
    assert record.blocks == ("layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1")
    assert (record.dims, record.widths) == ((8, 16, 16), (4, 8, 8))


def test_a_network_without_blocks_is_refused():
    model = timm.create_model("test_efficientnet", num_classes=2)
    with pytest.raises(
        RecipeError, match=r"expected a network with a sequence of transformer blocks.*convolutional ones"
    ):
        adapt(model, settings("hierarchical"))


def test_one_of_two_sequences_must_be_named():
    model = nn.ModuleDict({"left": vit(), "right": vit()})
    with pytest.raises(RecipeError, match=r"got 2; name one of left\.blocks, right\.blocks"):
        adapt(model, settings("uniform"))
    assert find_blocks(model, "right.blocks") == tuple(f"right.blocks.{k}" for k in range(3))
    with pytest.raises(RecipeError, match=r"at adapters\.blocks 'up', got none; they are at left\.blocks"):
        find_blocks(model, "up")


def test_adapters_upon_adapters_are_refused():
    model = vit()
    adapt(model, settings("uniform"))
    with pytest.raises(RecipeError, match="without adapters"):
        adapt(model, settings("lora"))


def test_a_decoder_is_not_asked_of_a_network_without_one():
    with pytest.raises(RecipeError, match="without a decoder"):
        adapt(vit(), settings("uniform", decoder=True))


def test_without_a_method_nothing_is_done():
    model = vit()
    assert adapt(model, settings("none")) is None
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "chosen", [settings("hierarchical", ratio=0.5), settings("lora"), settings("decoder")], ids=lambda c: c.method
)
def test_a_file_of_adapters_holds_them_alone_and_brings_them_back(chosen, tmp_path):
    model = vit()
    adapt(model, chosen, parts=HEAD)
    trained = step(model)
    size = save_adapters(model, tmp_path / "a.safetensors")
    assert size < 4 * sum(p.numel() for p in model.parameters())
    other = vit()
    nn.init.ones_(other.head.weight)  # which the file brings too
    assert load_adapters(other, tmp_path / "a.safetensors", parts=HEAD).settings == chosen
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())
    assert {name for name, p in other.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("method", ["hierarchical", "lora"])
def test_adapters_do_not_fit_other_weights(method, tmp_path):
    model = vit()
    adapt(model, settings(method))
    save_adapters(model, tmp_path / "a.safetensors")
    other = vit(seed=1)
    before = tensors(other)
    with pytest.raises(ArtifactError, match=r"expected the weights that .* was trained on, of hash \w{12}, got others"):
        load_adapters(other, tmp_path / "a.safetensors")
    assert other.state_dict().keys() == before.keys()


@pytest.mark.parametrize("method", ["hierarchical", "lora"])
def test_the_hash_of_the_base_is_the_same_with_adapters(method):
    model = vit()
    before = base_sha256(model)
    adapt(model, settings(method))
    step(model)
    assert base_sha256(model) == before
    with torch.no_grad():
        model.pos_embed[0, 0, 0] += 1
    assert base_sha256(model) != before


def test_damaged_and_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(ArtifactError, match="got none"):
        load_adapters(vit(), path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match="another kind of file"):
        load_adapters(vit(), path)
    path.write_bytes(b"none of this")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_adapters(vit(), path)
    model = vit()
    with pytest.raises(ArtifactError, match="got one without"):
        save_adapters(model, path)


def test_a_file_with_other_tensors_than_its_settings_is_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path, model = tmp_path / "a.safetensors", vit()
    adapt(model, settings("uniform"))
    save_adapters(model, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    held = load_file(path)
    held.popitem()
    save_file(held, path, metadata)
    other = vit()
    with pytest.raises(ArtifactError, match=r"expected in .* the tensors that its settings ask for"):
        load_adapters(other, path)
    assert not adapter_tensors(other)
