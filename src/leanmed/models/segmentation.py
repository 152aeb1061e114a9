"""What segmentation networks share: images in; a logit for each class and pixel, and maps for distillation, out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap

CLASSIFIER_STD = 0.01  # logits start near zero, so that the first steps are not spent on unlearning a random guess
LINEAR_STD = 0.02  # as vision transformers are drawn


class Maps(NamedTuple):
    """What a network says about images (b, c, h, w).

    Args:
        logits: (b, classes, h, w), before the softmax.
        features: maps (b, channels, height, width) from shallow to deep, of images padded to a multiple of the
            network's stride. The last is the end of the encoder; which the others are is stated by each network.
        auxiliary: further logits (b, classes, h, w) that a network with deep supervision gives in training.
    """

    logits: Tensor
    features: tuple[Tensor, ...]
    auxiliary: tuple[Tensor, ...] = ()


class Segmenter(nn.Module, ABC):
    """Images (b, c, h, w) of any size, normalised by the caller, to `Maps`.

    Images whose sides are no multiples of `stride` are padded with zeros at the bottom and on the right, and the
    logits are cropped again.

    Attributes:
        stride: the sides at which nothing is padded are its multiples.
        early: which module gives early maps, or a list of maps of which the first is early.
        feature_channels: of each entry of `Maps.features`.
        pretrained_cfg: the `mean` and `std` of the images in [0, 1] that the weights expect, where known.
    """

    stride: ClassVar[int]
    early: ClassVar[Tap]
    feature_channels: tuple[int, ...]
    pretrained_cfg: dict[str, Any]

    @abstractmethod
    def maps(self, images: Tensor) -> Maps:
        """The same as `forward`, of images whose sides are multiples of `stride`."""

    def forward(self, images: Tensor) -> Maps:
        """See the class."""
        height, width = images.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if not (bottom or right):
            return self.maps(images)
        maps = self.maps(F.pad(images, (0, right, 0, bottom)))
        auxiliary = tuple(logits[..., :height, :width] for logits in maps.auxiliary)
        return Maps(maps.logits[..., :height, :width], maps.features, auxiliary)


class PretrainedSegmenter(Segmenter):
    """A segmenter whose encoder has the shape of one of timm's networks, and takes its weights.

    Attributes:
        timm_name: of that network.
        timm_args: the further arguments with which timm makes one of the same widths.
    """

    timm_name: ClassVar[str]
    timm_args: dict[str, Any]

    @abstractmethod
    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the state of timm's network for three channels, summed over them where the images have one."""


class PReLU(nn.PReLU):
    """`nn.PReLU` with a weight for each channel, exported as depthwise convolutions.

    ONNX Runtime computes its operator PRelu value by value, which is slow; w x + (1 - w) max(x, 0) is the same for
    every weight w.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) to the same shape."""
        if not torch.compiler.is_exporting():
            return super().forward(x)
        channels = self.num_parameters
        weight = self.weight.view(channels, 1, 1, 1)
        return F.conv2d(x, weight, groups=channels) + F.conv2d(F.relu(x), 1 - weight, groups=channels)


class ConvAndPool(nn.Module):
    """Half the size: a 3x3 convolution with stride 2 and the maximum of 2x2 pixels, stacked, each batch-normalised.

    Both papers that begin so normalise the stack. That is the same, but a convolution whose normalisation follows at
    once can be folded with it.

    Args:
        inputs: channels, all of which are pooled.
        outputs: channels, more than `inputs`.
        eps: of the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, eps: float = 1e-3) -> None:
        super().__init__()
        if inputs >= outputs:
            raise ValueError(f"expected fewer than {outputs} channels in the images, got {inputs}")
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1)
        self.conv_norm = nn.BatchNorm2d(outputs - inputs, eps)
        self.pool = nn.MaxPool2d(2)
        self.pool_norm = nn.BatchNorm2d(inputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) to (b, outputs, h / 2, w / 2)."""
        return torch.cat([self.conv_norm(self.conv(x)), self.pool_norm(self.pool(x))], 1)


def conv_norm(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> list[nn.Module]:
    """A convolution that keeps the size unless `options` of `nn.Conv2d` change it, its normalisation, and ReLU."""
    options = {"padding": kernel // 2 * options.get("dilation", 1), "bias": False, **options}
    return [nn.Conv2d(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), nn.ReLU()]


def initialise(network: nn.Module, *classifiers: nn.Module) -> None:
    """Draw the weights of a network that nothing is known of.

    Convolutions keep the variance through a rectifier (He et al. 2015, arXiv:1502.01852), linear layers start as in
    transformers (a truncated normal distribution), biases are zero, and the layers that give the logits start small.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if any(module is classifier for classifier in classifiers):
                nn.init.normal_(module.weight, std=CLASSIFIER_STD)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=LINEAR_STD)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
