from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.errors import RecipeError
from leanmed.models.sam import sam_vit
from leanmed.models.sam_weights import load_sam_weights, transformers_name
from sam_fixtures import in_metas_layout


def sam(weights: str | Path = "", side: int = 64, window: int = 2) -> Any:
    """A tiny network, the first block with windows and the second without, all of it drawn or from a file."""
    torch.manual_seed(2 if weights else 1)
    network = sam_vit(8, 2, 2, (1,), side, window, 16, 32)
    if weights:
        load_sam_weights(network, str(weights), "sam-small")
        return network
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("meta", "transformers"),
    {
        "image_encoder.pos_embed": "vision_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight": "vision_encoder.patch_embed.projection.weight",
        "image_encoder.blocks.10.norm1.weight": "vision_encoder.layers.10.layer_norm1.weight",
        "image_encoder.blocks.10.attn.rel_pos_h": "vision_encoder.layers.10.attn.rel_pos_h",
        "image_encoder.blocks.10.mlp.lin1.bias": "vision_encoder.layers.10.mlp.lin1.bias",
        "image_encoder.neck.3.bias": "vision_encoder.neck.layer_norm2.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "prompt_encoder.shared_embedding."
        "positional_embedding",
        "prompt_encoder.point_embeddings.3.weight": "prompt_encoder.point_embed.3.weight",
        "prompt_encoder.mask_downscaling.6.weight": "prompt_encoder.mask_embed.conv3.weight",
        "mask_decoder.transformer.layers.1.norm4.bias": "mask_decoder.transformer.layers.1.layer_norm4.bias",
        "mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
        "mask_decoder.transformer.layers.0.mlp.lin2.bias": "mask_decoder.transformer.layers.0.mlp.lin2.bias",
        "mask_decoder.output_upscaling.3.weight": "mask_decoder.upscale_conv2.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias": "mask_decoder.output_hypernetworks_mlps.3.layers.0."
        "bias",
        "mask_decoder.iou_prediction_head.layers.2.weight": "mask_decoder.iou_prediction_head.proj_out.weight",
        "lora.norm1": "lora.norm1",  # unknown, and reported as it is
    }.items(),
)
def test_metas_names_become_those_of_transformers(meta: str, transformers: str) -> None:
    assert transformers_name(meta) == transformers


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "module."])
def test_a_file_in_metas_layout_gives_every_tensor(wrapper: str, tmp_path: Path) -> None:
    donor, file = sam(), tmp_path / "sam.pth"
    tensors = in_metas_layout(donor)
    saved: dict[str, Any] = dict(tensors)
    if wrapper == "module.":  # training on several devices
        saved = {wrapper + name: value for name, value in tensors.items()}
    elif wrapper:
        saved = {wrapper: tensors, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(saved, file)
    assert_same(sam(file), donor)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    donor, file = sam().half().float(), tmp_path / "sam.safetensors"
    save_file({name: value.half() for name, value in in_metas_layout(donor).items()}, file)
    assert_same(sam(file), donor)


def test_a_folder_and_a_file_in_transformers_layout_give_every_tensor(tmp_path: Path) -> None:
    donor = sam()
    tensors = donor.state_dict()
    save_file(tensors, tmp_path / "ours.safetensors")
    assert_same(sam(tmp_path / "ours.safetensors"), donor)
    folder = tmp_path / "theirs"
    folder.mkdir()
    name = "prompt_encoder.shared_embedding.positional_embedding"
    shared = {"shared_image_embedding.positional_embedding": tensors.pop(name)}  # the only name in some files
    save_file({name: tensors.pop(name) for name in list(tensors)[:50]}, folder / "model-00001-of-00002.safetensors")
    save_file({**tensors, **shared}, folder / "model-00002-of-00002.safetensors")
    assert_same(sam(folder), donor)


def test_a_fold_of_a_run_gives_its_sam_without_localiser_and_calibration(tmp_path: Path) -> None:
    tensors = {f"model.{name}": value.clone() for name, value in sam().state_dict().items()}
    others = {"localiser.backbone.fc.weight": torch.zeros(2, 3), "temperature": torch.ones(())}
    save_file(tensors | others, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert_same(sam(source), sam())


def test_positions_are_resized_to_another_side_and_other_windows(tmp_path: Path) -> None:
    donor, file = sam(), tmp_path / "sam.pth"
    torch.save(in_metas_layout(donor), file)
    loaded = sam(file, side=32, window=1)
    wanted = donor.state_dict()
    # Half of 4 x 4: each centre lies between four of the old ones.
    positions = F.avg_pool2d(wanted["vision_encoder.pos_embed"].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert torch.allclose(loaded.vision_encoder.pos_embed, positions, atol=1e-6)
    assert [b.attn.rel_pos_h.shape for b in loaded.blocks] == [(1, 4), (3, 4)]  # windows of 1, and 2 patches
    changed = [name for name, value in loaded.state_dict().items() if not torch.equal(value, wanted[name])]
    assert {name.split(".")[-1] for name in changed} == {"pos_embed", "rel_pos_h", "rel_pos_w"}


def test_relative_positions_are_resized_linearly(tmp_path: Path) -> None:
    tensors, file = in_metas_layout(sam()), tmp_path / "sam.pth"
    tensors["image_encoder.blocks.1.attn.rel_pos_h"] = (
        torch.tensor([0.0, 6, 12, 18, 24, 30, 36]).view(7, 1).repeat(1, 4)
    )
    torch.save(tensors, file)
    found = sam(file, side=32).vision_encoder.layers[1].attn.rel_pos_h  # 7 to 3, of 4 patches to 2
    # The new centres lie at (i + .5) 7 / 3 - .5 = 2 / 3, 3 and 16 / 3 of the old ones, which are 6 apart.
    assert found[:, 0].tolist() == pytest.approx([4, 18, 32])


def test_all_that_does_not_fit_is_in_one_message(tmp_path: Path) -> None:
    tensors, file = in_metas_layout(sam()), tmp_path / "sam.pth"
    del tensors["image_encoder.neck.0.weight"]
    tensors["image_encoder.blocks.0.Adapter.D_fc1.weight"] = torch.zeros(2, 2)
    tensors["mask_decoder.mask_tokens.weight"] = torch.zeros(10, 16)
    torch.save(tensors, file)
    with pytest.raises(RecipeError) as caught:
        sam(file)
    assert str(caught.value) == (
        f"{file} does not fit sam-small: of its 174 tensors, 1 missing (vision_encoder.neck.conv1.weight); 1 not known "
        "(vision_encoder.layers.0.Adapter.D_fc1.weight); 1 of another shape (mask_decoder.mask_tokens.weight is 10 x "
        "16 and should be 4 x 16); choose the backbone that these weights were made for"
    )


def test_the_message_names_the_network_that_the_weights_are_of(tmp_path: Path) -> None:
    file = tmp_path / "sam.pth"
    torch.save({"image_encoder.patch_embed.proj.bias": torch.zeros(1280)}, file)
    with pytest.raises(RecipeError, match=r"173 missing .* and 165 more\).*it looks like one for sam-vit-h\)"):
        sam(file)


@pytest.mark.parametrize(
    "tensors",
    [
        {
            "w_a_000": torch.zeros(4, 8),
            "w_b_000": torch.zeros(8, 4),
            "mask_decoder.iou_token.weight": torch.zeros(1, 16),
        },
        {"base_model.model.vision.qkv.lora_A.weight": torch.zeros(4, 8), "base.lora_B.weight": torch.zeros(8, 4)},
    ],
)
def test_a_file_of_lora_alone_is_refused_by_name(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "lora.pt"
    torch.save(tensors, file)
    with pytest.raises(RecipeError, match=r"got LoRA's alone, .* and 1 more, .* the weights they were trained on"):
        sam(file)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_what_is_no_weights_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled, empty, text = tmp_path / "pickle.pth", tmp_path / "none.pth", tmp_path / "text.safetensors"
    torch.save({"model": Harmful()}, pickled)
    torch.save({"epoch": 3}, empty)
    text.write_text("weights")
    folder = tmp_path / "folder"
    folder.mkdir()
    for file, message in (
        (pickled, "cannot be read as weights"),
        (empty, "got no tensors, without an image encoder"),
        (text, "cannot be read as weights"),
        (folder, "expected .safetensors files in .*, got none"),
        (tmp_path / "not-there.pth", "which is not there"),
        ("imagenet", "to be none, a folder, .* got imagenet"),
    ):
        with pytest.raises(RecipeError, match=message):
            sam(file)
    assert capsys.readouterr().out == ""


def test_only_safetensors_are_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    donor = sam()
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert_same(sam("facebook/sam-vit-base"), donor)
    assert asked == [("facebook/sam-vit-base", ["*.safetensors"])]


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(RecipeError, match=re.escape("could not be fetched from Hugging Face's hub (OSError)")):
        sam("facebook/sam-vit-base")


def test_a_run_with_adapters_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {f"model.{name}": value.clone() for name, value in sam().state_dict().items()}
    others = {
        "localiser.backbone.fc.weight": torch.zeros(2, 3),
        "model.vision_encoder.layers.0.attn.adapter.down.weight": torch.zeros(2, 8),
    }
    save_file(tensors | others, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="got one with adapters; take the weights that it started from"):
        sam(tmp_path)
