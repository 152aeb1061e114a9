"""How good masks are: figures per case with 95 % intervals over groups.

A case is an image, or a volume. The figures of a case are those of its labels, each against everything else:

```
dice      2 |A ∩ B| / (|A| + |B|), of the pixels marked in truth (A) and answer (B)
iou       |A ∩ B| / |A ∪ B|
hd95      the 95th percentile of the distances from the edge of one to the edge of the other, the larger of both
          directions (Hausdorff)
asd       the mean of the distances in both directions together (average symmetric surface distance)
cl_dice   the harmonic mean of how much of the answer's skeleton lies in the truth, and of the truth's in the answer
          (Shit et al. 2021); of images alone
ece       expected calibration error of all pixels together, in 15 bins of equal width; of one label
```

Where neither truth nor answer marks anything, Dice, IoU and clDice are 1 and the distances 0. Where only one of them
does, Dice, IoU and clDice are 0, and there is no distance: it is NaN, and left out of the mean. A figure of a table is
the mean over cases of the mean over labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure, Floats, Ints, Measure, changes, divide, with_intervals
from leanmed.tasks.segmentation.thinning import skeleton

Mask = NDArray[np.bool_]
Labelled = NDArray[np.uint8]

BINS = 15
LEVELS = 255  # of a confidence, which is that of a probability of 1
ALIKE = 0.02  # Dice


@dataclass(frozen=True, eq=False)
class CaseRow:
    """What is measured of one case with K labels.

    Args:
        dice, iou: (K,) in [0, 1].
        hd95, asd: (K,) in mm, or pixels if not `in_mm`; NaN where only one of truth and answer marks the label.
        tp, fp, fn: (K,) how many pixels are marked by both, by the answer alone, and by the truth alone.
        cl_dice: (K,) in [0, 1], or None: not asked for.
        histogram: (15, 3) for each bin of the probability how many pixels, the sum of their probabilities, and how
            many of them the truth marks; or None: not known.
        in_mm: whether the size of a pixel is known.
    """

    dice: Floats
    iou: Floats
    hd95: Floats
    asd: Floats
    tp: Ints
    fp: Ints
    fn: Ints
    cl_dice: Floats | None = None
    histogram: Floats | None = None
    in_mm: bool = False


def measure_case(
    truth: Labelled,
    answered: Labelled,
    labels: int,
    *,
    spacing: Sequence[float] | None = None,
    within: Mask | None = None,
    confidence: Labelled | None = None,
    thin: bool = False,
) -> CaseRow:
    """Compare the mask of one case with the true one.

    Args:
        truth, answered: (h, w) or (z, h, w), 0 for background and 1 to `labels`.
        labels: how many there are.
        spacing: mm from pixel to pixel along each axis; None: distances are in pixels.
        within: of the same shape, which pixels are judged; the others count as background in both. None: all.
        confidence: of the same shape, 255 times the probability of label 1; for a single label.
        thin: whether clDice is wanted, which takes two dimensions.

    Raises:
        DataError: shapes that differ, values above `labels`, or a spacing of another number of axes.
    """
    _check(truth, answered, spacing)
    if within is not None:
        truth, answered = (np.where(within, mask, 0).astype(np.uint8) for mask in (truth, answered))
    highest = max(int(truth.max(initial=0)), int(answered.max(initial=0)))
    if highest > labels:
        raise DataError(f"expected masks with values from 0 to {labels}, got {highest}")
    found = [_measure_label(*pair, spacing, thin=thin) for pair in _cropped(truth, answered, labels)]
    tp, fp, fn = np.array([[one.tp, one.fp, one.fn] for one in found], dtype=np.int64).T
    return CaseRow(
        dice=np.array([one.dice for one in found]),
        iou=np.array([one.iou for one in found]),
        hd95=np.array([one.hd95 for one in found]),
        asd=np.array([one.asd for one in found]),
        tp=tp,
        fp=fp,
        fn=fn,
        cl_dice=np.array([one.cl_dice for one in found]) if thin else None,
        histogram=None if confidence is None else _histogram(truth == 1, confidence, within),
        in_mm=spacing is not None,
    )
