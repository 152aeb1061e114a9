"""Why an answer: which parts of an image its score depends on, found by covering them.

RISE (Petsiuk et al. 2018, arXiv:1806.07421) covers half of an image at random, many times, and a part matters if the
score is high when it is left bare. Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2) covers one part
after the other, and what the score loses is laid where the cover was. Nothing is asked of the network but answers, so
any artifact can be explained, without torch and without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.errors import ArtifactError, DataError, UnsupportedInput
from leanmed.reading.volume import is_scan
from leanmed.tasks.drawing import as_picture, on_grey, with_caption
from leanmed.tasks.frames import places_of
from leanmed.tasks.kind import Points

if TYPE_CHECKING:
    from leanmed.runtime.predictor import Predictor

MASKS = 196  # random ones: of fewer, chance alone colours much
CELLS = 6  # along the longer side of an image; a cover is two cells wide
MASK_CELLS, BARE = 8, 0.5  # of a random mask: cells as above, and the chance that the end of one is left bare
BEHIND = 3  # cells along the longer side of what covers show: nothing that is smaller
SLIGHT = 0.01  # a score from 0 to 1 that changes by less has no place worth showing
SIDE = 512  # pixels, the longer side of each half of a picture
STRENGTH = 0.65  # of the colour where the score changes most
FALLS, RISES = np.array([255, 140, 0]), np.array([0, 140, 255])  # orange, blue: people with colour blindness tell them
ABOUT = "It shows what this model's score depends on, not what is ill, nor why."

Floats = NDArray[np.float64]
Score = Callable[[NDArray[Any]], float]
"""Pixels (h, w, c) to what is followed."""


@dataclass(frozen=True, eq=False)
class Saliency:
    """How much a score depends on each part of one image.

    Args:
        values: (h, w) float64 in the image's own frame, above 0 where the image speaks for the score, and below 0 where
            it speaks against it; 0 outside the tissue that alpha marks. What they are: see `random`.
        score: of the whole image.
        name: what the score is.
        covers: how many times the image was covered, each of which cost one answer.
        random: whether values are of random masks: how much the score is above its mean over all masks when a pixel is
            left bare. Or else they say how much it falls when a pixel is covered, on average over the covers there.
    """

    values: Floats
    score: float
    name: str
    covers: int
    random: bool

    def placed(self, points: Points) -> Saliency:
        """The same values in another frame, whose axes are those of this one swapped, reversed or scaled."""
        return replace(self, values=self.values[places_of(self.values.shape, points)])

    def draw(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The image (h, w, c), and beside it what speaks for the score (orange) and against it (blue).

        Colours are as strong as the change is beside the greatest one; where all changes are slight, none is shown.

        Returns:
            (h', w', 3): both halves with the longer side `SIDE`, and words below.
        """
        whole = on_grey(as_picture(pixels))
        width, height = (max(1, round(side * SIDE / max(whole.size))) for side in whole.size)
        size = (width, height)
        image = np.asarray(whole.resize(size, Image.Resampling.BILINEAR))
        values = np.asarray(Image.fromarray(self.values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        greatest = float(np.abs(self.values).max())
        share = np.abs(values) / greatest if greatest >= SLIGHT else np.zeros_like(values)
        grey = image.mean(axis=2, keepdims=True)
        colour = np.where(values[..., None] > 0, FALLS, RISES)
        marked = grey + STRENGTH * share[..., None] * (colour - grey)
        both = Image.fromarray(np.concatenate([image, marked.round().astype(np.uint8)], axis=1))
        return with_caption(both, f"{self.name}: {self.score:.3f}", self.reading, ABOUT)

    @property
    def reading(self) -> str:
        """What the colours of the picture say, in words."""
        falls, rises = max(0.0, float(self.values.max())), max(0.0, float(-self.values.min()))
        if max(falls, rises) < SLIGHT:
            return f"No part changes it by {SLIGHT:g} or more: no place stands out."
        if self.random:
            return f"Among random covers: orange left bare, up to {falls:.3f} more; blue left bare, {rises:.3f} less."
        return f"Orange covered, up to {falls:.3f} less; blue covered, up to {rises:.3f} more."


def explain(predictor: Predictor, pixels: NDArray[Any], *, masks: int = MASKS, cells: int = CELLS) -> Saliency:
    """Which parts of an image an artifact's score depends on.

    Args:
        predictor: the loaded artifact.
        pixels: (h, w, c) as its graph takes them.
        masks: as of `random_masks`; 0: cover one part after the other, as `occlusion` does.
        cells: as of `occlusion`.

    Raises:
        ArtifactError: its answers show their place themselves, or the graph fails.
        DataError: it gives no sound answer.
    """
    name, score = followed(predictor, pixels)
    if masks:
        return Saliency(random_masks(score, pixels, masks=masks), score(pixels), name, masks, random=True)
    values, whole, parts = occlusion(score, pixels, cells=cells)
    return Saliency(values, whole, name, parts, random=False)


def followed(predictor: Predictor, pixels: NDArray[Any]) -> tuple[str, Score]:
    """What is followed while parts of an image are covered: what it is called, and how pixels get it.

    Raises:
        ArtifactError, DataError: as `explain`.
    """
    check_explained(predictor)
    target = predictor.kind_of_task.explained(predictor.outputs(pixels), predictor.manifest)
    return target.name, lambda shown: target.score(predictor.outputs(shown))


def check_explained(predictor: Predictor, inputs: Iterable[Path] = ()) -> None:
    """Refuse what cannot be explained, before any work is done.

    Args:
        predictor: the loaded artifact.
        inputs: the files to explain its answers to.

    Raises:
        ArtifactError: its answers have no score to follow.
        UnsupportedInput: a whole scan among the inputs.
    """
    if not predictor.kind_of_task.has_explained:
        raise ArtifactError(
            "expected an artifact whose answer is a score, which falls where what it depends on is covered, got one of "
            f"the kind {predictor.manifest.task}; its mask already shows the place, and predict --draw draws it"
        )
    scan = next((path for path in inputs if predictor.takes_scans and is_scan(path)), None)
    if scan is not None:
        raise UnsupportedInput(
            f"{scan}: expected single images to explain, got a whole scan; what is found in a scan is shown on its "
            "slices in OUT-montages already: leave the explanation out, or give single slices"
        )


def occlusion(
    score: Score, pixels: NDArray[Any], *, cells: int = CELLS, canvas: Floats | None = None
) -> tuple[Floats, float, int]:
    """How far a score falls where an image is covered: (h, w); the score of the whole image; and how many covers.

    The image is divided into square cells. A cover lies over two by two cells around each of their corners, so that
    each pixel lies under four covers; it is full in the middle and fades out, and shows the image so blurred that what
    lay there is gone. Where alpha leaves something out, nothing is covered, and covers that would lie there alone are
    left out.

    Args:
        score: pixels to a number.
        pixels: (h, w, c) of any type; of four channels of uint8 the last is alpha.
        cells: along the longer side; a shorter side has as many as fit, and no cell is smaller than a pixel.
        canvas: (h, w, colours) or (colours,), what covers show instead; None: `smooth`.
    """
    down, across = (covers(length, count) for length, count in zip(pixels.shape[:2], grid(pixels, cells), strict=True))
    whole, tissue = score(pixels), tissue_of(pixels)
    behind = smooth(pixels) if canvas is None else np.broadcast_to(canvas, colours_of(pixels).shape)
    falls, count = np.zeros((down.shape[1], across.shape[1])), 0
    for row, column in np.ndindex(*falls.shape):
        y, x = np.flatnonzero(down[:, row]), np.flatnonzero(across[:, column])
        part = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        if tissue[part].any():
            shown = pixels.copy()
            shown[part] = covered(pixels[part], behind[part], np.outer(down[y, row], across[x, column]))
            falls[row, column] = whole - score(shown)
            count += 1
    values = (down @ falls @ across.T) / np.outer(down.sum(axis=1), across.sum(axis=1))
    return np.where(tissue > 0, values, 0.0), whole, count


def random_masks(score: Score, pixels: NDArray[Any], *, masks: int = MASKS, seed: int = 0) -> Floats:
    """By how much the mean score of the random masks that leave a pixel bare is above that of all masks: (h, w).

    RISE, equation 6, with weights that add up to 1 for each pixel, less the mean score. A mask is a random choice of
    the ends of cells, interpolated; what it covers shows the same as in `occlusion`.

    Args:
        score: pixels to a number.
        pixels: as of `occlusion`.
        masks: how many, at least 1; each costs an answer.
        seed: of the masks.

    Raises:
        DataError: fewer than one mask.
    """
    if masks < 1:
        raise DataError(f"expected at least one random mask, got {masks}; give more")
    rng, behind, sizes = np.random.default_rng(seed), smooth(pixels), grid(pixels, MASK_CELLS)
    down, across = (tents(length, count) for length, count in zip(pixels.shape[:2], sizes, strict=True))
    total, weight, scores = np.zeros(pixels.shape[:2]), np.zeros(pixels.shape[:2]), []
    for _ in range(masks):
        bare = down @ (rng.random((down.shape[1], across.shape[1])) < BARE) @ across.T
        scores.append(score(covered(pixels, behind, 1 - bare)))
        total += scores[-1] * bare
        weight += bare
    values = np.where(weight > 0, total / np.maximum(weight, 1e-9) - np.mean(scores), 0.0)
    return np.where(tissue_of(pixels) > 0, values, 0.0)


def grid(pixels: NDArray[Any], cells: int) -> tuple[int, int]:
    """How many cells an image has in height and width.

    Raises:
        DataError: fewer than one cell is asked for.
    """
    if cells < 1:
        raise DataError(f"expected at least one cell along the longer side of an image, got {cells}; give more")
    height, width = pixels.shape[:2]
    side = max(max(height, width) / cells, 1.0)
    return max(1, round(height / side)), max(1, round(width / side))


def covers(length: int, cells: int) -> Floats:
    """How much of a line of pixels each cover hides: (length, cells + 1), one around each end of a cell, in [0, 1]."""
    hidden: Floats = np.minimum(2 * tents(length, cells), 1.0)
    return hidden


def tents(length: int, cells: int) -> Floats:
    """(length, cells + 1) in [0, 1]: for each end of a cell 1 there, down to 0 a cell away; each row sums to 1."""
    place = (np.arange(length) + 0.5) * cells / length
    near: Floats = np.maximum(1 - np.abs(place[:, None] - np.arange(cells + 1)), 0.0)
    return near


def covered(pixels: NDArray[Any], canvas: Floats, cover: Floats) -> NDArray[Any]:
    """An image in which colours give way to others as far as a cover (h, w) in [0, 1] says; alpha stays as it is.

    Args:
        pixels: (h, w, c).
        canvas: (h, w, colours) or (colours,), what the covers show.
        cover: 1 where nothing of the image is left.
    """
    colours = colours_of(pixels).astype(np.float64)
    hidden = (cover * (tissue_of(pixels) > 0))[..., None]
    mixed = colours + hidden * (canvas - colours)
    shown = pixels.copy()
    colours_of(shown)[:] = mixed if pixels.dtype.kind == "f" else mixed.round()
    return shown


def colours_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """A view of an image's channels but for alpha."""
    return pixels[..., :3] if _has_alpha(pixels) else pixels


def tissue_of(pixels: NDArray[Any]) -> Floats:
    """(h, w) in [0, 1]: alpha, or 1 where there is none."""
    return pixels[..., 3] / 255 if _has_alpha(pixels) else np.ones(pixels.shape[:2])


def _has_alpha(pixels: NDArray[Any]) -> bool:
    return pixels.dtype == np.uint8 and pixels.shape[2] == 4


def mean_colour(pixels: NDArray[Any]) -> Floats:
    """(colours,) the mean over the tissue; of an image without any, over all of it."""
    tissue = tissue_of(pixels).ravel()
    weights = tissue if tissue.any() else np.ones_like(tissue)
    mean: Floats = weights @ colours_of(pixels).reshape(weights.size, -1) / weights.sum()
    return mean


def smooth(pixels: NDArray[Any], *, cells: int = BEHIND) -> Floats:
    """(h, w, colours) the image without anything smaller than a cell: means around the cells' corners, interpolated."""
    down, across = (tents(length, count) for length, count in zip(pixels.shape[:2], grid(pixels, cells), strict=True))
    tissue, colours = tissue_of(pixels), colours_of(pixels)
    weight = down.T @ tissue @ across
    canvas = np.empty(colours.shape)
    for channel, mean in enumerate(mean_colour(pixels)):
        total = down.T @ (tissue * colours[..., channel]) @ across
        canvas[..., channel] = down @ np.where(weight > 0, total / np.maximum(weight, 1e-9), mean) @ across.T
    return canvas
