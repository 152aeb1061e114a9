"""The segmentation network that a recipe names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from leanmed.errors import RecipeError
from leanmed.models.encoder_decoder import EncoderDecoder, timm_encoder
from leanmed.models.enet import ENet
from leanmed.models.erfnet import ERFNet
from leanmed.models.segmentation import Segmenter
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model

# Each takes the channels of the images, the classes, and what `model.backbone_args` and `model.dropout` say.
NETWORKS: dict[str, Callable[..., Segmenter]] = {
    "enet": ENet,
    "erfnet": ERFNet,
}
DECODER_ARGS = ("width",)  # of `model.backbone_args`: for the decoder beside timm's encoder, which gets the others


def build_segmenter(model: Model, channels: int, classes: int, *, pretrained: bool = True) -> Segmenter:
    """A network by its name in `NETWORKS`, or timm's encoder of that name with a small decoder.

    Args:
        model: `backbone` is the name. `backbone_args` goes to the network, or to timm, except `width`, which is the
            decoder's. `weights` is a file, none, or imagenet for timm's encoders; a file holds the whole network, or
            timm's encoder, and the layers that give the logits may be missing or of another shape. `dropout` is the
            rate that the network's class describes; networks without dropout ignore it.
        channels: of the images.
        classes: of the logits.
        pretrained: load the weights that `model` names; false when the caller loads trained ones afterwards.

    Raises:
        RecipeError: no such network, arguments that it does not take, or weights that are not there or do not fit.
    """
    if model.backbone not in NETWORKS:
        return _timm(model, channels, classes, pretrained)
    if pretrained and model.weights == "imagenet":
        raise RecipeError(
            f"expected model.weights of {model.backbone} to be none or a file, got imagenet, which no hub has; "
            "set it to none"
        )
    network = _make(model, NETWORKS[model.backbone], channels, classes)
    if pretrained and model.weights != "none":
        load_weights(network, Path(model.weights), model.backbone, optional=("classifier.", "auxiliary."))
    return network


def _make(model: Model, builder: Callable[..., Segmenter], channels: int, classes: int) -> Segmenter:
    known = [name for name, p in inspect.signature(builder).parameters.items() if p.kind is p.KEYWORD_ONLY]
    options = {"dropout": model.dropout} if "dropout" in known else {}
    known = [name for name in known if name != "dropout"]
    if unknown := sorted(set(model.backbone_args) - set(known)):
        raise RecipeError(
            f"expected model.backbone_args of {model.backbone} to be among {', '.join(known) or 'none'}, got "
            f"{', '.join(unknown)}; leave it out"
        )
    try:
        return builder(channels, classes, **options, **model.backbone_args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(model, error) from error


def _timm(model: Model, channels: int, classes: int, pretrained: bool) -> Segmenter:
    own = {name: value for name, value in model.backbone_args.items() if name in DECODER_ARGS}
    others = {name: value for name, value in model.backbone_args.items() if name not in DECODER_ARGS}
    encoder = timm_encoder(model.model_copy(update={"backbone_args": others}), channels, pretrained=pretrained)
    try:
        return EncoderDecoder(encoder, encoder.feature_info.channels(), classes, dropout=model.dropout, **own)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(model, error) from error


def _refused(model: Model, error: Exception) -> RecipeError:
    return RecipeError(
        f"{model.backbone} cannot be built with model.backbone_args {model.backbone_args}: {error}; change them, or "
        "leave them out"
    )
