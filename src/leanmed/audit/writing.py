"""The findings as files: pairs.csv and groups.csv, report.json with all the rest, and report.html for people.

`report.json` has these keys:

```
notice, images, groups, copies   counts: readable images, groups, images that share a group with another
pairs, complete                  verified pairs; whether pairs.csv holds every pair of every group
largest                          [{group, images}]: groups of several images, the largest first
conflicts                        [{group, field, values: {value: [image]}, spread}]: what copies disagree on; the field
                                 `mask` stands once for each pair of copies and label
unreadable                       {image: reason}
near_empty                       [image]
outliers                         [{image, measure, value, median}]
classes, sites                   {name: images}; of images with boxes, the classes are `with boxes`, `without boxes`
method                           the thresholds by which a pair was accepted
```
"""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanmed.audit import verify
from leanmed.audit.conflicts import LABEL, MASK, Conflict, find_conflicts
from leanmed.audit.describe import TISSUE
from leanmed.audit.engine import ALL_PAIRS
from leanmed.audit.findings import Findings, Pair
from leanmed.audit.mask_conflicts import (
    CONTRADICTS,
    LEAST_DICE,
    Contradiction,
    as_conflicts,
    contradicting,
    contradictions,
)
from leanmed.errors import InputError, RunError
from leanmed.files import encodable, whole_file, write_json, write_text
from leanmed.outputs import Output
from leanmed.reading.images import DEFAULT_LIMITS, read_image
from leanmed.records import Boxes, Mask, Record
from leanmed.remote import Place, at_hand
from leanmed.report.pages import NOTICE, render_page

CACHE = ".cache"  # in the output folder: what a stopped audit goes on from
FINDINGS = Output(
    "an audit",
    ("notice", "pairs", "groups"),
    "report.json",
    ("pairs.csv", "groups.csv", "report.json", "report.html"),
    kept=(CACHE,),
)
SHOWN_GROUPS, SHOWN_IMAGES, SHOWN_ROWS = 12, 8, 100  # on the page; the other files hold everything
THUMBNAIL = 200  # pixels, long side
GREY = (128, 128, 128, 255)
THRESHOLDS = ("MIN_MATCHES", "MANY_MATCHES", "SCORE_OF_FEW", "SCORE_OF_MANY", "SCORE_OF_CHAIN", "MIN_OVERLAP")


def write_findings(
    out: Path,
    found: Findings,
    images: Mapping[str, Place],
    records: Sequence[Record] = (),
    *,
    overwrite: bool = False,
) -> list[Conflict]:
    """Write a folder with pairs.csv, groups.csv, report.json and report.html, whole; give back the conflicts.

    Args:
        out: the folder.
        found: of these images.
        images: id -> file, for the pictures on the page.
        records: what else is known of the images, for conflicts and counts.
        overwrite: replace an older audit in `out`.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an audit.
    """
    apart = contradictions(found.pairs, records)
    conflicts = [*as_conflicts(apart, found.groups), *find_conflicts(found.copies, records)]
    pairs = ((p.a, p.b, f"{p.score:.4f}", p.transformation) for p in found.pairs)
    values = as_json(found, conflicts, records)
    with FINDINGS.folder(out, overwrite=overwrite) as folder:
        write_table(folder / "pairs.csv", ("a", "b", "score", "transformation"), pairs)
        write_table(folder / "groups.csv", *_groups_table(found, apart, records))
        write_json(folder / "report.json", values)
        write_text(folder / "report.html", render(found, conflicts, images, records, values))
    return conflicts


