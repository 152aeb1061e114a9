"""Files of adapters: what was trained, a few megabytes, and which weights it fits, by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from leanmed.compress.adapter_layers import SplitQkv
from leanmed.compress.adapters import RECORD, Adapted, adapt, adapter_tensors, remove
from leanmed.errors import ArtifactError
from leanmed.files import whole_file
from leanmed.recipe.recipe import Adapters
from leanmed.tasks.base import Parts, Task

FORMAT = "1"


def save_adapters(model: nn.Module, path: Path) -> int:
    """Write an adapted network's adapters, and what else was trained with them, to a .safetensors file, whole.

    Its metadata hold `format`, `settings` (the recipe's section `adapters`), `blocks` (their module paths) and
    `base_sha256`, the hash of all other weights.

    Returns:
        Bytes written.

    Raises:
        ArtifactError: the network has no adapters.
    """
    record: Adapted | None = getattr(model, RECORD, None)
    if record is None:
        raise ArtifactError(
            "expected a network with adapters, got one without; adapt it first, and save before merging"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _trained(model).items()}
    metadata = {
        "format": FORMAT,
        "settings": record.settings.model_dump_json(),
        "blocks": json.dumps(record.blocks),
        "base_sha256": base_sha256(model, excluding=tensors),
    }
    content = save(tensors, metadata)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def load_adapters(model: nn.Module, path: Path, *, parts: Parts | None = None) -> Adapted:
    """Adapt a network by a file of `save_adapters`; if it does not fit, the network stays as it is.

    Args:
        model: with the weights that the adapters were trained on, and without adapters.
        path: the file.
        parts: as for `adapt`.

    Raises:
        ArtifactError: no such file, no adapters, or adapters for other weights.
        RecipeError: as `adapt`.
    """
    tensors, metadata = _read(path)
    settings = _settings(metadata, path)
    found = base_sha256(model, excluding=tensors)
    if found != metadata["base_sha256"]:
        raise ArtifactError(
            f"expected the weights that {path} was trained on, of hash {metadata['base_sha256'][:12]}, got others, of "
            f"hash {found[:12]}; load the same weights, of the same image size, before the adapters"
        )
    record = adapt(model, settings, parts=parts)
    wanted = _trained(model)
    if record is None or {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in wanted.items()}:
        remove(model)
        raise ArtifactError(
            f"expected in {path} the tensors that its settings ask for, got others; the file was changed: take a copy "
            "that was not"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
    return record


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and what modules whose own are all trained keep beside them (running means)."""
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for path, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and all(p.requires_grad for p in own):
            kept = set(module.state_dict(keep_vars=True))
            named = ((name, b) for name, b in module.named_buffers(recurse=False) if name in kept)
            found |= {f"{path}.{name}" if path else name: buffer for name, buffer in named}
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ArtifactError(f"expected a file of adapters at {path}, got none; correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read as .safetensors ({error}); take a copy that is not damaged"
        ) from error


def _settings(metadata: dict[str, str], path: Path) -> Adapters:
    if metadata.get("format") != FORMAT or not {"settings", "base_sha256"} <= metadata.keys():
        got = f"format {metadata['format']}" if "format" in metadata else "another kind of file"
        raise ArtifactError(
            f"expected {path} to hold adapters of format {FORMAT}, got {got}; save them with this version of leanmed"
        )
    try:
        return Adapters.model_validate_json(metadata["settings"])
    except ValidationError as error:
        raise ArtifactError(
            f"expected in {path} settings that this version of leanmed knows, got {metadata['settings']}; save it again"
        ) from error


def base_sha256(model: nn.Module, *, excluding: Iterable[str] = ()) -> str:
    """The SHA-256 of a network's tensors without its adapters: names, types, shapes and values.

    Args:
        model: with adapters or without, which makes no difference.
        excluding: names of further tensors to leave out.
    """
    left_out, digest = set(excluding), hashlib.sha256()
    for name, tensor in sorted(_base(model).items()):
        if name in left_out:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as it was before it was adapted."""
    state: dict[str, Any] = model.state_dict()
    for name in adapter_tensors(model):
        del state[name]
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for path, module in model.named_modules():
        if isinstance(module, SplitQkv):
            for kind in ("weight", "bias"):
                three = [state.pop(f"{path}.{part}.{kind}", None) for part in "qkv"]
                if three[0] is not None:
                    state[f"{path}.{kind}"] = torch.cat(three)
    if isinstance(model, Task):  # temperature, threshold: fitted to the answers of a run
        state = {name: tensor for name, tensor in state.items() if "." in name}
    return state
