"""The aligned Xception with 65 layers, as an encoder for DeepLabV3+.

Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
arXiv:1802.02611, figure 4; its blocks are those of Chollet 2017, "Xception: Deep Learning with Depthwise Separable
Convolutions", arXiv:1610.02357, which begin with a rectifier and end with a sum.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from leanmed.models.segmentation import conv_norm

MIDDLE_BLOCKS = 16
LOW_CHANNELS, DEEP_CHANNELS = 128, 2048


class Xception(nn.Module):
    """Images (b, channels, h, w) to two maps: (b, 128, h / 4, w / 4) and (b, 2048, h / s, w / s).

    Args:
        channels: of the images.
        output_stride: s, 8 or 16. Where a block would make the map smaller than that, its stride becomes a dilation of
            all that follows.
    """

    def __init__(self, channels: int, output_stride: int) -> None:
        super().__init__()
        strides, (middle, late, last) = {16: ((2, 1), (1, 1, 2)), 8: ((1, 1), (2, 2, 4))}[output_stride]
        self.stem = nn.Sequential(*conv_norm(channels, 32, stride=2), *conv_norm(32, 64))
        self.low = Block((64, 128, 128, 128), stride=2)
        self.deep = nn.Sequential(
            Block((128, 256, 256, 256), stride=2),
            Block((256, 728, 728, 728), stride=strides[0]),
            *(Block((728,) * 4, dilation=middle) for _ in range(MIDDLE_BLOCKS)),
            Block((728, 728, 1024, 1024), stride=strides[1], dilation=late),
            *(
                layer
                for inputs, outputs in pairwise((1024, 1536, 1536, 2048))
                for layer in (nn.ReLU(), *separable(inputs, outputs, dilation=last))
            ),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The fine map and the deep one; see the class."""
        low = self.low(self.stem(images))
        return [low, self.deep(low)]


class Block(nn.Module):
    """Three separable convolutions with a rectifier before each, and a shortcut around them.

    Args:
        channels: of the input and of what each convolution gives.
        stride: of the last of them.
        dilation: of all.
    """

    def __init__(self, channels: tuple[int, ...], stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        strides = [1] * (len(channels) - 2) + [stride]
        layers: list[nn.Module] = []
        for (inputs, outputs), own in zip(pairwise(channels), strides, strict=True):
            layers += [nn.ReLU(), *separable(inputs, outputs, own, dilation)]
        self.branch = nn.Sequential(*layers)
        first, *_, last = channels
        projection = [nn.Conv2d(first, last, 1, stride, bias=False), nn.BatchNorm2d(last)]
        self.shortcut = nn.Sequential(*(projection if stride > 1 or first != last else []))

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels[0], h, w) to (b, channels[-1], h / stride, w / stride)."""
        return self.shortcut(x) + self.branch(x)  # type: ignore[no-any-return]


def separable(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A 3x3 convolution of each channel by itself, and a 1x1 one; normalised each, with a rectifier between."""
    depthwise = conv_norm(inputs, inputs, stride=stride, dilation=dilation, groups=inputs)
    return [*depthwise, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