def _groups_table(
    found: Findings, apart: Sequence[Contradiction], records: Sequence[Record]
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of groups.csv; of images with masks, also which image's mask contradicts each."""
    header = ["image", "group"]
    if not any(isinstance(record.target, Mask) for record in records):
        return header, list(found.groups.items())
    other = contradicting(apart)
    return [*header, CONTRADICTS], [(image, group, other.get(image, "")) for image, group in found.groups.items()]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table, written whole."""
    # A file name may hold bytes that are no UTF-8: they are written as they are.
    with (
        whole_file(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def as_json(found: Findings, conflicts: Sequence[Conflict], records: Sequence[Record]) -> dict[str, Any]:
    """The content of report.json; the module's docstring lists the keys."""
    copies = found.copies
    return {
        "notice": NOTICE,
        "images": len(found.facts),
        "groups": len(set(found.groups.values())),
        "copies": sum(len(members) for members in copies.values()),
        "pairs": len(found.pairs),
        "complete": all(len(members) <= ALL_PAIRS for members in copies.values()),
        "largest": [
            {"group": encodable(g), "images": [encodable(i) for i in members]} for g, members in copies.items()
        ],
        "conflicts": [_conflict(conflict) for conflict in conflicts],
        "unreadable": {encodable(image): encodable(reason) for image, reason in found.unreadable.items()},
        "near_empty": [encodable(image) for image in found.near_empty],
        "outliers": [{**vars(o), "image": encodable(o.image)} for o in found.outliers],
        "classes": dict(sorted(Counter(map(_kind, records)).items())),
        "sites": dict(sorted(Counter(r.site or "unknown" for r in records).items())),
        "method": {name.lower(): getattr(verify, name) for name in THRESHOLDS},
    }


def _kind(record: Record) -> str:
    """The class of an image, or whether it has boxes or a mask."""
    if isinstance(record.target, str):
        return record.target
    if isinstance(record.target, Mask):
        return "with a mask" if record.target.files else "without a mask"
    return "with boxes" if record.target.xyxy else "without boxes"


def _conflict(conflict: Conflict) -> dict[str, Any]:
    values = {str(value): [encodable(i) for i in images] for value, images in conflict.values.items()}
    return {**vars(conflict), "group": encodable(conflict.group), "values": values, "spread": conflict.spread}


def render(
    found: Findings,
    conflicts: Sequence[Conflict],
    images: Mapping[str, Place],
    records: Sequence[Record],
    values: Mapping[str, Any],
) -> str:
    """The page as one HTML text that needs nothing but itself."""
    return render_page(
        "audit.html",
        **values,
        torn=sum(conflict.field == LABEL for conflict in conflicts),
        contradicted=sum(conflict.field == MASK for conflict in conflicts),
        least_dice=LEAST_DICE,
        shown=_shown_groups(found, images, {r.id: r for r in records}),
        rows=SHOWN_ROWS,
        all_pairs=ALL_PAIRS,
    )


def _shown_groups(found: Findings, images: Mapping[str, Place], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The largest groups with their first images: a picture, what is known, how it relates to the first."""
    pairs = {(p.a, p.b): p for p in found.pairs}
    return [
        {
            "group": group,
            "size": len(members),
            "images": [
                {
                    "id": image,
                    "picture": thumbnail(images[image]),
                    "said": _said(records.get(image)),
                    "map": relation(pairs.get((group, image)), first=image == group),
                }
                for image in members[:SHOWN_IMAGES]
            ],
        }
        for group, members in list(found.copies.items())[:SHOWN_GROUPS]
    ]


def _said(record: Record | None) -> str:
    if record is None:
        return ""
    target = f"{len(record.target.xyxy)} box(es)" if isinstance(record.target, Boxes) else _kind(record)
    return ", ".join(value for value in (target, record.site) if value)


def relation(pair: Pair | None, *, first: bool) -> str:
    """How a copy relates to the first image of its group, in words."""
    if pair is None:
        return "" if first else "a copy by way of another"
    return f"score {pair.score:.2f}: {pair.transformation}"


def thumbnail(path: Place) -> str | None:
    """The tissue on neutral grey as a JPEG in base64, or None if the file can no longer be read."""
    try:
        with at_hand(path, DEFAULT_LIMITS.max_bytes) as file:
            pixels = read_image(file)
    except (InputError, RunError, OSError):
        return None
    rows, columns = (np.flatnonzero((pixels[..., 3] >= TISSUE).any(axis=axis)) for axis in (1, 0))
    if rows.size:
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    picture = Image.fromarray(pixels)
    shown = Image.alpha_composite(Image.new("RGBA", picture.size, GREY), picture).convert("RGB")
    shown.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
