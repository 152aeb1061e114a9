"""Any timm backbone with a new last layer, and the steps between decoded pixels and its input.

MobileNetV2: Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed import config
from leanmed.errors import RecipeError

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

    def __init__(self, settings: config.Model, outputs: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.side = settings.side
        self.backbone = _backbone(settings, outputs, pretrained)
        known = self.backbone.pretrained_cfg
        self.register_buffer("mean", torch.tensor(settings.mean or known["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(settings.std or known["std"]).view(3, 1, 1))

    def resize(self, pixels: Tensor) -> Tensor:
        """Pixels of any size to the network's square.

        Args:
            pixels: (h, w, 3 or 4) uint8, RGB or RGBA.

        Returns:
            (4, side, side) float32: colour multiplied by alpha, and alpha, both in [0, 1]. Multiplying first
            keeps the ground under the mask out of every average that the resize takes.
        """
        opaque = F.pad(pixels, (0, 1), value=255)[..., :4]  # (h, w, 4): alpha is 255 where the image has none
        channels = opaque.permute(2, 0, 1).float() / 255  # (4, h, w)
        tissue = torch.cat([channels[:3] * channels[3:], channels[3:]])
        size = (self.side, self.side)
        return F.interpolate(tissue[None], size, mode="bilinear", antialias=True, align_corners=False)[0]

    def forward(self, images: Tensor) -> Tensor:
        """(b, 4, side, side) from `resize` to logits (b, outputs)."""
        return self.backbone((fill_background(images) - self.mean) / self.std)  # type: ignore[no-any-return]


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


def _backbone(settings: config.Model, outputs: int, pretrained: bool) -> Any:
    hub = pretrained and settings.weights == "imagenet"
    try:
        model: Any = timm.create_model(
            settings.backbone,
            pretrained=hub,
            num_classes=outputs,
            drop_rate=settings.dropout,
            **settings.backbone_args,
        )
    except (RuntimeError, TypeError) as error:
        raise RecipeError(
            f"timm cannot make model.backbone {settings.backbone!r} with {settings.backbone_args}: {error}; "
            "`python -c 'import timm; print(timm.list_models())'` lists the names"
        ) from error
    except OSError as error:
        raise RecipeError(
            f"the ImageNet weights of {settings.backbone} could not be fetched ({type(error).__name__}); "
            "connect to the network, or set model.weights to a .safetensors or .pth file, or to none"
        ) from error
    if pretrained:
        _check_side(model, settings)
    if pretrained and settings.weights not in ("imagenet", "none"):
        _load_weights(model, Path(settings.weights), settings.backbone)
    head = model.get_classifier()
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)
    return model


def _check_side(model: Any, settings: config.Model) -> None:
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


def _load_weights(model: Any, path: Path, backbone: str) -> None:
    """Load all but the last layer; half-precision weights are widened. Nothing in the file is run."""
    if not path.is_file():
        raise RecipeError(f"expected model.weights to be imagenet, none or a file, got {path}, which is not there")
    try:
        found = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # the border to untrusted files
        raise RecipeError(f"{path} cannot be read as weights (.safetensors or .pth): {error}") from error
    wanted = model.state_dict()
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    fits = {k: v.float() for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fits and not k.endswith("num_batches_tracked")]
    head = {f"{name}." for name, module in model.named_modules() if module is model.get_classifier()}
    strangers = [k for k in missing if not k.startswith(tuple(head))]
    if strangers:
        raise RecipeError(
            f"{path} does not fit {backbone}: {len(strangers)} of its {len(wanted)} tensors are missing or "
            f"of another shape, for example {strangers[0]}; choose the backbone these weights were made for"
        )
    model.load_state_dict(fits, strict=False)
