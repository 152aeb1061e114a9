"""TransUNet: a ResNet-50 whose last map goes through a vision transformer, and a U-Net's decoder.

Chen et al. 2021, "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", arXiv:2102.04306,
figure 1, with R50-ViT-B/16.

Readings: the ResNet, of three stages, and the transformer are those of R50+ViT-B/16 (Dosovitskiy et al. 2020,
arXiv:2010.11929), without the token of the class; the decoder's maps have 512 channels, then 256, 128, 64 and 16, and
three of the four steps join a map of the ResNet. With three channels and a side of 224 this gives the 105.28M
parameters of HA-SAM's table 1 (with the nine classes of the paper, and with two, to the printed digits).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.create_conv2d import create_conv2d
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import adapt_input_conv
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, PretrainedSegmenter, conv_norm, initialise

LAYERS = [3, 4, 9]  # blocks of the ResNet's stages
HEADS = 12
PATCH = 16  # pixels, the side of a token
STORED = ".parametrizations.weight.original"  # the weight of a convolution before it is standardised, by torch's name


class TransUNet(PretrainedSegmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (a quarter of `width` channels, the full size) and the end of the
    encoder (12 x `width` channels, a 16th).

    Args:
        channels: of the images.
        classes: of the logits.
        side: of the images in pixels. Each of its tokens has a place in a table, which is resized for other images.
        width: channels of the ResNet's first map, a multiple of 32; all other widths follow it.
        depth: blocks of the transformer.
        dropout: rate after the places are added and in the blocks of the transformer; paper's code: 0.1.
    """

    stride = 16
    early = Tap("resnet.stages.0")
    timm_name = "vit_base_r50_s16_224"

    def __init__(
        self, channels: int, classes: int, *, side: int = 224, width: int = 64, depth: int = 12, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if width < 32 or width % 32:
            raise ValueError(f"expected width to be a multiple of 32, got {width}")
        if depth < 1:
            raise ValueError(f"expected depth to be at least 1, got {depth}")
        dim, grid = 12 * width, -(-side // PATCH)
        self.timm_args = {"embed_dim": dim, "depth": depth, "num_heads": HEADS}
        self.feature_channels, self.pretrained_cfg = (width // 4, dim), {}
        self.resnet: Any = ResNetV2(
            LAYERS,
            channels=(4 * width, 8 * width, 16 * width),
            num_classes=0,
            in_chans=channels,
            global_pool="",
            stem_chs=width,
            stem_type="same",
            preact=False,
            conv_layer=_standardised,
        )
        self.patches = nn.Conv2d(16 * width, dim, 1)
        self.places = nn.Parameter(torch.zeros(1, dim, grid, grid))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, HEADS, qkv_bias=True, proj_drop=dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Sequential(*conv_norm(dim, 8 * width))
        widths = [8 * width, 4 * width, 2 * width, width, width // 4]
        skips = [8 * width, 4 * width, width, 0]
        self.decoder = nn.ModuleList(
            nn.Sequential(*conv_norm(inputs + skip, outputs), *conv_norm(outputs, outputs))
            for inputs, skip, outputs in zip(widths[:-1], skips, widths[1:], strict=True)
        )
        self.classifier = nn.Conv2d(width // 4, classes, 3, padding=1)
        initialise(self, self.classifier)
        nn.init.trunc_normal_(self.places, std=0.02)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of timm's R50+ViT-B/16, `timm_name`, made with `timm_args`."""
        resnet = _under("patch_embed.backbone.", weights)
        first = self.resnet.stem.conv.weight
        resnet["stem.conv.weight"] = adapt_input_conv(first.shape[1], resnet["stem.conv.weight"])
        for name in self.resnet.state_dict():
            if name.endswith(STORED):
                resnet[name] = resnet.pop(name.replace(STORED, ".weight"))
        self.resnet.load_state_dict(resnet)
        self.patches.load_state_dict(_under("patch_embed.proj.", weights))
        self.blocks.load_state_dict(_under("blocks.", weights))
        self.norm.load_state_dict(_under("norm.", weights))
        _, _, *grid = self.places.shape
        places = resample_abs_pos_embed(weights["pos_embed"], grid, num_prefix_tokens=1)[:, 1:]
        with torch.no_grad():
            self.places.copy_(places.transpose(1, 2).unflatten(2, grid))

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        stem = self.resnet.stem.norm(self.resnet.stem.conv(images))
        x, skips = self.resnet.stem.pool(stem), [stem]
        for stage in self.resnet.stages:
            x = stage(x)
            skips.append(x)
        x = self.patches(skips.pop())
        tokens = (x + _resized(self.places, x.shape[-2:])).flatten(2).transpose(1, 2)
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        deep = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
        x = self.reduction(deep)
        for block in self.decoder:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], 1) if skips else x)
        return Maps(self.classifier(x), (x, deep))


class Standardised(nn.Module):
    """Weights of a convolution, each output's with mean 0 and variance 1 (Qiao et al. 2019, arXiv:1903.10520).

    An exported graph holds what this gives.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """(outputs, inputs, kh, kw) to the same shape."""
        variance, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
        return (weight - mean) * torch.rsqrt(variance + 1e-8)


def _standardised(inputs: int, outputs: int, kernel_size: int, **options: Any) -> nn.Module:
    """A convolution without bias of standardised weights, padded to the size divided by its stride."""
    conv = create_conv2d(inputs, outputs, kernel_size, padding="same", bias=False, **options)  # type: ignore[no-untyped-call]
    return parametrize.register_parametrization(conv, "weight", Standardised())


def _resized(places: Tensor, size: torch.Size) -> Tensor:
    if places.shape[-2:] == size:
        return places
    return F.interpolate(places, size=size, mode="bicubic", align_corners=False)


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
