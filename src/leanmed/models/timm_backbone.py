"""A backbone of timm's, by its name in a recipe."""

from __future__ import annotations

from typing import Any

import timm

from leanmed.errors import RecipeError
from leanmed.recipe.recipe import Model

TIMM_NAMES = {"mobilenetv1": "mobilenetv1_100", "mobilenetv2": "mobilenetv2_100"}


def make_backbone(settings: Model, *, imagenet: bool, **options: Any) -> Any:
    """A timm network.

    Args:
        settings: its name, timm's or one of `TIMM_NAMES`, and further arguments.
        imagenet: fetch the weights that were trained on ImageNet.
        options: arguments to `timm.create_model` that the task needs.

    Raises:
        RecipeError: timm has no such network or cannot make it so, or the weights cannot be fetched.
    """
    name = TIMM_NAMES.get(settings.backbone, settings.backbone)
    try:
        return timm.create_model(name, pretrained=imagenet, **options, **settings.backbone_args)
    except (RuntimeError, TypeError, IndexError, AssertionError) as error:
        raise RecipeError(
            f"timm cannot make model.backbone {settings.backbone!r} with model.backbone_args {settings.backbone_args}: "
            f"{error}; choose another one, such as mobilenetv2 or resnet50 (`python -c 'import timm; "
            "print(timm.list_models())'` lists all; boxes need a convolutional one)"
        ) from error
    except OSError as error:
        known = timm.get_pretrained_cfg(name)
        place = f" from https://huggingface.co/{known.hf_hub_id}" if known and known.hf_hub_id else ""
        raise RecipeError(
            f"the ImageNet weights of {settings.backbone} could not be fetched{place} ({type(error).__name__}); "
            "connect to the network; or fetch model.safetensors there on another machine and give it by --set "
            "model.weights=FILE; or start from nothing by --set model.weights=none, which needs far more images"
        ) from error
