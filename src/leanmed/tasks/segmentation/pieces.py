"""Connected pieces of masks. numpy and scipy."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import MissingExtraError

# Which pieces of a label's mask are kept: all; the largest in each image; the largest in the whole volume, once its
# slices are put together.
Pieces = Literal["all", "image", "volume"]


def largest_pieces(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask in which each label has kept its largest connected piece alone.

    Places touch along sides, edges and corners (8 neighbours in an image, 26 in a volume). Of pieces of one size, the
    first in the array's order is kept.

    Args:
        mask: (h, w) or (z, h, w), 0 for background and k + 1 for the label k.

    Raises:
        MissingExtraError: without scipy.
    """
    try:
        from scipy import ndimage
    except ModuleNotFoundError as error:
        raise MissingExtraError("keeping the largest piece of a mask", "ct") from error

    kept = np.zeros_like(mask)
    for label in range(1, int(mask.max(initial=0)) + 1):
        pieces, count = ndimage.label(mask == label, structure=np.ones((3,) * mask.ndim))
        if count:
            sizes = np.bincount(pieces.ravel())[1:]
            kept[pieces == 1 + int(sizes.argmax())] = label
    return kept
