"""LUNA16's lung nodules as slices that somebody has cut: 8-bit images, 1 mm per pixel, window [-1000, 400] HU.

Setio et al., "Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in
computed tomography images: the LUNA16 challenge", Medical Image Analysis 42, 2017. Whole scans are read by
`leanmed.data.luna16`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from leanmed.data.box_formats import boxes_inside
from leanmed.data.tables import images_below, match_images, name_below, read_rows
from leanmed.data.telling import each
from leanmed.errors import DataError
from leanmed.records import Box, Record, Records

MANIFEST = "manifest.csv"
IMAGES = "JPEGImages"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
OTHERS = "other_nodules_crossing_slice_boxes"
COLUMNS = ("image", "seriesuid", "patient_id", "diameter_mm", *CORNERS, "pixel_md5")

Nodule = tuple[Box, float]  # its box, and its diameter in mm


def read_slices(root: Path) -> Records:
    """Read `luna16-slices`: `JPEGImages/` and `manifest.csv`, which has a row per annotated nodule.

    The slice of each row goes through that row's nodule; other nodules that cross it stand in the row as
    `x1 y1 x2 y2 dz=mm|...` and are merged in, with the diameter that their own row has. Two rows of the same
    pixels become one record. The group is the patient. Rows whose image is not there are counted.

    Raises:
        DataError: a column or a value is missing; no image, or one without row; a box outside its
            image or without size; a nodule crossing a slice that has no row of its own.
    """
    table = root / MANIFEST
    rows = read_rows(table, needed=COLUMNS)
    found = {name_below(root / IMAGES, path) for path in images_below(root / IMAGES)}
    notes = match_images({row["image"] for row in rows}, found, root, partial=True)
    own = dict(each(rows, lambda row: ((row["seriesuid"], _corners(table, row)), _number(table, row, "diameter_mm"))))
    same_pixels = defaultdict(list)
    for row in rows:
        if row["image"] in found:
            same_pixels[row["pixel_md5"]].append(row)
    return Records(each(same_pixels.values(), lambda group: _record(root, group, own)), gaps=notes)


def _record(root: Path, rows: Sequence[Mapping[str, str]], own: Mapping[tuple[str, Box], float]) -> Record:
    first, table = rows[0], root / MANIFEST
    boxes = {box: None for row in rows for box in (_corners(table, row), *_others(table, row))}
    unknown = [box for box in boxes if (first["seriesuid"], box) not in own]
    if unknown:
        raise DataError(
            f"{table}: {first['image']}: expected each other nodule to have a row of its own in the series, got none "
            f"for {unknown[0]}; add the row"
        )
    image = root / IMAGES / first["image"]
    diameters = tuple(own[first["seriesuid"], box] for box in boxes)
    target = boxes_inside(image, tuple(boxes), diameters)
    return Record(f"{IMAGES}/{first['image']}", image, target, group=first["patient_id"])


def _corners(table: Path, row: Mapping[str, str]) -> Box:
    x1, y1, x2, y2 = (_number(table, row, corner) for corner in CORNERS)
    return x1, y1, x2, y2


def _others(table: Path, row: Mapping[str, str]) -> list[Box]:
    """The boxes of `x1 y1 x2 y2 dz=mm|...`."""
    texts = [text.split() for text in row.get(OTHERS, "").split("|") if text]
    return [_corners(table, {"image": row["image"]} | dict(zip(CORNERS, text, strict=False))) for text in texts]


def _number(table: Path, row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{table}: {row['image']}: expected {column} to be a number, got {row.get(column)!r}; correct it"
        ) from error
