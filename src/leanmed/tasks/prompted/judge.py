"""Judging masks of what was pointed at: as all masks are judged. How it was pointed is said beside every figure."""

from __future__ import annotations

from collections.abc import Sequence

from leanmed.errors import DataError
from leanmed.manifest import Manifest
from leanmed.records import Record
from leanmed.tasks.segmentation import judge as masks
from leanmed.tasks.segmentation.figures import Segmented
from leanmed.tasks.segmentation.judge import (
    CALIBRATION,
    CARD_COLUMNS,
    MAIN_SCORE,
    MAX_DROP,
    SHOWN,
    TERMS,
    WORDS,
    counts,
    evidence,
    gallery,
    judge_scans,
    mistakes,
    paired,
    plots,
    point,
    score,
    subgroups,
    table_of,
    terms,
)

__all__ = [
    "CALIBRATION",
    "CARD_COLUMNS",
    "MAIN_SCORE",
    "MAX_DROP",
    "SHOWN",
    "TERMS",
    "WORDS",
    "counts",
    "evidence",
    "gallery",
    "judge_scans",
    "mistakes",
    "paired",
    "plots",
    "point",
    "score",
    "subgroups",
    "table_of",
    "terms",
]

POINTED = (
    "The model's own localiser pointed, unless a line above says ORACLE or a person gave points to `leanmed predict`. "
    "No true mask was shown to it, and it points in every image, whether or not an object is there."
)


def one_label(labels: tuple[str, ...]) -> None:
    """Refuse several labels: a point does not say which of them is meant.

    Raises:
        DataError: there is not one.
    """
    if len(labels) != 1:
        raise DataError(
            f"expected one label to point at, got {', '.join(labels)}; name it with --set data.labels=[NAME], or take "
            "the task segmentation, which marks several at once"
        )


def check(dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
    """As for masks, of one label."""
    one_label(labels)
    masks.check(dataset, records, labels)


def remarks(table: Segmented) -> list[str]:
    """As for masks, and who pointed."""
    return [*masks.remarks(table), POINTED]


def describe(manifest: Manifest) -> str:
    """What the card says the artifact does."""
    label = manifest.labels[0]
    return (
        f"From one image (uint8, RGB or RGBA, any size), and points or a box in it, it gives a mask of the `{label}` "
        "that is pointed at, of the image's own size, and the overlap (IoU) that it expects. Where nobody points, its "
        f"own localiser does. A pixel is marked if its probability is at least {manifest.threshold:.3f}, a threshold "
        f"{manifest.threshold_origin} (temperature {manifest.temperature:.3f})."
    )


def limits(manifest: Manifest) -> list[str]:
    """What Dice does not say."""
    return [
        *masks.limits(manifest),
        "The figures hold for the points of its own localiser. Points of people give other masks, better or worse.",
        "It marks something wherever it is pointed at, whether or not it is what the label names.",
    ]
