"""SAMUS: Segment Anything for ultrasound, whose frozen transformer is given what a small convolutional branch sees.

Lin et al. 2023, "SAMUS: Adapting Segment Anything Model for Clinically-Friendly and Generalizable Ultrasound Image
Segmentation", arXiv:2309.06824. Images have 256 pixels a side. Patches overlap, 16 pixels wide and 8 apart, so that
there are 32 x 32 tokens and masks have half of the image's size. Five parts are added to SAM, and where SAM's weights
are loaded, these alone are trained:

    position adapter        SAM's 64 x 64 positions, largest of 2 x 2, through a 3x3 convolution
    feature adapters        bottlenecks with GELU: one of the embedded patches, one beside the MLP of each global block
    CNN branch              3x3 convolutions of the image, pooled to the tokens' places; one more in each global block
    cross-branch attention  before a global block attends to its tokens, these ask the CNN branch
    sum                     half of what the CNN branch ends with is added to the tokens

Readings. Where the paper leaves open how wide these parts are and where they join, widths and joints are those of its
authors' code (github.com/xianlin7/SAMUS): bottlenecks of a quarter of the width, of half strength beside the MLP; 64,
128, 256 and 768 channels in the branch, each convolution with layer normalisation of the channels and GELU, and pooling
before it; as many heads as the block has, and no relative positions, in the attention across branches. Ours differs in
four things. The image is padded by 4 pixels, where the code enlarges it to 264. The position adapter is the pooling and
the convolution that the paper names, where the code has normalisation and GELU after them. The relative positions of
the global blocks are frozen with the rest of these, as the paper has it, where the code trains them (32,256 numbers).
And each addition starts at zero and the position adapter as the pooling alone, so that the network starts as SAM with
overlapping patches; the code starts at random values. At another side SAM's positions are resized to twice as many
along each side as there are tokens.

With SAM's ViT-B at 256 pixels there are 133,322,800 parameters, of which 39,620,096 are added and so trained. HA-SAM's
table 1 prints 130.10M as trainable. As many, trained or not, lie in linear layers, convolutions and normalisations of
tokens: 130,104,584, without the tables of positions, the decoder's tokens and the normalisations of maps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.sam import PATCH, Sam, sam_config, small_config

STRIDE = 8  # pixels from one token to the next
DOUBLINGS = (12, 6, 3)  # what the width is divided by in the CNN branch's first convolutions
LEAST = 8  # channels of the first
RATIO = 4  # the width over a bottleneck's
SHARE = 0.5  # by which the bottlenecks beside the MLP and the CNN branch's last maps are multiplied


class Samus(Sam):
    """SAM with a CNN branch and adapters; `fresh` names what SAM has not.

    Args:
        config: a `transformers.SamConfig` for a stride of 8, as `sam_config` makes it.
    """

    stride = STRIDE

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        sams = frozenset(self.state_dict())
        width, heads = config.vision_config.hidden_size, config.vision_config.num_attention_heads
        encoder, places = self.vision_encoder, 2 * self.side // STRIDE
        encoder.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, places, places, width), std=0.02))
        encoder.patch_embed = OverlappingPatches(encoder.patch_embed.projection)
        for i in self.global_blocks:
            encoder.layers[i] = CrossedBlock(encoder.layers[i], width, heads)
        self.feature_adapter = FeatureAdapter(width)
        self.position_adapter = PositionAdapter(width)
        self.branch = branch(width)
        last = encoder.layers[self.global_blocks[-1]].refine[1]  # GELU(0) is 0 and its slope is not, so it learns
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.fresh = frozenset(self.state_dict()) - sams

    def embed(self, images: Tensor) -> Tensor:
        """See the base class."""
        encoder = self.vision_encoder
        x = encoder.patch_embed(images)  # (b, h, w, width)
        x = x + self.feature_adapter(x) + self.position_adapter(encoder.pos_embed)
        maps = self.branch(images)  # (b, width, h, w)
        for i in range(len(self.blocks)):
            if i in self.global_blocks:
                x, maps = self.through(i, x, maps)
            else:
                x = self.through(i, x)
        return encoder.neck(x + SHARE * maps.permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class OverlappingPatches(nn.Module):
    """SAM's patches, each 16 pixels wide, with their centres 8 pixels apart.

    Args:
        projection: SAM's convolution, which is changed.
    """

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = projection
        projection.stride, projection.padding = (STRIDE, STRIDE), ((PATCH - STRIDE) // 2,) * 2

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, side, side) to (b, side / 8, side / 8, width)."""
        return self.projection(images).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class PositionAdapter(nn.Module):
    """Positions at half their size, the largest of each four at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, positions: Tensor) -> Tensor:
        """(1, 2 h, 2 w, width) to (1, h, w, width)."""
        return self.conv(F.max_pool2d(positions.permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class FeatureAdapter(nn.Module):
    """What is to be added to tokens (..., width): nothing before the first step of training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // RATIO)
        self.up = _zeroed(nn.Linear(width // RATIO, width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]


class CrossBranch(nn.Module):
    """Attention of the transformer's tokens to the CNN branch's maps: nothing before the first step of training."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = _zeroed(nn.Linear(width, width))

    def forward(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Tokens (b, h, w, width) that ask maps (b, width, h, w): what each is to be given."""
        seen = maps.flatten(2).transpose(1, 2)
        asked = (self.q(tokens.flatten(1, 2)), self.k(seen), self.v(seen))
        parts = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in asked)  # (b, heads, h w, c / heads)
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2)
        return self.proj(found.reshape(tokens.shape))  # type: ignore[no-any-return]


