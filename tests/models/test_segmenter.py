from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from leanmed.errors import RecipeError
from leanmed.models.deeplabv3plus import MeanNorm
from leanmed.models.enet import pool, unpool
from leanmed.models.espnet import ESPNet
from leanmed.models.segmentation import ConvAndPool, PretrainedSegmenter, Segmenter
from leanmed.models.segmenter import NETWORKS, build_segmenter
from leanmed.models.swin_unet import SwinUnet
from leanmed.models.transunet import TransUNet
from leanmed.models.windows import PatchExpand, WindowBlock, _regions
from leanmed.recipe.recipe import Model

ENCODER = "test_efficientnet"
# Small enough to run: name -> backbone_args.
SMALL: dict[str, dict[str, Any]] = {
    "enet": {},
    "espnet": {"width": 6},
    "erfnet": {},
    "unet": {"width": 4},
    "unetplusplus": {"width": 4, "deep_supervision": True},
    "deeplabv3plus": {"output_stride": 16},
    "deeplabv3plus_resnet50": {},
    "transunet": {"width": 32, "depth": 1},
    "h2former": {"width": 16},
    "swinunet": {"width": 12},
    "missformer": {"width": 8},
    ENCODER: {"width": 8},
}
# Parameters with one channel and two classes; GFLOPs of the convolutions at 384 x 384, as torch counts them.
COUNTED = {
    "enet": (353_792, 2.062835712),
    "espnet": (182_659, 1.198084608),
    "erfnet": (2_062_872, 14.868799488),
    "unet": (31_036_546, 216.432377856),
    "unetplusplus": (36_628_546, 619.890868224),
    "deeplabv3plus": (54_699_858, 271.57209088),
    "deeplabv3plus_resnet50": (40_341_026, 77.32461568),
    "transunet": (105_561_634, 179.245154304),
    "h2former": (33_755_360, 156.525151104),
    "swinunet": (27_165_156, 37.47887616),
    "missformer": (35_446_018, 76.235931648),
}
# As published, with two classes: channels, parameters in millions, GFLOPs at 384 x 384. The last are twice the products
# of convolutions, two for each value that is normalised, and one for each that a PReLU is given.
PUBLISHED = {
    "enet": (1, 0.3538, 2.18),
    "espnet": (3, 0.1837, 1.27),
    "erfnet": (1, 2.063, 16.53),
    "unetplusplus": (1, 36.63, 620.8),
    "deeplabv3plus": (3, 56.80, 273.6),
}
# As published for three channels: classes, the images' side, parameters in millions. HA-SAM's table 1 prints the first
# two; its 23.53 for U-Net fit no reading.
TRANSFORMERS = {
    "transunet": (9, 224, 105.28),
    "h2former": (2, 512, 33.87),
    "swinunet": (9, 224, 27.17),
    "missformer": (9, 224, 42.46),
}
# Published with DeepLabV3+, and not in its paper: ImageNet's classifier, and 3x3 in place of 1x1 from 128 to 48 maps.
# Published with MISSFormer, and never run: at the coarsest size of the decoder a linear layer and two blocks of 512
# channels (attention; the MLP and its depthwise convolution; normalisations), and elsewhere two normalisations in each
# MLP: 1024 channels over the four sizes, twice in the encoder and once in each of the bridge's four layers, and 512
# over the other three sizes of the decoder, twice.
MISSFORMER_BLOCK = 4 * (512**2 + 512) + (8 * 512**2 + 5 * 512 + 10 * 2048) + (4 * 512 + 3 * 2 * 2048)
LEFT_OUT = {
    "deeplabv3plus": 2048 * 1000 + 1000 + 8 * 128 * 48,
    "missformer": 1024 * 512 + 512 + 2 * MISSFORMER_BLOCK + 2 * 2 * 4 * (2 * 1024 + 4 * 1024 + 2 * 512),
}


def segmenter(name: str, channels: int = 1, classes: int = 2, **settings: Any) -> Segmenter:
    torch.manual_seed(0)
    model = Model.model_validate({"backbone": name, "weights": "none", "side": 64, **settings})
    return build_segmenter(model, channels, classes)


def small(name: str, **shape: int) -> Segmenter:
    return segmenter(name, backbone_args=SMALL[name], **shape)


