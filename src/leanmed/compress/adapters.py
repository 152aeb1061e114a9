"""Adapters: a trained transformer learns a new task by few parameters, put into its blocks.

A technique of the shape model -> model: `adapt` changes a network in place, be it a task's or any other with a sequence
of transformer blocks, each with a child `attn` and a child `mlp` (transformers' SAM, timm's ViT, Swin, DeiT, EVA).

    HA-SAM    two bottlenecks a block, whose width grows with depth: one after attention and before its residual, one
              beside the MLP; see `leanmed.compress.adapter_widths`
    Med-SA    the same two, all of one width, with GELU and half the strength beside the MLP (Wu 2023, arXiv:2304.12620)
    SAMed     LoRA of queries and values, without a scale (Zhang 2023, arXiv:2304.13785; Hu 2021, arXiv:2106.09685)
    MedSAM    no adapter: encoder and decoder are trained (Ma 2024, arXiv:2304.12306)

Before the first step an adapted network answers exactly as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from leanmed.compress.adapter_layers import Bottleneck, SplitQkv, attach, detach
from leanmed.compress.adapter_widths import rank_of, widths_of
from leanmed.errors import MissingExtraError, RecipeError
from leanmed.recipe.recipe import Adapters
from leanmed.tasks.base import Parts, Task

MED_SA_SCALE = 0.5  # of the adapter beside the MLP
QUERIES, VALUES = ("q", "q_proj", "query"), ("v", "v_proj", "value")
LORA = re.compile(r"\.lora_[AB]\.")
RECORD = "adapted"  # the attribute of an adapted network


@dataclass(frozen=True)
class Adapted:
    """What was done to a network.

    Attributes:
        settings: the method.
        parts: of the network.
        blocks: module paths of the transformer blocks, the shallowest first.
        dims: width of each block.
        widths: of the bottlenecks in each block, 0 where it has none; empty for methods without bottlenecks.
        rank: of LoRA; 0 for other methods.
        added: parameters of the adapters alone.
        trainable: parameters that are trained, those of a new last layer or of the decoder included.
        frozen: names of the parameters that were trainable before and are not now.
    """

    settings: Adapters
    parts: Parts
    blocks: tuple[str, ...]
    dims: tuple[int, ...]
    widths: tuple[int, ...]
    rank: int
    added: int
    trainable: int
    frozen: frozenset[str]


def adapt(
    model: nn.Module, settings: Adapters, *, blocks: str | None = None, parts: Parts | None = None
) -> Adapted | None:
    """Put adapters into a network, in place, and let only them train, and what has no trained weights yet.

    Args:
        model: a task, transformers' `SamModel` or its like, or any network with transformer blocks. Its trained
            weights must have been loaded before.
        settings: the method and its measures.
        blocks: module path of the sequence of blocks, where `*` stands for any number; None: as the settings say, else
            found where there is one sequence only.
        parts: of the network; None: as the task says, or SAM's, or all of it is the encoder.

    Returns:
        What was done; None for the method `none`.

    Raises:
        RecipeError: there are no transformer blocks, or several sequences of them, or the network has adapters already,
            or the method does not fit it.
        MissingExtraError: `lora` without peft.
    """
    if settings.method == "none":
        return None
    if hasattr(model, RECORD):
        raise RecipeError("expected a network without adapters, got one that has some; remove or merge them first")
    parts = parts or _parts_of(model)
    if settings.decoder and not parts.decoder:
        raise RecipeError(
            "expected adapters.decoder to be false for a network without a decoder of trained weights, got true; "
            "leave it out"
        )
    paths = find_blocks(model, blocks or settings.blocks)
    found = [model.get_submodule(path) for path in paths]
    dims = tuple(_width(block, path) for block, path in zip(found, paths, strict=True))
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    widths: tuple[int, ...] = ()
    rank = 0
    if settings.method == "lora":
        rank = _add_lora(found, dims, settings)
    elif settings.method not in ("full", "decoder"):
        widths = widths_of(settings, dims)
        _add_bottlenecks(found, dims, widths, settings)
    own = set(adapter_tensors(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in own or _trains(name, parts, settings))
    named = dict(model.named_parameters())
    record = Adapted(
        settings=settings,
        parts=parts,
        blocks=paths,
        dims=dims,
        widths=widths,
        rank=rank,
        added=sum(named[name].numel() for name in own),
        trainable=trainable_parameters(model),
        frozen=frozenset(name for name in before if name in named and not named[name].requires_grad),
    )
    setattr(model, RECORD, record)
    return record


def merge(model: nn.Module) -> list[str]:
    """Add LoRA to the weights that it changes, in place; the network then has its own layers and no others.

    A bottleneck has an activation inside, so that no weights could hold it: it stays.

    Returns:
        Module paths of the changed layers.
    """
    return _without_lora(model, merged=True)


def remove(model: nn.Module) -> list[str]:
    """Take adapters away, in place: the encoder answers as it did before, and what was trainable is so again.

    A new last layer or a decoder that was trained beside the adapters stays as it is.

    Returns:
        Module paths of what was adapted.
    """
    paths = [path for path, module in list(model.named_modules()) if detach(module)]
    paths += _without_lora(model, merged=False)
    _release(model)
    return paths


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def adapter_tensors(model: nn.Module) -> list[str]:
    """Names of the tensors of adapters."""
    inside = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, Bottleneck))
    return [name for name in model.state_dict() if name.startswith(inside) or LORA.search(name)]


def find_blocks(model: nn.Module, pattern: str | None = None) -> tuple[str, ...]:
    """Module paths of a network's transformer blocks, the shallowest first.

    Args:
        model: any network.
        pattern: path of the list that holds them, where `*` stands for any number; None: the only one there is.
            Lists whose paths differ by a number alone, such as Swin's stages, are one sequence.

    Raises:
        RecipeError: there is none, or more than one.
    """
    sequences: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and all(map(_is_block, module)):
            inside = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            sequences.setdefault(re.sub(r"\d+", "*", path), []).extend(inside)
    if pattern is None:
        return _only(sequences)
    found = [block for paths in sequences.values() for block in paths if fnmatchcase(block.rpartition(".")[0], pattern)]
    if not found:
        raise RecipeError(
            f"expected transformer blocks, each with `attn` and `mlp`, at adapters.blocks {pattern!r}, got none; "
            + (f"they are at {', '.join(sequences)}" if sequences else "this network has none anywhere")
        )
    return tuple(found)


def _only(sequences: dict[str, list[str]]) -> tuple[str, ...]:
    if not sequences:
        raise RecipeError(
            "expected a network with a sequence of transformer blocks, each with `attn` and `mlp`, got one without, as "
            "convolutional ones are; leave the section `adapters` out, or choose a transformer such as "
            "vit_tiny_patch16_224 as model.backbone"
        )
    if len(sequences) > 1:
        raise RecipeError(
            f"expected one sequence of transformer blocks, got {len(sequences)}; name one of {', '.join(sequences)} as "
            "adapters.blocks"
        )
    (paths,) = sequences.values()
    return tuple(paths)


def _is_block(module: nn.Module) -> bool:
    parts = (getattr(module, name, None) for name in ("attn", "mlp"))
    return all(isinstance(part, nn.Module) and _linears(part) for part in parts)


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _width(block: Any, path: str) -> int:
    """d, of what attention gives, of what the MLP takes, and of what it gives."""
    attention, mlp = _linears(block.attn), _linears(block.mlp)
    last = getattr(block.attn, "proj", None)
    out = last.out_features if isinstance(last, nn.Linear) else attention[-1].out_features
    if not out == mlp[0].in_features == mlp[-1].out_features:
        raise RecipeError(
            f"expected block {path} to keep its width, got {out} channels after attention and "
            f"{mlp[0].in_features} to {mlp[-1].out_features} in its MLP; choose another network"
        )
    return int(out)


def _parts_of(model: nn.Module) -> Parts:
    if isinstance(model, Task):
        return model.parts()
    if hasattr(model, "vision_encoder") and hasattr(model, "mask_decoder"):
        return sam_parts()
    return Parts("")


def sam_parts(path: str = "") -> Parts:
    """The parts of one of transformers' SAM, which lies at a module path.

    Args:
        path: of the model, such as `model`; empty: it is the network itself.
    """
    start = f"{path}." if path else ""
    return Parts(
        encoder=f"{start}vision_encoder",
        decoder=(f"{start}mask_decoder",),
        frozen=tuple(f"{start}{name}" for name in ("prompt_encoder", "shared_image_embedding", "no_memory_embedding")),
    )


def _trains(name: str, parts: Parts, settings: Adapters) -> bool:
    """Whether a parameter that is no adapter's is trained."""
    decoder = settings.decoder or settings.method in ("full", "decoder")
    rules = {parts.encoder: settings.method == "full"}
    rules |= dict.fromkeys(parts.decoder, decoder) | dict.fromkeys(parts.frozen, False)
    rules |= dict.fromkeys(parts.fresh, True)
    fitting = [path for path in rules if not path or name == path or name.startswith(f"{path}.")]
    return rules[max(fitting, key=len)] if fitting else True


