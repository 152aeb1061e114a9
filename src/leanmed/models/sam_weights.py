"""Weights of SAM from a hub, a folder or a file, in transformers' layout or Meta's, at the size that is wanted.

Nothing in a file is run, and every tensor must fit: a network that is half loaded would answer without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.errors import RecipeError
from leanmed.models.weights import read_weights

FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys that training scripts keep the tensors under
PREFIXES = ("module.", "sam.", "model.")  # what wrappers of a network put before every name
OWN, LOCALISER = "model.", "localiser."  # in what a run of ours keeps: SAM, and beside it what is not SAM's
ADAPTER = re.compile(r"\.adapter\.|lora_[AB]")
FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"
SHARED = "shared_image_embedding.positional_embedding"  # transformers' second name of the same tensor
NOT_LEARNED = ("pixel_mean", "pixel_std")  # in some files of Meta's layout
WIDTHS = {768: "sam-vit-b", 1024: "sam-vit-l", 1280: "sam-vit-h"}
SHOWN = 8  # names of each kind in a message
MLPS = r"output_hypernetworks_mlps\.\d+|iou_prediction_head|hq_mask_mlp"
# Names of Meta and of SAM-HQ's authors, on the left, one after the other to transformers'.
NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", FREQUENCIES),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^mask_decoder\.hf_token\.", "mask_decoder.hq_token."),
    (r"^mask_decoder\.hf_mlp\.", "mask_decoder.hq_mask_mlp."),
    (rf"^(mask_decoder\.(?:{MLPS}))\.layers\.0\.", r"\1.proj_in."),
    (rf"^(mask_decoder\.(?:{MLPS}))\.layers\.1\.", r"\1.layers.0."),
    (rf"^(mask_decoder\.(?:{MLPS}))\.layers\.2\.", r"\1.proj_out."),
    (r"^mask_decoder\.compress_vit_feat\.", "mask_decoder.compress_vit."),
    (r"^mask_decoder\.embedding_encoder\.", "mask_decoder.encoder."),
    (r"^mask_decoder\.embedding_maskfeature\.", "mask_decoder.mask."),
    (r"^(mask_decoder\.(?:compress_vit|encoder|mask))\.0\.", r"\1_conv1."),
    (r"^(mask_decoder\.(?:compress_vit|encoder|mask))\.1\.", r"\1_norm."),
    (r"^(mask_decoder\.(?:compress_vit|encoder|mask))\.3\.", r"\1_conv2."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^(vision_encoder\.layers\.\d+|mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
)


def load_sam_weights(network: nn.Module, source: str, backbone: str, fresh: Collection[str] = frozenset()) -> None:
    """Load weights into a `Sam`; half precision is widened, and positions are resized to the network's size.

    Absolute positions of the encoder are resized bilinearly, and relative ones, of windows and of whole images,
    linearly, as SAMed does it: the outer edges of the outermost patches stay where they are.

    Args:
        network: with transformers' names.
        source: a folder with transformers' .safetensors files, a .safetensors or .pth file in transformers' layout or
            Meta's (which is MedSAM's and SAM-HQ's, too), the id of such a folder on Hugging Face's hub, owner/name, or
            a fold of a run of ours, RUN/fold-0.
        backbone: the network's name, for the message.
        fresh: names of tensors that are not SAM's. They stay as they are where the weights hold none of them.

    Raises:
        RecipeError: no such weights, nothing that can be read, or weights of another network.
    """
    found = _named(_unwrapped(_read(source, backbone)), source)
    own = network.state_dict()
    left = frozenset() if any(name in fresh for name in found) else fresh
    wanted = {name: value for name, value in own.items() if name not in left}
    found = {name: _resized(name, value, wanted[name]) if name in wanted else value for name, value in found.items()}
    _check(found, wanted, source, backbone)
    network.load_state_dict(own | found)


def transformers_name(name: str) -> str:
    """A tensor's name in Meta's layout to that in transformers'; an unknown one stays as it is."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _read(source: str, backbone: str) -> dict[str, object]:
    path = Path(source)
    if path.is_dir():
        return _folder(path, source)
    if path.is_file():
        return read_weights(path)
    if path.suffix not in FILES and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _folder(_from_hub(source), source)
    raise RecipeError(
        f"expected model.weights of {backbone} to be none, a folder, a .safetensors or .pth file, or an id on Hugging "
        f"Face's hub such as facebook/sam-vit-base, got {source}, which is not there; set it to one of these"
    )


