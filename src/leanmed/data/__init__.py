"""From files to records, and from records to batches.

A new data set is one module and one line of `DATASETS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

from numpy.typing import NDArray

from leanmed.data import anemia, class_folders, coco, luna16, masks, nerves, tables, volumes
from leanmed.data import box_formats as boxes
from leanmed.data import luna16_slices as nodules
from leanmed.data.masks import read_mask as read_mask
from leanmed.data.telling import some
from leanmed.errors import DataError
from leanmed.files import sha256_file, sha256_json
from leanmed.reading.hdf5 import hdf5_parts
from leanmed.reading.images import read_image
from leanmed.reading.lung_slices import read_slice
from leanmed.reading.mr import read_mr_slice
from leanmed.reading.volume import is_scan, scan_files
from leanmed.recipe.recipe import ORIGINS, Data, origin_of
from leanmed.records import Boxes, Mask, Record, Records

DATASETS: dict[str, Callable[[Path], Records]] = {
    "cp-anemic": anemia.read,
    "folder": class_folders.read,
    "images": tables.read_images,
    "masks": masks.read,
    "nerve-kaggle": nerves.read_kaggle,
    "usgra": nerves.read_usgra,
    "mr-sites": volumes.read_sites,
    "promise12": volumes.read_promise12,
    "nnunet": volumes.read_nnunet,
    "nci-isbi": volumes.read_nci_isbi,
    "volumes-h5": volumes.read_hdf5,
    "luna16-slices": nodules.read_slices,
    "luna16": luna16.read,
    "luna16-centres": luna16.read_centres,
    "voc": boxes.read_voc,
    "yolo": boxes.read_yolo,
    "coco": coco.read_coco,
}
PLACES = boxes.PLACES | {
    "coco": coco.PLACES,
    "luna16": "annotations.csv, which must name the series that are there",
    "luna16-centres": "annotations.csv, of which few lie in the middle slices",
    "luna16-slices": nodules.MANIFEST,
}
LABELS: dict[str, tuple[str, ...]] = {"cp-anemic": anemia.LABELS}


def read_records(dataset: str, root: Path, *, strict: bool = False) -> Records:
    """Read a data set by its name; what its reader has to say of it stands in `notes`.

    Args:
        dataset: its reader's name.
        root: its folder.
        strict: refuse what has no other half, such as rows without an image and images without a row, which else is
            left out and counted.

    Raises:
        DataError: an unknown name, a missing folder, an image listed twice, no box in any of the images
            of a set for detection, what the reader refuses, or, if `strict`, what it left out.
    """
    if dataset not in DATASETS:
        raise DataError(f"expected a data set's name ({', '.join(DATASETS)}), got {dataset!r}; name one of these")
    if not root.is_dir():
        raise DataError(f"expected the data to be a folder, found none at {root}; check the path")
    records = DATASETS[dataset](root)
    twice = [name for name, count in Counter(r.id for r in records).items() if count > 1]
    if twice:
        raise DataError(f"{root}: expected each image once, got more than once: {some(twice)}; correct the table")
    if not any(not isinstance(r.target, Boxes) or r.target.xyxy for r in records):
        raise DataError(
            f"{root}: expected at least one box, got none in {len(records)} images; the reader {dataset} looks for "
            f"boxes in {PLACES[dataset]}; put them there, or check that they are not empty"
            f"{''.join(f'. {note}' for note in records.notes)}"
        )
    if strict and records.gaps:
        raise DataError(
            f"{root}: expected an image for each row or mask and one of these for each image, since the reading is "
            f"strict. {' '.join(records.gaps)} Correct the table or the folder, or read without --strict"
        )
    return records


def read_records_for(recipe: Data, root: Path, dataset: str | None = None, *, strict: bool = False) -> Records:
    """Records for a model that learnt by a recipe: boxes are told as those that it learnt from.

    Where a recipe lists class labels, images with another one are left out, and a note says how many.

    Args:
        recipe: its section on data.
        root: the data set's folder.
        dataset: its reader's name; None: the recipe's own.
        strict: see `read_records`; what a recipe says of it is of the data that a model learns from.

    Raises:
        DataError: as `read_records`.
    """
    found = _of_labels(
        _named(read_records(dataset or recipe.dataset, root, strict=strict), recipe.values), recipe.labels
    )
    if dataset is None or dataset == recipe.dataset:
        return found
    by = ORIGINS[origin_of(dataset)] - ORIGINS[recipe.box_origin]
    moved = (
        replace(record, target=record.target.moved(by)) if by and isinstance(record.target, Boxes) else record
        for record in found
    )
    return found.like(moved)


def _named(records: Records, values: Mapping[str, tuple[int, ...]] | None) -> Records:
    """Records whose masks' values mean what a recipe says."""
    if not values:
        return records
    named = (
        replace(record, target=replace(record.target, values=values)) if isinstance(record.target, Mask) else record
        for record in records
    )
    return records.like(named)


