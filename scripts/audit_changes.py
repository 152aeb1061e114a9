"""What happens to images that are copied: flips, turns, crops, shifts, scales, codings, tones, rotations."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Change = Callable[[Pixels, Rng], Pixels]


def flip(image: Pixels, _: Rng, *, axis: int) -> Pixels:
    return np.flip(image, axis)


def turn(image: Pixels, _: Rng, *, quarters: int) -> Pixels:
    return np.rot90(image, quarters)


def crop(image: Pixels, rng: Rng, *, keep: float) -> Pixels:
    """A window of the same shape with `keep` of the area, anywhere."""
    h, w = (max(8, int(side * keep**0.5)) for side in image.shape[:2])
    top, left = rng.integers(image.shape[0] - h + 1), rng.integers(image.shape[1] - w + 1)
    return image[top : top + h, left : left + w]


def shift(image: Pixels, rng: Rng, *, by: float) -> Pixels:
    """Moved by a share of its sides; what comes into view is black, and no tissue where there is a mask."""
    dy, dx = (round(by * side) * rng.choice([-1, 1]) for side in image.shape[:2])
    ground = (0, 0, 0, 255 if image[..., 3].min() == 255 else 0)
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(image, np.array([[1.0, 0, dx], [0, 1, dy]]), size, borderValue=ground)


def scale(image: Pixels, _: Rng, *, x: float, y: float | None = None) -> Pixels:
    size = max(8, round(image.shape[1] * x)), max(8, round(image.shape[0] * (y or x)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if x < 1 else cv2.INTER_CUBIC)


def rotate(image: Pixels, rng: Rng, *, degrees: float) -> Pixels:
    h, w = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees * rng.choice([-1, 1]), 1)
    return cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_CUBIC)


def jpeg(image: Pixels, _: Rng, *, quality: int) -> Pixels:
    """Colour through JPEG; a mask is kept as it was."""
    buffer, changed = io.BytesIO(), image.copy()
    Image.fromarray(image[..., :3]).save(buffer, "JPEG", quality=quality)
    changed[..., :3] = np.asarray(Image.open(buffer))
    return changed


def tone(image: Pixels, _: Rng, *, gain: float = 1, contrast: float = 1, gamma: float = 1) -> Pixels:
    """Contrast about the mean of the tissue, then gain, then gamma."""
    values = image[..., :3].astype(np.float32)
    mean = values[image[..., 3] >= 128].mean()
    values = 255 * (np.clip(gain * (contrast * (values - mean) + mean), 0, 255) / 255) ** gamma
    return np.dstack([values.astype(np.uint8), image[..., 3]])


def chain(image: Pixels, rng: Rng, *, steps: Sequence[Change]) -> Pixels:
    for step in steps:
        image = np.ascontiguousarray(step(image, rng))
    return image


def changes() -> dict[tuple[str, str], Change]:
    """(kind, strength) -> change."""
    table: dict[tuple[str, str], Change] = {
        ("flip", "horizontal"): partial(flip, axis=1),
        ("flip", "vertical"): partial(flip, axis=0),
        **{("turn", f"{90 * k} degrees"): partial(turn, quarters=k) for k in (1, 2, 3)},
        **{("crop", f"{k:.0%} of the area"): partial(crop, keep=k) for k in (0.9, 0.7, 0.5, 0.35)},
        **{("shift", f"{k:.0%} of the sides"): partial(shift, by=k) for k in (0.1, 0.2, 0.3)},
        **{("scale", f"x {k}"): partial(scale, x=k) for k in (0.5, 0.75, 1.5)},
        **{("stretch", f"x {k} across"): partial(scale, x=k, y=1.0) for k in (0.9, 0.8)},
        **{("JPEG", f"quality {k}"): partial(jpeg, quality=k) for k in (95, 75, 50, 30)},
        **{("brightness", f"x {k}"): partial(tone, gain=k) for k in (0.5, 0.75, 1.33, 1.6)},
        **{("contrast", f"x {k}"): partial(tone, contrast=k) for k in (0.5, 1.5)},
        **{("gamma", f"{k}"): partial(tone, gamma=k) for k in (0.6, 1.6)},
        **{("rotation", f"{k} degrees"): partial(rotate, degrees=k) for k in (2, 5, 10)},
    }
    mild = [partial(crop, keep=0.8), partial(flip, axis=1), partial(jpeg, quality=75)]
    turned = [partial(turn, quarters=1), partial(scale, x=0.7), partial(tone, gain=0.8)]
    hard = [partial(rotate, degrees=5), partial(crop, keep=0.7), partial(jpeg, quality=50)]
    every = [*hard[:2], partial(turn, quarters=3), partial(flip, axis=1), partial(scale, x=0.75)]
    every += [partial(tone, gain=0.8, contrast=1.2), partial(jpeg, quality=50)]
    table["combined", "crop 80 %, flip, JPEG 75"] = partial(chain, steps=mild)
    table["combined", "turn, x 0.7, brightness x 0.8"] = partial(chain, steps=turned)
    table["combined", "rotate 5, crop 70 %, JPEG 50"] = partial(chain, steps=hard)
    table["combined", "all of these"] = partial(chain, steps=every)
    return table
