"""Attention within windows, and the enlarging of maps of tokens: what the transformers that segment share.

Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
arXiv:2103.14030, section 3.2.

Maps of tokens have their channels last here: (b, h, w, c).
"""

from __future__ import annotations

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

FORBIDDEN = -100.0  # added to the attention between tokens that must not see each other


class WindowBlock(nn.Module):
    """Attention within the windows of a map, then an MLP, each with a skip; the parameters are named as in timm.

    A map whose sides are no multiples of the window is padded, and no token of the map attends to the padding. A map
    that is no larger than a window is not shifted, as in the paper's code.

    Args:
        dim: channels.
        heads: of the attention.
        window: its side, in tokens.
        shifted: move the windows by half a window.
        mlp: of `dim` channels; None: one hidden layer, four times as wide.
        drop_path: rate at which the attention and the MLP are left out in training, for each image alone.
    """

    def __init__(
        self, dim: int, heads: int, window: int, *, shifted: bool, mlp: nn.Module | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"expected windows of at least 1 token, got {window}")
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window_size=window)
        self.mlp = mlp or Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to the same shape."""
        x = x + self.drop_path(self._attended(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def _attended(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        size = (self.window, self.window)
        bottom, right = -height % self.window, -width % self.window
        shift = self.window // 2 if self.shifted and min(height, width) > self.window else 0
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        mask = None
        if shift or bottom or right:
            regions = _regions(height, bottom, shift, x)[:, None] * 4 + _regions(width, right, shift, x)
            windows = window_partition(regions[None, :, :, None], size).flatten(1)
            mask = torch.where(windows[:, :, None] == windows[:, None], 0.0, FORBIDDEN).to(x.dtype)
        attended = self.attn(window_partition(x, size).flatten(1, 2), mask)
        x = window_reverse(attended.unflatten(1, size), size, height + bottom, width + right)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width]


def drop_rates(deepest: float, count: int) -> list[float]:
    """Rates at which blocks are left out in training: they rise linearly from 0 at the first to that of the last.

    Raises:
        ValueError: the last rate is not in [0, 1).
    """
    if not 0 <= deepest < 1:
        raise ValueError(f"expected drop_path to be at least 0 and below 1, got {deepest}")
    return [deepest * n / (count - 1) for n in range(count)]


def _regions(side: int, padding: int, shift: int, like: Tensor) -> Tensor:
    """Of each row (or column) after the shift: 1 if it came from the other end, and 2 more if it is padding."""
    places = torch.arange(side + padding, device=like.device)
    return (places >= side + padding - shift).long() + 2 * (torch.roll(places, -shift) >= side).long()


class PatchExpand(nn.Module):
    """Each token becomes `factor` x `factor` of them: a linear layer, and a normalisation of what it gives.

    Cao et al. 2021, "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation",
    arXiv:2105.05537, section 3.6.
    """

    def __init__(self, dim: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, factor**2 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) to (b, factor * h, factor * w, outputs)."""
        batch, height, width, _ = x.shape
        n = self.factor
        x = self.expand(x).reshape(batch, height, width, n, n, -1).transpose(2, 3)
        return self.norm(x.reshape(batch, height * n, width * n, -1))  # type: ignore[no-any-return]
