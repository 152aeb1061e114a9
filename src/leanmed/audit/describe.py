"""What the audit remembers of an image: hashes, a small grey picture of its tissue, and local features.

Features are SIFT (Lowe, IJCV 2004) on a detail picture: the grey picture less its local mean, over its local
deviation, zero outside the tissue. So neither the outline of a tissue mask nor the lamp makes features, and
brightness and contrast do not change them. A SIFT descriptor is unchanged by turning and scaling; mirroring
it permutes its 128 numbers (`MIRROR`), so flipped copies cost nothing extra.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Features = tuple[Floats, Pixels]  # points (n, 4), descriptors (n, 128)

VERSION = 2  # of the descriptions below; a cache of another version is not used
AREA = 160**2  # tissue pixels of the small picture, at most
FEATURES = 80
TISSUE = 128  # alpha from which a pixel counts as tissue
STRONGEST = 300  # features of which those are chosen
MEAN_SIGMA, DEVIATION_SIGMA = 2.5, 5.0  # pixels of the small picture
GROUND = 0.12  # of the brightest 5 %: what is darker and touches the border is ground
UPSAMPLING_SHIFT = 0.25  # pixels by which OpenCV's SIFT reports its points too far right and down
MIRROR: NDArray[np.intp] = (
    np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].reshape(128)
)  # descriptor of a patch -> of its mirror image: rows reversed, directions negated


@dataclass(frozen=True)
class Facts:
    """What is known of an image as a whole.

    Args:
        pixels: hash of the tissue's pixels; equal for files that decode to the same picture.
        height: of the image, in pixels.
        width: of the image, in pixels.
        tissue: share of the image that is tissue (1 without an alpha channel).
        mean: mean grey level of the tissue, 0..255.
        deviation: standard deviation of the tissue's grey levels.
    """

    pixels: str
    height: int
    width: int
    tissue: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Description:
    """One image, described.

    Args:
        facts: of the image as a whole.
        frame: (left, top, scale x, scale y): where the small picture lies in the image.
        grey: (h, w) uint8, the tissue's bounding box at no more than `AREA` tissue pixels.
        mask: (h, w) bool, where the small picture is wholly tissue.
        points: (n, 4) float32: x, y, size in pixels of the small picture; angle in degrees.
        descriptors: (n, 128) uint8, the strongest first.
    """

    facts: Facts
    frame: tuple[float, float, float, float]
    grey: Pixels = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    points: Floats = field(repr=False)
    descriptors: Pixels = field(repr=False)

    @property
    def to_small(self) -> Matrix:
        """(3, 3): pixel coordinates of the image -> of the small picture; pixel centres are whole numbers."""
        left, top, sx, sy = self.frame
        return np.array([[sx, 0, (0.5 - left) * sx - 0.5], [0, sy, (0.5 - top) * sy - 0.5], [0, 0, 1]])


def describe(image: Pixels) -> Description:
    """Describe an image.

    Args:
        image: (h, w, 4) uint8 RGBA; alpha is the tissue mask.
    """
    image = np.where(image[..., 3:] > 0, image, np.uint8(0))
    tissue = image[..., 3] >= TISSUE
    grey = np.asarray(cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY), np.uint8)
    small, mask, frame = _shrink(grey, image[..., 3], tissue)
    points, descriptors = local_features(small, mask)
    return Description(_facts(image, grey[tissue]), frame, small, mask, points, descriptors)


def _facts(image: Pixels, inside: Pixels) -> Facts:
    mean, deviation = (float(inside.mean()), float(inside.std())) if inside.size else (0.0, 0.0)
    height, width = image.shape[:2]
    return Facts(pixel_hash(image), height, width, inside.size / (height * width), mean, deviation)


def pixel_hash(image: Pixels) -> str:
    """A hash of shape and pixels, for images whose colour outside the tissue has been cleared."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _shrink(
    grey: Pixels, alpha: Pixels, tissue: NDArray[np.bool_]
) -> tuple[Pixels, NDArray[np.bool_], tuple[float, float, float, float]]:
    """Cut out the tissue's bounding box and reduce it, never enlarging: small picture, mask, frame."""
    x, y, w, h = cv2.boundingRect(tissue.astype(np.uint8))
    if not w:
        return np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.bool_), (0.0, 0.0, 1.0, 1.0)
    grey, alpha = grey[y : y + h, x : x + w], alpha[y : y + h, x : x + w]
    scale = min(1.0, (AREA / np.count_nonzero(tissue)) ** 0.5)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    if scale < 1:
        grey, alpha = (_reduced(part, size) for part in (grey, alpha))
    mask = alpha >= 250
    mask &= ~_ground(grey) if mask.all() else mask
    return np.ascontiguousarray(grey), mask, (float(x), float(y), size[0] / w, size[1] / h)


def _reduced(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _ground(grey: Pixels) -> NDArray[np.bool_]:
    """The dark ground around a scan or photograph: its rim is the machine's, alike in all of its pictures."""
    dark = cv2.GaussianBlur(grey, (0, 0), 1.5) < GROUND * np.percentile(grey, 95)
    _, parts = cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    ground = np.isin(parts, border[border > 0])
    return cv2.dilate(ground.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur with zeros beyond the border: over a mask blurred likewise, a mean within the mask."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return blurred.astype(np.float32, copy=False)


def _detail(grey: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """(h, w) uint8, 128 where a pixel is as its surroundings; the floor keeps noise in flat places small."""
    inside = mask.astype(np.float32)
    values = grey * inside
    residual = (values - blur(values, MEAN_SIGMA) / (blur(inside, MEAN_SIGMA) + 1e-6)) * inside
    variance = blur(residual * residual, DEVIATION_SIGMA) / (blur(inside, DEVIATION_SIGMA) + 1e-6)
    deviation = np.sqrt(variance)
    floor = 0.5 + 0.25 * float(deviation[mask].mean()) if mask.any() else 1.0
    return np.clip(128 + 40 * residual / (deviation + floor), 0, 255).astype(np.uint8)


@cache
def _sift() -> cv2.SIFT:
    return cv2.SIFT.create(nfeatures=STRONGEST, contrastThreshold=0.03, edgeThreshold=15)


def local_features(grey: Pixels, mask: NDArray[np.bool_]) -> Features:
    """The strongest features inside the mask: points (n, 4), descriptors (n, 128), n at most `FEATURES`."""
    picture = _detail(grey, mask)
    found = _sift().detect(picture, mask.astype(np.uint8))
    if not found:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8)
    # Large features are fewer and weaker, and they are what a picture shares with a small part of itself.
    ranked = sorted(found, key=lambda f: (-f.response * f.size**0.5, f.pt, f.angle))
    chosen, descriptors = _sift().compute(picture, ranked[:FEATURES])
    points = np.array([(*f.pt, f.size, f.angle) for f in chosen], np.float32)
    points[:, :2] -= UPSAMPLING_SHIFT
    return points, descriptors.astype(np.uint8)
