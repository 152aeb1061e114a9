"""The values that every part of leanmed takes and gives: what is known of an image.

All are frozen and checked when they are made, so no later stage has to check them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from leanmed.errors import DataError

Attribute = float | str
Box = tuple[float, float, float, float]


class Value:
    """A frozen value that other processes can be given."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes get values by pickle, which does not know read-only mappings."""
        fields = {name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in vars(self).items()}
        return _made, (type(self), fields)


def _made(kind: type, fields: Mapping[str, Any]) -> Any:
    """A value of these fields."""
    return kind(**fields)


@dataclass(frozen=True)
class Boxes(Value):
    """What is to be found in an image, and where.

    Args:
        xyxy: (x1, y1, x2, y2) each, in pixels of the image's own frame, x to the right, y down; may be empty.
        diameters: in mm, one per box, or none at all.

    Raises:
        DataError: a number that is not finite, a box or diameter without size, or not one diameter per box.
    """

    xyxy: tuple[Box, ...] = ()
    diameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checked = tuple(checked_box(corners) for corners in self.xyxy)
        if self.diameters and len(self.diameters) != len(checked):
            raise DataError(
                f"expected one diameter per box or none at all, got {len(self.diameters)} for {len(checked)}; "
                "correct the table"
            )
        if not all(0 < d < math.inf for d in self.diameters):
            raise DataError(f"expected diameters above 0 mm, got {list(self.diameters)}; correct the table")
        object.__setattr__(self, "xyxy", checked)
        object.__setattr__(self, "diameters", tuple(float(d) for d in self.diameters))

    def moved(self, by: float) -> Boxes:
        """The same, so many pixels further right and down."""
        return Boxes(tuple((x1 + by, y1 + by, x2 + by, y2 + by) for x1, y1, x2, y2 in self.xyxy), self.diameters)

    def text(self) -> str:
        """As JSON: [[x1, y1, x2, y2, diameter in mm or null], ...]."""
        diameters = self.diameters or (None,) * len(self.xyxy)
        return json.dumps([[*corners, d] for corners, d in zip(self.xyxy, diameters, strict=True)])


@dataclass(frozen=True)
class Mask(Value):
    """Where things are in an image, pixel by pixel.

    Args:
        files: label images, or volumes, of the image's own size; what any of them marks is marked, and no file marks
            nothing.
        values: label -> the values in the files that mean it; without values, all but 0 mean it.
        within: an image of the same size that is not 0 where the mask says something (a field of view); None:
            everywhere.
        unknown: values in the files by which they say nothing.

    Raises:
        DataError: no label, a value that is no whole number above 0, one value with two meanings, or a label without
            values beside others.
    """

    files: tuple[Path, ...]
    values: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"object": ()}, hash=False)
    within: Path | None = None
    unknown: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        meant = [value for values in self.values.values() for value in values]
        whole = all(isinstance(value, int) and value > 0 for value in meant)
        open_ended = not all(self.values.values()) and len(self.values) > 1
        if not self.values or not all(self.values) or not whole or len(set(meant)) < len(meant) or open_ended:
            raise DataError(
                "expected of each label of a mask the whole numbers above 0 that mean it, each number once, got "
                f"{dict(self.values)}; correct them"
            )
        object.__setattr__(self, "values", MappingProxyType({k: tuple(v) for k, v in self.values.items()}))

    def named(self, labels: Sequence[str]) -> Mask:
        """The same, but where nobody said what the values mean, all but 0 mean the only one of these labels."""
        if len(labels) == 1 and dict(self.values) == {"object": ()}:
            return Mask(self.files, {labels[0]: ()}, self.within, self.unknown)
        return self

    def text(self) -> str:
        """As JSON: the names of the files, and what their values mean."""
        unknown = {"unknown": self.unknown} if self.unknown else {}
        return json.dumps({"mask": [file.name for file in self.files], "values": dict(self.values), **unknown})


def checked_box(corners: Sequence[float]) -> Box:
    """Four numbers as a box.

    Raises:
        DataError: one is not finite, or the box has no size.
    """
    x1, y1, x2, y2 = map(float, corners)
    if not (all(map(math.isfinite, (x1, y1, x2, y2))) and x1 < x2 and y1 < y2):
        raise DataError(
            f"expected a box x1, y1, x2, y2 of finite numbers with x1 < x2 and y1 < y2, got {list(corners)}; correct it"
        )
    return x1, y1, x2, y2


