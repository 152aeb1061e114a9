"""Any convolutional encoder of timm's with a small decoder.

The decoder is that of Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597, with a width of its own, nearest-neighbour upsampling and batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.errors import RecipeError
from leanmed.models.familiarity import Tap
from leanmed.models.segmentation import Maps, Segmenter, conv_norm, initialise
from leanmed.models.timm_backbone import make_backbone
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model


class EncoderDecoder(Segmenter):
    """Images (b, channels, h, w) to `Maps`.

    The features are the input of the last layer (`width` channels, the encoder's finest size, mostly a half) and the
    end of the encoder (a 32nd).

    Args:
        encoder: gives a list of maps, finest first, each with half the size of the one before.
        channels: of the encoder's maps.
        classes: of the logits.
        width: channels of the decoder's finest map; each coarser one has twice as many.
        dropout: rate before the last layer; whole channels are dropped.
    """

    stride = 32
    early = Tap("encoder")

    def __init__(
        self, encoder: nn.Module, channels: Sequence[int], classes: int, *, width: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"expected width to be at least 1, got {width}")
        self.feature_channels = (width, channels[-1])
        self.pretrained_cfg = getattr(encoder, "pretrained_cfg", {})
        widths = [*(width * 2**level for level in range(len(channels) - 1)), channels[-1]]  # finest first
        self.decoder = nn.ModuleList(
            Joined(coarse, skip, own)
            for skip, (own, coarse) in reversed(list(zip(channels[:-1], pairwise(widths), strict=True)))
        )
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))
        initialise(self, self.classifier[1])
        self.encoder = encoder  # after the drawing: its weights may have been trained

    def maps(self, images: Tensor) -> Maps:
        """See the class."""
        *skips, deep = self.encoder(images)
        x = deep
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        logits = F.interpolate(self.classifier(x), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return Maps(logits, (x, deep))


class Joined(nn.Module):
    """A coarse map, at the size of a finer one, and that one, through two 3x3 convolutions."""

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*conv_norm(coarse + skip, outputs), *conv_norm(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(b, coarse, h / 2, w / 2) and (b, skip, h, w) to (b, outputs, h, w)."""
        x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
        return self.convs(torch.cat([x, skip], 1))  # type: ignore[no-any-return]


def timm_encoder(
    settings: Model, channels: int, *, pretrained: bool, reductions: Sequence[int] | None = None, **options: Any
) -> Any:
    """An encoder of timm's that gives a list of maps, finest first.

    Weights trained on three channels are summed over them, as timm does, where the images have one.

    Args:
        settings: its name, weights, further arguments, and the side of the images.
        channels: of the images.
        pretrained: load the weights that the settings name, and see that it takes images of that side.
        reductions: how many times smaller than the image each map must be; None: each map half as large as the one
            before.
        options: arguments to `timm.create_model`.

    Raises:
        RecipeError: timm has no such encoder, it gives no maps that a decoder can join, it does not take the side, or
            the weights are not there or do not fit.
    """
    hub = pretrained and settings.weights == "imagenet"
    encoder = make_backbone(settings, imagenet=hub, features_only=True, in_chans=channels, **options)
    if pretrained:
        _check_maps(encoder, settings, channels, reductions)
    if pretrained and settings.weights not in ("imagenet", "none"):
        donor = make_backbone(settings, imagenet=False, features_only=True, **options)
        load_weights(donor, Path(settings.weights), settings.backbone)
        own = encoder.state_dict()
        found = {
            name: value if value.shape == own[name].shape else adapt_input_conv(channels, value)
            for name, value in donor.state_dict().items()
        }
        encoder.load_state_dict(found)
    return encoder


def coarser_maps(finest: Any, settings: Model, channels: int) -> dict[str, Any]:
    """The argument to `timm_encoder` by which the decoder begins at a coarser map than the encoder's finest.

    The finest maps take most of the time of a small network, and logits are enlarged to the image in any case. What is
    finer than the chosen map, such as thin vessels, is lost.

    Args:
        finest: how many times smaller than the image the decoder's finest map is: 2, 4 or 8; None: as the encoder has
            it.
        settings: see `timm_encoder`.
        channels: of the images.

    Raises:
        RecipeError: the encoder has no such map, or timm has no such encoder.
    """
    if finest is None:
        return {}
    encoder = make_backbone(settings, imagenet=False, features_only=True, in_chans=channels)
    reductions = encoder.feature_info.reduction()
    if finest not in reductions[:-1]:
        raise RecipeError(
            f"expected finest in model.backbone_args to be one of {', '.join(map(str, reductions[:-1]))}, by which "
            f"{settings.backbone} reduces the image, got {finest!r}; name one of these, or leave it out"
        )
    return {"out_indices": tuple(range(reductions.index(finest), len(reductions)))}


def _check_maps(encoder: Any, settings: Model, channels: int, reductions: Sequence[int] | None) -> None:
    """Transformers take one size only, and some give maps of one size, or with the channels last."""
    side = -(-settings.side // EncoderDecoder.stride) * EncoderDecoder.stride
    try:
        with torch.inference_mode():
            found = [tuple(m.shape[1:]) for m in encoder.eval()(torch.zeros(1, channels, side, side))]
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"model.backbone {settings.backbone} cannot take images of model.side {settings.side}: {error}; "
            "choose a convolutional backbone, such as mobilenetv2 or resnet50, or another side"
        ) from error
    encoder.train()
    finest = encoder.feature_info.reduction()[0]
    reductions = reductions or [finest * 2**level for level in range(len(found))]
    wanted = [(c, side // r, side // r) for c, r in zip(encoder.feature_info.channels(), reductions, strict=True)]
    if found != wanted:
        raise RecipeError(
            f"expected model.backbone {settings.backbone} to give maps (channels, height, width) of {wanted}, got "
            f"{found}; choose a convolutional backbone, such as mobilenetv2 or resnet50"
        )