def on_meta(name: str, channels: int = 1, classes: int = 2, **settings: Any) -> Segmenter:
    with torch.device("meta"):  # counted, not computed with
        return segmenter(name, channels, classes, **settings).eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", COUNTED)
def test_the_numbers_of_parameters_and_flops_are_known(name: str) -> None:
    network = on_meta(name, side=384)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 384, 384, device="meta"))
    assert (count(network), counter.get_total_flops() / 1e9) == COUNTED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_those_published_to_the_printed_digits(name: str) -> None:
    channels, millions, _ = PUBLISHED[name]
    found = count(on_meta(name, channels)) + LEFT_OUT.get(name, 0)
    assert float(f"{found / 1e6:.4g}") == millions


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_parameters_of_transformers_are_those_published_to_the_printed_digits(name: str) -> None:
    classes, side, millions = TRANSFORMERS[name]
    found = count(on_meta(name, 3, classes, side=side)) + LEFT_OUT.get(name, 0)
    assert round(found / 1e6, 2) == millions


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_flops_are_those_published_to_one_percent(name: str) -> None:
    channels, _, gflops = PUBLISHED[name]
    assert 2e-9 * operations(on_meta(name, channels), channels, name == "erfnet") == pytest.approx(gflops, rel=0.01)


def operations(network: nn.Module, channels: int, as_if_dense: bool) -> int:
    """See `PUBLISHED`; `as_if_dense`: each output of a transposed convolution is held to use the whole kernel."""
    counts: Counter[str] = Counter()

    def hook(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            counts["convolutions"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            positions = output[0, 0] if as_if_dense else inputs[0][0, 0]
            counts["transposed"] += positions.numel() * module.weight.numel()
        elif isinstance(module, nn.BatchNorm2d):
            counts["normalised"] += 2 * output.numel()
        elif isinstance(module, nn.PReLU):
            counts["activated"] += output.numel()

    for module in network.modules():
        module.register_forward_hook(hook)
    network(torch.zeros(1, channels, 384, 384, device="meta"))
    return counts.total()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 70)])
