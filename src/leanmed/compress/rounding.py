"""Weights to integers: the nearest, or those that leave the layer's output nearest (GPTQ), with the bias corrected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leanmed.compress.activation_ranges import Moments
from leanmed.compress.graph import Array
from leanmed.compress.network import Layer

DAMPING = 1e-3  # of the mean diagonal; keeps the inverse finite for inputs that never vary
BLOCK = 128
SHRINK = np.linspace(1.0, 0.4, 25)  # tried on the largest weight when steps are few
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rounded:
    """A layer's weights on a grid: codes * scale along the layer's output channels.

    Args:
        codes: int8, in the weight's shape; within [-8, 7] when bits is 4.
        scale: (channels,).
        bias: (channels,), corrected; None if the layer has none.
        bits: 8 or 4.
        error_db: power of the layer's output over the power of its error, as far as the moments tell.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    bits: int
    error_db: float | None

    def weight(self, layer: Layer) -> NDArray[np.float32]:
        """The weights that the integers stand for."""
        along = [1] * self.codes.ndim
        along[layer.axis] = -1
        return (self.codes * self.scale.reshape(along)).astype(np.float32)


def round_layer(
    layer: Layer,
    weight: Array,
    bias: Array | None,
    moments: Moments | None,
    bits: int,
    *,
    gptq: bool,
    floor: Array | float = 0.0,
) -> Rounded:
    """Round one layer's weights.

    Args:
        layer: which layer.
        weight: as stored.
        bias: (channels,) or None.
        moments: of its inputs; without them, round to nearest and leave the bias.
        bits: 8 or 4.
        gptq: choose each weight to undo the error of those before it (Frantar et al. 2023, arXiv:2210.17323), else
            round to nearest.
        floor: (channels,) the least scale allowed.
    """
    rows = layer.rows(weight).astype(np.float64)  # (g, r, k)
    scale = np.maximum(_scale(rows, bits, moments), np.broadcast_to(floor, layer.channels).reshape(rows.shape[:2]))
    codes = gptq_codes(rows, moments.second, scale, bits) if gptq and moments else nearest(rows, scale[..., None], bits)
    residue = rows - codes * scale[..., None]
    if bias is not None and moments:
        bias = bias + (residue @ moments.mean[..., None])[..., 0].reshape(-1)
    return Rounded(
        codes=np.ascontiguousarray(layer.weights(codes).astype(np.int8)),
        scale=scale.reshape(-1).astype(np.float32),
        bias=None if bias is None else bias.astype(np.float32),
        bits=bits,
        error_db=_error_db(rows, residue, moments, bias is not None),
    )


def nearest(rows: Floats, scale: Floats, bits: int) -> Floats:
    """The nearest codes, within [-(2^(b-1)), 2^(b-1) - 1]."""
    limit = 2 ** (bits - 1)
    return np.clip(np.rint(rows / scale), -limit, limit - 1)


def _scale(rows: Floats, bits: int, moments: Moments | None) -> Floats:
    """(g, r) steps: the largest weight over the largest code, or with 4 bits that shrunk until the error is least."""
    whole: NDArray[np.float64] = np.maximum(np.abs(rows).max(axis=2) / (2 ** (bits - 1) - 1), 1e-10)
    if bits == 8 or moments is None:
        return whole
    importance = np.einsum("gkk->gk", moments.second)[:, None]
    tried = np.stack([whole * factor for factor in SHRINK])
    errors = [(importance * (rows - nearest(rows, s[..., None], bits) * s[..., None]) ** 2).sum(axis=2) for s in tried]
    best = np.argmin(errors, axis=0)
    return np.asarray(np.take_along_axis(tried, best[None], axis=0)[0], np.float64)


def gptq_codes(rows: Floats, second: Floats, scale: Floats, bits: int) -> Floats:
    """GPTQ's codes: round column by column, the most active inputs first, and move each error onto the columns left.

    Args:
        rows: (g, r, k) weights.
        second: (g, k, k) second moments of the inputs.
        scale: (g, r).
        bits: 8 or 4.
    """
    order = np.argsort(-np.einsum("gkk->gk", second), axis=1, kind="stable")
    rows = np.take_along_axis(rows, order[:, None], axis=2)
    upper = _inverse_factor(second, order)
    codes = np.empty_like(rows)
    for start in range(0, rows.shape[2], BLOCK):
        end = min(start + BLOCK, rows.shape[2])
        errors = _round_block(rows, codes, upper, scale, bits, start, end)
        rows[:, :, end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(codes, back[:, None], axis=2)


def _inverse_factor(second: Floats, order: NDArray[np.int64]) -> Floats:
    """(g, k, k) upper factor of the damped, reordered moments' inverse."""
    h = np.take_along_axis(np.take_along_axis(second, order[:, :, None], axis=1), order[:, None], axis=2)
    diagonal = np.einsum("gkk->gk", h)
    damping = DAMPING * diagonal.mean(axis=1, keepdims=True) + 1e-12
    inverse = np.linalg.inv(h + damping[..., None] * np.eye(h.shape[1]))
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    return np.asarray(upper, np.float64)


def _round_block(rows: Floats, codes: Floats, upper: Floats, scale: Floats, bits: int, start: int, end: int) -> Floats:
    """Round columns start to end in place; (g, r, end - start) errors, for the columns after the block."""
    errors = np.empty((*rows.shape[:2], end - start))
    for k in range(start, end):
        codes[:, :, k] = nearest(rows[:, :, k], scale, bits)
        errors[:, :, k - start] = (rows[:, :, k] - codes[:, :, k] * scale) / upper[:, k, k][:, None]
        rows[:, :, k:end] -= errors[:, :, k - start, None] * upper[:, None, k, k:end]
    return errors


def _error_db(rows: Floats, residue: Floats, moments: Moments | None, corrected: bool) -> float | None:
    if moments is None:
        return None
    centre = moments.second - moments.mean[:, :, None] * moments.mean[:, None, :]
    signal = np.einsum("grk,gkl,grl->", rows, centre, rows, optimize=True)
    noise = np.einsum("grk,gkl,grl->", residue, centre if corrected else moments.second, residue, optimize=True)
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
