"""UNet++: a U-Net whose skip connections pass through further convolutions, each joined with all before it.

Zhou et al. 2018, "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", arXiv:1807.10165, figure 1a.

Readings: the widths are 64 to 1024 from fine to coarse, maps are enlarged bilinearly, each node is two 3x3
convolutions with batch normalisation, and every convolution has a bias. This gives the 36.63M parameters and, at
384 x 384, the 620.8 GFLOPs that a later paper states for two classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, Segmenter, conv_norm, initialise

DEPTH = 5  # sizes of maps


class UNetPlusPlus(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, the full size) and the end of the encoder
    (16 x `width` channels, a 16th). The network has no dropout.

    Args:
        channels: of the images.
        classes: of the logits.
        width: channels of the finest map; each coarser one has twice as many.
        deep_supervision: in training, give `auxiliary` logits of the three other nodes of full size, too. The logits
            are those of the last node in any case.
    """

    stride = 16
    early = Tap("encoder.1")

    def __init__(self, channels: int, classes: int, *, width: int = 64, deep_supervision: bool = False) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected width to be at least 1, got {width}")
        widths = [width * 2**level for level in range(DEPTH)]
        self.feature_channels, self.pretrained_cfg = (widths[0], widths[-1]), {}
        self.encoder = nn.ModuleList(
            _node(inputs, outputs) for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        # nodes[j - 1][i] is X^(i,j) of the paper: its inputs are the j nodes before it on its level, and one from below
        self.nodes = nn.ModuleList(
            nn.ModuleList(_node(j * widths[i] + widths[i + 1], widths[i]) for i in range(DEPTH - j))
            for j in range(1, DEPTH)
        )
        self.auxiliary = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in range(DEPTH - 2) if deep_supervision)
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self, self.classifier, *self.auxiliary)

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        levels: list[list[Tensor]] = []  # of each level, fine to coarse, the nodes so far
        x = images
        for level, node in enumerate(self.encoder):
            x = node(F.max_pool2d(x, 2) if level else x)
            levels.append([x])
        for column in self.nodes:
            for level, node in enumerate(column):  # type: ignore[arg-type]
                below = F.interpolate(levels[level + 1][-1], scale_factor=2.0, mode="bilinear", align_corners=False)
                levels[level].append(node(torch.cat([*levels[level], below], 1)))
            levels.pop()  # the coarsest has no further node
        finest = levels[0]
        heads = self.auxiliary if self.training else ()
        auxiliary = tuple(head(m) for head, m in zip(heads, finest[1:-1], strict=False))
        return Maps(self.classifier(finest[-1]), (finest[-1], x), auxiliary)


def _node(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm(inputs, outputs, bias=True), *conv_norm(outputs, outputs, bias=True))