def test_there_is_a_logit_for_each_class_and_pixel_of_an_image_of_any_size(name: str, height: int, width: int) -> None:
    network = small(name, channels=3, classes=4).eval()
    with torch.inference_mode():
        maps = network(images(1, 3, height, width))
    assert maps.logits.shape == (1, 4, height, width)
    assert maps.logits.isfinite().all()
    assert maps.auxiliary == ()
    assert tuple(m.shape[1] for m in maps.features) == network.feature_channels
    heights = [m.shape[2] for m in maps.features]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_is_answered_alone_as_in_a_batch(name: str) -> None:
    network, batch = small(name).eval(), images(2, 1, 64, 64)
    with torch.inference_mode():
        together, alone = network(batch).logits[1:], network(batch[1:]).logits
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_parameter_learns_with_a_finite_gradient_even_from_one_image(name: str, batch: int) -> None:
    network = small(name).train()
    maps = network(images(batch, 1, 64, 64))
    targets = torch.zeros(batch, 64, 64, dtype=torch.long)
    targets[:, 20:40, 10:50] = 1
    sum(F.cross_entropy(logits, targets) for logits in (maps.logits, *maps.auxiliary)).backward()  # type: ignore[union-attr]
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        *((name, 0.01) for name in ("enet", "espnet", "erfnet", "unet", "unetplusplus", "h2former", ENCODER)),
        *((name, 0.003) for name in ("transunet", "swinunet", "missformer")),
    ],
)
def test_a_network_with_random_weights_starts_undecided_and_learns_to_mark_a_square(name: str, rate: float) -> None:
    network = small(name).train()
    x, targets = images(2, 1, 64, 64) / 4, torch.zeros(2, 64, 64, dtype=torch.long)
    targets[:, 16:48, 16:48] = 1
    x += targets[:, None]
    optimizer = torch.optim.Adam(network.parameters(), rate)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(network(x).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.45  # a constant answer has .56: a quarter of the pixels is marked


@pytest.mark.parametrize("name", [name for name in SMALL if name != "deeplabv3plus_resnet50"])  # ours are all exported
def test_onnx_runtime_gives_what_torch_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {  # more of the same take longer to export
        "xception.MIDDLE_BLOCKS": 1,
        "transunet.LAYERS": [1, 1, 1],
        "swin_unet.HEADS": (3, 6),
        "missformer.DEPTH": 1,
        "missformer.BRIDGES": 1,
    }
    for constant, value in fewer.items():
        monkeypatch.setattr(f"leanmed.models.{constant}", value)
    network, x = small(name), images(1, 1, 64, 64)
    with torch.no_grad():
        network.train()(images(2, 1, 64, 64))  # so that the normalisation does something
        wanted = network.eval()(x)
    program = torch.onnx.export(network, (x,), dynamo=True, opset_version=21, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for ours, theirs in zip(found, (wanted.logits, *wanted.features), strict=True):
        scale = max(1.0, theirs.abs().max().item())
        assert np.abs(ours - theirs.numpy()).max() <= 1e-4 * scale


def test_enet_pools_and_unpools_as_torch_does_with_indices() -> None:
    x = images(2, 3, 6, 8)
    pooled, where = pool(x)
    wanted, indices = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(pooled, wanted)
    values = images(2, 3, 3, 4)
    assert torch.equal(unpool(values, where), F.max_unpool2d(values, indices, 2))


def test_enet_unpools_to_all_equal_maxima() -> None:
    x = torch.tensor([[1.0, 1.0, 0.0, 2.0], [1.0, 0.5, 2.0 - 1e-6, 1.0]]).view(1, 1, 2, 4)
    pooled, where = pool(x)
    assert pooled.flatten().tolist() == [1.0, 2.0]
    assert unpool(torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), where)[0, 0].tolist() == [[3, 3, 0, 4], [3, 0, 4, 0]]


def test_the_two_parts_of_a_stack_are_normalised_as_the_stack_is() -> None:
    torch.manual_seed(0)
    block, x = ConvAndPool(2, 6).train(), images(3, 2, 8, 8)
    whole = F.batch_norm(torch.cat([block.conv(x), block.pool(x)], 1), None, None, training=True, eps=1e-3)
    assert torch.allclose(block(x), whole, atol=1e-5)


def test_the_images_mean_is_normalised_by_the_running_statistics_where_there_is_one_image() -> None:
    norm = MeanNorm(2).train()
    norm.running_mean = torch.tensor([1.0, 3.0])
    norm.running_var = torch.tensor([4.0, 1.0])
    assert norm(torch.tensor([3.0, 1.0]).view(1, 2, 1, 1)).flatten().tolist() == pytest.approx([1.0, -2.0], abs=1e-4)
    both = norm(torch.tensor([[1.0, 5.0], [3.0, 9.0]]).view(2, 2, 1, 1))
    assert both.flatten(1).tolist() == [pytest.approx([-1, -1], abs=1e-4), pytest.approx([1, 1], abs=1e-4)]


def test_deep_supervision_gives_three_more_logits_in_training_only() -> None:
    network, x = small("unetplusplus"), images(1, 1, 20, 30)
    assert [logits.shape for logits in network.train()(x).auxiliary] == [(1, 2, 20, 30)] * 3
    assert network.eval()(x).auxiliary == ()
    assert segmenter("unetplusplus", backbone_args={"width": 4}).train()(x).auxiliary == ()


def test_espnet_has_a_dilation_for_each_of_few_channels() -> None:
    decoder = ESPNet(1, 2).join2[1]
    assert [branch.dilation[0] for branch in decoder.branches] == [1, 2]


@pytest.mark.parametrize("name", ["enet", "erfnet"])
def test_dropout_is_the_rate_of_the_deep_blocks_and_a_tenth_of_it_that_of_the_early_ones(name: str) -> None:
    rates = [module.p for module in segmenter(name, dropout=0.2).modules() if isinstance(module, nn.Dropout2d)]
    assert {rate for rate in rates if rate} == {0.2, 0.02}


@pytest.mark.parametrize("name", ["deeplabv3plus", ENCODER])
def test_dropout_comes_before_the_last_layer(name: str) -> None:
    network = segmenter(name, dropout=0.4, backbone_args=SMALL[name])
    assert [m.p for m in network.get_submodule("classifier").children() if isinstance(m, nn.Dropout2d)] == [0.4]


def test_dropout_comes_at_the_end_of_the_unets_encoder_and_throughout_the_transunets_transformer() -> None:
    rates = {}
    for name in ("unet", "transunet"):
        network = segmenter(name, dropout=0.4, backbone_args=SMALL[name])
        rates[name] = [module.p for module in network.modules() if isinstance(module, nn.Dropout) and module.p]
    assert rates["unet"] == [0.4]
    # of the tokens, and in the one block of the attention's answer and the MLP's two layers
    assert rates["transunet"] == [0.4] * 4


def test_h2formers_windows_and_transunets_places_follow_the_side() -> None:
    for side, window, grid in ((64, 4, 4), (100, 7, 7)):
        attention = segmenter("h2former", side=side, backbone_args=SMALL["h2former"]).get_submodule("attention.0.0")
        assert attention.window == window
        places = segmenter("transunet", side=side, backbone_args=SMALL["transunet"]).get_parameter("places")
        assert places.shape[2:] == (grid, grid)


def test_places_are_resized_where_an_image_is_of_another_side() -> None:
    network = segmenter("transunet", backbone_args=SMALL["transunet"]).eval()
    x = images(1, 1, 32, 48)
    with torch.no_grad():
        network.places[:] = torch.linspace(0, 1, network.places.shape[1])[:, None, None]  # everywhere the same
        wide = network(x).features[-1]
        network.places = nn.Parameter(network.places[..., :2, :3])
        assert torch.allclose(wide, network(x).features[-1], atol=1e-5)


def test_transunets_resnet_gives_what_timms_gives() -> None:
    network, x = segmenter("transunet", channels=3, backbone_args={"depth": 1}).eval(), images(1, 3, 64, 96)
    assert isinstance(network, TransUNet)
    reference = timm.create_model(network.timm_name, num_classes=0, **network.timm_args).eval()
    network.load_encoder(reference.state_dict())
    with torch.inference_mode():
        assert torch.allclose(network.resnet(x), reference.patch_embed.backbone(x), atol=1e-4)


def test_swin_unets_encoder_gives_what_timms_swin_gives() -> None:
    name = "swinunet"
    reference = timm.create_model(
        SwinUnet.timm_name, num_classes=0, embed_dim=12, depths=(2, 2, 2, 2), features_only=True
    ).eval()
    network, x = segmenter(name, channels=3, backbone_args=SMALL[name]).eval(), images(1, 3, 224, 224)
    assert isinstance(network, SwinUnet)
    state = {key.replace("layers_", "layers."): value for key, value in reference.state_dict().items()}
    norm = {f"norm.{key}": value for key, value in network.encoder.norm.state_dict().items()}  # timm leaves it out
    network.load_encoder({**state, **norm})
    with torch.inference_mode():
        *finer, deepest = reference(x)
        for found, wanted in zip(network.encoder(x), (*finer, network.encoder.norm(deepest)), strict=True):
            assert torch.allclose(found, wanted, atol=1e-4)


def test_nothing_attends_to_the_padding_of_a_map_smaller_than_its_window() -> None:
    torch.manual_seed(0)
    block, x = WindowBlock(4, 1, 3, shifted=True), images(1, 2, 2, 4)
    nn.init.zeros_(block.attn.relative_position_bias_table)
    attention = block.attn
    q, k, v = attention.qkv(x.flatten(1, 2)).chunk(3, -1)
    wanted = attention.proj(F.scaled_dot_product_attention(q, k, v)).view_as(x)
    assert torch.allclose(block._attended(x), wanted, atol=1e-6)


def test_the_part_of_a_shifted_window_that_comes_from_the_other_end_is_told_apart_and_so_is_padding() -> None:
    # five places and one of padding, moved by one: 1, 2, 3, 4, padding, 0
    assert _regions(5, 1, 1, torch.zeros(0)).tolist() == [0, 0, 0, 0, 2, 1]


def test_tokens_become_squares_of_tokens() -> None:
    expand = PatchExpand(1, 1, 2)
    with torch.no_grad():
        expand.expand.weight[:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expand.norm = nn.Identity()  # type: ignore[assignment]
    assert expand(torch.tensor([1.0, 10.0]).view(1, 1, 2, 1))[0, ..., 0].tolist() == [[1, 2, 10, 20], [3, 4, 30, 40]]


def test_deeplabs_deep_map_has_the_output_stride() -> None:
    for name, stride in (("deeplabv3plus", 8), ("deeplabv3plus", 16), ("deeplabv3plus_resnet50", 8)):
        with torch.device("meta"):
            network = segmenter(name, backbone_args={"output_stride": stride}).eval()
        assert network(torch.zeros(1, 1, 64, 96, device="meta")).features[-1].shape[2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize("finest", [2, 4, 8])
def test_a_decoder_may_end_at_a_coarser_map(finest: int) -> None:
    whole = segmenter(ENCODER, backbone_args={"width": 8}).eval()
    coarse = segmenter(ENCODER, backbone_args={"width": 8, "finest": finest}).eval()
    found = coarse(images(1, 1, 64, 96))
    assert found.logits.shape == (1, 2, 64, 96)
    assert found.features[0].shape == (1, 8, 64 // finest, 96 // finest)
    assert len(coarse.decoder) == len(whole.decoder) - [2, 4, 8].index(finest)  # type: ignore[arg-type]


@pytest.mark.parametrize("finest", [3, 32, "4", True])
def test_a_map_that_an_encoder_does_not_have_is_refused(finest: object) -> None:
    with pytest.raises(RecipeError, match=r"finest in model\.backbone_args to be one of 2, 4, 8, 16, by which"):
        segmenter(ENCODER, backbone_args={"finest": finest})


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoders_weights_come_from_a_file_summed_over_colours_where_images_have_none(
    channels: int, tmp_path: Path
) -> None:
    donor = segmenter(ENCODER, channels=3, backbone_args={"width": 8}).eval()
    file = tmp_path / "weights.safetensors"
    save_file(donor.encoder.state_dict(), file)  # type: ignore[union-attr, operator]
    torch.manual_seed(1)
    loaded = segmenter(ENCODER, channels, weights=str(file), backbone_args={"width": 8}).eval()
    grey = images(1, 1, 64, 64)
    wanted = donor(grey.expand(-1, 3, -1, -1)).features[-1]
    assert torch.allclose(loaded(grey.expand(-1, channels, -1, -1)).features[-1], wanted, atol=1e-4)
    with pytest.raises(RecipeError, match="does not fit resnet18"):
        segmenter("resnet18", weights=str(file))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "arguments", "first", "layer"),
    [
        (
            "transunet",
            {"depth": 1},
            ("resnet.stem.conv.parametrizations.weight.original", "patch_embed.backbone.stem.conv.weight"),
            ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
        ),
        (
            "h2former",
            {"width": 16},
            ("encoder.conv1.weight", "conv1.weight"),
            ("encoder.layer4.2.conv2.weight", "layer4.2.conv2.weight"),
        ),
        (
            "swinunet",
            {"width": 12},
            ("encoder.patch_embed.proj.weight", "patch_embed.proj.weight"),
            ("encoder.layers.2.blocks.1.mlp.fc1.weight", "layers.2.blocks.1.mlp.fc1.weight"),
        ),
    ],
)
def test_the_encoders_of_transformers_take_weights_of_timms_networks(
    name: str, arguments: dict[str, Any], first: tuple[str, str], layer: tuple[str, str], channels: int, tmp_path: Path
) -> None:
    like = segmenter(name, backbone_args=arguments)
    assert isinstance(like, PretrainedSegmenter)
    torch.manual_seed(1)
    donor, file = timm.create_model(like.timm_name, num_classes=0, **like.timm_args), tmp_path / "weights.safetensors"
    save_file(donor.state_dict(), file)
    loaded = segmenter(name, channels, weights=str(file), backbone_args=arguments)
    assert torch.equal(loaded.get_parameter(layer[0]), donor.get_parameter(layer[1]))
    colours = donor.get_parameter(first[1])
    wanted = colours if channels == 3 else colours.sum(1, keepdim=True)
    assert torch.allclose(loaded.get_parameter(first[0]), wanted, atol=1e-6)


def test_an_encoders_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(segmenter("enet").state_dict(), file)
    with pytest.raises(RecipeError, match="does not fit resnet34, the encoder of h2former"):
        segmenter("h2former", weights=str(file), backbone_args={"width": 8})


def test_a_networks_weights_come_from_a_file_but_for_another_number_of_classes(tmp_path: Path) -> None:
    donor, file = segmenter("enet").eval(), tmp_path / "weights.safetensors"
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.mul_(1.5)  # what a newly drawn network cannot have
    save_file(donor.state_dict(), file)
    loaded, x = segmenter("enet", classes=5, weights=str(file)).eval(), images(1, 1, 32, 32)
    assert torch.equal(loaded(x).features[0], donor(x).features[0])
    assert loaded(x).logits.shape[1] == 5
    with pytest.raises(RecipeError, match="does not fit erfnet"):
        segmenter("erfnet", weights=str(file))


def test_networks_that_no_hub_has_refuse_imagenet_unless_trained_weights_follow() -> None:
    with pytest.raises(RecipeError, match="which no hub has; set it to none"):
        segmenter("enet", weights="imagenet")
    assert build_segmenter(Model(backbone="enet"), 1, 2, pretrained=False).stride == 8


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("enet", {"width": 32}, "enet to have no keys but none, got width"),
        ("unetplusplus", {"widht": 32}, "no keys but deep_supervision, width, got widht"),
        ("unetplusplus", {"width": 0}, "expected width to be at least 1, got 0"),
        ("unetplusplus", {"width": "wide"}, "unetplusplus cannot be built with"),
        ("unet", {"width": 0}, "expected width to be at least 1, got 0"),
        ("transunet", {"width": 48}, "expected width to be a multiple of 32, got 48"),
        ("transunet", {"depth": 0}, "expected depth to be at least 1, got 0"),
        ("transunet", {"side": 64}, "no keys but depth, width, got side"),
        ("h2former", {"width": 4}, "expected width to be a multiple of 8, got 4"),
        ("h2former", {"drop_path": 1.0}, "expected drop_path to be at least 0 and below 1, got 1.0"),
        ("swinunet", {"width": 8}, "expected width to be a multiple of 3"),
        ("swinunet", {"window": 0}, "expected windows of at least 1 token, got 0"),
        ("missformer", {"width": 3}, "expected width to be an even number of at least 2, got 3"),
        ("espnet", {"p": -1}, "expected p and q to be at least 0"),
        ("deeplabv3plus", {"output_stride": 4}, "expected output_stride to be 8 or 16, got 4"),
        ("deeplabv3plus_resnet50", {"output_stride": 32}, "expected output_stride to be 8 or 16, got 32"),
        ("deeplabv3plus_resnet50", {"heads": 3}, "timm cannot make"),
        (ENCODER, {"width": -1}, "expected width to be at least 1, got -1"),
        (ENCODER, {"heads": 3}, "timm cannot make model.backbone 'test_efficientnet'"),
        ("resnet9", {}, "timm cannot make model.backbone 'resnet9'"),
        ("vit_tiny_patch16_224", {}, "vit_tiny_patch16_224"),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}, "to give maps|cannot take images"),
    ],
)
def test_unknown_names_and_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        segmenter(name, backbone_args=arguments)


@pytest.mark.parametrize("name", ["enet", "erfnet"])
def test_a_first_layer_that_also_pools_needs_room_for_the_channels_it_pools(name: str) -> None:
    with pytest.raises(RecipeError, match="expected fewer than 16 channels in the images, got 16"):
        segmenter(name, channels=16)


def test_the_names_are_those_of_the_papers() -> None:
    assert list(NETWORKS) == list(SMALL)[:-1]


@pytest.mark.parametrize("name", SMALL)
def test_the_early_maps_of_every_network_are_finer_than_an_eighth_of_the_image(name: str) -> None:
    network = small(name).eval()
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    network.get_submodule(network.early.path).register_forward_hook(look)
    with torch.inference_mode():
        deep = network(images(1, 1, 64, 64)).features[-1]
    (maps,) = seen
    height, width = maps.movedim(network.early.axis, 1).shape[2:]
    assert height == width
    assert 8 <= height <= 64
    assert height > deep.shape[2]
