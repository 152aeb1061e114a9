"""The images that an answer is about, as the objects that refer to them need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

from leanmed.dicom_node.journal import made_uid
from leanmed.reading.dicom import parse_dicom
from leanmed.reading.multiframe import OWN, SHARED, frames_in, has_groups
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
UNICODE = "ISO_IR 192"  # the character set of every answer, whatever the images' is
SUBJECT = (
    "PatientID",
    "PatientName",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
)  # what all images of a series must share, so that no answer lands with another patient
MAKER = "leanmed"  # Manufacturer of every answer
DEFAULT_THICKNESS = 1.0  # mm


def lies_somewhere(image: Dataset) -> bool:
    """Whether an image, or each frame of one, says where it lies in the patient."""
    groups = (image.get(SHARED) or [])[:1] + (image.get(OWN) or [])[:1]
    return "ImagePositionPatient" in image or any("PlanePositionSequence" in item for item in groups)


def frames_of(image: Dataset) -> list[int | None]:
    """The frames of an object, from 0; a single None for a classic image, which has none."""
    count = frames_in(image)
    return [None] if count == 1 and not has_groups(image) else list(range(count))


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

    @property
    def orientation(self) -> list[float]:
        """Direction cosines of its rows and columns in the patient, 6 numbers; none if it does not say."""
        own = (self.image.get(OWN) or [])[self.frame or 0 :][:1]
        for groups in (*(self.image.get(SHARED) or [])[:1], *own):
            for item in (groups.get("PlaneOrientationSequence") or [])[:1]:
                return [float(value) for value in item.get("ImageOrientationPatient") or ()]
        return [float(value) for value in self.image.get("ImageOrientationPatient") or ()]


def read_object(path: Path, limits: Limits) -> Dataset:
    """A stored object as it is.

    Raises:
        InputError: it cannot be read.
    """
    with border(path.name, "DICOM object"):
        return parse_dicom(checked_bytes(path, limits), limits)


def filled(dataset: Dataset, thickness: float = DEFAULT_THICKNESS) -> Dataset:
    """A dataset without its pixels, in Unicode, and with all that answers copy from it: changed in place, and returned.

    Args:
        dataset: of an image.
        thickness: mm from one slice to the next.
    """
    for keyword in ("PixelData", "IconImageSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.decode()
    dataset.SpecificCharacterSet = UNICODE
    for keyword in EMPTY:
        if not _is_valid(dataset, keyword):
            setattr(dataset, keyword, "")  # answers must have it, if without a value
    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = made_uid(
            str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), "frame of reference"
        )
    if "ImagePositionPatient" in dataset and not dataset.get("SliceThickness"):
        dataset.SliceThickness = round(thickness, 6)
    return dataset


def _is_valid(dataset: Dataset, keyword: str) -> bool:
    """Whether an element is there with one value that DICOM allows, or none: some scanners write the date 00000000."""
    value = dataset.get(keyword)
    if value is None or isinstance(value, MultiValue):
        return False
    try:
        validate_value(dictionary_VR(keyword), str(value), RAISE)
    except ValueError:
        return False
    return True


def subject_of(dataset: Dataset) -> dict[str, str]:
    """What images of one series must share; see `SUBJECT`."""
    return {keyword: str(dataset.get(keyword) or "") for keyword in SUBJECT}


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
        Place(images[path], None if frames_of(images[path]) == [None] else frame)
        for path, frame in zip(files, frames, strict=True)
    )