class CrossedBlock(nn.Module):
    """A block that attends to the whole image, and before it to the CNN branch.

    Args:
        made: transformers' `SamVisionLayer`, whose layers are taken over.
        width: of its tokens.
        heads: of its attention.
    """

    window_size = 0

    def __init__(self, made: Any, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1, self.attn = made.layer_norm1, made.attn
        self.layer_norm2, self.mlp = made.layer_norm2, made.mlp
        self.cross = CrossBranch(width, heads)
        self.feature_adapter = FeatureAdapter(width)
        self.refine = _convolution(width, width)

    def forward(self, x: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, h, w, width) and maps (b, width, h, w), both of the same shapes afterwards."""
        normed = self.layer_norm1(x)
        x = x + self.attn(normed + self.cross(normed, maps))[0]
        normed = self.layer_norm2(x)
        return x + self.mlp(normed) + SHARE * self.feature_adapter(normed), self.refine(maps)


def branch(width: int) -> nn.Sequential:
    """The CNN branch as far as the tokens' places: (b, 3, side, side) to (b, width, side / 8, side / 8)."""
    widths = [max(LEAST, width // share) for share in DOUBLINGS] + [width]
    pooled = [layer for fine, coarse in pairwise(widths) for layer in (nn.MaxPool2d(2), _convolution(fine, coarse))]
    return nn.Sequential(_convolution(3, widths[0]), *pooled)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, LayerNorm2d(outputs), nn.GELU())


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def samus_vit(width: int, depth: int, heads: int, global_blocks: tuple[int, ...], side: int) -> Samus:
    """SAMUS of one of SAM's own networks; the arguments are those of `sam_config`."""
    return Samus(sam_config(width, depth, heads, global_blocks, side, stride=STRIDE))


def samus_small(
    side: int, *, width: int = 192, depth: int = 12, heads: int = 3, window: int = 7, channels: int = 128
) -> Samus:
    """SAMUS of a small SAM, whose weights fit its frozen part; the arguments are those of `sam_small`.

    Raises:
        ValueError: numbers that do not fit each other.
    """
    return Samus(small_config(side, width, depth, heads, window, channels, STRIDE))