@dataclass(frozen=True)
class Record(Value):
    """One labelled image.

    Args:
        id: unique within the data set; the image's path below the root, as a rule.
        image: the image file, or a volume's.
        target: the class label, the boxes of what is to be found, or a mask of it.
        group: what must never be split between training and test: a patient, a photograph, a scan.
        site: the hospital or device the image came from, or None.
        attributes: what else is known (age, sex, haemoglobin...), for subgroup tables. Numbers become floats;
            missing values are left out.
        frame: when `image` is a volume, which of its slices, counted from 0: of CT as they are stored, of MR from the
            patient's feet.
        spacing: mm between the centres of pixels along (y, x), or of a volume's voxels along (z, y, x), where known.

    Raises:
        DataError: an empty id, target or group; an id that is no text in UTF-8; an attribute that is neither
            text nor a finite number; a negative frame; a spacing that is not above 0.
    """

    id: str
    image: Path
    target: str | Boxes | Mask
    group: str
    site: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)
    frame: int | None = None
    spacing: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("id", "target", "group"):
            if not getattr(self, name):
                raise DataError(f"record {self.id or self.image}: expected its {name}, got nothing; fill it in")
        try:
            self.id.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"record {self.id!r}: expected a name in UTF-8; rename the file") from error
        if self.frame is not None and self.frame < 0:
            raise DataError(f"record {self.id}: expected a frame from 0, got {self.frame}; correct it")
        if self.spacing is not None and not (
            len(self.spacing) in (2, 3) and all(0 < step < math.inf for step in self.spacing)
        ):
            raise DataError(f"record {self.id}: expected a spacing above 0 mm, got {self.spacing}; correct it")
        checked = {name: self._attribute(name, value) for name, value in self.attributes.items()}
        object.__setattr__(self, "attributes", MappingProxyType(checked))

    @property
    def label(self) -> str:
        """The class label.

        Raises:
            DataError: the record has boxes or a mask instead.
        """
        if not isinstance(self.target, str):
            raise self._other("a class label")
        return self.target

    @property
    def boxes(self) -> Boxes:
        """The boxes.

        Raises:
            DataError: the record has a class label or a mask instead.
        """
        if not isinstance(self.target, Boxes):
            raise self._other("boxes")
        return self.target

    @property
    def mask(self) -> Mask:
        """The mask.

        Raises:
            DataError: the record has a class label or boxes instead.
        """
        if not isinstance(self.target, Mask):
            raise self._other("a mask")
        return self.target

    @property
    def truth(self) -> str:
        """The target as text: the label, or boxes or a mask as JSON."""
        return self.target if isinstance(self.target, str) else self.target.text()

    def _other(self, wanted: str) -> DataError:
        got = {str: "a class label", Boxes: "boxes", Mask: "a mask"}[type(self.target)]
        several = {str: "labels", Boxes: "boxes", Mask: "masks"}[type(self.target)]
        return DataError(f"record {self.id}: expected {wanted}, got {got}; choose a recipe for {several}")

    def _attribute(self, name: str, value: Any) -> Attribute:
        if isinstance(value, str):
            return value
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"record {self.id}: expected attribute {name} to be text or a finite number, got {value!r}; "
                "leave missing values out"
            )
        return number


class Records(list[Record]):
    """The records of a data set, and what its reader found worth saying of it, a sentence each.

    Args:
        records: the images.
        notes: what to know of them.
        gaps: what was left out because its other half is missing, such as images without a row in the table; a strict
            reading refuses it.
    """

    def __init__(self, records: Iterable[Record], notes: Iterable[str] = (), gaps: Iterable[str] = ()) -> None:
        super().__init__(records)
        self.gaps = tuple(gaps)
        self.notes = (*notes, *self.gaps)

    def like(self, records: Iterable[Record]) -> Records:
        """Other records of which the same is to be said."""
        found = Records(records)
        found.notes, found.gaps = self.notes, self.gaps
        return found
