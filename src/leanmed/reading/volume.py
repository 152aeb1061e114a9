"""CT scans from files that are not trusted: the only door through which one enters.

Opening a scan reads what is known about it; voxels are read slice by slice, when `Volume.hu` asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from leanmed.errors import InputError, MissingExtraError, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import Grid, Hounsfield, Volume
from leanmed.reading.metaimage import open_metaimage
from leanmed.reading.raster import DEFAULT_LIMITS, Limits, checked_bytes, silence_decoders

__all__ = [
    "SUFFIXES",
    "Grid",
    "Volume",
    "dicom_modality",
    "is_ct_slice",
    "is_scan",
    "is_series",
    "is_volume",
    "open_slice",
    "open_volume",
]

SUFFIXES = (".mhd", ".nii", ".nii.gz")
HEAD = 2**16  # bytes at the start of a DICOM file that say what it is


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a scan; a folder may be one, too, which only opening it tells."""
    return path.name.lower().endswith(SUFFIXES)


def is_scan(path: Path) -> bool:
    """Whether a path can only be that of a scan: by its name, or since it is a folder."""
    return is_volume(path) or os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where it may not look


def is_series(folder: Path) -> bool:
    """Whether a folder itself holds slices of CT in DICOM, two at least; whether they are sound, opening it tells."""
    slices = (path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and is_ct_slice(path))
    return len(list(islice(slices, 2))) == 2


def is_ct_slice(source: Path | bytes) -> bool:
    """Whether a file, or the bytes of one, is DICOM and says that it is of CT; no more than its start is read."""
    return dicom_modality(source) == "CT"


def dicom_modality(source: Path | bytes) -> str | None:
    """The modality that a DICOM file, or the bytes of one, names, `""` if it names none; None: it is no DICOM."""
    head = _dicom_head(source)
    if not head:
        return None
    from leanmed.reading.dicom import modality

    silence_decoders()
    return modality(head)


def _dicom_head(source: Path | bytes) -> bytes:
    """The start of a DICOM file, known by its `DICM` mark or the suffix .dcm; of other files nothing."""
    if isinstance(source, bytes):
        return source[:HEAD] if source[128:132] == b"DICM" else b""
    try:
        if source.is_file():
            with source.open("rb") as file:
                start = file.read(132)
                named = source.suffix.lower() == ".dcm"
                return start + file.read(HEAD) if named or start[128:] == b"DICM" else b""
    except OSError:
        pass  # whoever opens it is told why
    return b""


def open_slice(source: Path | bytes, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Open one CT slice in DICOM as a scan of a single slice.

    Args:
        source: a file for which `is_ct_slice` holds, or the bytes of one.
        limits: caps on its bytes and pixels.

    Raises: as `open_volume`.
    """
    from leanmed.reading.series import open_slice

    with _border("image data" if isinstance(source, bytes) else repr(str(source))):
        return open_slice(checked_bytes(source, limits), limits)


def open_volume(path: Path, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Open a CT scan in Hounsfield units.

    Args:
        path: an `.mhd` file with its `.raw` beside it, a `.nii` or `.nii.gz` file, or a folder with the slices of one
            DICOM series.
        limits: caps on the pixels of a slice, and on the bytes of each DICOM file.

    Raises:
        UnreadableInput: missing, damaged, truncated, or without a slice or a field that is needed.
        InputTooLarge: over a cap.
        UnsupportedInput: a scan that has no single right reading here: another modality, an unknown direction, two
            series, doubled slices, a tilted gantry...
        MissingExtraError: NIfTI without nibabel.
    """
    name = repr(str(path))
    with _border(name):
        volume = _opener(path)(path, limits)

    def read(first: int, end: int) -> Hounsfield:
        with _border(name):
            return volume.read(first, end)

    return replace(volume, read=read)


def _opener(path: Path) -> Callable[[Path, Limits], Volume]:
    """The reader for a path; each is imported only when needed, since pydicom and nibabel are slow to import."""
    if path.is_dir():
        from leanmed.reading.series import open_series

        return open_series
    if not path.is_file():
        raise UnreadableInput("expected a file or a folder, found nothing there; check the path")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from leanmed.reading.nifti import open_nifti

        return open_nifti
    if path.suffix.lower() == ".mhd":
        return open_metaimage
    raise UnsupportedInput(
        f"expected a CT scan ending in {', '.join(SUFFIXES)}, or a folder of DICOM slices, got {path.name}; give one"
    )


@contextmanager
def _border(name: str) -> Iterator[None]:
    """Put the name before each message, and turn whatever a reader raises into `UnreadableInput`."""
    silence_decoders()
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except MissingExtraError:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableInput(
            f"{name}: expected a readable CT scan, but reading failed ({detail}); copy or export it again"
        ) from error
