"""From files to records, and from records to batches.

A new data set is one module and one line of `DATASETS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from leanmed.data import anemia, tables
from leanmed.errors import DataError
from leanmed.files import sha256_file, sha256_json
from leanmed.records import Record

DATASETS: dict[str, Callable[[Path], list[Record]]] = {
    "cp-anemic": anemia.read,
    "folder": tables.read,
    "images": tables.read_images,
}
LABELS: dict[str, tuple[str, ...]] = {"cp-anemic": anemia.LABELS}


def read_records(dataset: str, root: Path) -> list[Record]:
    """Read a data set by its name.

    Raises:
        DataError: an unknown name, a missing folder, an image listed twice, or what the reader refuses.
    """
    if dataset not in DATASETS:
        raise DataError(f"expected a data set's name ({', '.join(DATASETS)}), got {dataset!r}; name one of these")
    if not root.is_dir():
        raise DataError(f"expected the data to be a folder, found none at {root}; check the path")
    records = DATASETS[dataset](root)
    twice = [name for name, count in Counter(r.id for r in records).items() if count > 1]
    if twice:
        raise DataError(
            f"{root}: expected each image once, got more than once: {tables.some(twice)}; correct the table"
        )
    return records


def class_labels(dataset: str, records: Sequence[Record], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The labels in the order of the model's outputs: as wanted, else as the data set has them, else sorted.

    Raises:
        DataError: a record whose label is not in the list, or a listed label that no record has.
    """
    found = {record.target for record in records}
    labels = tuple(wanted or LABELS.get(dataset) or sorted(found))
    strangers, unused = found - set(labels), set(labels) - found
    if strangers or unused or len(set(labels)) < max(2, len(labels)):
        raise DataError(
            f"expected labels {list(labels)}, each once and at least two; not in the list: "
            f"{tables.some(strangers)}; without an image: {tables.some(unused)}; correct the table or set "
            "data.labels"
        )
    return labels


def content_hashes(records: Sequence[Record]) -> list[str]:
    """The SHA-256 of each record's image file, in the records' order."""
    return [sha256_file(record.image) for record in records]


def data_hash(records: Sequence[Record], contents: Sequence[str]) -> str:
    """One hash for all that a data set says: contents, labels, groups, sites and attributes."""
    pairs = sorted(zip(records, contents, strict=True), key=lambda pair: pair[0].id)
    return sha256_json([[r.id, c, r.target, r.group, r.site, dict(r.attributes)] for r, c in pairs])