def _add_bottlenecks(blocks: Sequence[Any], dims: Sequence[int], widths: Sequence[int], settings: Adapters) -> None:
    med_sa = settings.method == "med-sa"
    for block, dim, width in zip(blocks, dims, widths, strict=True):
        if not width:
            continue
        like = _linears(block.mlp)[0].weight
        attach(block.attn, Bottleneck(dim, width, gelu=med_sa, scale=1, like=like), series=True)
        scale = MED_SA_SCALE if med_sa else 1
        attach(block.mlp, Bottleneck(dim, width, gelu=med_sa, scale=scale, like=like), series=False)


def _add_lora(blocks: Sequence[Any], dims: Sequence[int], settings: Adapters) -> int:
    """Put LoRA on queries and values; its rank."""
    try:
        from peft import LoraConfig, inject_adapter_in_model  # here, since it imports transformers
    except ImportError as error:
        raise MissingExtraError("adapters.method lora", "sam") from error
    targets = [_queries_and_values(block.attn) for block in blocks]
    layers = [block.attn.get_submodule(p) for block, paths in zip(blocks, targets, strict=True) for p in paths]
    rank = rank_of(settings, dims, sum(layer.in_features + layer.out_features for layer in layers))
    for block, paths in zip(blocks, targets, strict=True):
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=paths), block.attn)
        del block.attn.peft_config  # else a second injection, after a removal, warns of the first
    return rank


