"""InceptionV2 as a stack of feature maps: GoogLeNet with batch normalisation, known as BN-Inception.

Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
arXiv:1502.03167, appendix (figure 5). As in the detectors that use it, the stem's first convolution is a separable one
with depth multiplier 8; the last inception block, which pools by its maximum, is the deepest map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The paper's table: 1x1; 3x3 and its reduction; double 3x3 and its reduction; the pooling and what follows it.
# A block without 1x1 halves the map. 0 after the pooling: the pooled map is passed on.
BLOCKS: dict[str, tuple[int, tuple[int, int], tuple[int, int], tuple[str, int]]] = {
    "3a": (64, (64, 64), (64, 96), ("avg", 32)),
    "3b": (64, (64, 96), (64, 96), ("avg", 64)),
    "3c": (0, (128, 160), (64, 96), ("max", 0)),
    "4a": (224, (64, 96), (96, 128), ("avg", 128)),
    "4b": (192, (96, 128), (96, 128), ("avg", 128)),
    "4c": (160, (128, 160), (128, 160), ("avg", 96)),
    "4d": (96, (128, 192), (160, 192), ("avg", 96)),
    "4e": (0, (128, 192), (192, 256), ("max", 0)),
    "5a": (352, (192, 320), (160, 224), ("avg", 128)),
    "5b": (352, (192, 320), (192, 224), ("max", 128)),
}
STAGES = {8: ("3a", "3b"), 16: ("3c", "4a", "4b", "4c", "4d"), 32: ("4e", "5a", "5b")}
CHANNELS = {4: 192, 8: 320, 16: 576, 32: 1024}


class InceptionV2(nn.Module):
    """Images (b, 3, h, w) to the maps at the given strides, each (b, `CHANNELS`, h / stride, w / stride).

    Args:
        strides: rising, among 4, 8, 16 and 32; what lies beyond the last is left out.
    """

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        stem = [_separable(3, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1), _conv(64, 64, 1), _conv(64, 192, 3)]
        self.stages = nn.ModuleDict({"4": nn.Sequential(*stem)})
        channels = CHANNELS[4]
        for stride, names in STAGES.items():
            if stride > strides[-1]:
                break
            if stride == 8:
                blocks: list[nn.Module] = [nn.MaxPool2d(3, 2, 1)]
            else:
                blocks = []
            for name in names:
                blocks.append(block := Inception(channels, *BLOCKS[name]))
                channels = block.channels
            self.stages[str(stride)] = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, finest first."""
        maps = []
        for stride, stage in self.stages.items():
            images = stage(images)
            if int(stride) in self.strides:
                maps.append(images)
        return maps


class Inception(nn.Module):
    """Parallel branches whose maps are stacked; see `BLOCKS` for what the arguments mean."""

    def __init__(
        self,
        channels: int,
        single: int,
        triple: tuple[int, int],
        double_triple: tuple[int, int],
        pooling: tuple[str, int],
    ) -> None:
        super().__init__()
        stride, (kind, projected) = 1 if single else 2, pooling
        pool = nn.AvgPool2d(3, 1, 1) if kind == "avg" else nn.MaxPool2d(3, stride, 1)
        branches = [
            nn.Sequential(_conv(channels, triple[0], 1), _conv(*triple, 3, stride)),
            nn.Sequential(
                _conv(channels, double_triple[0], 1),
                _conv(*double_triple, 3),
                _conv(double_triple[1], double_triple[1], 3, stride),
            ),
            nn.Sequential(pool, _conv(channels, projected, 1)) if projected else pool,
        ]
        if single:
            branches.insert(0, _conv(channels, single, 1))
        self.branches = nn.ModuleList(branches)
        self.channels = single + triple[1] + double_triple[1] + (projected or channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) to (b, self.channels, h, w), or half of h and w."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _separable(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, 8 * inputs, kernel, stride, kernel // 2, groups=inputs, bias=False)
    return nn.Sequential(depthwise, *_conv(8 * inputs, outputs, 1))
