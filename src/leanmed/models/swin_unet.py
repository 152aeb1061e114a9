"""Swin-Unet: a U-Net whose blocks are attention within shifted windows, in the encoder as in the decoder.

Cao et al. 2021, "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", arXiv:2105.05537, figure 1.

Readings: two blocks at each size, an encoder of the widths of Swin-T, and windows of 7 x 7 tokens of 4 x 4 pixels. With
three channels this gives the 27.17M parameters that others state. Weights of Swin-T fill the encoder (of its six blocks
at the third size, the first two); the decoder, which the paper's code fills by the encoder's weights, is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.models import adapt_input_conv
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, PretrainedSegmenter, initialise
from leanmed.models.windows import PatchExpand, WindowBlock, drop_rates

PATCH = 4  # pixels, the side of a token
DEPTH = 2  # blocks at each size
HEADS = (3, 6, 12, 24)  # of the attention, fine to coarse


class SwinUnet(PretrainedSegmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, the full size) and the end of the encoder
    (8 x `width` channels, a 32nd). The network has no dropout.

    Args:
        channels: of the images.
        classes: of the logits.
        width: channels of the finest map of tokens, a multiple of 3; each coarser one has twice as many.
        window: side in tokens of the windows in which tokens attend to each other.
        drop_path: rate at which the deepest block is left out in training; from the first block on it rises linearly.
    """

    stride = 32
    early = Tap("encoder.layers.0.blocks", axis=-1)
    timm_name = "swin_tiny_patch4_window7_224"

    def __init__(
        self, channels: int, classes: int, *, width: int = 96, window: int = 7, drop_path: float = 0.1
    ) -> None:
        super().__init__()
        if width < 3 or width % 3:
            raise ValueError(f"expected width to be a multiple of 3, the heads of the finest attention, got {width}")
        self.timm_args = {"embed_dim": width, "window_size": window}
        widths = [width * 2**level for level in range(len(HEADS))]
        self.feature_channels, self.pretrained_cfg = (width, widths[-1]), {}
        rates = drop_rates(drop_path, DEPTH * len(HEADS))  # the decoder's blocks have those of the same size
        self.encoder = Encoder(channels, widths, window, rates)
        self.first = PatchExpand(widths[-1], widths[-2], 2)
        self.decoder = nn.ModuleList(
            Up(own, heads, window, rates[DEPTH * level : DEPTH * (level + 1)], last=level == 0)
            for level, (own, heads) in reversed(list(enumerate(zip(widths[:-1], HEADS[:-1], strict=True))))
        )
        self.norm = nn.LayerNorm(width)
        self.last = PatchExpand(width, width, PATCH)
        self.classifier = nn.Conv2d(width, classes, 1, bias=False)
        initialise(self, self.classifier)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of timm's Swin-T, `timm_name`, made with `timm_args`."""
        own = self.encoder.state_dict()
        found = {name: weights[name] for name in own}
        name = "patch_embed.proj.weight"
        found[name] = adapt_input_conv(own[name].shape[1], found[name])
        self.encoder.load_state_dict(found)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        *skips, deep = self.encoder(images)
        x = self.first(deep)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        shallow = self.last(self.norm(x)).permute(0, 3, 1, 2)
        return Maps(self.classifier(shallow), (shallow, deep.permute(0, 3, 1, 2)))


class Encoder(nn.Module):
    """Images to maps of tokens, each half the size of the one before. The parameters are named as in timm."""

    def __init__(self, channels: int, widths: list[int], window: int, rates: list[float]) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(channels, widths[0], PATCH, PATCH), "norm": nn.LayerNorm(widths[0])}
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "downsample": PatchMerging(widths[level - 1]) if level else nn.Identity(),
                    "blocks": _blocks(own, heads, window, rates[DEPTH * level : DEPTH * (level + 1)]),
                }
            )
            for level, (own, heads) in enumerate(zip(widths, HEADS, strict=True))
        )
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(b, channels, h, w) to maps (b, h / 4, w / 4, width) and coarser ones."""
        x = self.patch_embed["norm"](self.patch_embed["proj"](images).permute(0, 2, 3, 1))
        found = []
        for layer in self.layers:
            x = layer["blocks"](layer["downsample"](x))  # type: ignore[index]
            found.append(x)
        return [*found[:-1], self.norm(x)]


class Up(nn.Module):
    """A map and the encoder's of the same size, joined by a linear layer; blocks; then, but at the last, enlarged."""

    def __init__(self, dim: int, heads: int, window: int, rates: list[float], *, last: bool) -> None:
        super().__init__()
        self.joined = nn.Linear(2 * dim, dim)
        self.blocks = _blocks(dim, heads, window, rates)
        self.expand = nn.Identity() if last else PatchExpand(dim, dim // 2, 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b, h, w, dim), twice, to (b, 2h, 2w, dim / 2), or at the last to the same shape."""
        return self.expand(self.blocks(self.joined(torch.cat([x, skip], -1))))  # type: ignore[no-any-return]


def _blocks(dim: int, heads: int, window: int, rates: list[float]) -> nn.Sequential:
    return nn.Sequential(
        *(WindowBlock(dim, heads, window, shifted=n % 2 == 1, drop_path=rate) for n, rate in enumerate(rates))
    )
