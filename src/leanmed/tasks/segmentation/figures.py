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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure, Floats, Ints, Measure, changes, divide, with_intervals
from leanmed.tasks.segmentation.thinning import Mask, skeleton

Labelled = NDArray[np.uint8]

Box = tuple[slice, ...]

DISTANCES = ("hd95", "asd")
COLUMNS = ("dice", "iou", *DISTANCES, "tp", "fp", "fn")
BINS = 15
LEVELS = 255  # of a confidence, which is that of a probability of 1
ALIKE = 0.02  # Dice
EPSILON = 1e-9  # of rounding


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
    found = [_measured(*masks, spacing, thin=thin) for masks in _cropped(truth, answered, labels)]
    return CaseRow(
        **{name: np.array([one[name] for one in found]) for name in found[0]},
        histogram=None if confidence is None else _histogram(truth == 1, confidence, within),
        in_mm=spacing is not None,
    )


def _check(truth: Labelled, answered: Labelled, spacing: Sequence[float] | None) -> None:
    if truth.shape != answered.shape:
        raise DataError(f"expected an answer of the truth's shape {truth.shape}, got {answered.shape}")
    if spacing is not None and len(spacing) != truth.ndim:
        raise DataError(f"expected a spacing for each of {truth.ndim} axes, got {len(spacing)}; correct the spacing")


def _cropped(truth: Labelled, answered: Labelled, labels: int) -> Iterator[tuple[Mask, Mask]]:
    """For each label where it is in truth and answer, cut to the box that holds both."""
    boxes = zip(find_objects(truth, labels), find_objects(answered, labels), strict=True)
    for label, (one, other) in enumerate(boxes, start=1):
        box = _union(one or other, other or one)
        yield truth[box] == label, answered[box] == label


def _union(one: Box | None, other: Box | None) -> Box:
    if one is None or other is None:
        return (slice(0, 0),)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _measured(truth: Mask, answered: Mask, spacing: Sequence[float] | None, *, thin: bool) -> dict[str, float]:
    """The columns of `CaseRow` for one label."""
    tp = int(np.count_nonzero(truth & answered))
    fn, fp = int(np.count_nonzero(truth)) - tp, int(np.count_nonzero(answered)) - tp
    hd95, asd = _distances(truth, answered, spacing)
    row: dict[str, float] = {
        "dice": _share(2 * tp, 2 * tp + fp + fn),
        "iou": _share(tp, tp + fp + fn),
        "hd95": hd95,
        "asd": asd,
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }
    return row | {"cl_dice": _cl_dice(truth, answered)} if thin else row


def _share(part: int, whole: int) -> float:
    """1 where there is nothing to share: what is right about nothing is all right."""
    return part / whole if whole else 1.0


def _distances(truth: Mask, answered: Mask, spacing: Sequence[float] | None) -> tuple[float, float]:
    """HD95 and the average symmetric surface distance."""
    if truth.any() != answered.any():
        return np.nan, np.nan
    if not truth.any():
        return 0.0, 0.0
    one, other = (_edge(mask) * np.array(spacing or 1.0) for mask in (truth, answered))
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(np.concatenate([there, back]).mean())


def _edge(mask: Mask) -> Ints:
    """(p, axes) the pixels that have a side in common with the background, or with the outside of the image."""
    return np.argwhere(mask & ~binary_erosion(mask))


def _cl_dice(truth: Mask, answered: Mask) -> float:
    if truth.any() != answered.any():
        return 0.0
    if not truth.any():
        return 1.0
    precision = truth[skeleton(answered)].mean()
    sensitivity = answered[skeleton(truth)].mean()
    return float(2 * precision * sensitivity / max(precision + sensitivity, np.finfo(np.float64).tiny))


