"""The generic reader, `folder`: class sub-folders, or a folder with a `labels.csv` (see `leanmed.data.tables`).

```
DIR/benign/001.png       DIR/train/benign/001.png      DIR/labels.csv
DIR/malignant/017.png    DIR/test/malignant/017.png    DIR/images/001.png
```
Folders such as `train` and `test` are no classes: their sub-folders are, and the side that an image was on becomes the
attribute `original_split`. A folder that is alone and holds the others is looked through. Beside the folders may stand
`groups.csv`, with columns image (below DIR) and group (the patient, say).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from leanmed.data.sheets import find_table
from leanmed.data.tables import GROUPS, TABLE, content_group, name_below, read_groups, read_table, table_of
from leanmed.data.telling import some
from leanmed.errors import DataError
from leanmed.reading.folders import list_folder
from leanmed.records import Record, Records

ORIGINAL_SPLIT = "original_split"
_SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout|heldout|fold\d+|kfold\d+|split\d+)"
    r"(set|data|dataset|images|imgs|folder|split|\d{4})?"
)
_PARTS = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "labels", "masks", "mask", "annotations", "annotation"}
    | {"segmentation", "segmentations", "groundtruth", "gt", "xmls"}
)
OWN_SPLITS = "leanmed makes splits of its own; the side an image was on is kept as the attribute `original_split`."


def read(root: Path) -> Records:
    """Read a folder of labelled images.

    Args:
        root: holds `labels.csv`, or one sub-folder per class; one class is enough to judge a model on.

    Raises:
        DataError: no images, or one outside the class folders; a missing column or value, or no row whose image is
            there.
    """
    table = table_of(root)
    return read_table(root, table) if table else read_folders(root)


def read_folders(root: Path) -> Records:
    """One class per sub-folder; images may lie deeper inside it."""
    listing = list_folder(root)
    images = {name_below(root, image): image for image in sorted(listing.images)}
    top, notes = _look_through(root, list(images))
    below = {name: name.removeprefix(top).split("/") for name in images}
    sides = {parts[0] for parts in below.values() if len(parts) > 1}
    splits = {side for side in sides if is_split(side)}
    original: dict[str, str] = {}
    if len(splits) > 1 or (top and is_split(top.rstrip("/").rpartition("/")[2])):
        below, original, more = _split_layout(root, top, below, splits)
        notes += more
    grouped = find_table(root, GROUPS)
    passed_over = listing.notes(lambda path: path == grouped)
    classes = _classes(root, below, passed_over)
    groups, said = read_groups(root, set(below))
    records = [
        Record(
            id=name,
            image=images[name],
            target=classes[name],
            group=groups.get(name) or content_group(images[name]),
            attributes={ORIGINAL_SPLIT: original[name]} if name in original else {},
        )
        for name in below
    ]
    return Records(records, [*notes, *said, *passed_over])


def is_split(folder: str) -> bool:
    """Whether a folder is named as one side of a split: train, Test Set, validation_images, fold3..."""
    return bool(_SPLIT.fullmatch(re.sub(r"[\W_]+", "", folder).casefold()))


def _look_through(root: Path, names: Sequence[str]) -> tuple[str, list[str]]:
    """The path of the folder that holds the others, with a slash at its end; empty, if that is the root itself."""
    top = ""
    while names and all(name.removeprefix(top).count("/") > 1 for name in names):
        folders = {name.removeprefix(top).partition("/")[0] for name in names}
        if len(folders) > 1:
            break
        top += f"{folders.pop()}/"
    return top, [f"All images lie in {root / top}: its sub-folders are taken as the classes."] * bool(top)


def _split_layout(
    root: Path, top: str, below: dict[str, list[str]], splits: set[str]
) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    """Names with the path below their side, their sides, and what to say; images that no class holds are left out."""
    if not splits:  # the one folder that was looked through is a side
        return below, dict.fromkeys(below, top.rstrip("/").rpartition("/")[2]), []
    if others := {parts[0] for parts in below.values()} - splits:
        raise DataError(
            f"{root / top}: folders {some(splits)} are named as sides of a split, and {some(others)} not; move what is "
            f"no side away, or name each image's class in {TABLE}"
        )
    found = {name: parts[1:] for name, parts in below.items() if len(parts) > 2}
    notes = [f"Folders {some(splits)} are sides of a split, not classes: they are read as one set. {OWN_SPLITS}"]
    if loose := [name for name in below if name not in found]:
        notes.append(
            f"{len(loose)} images lie in {some({below[name][0] for name in loose})} but in no class folder there; they "
            "have no label and are left out."
        )
    if not found:
        raise DataError(
            f"{root / top}: expected class folders inside of {some(splits)}, which are named as sides of a split, got "
            f"images right in them; put each image into the folder of its class, or name its class in {root / TABLE}"
        )
    return found, {name: below[name][0] for name in found}, notes


def _classes(root: Path, below: dict[str, list[str]], passed_over: Sequence[str]) -> dict[str, str]:
    stray = [name for name, parts in below.items() if len(parts) < 2]
    classes = {name: parts[0] for name, parts in below.items() if len(parts) > 1}
    kinds = set(classes.values())
    hint = _hint(root)
    if stray or not kinds or (len(kinds) == 1 and hint):  # a model may be judged on images of one class
        raise DataError(
            f"{root}: expected {TABLE}, or images in one sub-folder for each class; got images in {len(kinds)} "
            f"sub-folder(s), and outside: {some(stray)}; move them or write a table{hint}"
            f"{''.join(f'. {note}' for note in passed_over)}"
        )
    parts = {kind for kind in kinds if re.sub(r"[\W_]+", "", kind).casefold() in _PARTS}
    if parts == kinds:
        raise DataError(
            f"{root}: expected a sub-folder for each class, got {some(parts)}, which are named as parts of one data "
            f"set; name the class of each image in {TABLE}, or choose a reader for boxes (voc, yolo, coco) if they "
            "hold boxes"
        )
    return classes


def _hint(root: Path) -> str:
    """Where a table may lie, since it does not where it should."""
    inside = sorted(name_below(root, path) for path in root.glob(f"*/{TABLE}"))
    others = sorted(path.name for path in root.glob("*.csv") if path.name != GROUPS)
    if inside:
        return f". There is a {inside[0]}: give the folder that holds it"
    return f". If {others[0]} names the classes, rename it {TABLE}" if others else ""
