"""DeepLabV3+: dilated convolutions of several rates side by side on a deep map, and a fine map to draw the edges by.

Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
arXiv:1802.02611, figure 2.

Readings: the fine map is reduced by a 1x1 convolution, as the paper says, and the pyramid's and the decoder's 3x3
convolutions are not separable. On the aligned Xception with an output stride of 8 this costs the 273.6 GFLOPs that a
later paper counts at 384 x 384, to 1 %. Of the 56.80M parameters that it counts, this network leaves out two parts that
the paper does not have: the layer that told ImageNet's classes apart, which segmentation never runs (2.049M), and a
3x3 convolution in place of that 1x1 one (.049M).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, Segmenter, conv_norm, initialise
from leanmed.models.xception import DEEP_CHANNELS, LOW_CHANNELS, Xception

WIDTH = 256  # channels of the pyramid's branches and of the decoder
LOW_WIDTH = 48  # channels to which the fine map is reduced
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # of the dilated branches, by output stride


class DeepLabV3Plus(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (256 channels, a quarter of the size) and the end of the encoder.

    Args:
        encoder: gives two maps, of a quarter of the size and of an `output_stride`-th.
        channels: of the two maps.
        classes: of the logits.
        output_stride: 8 or 16.
        dropout: rate before the last layer; whole channels are dropped.
    """

    stride = 16
    early = Tap("encoder")

    def __init__(
        self, encoder: nn.Module, channels: tuple[int, int], classes: int, *, output_stride: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        low, deep = channels
        self.feature_channels, self.pretrained_cfg = (WIDTH, deep), getattr(encoder, "pretrained_cfg", {})
        self.pyramid = Pyramid(deep, RATES[output_stride])
        self.reduction = nn.Sequential(*conv_norm(low, LOW_WIDTH, 1))
        self.decoder = nn.Sequential(*conv_norm(WIDTH + LOW_WIDTH, WIDTH), *conv_norm(WIDTH, WIDTH))
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(WIDTH, classes, 1))
        initialise(self, self.classifier[1])
        self.encoder = encoder  # after the drawing: its weights may have been trained

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        low, deep = self.encoder(images)
        context = _resized(self.pyramid(deep), low)
        shallow = self.decoder(torch.cat([context, self.reduction(low)], 1))
        return Maps(_resized(self.classifier(shallow), images), (shallow, deep))


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, 3x3 ones of the given rates, and the image's mean; joined."""

    def __init__(self, inputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*conv_norm(inputs, WIDTH, 1)),
                *(nn.Sequential(*conv_norm(inputs, WIDTH, dilation=rate)) for rate in rates),
            ]
        )
        self.mean = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, WIDTH, 1, bias=False), MeanNorm(WIDTH), nn.ReLU()
        )
        self.joined = nn.Sequential(*conv_norm((len(rates) + 2) * WIDTH, WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, 256, h, w)."""
        mean = self.mean(x).expand(-1, -1, *x.shape[-2:])
        return self.joined(torch.cat([*(branch(x) for branch in self.branches), mean], 1))  # type: ignore[no-any-return]


class MeanNorm(nn.BatchNorm2d):
    """Batch normalisation of one value for each image and channel, which a batch of one image cannot be normalised by.

    Such a batch is normalised by the running statistics in training, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, 1, 1) to the same shape."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def deeplabv3plus_xception(
    channels: int, classes: int, *, output_stride: int = 8, dropout: float = 0.1
) -> DeepLabV3Plus:
    """DeepLabV3+ on the aligned Xception; see `DeepLabV3Plus` for the arguments."""
    check_output_stride(output_stride)
    encoder = Xception(channels, output_stride)
    initialise(encoder)
    widths = (LOW_CHANNELS, DEEP_CHANNELS)
    return DeepLabV3Plus(encoder, widths, classes, output_stride=output_stride, dropout=dropout)


def check_output_stride(output_stride: int) -> None:
    """Refuse an output stride that the paper has no rates for.

    Raises:
        ValueError: it is neither 8 nor 16.
    """
    if output_stride not in RATES:
        raise ValueError(f"expected output_stride to be 8 or 16, got {output_stride}")


def _resized(x: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(x, size=to.shape[-2:], mode="bilinear", align_corners=False)
