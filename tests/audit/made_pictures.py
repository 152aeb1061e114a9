"""Made pictures with detail at every scale, which no two share, and what is done to copies of them."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def texture(seed: int, height: int = 150, width: int = 200) -> Pixels:
    """(height, width, 4) uint8, opaque."""
    rng = np.random.default_rng(seed)
    grey = np.zeros((height, width), np.float32)
    for cells in (4, 8, 16, 32, 64):
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        grey += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / cells**0.5
    colour = 128 + grey[..., None] * rng.uniform(0.7, 1.0, 3)
    return np.dstack([np.clip(colour, 20, 255), np.full((height, width), 255)]).astype(np.uint8)


def as_jpeg(image: Pixels, quality: int) -> Pixels:
    buffer, changed = io.BytesIO(), image.copy()
    Image.fromarray(image[..., :3]).save(buffer, "JPEG", quality=quality)
    changed[..., :3] = np.asarray(Image.open(buffer))
    return changed


def resized(image: Pixels, x: float, y: float) -> Pixels:
    return cv2.resize(image, None, fx=x, fy=y, interpolation=cv2.INTER_AREA).astype(np.uint8)


def rotated(image: Pixels, degrees: float) -> Pixels:
    h, w = image.shape[:2]
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1), (w, h)).astype(np.uint8)


def brightened(image: Pixels, gain: float) -> Pixels:
    return np.dstack([np.clip(image[..., :3] * gain, 0, 255), image[..., 3]]).astype(np.uint8)


def crescent(image: Pixels, shift: int = 0) -> Pixels:
    """The picture with a thick arc as its tissue mask and black ground, as an eyelid is cut out."""
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w]
    middle = 0.3 * h + 0.3 * h * np.sin(np.pi * (x - shift) / w)
    inside = np.abs(y - middle) < 0.22 * h
    return np.where(inside[..., None], image, 0).astype(np.uint8)
