"""The segmentation network that a recipe names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from leanmed.errors import RecipeError
from leanmed.models.deeplabv3plus import DeepLabV3Plus, check_output_stride, deeplabv3plus_xception
from leanmed.models.encoder_decoder import EncoderDecoder, coarser_maps, timm_encoder
from leanmed.models.enet import ENet
from leanmed.models.erfnet import ERFNet
from leanmed.models.espnet import ESPNet
from leanmed.models.h2former import H2Former
from leanmed.models.missformer import MISSFormer
from leanmed.models.segmentation import PretrainedSegmenter, Segmenter
from leanmed.models.swin_unet import SwinUnet
from leanmed.models.timm_backbone import make_backbone
from leanmed.models.transunet import TransUNet
from leanmed.models.unet import UNet
from leanmed.models.unetplusplus import UNetPlusPlus
from leanmed.models.weights import load_weights
from leanmed.recipe.recipe import Model

Network = TypeVar("Network", bound=Segmenter)
Builder = Callable[[Model, int, int, bool], Segmenter]  # as `build_segmenter`


def build_segmenter(model: Model, channels: int, classes: int, *, pretrained: bool = True) -> Segmenter:
    """A network by its name in `NETWORKS`, or timm's encoder of that name with a small decoder.

    Args:
        model: `backbone` is the name. `backbone_args` go to the network, or to timm, except the `width` of the small
            decoder and the `output_stride` of DeepLabV3+. `weights` is a file, none, or, for timm's encoders,
            imagenet. A file holds timm's encoder, or the whole network otherwise, of which the layers that give the
            logits may be missing or of another shape. The encoders of transunet, h2former and swinunet are timm's, too.
            `dropout` is the rate that the network's class describes; networks without dropout ignore it. transunet and
            h2former are made for images of `side`, and take others.
        channels: of the images.
        classes: of the logits.
        pretrained: load the weights that `model` names; false when the caller loads trained ones afterwards.

    Raises:
        RecipeError: no such network, arguments that it does not take, or weights that are not there or do not fit.
    """
    return NETWORKS.get(model.backbone, _timm)(model, channels, classes, pretrained)


def _own(network: Callable[..., Segmenter], model: Model, channels: int, classes: int, pretrained: bool) -> Segmenter:
    """A network whose encoder is ours."""
    if pretrained and model.weights == "imagenet":
        raise RecipeError(
            f"expected model.weights of {model.backbone} to be none or a file, got imagenet, which no hub has; "
            "set it to none"
        )
    made = _made(network, model, channels, classes)
    if pretrained and model.weights != "none":
        load_weights(made, Path(model.weights), model.backbone, optional=("classifier.", "auxiliary."))
    return made


def _with_encoder(
    network: Callable[..., PretrainedSegmenter], model: Model, channels: int, classes: int, pretrained: bool
) -> Segmenter:
    """A network of ours whose encoder takes the weights of one of timm's."""
    made = _made(network, model, channels, classes)
    if pretrained and model.weights != "none":
        settings = model.model_copy(update={"backbone": made.timm_name, "backbone_args": made.timm_args})
        hub = model.weights == "imagenet"
        donor = make_backbone(settings, imagenet=hub, num_classes=0)
        if not hub:
            load_weights(donor, Path(model.weights), f"{made.timm_name}, the encoder of {model.backbone}")
        made.load_encoder(donor.state_dict())
        made.pretrained_cfg = donor.pretrained_cfg
    return made


def _made(network: Callable[..., Network], model: Model, channels: int, classes: int) -> Network:
    """Built from the keyword arguments that `model.backbone_args` holds; dropout and side are the recipe's."""
    options = {name for name, p in inspect.signature(network).parameters.items() if p.kind is p.KEYWORD_ONLY}
    shared = {"dropout": model.dropout, "side": model.side}
    known = sorted(options - set(shared))
    if unknown := sorted(set(model.backbone_args) - set(known)):
        raise RecipeError(
            f"expected model.backbone_args of {model.backbone} to have no keys but {', '.join(known) or 'none'}, got "
            f"{', '.join(unknown)}; leave that out"
        )
    with _refusals(model):
        return network(
            channels,
            classes,
            **{name: value for name, value in shared.items() if name in options},
            **model.backbone_args,
        )


def _timm(model: Model, channels: int, classes: int, pretrained: bool) -> Segmenter:
    """The small decoder on an encoder of timm's."""
    own, settings = _shared_out(model, model.backbone, "width", "finest")
    from_map = coarser_maps(own.pop("finest", None), settings, channels)
    encoder = timm_encoder(settings, channels, pretrained=pretrained, **from_map)
    with _refusals(model):
        return EncoderDecoder(encoder, encoder.feature_info.channels(), classes, dropout=model.dropout, **own)


def _deeplabv3plus(name: str, model: Model, channels: int, classes: int, pretrained: bool) -> Segmenter:
    """DeepLabV3+ on an encoder of timm's."""
    own, settings = _shared_out(model, name, "output_stride")
    stride = own.get("output_stride", 16)
    with _refusals(model):
        check_output_stride(stride)
    encoder = timm_encoder(
        settings, channels, pretrained=pretrained, reductions=(4, stride), output_stride=stride, out_indices=(1, 4)
    )
    low, deep = encoder.feature_info.channels()
    return DeepLabV3Plus(encoder, (low, deep), classes, output_stride=stride, dropout=model.dropout)


def _shared_out(model: Model, encoder: str, *ours: str) -> tuple[dict[str, Any], Model]:
    """Our own arguments, where they are given, and the settings of timm's encoder, with all other arguments."""
    own = {name: value for name, value in model.backbone_args.items() if name in ours}
    others = {name: value for name, value in model.backbone_args.items() if name not in ours}
    return own, model.model_copy(update={"backbone": encoder, "backbone_args": others})


@contextmanager
def _refusals(model: Model) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(
            f"{model.backbone} cannot be built with model.backbone_args {model.backbone_args}: {error}; change them, "
            "or leave them out"
        ) from error


NETWORKS: dict[str, Builder] = {
    "enet": partial(_own, ENet),
    "espnet": partial(_own, ESPNet),
    "erfnet": partial(_own, ERFNet),
    "unet": partial(_own, UNet),
    "unetplusplus": partial(_own, UNetPlusPlus),
    "deeplabv3plus": partial(_own, deeplabv3plus_xception),
    "deeplabv3plus_resnet50": partial(_deeplabv3plus, "resnet50"),
    "transunet": partial(_with_encoder, TransUNet),
    "h2former": partial(_with_encoder, H2Former),
    "swinunet": partial(_with_encoder, SwinUnet),
    "missformer": partial(_own, MISSFormer),
}
