"""ENet: a small network for segmentation whose decoder puts values back where the encoder's pooling found them.

Paszke et al. 2016, "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", arXiv:1606.02147,
table 1 and figure 2.

Readings, where the paper leaves a choice; they give the .3538M parameters that a later paper states for two classes,
and its 2.18 GFLOPs at 384 x 384 where normalisation and activations are counted, too (convolutions alone take 2.06).
Projections (1x1, and 2x2 where the size is halved) have no bias, the other convolutions have one. The two halves of an
asymmetric convolution are each followed by normalisation and PReLU. PReLU has a weight for each channel, in the decoder
too. Transposed convolutions, the last one among them, are 2x2 with stride 2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import ConvAndPool, Maps, PReLU, Segmenter, initialise

TIE = 1e-4  # values of a window that differ by less are equal
EPS = 1e-3  # of batch normalisation
# Section 2 and 3 of the encoder: kernel (5: asymmetric 5x1 and 1x5) and dilation of each bottleneck.
SECTION = ((3, 1), (3, 2), (5, 1), (3, 4), (3, 1), (3, 8), (5, 1), (3, 16))


class ENet(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (16 channels, half the size) and the end of the encoder (128 channels,
    an eighth).

    Args:
        channels: of the images, fewer than 16.
        classes: of the logits.
        dropout: rate in sections 2 and 3; before them it is a tenth of this. The paper has 0.1. Whole channels are
            dropped, at the end of each bottleneck of the encoder.
    """

    stride = 8
    early = Tap("section1")

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.feature_channels, self.pretrained_cfg = (16, 128), {}
        self.initial = nn.Sequential(ConvAndPool(channels, 16, EPS), PReLU(16))
        self.down1 = Down(16, 64, dropout / 10)
        self.section1 = nn.Sequential(*(Bottleneck(64, dropout=dropout / 10) for _ in range(4)))
        self.down2 = Down(64, 128, dropout)
        self.section2, self.section3 = (
            nn.Sequential(*(Bottleneck(128, kernel, dilation, dropout) for kernel, dilation in SECTION))
            for _ in range(2)
        )
        self.up4 = Up(128, 64)
        self.section4 = nn.Sequential(Bottleneck(64), Bottleneck(64))
        self.up5 = Up(64, 16)
        self.section5 = Bottleneck(16)
        self.classifier = nn.ConvTranspose2d(16, classes, 2, 2)
        initialise(self, self.classifier)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        x, where1 = self.down1(self.initial(images))
        x, where2 = self.down2(self.section1(x))
        deep = self.section3(self.section2(x))
        x = self.section4(self.up4(deep, where2))
        shallow = self.section5(self.up5(x, where1))
        return Maps(self.classifier(shallow), (shallow, deep))


class Bottleneck(nn.Module):
    """A residual block on a quarter of the channels; figure 2b of the paper.

    Args:
        channels: in and out.
        kernel: 3, or 5 for a 5x1 and a 1x5 convolution.
        dilation: of the 3x3 convolution.
        dropout: rate.
    """

    def __init__(self, channels: int, kernel: int = 3, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        inner = channels // 4
        if kernel == 5:
            middle = [
                *_activated(nn.Conv2d(inner, inner, (5, 1), padding=(2, 0)), inner),
                *_activated(nn.Conv2d(inner, inner, (1, 5), padding=(0, 2)), inner),
            ]
        else:
            middle = _activated(nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation), inner)
        self.branch = nn.Sequential(
            *_activated(nn.Conv2d(channels, inner, 1, bias=False), inner),
            *middle,
            *_expansion(inner, channels, dropout),
        )
        self.activation = PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) to the same shape."""
        return self.activation(x + self.branch(x))  # type: ignore[no-any-return]


class Down(nn.Module):
    """A bottleneck that halves the size, beside which the map is pooled and filled up with channels of zeros."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = inputs // 4
        self.added = outputs - inputs
        self.branch = nn.Sequential(
            *_activated(nn.Conv2d(inputs, inner, 2, 2, bias=False), inner),
            *_activated(nn.Conv2d(inner, inner, 3, padding=1), inner),
            *_expansion(inner, outputs, dropout),
        )
        self.activation = PReLU(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, inputs, h, w) to (b, outputs, h / 2, w / 2), and what `unpool` needs."""
        pooled, where = pool(x)
        padded = F.pad(pooled, (0, 0, 0, 0, 0, self.added))
        return self.activation(padded + self.branch(x)), where


class Up(nn.Module):
    """A bottleneck that doubles the size, beside which the map is unpooled to where the encoder found its values."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = inputs // 4
        self.main = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs, EPS))
        self.branch = nn.Sequential(
            *_activated(nn.Conv2d(inputs, inner, 1, bias=False), inner),
            *_activated(nn.ConvTranspose2d(inner, inner, 2, 2), inner),
            *_expansion(inner, outputs, 0.0),
        )
        self.activation = PReLU(outputs)

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, 2h, 2w)."""
        return self.activation(unpool(self.main(x), where) + self.branch(x))  # type: ignore[no-any-return]


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each 2x2 window, (b, c, h / 2, w / 2), and where it was: a mask of bool (b, c, h, w).

    All values of a window that equal its maximum but for `TIE` count as maxima: where an image is flat, the rounding
    of a runtime would decide otherwise.

    The mask takes the place of `nn.MaxPool2d`'s indices, which have no counterpart for `nn.MaxUnpool2d` in many
    runtimes. Comparing and repeating are quick in all of them.
    """
    largest = F.max_pool2d(x, 2)
    return largest, x >= _repeated(largest) - TIE


def unpool(x: Tensor, where: Tensor) -> Tensor:
    """Values (b, c, h, w) at the places that `pool` found in a map of twice the size, and zeros elsewhere."""
    return _repeated(x) * where.to(x.dtype)


def _repeated(x: Tensor) -> Tensor:
    """Each value of (b, c, h, w) for a window of 2x2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _activated(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(channels, EPS), PReLU(channels)]


def _expansion(inner: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs, EPS), nn.Dropout2d(dropout)]
