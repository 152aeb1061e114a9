"""H2Former: a ResNet-34 in whose stages attention within windows follows the convolutions.

He et al. 2023, "H2Former: An Efficient Hierarchical Hybrid Transformer for Medical Image Segmentation", IEEE
Transactions on Medical Imaging 42(9), figure 1.

Readings: the first convolution has a stride of 1, so that the maps are a half to a 16th of the image; the windows are a
16th of its side, in tokens; there are two blocks of attention at each size; and channels are weighed by efficient
channel attention (Wang et al. 2020, arXiv:1910.03151), which we compute of the maps, where the authors' code weighs
values that it has put in another order. With three channels and a side of 512 this gives the 33.87M parameters of
HA-SAM's table 1; the tables of relative positions, and so the count, grow with the side.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, PretrainedSegmenter, conv_norm, initialise
from leanmed.models.windows import WindowBlock, drop_rates

DEPTH = 2  # blocks of attention at each size
HEADS = (2, 4, 8, 16)  # fine to coarse
IMAGE_PATCHES = (2, 4, 8, 16)  # pixels: the sides of what the image's own tokens see
MERGED_PATCHES = (2, 4)  # the same of a map's tokens
WINDOWS = 16  # across the image's side, at the finest map two of them for each


class H2Former(PretrainedSegmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, a half of the size) and the end of the encoder
    (8 x `width` channels, a 16th). The network has no dropout.

    Args:
        channels: of the images.
        classes: of the logits.
        side: of the images in pixels, which the size of the windows follows.
        width: channels of the finest map, a multiple of 8; each coarser one has twice as many.
        drop_path: rate at which the deepest block of attention is left out in training; from the first block on it
            rises linearly.
    """

    stride = 16
    early = Tap("encoder.layer1")
    timm_name = "resnet34"

    def __init__(
        self, channels: int, classes: int, *, side: int = 224, width: int = 64, drop_path: float = 0.1
    ) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"expected width to be a multiple of 8, got {width}")
        widths = [width * 2**level for level in range(len(HEADS))]
        window = -(-side // WINDOWS)
        self.timm_args = {"channels": tuple(widths)}
        self.feature_channels, self.pretrained_cfg = (width, widths[-1]), {}
        self.encoder = _resnet(channels, self.timm_args)
        self.embedding = MultiScale(channels, width, IMAGE_PATCHES)
        self.image_norm = nn.LayerNorm(width)
        self.norms = nn.ModuleList(nn.LayerNorm(own) for own in widths[:-1])
        self.merging = nn.ModuleList(MultiScale(fine, coarse, MERGED_PATCHES) for fine, coarse in pairwise(widths))
        rates = drop_rates(drop_path, DEPTH * len(HEADS))
        self.attention = nn.ModuleList(
            nn.Sequential(
                *(
                    WindowBlock(
                        own, heads, window, shifted=n == 1, mlp=Weighed(own), drop_path=rates[DEPTH * level + n]
                    )
                    for n in range(DEPTH)
                )
            )
            for level, (own, heads) in enumerate(zip(widths, HEADS, strict=True))
        )
        self.decoder = nn.ModuleList(Up(coarse, fine) for coarse, fine in pairwise(reversed(widths)))
        self.classifier = nn.Conv2d(width, classes, 1, bias=False)
        initialise(self, self.classifier)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of timm's ResNet-34."""
        first = self.encoder.conv1.weight
        self.encoder.load_state_dict(
            {**weights, "conv1.weight": adapt_input_conv(first.shape[1], weights["conv1.weight"])}
        )

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        resnet = self.encoder
        tokens = _normed(self.image_norm, self.embedding(images))
        x = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images))))
        found = []
        for level, attention in enumerate(self.attention):
            if level:
                tokens = self.merging[level - 1](_normed(self.norms[level - 1], x))
            x = getattr(resnet, f"layer{level + 1}")(x) + tokens
            x = attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            found.append(x)
        deep = found.pop()
        for block in self.decoder:
            x = block(x, found.pop())
        logits = F.interpolate(self.classifier(x), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return Maps(logits, (x, deep))


class ChannelAttention(nn.Module):
    """Efficient channel attention, added to what it weighs: each channel by its mean and those of its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same shape."""
        weights: Tensor = self.conv(x.mean((2, 3))[:, None]).sigmoid()  # (b, 1, c)
        return x * (1 + weights[:, 0, :, None, None])


class MultiScale(nn.Module):
    """Maps of half the size, by convolutions of several sizes side by side; the smallest give the most channels."""

    def __init__(self, inputs: int, outputs: int, patches: tuple[int, ...]) -> None:
        super().__init__()
        shares = [outputs // 2 ** (n + 1) for n in range(len(patches) - 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, own, side, 2, (side - 2) // 2)
            for own, side in zip([*shares, outputs - sum(shares)], patches, strict=True)
        )
        self.weighed = ChannelAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h / 2, w / 2)."""
        return self.weighed(torch.cat([conv(x) for conv in self.convs], 1))  # type: ignore[no-any-return]


class Weighed(nn.Module):
    """An MLP whose channels are weighed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.weighed = ChannelAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to the same shape."""
        return self.weighed(self.layers(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Up(nn.Module):
    """A coarse map, enlarged by a transposed convolution, joined with a finer one, through a 3x3 convolution."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, fine, 2, 2)
        self.conv = nn.Sequential(*conv_norm(2 * fine, fine, bias=True))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b, coarse, h / 2, w / 2) and (b, fine, h, w) to (b, fine, h, w)."""
        return self.conv(torch.cat([self.up(x), skip], 1))  # type: ignore[no-any-return]


def _resnet(channels: int, options: dict[str, Any]) -> Any:
    """timm's ResNet-34, whose first convolution keeps the size."""
    resnet: Any = timm.create_model(H2Former.timm_name, pretrained=False, in_chans=channels, num_classes=0, **options)
    resnet.conv1.stride = (1, 1)
    return resnet


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer normalisation of the channels of (b, c, h, w)."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
