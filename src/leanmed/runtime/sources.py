"""From what a user gives to what a graph takes, by the kind of input that the artifact names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.errors import UnsupportedInput
from leanmed.manifest import Input
from leanmed.prompts import Prompts
from leanmed.reading.images import Limits, as_pixels, read_reduced
from leanmed.reading.lung_slices import prepare, window
from leanmed.reading.raster import check_size
from leanmed.reading.volume import dicom_modality, open_slice
from leanmed.tasks.kind import Points

PICTURES = ("SC", "OT", "XC")  # modalities in DICOM that say nothing against a slice shown as pixels
Source = str | Path | bytes | NDArray[Any] | Image.Image


@dataclass(frozen=True, eq=False)
class Frame:
    """One image as the graph takes it.

    Args:
        pixels: (h, w, c) of the artifact's type.
        points: points (n, 2) in these pixels -> in pixels of the image as it is stored; None: they are the same.
    """

    pixels: NDArray[Any]
    points: Points | None = None

    def shown(self, prompts: Prompts) -> Prompts:
        """Prompts in pixels of the image as it is stored -> in these pixels.

        Raises:
            DataError: they lie outside these pixels.
        """
        height, width = self.pixels.shape[:2]
        if self.points is None:
            return prompts.checked((height, width))
        corners = self.points(np.array([[0.0, 0.0], [width, height]]))
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return prompts.within((left, top, right, bottom)).mapped(inverse(self.points))


def inverse(points: Points) -> Points:
    """The way back from a frame whose axes are those of another one swapped, reversed, scaled or shifted."""
    origin, right, down = points(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    back = np.linalg.inv(np.stack([right - origin, down - origin]))
    return lambda places: (places - origin) @ back


def open_frame(source: Source, about: Input, limits: Limits) -> Frame:
    """Read one image.

    Args:
        source: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a Pillow image. For
            slices of CT, an array of floats or signed integers is in Hounsfield units, 1 mm per pixel, and a CT slice
            in DICOM is made ready as those of scans are.
        about: what the graph takes.
        limits: caps on what is read.

    Raises:
        InputError: it cannot be read as such an image.
        MissingExtraError: a CT slice without scipy.
    """
    source = Path(source) if isinstance(source, str) else source
    if about.kind == "intensities":
        return Frame(_intensities(source, about, limits))
    if about.kind == "slice":
        if isinstance(source, Path | bytes) and _is_ct(source):
            return _stored_slice(source, about, limits)
        if isinstance(source, np.ndarray) and source.dtype.kind in "if":
            return Frame(as_pixels(_windowed(source), limits=limits))
    if isinstance(source, Path | bytes):
        pixels, scale = read_reduced(source, limits=limits, side=about.side if about.reduced else None)
        return Frame(pixels, None if scale == 1 else lambda points: points * scale)
    return Frame(as_pixels(source, limits=limits))


def _is_ct(source: Path | bytes) -> bool:
    """Whether a file is DICOM of a CT slice; other pictures in DICOM are taken as pixels, other modalities refused."""
    modality = dicom_modality(source)
    if modality is not None and modality not in ("CT", *PICTURES):
        name = source if isinstance(source, Path) else "image data"
        raise UnsupportedInput(
            f"{name}: expected CT, or a picture of it (modality {', '.join(PICTURES)}), got DICOM of modality "
            f"{modality or 'unknown'}; give CT"
        )
    return modality == "CT"


def _stored_slice(source: Path | bytes, about: Input, limits: Limits) -> Frame:
    (piece,) = prepare(open_slice(source, limits)).slices(neighbours=about.slices != 1)
    origin = 0.5 if about.origin == "centre" else 0.0
    return Frame(piece.pixels, lambda points: piece.stored(points + origin))


def _windowed(hu: NDArray[Any]) -> NDArray[np.uint8]:
    if hu.ndim == 3 and hu.shape[2] == 4:
        raise UnsupportedInput(
            f"image in memory: expected Hounsfield units, height x width x 1 or 3, got {hu.dtype} of shape {hu.shape}; "
            "leave alpha out, or convert pixels to uint8"
        )
    if hu.size and hu.min() >= 0:
        raise UnsupportedInput(
            f"image in memory: expected Hounsfield units, of which those of air are below 0, got {hu.min():g} to "
            f"{hu.max():g}; give HU, or pixels as uint8"
        )
    return window(hu)


def _intensities(source: Path | bytes | NDArray[Any] | Image.Image, about: Input, limits: Limits) -> NDArray[Any]:
    """(h, w, c) of int16 or float32, values as they are stored, or of a CT slice in HU."""
    unit = about.unit or "stored values"
    if about.unit == "HU" and isinstance(source, Path | bytes) and dicom_modality(source) == "CT":
        source = open_slice(source, limits).read(0, 1)[0]
    if not isinstance(source, np.ndarray):
        raise UnsupportedInput(
            f"expected an array of {about.dtype} with {unit}{', or a CT slice in DICOM' * (about.unit == 'HU')}, got "
            f"{source if isinstance(source, Path) else type(source).__name__}; read the file yourself and give its "
            "values"
        )
    array = source[..., np.newaxis] if source.ndim == 2 else source
    if array.ndim == 3 and array.shape[2] == 1 and about.slices is not None:
        array = np.repeat(array, 3, axis=2)
    if array.ndim != 3 or array.dtype.kind not in "iuf" or array.dtype == np.uint8:
        raise UnsupportedInput(
            f"image in memory: expected {unit} of shape (height, width) or (height, width, channels), got "
            f"{source.dtype} of shape {source.shape}; give one image, channels last, values unscaled"
        )
    check_size(array.shape[1], array.shape[0], limits)
    wanted = np.dtype(about.dtype)
    if not np.isfinite(array).all() or (wanted.kind == "i" and not _fits(array, wanted)):
        raise UnsupportedInput(
            f"image in memory: expected finite {unit} that {about.dtype} can hold, got others; put a finite value "
            "where nothing was measured"
        )
    return np.ascontiguousarray(array.astype(wanted))


def _fits(values: NDArray[Any], wanted: np.dtype[Any]) -> bool:
    """Whether whole numbers of a type can hold the values as they are."""
    low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
    return bool((values >= low).all() and (values <= high).all() and (values == np.floor(values)).all())
