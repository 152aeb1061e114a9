"""Made chests written as users have scans: MetaImage, a DICOM series, a folder like LUNA16's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.files import whole_folder, write_text
from leanmed.phantoms.chest import HEIGHT, WIDTH, Chest, draw, made_chest
from leanmed.reading.ct import Grid, Modality, Triple

Stored = NDArray[np.int16]

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
COLUMNS = "seriesuid,coordX,coordY,coordZ,diameter_mm"


def made_grid(chest: Chest, spacing: Triple, origin: Triple = (-170.0, -140.0, -300.0), direction: Any = AXIAL) -> Grid:
    """A grid that holds a whole chest; its voxel x, y, z lies at x, y, z times the spacing in the chest's frame."""
    shape = (round(chest.depth / spacing[2]), round(HEIGHT / spacing[1]), round(WIDTH / spacing[0]))
    return Grid(shape, spacing, origin, direction)


def drawn(chest: Chest, grid: Grid) -> Stored:
    """A whole scan, (z, y, x) in HU."""
    dx, dy, dz = grid.spacing
    return np.stack([draw(chest, (dx, dy), z * dz).round().astype(np.int16) for z in range(grid.shape[0])])


def findings(chest: Chest, grid: Grid) -> list[tuple[float, float, float, float]]:
    """World x, y, z and diameter in mm of each nodule."""
    centres = grid.world(np.array([nodule.centre for nodule in chest.nodules]).reshape(-1, 3) / grid.spacing)
    return [(x, y, z, n.diameter) for (x, y, z), n in zip(centres.tolist(), chest.nodules, strict=True)]


def write_mhd(path: Path, stored: Stored, grid: Grid) -> None:
    """Write `path`, which ends in .mhd, and the .raw beside it."""
    axes = np.array(grid.direction).T.ravel()
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(map(repr, axes.tolist())),
        "Offset": " ".join(map(repr, grid.origin)),
        "ElementSpacing": " ".join(map(repr, grid.spacing)),
        "DimSize": " ".join(map(str, grid.shape[::-1])),
        "ElementType": "MET_SHORT",
        "ElementDataFile": path.with_suffix(".raw").name,
    }
    path.with_suffix(".raw").write_bytes(stored.astype("<i2").tobytes())
    write_text(path, "".join(f"{key} = {value}\n" for key, value in lines.items()))


def write_series(folder: Path, stored: Stored, grid: Grid, **changes: Any) -> list[Path]:
    """Write a DICOM series, a file per slice, their names in the reverse order of their places.

    Args:
        folder: where to; it must be there.
        stored: (z, y, x) in HU.
        grid: where the voxels lie.
        changes: DICOM fields of every slice by keyword, None to leave one out.
    """
    from pydicom.uid import generate_uid

    series, count = generate_uid(entropy_srcs=[str(folder)]), len(stored)
    paths = [folder / f"{count - z:04d}.dcm" for z in range(count)]
    for z, path in enumerate(paths):
        dataset = _dicom_slice(stored[z], grid, z)
        fields = {"SeriesInstanceUID": series, "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)])} | changes
        for keyword, value in fields.items():
            setattr(dataset, keyword, value)
            if value is None:
                delattr(dataset, keyword)
        dataset.save_as(path, enforce_file_format=True)
    return paths


def write_enhanced(path: Path, stored: Stored, grid: Grid, modality: Modality = "CT", **changes: Any) -> None:
    """Write the same as one object of enhanced CT or MR, a frame per slice, the last slice first.

    Args:
        path: the file.
        stored: (z, y, x) in HU, or of MR in any unit.
        grid: where the voxels lie.
        modality: CT or MR.
        changes: DICOM fields of the object by keyword.
    """
    from pydicom import Dataset
    from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid

    slices = [_dicom_slice(stored[z], grid, z) for z in reversed(range(len(stored)))]
    dataset = slices[0].copy()
    sop_class = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.Modality, dataset.NumberOfFrames = modality, len(slices)
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(path.parent)])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [Dataset()], []
    for group, keywords in SHARED_GROUPS.items():
        _put_group(dataset.SharedFunctionalGroupsSequence[0], group, slices[0], keywords)
        for keyword in keywords:
            dataset.pop(keyword, None)
    for one in slices:
        dataset.PerFrameFunctionalGroupsSequence.append(Dataset())
        _put_group(dataset.PerFrameFunctionalGroupsSequence[-1], "PlanePositionSequence", one, ["ImagePositionPatient"])
    del dataset.ImagePositionPatient
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


SHARED_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}


def _put_group(groups: Any, name: str, source: Any, keywords: Iterable[str]) -> None:
    """Put a functional group with some elements of a classic slice into the groups of an enhanced one."""
    from pydicom import Dataset

    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, source[keyword].value)
    setattr(groups, name, [item])


def _dicom_slice(stored: Stored, grid: Grid, z: int) -> Any:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.PatientID = "made"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "-1024", "HU"
    dataset.SliceThickness = grid.spacing[2]
    dataset.PixelSpacing = [grid.spacing[1], grid.spacing[0]]
    dataset.ImageOrientationPatient = np.array(grid.direction)[:, :2].T.ravel().round(9).tolist()
    dataset.ImagePositionPatient = grid.world((0, 0, z)).round(6).tolist()
    dataset.PixelData = (stored + np.int16(1024)).astype("<i2").tobytes()
    return dataset


def write_luna16(root: Path, count: int = 4, seed: int = 0, spacing: Triple = (1.5, 1.5, 3.0)) -> Path:
    """Write made scans in the layout of LUNA16: `subset0/UID.mhd`..., and the tables beside. Returns root.

    Every fourth scan is turned by half a turn about z, as some of LUNA16's are. A place in the spine of each scan is
    listed as excluded.

    Raises:
        DataError: a root that holds something.
    """
    nodules, excluded, series = [COLUMNS], [COLUMNS], []
    turned = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
    with whole_folder(root) as folder:
        for index in range(count):
            uid, chest = f"made.{seed + index}", made_chest(seed + index)
            grid = made_grid(chest, spacing, direction=turned if index % 4 == 3 else AXIAL)
            (folder / f"subset{index % 10}").mkdir(exist_ok=True)
            write_mhd(folder / f"subset{index % 10}" / f"{uid}.mhd", drawn(chest, grid), grid)
            series.append(uid)
            nodules += [",".join(map(str, (uid, *finding))) for finding in findings(chest, grid)]
            x, y, z = grid.world(np.array([WIDTH / 2, HEIGHT / 2 + 78, chest.depth / 2]) / spacing).tolist()
            excluded.append(f"{uid},{x},{y},{z},-1")
        tables = {"annotations": nodules, "annotations_excluded": excluded, "seriesuids": series}
        for name, lines in tables.items():
            write_text(folder / f"{name}.csv", "\n".join(lines) + "\n")
    return root