def _queries_and_values(attention: Any) -> list[str]:
    """Paths of the two layers; a layer that fuses both with the keys is split into three.

    Raises:
        RecipeError: there are no such layers.
    """
    fused = getattr(attention, "qkv", None)
    if isinstance(fused, nn.Linear) and fused.out_features % 3 == 0 and getattr(attention, "q_bias", None) is None:
        attention.qkv = SplitQkv(fused)
        return ["qkv.q", "qkv.v"]
    linear = [path for path, layer in attention.named_modules() if isinstance(layer, nn.Linear)]
    found = [[path for path in linear if path.rpartition(".")[2] in names] for names in (QUERIES, VALUES)]
    if any(len(paths) != 1 for paths in found):
        raise RecipeError(
            f"expected attention with a linear layer `qkv`, or one for queries and one for values, for adapters.method "
            f"lora, got {type(attention).__name__} with {', '.join(linear)}; choose hierarchical, or another network"
        )
    return [paths[0] for paths in found]


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Each linear layer that LoRA is put on, with its path, as peft wraps it."""
    for path, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            yield path, module


def _without_lora(model: nn.Module, *, merged: bool) -> list[str]:
    paths = []
    for path, layer in lora_layers(model):
        if merged:
            layer.merge()
        model.set_submodule(path, layer.get_base_layer())
        paths.append(path)
    for path, module in list(model.named_modules()):
        if isinstance(module, SplitQkv):
            model.set_submodule(path, module.fused())
    if paths:
        _release(model)
    return paths


def _release(model: nn.Module) -> None:
    """Let train what trained before, and forget what was done."""
    record: Adapted | None = getattr(model, RECORD, None)
    if record is None:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name in record.frozen)
    delattr(model, RECORD)
