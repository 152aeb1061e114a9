"""A series of CT or MR in DICOM: a folder with a file per slice, or a file with a frame per slice (enhanced CT, MR).

The slices are put in order by where they lie, whatever their names and numbers. What would put a nodule in a wrong
place is refused: two series, slices that are missing or doubled, a tilted gantry. What an archive exports beside the
slices is passed over, and counted in the volume's notes: objects without pixels (reports, presentation states,
contours), dose and segmentations, localizers, pictures of the screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from leanmed.errors import InputError, UnreadableInput, UnsupportedInput
from leanmed.reading.ct import A, Floats, Grid, Hounsfield, Modality, Triple, Volume
from leanmed.reading.dicom import check_image, open_dicom, parse_dicom, stored_values
from leanmed.reading.multiframe import OWN, frames_in, one_frame
from leanmed.reading.raster import Limits, checked_bytes
from leanmed.reading.source import dicom_head

NEEDED = ("Modality", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
RESCALED = ("RescaleSlope", "RescaleIntercept")  # needed of CT, since without them the values are no Hounsfield units
UNITS = ("HU", "US")  # some scanners call Hounsfield units unspecified
UNEVEN = 0.1  # share of the distance between slices by which one may differ
SCREEN = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture: what begins with it is a picture of a screen
NO_SLICES = {
    "SEG": "segmentation",
    "RTDOSE": "dose distribution",
    "RTIMAGE": "radiotherapy image",
    "REG": "registration",
}  # modalities whose pixels, if any, are no slices
TILT = 0.02  # mm that slices may shift sideways per mm between them: about a degree


@dataclass(frozen=True, eq=False)
class _Plane:
    path: Path
    frame: int  # of the file, from 0
    whole: Dataset | None  # the file's dataset, kept where it holds several frames: each slice would parse it anew
    series: str
    corner: Floats  # world (3,) of the first pixel's centre, mm
    axes: Floats  # (2, 3): where the next column and the next row lie
    spacing: tuple[float, float]  # mm along x, y
    size: tuple[int, int]  # rows, columns

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name if self.whole is None else f"{self.path.name}, frame {self.frame + 1}"


def open_series(path: Path, limits: Limits, modality: Modality) -> Volume:
    """Open a folder of DICOM slices, or a file with several of them; files that are no DICOM are passed over.

    Raises:
        UnreadableInput: no slices, a slice without one of the fields in `NEEDED` (of CT in `RESCALED`, too), slices
            missing or unevenly spaced.
        UnsupportedInput: another modality, two series, slices doubled or of different kinds, a tilted gantry.
        InputTooLarge: over a cap.
        Exception: whatever pydicom raises on damaged files.
    """
    planes, beside = _read_planes(path, limits, modality)
    if len(planes) < 2:
        others = f", beside {_counted(beside)}" if beside else ""
        raise UnreadableInput(
            f"expected {A[modality]} series of two slices or more, got {len(planes)}{others}; give the folder of a "
            "series"
        )
    _check_alike(planes)
    normal = np.cross(*planes[0].axes)
    planes.sort(key=lambda plane: float(plane.corner @ normal))
    first, last = planes[0], planes[-1]
    _check_steps(planes, normal)
    between = float((last.corner - first.corner) @ normal) / (len(planes) - 1)

    def read(z0: int, z1: int) -> Hounsfield:
        return np.stack([_read_slice(plane, limits) for plane in planes[z0:z1]])

    return Volume(
        first.series,
        _grid(first, len(planes), between),
        read,
        tuple(plane.path for plane in planes),
        (f"Passed over beside the slices: {_counted(beside)}.",) if beside else (),
        tuple(plane.frame for plane in planes),
    )


def open_slice(data: bytes, limits: Limits) -> Volume:
    """Open one slice of CT, the bytes of a DICOM file, as a scan of that slice, taken for 1 mm thick.

    Raises: as `open_series`.
    """
    dataset = open_dicom(data, limits)
    plane = _plane(dataset, Path(), "CT")
    voxels = _values_of(dataset, limits)[np.newaxis]
    return Volume(plane.series, _grid(plane, 1, 1.0), lambda z0, z1: voxels[z0:z1], ())


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a slice's name before each message."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error


def _read_planes(source: Path, limits: Limits, modality: Modality) -> tuple[list[_Plane], Counter[str]]:
    """The slices of a folder, and how many of what else in DICOM lies among them, `DICOMDIR` and hidden names apart."""
    planes: list[_Plane] = []
    beside = Counter[str]()
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        if path.name.startswith(".") or path.name == "DICOMDIR" or not dicom_head(path):
            continue
        with _named(path.name):
            dataset = parse_dicom(checked_bytes(path, limits), limits)
            if what := _no_slice(dataset):
                beside[what] += 1
            else:
                planes += _planes_of(dataset, path, limits, modality)
    return planes, beside


def _planes_of(dataset: Dataset, path: Path, limits: Limits, modality: Modality) -> Iterator[_Plane]:
    """The slices of one file: one, or one for each frame."""
    count = frames_in(dataset)
    for frame in range(count):
        single = dataset if count == 1 and OWN not in dataset else one_frame(dataset, frame)
        check_image(single, limits)
        yield _plane(single, path, modality, frame, None if single is dataset else dataset)


def _no_slice(dataset: Dataset) -> str:
    """What an object is, if it is plainly no slice of a scan; nothing if it may be one."""
    kinds = [str(kind).upper() for kind in _values(dataset.get("ImageType"))]
    if "PixelData" not in dataset:
        return f"{dataset.get('Modality') or 'unknown modality'} with no pixel data"
    if dataset.get("Modality") in NO_SLICES:
        return NO_SLICES[dataset.Modality]
    if "LOCALIZER" in kinds:
        return "localizer"
    return "picture of a screen" if str(dataset.get("SOPClassUID", "")).startswith(SCREEN) else ""


def _values(value: object) -> Sequence[object]:
    """The values of an element, of which DICOM allows none, one or several."""
    if value is None:
        return ()
    return value if isinstance(value, MultiValue) else (value,)


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))


def _plane(dataset: Dataset, path: Path, modality: Modality, frame: int = 0, whole: Dataset | None = None) -> _Plane:
    missing = [name for name in (*NEEDED, *(RESCALED if modality == "CT" else ())) if dataset.get(name) in (None, "")]
    if missing:
        raise UnreadableInput(f"expected {', '.join(missing)}, got nothing; export the series again")
    units = (dataset.get("RescaleType") or "HU") if modality == "CT" else "HU"
    if dataset.Modality != modality or dataset.PhotometricInterpretation != "MONOCHROME2" or units not in UNITS:
        wanted = "CT in Hounsfield units" if modality == "CT" else "MR in grey"
        got = (dataset.Modality, dataset.PhotometricInterpretation, *([units] if modality == "CT" else []))
        raise UnsupportedInput(
            f"expected {wanted}, got {', '.join(got)}; keep nothing but the {modality} series in the folder"
        )
    if abs(float(dataset.get("GantryDetectorTilt") or 0)) > np.degrees(TILT):
        raise _tilted(f"GantryDetectorTilt is {dataset.GantryDetectorTilt} degrees")
    down, across = (float(step) for step in dataset.PixelSpacing)
    corner = np.array(dataset.ImagePositionPatient, np.float64)
    axes = np.array(dataset.ImageOrientationPatient, np.float64).reshape(2, 3)
    size = (int(dataset.Rows), int(dataset.Columns))
    if not np.isfinite([down, across, *corner, *axes.ravel()]).all():
        raise UnsupportedInput("expected finite positions and spacings, got NaN or infinity; export the series again")
    return _Plane(path, frame, whole, str(dataset.SeriesInstanceUID), corner, axes, (across, down), size)


def _grid(first: _Plane, count: int, between: float) -> Grid:
    """The grid of so many slices, so many mm apart."""
    across, down = first.axes
    direction = [_triple(row) for row in np.stack([across, down, np.cross(across, down)], axis=1)]
    return Grid(
        (count, *first.size),
        (*first.spacing, between),
        _triple(first.corner),
        (direction[0], direction[1], direction[2]),
    )


def _check_alike(planes: Sequence[_Plane]) -> None:
    series = Counter(plane.series for plane in planes)
    if len(series) > 1:
        raise UnsupportedInput(
            f"expected one series, got {len(series)}, with {', '.join(map(str, series.values()))} slices; "
            "keep one in the folder"
        )
    first = planes[0]
    for plane in planes:
        same = np.allclose(plane.axes, first.axes, atol=1e-3) and np.allclose(plane.spacing, first.spacing, rtol=1e-3)
        if plane.size != first.size or not same:
            raise UnsupportedInput(
                f"expected slices of one size, spacing and orientation, but {plane.name} and {first.name} "
                "differ; keep those of one scan"
            )


def _check_steps(planes: Sequence[_Plane], normal: Floats) -> None:
    """Refuse neighbours in one place, neighbours too far apart, and neighbours shifted sideways."""
    corners = np.array([plane.corner for plane in planes])
    steps = np.diff(corners @ normal)
    usual = float(np.median(steps))
    names = [f"{one.name} and {other.name}" for one, other in pairwise(planes)]
    if steps.min() < UNEVEN * usual or usual <= 0:
        raise UnsupportedInput(f"expected each slice once, but {names[steps.argmin()]} lie in one place; remove one")
    odd = np.abs(steps - usual)
    if odd.max() > UNEVEN * usual:
        raise UnreadableInput(
            f"expected slices {usual:g} mm apart, but {names[odd.argmax()]} are {steps[odd.argmax()]:g} mm apart; "
            "add the slices that are missing"
        )
    sideways = np.linalg.norm(np.diff(corners, axis=0) - steps[:, None] * normal, axis=1)
    if sideways.max() > TILT * usual:
        raise _tilted(f"{names[sideways.argmax()]} are shifted sideways by {sideways.max():g} mm")


def _tilted(found: str) -> UnsupportedInput:
    return UnsupportedInput(f"expected a gantry that is not tilted, but {found}; resample the scan to right angles")


def _read_slice(plane: _Plane, limits: Limits) -> Hounsfield:
    with _named(plane.name):
        if plane.whole is not None:
            return _values_of(one_frame(plane.whole, plane.frame), limits)
        return _values_of(open_dicom(checked_bytes(plane.path, limits), limits), limits)


def _values_of(dataset: Dataset, limits: Limits) -> Hounsfield:
    """The values of a slice, rescaled; of MR, where nothing need be rescaled, as they are stored."""
    slope, intercept = (dataset.get(name) for name in RESCALED)
    stored = stored_values(dataset, limits).astype(np.float32)
    if slope is None or intercept is None:
        return stored
    return stored * np.float32(slope) + np.float32(intercept)


def _triple(values: Floats) -> Triple:
    x, y, z = values.tolist()
    return x, y, z
