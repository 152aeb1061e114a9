"""What a file of weights says of the images that it was trained on.

Weights work best on images that are prepared as those they have seen: shifted and scaled by the same mean and standard
deviation, and padded in the same way. timm writes this into a `config.json` beside its files; others write it into the
metadata of a .safetensors file, as lists or in words such as "mean=std=0.5" and "pad_type='same'".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open

from leanmed.errors import RecipeError
from leanmed.models.timm_backbone import TIMM_NAMES
from leanmed.recipe.recipe import Model

CONFIG = "config.json"  # timm's, beside the weights
MOST = 1 << 20  # bytes of it
_NUMBERS = r"(\[[^\]]*\]|\([^)]*\)|\d*\.?\d+)"
_SAID = {
    "mean": re.compile(rf"\bmean\s*[=:]\s*(?:std\s*[=:]\s*)?{_NUMBERS}"),
    "std": re.compile(rf"\bstd\s*[=:]\s*(?:mean\s*[=:]\s*)?{_NUMBERS}"),
    "pad_type": re.compile(r"\bpad_type\s*[=:]\s*['\"]?(\w+)"),
}


def as_weights_say(model: Model) -> tuple[Model, list[str]]:
    """Settings with what the weights' file says of mean, standard deviation and padding; what is set already wins.

    Args:
        model: a recipe's section, with weights of any kind.

    Returns:
        The settings, and a sentence on where they come from: for a network of timm's with weights from a file only.

    Raises:
        RecipeError: the file says a mean or standard deviation that no pixels can have.
    """
    path = Path(model.weights)
    name = TIMM_NAMES.get(model.backbone, model.backbone)
    if model.weights in ("imagenet", "none") or not path.is_file() or not timm.is_model(name):
        return model, []
    said = _said(path, name)
    changes: dict[str, Any] = {}
    if model.mean is None and {"mean", "std"} <= set(said):
        changes = {"mean": said["mean"], "std": said["std"]}
    if "pad_type" in said and "pad_type" not in model.backbone_args:
        changes["backbone_args"] = {**model.backbone_args, "pad_type": said["pad_type"]}
    told = [f"{path} says how its images were prepared: {_words(changes)}."] if changes else []
    if model.mean is None and "mean" not in changes:
        told.append(
            f"{path} does not say by which mean and standard deviation its images were normalised: those of timm's "
            f"own {name} are used. If others belong to it, set model.mean and model.std."
        )
    try:
        return Model.model_validate(model.model_dump() | changes), told
    except ValueError as error:
        raise RecipeError(
            f"{path}: expected a mean and a standard deviation of three numbers from 0 to 1, got {_words(changes)}; "
            "set model.mean and model.std"
        ) from error


def _words(changes: Mapping[str, Any]) -> str:
    flat = {**changes, **changes.get("backbone_args", {})}
    return ", ".join(f"{key} {flat[key]}" for key in _SAID if key in flat)


def _said(path: Path, name: str) -> dict[str, Any]:
    """Mean, std and pad_type, as far as the file or timm's config beside it has them for this network."""
    found: dict[str, Any] = {}
    text = "; ".join(f"{key}={value}" for key, value in _metadata(path).items())
    for key, pattern in _SAID.items():
        if match := pattern.search(text):
            found[key] = match[1] if key == "pad_type" else _three(match[1])
    return _timm_config(path.parent / CONFIG, name) | {key: value for key, value in found.items() if value is not None}


def _three(text: str) -> list[float] | None:
    """Three numbers, or one for all channels; None: neither."""
    numbers = [float(number) for number in re.findall(r"\d*\.?\d+", text)]
    return {1: numbers * 3, 3: numbers}.get(len(numbers))


def _metadata(path: Path) -> dict[str, str]:
    """The text that a .safetensors file has beside its tensors; {}: none, or another kind of file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError):  # told of where the weights are loaded
        return {}


def _timm_config(path: Path, name: str) -> dict[str, Any]:
    """Mean and standard deviation in timm's config, which says how the weights of one network were trained."""
    try:
        content: Any = json.loads(path.read_text("utf-8")) if path.stat().st_size <= MOST else None
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or content.get("architecture") != name:
        return {}
    known = content.get("pretrained_cfg")
    return {key: known[key] for key in ("mean", "std") if key in known} if isinstance(known, dict) else {}
