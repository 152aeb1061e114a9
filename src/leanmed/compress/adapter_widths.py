"""How wide the bottleneck of each transformer block is.

HA-SAM's adapters grow with depth. Of N blocks with h = ceil(N / 2), block i = 1...N has the width d r s(i), where d is
the block's own width and r the mean share:

    hierarchical   s(i) = i / h, and (i - 1) / h beyond h if N is even      mean 1; of 12 blocks the paper's formula
    strategy-1     s(i) = 2^(2i/N - 1)                                      of 12 blocks the paper's 2^((i-6)/6)
    strategy-2     s(i) = e^(2i/N - 1)                                      of 12 blocks the paper's e^((i-6)/6)

Widths are rounded to the nearest whole number, halves up, and none is less than 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from leanmed.errors import RecipeError
from leanmed.recipe.recipe import Adapters

RATIO = 1 / 16
RATIOS = {"hierarchical-0.24": 0.24, "med-sa": 0.25}
PER_BLOCK = 2  # adapters: after attention, and beside the MLP
Shares = tuple[float, ...]


def ratio_of(settings: Adapters) -> float:
    """Mean width of the bottlenecks, as a share of the blocks' own."""
    if settings.ratio is not None:
        return settings.ratio
    return RATIO if settings.equal_budget and settings.method == "med-sa" else RATIOS.get(settings.method, RATIO)


def shares(method: str, depth: int) -> Shares:
    """Width of each block's bottlenecks over their mean in a hierarchical network; 0: the block has none.

    Args:
        method: of a recipe's `adapters`, one with bottlenecks.
        depth: number of blocks.

    Raises:
        RecipeError: nothing is left of so few blocks.
    """
    half = math.ceil(depth / 2)
    growing = [(i - (depth % 2 == 0 and i > half)) / half for i in range(1, depth + 1)]
    found = {
        "uniform": [1.0] * depth,
        "med-sa": [1.0] * depth,
        "reversed": growing[::-1],
        "first-removed": [0.0, *growing[1:]],
        "last-removed": [*growing[:-1], 0.0],
        "strategy-1": [2.0 ** (2 * i / depth - 1) for i in range(1, depth + 1)],
        "strategy-2": [math.exp(2 * i / depth - 1) for i in range(1, depth + 1)],
    }.get(method, growing)
    if not any(found):
        raise RecipeError(
            f"expected at least two transformer blocks for adapters.method {method}, got {depth}; choose another method"
        )
    return tuple(found)


def equal_scale(method: str, dims: Sequence[int]) -> float:
    """The factor of all widths with which a method has as many weights as `hierarchical` of the same ratio.

    Args:
        method: one with bottlenecks.
        dims: width of each block.
    """
    own, wanted = shares(method, len(dims)), shares("hierarchical", len(dims))
    return _weighted(wanted, dims) / _weighted(own, dims)


def _weighted(found: Shares, dims: Sequence[int]) -> float:
    return sum(share * dim**2 for share, dim in zip(found, dims, strict=True))


def widths_of(settings: Adapters, dims: Sequence[int]) -> tuple[int, ...]:
    """Width of the bottlenecks in each block; 0: it has none.

    Args:
        settings: of a method with bottlenecks.
        dims: width of each block.

    Raises:
        RecipeError: nothing is left of so few blocks.
    """
    scale = ratio_of(settings) * (equal_scale(settings.method, dims) if settings.equal_budget else 1)
    own = shares(settings.method, len(dims))
    return tuple(_rounded(scale * share * dim) if share else 0 for share, dim in zip(own, dims, strict=True))


def _rounded(width: float) -> int:
    return max(1, math.floor(round(width, 9) + 0.5))  # a half remains one, whatever the last digits of the product


def bottleneck_parameters(widths: Sequence[int], dims: Sequence[int]) -> int:
    """Weights and biases of the adapters of such widths in blocks of such widths."""
    return sum(PER_BLOCK * (2 * d * w + w + d) for w, d in zip(widths, dims, strict=True) if w)


def rank_of(settings: Adapters, dims: Sequence[int], per_rank: int) -> int:
    """The rank of LoRA, or the one with the budget of `hierarchical`.

    Args:
        settings: of the method `lora`.
        dims: width of each block.
        per_rank: parameters of all its layers together at rank 1.
    """
    if not settings.equal_budget:
        return settings.rank
    hierarchical = Adapters(method="hierarchical", ratio=ratio_of(settings))
    return _rounded(bottleneck_parameters(widths_of(hierarchical, dims), dims) / per_rank)
