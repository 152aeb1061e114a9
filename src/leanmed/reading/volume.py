"""Scans of CT or MR from files that are not trusted: the only door through which one enters.

Opening a scan reads what is known about it; voxels are read slice by slice, when `Volume.voxels` asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from leanmed.errors import UnreadableInput, UnsupportedInput
from leanmed.reading.ct import A, Grid, Hounsfield, Modality, Volume
from leanmed.reading.hdf5 import hdf5_parts, open_hdf5
from leanmed.reading.metaimage import metaimage_files, open_metaimage
from leanmed.reading.nrrd import open_nrrd
from leanmed.reading.raster import DEFAULT_LIMITS, Limits, checked_bytes
from leanmed.reading.source import border, dicom_head, name_of, silence_decoders

__all__ = [
    "SUFFIXES",
    "Grid",
    "Volume",
    "dicom_modality",
    "is_ct_slice",
    "is_enhanced",
    "is_scan",
    "is_series",
    "is_volume",
    "open_slice",
    "open_volume",
    "scan_advice",
    "scan_files",
]

SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
_PAIRS = (".hdr", ".img", ".img.gz", ".nhdr")  # scans in two files that are not read
_AS_NIFTI = (
    "import SimpleITK; SimpleITK.WriteImage(SimpleITK.ReadImage({name!r}), 'scan.nii.gz')"  # works on the headers
)


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a scan; a folder may be one, too, which only opening it tells."""
    return path.name.lower().endswith(SUFFIXES)


def scan_advice(path: Path) -> str:
    """What to do with a file whose name is that of a scan, where an image is wanted; nothing for other names."""
    if path.name.lower().endswith(_PAIRS):
        return f"convert it to one file, in Python: {_AS_NIFTI.format(name=path.name)}"
    return "give it to an artifact for slices of CT, or give an image" if is_volume(path) else ""


def is_scan(path: Path) -> bool:
    """Whether a path can only be that of a scan: by its name, since it is a folder, or DICOM of several slices."""
    is_folder = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where it may not look
    return is_volume(path) or is_folder or is_enhanced(path)


def is_enhanced(path: Path) -> bool:
    """Whether a file is DICOM of CT or MR that says of itself that it holds several frames (enhanced CT and MR)."""
    head = dicom_head(path)
    if not head:
        return False
    from leanmed.reading.dicom import modality
    from leanmed.reading.multiframe import count_frames

    silence_decoders()
    return modality(head) in ("CT", "MR") and count_frames(head) > 1


def is_series(folder: Path, modality: Modality = "CT") -> bool:
    """Whether a folder itself holds slices of CT or MR in DICOM, two at least; whether sound, opening it tells."""
    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    slices = (path for path in files if dicom_modality(path) == modality)
    return len(list(islice(slices, 2))) == 2


def is_ct_slice(source: Path | bytes) -> bool:
    """Whether a file, or the bytes of one, is DICOM and says that it is of CT; no more than its start is read."""
    return dicom_modality(source) == "CT"


def dicom_modality(source: Path | bytes) -> str | None:
    """The modality that a DICOM file, or the bytes of one, names, `""` if it names none; None: it is no DICOM."""
    head = dicom_head(source)
    if not head:
        return None
    from leanmed.reading.dicom import modality

    silence_decoders()
    return modality(head)


def scan_files(path: Path) -> tuple[Path, ...]:
    """The files that a scan is made of, whatever it is of: of a folder its DICOM files, of `.mhd` two.

    Raises:
        InputError: a header that cannot be read.
    """
    if path.is_dir():
        return tuple(file for file in sorted(path.iterdir()) if dicom_modality(file) is not None)
    if inside := hdf5_parts(path):
        return inside[:1]
    with border(name_of(path), "scan"):
        return metaimage_files(path) if path.suffix.lower() in (".mhd", ".mha") else (path,)


def open_slice(source: Path | bytes, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Open one CT slice in DICOM as a scan of a single slice.

    Args:
        source: a file for which `is_ct_slice` holds, or the bytes of one.
        limits: caps on its bytes and pixels.

    Raises: as `open_volume`.
    """
    from leanmed.reading.series import open_slice

    with border(name_of(source), "CT scan"):
        return open_slice(checked_bytes(source, limits), limits)


def open_volume(path: Path, limits: Limits = DEFAULT_LIMITS, modality: Modality = "CT") -> Volume:
    """Open a scan, CT in Hounsfield units or MR in the scanner's own.

    Args:
        path: an `.mhd` file with its `.raw` beside it, an `.mha`, `.nrrd`, `.nii` or `.nii.gz` file, or a folder with
            the slices of one DICOM series, or a file of enhanced CT or MR with all of them.
        limits: caps on the pixels of a slice, on the bytes of each DICOM file, and on those of any other scan, packed
            and unpacked.
        modality: what the scan is of. Files that do not say so are taken at the caller's word.

    Raises:
        UnreadableInput: missing, damaged, truncated, or without a slice or a field that is needed.
        InputTooLarge: over a cap.
        UnsupportedInput: a scan that has no single right reading here: another modality, an unknown direction, two
            series, doubled slices, a tilted gantry...
        MissingExtraError: NIfTI without nibabel.
    """
    name = name_of(path)
    with border(name, f"{modality} scan"):
        volume = _opener(path, modality)(path, limits)

    def read(first: int, end: int) -> Hounsfield:
        with border(name, f"{modality} scan"):
            return volume.read(first, end)

    return replace(volume, read=read)


def _opener(path: Path, modality: Modality) -> Callable[[Path, Limits], Volume]:
    """The reader for a path; each is imported only when needed, since pydicom and nibabel are slow to import."""
    if path.is_dir() or is_enhanced(path):
        from leanmed.reading.series import open_series

        return partial(open_series, modality=modality)
    if modality == "MR" and hdf5_parts(path):
        return open_hdf5
    if not path.is_file():
        raise UnreadableInput("expected a file or a folder, found nothing there; check the path")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from leanmed.reading.nifti import open_nifti

        return open_nifti
    if path.suffix.lower() in (".mhd", ".mha"):
        return partial(open_metaimage, modality=modality)
    if path.suffix.lower() == ".nrrd":
        return open_nrrd
    if path.name.lower().endswith(_PAIRS):
        raise UnsupportedInput(f"expected a scan in one file, got one of a pair; {scan_advice(path)}")
    raise UnsupportedInput(
        f"expected {A[modality]} scan ending in {', '.join(SUFFIXES)}, or a folder of DICOM slices, got {path.name}; "
        "give one"
    )
