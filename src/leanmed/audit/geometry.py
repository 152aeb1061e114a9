"""The map that takes one image onto another: found from matched features, snapped to a plain one, in words.

A map is a (3, 3) matrix on pixel coordinates (x to the right, y down, pixel centres at whole numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leanmed.audit.describe import MIRROR, Description, Floats, Matrix

Points = NDArray[np.floating]
MIN_COSINE = 0.75  # between descriptors of a match
TOLERANCES = (5.0, 3.0, 2.0)  # pixels; the map is fitted again to the matches within each
MAX_LOG_SCALE, MAX_ANGLE = 0.6, 25.0  # by how much two matches of one map may differ: octaves, degrees
MIN_AFFINE, MAX_STRETCH = 6, 1.5  # matches; longer over shorter axis
SNAP_SCALE, SNAP_TURN = 0.35, 0.3  # octaves and matrix entries from which a map snaps to a plain one


@dataclass(frozen=True)
class Alignment:
    """Maps a -> b between small pictures that are worth scoring, and how many matches agree."""

    maps: tuple[Matrix, ...]
    matches: int


def align(a: Description, b: Description) -> Alignment | None:
    """The similarity, mirrored or not, on which most matched features agree; None without a match."""
    best = max((_consensus(a, b, mirrored) for mirrored in (False, True)), key=lambda found: found[0].size)
    chosen_a, chosen_b, mirrored = best
    if not chosen_a.size:
        return None
    p, q = a.points[chosen_a], b.points[chosen_b]
    fitted, agreed = _hypotheses(p[:1], q[:1], mirrored)[0], np.arange(1)
    p, q = p[:, :2], q[:, :2]
    for tolerance in TOLERANCES:
        near = np.flatnonzero(np.linalg.norm(apply(fitted, p) - q, axis=1) < tolerance)
        again = fit_similarity(p[near], q[near], mirrored)
        if again is None:
            break
        fitted, agreed = again, near
    plain, stretched = _snap(a, b, fitted, p[agreed], q[agreed]), _stretch(fitted, p, q)
    return Alignment(tuple(m for m in (plain, fitted, stretched) if m is not None), len(agreed))


def inverse(matrix: Matrix) -> Matrix:
    """The map back."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def apply(matrix: Matrix, points: Points) -> Matrix:
    """Map points (n, 2)."""
    mapped: Matrix = points @ matrix[:2, :2].T + matrix[:2, 2]
    return mapped


def _consensus(a: Description, b: Description, mirrored: bool) -> tuple[NDArray[np.intp], NDArray[np.intp], bool]:
    """Indices of the matches that agree with the best single match; that one stands first."""
    i, j = _matches(a, b, mirrored)
    if not i.size:
        return i, j, mirrored
    p, q = a.points[i], b.points[j]
    maps = _hypotheses(p, q, mirrored)
    mapped = np.einsum("hij,nj->hni", maps[:, :2, :2], p[:, :2]) + maps[:, None, :2, 2]
    scale, turn = np.log2(q[:, 2] / p[:, 2]), q[:, 3] - (-p[:, 3] if mirrored else p[:, 3])
    agree = np.linalg.norm(mapped - q[:, :2], axis=2) < TOLERANCES[0]
    agree &= np.abs(scale - scale[:, None]) < MAX_LOG_SCALE
    agree &= np.abs((turn - turn[:, None] + 180) % 360 - 180) < MAX_ANGLE
    best = int(agree.sum(axis=1).argmax())
    members = np.flatnonzero(agree[best])
    members = np.concatenate([[best], members[members != best]])
    return i[members], j[members], mirrored


def _matches(a: Description, b: Description, mirrored: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Features that are each other's nearest."""
    if not len(a.descriptors) or not len(b.descriptors):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    first = a.descriptors[:, MIRROR] if mirrored else a.descriptors
    cosine = unit(first) @ unit(b.descriptors).T
    j, i = cosine.argmax(axis=1), np.arange(len(first))
    mutual = (cosine[i, j] > MIN_COSINE) & (cosine.argmax(axis=0)[j] == i)
    return i[mutual], j[mutual]


def unit(descriptors: NDArray[np.uint8]) -> Floats:
    """Descriptors (n, 128) as float32 of length one."""
    values = descriptors.astype(np.float32)
    values /= np.maximum(lengths(values), 1e-6)
    return values


def lengths(vectors: Floats) -> Floats:
    """(n, 1): Euclidean lengths of vectors (n, d)."""
    squared: Floats = np.einsum("nd,nd->n", vectors, vectors)
    return np.sqrt(squared)[:, None]


def _hypotheses(p: Floats, q: Floats, mirrored: bool) -> Matrix:
    """(n, 3, 3): the similarity that each single match (x, y, size, angle) stands for."""
    sign = -1.0 if mirrored else 1.0
    turn, scale = np.deg2rad(q[:, 3] - sign * p[:, 3]), q[:, 2] / p[:, 2]
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    maps = np.zeros((len(p), 3, 3))
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1], maps[:, 2, 2] = c, -sign * s, s, sign * c, 1
    maps[:, :2, 2] = q[:, :2] - np.einsum("nij,nj->ni", maps[:, :2, :2], p[:, :2])
    return maps


