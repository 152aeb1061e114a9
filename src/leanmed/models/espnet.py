"""ESPNet: convolutions reduced to few channels and spread over a pyramid of dilations.

Mehta et al. 2018, "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation",
arXiv:1803.06815, figures 1 to 4; the network of figure 4d, encoder and light decoder.

Readings: no convolution has a bias, the image is averaged to a half and a quarter of its size before it is joined
again, and the decoder's maps have as many channels as there are classes. With fewer classes than dilations, the
decoder's pyramid has one channel for each of as many dilations, smallest first. With three
channels, two classes, and 2 and 3 modules on the second and third level, this gives the .1837M parameters and, with
normalisation and activations counted, the 1.27 GFLOPs at 384 x 384 that a later paper states; one channel has .1827M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, PReLU, Segmenter, initialise

EPS = 1e-3  # of batch normalisation
DILATIONS = (1, 2, 4, 8, 16)


class ESPNet(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, half the size) and the end of the encoder
    (256 channels, an eighth). The network has no dropout.

    Args:
        channels: of the images.
        classes: of the logits.
        p: modules on the second level.
        q: modules on the third level.
        width: channels of the decoder's maps; None: as many as classes, as in the paper.
    """

    stride = 8
    early = Tap("norm2")

    def __init__(self, channels: int, classes: int, *, p: int = 2, q: int = 3, width: int | None = None) -> None:
        super().__init__()
        width = classes if width is None else width
        if min(p, q) < 0 or width < 1:
            raise ValueError(f"expected p and q to be at least 0 and width at least 1, got {p}, {q} and {width}")
        self.feature_channels, self.pretrained_cfg = (width, 256), {}
        self.level1 = _conv(channels, 16, 3, stride=2)
        self.norm1 = _norm(16 + channels)
        self.down2 = Pyramid(16 + channels, 64, stride=2)
        self.level2 = nn.Sequential(*(Pyramid(64, 64, residual=True) for _ in range(p)))
        self.norm2 = _norm(128 + channels)
        self.down3 = Pyramid(128 + channels, 128, stride=2)
        self.level3 = nn.Sequential(*(Pyramid(128, 128, residual=True) for _ in range(q)))
        self.norm3 = _norm(256)
        # The decoder, from the coarsest map on.
        reduced = nn.Conv2d(256, width, 1, bias=False)
        self.up3 = nn.Sequential(reduced, nn.BatchNorm2d(width, EPS), _double(width, width))
        self.reduce2 = nn.Conv2d(128 + channels, width, 1, bias=False)
        self.join2 = nn.Sequential(_norm(2 * width), Pyramid(2 * width, width))
        self.up2 = nn.Sequential(_double(width, width), _norm(width))
        self.join1 = _conv(16 + channels + width, width, 3)
        self.classifier = _double(width, classes)
        initialise(self, self.classifier)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        half = F.avg_pool2d(images, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        level1 = self.norm1(torch.cat([self.level1(images), half], 1))
        down2 = self.down2(level1)
        level2 = self.norm2(torch.cat([self.level2(down2), down2, quarter], 1))
        down3 = self.down3(level2)
        deep = self.norm3(torch.cat([down3, self.level3(down3)], 1))
        joined2 = self.join2(torch.cat([self.reduce2(level2), self.up3(deep)], 1))
        shallow = self.join1(torch.cat([self.up2(joined2), level1], 1))
        return Maps(self.classifier(shallow), (shallow, deep))


class Pyramid(nn.Module):
    """The ESP module: a reduction, 3x3 convolutions of rising dilation, sums of these, all stacked; figure 1.

    Args:
        inputs: channels.
        outputs: channels, shared out among the dilations; the smallest dilation gets what is left over.
        stride: 2 makes the reduction a 3x3 convolution that halves the size.
        residual: add the input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        dilations = DILATIONS[:outputs]
        share = outputs // len(dilations)
        kernel = 1 if stride == 1 else 3
        self.residual = residual
        self.reduction = nn.Conv2d(inputs, share, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(share, channels, 3, padding=dilation, dilation=dilation, bias=False)
            for dilation, channels in zip(
                dilations, [outputs - (len(dilations) - 1) * share, *[share] * (len(dilations) - 1)], strict=True
            )
        )
        self.norm = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        reduced = self.reduction(x)
        first, *others = (branch(reduced) for branch in self.branches)
        sums = [first]  # the first stands alone; the others are added up, which keeps the dilations' grids out of sight
        for other in others:
            sums.append(other if len(sums) == 1 else sums[-1] + other)
        stacked = torch.cat(sums, 1)
        return self.norm(x + stacked if self.residual else stacked)  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, EPS), PReLU(channels))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), *_norm(outputs))


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
