"""What `leanmed audit` does: read, audit, write, and say in a few lines what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leanmed.audit.conflicts import LABEL, MASK, Conflict
from leanmed.audit.engine import audit
from leanmed.audit.split import split_check
from leanmed.audit.split_files import SPLIT, write_split
from leanmed.audit.writing import CACHE, FINDINGS, write_findings
from leanmed.console import Progress, silent
from leanmed.cores import available_cores
from leanmed.data import read_records
from leanmed.data.tables import read_side
from leanmed.errors import DataError
from leanmed.reading.folders import SUFFIXES, list_behind
from leanmed.reading.greys import range_remarks
from leanmed.records import Records
from leanmed.remote import Place

if TYPE_CHECKING:
    from upath import UPath

SHOWN = 10
UNLABELLED_READER = "images"


def audit_folder(
    data: Place,
    dataset: str,
    out: Path,
    *,
    workers: int = 0,
    engine: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[list[str], bool]:
    """Audit a data set into `out`.

    Args:
        data: its folder, or the URL of a folder of images without labels, with the reader `images`.
        dataset: its reader's name.
        out: where to write.
        workers: processes; 0: one per core.
        engine: see `audit`.
        strict: see `read_records`.
        overwrite: replace an older audit in `out`; what it has read of unchanged images is used again.
        progress: takes stage, done and total.

    Returns:
        What to tell the user, and whether no copies carry different labels or masks that contradict each other.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an audit.
        DataError: the data set is unsound, none of its images can be read, or another reader is to read a URL.
        InputError: the mask of a copy that cannot be read.
        RunError: a URL that cannot be reached.
    """
    FINDINGS.check(out, overwrite=overwrite)
    images: Mapping[str, Place]
    if isinstance(data, Path):
        records = read_records(dataset, data, strict=strict)
        images = {record.id: record.image for record in records}
    else:
        images, records = _images_behind(data, dataset)
    cache = out / CACHE
    found = audit(list(images.items()), cache=cache, workers=workers, engine=engine, progress=progress)
    conflicts = write_findings(out, found, images, records, overwrite=overwrite)
    torn = [conflict for conflict in conflicts if conflict.field == LABEL]
    apart = [conflict for conflict in conflicts if conflict.field == MASK]
    copies = found.copies
    lines = [
        f"{len(images)} images, {len(set(found.groups.values()))} groups; {sum(map(len, copies.values()))} "
        f"images have a copy, in {len(found.pairs)} verified pairs",
        f"{len(conflicts)} conflicts between copies, {len(torn)} of them between labels"
        + f" and {len(apart)} between masks" * bool(apart),
        *(f"  masks contradict each other: {_values(conflict)}" for conflict in apart[:SHOWN]),
        f"{len(found.unreadable)} unreadable, {len(found.near_empty)} near-empty, {len(found.outliers)} outliers",
        *(f"  unreadable: {name}: {reason}" for name, reason in found.unreadable.items()),
        *records.notes,
        *range_remarks(path for path in images.values() if isinstance(path, Path)),
        f"wrote {out / 'report.html'}, report.json, groups.csv and pairs.csv",
    ]
    return lines, not torn and not apart


def _images_behind(place: UPath, dataset: str) -> tuple[dict[str, UPath], Records]:
    """Name below the place -> image; and no records, but what is to be said of the place."""
    if dataset != UNLABELLED_READER:
        raise DataError(
            f"expected --dataset {UNLABELLED_READER} with the URL of a folder, got {dataset}; copy the data set "
            "here to read its labels"
        )
    listing = list_behind(place)
    if not listing.images or listing.images == (place,):
        raise DataError(
            f"{place}: expected a folder of images ending in {', '.join(sorted(SUFFIXES))}, got none; check the address"
            f"{''.join(f'. {note}' for note in listing.notes())}"
        )
    above = f"{str(place).rstrip('/')}/"
    return {str(path).removeprefix(above): path for path in listing.images}, Records([], listing.notes())


def audit_split(
    train: Path,
    test: Path,
    *,
    out: Path | None = None,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[list[str], bool]:
    """Check a split that somebody made.

    Args:
        train, test: a folder of images, or a table with a column `image`.
        out: takes the files that `leanmed.audit.split_files` lists; None: nothing is written.
        workers: processes; 0: one per core.
        overwrite: replace an older audit of a split in `out`.
        progress: takes stage, done and total.

    Returns:
        What to tell the user, and whether no test image has a copy or a sibling in training.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an audit of a split.
        DataError: a side is unsound, or none of its images can be read.
    """
    if out:
        SPLIT.check(out, overwrite=overwrite)
    sides = read_side(train), read_side(test)
    cache = out / CACHE if out else None
    found = split_check(*sides, cache=cache, workers=_count(workers), progress=progress)
    leaked = found.leaked
    copied = sum(bool(leak.copies) for leak in leaked)
    lines = [
        f"{len(leaked)} of {len(sides[1])} test images leak: {copied} have a copy in training, "
        f"{len(leaked) - copied} only a sibling of their group"
    ]
    lines += dict.fromkeys(note for side in sides for note in side.notes)
    lines += [f"  {leak.image}: {', '.join((*leak.copies, *leak.siblings)[:3])}" for leak in leaked[:SHOWN]]
    lines += [f"  and {len(leaked) - SHOWN} more"] * (len(leaked) > SHOWN)
    lines += [f"  unreadable: {name}: {reason}" for name, reason in found.unreadable.items()]
    if out:
        write_split(out, found, *sides, overwrite=overwrite)
        lines.append(f"wrote {out / 'report.html'}, split.json, test.csv and pairs.csv with every pair")
        lines += [f"to judge without them: leanmed evaluate ... --data {test} --split-audit {out}"] * bool(leaked)
    return lines, not leaked


def _values(conflict: Conflict) -> str:
    return "; ".join(f"{', '.join(images)}: {value}" for value, images in conflict.values.items())


def _count(workers: int) -> int:
    return workers or available_cores()
