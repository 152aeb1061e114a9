"""The audit of a split as files: every pair for programs and for people, and what an evaluation leaves out.

```
pairs.csv     test, train, kind (copy or sibling), score, transformation: every pair; the last two where pixels were
              compared, as in the audit of a data set
split.json    notice, train_images, test_images, pairs, leaked: [{image, copies, siblings}], verified: [{test, train,
              score, transformation}], unreadable: {image: reason}
test.csv      image, sha256, leaks (copy, sibling, or nothing): every test image, which `evaluate` knows by its content
report.html   the leaking images beside their nearest in training, and a list of the pairs
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from leanmed.audit.split import Leaked, LeakedPair, SplitFindings
from leanmed.audit.writing import CACHE, relation, thumbnail, write_table
from leanmed.data import content_hashes
from leanmed.data.tables import read_rows
from leanmed.errors import DataError
from leanmed.files import encodable, write_json, write_text
from leanmed.outputs import Output
from leanmed.records import Record
from leanmed.report.pages import NOTICE, render_page

TEST_IMAGES = "test.csv"
SPLIT = Output(
    "an audit of a split",
    ("notice", "leaked", "test_images"),
    "split.json",
    ("split.json", "pairs.csv", TEST_IMAGES, "report.html"),
    kept=(CACHE,),
)
SHOWN_PICTURES, SHOWN_PAIRS = 50, 10_000  # on the page; pairs.csv has every pair
COPY, SIBLING = "copy", "sibling"


def write_split(
    out: Path, found: SplitFindings, train: Sequence[Record], test: Sequence[Record], *, overwrite: bool = False
) -> None:
    """Write the four files into the folder `out`, whole.

    Args:
        out: the folder.
        found: of these images.
        train, test: the sides of the split.
        overwrite: replace an older audit of a split in `out`.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than an audit of a split.
    """
    contents, kinds = content_hashes(test), {leak.image: _kind(leak) for leak in found.leaked}
    images = [(r.id, content, kinds.get(r.id, "")) for r, content in zip(test, contents, strict=True)]
    values = as_json(found, train, test)
    with SPLIT.folder(out, overwrite=overwrite) as folder:
        write_table(
            folder / "pairs.csv", ("test", "train", "kind", "score", "transformation"), map(_row, found.pairs())
        )
        write_table(folder / TEST_IMAGES, ("image", "sha256", "leaks"), images)
        write_json(folder / "split.json", values)
        write_text(folder / "report.html", render(found, train, test, values))


def _kind(leak: Leaked) -> str:
    return COPY if leak.copies else SIBLING


def _row(pair: LeakedPair) -> tuple[str, ...]:
    score, transformation = _evidence(pair)
    return pair.test, pair.train, pair.kind, score, transformation


def _evidence(pair: LeakedPair) -> tuple[str, str]:
    return (f"{pair.verified.score:.4f}", pair.verified.transformation) if pair.verified else ("", "")


def as_json(found: SplitFindings, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
    """The content of split.json; the module's docstring lists the keys."""
    return {
        "notice": NOTICE,
        "train_images": len(train),
        "test_images": len(test),
        "pairs": sum(len(leak.copies) + len(leak.siblings) for leak in found.leaked),
        "leaked": [
            {
                "image": encodable(leak.image),
                "copies": [encodable(image) for image in leak.copies],
                "siblings": [encodable(image) for image in leak.siblings],
            }
            for leak in found.leaked
        ],
        "verified": [
            {
                "test": encodable(pair.a),
                "train": encodable(pair.b),
                "score": pair.score,
                "transformation": pair.transformation,
            }
            for pair in found.verified.values()
        ],
        "unreadable": {encodable(image): encodable(reason) for image, reason in found.unreadable.items()},
    }


def render(found: SplitFindings, train: Sequence[Record], test: Sequence[Record], values: Mapping[str, Any]) -> str:
    """The page as one HTML text that needs nothing but itself."""
    files = [{record.id: record.image for record in side} for side in (test, train)]
    nearest = [_nearest(found, leak) for leak in found.leaked[:SHOWN_PICTURES]]
    return render_page(
        "split.html",
        **values,
        copied=sum(bool(leak.copies) for leak in found.leaked),
        shown=[
            {
                "test": pair.test,
                "train": pair.train,
                "pictures": [thumbnail(files[0][pair.test]), thumbnail(files[1][pair.train])],
                "map": "a sibling: of one group" if pair.kind == SIBLING else relation(pair.verified, first=False),
            }
            for pair in nearest
        ],
        listed=[_row(pair) for pair in islice(found.pairs(), SHOWN_PAIRS)],
    )


def _nearest(found: SplitFindings, leak: Leaked) -> LeakedPair:
    """The training image to show beside a test image: the surest copy, or the first sibling."""
    pairs = list(SplitFindings((leak,), found.verified, {}).pairs())
    return max(pairs, key=lambda pair: pair.verified.score if pair.verified else -1.0)


@dataclass(frozen=True)
class AuditedTest:
    """A test set as the audit of its split left it.

    Args:
        path: the folder of the audit.
        leaks: SHA-256 of a test image's file -> `copy`, `sibling`, or nothing.
    """

    path: Path
    leaks: Mapping[str, str]


def read_split(path: Path) -> AuditedTest:
    """What an evaluation needs of the audit of a split.

    Raises:
        DataError: there is none in this folder, or it is damaged.
    """
    if not (path / TEST_IMAGES).is_file():
        raise DataError(
            f"expected an audit of a split, a folder with {TEST_IMAGES}, at {path}, found none; make one: "
            "leanmed audit --split TRAIN TEST --out DIR"
        )
    rows = read_rows(path / TEST_IMAGES, needed=("image", "sha256"))
    if strange := {row.get("leaks") for row in rows} - {"", COPY, SIBLING}:
        raise DataError(
            f"{path / TEST_IMAGES}: expected {COPY}, {SIBLING} or nothing in the column leaks, got "
            f"{sorted(map(str, strange))[0]!r}; audit the split again"
        )
    rows.sort(key=lambda row: bool(row["leaks"]))  # of equal files, one that leaks speaks for all
    return AuditedTest(path, {row["sha256"]: row["leaks"] for row in rows})
