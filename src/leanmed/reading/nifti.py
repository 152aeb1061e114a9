"""NIfTI scans, through nibabel, placed in the world as ITK places them.

A header says twice where a scan lies: a quaternion with the voxel sizes of `pixdim` (qform), and an affine matrix
(sform). Many tools change one and forget the other. As in ITK, voxels are as large as `pixdim` says; the sform places
them where no qform is coded or where it is in scanner coordinates (code 1), the qform elsewhere, and where the sform's
axes are not at right angles. Whatever disagrees is said in the volume's notes; forms that turn the scan differently are
refused, as left and right hang on it.
"""

from __future__ import annotations

import copy
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import MissingExtraError, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import ORTHONORMAL, Floats, Grid, Hounsfield, Triple, Volume
from leanmed.reading.raster import Limits, check_size
from leanmed.reading.voxels import check_scan_bytes

TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's world has x to the right and y to the front
SIZES = {348: 1, 540: 2}  # bytes of a header, and the version of the format
SCANNER = 1  # the code of coordinates that are the scanner's
TURNED = 0.02  # by which the axes of two forms may differ: about a degree
SCALED = 1e-3  # share by which voxel sizes may differ
MOVED = 0.1  # mm by which the places of two forms may differ
# What a header says of where a scan lies, beside pixdim.
PLACING = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
REPAIR = "repair it with nibabel: image.set_sform(AFFINE, 1); image.set_qform(AFFINE, 1), AFFINE being the right one"


def open_nifti(path: Path, limits: Limits) -> Volume:
    """Open a `.nii` or `.nii.gz` file; voxels of CT must be in Hounsfield units. Its name is the series' identifier.

    Of a compressed file all up to the slices asked for is unpacked, but no more than these is kept; who goes from slice
    to slice unpacks it once.

    Raises:
        UnreadableInput: no NIfTI, or a file shorter than it declares.
        UnsupportedInput: other than one 3D scan in mm; no direction, a sheared grid, or forms that turn it differently.
        InputTooLarge: slices over `max_pixels`, a file or voxels over `max_scan_bytes`.
        MissingExtraError: without nibabel.
        Exception: whatever nibabel raises on damaged files.
    """
    try:
        from nibabel.arrayproxy import ArrayProxy
    except ImportError as error:
        raise MissingExtraError("reading NIfTI", "ct") from error
    header = _header(path)
    grid, notes = _grid(header, limits)
    make: Any = ArrayProxy
    proxy = make(path, header, keep_file_open=True)  # so that it is unpacked once
    size = proxy.offset + int(np.prod(proxy.shape)) * proxy.dtype.itemsize
    held = path.stat().st_size
    check_scan_bytes(max(held, size), limits)
    if path.suffix.lower() != ".gz" and held < size:
        raise UnreadableInput(f"expected {size:,} bytes as declared, got {held:,}; copy it again")

    def read(first: int, end: int) -> Hounsfield:
        stored = np.asarray(proxy[:, :, first:end], np.float32).reshape(*proxy.shape[:2], -1)
        return np.ascontiguousarray(stored.transpose(2, 1, 0))

    return Volume(path.name[: path.name.lower().rindex(".nii")], grid, read, (path,), notes)


def nifti_bytes(voxels: NDArray[Any], grid: Grid, like: Path | None = None) -> bytes:
    """A volume as an unpacked NIfTI file.

    Args:
        voxels: (z, y, x) on the grid, of a kind that NIfTI has.
        grid: where the voxels lie.
        like: a NIfTI file on the grid, whose qform and sform are copied as they are; None: both are made of the grid.

    Raises:
        MissingExtraError: without nibabel.
    """
    try:
        from nibabel.nifti1 import Nifti1Image
        from nibabel.nifti2 import Nifti2Image
    except ImportError as error:
        raise MissingExtraError("writing NIfTI", "ct") from error
    make: Any = Nifti1Image
    stored = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    if like is None:
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = TO_LPS @ (np.array(grid.direction) * grid.spacing), TO_LPS @ grid.origin
        image = make(stored, affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, SCANNER)
        image.set_sform(affine, SCANNER)
        return bytes(image.to_bytes())
    known = _header(like)
    if known["sizeof_hdr"] == max(SIZES):
        make = Nifti2Image
    blank = make(stored, np.eye(4)).header
    for name in PLACING:
        blank[name] = copy.copy(known[name])
    blank["pixdim"][:4] = known["pixdim"][:4]
    blank.set_xyzt_units("mm")
    return bytes(make(stored, None, blank).to_bytes())


