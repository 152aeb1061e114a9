"""U-Net: an encoder of convolutions and pooling, and a decoder that joins each of its maps again.

Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv:1505.04597, figure 1.

Readings: the widths are 64 to 1024 from fine to coarse and maps are enlarged by 2x2 transposed convolutions, as in the
figure; convolutions keep the size and are batch-normalised, as in nearly every later use, where the paper's have
neither padding nor normalisation. This gives 31.04M parameters. The 23.53M that HA-SAM's table 1 prints for a U-Net fit
no U-Net of these widths: bilinear enlargement in place of the transposed convolutions, one or two convolutions in
the decoder, sums in place of joined maps, half the channels at the bottom, and mebibytes in place of millions were all
tried.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, Segmenter, conv_norm, initialise

DEPTH = 5  # sizes of maps


class UNet(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, the full size) and the end of the encoder
    (16 x `width` channels, a 16th).

    Args:
        channels: of the images.
        classes: of the logits.
        width: channels of the finest map; each coarser one has twice as many.
        dropout: rate at the end of the encoder, the place that the paper names without a rate.
    """

    stride = 16
    early = Tap("encoder.1")

    def __init__(self, channels: int, classes: int, *, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected width to be at least 1, got {width}")
        widths = [width * 2**level for level in range(DEPTH)]
        self.feature_channels, self.pretrained_cfg = (widths[0], widths[-1]), {}
        self.encoder = nn.ModuleList(_node(inputs, outputs) for inputs, outputs in pairwise([channels, *widths]))
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(Up(coarse, fine, fine) for coarse, fine in pairwise(reversed(widths)))
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self, self.classifier)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        found: list[Tensor] = []  # fine to coarse
        x = images
        for level, node in enumerate(self.encoder):
            x = node(F.max_pool2d(x, 2) if level else x)
            found.append(x)
        deep = found.pop()
        x = self.dropout(deep)
        for block in self.decoder:
            x = block(x, found.pop())
        return Maps(self.classifier(x), (x, deep))


class Up(nn.Module):
    """A coarse map, enlarged by a transposed convolution, joined with a finer one, through two 3x3 convolutions."""

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, outputs, 2, 2)
        self.convs = _node(outputs + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b, coarse, h / 2, w / 2) and (b, skip, h, w) to (b, outputs, h, w)."""
        return self.convs(torch.cat([skip, self.up(x)], 1))  # type: ignore[no-any-return]


def _node(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm(inputs, outputs), *conv_norm(outputs, outputs))
