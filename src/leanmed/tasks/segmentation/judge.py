"""Judging masks: from records and answers to figures, plots, mistakes and words.

What is judged is a case: an image, or all slices of a volume that are there, together in three dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from leanmed.data import read_pixels
from leanmed.data.masks import OUTSIDE, read_mask
from leanmed.errors import ArtifactError, DataError
from leanmed.figures.bootstrap import SMALL_CELL, Figure, SubgroupRow, cells
from leanmed.figures.calibration import Evidence
from leanmed.manifest import Manifest
from leanmed.records import Attribute, Record
from leanmed.report.glossary import Term
from leanmed.report.pictures import PREDICTED, TRUE
from leanmed.report.plots import Plot
from leanmed.report.report import Mistake
from leanmed.tasks.drawing import as_picture, on_grey, outlined
from leanmed.tasks.segmentation.answer import MaskedImage, Plane, log_odds
from leanmed.tasks.segmentation.figures import Segmented, counts, measure_case, paired, point, score
from leanmed.tasks.segmentation.pieces import largest_pieces
from leanmed.tasks.segmentation.plots import plots_of
from leanmed.tasks.segmentation.words import TERMS, WORDS, terms_of

__all__ = ["TERMS", "WORDS", "counts", "paired", "point", "score"]

MAIN_SCORE = "dice"
MAX_DROP = 0.01  # Dice
CALIBRATION = 64  # images are large, and each is thousands of places
SHOWN = ("dice", "iou")
CARD_COLUMNS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95"}
MISTAKES = 12
FEW, MANY = 64, 4096  # pixels of an image that temperature and threshold are fitted to
IN_ALL = 2_000_000  # of all images
KEPT = {
    "all": "",
    "image": " Of each label the largest connected piece alone is kept, by whoever runs the graph.",
    "volume": " Of each label the largest connected piece of the volume alone is kept, by whoever runs the graph.",
}


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """Refuse records without masks, or whose masks lack labels of the model; further ones are background to it."""
    for record in records:
        named = set(record.mask.named(labels).values)
        if not named.issuperset(labels):
            raise DataError(
                f"record {record.id}: expected a mask of {', '.join(labels)}, got {', '.join(sorted(named))}; name "
                "what the values mean with --set data.values"
            )


def table_of(
    records: Sequence[Record],
    answers: Sequence[MaskedImage],
    labels: tuple[str, ...],
    folds: Sequence[int] | None = None,
) -> Segmented:
    """Records and the answers to them as the value that the figures take: a row for each case."""
    cases = _cases(records)
    rows = [_measured([records[i] for i in own], [answers[i] for i in own], labels) for own in cases]
    first = [own[0] for own in cases]
    return Segmented.of(
        rows,
        first=np.array(first),
        group=np.array([records[i].group for i in first]),
        labels=labels,
        fold=None if folds is None else np.array([folds[i] for i in first]),
    )


def _cases(records: Sequence[Record]) -> list[list[int]]:
    """The positions of each case's records: an image's own, or those of a volume's slices from the feet up."""
    found: dict[Any, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        found[record.id if record.frame is None else record.image].append(i)
    return [sorted(own, key=lambda i: records[i].frame or 0) for own in found.values()]


def _measured(records: Sequence[Record], answers: Sequence[MaskedImage], labels: tuple[str, ...]) -> Any:
    truths = [read_mask(record, labels) for record in records]
    for record, truth, answer in zip(records, truths, answers, strict=True):
        if answer.mask.shape != truth.shape:
            raise DataError(
                f"record {record.id}: expected an answer of the image's size {truth.shape}, got {answer.mask.shape}; "
                "answer the image as it is stored"
            )
    confidences = [answer.confidence for answer in answers]
    frames = [record.frame for record in records]
    truth, answered = _joined(truths, frames, OUTSIDE), _joined(_kept(answers), frames, 0)
    return measure_case(
        truth,
        answered,
        len(labels),
        spacing=records[0].spacing,
        within=truth != OUTSIDE if (truth == OUTSIDE).any() else None,
        confidence=None if len(labels) > 1 or any(c is None for c in confidences) else _joined(confidences, frames, 0),
        thin=frames[0] is None,
    )


def _kept(answers: Sequence[MaskedImage]) -> Sequence[Plane]:
    """The masks of a case, with the pieces that are kept of them."""
    masks = [answer.mask for answer in answers]
    return list(largest_pieces(np.stack(masks))) if answers[0].pieces == "volume" else masks


def _joined(planes: Sequence[Any], frames: Sequence[int | None], missing: int) -> Any:
    """An image's own plane, or a volume from the first to the last slice that is there, in which others are filled."""
    numbers = [frame for frame in frames if frame is not None]
    if not numbers:
        return planes[0]
    volume = np.full((max(numbers) - min(numbers) + 1, *planes[0].shape), missing, np.uint8)
    for number, plane in zip(numbers, planes, strict=True):
        volume[number - min(numbers)] = plane
    return volume


def evidence(records: Sequence[Record], answers: Sequence[MaskedImage], labels: tuple[str, ...]) -> Evidence | None:
    """Some pixels of each image, drawn from those that are known: their logits, and whether the label is there.

    With several labels there is none: the likeliest is answered.
    """
    if len(labels) > 1:
        return None
    each = min(MANY, max(FEW, IN_ALL // max(len(records), 1)))
    logits: list[Any] = []
    truth, group = [], []
    for record, answer in zip(records, answers, strict=True):
        confidence, mask = answer.confidence, read_mask(record, labels)
        if confidence is None:
            return None
        known = np.flatnonzero(mask.ravel() != OUTSIDE)
        # Drawn, since steps of one length would fall into the same few columns.
        chosen = np.random.default_rng(len(logits)).permutation(known)[:each]
        logits.append(log_odds(confidence.ravel()[chosen]))
        truth.append((mask.ravel()[chosen] == 1).astype(np.int64))
        group.append(np.full(len(chosen), record.group))
    return Evidence(logits=np.concatenate(logits), truth=np.concatenate(truth), group=np.concatenate(group), unfound=0)


def terms(table: Segmented) -> Mapping[str, Term]:
    """`TERMS`, and Dice for each of several labels."""
    return terms_of(table.labels)


def remarks(table: Segmented) -> list[str]:
    """How many cases there are, and how many have no distance or nothing to find."""
    return table.remarks()


def plots(table: Segmented, thresholds: Sequence[float]) -> list[Plot]:
    """Those that the table allows."""
    return plots_of(table)


def subgroups(
    table: Segmented,
    attributes: Mapping[str, Sequence[Attribute | None]],
    *,
    edges: Mapping[str, Sequence[float]],
    resamples: int,
) -> list[SubgroupRow]:
    """Figures of the cases that share the value of an attribute."""
    rows = []
    for name, values in attributes.items():
        own = [values[i] for i in table.first]
        for value, which in cells(own, edges.get(name)).items():
            rows.append(_cell(name, value, table.subset(which), resamples))
    return rows


def _cell(name: str, value: str, cell: Segmented, resamples: int) -> SubgroupRow:
    n = cell.group.size
    found = score(cell, resamples=resamples) if n >= SMALL_CELL else {}
    undefined = Figure(np.nan, np.nan, np.nan, n)
    shown = {m: found.get(m, undefined).of_groups(cell.groups) for m in CARD_COLUMNS}
    return SubgroupRow(name, value, n, cell.groups, None, shown)


def mistakes(table: Segmented, records: Sequence[Record], answers: Sequence[MaskedImage]) -> list[Mistake]:
    """The cases with the lowest Dice, one of a group, then the median case and the best, where these are others.

    Of a volume the slice with most wrong pixels is shown.
    """
    mean, cases = table.mean_dice(), {own[0]: own for own in _cases(records)}
    order = np.argsort(mean, kind="stable")
    first_of_group = {str(table.group[k]): int(k) for k in order[::-1]}  # the lowest of each overwrites the others
    worst = [int(k) for k in order if first_of_group[str(table.group[k])] == k][:MISTAKES]
    named = {int(order[len(order) // 2]): ", the median case", int(order[-1]): ", the best case"}
    shown = dict.fromkeys(worst, "") | {k: words for k, words in named.items() if k not in worst}
    return [
        _shown(table, [(records[i], answers[i]) for i in cases[int(table.first[k])]], mean[k], words)
        for k, words in shown.items()
    ]


def gallery(table: Segmented, records: Sequence[Record], answers: Sequence[Any]) -> None:
    """Mistakes show all: an image has no cell in a confusion matrix."""


def _shown(table: Segmented, case: Sequence[tuple[Record, MaskedImage]], dice: float, words: str) -> Mistake:
    kept = _kept([answer for _, answer in case])
    pairs = [(record, read_mask(record, table.labels), mask) for (record, _), mask in zip(case, kept, strict=True)]
    record, truth, mask = max(pairs, key=lambda pair: _wrong(*pair[1:]))
    return Mistake(
        id=record.id,
        image=record.image,
        truth=", ".join(table.labels),
        answered=f"Dice {dice:.3f}{words}",
        probability=float(dice),
        frame=record.frame,
        picture=partial(_outlines, record, truth, mask),
    )


def _wrong(truth: Plane, mask: Plane) -> int:
    return int(((truth != mask) & (truth != OUTSIDE)).sum())


def _outlines(record: Record, truth: Plane, mask: Plane) -> Plane:
    """The image with the true mask outlined in blue and the answered one in orange."""
    shown = on_grey(as_picture(read_pixels(record)))
    for marked, colour in ((truth, TRUE), (mask, PREDICTED)):
        known = (marked > 0) & (truth != OUTSIDE)
        shown = outlined(shown, known.astype(np.uint8), [ImageColor.getrgb(colour)[:3]])
    return np.asarray(shown)


def judge_scans(manifest: Manifest, name: str, root: Path, answer: Any, **more: Any) -> Any:
    """Volumes are judged slice by slice, which a reader gives."""
    raise ArtifactError(
        "expected an artifact that finds things in whole scans, got one that gives masks; leave --scans out, since the "
        "slices of a volume are judged together"
    )


def describe(manifest: Manifest) -> str:
    """What the card says the artifact does."""
    labels = ", ".join(f"`{label}`" for label in manifest.labels)
    seen = "image (uint8, RGB or RGBA, any size)"
    if manifest.input.kind == "intensities":
        seen = (
            "axial slice of MR with the slices below and above it (float32, any size; from each value the mean of the "
            "whole volume is subtracted, and it is divided by the volume's standard deviation)"
        )
    decided = "The likeliest label is answered."
    if manifest.threshold is not None:
        decided = (
            f"A pixel is marked if its probability is at least {manifest.threshold:.3f}, a threshold "
            f"{manifest.threshold_origin} (temperature {manifest.temperature:.3f})."
        )
    return f"From one {seen} it gives a mask of {labels} of the image's own size. {decided}{KEPT[manifest.pieces]}"


def limits(manifest: Manifest) -> list[str]:
    """What Dice does not say."""
    return [
        "Dice is a mean over cases: a mask may miss a small object whole and still overlap well with the rest.",
    ]
