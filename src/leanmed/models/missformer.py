"""MISSFormer: efficient attention in encoder and decoder, and a bridge of attention between maps of all sizes.

Huang et al. 2021, "MISSFormer: An Effective Medical Image Segmentation Transformer", arXiv:2109.07162, figures 1 to 3.

Readings: widths of 64, 128, 320 and 512; two blocks at each size; keys and values of one token in 64, 16, 4 and 1; an
"enhanced mix-FFN" of one skip, with one normalisation; a bridge of four layers. This network has 35.45M parameters; of
the 42.46M that others state for the authors' code, it leaves out those that never take part in an answer: two blocks
and a linear layer at the coarsest size of the decoder, and two normalisations in each mix-FFN.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, Segmenter, initialise
from leanmed.models.windows import PatchExpand

RATIOS = (1, 2, 5, 8)  # channels of the maps, fine to coarse, in widths; and heads of their attention
REDUCTIONS = (8, 4, 2, 1)  # side of the square of tokens that become one key and value
DEPTH = 2  # blocks at each size
BRIDGES = 4  # layers of the bridge
PATCH = 4  # pixels, the side of a token


class MISSFormer(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, the full size) and the end of the encoder
    (8 x `width` channels, a 32nd). The network has no dropout.

    Args:
        channels: of the images.
        classes: of the logits.
        width: channels of the finest map of tokens, an even number.
    """

    stride = 32
    early = Tap("encoder.0")

    def __init__(self, channels: int, classes: int, *, width: int = 64) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"expected width to be an even number of at least 2, got {width}")
        widths = [width * ratio for ratio in RATIOS]
        self.feature_channels, self.pretrained_cfg = (width, widths[-1]), {}
        self.encoder = nn.ModuleList(
            Stage(inputs, outputs, level) for level, (inputs, outputs) in enumerate(pairwise([channels, *widths]))
        )
        self.bridge = nn.Sequential(*(Bridge(width) for _ in range(BRIDGES)))
        self.first = PatchExpand(widths[-1], widths[-1] // 2, 2)
        self.decoder = nn.ModuleList(
            Up(coarse // 2, own, level) for level, (own, coarse) in reversed(list(enumerate(pairwise(widths))))
        )
        self.last = PatchExpand(width, width, PATCH)
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self, self.classifier)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        x, found = images, []
        for stage in self.encoder:
            x = stage(x)
            found.append(x.permute(0, 2, 3, 1))
        *skips, deepest = self.bridge(found)
        y = self.first(deepest)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            y = block(y, skip)
        shallow = self.last(y).permute(0, 3, 1, 2)
        return Maps(self.classifier(shallow), (shallow, x))


class Stage(nn.Module):
    """Overlapping patches of a map become tokens of a coarser one, which blocks of attention follow."""

    def __init__(self, inputs: int, outputs: int, level: int) -> None:
        super().__init__()
        kernel, stride = (3, 2) if level else (7, PATCH)
        self.patches, self.patch_norm = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LayerNorm(outputs)
        self.blocks, self.norm = _blocks(outputs, level), nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        x = self.patch_norm(self.patches(x).permute(0, 2, 3, 1))
        return self.norm(self.blocks(x)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Up(nn.Module):
    """A map and the bridge's of the same size, joined by a linear layer; blocks; then, but at the last, enlarged."""

    def __init__(self, inputs: int, dim: int, level: int) -> None:
        super().__init__()
        self.joined = nn.Linear(inputs + dim, dim)
        self.blocks = _blocks(dim, level)
        self.expand = PatchExpand(dim, dim // 2, 2) if level else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b, h, w, inputs) and (b, h, w, dim) to (b, 2h, 2w, dim / 2), or at the last to (b, h, w, dim)."""
        return self.expand(self.blocks(self.joined(torch.cat([x, skip], -1))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Efficient attention and an enhanced mix-FFN, each with a skip."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.mlp = Attention(dim, heads), MixFFN(dim)
        self.reduction = nn.Identity() if reduction == 1 else Reduced(dim, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to the same shape."""
        tokens = self.norm1(x)
        x = x + self.attention(tokens.flatten(1, 2), self.reduction(tokens).flatten(1, 2)).view_as(x)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Bridge(nn.Module):
    """The "enhanced transformer context bridge": tokens of all maps attend to those of all maps, made fewer.

    A token of a coarser map is cut into as many tokens of `width` channels as it has widths.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm1, self.norm2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 1)
        self.reductions = nn.ModuleList(
            nn.Identity() if reduction == 1 else Fewer(ratio * width, reduction)
            for ratio, reduction in zip(RATIOS, REDUCTIONS, strict=True)
        )
        self.mlps = nn.ModuleList(MixFFN(ratio * width) for ratio in RATIOS)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (b, h, w, c), fine to coarse, to the same shapes."""
        tokens = self._tokens(maps)
        normed = _maps(self.norm1(tokens), maps)
        fewer = self._tokens([reduce(x) for reduce, x in zip(self.reductions, normed, strict=True)])
        tokens = tokens + self.attention(self.norm1(tokens), self.norm(fewer))
        normed = _maps(self.norm2(tokens), maps)
        changes = [mlp(x) for mlp, x in zip(self.mlps, normed, strict=True)]
        return [x + change for x, change in zip(_maps(tokens, maps), changes, strict=True)]

    def _tokens(self, maps: list[Tensor]) -> Tensor:
        return torch.cat([x.reshape(len(x), -1, self.width) for x in maps], 1)


class Attention(nn.Module):
    """Attention of tokens to others, of which there may be fewer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """(b, n, dim) and (b, m, dim) to (b, n, dim)."""
        k, v = self.kv(others).chunk(2, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.q(tokens), k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Fewer(nn.Module):
    """Squares of tokens become one each."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to (b, h / side, w / side, dim)."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Reduced(Fewer):
    """The same, normalised."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__(dim, side)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to (b, h / side, w / side, dim)."""
        return self.norm(super().forward(x))  # type: ignore[no-any-return]


class MixFFN(nn.Module):
    """The "enhanced mix-FFN": an MLP whose hidden layer is mixed with its neighbours' by a 3x3 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv, self.norm = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to the same shape."""
        x = self.fc1(x)
        mixed = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(self.norm(mixed + x)))  # type: ignore[no-any-return]


def _blocks(dim: int, level: int) -> nn.Sequential:
    return nn.Sequential(*(Block(dim, RATIOS[level], REDUCTIONS[level]) for _ in range(DEPTH)))


def _maps(tokens: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The tokens (b, n, width) of all maps to maps of the shapes of others."""
    width = tokens.shape[-1]
    parts = torch.split(tokens, [x[0].numel() // width for x in like], 1)
    return [part.reshape(x.shape) for part, x in zip(parts, like, strict=True)]
