"""Weights of SAM under Meta's names, which the tests of several networks load."""

from __future__ import annotations

from torch import Tensor, nn


def metas_name(name: str) -> str:
    """A tensor's name in Meta's code, from that in transformers'."""
    name = name.replace("vision_encoder.", "image_encoder.").replace("image_encoder.layers.", "image_encoder.blocks.")
    name = name.replace("patch_embed.projection", "patch_embed.proj").replace(".point_embed.", ".point_embeddings.")
    name = name.replace("shared_embedding.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix")
    for place, part in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
        name = name.replace(f"neck.{part}", f"neck.{place}")
    for place, part in {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}.items():
        name = name.replace(f"mask_embed.{part}", f"mask_downscaling.{place}")
    for place, part in {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}.items():
        name = name.replace(part, f"output_upscaling.{place}")
    if "mlps" in name or "iou_prediction_head" in name:
        for place, part in {1: "layers.0", 0: "proj_in", 2: "proj_out"}.items():
            name = name.replace(f".{part}.", f".layers.{place}.")
    return name.replace("layer_norm", "norm")


def in_metas_layout(network: nn.Module) -> dict[str, Tensor]:
    return {metas_name(name): value for name, value in network.state_dict().items()}