def _of_labels(records: Records, labels: Sequence[str] | None) -> Records:
    """Records without the images whose class label is none of those listed, unless that would leave none."""
    listed = {normalize("NFC", label) for label in labels or ()}
    others = Counter(r.target for r in records if isinstance(r.target, str) and r.target not in listed)
    if not labels or not others or others.total() == len(records):
        return records
    counts = ", ".join(f"{label} ({count})" for label, count in sorted(others.items()))
    kept = records.like(r for r in records if not isinstance(r.target, str) or r.target in listed)
    kept.notes = (*kept.notes, f"Images left out, since data.labels does not name their label: {counts}.")
    return kept


def class_labels(
    dataset: str, records: Sequence[Record], wanted: Sequence[str] | None = None, *, all_present: bool = True
) -> tuple[str, ...]:
    """The labels in the order of the model's outputs: as wanted, else as the data set has them, else sorted.

    Args:
        dataset: its name.
        records: its images.
        wanted: labels in order.
        all_present: whether each wanted label needs an image, as in training; a set to judge a model on may lack some.

    Raises:
        DataError: a record whose label is not in the list, or a listed label that no record has.
    """
    found = {record.label for record in records}
    labels = tuple(normalize("NFC", label) for label in wanted or LABELS.get(dataset) or sorted(found))
    if all_present and len(found) == 1:
        (only,) = found
        missing = sorted(set(labels) - found)
        none = f" and none of {some(missing)}" if missing else ""
        raise DataError(
            f"expected images of two labels or more to learn from, got images of {only!r} alone{none}; add images "
            "of another label, or correct data.labels. A model that is finished can be judged on images of one label: "
            "leanmed evaluate"
        )
    strangers, unused = found - set(labels), (set(labels) - found if all_present else set())
    if strangers or unused or len(set(labels)) < max(2, len(labels)):
        remedy = (
            "correct the table or set data.labels"
            if all_present
            else "the model knows no other labels: rename those of the images, or leave these images out"
        )
        wrong = {"images of": strangers, "no image of": unused}
        got = "; ".join(f"{what} {some(names)}" for what, names in wrong.items() if names)
        raise DataError(
            f"expected images of the labels {', '.join(labels)}, two or more and each named once, got "
            f"{got or 'fewer labels, or one of them twice'}; "
            f"{remedy}"
        )
    return labels


def read_pixels(record: Record, *, side: int | None = None) -> NDArray[Any]:
    """Pixels (h, w, 4) of a record's image, or (h, w, 3) of its slice of a volume with the slices next to it.

    A slice with a mask is one of MR, and its pixels are float32, z-scores of the volume; any other is one of CT. All
    other pixels are uint8.

    Args:
        record: what to read.
        side: as `read_image` takes it; nothing to a volume.

    Raises:
        InputError: the file cannot be read.
    """
    if record.frame is None:
        return read_image(record.image, side=side)
    read = read_mr_slice if isinstance(record.target, Mask) else read_slice
    return read(record.image, record.frame)


def content_hashes(records: Sequence[Record]) -> list[str]:
    """The hash of each record's image, in the records' order."""
    hashes = {image: content_hash(image) for image in {record.image for record in records}}
    return [hashes[record.image] for record in records]


def content_hash(image: Path) -> str:
    """The SHA-256 of an image file; of a scan, one over all its files; of a data set in HDF5, with its name."""
    if inside := hdf5_parts(image):
        return sha256_json([inside[1], sha256_file(inside[0])])
    if is_scan(image):
        return sha256_json([sha256_file(path) for path in scan_files(image)])
    return sha256_file(image)


def data_hash(records: Sequence[Record], contents: Sequence[str]) -> str:
    """One hash for all that a data set says: contents, labels or boxes, groups, sites and attributes."""
    pairs = sorted(zip(records, contents, strict=True), key=lambda pair: pair[0].id)
    hashed = cache(content_hash)  # the slices of a volume share a mask
    return sha256_json([[r.id, c, _target(r, hashed), r.group, r.site, dict(r.attributes)] for r, c in pairs])


def _target(record: Record, hashed: Callable[[Path], str]) -> str | list[str | int | None]:
    if isinstance(record.target, str):
        return record.target
    files = (*record.target.files, record.target.within) if isinstance(record.target, Mask) else ()
    return [record.target.text(), record.frame, *(hashed(file) if file else None for file in files)]
