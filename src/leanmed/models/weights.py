"""Weights from files that nobody vouches for: nothing in them is run, and they must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from leanmed.errors import RecipeError


def load_weights(model: nn.Module, path: Path, backbone: str, *, optional: tuple[str, ...] = ()) -> None:
    """Load a .safetensors or .pth file into a model; half-precision weights are widened.

    Args:
        model: takes the tensors it knows; others in the file are passed over.
        path: the file.
        backbone: the model's name, for the message.
        optional: how the names of those tensors begin that the file need not have.

    Raises:
        RecipeError: no such file, no weights, or weights of another model.
    """
    if not path.is_file():
        raise RecipeError(f"expected model.weights to be imagenet, none or a file, got {path}, which is not there")
    found = {name: value for name, value in read_weights(path).items() if isinstance(value, Tensor)}
    wanted = model.state_dict()
    fits = {k: v.float() for k, v in found.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fits and not k.endswith("num_batches_tracked")]
    strangers = [k for k in missing if not k.startswith(optional)]
    if strangers:
        raise RecipeError(
            f"{path} does not fit {backbone}: {len(strangers)} of its {len(wanted)} tensors are missing or "
            f"of another shape, for example {strangers[0]}; choose the backbone these weights were made for"
        )
    model.load_state_dict(fits, strict=False)


def read_weights(path: Path) -> dict[str, object]:
    """What a .safetensors or .pth file holds by name: tensors, and in a .pth file other plain values.

    Raises:
        RecipeError: it cannot be read, or holds more than plain values.
    """
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # the border to untrusted files
        reason = str(error).split("\n")[0]
        raise RecipeError(
            f"{path} cannot be read as weights (.safetensors or .pth): {reason}; set model.weights to a file that "
            "holds tensors alone"
        ) from error
    return dict(found) if isinstance(found, dict) else {}
