"""A network that looks at the colours of the tissue alone, not at its shape: histograms, and one hidden layer.

Pallor is a question of colour, and histograms of a few hundred photographs leave a network less to memorise than their
pixels do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 24
RANGES = ((0.0, 1.5), (-0.4, 0.5), (-2.2, 0.0))  # log red/green (the erythema index), log green/blue, mean log
DARKEST = 0.01  # added to each colour in [0, 1], so that black has a logarithm


class TissueColours(nn.Module):
    """Histograms of log colour ratios and of log brightness over the mask, then one hidden layer.

    Args:
        outputs: number of logits.
        hidden: width of the hidden layer.
        dropout: before the last layer.
    """

    centres: Tensor
    widths: Tensor

    def __init__(self, outputs: int, *, hidden: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        centres = torch.stack([torch.linspace(low, high, BINS) for low, high in RANGES])
        self.register_buffer("centres", centres[None, :, :, None], persistent=False)  # (1, 3, bins, 1)
        self.register_buffer("widths", (centres[:, 1] - centres[:, 0]).view(1, 3, 1, 1), persistent=False)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(len(RANGES) * BINS),
            nn.Linear(len(RANGES) * BINS, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(b, 4, h, w) colour times alpha, and alpha, in [0, 1], to logits (b, outputs)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """What the hidden layer makes of images, (b, hidden); the names of both halves are timm's."""
        return self.layers[:3](self.histograms(images).sqrt().flatten(1))  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        """The hidden layer's values (b, hidden) to logits (b, outputs)."""
        return self.layers[3:](features)  # type: ignore[no-any-return]

    def histograms(self, images: Tensor) -> Tensor:
        """The share of the tissue near each bin's centre, (b, 3, bins); a pixel between two centres counts to both."""
        alpha = images[:, 3:].flatten(2)  # (b, 1, n)
        logs = (images[:, :3].flatten(2) / alpha.clamp_min(1e-6) + DARKEST).log()
        red, green, blue = logs[:, :1], logs[:, 1:2], logs[:, 2:]
        values = torch.cat([red - green, green - blue, logs.mean(1, keepdim=True)], 1)[:, :, None]  # (b, 3, 1, n)
        values = values.clamp(self.centres[:, :, :1], self.centres[:, :, -1:])
        near = (1 - (values - self.centres).abs() / self.widths).clamp_min(0)  # (b, 3, bins, n)
        return (near @ alpha[..., None]).squeeze(-1) / alpha.sum(-1, keepdim=True).clamp_min(1e-6)
