"""Is one image a copy of another? Settled on pixels: align, warp, and compare the detail that is left.

The score is a mean of local correlations. Smooth tissue correlates by chance with any other smooth tissue,
and the rim of a mask with any other rim; so both pictures are high-passed within the inner part of their
common tissue, twice (the first pass leaves a slope at the edge), and a place counts by the detail that it
has. Text and frames that machines draw on every picture agree too, but are a small part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leanmed.audit.describe import Description, Floats, Matrix, blur
from leanmed.audit.geometry import align, inverse

FINE, WINDOW = 7, 15  # pixels of the small picture: squares of the high pass and of the local correlation
RIM = 3  # pixels of common tissue left out along the edge of a mask
NOISE = 1.5  # grey levels of detail at which a place counts half
# Chosen by scripts/measure_audit.py, which writes docs/results/audit_recall.json.
MIN_MATCHES, MANY_MATCHES = 4, 8
SCORE_OF_FEW, SCORE_OF_MANY = 0.85, 0.55  # by how many matches agree on the map
SCORE_OF_CHAIN = 0.7  # where the map follows from copies of a third image
CLEAR_SCORE = 0.97  # no better map is looked for
MIN_OVERLAP = 0.25  # of the smaller of the two tissues
MIN_PIXELS = 40.0  # of common tissue, weighted by detail


@dataclass(frozen=True)
class Evidence:
    """What the pixels of two images say.

    Args:
        map: (3, 3), pixel coordinates of a -> of b, at full size.
        score: weighted mean of the local correlation of detail, -1..1.
        overlap: common tissue over the smaller tissue, 0..1.
        pixels: common tissue in pixels of the small picture, weighted by detail.
        matches: features that agree on the map; 0 when the map was given.
    """

    map: Matrix
    score: float
    overlap: float
    pixels: float
    matches: int

    @property
    def is_copy(self) -> bool:
        """Whether this is enough to call the two images copies."""
        needed = SCORE_OF_MANY if self.matches >= MANY_MATCHES else SCORE_OF_FEW
        needed = SCORE_OF_CHAIN if self.matches == 0 else needed
        return self.score >= needed and self.overlap >= MIN_OVERLAP and self.pixels >= MIN_PIXELS


def compare(a: Description, b: Description) -> Evidence | None:
    """Align two images by their features and score the alignment; None where too few features agree."""
    found = align(a, b)
    if found is None or found.matches < MIN_MATCHES:
        return None
    best = _evidence(a, b, found.maps[0], found.matches)
    for small in found.maps[1:]:
        if best.score >= CLEAR_SCORE:
            break
        best = max(best, _evidence(a, b, small, found.matches), key=lambda e: e.score)
    return best


def compare_along(a: Description, b: Description, full: Matrix) -> Evidence:
    """Score a given map between the images, as when both are known to be copies of a third."""
    return _evidence(a, b, b.to_small @ full @ inverse(a.to_small), 0)


def _evidence(a: Description, b: Description, small: Matrix, matches: int) -> Evidence:
    score, overlap, pixels = correlation(a, b, small)
    return Evidence(inverse(b.to_small) @ small @ a.to_small, score, overlap, pixels, matches)


def correlation(a: Description, b: Description, small: Matrix) -> tuple[float, float, float]:
    """Score, overlap and weighted pixels under a map between the small pictures, at the coarser's scale."""
    area = abs(np.linalg.det(small[:2, :2]))
    if not 1e-3 < area < 1e3:
        return 0.0, 0.0, 0.0
    if area < 1:  # b is the coarser: compare there
        return correlation(b, a, inverse(small))
    first, second, common = _overlay(a, b, small)
    overlap = float(common.sum()) / max(1.0, min(float(a.mask.sum()), float(b.mask.sum()) / area))
    inner = cv2.erode(common, np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8), borderValue=1)
    local, weight = _local_correlation(first * inner, second * inner, inner.astype(np.float32))
    total = float(weight.sum())
    return float((weight * local).sum()) / (total + 1e-9), overlap, total


def _overlay(a: Description, b: Description, small: Matrix) -> tuple[Floats, Floats, Floats]:
    """The grey pictures of both in the frame of a, the coarser, and their common tissue; (h, w) float32."""
    grey = _softened(b.grey, b.mask, abs(np.linalg.det(small[:2, :2])) ** 0.5)
    size = a.grey.shape[1], a.grey.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped, inside = (cv2.warpAffine(part.astype(np.float32), small[:2], size, flags=flags) for part in (grey, b.mask))
    common = ((inside > 0.99) & a.mask).astype(np.float32)
    return a.grey * common, warped * common, common


def _softened(grey: Floats | NDArray[np.uint8], mask: NDArray[np.bool_], scale: float) -> Floats:
    """Blurred as much as reducing by `scale` demands, within the mask."""
    values = grey.astype(np.float32)
    if scale < 1.15:
        return values
    sigma, inside = 0.5 * (scale**2 - 1) ** 0.5, mask.astype(np.float32)
    return blur(values * inside, sigma) / (blur(inside, sigma) + 1e-6)


def _local_correlation(first: Floats, second: Floats, common: Floats) -> tuple[Floats, Floats]:
    """Correlation of fine detail around each pixel, and how much the pixel counts; both (h, w)."""
    near, wide = _box(common, FINE) + 1e-6, _box(common, WINDOW) + 1e-6
    for _ in range(2):
        first, second = ((x - _box(x, FINE) / near) * common for x in (first, second))
    va, vb, cov = (_box(x, WINDOW) / wide for x in (first * first, second * second, first * second))
    va, vb = np.maximum(va, 0), np.maximum(vb, 0)
    detail: Floats = np.sqrt(np.sqrt(va * vb))
    local = np.asarray(cov / np.sqrt((va + 0.02) * (vb + 0.02)), np.float32)
    return local, common * detail / (detail + NOISE)


def _box(image: Floats, side: int) -> Floats:
    """Mean over a square window, with zeros beyond the border."""
    return np.asarray(cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_CONSTANT), np.float32)
