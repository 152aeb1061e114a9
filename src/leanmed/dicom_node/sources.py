"""The images that an answer is about, as the objects that refer to them need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from leanmed.dicom_node.journal import made_uid
from leanmed.reading.dicom import parse_dicom
from leanmed.reading.multiframe import OWN, SHARED
from leanmed.reading.raster import Limits, checked_bytes
from leanmed.reading.source import border

EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)  # that images may leave out and answers must have, if without a value
MAKER = "leanmed"  # Manufacturer of every answer
DEFAULT_THICKNESS = 1.0  # mm


def lies_somewhere(image: Dataset) -> bool:
    """Whether an image, or each frame of one, says where it lies in the patient."""
    groups = (image.get(SHARED) or [])[:1] + (image.get(OWN) or [])[:1]
    return "ImagePositionPatient" in image or any("PlanePositionSequence" in item for item in groups)


@dataclass(frozen=True, eq=False)
class Place:
    """One image of a series, or one frame of an image.

    Args:
        image: what it says; without pixels, and with what answers must have filled in.
        frame: from 0, of an image that has several; None: it has one.
    """

    image: Dataset
    frame: int | None = None

    @property
    def frames(self) -> list[int] | None:
        """Frame numbers as DICOM counts them, from 1."""
        return None if self.frame is None else [self.frame + 1]


def read_object(path: Path, limits: Limits) -> Dataset:
    """A stored object as it is.

    Raises:
        InputError: it cannot be read.
    """
    with border(path.name, "DICOM object"):
        return parse_dicom(checked_bytes(path, limits), limits)


def filled(dataset: Dataset, thickness: float = DEFAULT_THICKNESS) -> Dataset:
    """A dataset without its pixels and with all that answers copy from it: changed in place, and returned.

    Args:
        dataset: of an image.
        thickness: mm from one slice to the next.
    """
    for keyword in ("PixelData", "IconImageSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    for keyword in EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = made_uid(str(dataset.SeriesInstanceUID), "frame of reference")
    if "ImagePositionPatient" in dataset and not dataset.get("SliceThickness"):
        dataset.SliceThickness = round(thickness, 6)
    return dataset


def places_of(files: Sequence[Path], frames: Sequence[int], limits: Limits, thickness: float) -> tuple[Place, ...]:
    """The images of a scan in the order of its stored slices; each file is read once.

    Args:
        files: of each slice.
        frames: of each slice, which frame of its file it is.
        limits: of a file.
        thickness: mm from one slice to the next.
    """
    images = {path: filled(read_object(path, limits), thickness) for path in dict.fromkeys(files)}
    return tuple(
        Place(images[path], frame if int(images[path].get("NumberOfFrames") or 1) > 1 else None)
        for path, frame in zip(files, frames, strict=True)
    )