def _folder(path: Path, source: str) -> dict[str, object]:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise RecipeError(
            f"expected .safetensors files in {source}, got none; save the model there with transformers' "
            "save_pretrained, or set model.weights to a .pth file"
        )
    return {name: value for file in files for name, value in read_weights(file).items()}


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
    except Exception as error:  # no network, no such model, no permission
        raise RecipeError(
            f"model.weights {name} is no folder or file here, and could not be fetched from Hugging Face's hub "
            f"({type(error).__name__}); connect to the network, or set model.weights to a folder or a file"
        ) from error


def _unwrapped(found: dict[str, object]) -> dict[str, Tensor]:
    """The tensors, out of what training scripts and wrappers put around them."""
    for key in WRAPPERS:
        if isinstance(inner := found.get(key), dict):
            found = inner
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if any(name.startswith(LOCALISER) for name in tensors):
        tensors = {name: value for name, value in tensors.items() if name.startswith(OWN)}
        if any(ADAPTER.search(name) for name in tensors):
            raise RecipeError(
                "expected model.weights to be a run that trained all of SAM or its decoder, got one with adapters; "
                "take the weights that it started from, or a run of adapters.method none, full or decoder"
            )
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if name not in NOT_LEARNED}


def _named(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under transformers' names, each once."""
    metas = any(name.startswith("image_encoder.") for name in tensors)  # some names are another tensor's in the other
    named = {transformers_name(name) if metas else name: value for name, value in tensors.items()}
    if SHARED in named:
        named[FREQUENCIES] = named.pop(SHARED)
    if any(name.startswith("vision_encoder.") for name in named):
        return named
    if adapters := [name for name in named if re.match(r"w_[ab]_\d+$", name) or "lora_" in name]:
        raise RecipeError(
            f"expected the weights of a whole SAM in {source}, got LoRA's alone, {adapters[0]} and {len(adapters) - 1} "
            "more, without the encoder that they change; set model.weights to the weights they were trained on"
        )
    raise RecipeError(
        f"expected the weights of a SAM in {source}, got {_listed(named) if named else 'no tensors'}, without an image "
        "encoder (image_encoder. or vision_encoder.); set model.weights to a checkpoint of SAM"
    )


def _resized(name: str, value: Tensor, wanted: Tensor) -> Tensor:
    """Positions at the size of those that are wanted, in single precision; all else as it is."""
    value = value.float()
    if value.shape == wanted.shape or value.ndim != wanted.ndim or value.shape[-1] != wanted.shape[-1]:
        return value
    if name.endswith(".pos_embed"):  # (1, h, w, c)
        size, mode = wanted.shape[1:3], "bilinear"
    elif name.endswith((".rel_pos_h", ".rel_pos_w")):  # (2 n - 1, c)
        value, size, mode = value[None], wanted.shape[:1], "linear"
    else:
        return value
    resized = F.interpolate(value.movedim(-1, 1), size, mode=mode, align_corners=False).movedim(1, -1)
    return resized.reshape(wanted.shape)


def _check(found: dict[str, Tensor], wanted: dict[str, Tensor], source: str, backbone: str) -> None:
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    shapes = [
        f"{name} is {_size(found[name])} and should be {_size(wanted[name])}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if not (missing or surplus or shapes):
        return
    faults = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (("missing", missing), ("not known", surplus), ("of another shape", shapes))
        if names
    ]
    made_for = _made_for(found)
    advice = f" (it looks like one for {made_for})" if made_for and made_for != backbone else ""
    raise RecipeError(
        f"{source} does not fit {backbone}: of its {len(wanted)} tensors, {'; '.join(faults)}; choose the backbone "
        f"that these weights were made for{advice}"
    )


def _made_for(found: dict[str, Tensor]) -> str:
    """The backbone that tensors belong to, by their width and by whether they have what SAM-HQ adds; empty: unknown."""
    made_for = WIDTHS.get(len(found.get("vision_encoder.patch_embed.projection.bias", ())), "")
    return made_for.replace("sam-", "sam-hq-") if "mask_decoder.hq_token.weight" in found else made_for


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
