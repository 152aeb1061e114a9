"""CT scans from files that are not trusted: the only door through which one enters.

Opening a scan reads what is known about it; voxels are read slice by slice, when `Volume.hu` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from leanmed.errors import InputError, MissingExtraError, UnreadableInput, UnsupportedInput
from leanmed.runtime.ct import Grid, Hounsfield, Volume
from leanmed.runtime.metaimage import open_metaimage
from leanmed.runtime.raster import DEFAULT_LIMITS, Limits

__all__ = ["SUFFIXES", "Grid", "Volume", "is_volume", "open_volume"]

SUFFIXES = (".mhd", ".nii", ".nii.gz")


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a scan; a folder may be one, too, which only opening it tells."""
    return path.name.lower().endswith(SUFFIXES)


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
    with _border(path):
        volume = _opener(path)(path, limits)

    def read(first: int, end: int) -> Hounsfield:
        with _border(path):
            return volume.read(first, end)

    return replace(volume, read=read)


def _opener(path: Path) -> Callable[[Path, Limits], Volume]:
    """The reader for a path; each is imported only when needed, since pydicom and nibabel are slow to import."""
    if path.is_dir():
        from leanmed.runtime.series import open_series

        return open_series
    if not path.is_file():
        raise UnreadableInput("expected a file or a folder, found nothing there; check the path")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from leanmed.runtime.nifti import open_nifti

        return open_nifti
    if path.suffix.lower() == ".mhd":
        return open_metaimage
    raise UnsupportedInput(
        f"expected a CT scan ending in {', '.join(SUFFIXES)}, or a folder of DICOM slices, got {path.name}; give one"
    )


@contextmanager
def _border(path: Path) -> Iterator[None]:
    """Put the path before each message, and turn whatever a reader raises into `UnreadableInput`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{str(path)!r}: {error}") from error.__cause__
    except MissingExtraError:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableInput(
            f"{str(path)!r}: expected a readable CT scan, but reading failed ({detail}); copy or export it again"
        ) from error
