"""Backbones as stacks of feature maps: the five of the nodule paper by their names there, and others of timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from leanmed.errors import RecipeError
from leanmed.models.inception_v2 import CHANNELS, InceptionV2
from leanmed.models.timm_backbone import make_backbone
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Backbone(nn.Module):
    """Images (b, 3, h, w) in [0, 1] to a list of maps (b, c, h / stride, w / stride), finest first.

    Args:
        settings: which backbone, its weights and normalisation. What lies beyond the last stride is left out.
        strides: rising powers of two.
        pretrained: load the weights the settings name; false when the caller loads trained ones afterwards.

    Raises:
        RecipeError: no such backbone or stride, or weights that are not there or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Model, strides: tuple[int, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        make = _inception if settings.backbone == "inceptionv2" else _timm
        self.maps, self.channels, known = make(settings, strides, pretrained and settings.weights == "imagenet")
        if pretrained and settings.weights not in ("imagenet", "none"):
            load_weights(self.maps, Path(settings.weights), settings.backbone)
        for name in ("mean", "std"):
            value = getattr(settings, name) or known[name]
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        return self.maps((images - self.mean) / self.std)  # type: ignore[no-any-return]


Made = tuple[nn.Module, list[int], dict[str, Any]]  # the maps, their channels, the mean and std of their weights


def _inception(settings: Model, strides: tuple[int, ...], hub: bool) -> Made:
    if hub:
        raise RecipeError(
            "expected model.weights of inceptionv2 to be none or a file, got imagenet, which no hub has; set it to none"
        )
    return InceptionV2(strides), [CHANNELS[stride] for stride in strides], IMAGENET


def _timm(settings: Model, strides: tuple[int, ...], hub: bool) -> Made:
    levels = tuple(stride.bit_length() - 2 for stride in strides)  # 0 is stride 2
    maps = make_backbone(settings, imagenet=hub, features_only=True, out_indices=levels)
    if maps.feature_info.reduction() != list(strides):
        raise RecipeError(
            f"expected model.backbone {settings.backbone} to have maps of strides {list(strides)}, got "
            f"{maps.feature_info.reduction()}; choose another backbone"
        )
    if isinstance(maps, EfficientNetFeatures):
        maps.blocks = maps.blocks[: maps.feature_info.get_dicts()[-1]["stage"]]  # it keeps what nobody asks for
    return maps, maps.feature_info.channels(), maps.pretrained_cfg
