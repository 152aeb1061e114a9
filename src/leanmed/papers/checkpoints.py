"""Why the anemia paper's INT8 and INT4 files grew: what a checkpoint of a *fake-quantized* model holds.

Its sizes (9.13, 4.61, 9.24 and 17.75 MB for FP32, FP16, INT8 and INT4) are those of saved PyTorch checkpoints in which
every weight is still a float, with the quantizers' ranges beside them. Nothing was packed:

    FP32   4 F + 8 C + e T
    FP16   2 F + 8 C + e T
    INT8   FP32 + 4 (R8 + L) + 2 e L + 3 q L
    INT4   FP32 + 4 R4       +   e L + 3 q L

F floats (parameters and batch-norm statistics), C 64-bit counters (one for each batch norm), T stored tensors, L layers
with weights. R8 is one range for each output channel, and L one for each layer's input. R4 is one range for each block
of 128 weights along a weight's *last* axis; that is the kernel's width, 1 or 3, in a convolution, so that nearly every
weight gets a 4-byte range of its own and the file doubles. e = 265 bytes is what the archive spends on each (headers,
alignment, name) and q = 270 what a quantizer's settings take, three to a layer (input, weight, output): both fitted to
files saved from timm's MobileNetV2, in MB of 10^6 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ENTRY = 265
QUANTIZER = 270
BLOCK = 128


def fake_quant_bytes(weights: Sequence[tuple[int, ...]], floats: int, counters: int, tensors: int) -> dict[str, int]:
    """Bytes of the four checkpoints.

    Args:
        weights: shapes of the layers' weights, output channels first.
        floats: parameters and buffers of floating type, the weights among them.
        counters: 64-bit integers.
        tensors: entries of the state dict.
    """
    fixed, settings = 8 * counters + ENTRY * tensors, 3 * QUANTIZER * len(weights)
    whole = 4 * floats + fixed
    channels = sum(shape[0] for shape in weights)
    blocks = sum(math.prod(shape[:-1]) * -(-shape[-1] // BLOCK) for shape in weights)
    return {
        "fp32": whole,
        "fp16": 2 * floats + fixed,
        "int8": whole + 4 * (channels + len(weights)) + 2 * ENTRY * len(weights) + settings,
        "int4": whole + 4 * blocks + ENTRY * len(weights) + settings,
    }


def paper_bytes() -> dict[str, int]:
    """Bytes of the four checkpoints of the paper's network, MobileNetV2 with one output."""
    import timm
    import torch

    with torch.device("meta"):
        state = timm.create_model("mobilenetv2_100", num_classes=1).state_dict()
    floats = sum(value.numel() for value in state.values() if value.is_floating_point())
    counters = sum(value.numel() for value in state.values() if not value.is_floating_point())
    return fake_quant_bytes([tuple(v.shape) for v in state.values() if v.ndim > 1], floats, counters, len(state))
