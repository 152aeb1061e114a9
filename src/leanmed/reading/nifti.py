"""NIfTI scans, through nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from leanmed.errors import MissingExtraError, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import Grid, Hounsfield, Triple, Volume
from leanmed.reading.raster import Limits, check_size

TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's world has x to the right and y to the front


def open_nifti(path: Path, limits: Limits) -> Volume:
    """Open a `.nii` or `.nii.gz` file in Hounsfield units; its name is the series' identifier.

    Of a compressed file all up to the slices asked for is unpacked, but no more than these is kept; who goes from slice
    to slice unpacks it once.

    Raises:
        UnreadableInput: a file shorter than it declares.
        UnsupportedInput: other than one 3D scan in mm; no direction, or a sheared grid.
        InputTooLarge: slices over `max_pixels`.
        MissingExtraError: without nibabel.
        Exception: whatever nibabel raises on damaged files.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("reading NIfTI", "ct") from error
    image: Any = nibabel.Nifti1Image.from_filename(path, keep_file_open=True)  # so that it is unpacked once
    grid = _grid(image.header, image.shape, limits)
    proxy = image.dataobj
    size = proxy.offset + int(np.prod(image.shape)) * proxy.dtype.itemsize
    if path.suffix.lower() != ".gz" and path.stat().st_size < size:
        raise UnreadableInput(f"expected {size:,} bytes as declared, got {path.stat().st_size:,}; copy it again")

    def read(first: int, end: int) -> Hounsfield:
        stored = np.asarray(proxy[:, :, first:end], np.float32).reshape(*proxy.shape[:2], -1)
        return np.ascontiguousarray(stored.transpose(2, 1, 0))

    return Volume(path.name.partition(".nii")[0], grid, read, (path,))


def _grid(header: Any, shape: tuple[int, ...], limits: Limits) -> Grid:
    if shape[3:] not in ((), (1,)) or len(shape) < 3 or header.get_data_dtype().kind not in "iuf":
        raise UnsupportedInput(
            f"expected one 3D scan of numbers, got {header.get_data_dtype()} in a shape of {shape}; save one scan"
        )
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise UnsupportedInput(f"expected lengths in mm, got {header.get_xyzt_units()[0]}; convert the scan")
    if not (header["sform_code"] or header["qform_code"]):
        raise UnsupportedInput("expected an sform or a qform, without which left and right are not known, got none")
    columns, rows, count = shape[:3]
    check_size(columns, rows, limits)
    affine = np.asarray(header.get_best_affine(), np.float64)
    steps = TO_LPS @ affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    axes = steps / np.maximum(spacing, 1e-9)
    direction = (_triple(axes[0]), _triple(axes[1]), _triple(axes[2]))
    return Grid((count, rows, columns), _triple(spacing), _triple(TO_LPS @ affine[:3, 3]), direction)


def _triple(values: Any) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
