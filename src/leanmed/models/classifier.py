"""Any timm backbone with a new last layer, or our own on colours, and the steps between decoded pixels and its input.

MobileNetV2: Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanmed.errors import RecipeError
from leanmed.models.colours import TissueColours
from leanmed.models.familiarity import Tap
from leanmed.models.pixels import by_alpha, colour, masked_tissue, tissue, unit
from leanmed.models.timm_backbone import make_backbone
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model

COLOURS = "tissue-colours"
EARLY = 4  # how many times smaller than the image the maps of the first stage are that is watched
HEAD_STD = 0.01  # timm draws a one-output layer from [-1, 1], whose logits are too large to fine-tune from


class Classifier(nn.Module):
    """Photographs in, logits out.

    Args:
        settings: which backbone, its weights, input side and normalisation.
        outputs: number of logits.
        pretrained: load the weights the settings name; false when the caller loads trained ones afterwards.

    Raises:
        RecipeError: an unknown backbone, or weights that are not there or do not fit it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Model, outputs: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.side = settings.side
        self.backbone = _backbone(settings, outputs, pretrained)
        known = getattr(self.backbone, "pretrained_cfg", {"mean": (0.0,) * 3, "std": (1.0,) * 3})
        self.register_buffer("mean", torch.tensor(settings.mean or known["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(settings.std or known["std"]).view(3, 1, 1))

    def resize(self, pixels: Tensor) -> Tensor:
        """Pixels of any size to the network's square.

        Args:
            pixels: (h, w, 3 or 4) uint8, RGB or RGBA.

        Returns:
            (4, side, side) float32: colour multiplied by alpha, and alpha, both in [0, 1].
        """
        return tissue(pixels, self.side)

    def look(self, pixels: Tensor) -> Tensor:
        """Pixels of any size to what `forward` makes the same logits of as of `resize`'s, in fewer steps: for a graph.

        Args:
            pixels: (h, w, 3 or 4) uint8, RGB or RGBA.

        Returns:
            (3, side, side) float32 in [0, 1], filled where alpha left something out; with alpha, as `resize` gives it,
            for a network that looks at alpha itself.
        """
        if isinstance(self.backbone, TissueColours):
            return self.resize(pixels)
        return by_alpha(
            pixels,
            lambda pixels: fill_background(masked_tissue(pixels, self.side)[None]).squeeze(0),
            lambda pixels: colour(pixels, self.side),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(b, 4, side, side), uint8 or in [0, 1], to logits (b, outputs); (b, 3, side, side): filled already."""
        return self.backbone(self._seen(images))  # type: ignore[no-any-return]

    def reveal(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the features that the last layers see: (b, c, h, w), or as the backbone gives them."""
        features = self.backbone.forward_features(self._seen(images))
        return self.backbone.forward_head(features), features

    def last_layers(self) -> list[str]:
        """Paths, in the backbone, of the layers that give the logits."""
        return [] if isinstance(self.backbone, TissueColours) else _heads(self.backbone)

    def taps(self) -> tuple[Tap, ...]:
        """By their paths in the backbone, its first two stages with maps of a quarter of the image's side or less."""
        if isinstance(self.backbone, TissueColours):
            return (Tap("layers.0"),)
        early = [own for own in getattr(self.backbone, "feature_info", ()) if own["reduction"] >= EARLY]
        axis = -1 if getattr(self.backbone, "output_fmt", None) == "NHWC" else 1
        return tuple(Tap(own["module"], axis) for own in early[:2])

    def _seen(self, images: Tensor) -> Tensor:
        images = unit(images)
        if isinstance(self.backbone, TissueColours):
            return images
        filled = fill_background(images) if images.shape[1] == 4 else images
        return (filled - self.mean) / self.std


def fill_background(images: Tensor) -> Tensor:
    """Fill what the mask leaves out with the mean colour of the tissue, so that the ground carries no signal.

    Args:
        images: (b, 4, h, w) colour times alpha, and alpha, in [0, 1].

    Returns:
        (b, 3, h, w) in [0, 1].
    """
    colour, alpha = images[:, :3], images[:, 3:]
    mean = colour.sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp_min(1e-6)
    return colour + mean * (1 - alpha)


def _backbone(settings: Model, outputs: int, pretrained: bool) -> Any:
    if settings.backbone == COLOURS:
        return TissueColours(outputs, dropout=settings.dropout)
    imagenet = pretrained and settings.weights == "imagenet"
    model = make_backbone(settings, imagenet=imagenet, num_classes=outputs, drop_rate=settings.dropout)
    if pretrained:
        _check_side(model, settings)
    if pretrained and settings.weights not in ("imagenet", "none"):
        head = tuple(f"{name}." for name in _heads(model))
        load_weights(model, Path(settings.weights), settings.backbone, optional=head)
    head = model.get_classifier()
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)
    return model


def _heads(model: Any) -> list[str]:
    """Paths of the layers that timm calls the classifier; distilled transformers have two."""
    found = model.get_classifier()
    layers = list(found) if isinstance(found, tuple | list) else [found]
    return [name for name, module in model.named_modules() if any(module is layer for layer in layers)]


def _check_side(model: Any, settings: Model) -> None:
    """Transformers take one size only, and some networks none as small as 32."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, settings.side, settings.side))
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"model.backbone {settings.backbone} cannot take images of model.side {settings.side}: {error}; "
            f"choose another side, or if it knows that, set model.backbone_args={{img_size: {settings.side}}}"
        ) from error
    model.train()
