"""Ultrasound of nerves with masks, as two published data sets have it.

```
nerve-kaggle  DIR/train/SUBJECT_FRAME.tif   DIR/train/SUBJECT_FRAME_mask.tif   (or without the folder `train`)
usgra         DIR/images/0000.png           DIR/masks/0000.png
```
Both are read as the reader `masks` reads any images with masks. What they add is what is known of these sets alone:
whose the images are, and what the values of their masks mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from leanmed.data import masks
from leanmed.data.tables import GROUPS
from leanmed.errors import DataError
from leanmed.records import Records

NERVE, VESSEL = "nerve", "vessel"
_FRAME = re.compile(r"(?P<subject>\d+)_(?P<frame>\d+)")


def read_kaggle(root: Path) -> Records:
    """Read `nerve-kaggle`: ultrasound of the neck, where the brachial plexus is marked; the group is the subject.

    Kaggle, "Ultrasound Nerve Segmentation", 2016: 5635 frames of 47 subjects, 580 x 420 pixels. Many frames of a
    subject look alike, and of such ones some have a mask and others an empty one: an audit lists them. Images without
    a mask, as in the folder `test`, are left out and counted.

    Raises:
        DataError: no image with a mask, one whose name does not say its subject and frame, or a fault that the reader
            `masks` finds.
        InputError: an image or a mask that cannot be read.
    """
    found = _named(masks.read_by_name(root, _subject), {NERVE: ()})
    unread = root / GROUPS
    if not unread.is_file():
        return found
    note = f"{unread} is not read, because the subject stands in each image's name. Pass it to `--groups` to join both."
    found.notes += (note,)
    return found


def read_usgra(root: Path) -> Records:
    """Read `usgra`: ultrasound for regional anaesthesia, where nerves (1) and vessels (2) are marked.

    The data set does not tell whose the images are: a `groups.csv` beside its folders may.

    Raises:
        DataError: as the reader `masks`.
        InputError: as the reader `masks`.
    """
    return _named(masks.read(root), {NERVE: (1,), VESSEL: (2,)})


def _subject(image: Path) -> str:
    name = _FRAME.fullmatch(image.stem)
    if name is None:
        raise DataError(
            f"{image}: expected the subject and the frame in an image's name, as in 12_34.tif, got {image.name}; give "
            "the image its name back, or read the folder with --dataset masks and name the patients in groups.csv"
        )
    return f"subject-{int(name['subject'])}"


def _named(records: Records, values: Mapping[str, tuple[int, ...]]) -> Records:
    """The same, its masks' values named."""
    named = (replace(record, target=replace(record.mask, values=values)) for record in records)
    return records.like(named)