def _histogram(truth: Mask, confidence: Labelled, within: Mask | None) -> Floats:
    """(15, 3) as in `CaseRow`: bins [0, 1/15), [1/15, 2/15) ... [14/15, 1]."""
    if within is not None:
        truth, confidence = truth[within], confidence[within]
    levels = np.arange(LEVELS + 1)
    seen = np.bincount(confidence.ravel(), minlength=LEVELS + 1)
    marked = np.bincount(confidence[truth], minlength=LEVELS + 1)
    columns = np.stack([seen, seen * levels / LEVELS, marked], axis=1)  # (256, 3)
    found = np.zeros((BINS, 3))
    np.add.at(found, np.minimum(levels * BINS // LEVELS, BINS - 1), columns)
    return found


@dataclass(frozen=True, eq=False)
class Segmented:
    """A table of n cases with K labels; make one with `of`.

    Args:
        first: (n,) the position of each case's first record.
        group: (n,) what the split kept whole, and the bootstrap draws whole.
        labels: K names.
        dice, iou, hd95, asd: (n, K) as in `CaseRow`; distances are in `unit`.
        tp, fp, fn: (n, K) pixels.
        unit: of the distances: `mm`, or `pixels` if the size of a pixel is not known of any case.
        fold: (n,) the fold that answered for the case, or None.
        cl_dice: (n, K), or None.
        histograms: (n, 15, 3), or None.

    Raises:
        DataError: no case, or columns of another shape.
    """

    first: Ints
    group: NDArray[np.str_]
    labels: tuple[str, ...]
    dice: Floats
    iou: Floats
    hd95: Floats
    asd: Floats
    tp: Ints
    fp: Ints
    fn: Ints
    unit: str
    fold: Ints | None = None
    cl_dice: Floats | None = None
    histograms: Floats | None = None

    def __post_init__(self) -> None:
        n, k = len(self.group), len(self.labels)
        if n == 0 or k == 0:
            raise DataError(f"expected one or more cases and labels, got {n} and {k}")
        of_labels = dict.fromkeys((*COLUMNS, "cl_dice"), (n, k))
        shapes = {"first": (n,), "group": (n,), "fold": (n,), "histograms": (n, BINS, 3)} | of_labels
        for name, shape in shapes.items():
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise DataError(f"expected {name} of {n} cases to have shape {shape}, got {column.shape}")

    @classmethod
    def of(
        cls,
        rows: Sequence[CaseRow],
        *,
        first: Ints,
        group: NDArray[np.str_],
        labels: tuple[str, ...],
        fold: Ints | None = None,
    ) -> Segmented:
        """The table of what was measured of each case.

        Distances in pixels cannot be averaged with those in mm: where some cases have a spacing, the others have no
        distance. clDice and histograms are there if every case has them.
        """
        in_mm = np.array([row.in_mm for row in rows], dtype=bool)
        columns = {name: _stack([getattr(row, name) for row in rows]) for name in COLUMNS}
        if in_mm.any():
            columns |= {name: np.where(in_mm[:, None], columns[name], np.nan) for name in DISTANCES}
        return cls(
            first=first,
            group=group,
            labels=labels,
            fold=fold,
            unit="mm" if in_mm.any() else "pixels",
            cl_dice=_stack_known([row.cl_dice for row in rows]),
            histograms=_stack_known([row.histogram for row in rows]),
            **columns,
        )

    @property
    def groups(self) -> int:
        """How many groups the cases come from."""
        return np.unique(self.group).size

    @property
    def truth(self) -> Ints:
        """(n, K) how many pixels the truth marks."""
        return self.tp + self.fn

    @property
    def answered(self) -> Ints:
        """(n, K) how many pixels the answer marks."""
        return self.tp + self.fp

    def subset(self, which: NDArray[np.bool_] | Ints) -> Segmented:
        """The table of some of the cases, at least one."""
        names = ("first", "group", "fold", "cl_dice", "histograms", *COLUMNS)
        columns = {name: getattr(self, name) for name in names}
        return replace(self, **{name: column[which] for name, column in columns.items() if column is not None})

    def mean_dice(self) -> Floats:
        """(n,) the mean over labels."""
        mean: Floats = self.dice.mean(axis=1)
        return mean

    def remarks(self) -> list[str]:
        """How many cases there are, how many have nothing to find, and which of them have no distance."""
        n, absent, both = len(self.group), self.truth == 0, (self.truth == 0) & (self.answered == 0)
        found = [f"{n} cases in {self.groups} groups; in {absent.all(axis=1).sum()} cases there is nothing to find."]
        if len(self.labels) > 1:
            held = zip(self.labels, (~absent).sum(axis=0), strict=True)
            found.append(f"Cases that hold each label: {', '.join(f'{label} {count}' for label, count in held)}.")
        if both.any():
            found.append(
                f"In {both.any(axis=1).sum()} cases neither truth nor answer marks a label. Dice and IoU of that label "
                "count as 1 there, and its distances as 0."
            )
        found.append(
            f"Distances are in {self.unit}{'' if self.unit == 'mm' else ': the size of a pixel is not known'}."
        )
        missing = ~np.isfinite(self.asd)
        lone = missing & ((self.truth == 0) != (self.answered == 0))
        if lone.any():
            found.append(
                f"In {lone.any(axis=1).sum()} cases only one of truth and answer marks a label, so that there is no "
                "distance. The mean distances leave that label of those cases out, which makes them look better."
            )
        unknown = (missing & ~lone).any(axis=1)
        if unknown.any():
            found.append(f"{unknown.sum()} cases have no distance, since the size of their pixels is not known.")
        return found


def _stack(parts: Sequence[Any]) -> NDArray[Any]:
    return np.stack(parts) if parts else np.empty((0, 0))


def _stack_known(parts: Sequence[Floats | None]) -> Floats | None:
    known = [part for part in parts if part is not None]
    return np.stack(known) if known and len(known) == len(parts) else None


def point(table: Segmented) -> dict[str, float]:
    """Every figure of `score` without its interval."""
    return {name: float(value[0]) for name, value in measure(table)(np.ones((1, len(table.group)))).items()}


def score(table: Segmented, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """Every figure of a table with its 95 % interval over groups; the module's docstring tells what they are.

    With several labels, `dice:LABEL` is the mean Dice of each.
    """
    return with_intervals(measure(table), table.group, columns=_columns(table), resamples=resamples, seed=seed)


def paired(a: Segmented, b: Segmented, *, resamples: int = 2000, seed: int = 0) -> dict[str, Figure]:
    """How b differs from a on the same images: b - a for each figure, the resamples being shared.

    `agreement` is the share of cases whose Dice differs by at most .02. Distances are compared in the
    cases that have one in both tables: otherwise a model would gain by missing a case altogether.

    Raises:
        DataError: the tables are not of the same images.
    """
    same = a.labels == b.labels and np.array_equal(a.group, b.group) and np.allclose(a.truth, b.truth)
    if not same:
        raise DataError("expected two tables of the same images in the same order, got others")
    alike = np.abs(a.mean_dice() - b.mean_dice()) <= ALIKE + EPSILON
    columns = max(_columns(a), _columns(b))
    a, b = _with_distances_of(a, b), _with_distances_of(b, a)
    return changes(measure(a), measure(b), alike, a.group, columns=columns, resamples=resamples, seed=seed)


def _with_distances_of(table: Segmented, other: Segmented) -> Segmented:
    """The table without the distances that the other does not have."""
    hd95, asd = (np.where(np.isfinite(getattr(other, name)), getattr(table, name), np.nan) for name in DISTANCES)
    return replace(table, hd95=hd95, asd=asd)


def _columns(table: Segmented) -> int:
    return max(len(table.group), 3 * BINS, 5 + len(table.labels))


def measure(table: Segmented) -> Measure:
    """Work out what no resample changes; the function returned turns weights (b, n) into name -> (b,)."""
    of_cases = _of_cases(table)
    values = np.stack(list(of_cases.values()), axis=1)  # (n, names)
    known = np.isfinite(values).astype(np.float64)
    filled = np.nan_to_num(values)

    def measured(weights: Floats) -> dict[str, Floats]:
        means = divide(weights @ filled, weights @ known)
        found = dict(zip(of_cases, means.T, strict=True))
        return found if table.histograms is None else found | {"ece": _ece(table.histograms, weights)}

    return measured


def _of_cases(table: Segmented) -> dict[str, Floats]:
    """Name -> (n,) a figure of each case, NaN where it has none."""
    found = {"dice": table.mean_dice(), "iou": table.iou.mean(axis=1)}
    found |= {name: _mean_known(getattr(table, name)) for name in DISTANCES}
    if table.cl_dice is not None:
        found["cl_dice"] = table.cl_dice.mean(axis=1)
    if len(table.labels) > 1:
        found |= {f"dice:{label}": column for label, column in zip(table.labels, table.dice.T, strict=True)}
    return found


def _mean_known(of_labels: Floats) -> Floats:
    """(n, K) -> (n,) the mean of the labels that have a value."""
    return divide(np.nansum(of_labels, axis=1), np.isfinite(of_labels).sum(axis=1))


def _ece(histograms: Floats, weights: Floats) -> Floats:
    """(n, 15, 3) and (b, n) -> (b,) how far probabilities lie from observed shares, weighted by pixels."""
    count, probability, marked = np.moveaxis(np.tensordot(weights, histograms, axes=1), 2, 0)  # (b, 15) each
    return divide(np.abs(probability - marked).sum(axis=1), count.sum(axis=1))


def counts(table: Segmented) -> dict[str, dict[str, int]] | None:
    """Of each label how many pixels truth and answer both mark, the answer alone, and the truth alone."""
    return {
        label: {name: int(getattr(table, name)[:, k].sum()) for name in ("tp", "fp", "fn")}
        for k, label in enumerate(table.labels)
    }