def fit_similarity(p: Points, q: Points, mirrored: bool) -> Matrix | None:
    """Least squares over points (n, 2) as complex numbers: q = u p + v, or q = u conj(p) + v if mirrored."""
    z, w = p @ np.array([1, -1j if mirrored else 1j]), q @ np.array([1, 1j])
    if len(z) < 2:
        return None
    centred = z - z.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if spread < 1e-6:
        return None
    u = np.sum(centred.conj() * (w - w.mean())) / spread
    v, sign = w.mean() - u * z.mean(), -1.0 if mirrored else 1.0
    return np.array([[u.real, -sign * u.imag, v.real], [u.imag, sign * u.real, v.imag], [0, 0, 1]])


def _snap(a: Description, b: Description, fitted: Matrix, p: Points, q: Points) -> Matrix | None:
    """The flip or quarter turn at full size and whole-pixel shift that lies near the fitted map, if one does.

    Copies made by cutting out, flipping and turning are such maps exactly, which no fit to features would be.
    """
    full = inverse(b.to_small) @ fitted @ a.to_small
    scale = abs(np.linalg.det(full[:2, :2])) ** 0.5
    if scale < 1e-3 or abs(np.log2(scale)) > SNAP_SCALE:
        return None
    turn = np.round(full[:2, :2] / scale)
    if np.abs(full[:2, :2] / scale - turn).max() > SNAP_TURN or abs(abs(np.linalg.det(turn)) - 1) > 1e-6:
        return None
    plain = np.eye(3)
    plain[:2, :2] = turn
    pa, pb = apply(inverse(a.to_small), p), apply(inverse(b.to_small), q)
    plain[:2, 2] = np.round(np.median(pb - pa @ turn.T, axis=0))
    return b.to_small @ plain @ inverse(a.to_small)


def _stretch(similarity: Matrix, p: Points, q: Points) -> Matrix | None:
    """The affine map to which the similarity grows as more matches fit it, if its stretch is mild."""
    fitted = similarity
    for tolerance in TOLERANCES:
        near = np.linalg.norm(apply(fitted, p) - q, axis=1) < tolerance
        if near.sum() < MIN_AFFINE:
            return None
        ones = np.ones((int(near.sum()), 1))
        fitted = np.eye(3)
        fitted[:2] = np.linalg.lstsq(np.hstack([p[near], ones]), q[near], rcond=None)[0].T
    wide, narrow = np.linalg.svd(fitted[:2, :2], compute_uv=False)
    return fitted if wide < MAX_STRETCH * narrow else None


def in_words(full: Matrix) -> str:
    """A map between images, a -> b, as text: `mirror=1 turn=90.0 scale=1.000 shift=+12.0,-3.0`.

    a is mirrored left to right, then turned clockwise by so many degrees, then scaled (along its x and y,
    where they differ by over 1 %), then shifted by so many pixels of b to the right and down.
    """
    mirrored = bool(np.linalg.det(full[:2, :2]) < 0)
    turned = full[:2, :2] @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    turn = np.degrees(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])) % 360
    sx, sy = np.linalg.norm(full[:2, 0]), np.linalg.norm(full[:2, 1])
    scale = f"{sx:.3f}x{sy:.3f}" if abs(sx / sy - 1) > 0.01 else f"{(sx * sy) ** 0.5:.3f}"
    turn = 0.0 if round(turn, 1) == 360 else turn
    return f"mirror={mirrored:d} turn={turn:.1f} scale={scale} shift={full[0, 2]:+.1f},{full[1, 2]:+.1f}"


def flattened(full: Matrix) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The first two rows of a map, rounded to a ten-thousandth, as plain numbers."""
    (a, b, x), (c, d, y) = np.round(full[:2], 4).tolist()
    return (a, b, x), (c, d, y)
