"""The localiser, which finds the point at which a prompted network is asked for its mask, and what it learns from.

It is a ResNet-18 if no other network is asked for (He et al. 2015, "Deep Residual Learning for Image Recognition",
arXiv:1512.03385). As in HA-SAM, a sigmoid gives the point, and the loss is the mean squared error. The paper regresses
the centre of the mask; as a centre may lie outside it (of a crescent, or of two objects), the pixel that lies deepest
inside is offered, too.

Points here are x, y in [0, 1]: 0 and 1 are the image's outer edges, so the centre of the first of w pixels is .5 / w.
`pixels` makes of them the points that prompted networks take.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.timm_backbone import make_backbone
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model

HEAD_STD = 0.01  # the first points lie near the middle, where the sigmoid is steep


class PointLocaliser(nn.Module):
    """Images (b, 3, side, side), normalised by the caller, to points (b, 2) x, y in [0, 1].

    Args:
        weights: imagenet, from timm's hub; none; or a .safetensors or .pth file of timm's network of that name, whose
            last layer may be missing or have other outputs.
        pretrained: load them; false when the caller loads trained ones afterwards.
        backbone: a network of timm's.

    Attributes:
        pretrained_cfg: the `mean` and `std` of the images in [0, 1] that the weights expect.

    Raises:
        RecipeError: weights that are not there or do not fit.
    """

    def __init__(self, weights: str = "imagenet", *, pretrained: bool = True, backbone: str = "resnet18") -> None:
        super().__init__()
        settings = Model(backbone=backbone, weights=weights)
        hub = pretrained and weights == "imagenet"
        self.backbone = make_backbone(settings, imagenet=hub, num_classes=2)
        if pretrained and weights not in ("imagenet", "none"):
            last = f"{self.backbone.pretrained_cfg['classifier']}."
            load_weights(self.backbone, Path(weights), settings.backbone, optional=(last,))
        head = self.backbone.get_classifier()
        nn.init.normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)
        self.pretrained_cfg: dict[str, Any] = self.backbone.pretrained_cfg

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(self.backbone(images))


def localisation_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared error of points (b, 2) in [0, 1], over both coordinates."""
    return F.mse_loss(found, wanted)


def pixels(points: Tensor, side: int) -> Tensor:
    """Points (..., 2) in [0, 1] to pixels of a square, in which whole numbers are the centres of pixels."""
    return points * side - 0.5


def centroid(mask: NDArray[Any]) -> tuple[float, float]:
    """The mean of the mask's pixels: x, y in [0, 1]. It may lie outside the mask.

    Args:
        mask: (h, w); all values but 0 are the object.

    Raises:
        ValueError: no object.
    """
    rows, columns = _inside(mask)
    return _normalised(rows.mean(), columns.mean(), mask)


def distance_peak(mask: NDArray[Any]) -> tuple[float, float]:
    """The pixel that lies deepest inside the mask, always in it: x, y of its centre in [0, 1].

    Depth is the Euclidean distance in pixels to the nearest pixel that is not the object's; the image ends the object.
    Of several pixels that are equally deep, the one nearest to the centroid is taken, so that a bar gives its middle.

    Args:
        mask: (h, w); all values but 0 are the object.

    Raises:
        ValueError: no object.
    """
    rows, columns = _inside(mask)
    depth = distance_transform_edt(np.pad(mask != 0, 1))[1:-1, 1:-1][rows, columns]
    off_centre = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    chosen = np.lexsort((off_centre, -depth))[0]  # by depth, then by the distance from the centroid
    return _normalised(rows[chosen], columns[chosen], mask)


def _inside(mask: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise ValueError("expected a mask with at least one pixel, got an empty one, which has no point; leave it out")
    return rows, columns


def _normalised(row: float, column: float, mask: NDArray[Any]) -> tuple[float, float]:
    height, width = mask.shape
    return float((column + 0.5) / width), float((row + 0.5) / height)


TARGETS: dict[str, Callable[[NDArray[Any]], tuple[float, float]]] = {
    "centroid": centroid,
    "distance-peak": distance_peak,
}