def _header(path: Path) -> Any:
    """Parse the header alone: nibabel would read extensions, however long, and tell the terminal what it finds odd."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        start = file.read(max(SIZES))
    size = min(int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    if size not in SIZES or len(start) < size:
        raise UnreadableInput(f"expected NIfTI, got a file that begins with {start[:4]!r}; export the scan again")
    kind: Any = Nifti1Header if SIZES[size] == 1 else Nifti2Header
    header = kind(start[:size], check=False)
    magic = bytes(header["magic"])[:3]
    if magic.startswith(b"ni"):
        raise UnsupportedInput("expected header and voxels in one file, got a header of a pair; save it as .nii.gz")
    if magic != b"n+%d" % SIZES[size]:
        raise UnreadableInput(f"expected the mark n+1 or n+2 of NIfTI, got {magic!r}; export the scan again")
    if not size <= float(header["vox_offset"] or size) < 2**31:
        raise UnreadableInput(f"expected voxels behind the header, got offset {header['vox_offset']}; export it again")
    if header["pixdim"][0] not in (-1, 1):  # 0 is to be read as 1
        header["pixdim"][0] = 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    return header


def _grid(header: Any, limits: Limits) -> tuple[Grid, tuple[str, ...]]:
    shape = header.get_data_shape()
    if len(shape) < 3 or max(shape[3:], default=1) > 1 or header.get_data_dtype().kind not in "iuf":
        raise UnsupportedInput(
            f"expected one 3D scan of numbers, got {header.get_data_dtype()} in a shape of {shape}; save one scan"
        )
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise UnsupportedInput(f"expected lengths in mm, got {header.get_xyzt_units()[0]}; convert the scan")
    columns, rows, count = shape[:3]
    check_size(columns, rows, limits)
    spacing = np.asarray(header["pixdim"][1:4], np.float64)
    axes, origin, notes = _placed(header, spacing)
    direction = TO_LPS @ axes
    return Grid(
        (count, rows, columns),
        _triple(spacing),
        _triple(TO_LPS @ origin),
        (_triple(direction[0]), _triple(direction[1]), _triple(direction[2])),
    ), notes


def _placed(header: Any, spacing: Floats) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Unit vectors of the axes as columns, the place of the first voxel, and what the forms disagree about."""
    sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    if not (sform[1] or qform[1]):
        raise UnsupportedInput("expected an sform or a qform, without which left and right are not known, got none")
    if not qform[1]:
        _check_sizes(sform[0], spacing)
        return _unit(sform[0]), sform[0][:3, 3], ()
    by_qform = _unit(qform[0])
    if not sform[1]:
        return by_qform, qform[0][:3, 3], ()
    by_sform = _unit(sform[0])
    if not np.allclose(by_sform.T @ by_sform, np.eye(3), atol=ORTHONORMAL):  # NaN, too
        return by_qform, qform[0][:3, 3], ("The sform's axes are not at right angles; the qform is taken, as in ITK.",)
    if not np.allclose(by_sform, by_qform, atol=TURNED):
        raise UnsupportedInput(
            f"expected sform and qform to turn the scan alike, got axes {by_sform.round(3).tolist()} and "
            f"{by_qform.round(3).tolist()}; {REPAIR}"
        )
    notes, sizes, moved = [], _lengths(sform[0]), np.linalg.norm(sform[0][:3, 3] - qform[0][:3, 3])
    if not np.allclose(sizes, spacing, rtol=SCALED):
        notes.append(
            f"The sform has voxels of {_mm(sizes)}, pixdim of {_mm(spacing)}; those of pixdim are taken, as in ITK."
        )
    in_scanner = sform[1] == SCANNER
    if moved > MOVED:
        taken = "sform" if in_scanner else "qform"
        notes.append(f"sform and qform place the scan {moved:.1f} mm apart; the {taken} is taken, as in ITK.")
    chosen = by_sform if in_scanner else by_qform
    return chosen, (sform if in_scanner else qform)[0][:3, 3], tuple(notes)


def _check_sizes(sform: Floats, spacing: Floats) -> None:
    """Without a qform, nothing tells which of two voxel sizes is right."""
    sizes = _lengths(sform)
    if not np.allclose(sizes, spacing, rtol=SCALED):
        raise UnsupportedInput(
            f"expected sform and pixdim to give voxels of one size, got {_mm(sizes)} and {_mm(spacing)}; {REPAIR}"
        )


def _lengths(affine: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(affine[:3, :3], axis=0)
    return lengths


def _unit(affine: Floats) -> Floats:
    unit: Floats = np.asarray(affine[:3, :3], np.float64) / np.maximum(_lengths(affine), 1e-9)
    return unit


def _mm(sizes: Floats) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"


def _triple(values: Any) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
