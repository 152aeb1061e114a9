"""Frames of a multi-frame DICOM object, enhanced CT and MR among them, each as a dataset of one frame.

What a classic slice says of itself stands, in enhanced objects, in functional groups (PS3.3 C.7.6.16), shared by all
frames or of one. Here it is put back to where a classic slice has it, so that one reader serves both.
"""

from __future__ import annotations

import io

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import UID

from leanmed.errors import UnreadableInput, UnsupportedInput
from leanmed.reading.ct import MAX_SLICES
from leanmed.reading.raster import MeteredBytes

GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "CTAcquisitionDetailsSequence",
)  # functional groups that say what a classic slice says, in the element of the same name
SHARED, OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_COUNT = Tag("NumberOfFrames")
_LEFT_OUT = frozenset({Tag("PixelData"), Tag(SHARED), Tag(OWN), _COUNT, Tag(0x7FE00001), Tag(0x7FE00002)})


def count_frames(head: bytes) -> int:
    """How many frames a DICOM file says that it has, by its first bytes; 1 where it does not say."""
    try:
        dataset = read_partial(MeteredBytes(head), lambda tag, vr, length: tag > _COUNT, force=True)
        return int(dataset.get("NumberOfFrames") or 1)
    except Exception:  # whatever pydicom raises on damaged files
        return 1


def frames_in(dataset: Dataset) -> int:
    """How many frames a dataset has, 1 at least.

    Raises:
        UnsupportedInput: more than a scan may have.
        UnreadableInput: fewer functional groups than frames.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= count <= MAX_SLICES:
        raise UnsupportedInput(f"expected 1 to {MAX_SLICES} frames, got {count}; export those that are meant")
    groups = dataset.get(OWN)
    if groups is not None and len(groups) != count:
        raise UnreadableInput(
            f"expected a functional group for each of {count} frames, got {len(groups)}; export the file again"
        )
    return count


def one_frame(dataset: Dataset, frame: int) -> Dataset:
    """A frame of a multi-frame dataset, as a dataset of that frame alone.

    Args:
        dataset: as `parse_dicom` gives it, with pixel data.
        frame: from 0.

    Raises:
        UnreadableInput: less pixel data than the frames before it and itself take.
        Exception: whatever pydicom raises on damaged files.
    """
    single = Dataset({tag: dataset.get_item(tag) for tag in dataset.keys() if tag not in _LEFT_OUT})  # noqa: SIM118
    single.set_original_encoding(*dataset.original_encoding)
    single.file_meta = FileMetaDataset(dataset.file_meta)
    for groups in (dataset.get(SHARED) or [])[:1], (dataset.get(OWN) or [])[frame : frame + 1]:
        for name in GROUPS:
            for item in (groups[0].get(name) or [])[:1] if groups else []:
                single.update(item)
    if "PixelData" in dataset:
        single.PixelData = _pixels(dataset, frame)
        single["PixelData"].VR = dataset["PixelData"].VR
        single["PixelData"].is_undefined_length = dataset["PixelData"].is_undefined_length
    return single


def as_file(single: Dataset) -> bytes:
    """A dataset of one frame as the bytes of a DICOM file."""
    stream = io.BytesIO()
    single.preamble = bytes(128)
    single.save_as(stream)
    return stream.getvalue()


def _pixels(dataset: Dataset, frame: int) -> bytes:
    if UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
        return encapsulate([get_frame(dataset.PixelData, frame, number_of_frames=frames_in(dataset))])
    size = int(dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8)
    pixels: bytes = dataset.PixelData[frame * size : (frame + 1) * size]
    if len(pixels) < size:
        raise UnreadableInput(
            f"expected {size:,} bytes of pixels in frame {frame + 1}, got {len(pixels):,}; copy or export it again"
        )
    return pixels + b"\0" * (size % 2)
