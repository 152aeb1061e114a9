"""SSD and SSDlite over any backbone, for objects of one kind, with a top-down neck where they are small.

SSD: Liu et al. 2016, arXiv:1512.02325. SSDlite: Sandler et al. 2018, arXiv:1801.04381. The neck: Lin et al. 2017,
"Feature Pyramid Networks for Object Detection", arXiv:1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.anchors import default_boxes
from leanmed.models.backbones import Backbone
from leanmed.models.pixels import LEVELS, resized, unit
from leanmed.recipe.recipe import STRIDES, Model

EXTRAS = ((256, 512), (128, 256), (128, 128), (64, 128))  # 1x1, then 3x3 with stride 2, for each added map
PRIOR = 0.01  # the score every default box starts from: nearly all of them are background


class Design(Protocol):
    """How an SSD is made; the recipe's section `detector` is one, and says what each value means."""

    @property
    def slices(self) -> int: ...  # noqa: D102
    @property
    def zoom(self) -> int: ...  # noqa: D102
    @property
    def neck(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def deepest(self) -> int: ...  # noqa: D102
    @property
    def levels(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def head(self) -> str: ...  # noqa: D102
    @property
    def anchors_per_level(self) -> int: ...  # noqa: D102


class SSD(nn.Module):
    """Square images in, a score and a box for each default box out.

    Args:
        settings: backbone, its weights, and the side of the square.
        detector: neck, heads and default boxes.
        pretrained: load the backbone's weights that the settings name.

    Raises:
        RecipeError: no such backbone, or weights that are not there or do not fit it.
    """

    sides: Tensor

    def __init__(self, settings: Model, detector: Design, *, pretrained: bool = True) -> None:
        super().__init__()
        self.side, self.zoom, self.levels = settings.side, detector.zoom, detector.levels
        self.slices = detector.slices
        self.backbone = Backbone(settings, backbone_strides(detector), pretrained=pretrained)
        lite = detector.head == "ssdlite"
        if detector.neck == "fpn":
            self.neck: nn.Module = TopDown(self.backbone.channels, detector)
            channels = [detector.width] * len(detector.levels)
        else:
            added = len(detector.levels) - len(self.backbone.channels)
            self.neck = Added(self.backbone.channels[-1], added, lite)
            channels = self.backbone.channels + [c for _, c in EXTRAS[:added]]
        self.heads = nn.ModuleList(Head(c, detector.anchors_per_level, lite) for c in channels)
        self.register_buffer("sides", torch.ones(len(detector.levels) * detector.anchors_per_level))
        self.to(memory_format=torch.channels_last)  # a seventh to a fifth less time in training on a CPU

    def default_boxes(self, side: int, which: Tensor | None = None) -> Tensor:
        """(n, 4) xyxy in pixels of an image of side x side: all, in the order of `forward`'s outputs, or some."""
        return default_boxes(side, [stride / self.zoom for stride in self.levels], self.sides, which)

    def square(self, height: int, width: int) -> Any:
        """The side of the square, in pixels of an image, that becomes `side` x `side`."""
        return torch.sym_max(torch.sym_max(height, width), self.side)

    def frame(self, pixels: Tensor) -> Tensor:
        """Pixels (h, w, 3 or 4) uint8 to (slices, side, side) in [0, 1]: padded, and shrunk only if larger."""
        channels = pixels.permute(2, 0, 1)
        seen = channels[1:2] if self.slices == 1 else channels[:3]
        return resized(seen, self.side, self.square(*pixels.shape[:2])) / LEVELS

    def forward(self, images: Tensor) -> Tensor:
        """(b, slices, s, s), uint8 or in [0, 1], to (b, n, 5): four offsets and a logit for each default box."""
        return self.reveal(images)[0]

    def reveal(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, and the maps that the heads look at, (b, c, h, w) each, finest first."""
        images = unit(images)
        if self.zoom > 1:
            images = F.interpolate(images, scale_factor=self.zoom, mode="bilinear")
        maps: list[Tensor] = self.neck(self.backbone(images.expand(-1, 3, -1, -1)))
        return torch.cat([head(m) for head, m in zip(self.heads, maps, strict=True)], 1).float(), maps


def backbone_strides(detector: Design) -> tuple[int, ...]:
    """Which of the backbone's maps are used."""
    if detector.neck == "none":
        return tuple(stride for stride in detector.levels if stride <= detector.deepest)
    return tuple(stride for stride in STRIDES if detector.levels[0] <= stride <= detector.deepest)


class Added(nn.Module):
    """A backbone's maps, and further ones of half the size each."""

    def __init__(self, channels: int, count: int, lite: bool) -> None:
        super().__init__()
        blocks = []
        for reduced, outputs in EXTRAS[:count]:
            blocks.append(nn.Sequential(conv(channels, reduced, 1), block(lite)(reduced, outputs, stride=2)))
            channels = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Finest first."""
        for block in self.blocks:
            maps = [*maps, block(maps[-1])]
        return maps


class TopDown(nn.Module):
    """A backbone's maps, each with what the coarser ones know added to it; those with heads, some convolutions on."""

    def __init__(self, channels: Sequence[int], detector: Design) -> None:
        super().__init__()
        width, convolution = detector.width, block(detector.head == "ssdlite")
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        towers = ([convolution(width, width) for _ in range(detector.depth)] for _ in detector.levels)
        self.towers = nn.ModuleList(nn.Sequential(*tower) for tower in towers)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Finest first."""
        joined: list[Tensor] = []
        for lateral, m in zip(reversed(self.lateral), reversed(maps), strict=True):
            own = lateral(m)
            joined.insert(0, own + F.interpolate(joined[0], scale_factor=2.0) if joined else own)
        return [tower(m) for tower, m in zip(self.towers, joined, strict=False)]


class Head(nn.Module):
    """A map to four offsets and a logit for each of `count` default boxes at each position."""

    def __init__(self, channels: int, count: int, lite: bool) -> None:
        super().__init__()
        self.offsets, self.logits = (
            _predictor(channels, n * count, lite, bias) for n, bias in ((4, 0.0), (1, math.log(PRIOR / (1 - PRIOR))))
        )

    def forward(self, m: Tensor) -> Tensor:
        """(b, channels, h, w) to (b, h x w x count, 5)."""
        offsets, logits = (x.permute(0, 2, 3, 1).flatten(1) for x in (self.offsets(m), self.logits(m)))
        return torch.cat([offsets.unflatten(1, (-1, 4)), logits[..., None]], -1)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalisation and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, then a 1x1 one."""
    return nn.Sequential(conv(inputs, inputs, 3, stride, groups=inputs), conv(inputs, outputs, 1))


def block(lite: bool) -> Callable[..., nn.Sequential]:
    """The 3x3 convolution of SSD, or that of SSDlite."""
    return separable if lite else conv


def _predictor(channels: int, outputs: int, lite: bool, bias: float) -> nn.Sequential:
    last = nn.Conv2d(channels, outputs, 1 if lite else 3, padding="same")
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.get_parameter("bias"), bias)
    return nn.Sequential(conv(channels, channels, 3, groups=channels), last) if lite else nn.Sequential(last)
