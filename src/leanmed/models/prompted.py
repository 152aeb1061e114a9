"""Networks that take prompts, by name: the Segment Anything Model in its sizes, and what was made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from leanmed.errors import MissingExtraError, RecipeError
from leanmed.models.sam import PATCH, PromptedSegmenter, sam_small, sam_vit
from leanmed.models.sam_hq import sam_hq_vit
from leanmed.models.sam_weights import load_sam_weights
from leanmed.models.samus import samus_small, samus_vit
from leanmed.recipe.recipe import Model


def build_prompted(model: Model, *, pretrained: bool = True) -> PromptedSegmenter:
    """A network for prompted segmentation by its name in `NETWORKS`.

    Args:
        model: `backbone` is the name, `side` a multiple of 16, `backbone_args` the keyword arguments of the function
            there, and `weights` is none or as `load_sam_weights` takes it. `dropout` is ignored, as SAM has none.
        pretrained: load the weights that `model` names; false when the caller loads trained ones afterwards.

    Raises:
        RecipeError: no such network, arguments or a side that it does not take, or weights that are not there or do
            not fit.
        MissingExtraError: without transformers.
    """
    if model.backbone not in NETWORKS:
        raise RecipeError(
            f"expected model.backbone to be one of {', '.join(NETWORKS)}, got {model.backbone!r}; choose one of these"
        )
    if model.side % PATCH:
        raise RecipeError(
            f"expected model.side of {model.backbone} to be a multiple of {PATCH}, got {model.side}; set it to "
            f"{PATCH * round(model.side / PATCH)}"
        )
    network = _made(NETWORKS[model.backbone], model)
    if pretrained and model.weights != "none":
        load_sam_weights(network, model.weights, model.backbone, network.fresh)
    if network.fresh and model.weights != "none":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in network.fresh)
    return network


def _made(make: Callable[..., PromptedSegmenter], model: Model) -> PromptedSegmenter:
    known = [name for name, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(model.backbone_args) - set(known)):
        raise RecipeError(
            f"expected model.backbone_args of {model.backbone} to have no keys but {', '.join(known) or 'none'}, got "
            f"{', '.join(unknown)}; leave that out"
        )
    try:
        return make(model.side, **model.backbone_args)
    except ImportError as error:
        raise MissingExtraError(f"model.backbone {model.backbone}", "sam") from error
    except ValueError as error:
        raise RecipeError(
            f"{model.backbone} cannot be built with model.backbone_args {model.backbone_args}: {error}; change them, "
            "or leave them out"
        ) from error


SIZES = {  # of SAM's encoders: width, blocks, heads, and which blocks attend to the whole image
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}
NETWORKS: Mapping[str, Callable[..., PromptedSegmenter]] = {
    **{f"sam-vit-{name}": partial(sam_vit, *size) for name, size in SIZES.items()},
    "sam-small": sam_small,
    **{f"sam-hq-vit-{name}": partial(sam_hq_vit, *size) for name, size in SIZES.items()},
    "samus-vit-b": partial(samus_vit, *SIZES["b"]),
    "samus-small": samus_small,
}
