"""Label images and volumes: the values that a mask's file stores, and not what they look like.

A palette's colours say nothing of a label, so its indices are read; grey of 2 or 4 bits is not stretched. Whatever
packs with loss smears labels over their edges and is refused.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from leanmed.errors import UnsupportedInput
from leanmed.reading.hdf5 import hdf5_parts
from leanmed.reading.mr import VolumeCache, mr_grid, open_mr, read_whole
from leanmed.reading.raster import (
    DEFAULT_LIMITS,
    Limits,
    checked_bytes,
    is_sixteen_bit,
    open_raster,
    stored_bits,
    upright,
    upright_size,
)
from leanmed.reading.source import border, name_of

Labels = NDArray[np.int64]

LOSSLESS = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM")  # how PNG, TIFF and BMP begin
OFF_GRID = 0.25  # share of a voxel by which a mask may lie beside its image: headers are rounded
ROUNDED = 1e-3  # by which a label that is stored as a scaled or floating-point number may miss a whole one
_PLAIN = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_COLOURS = frozenset({"LA", "RGB", "RGBA"})
_AS_PNG = "save the mask as PNG with one channel, each pixel holding the number of its label"


def read_labels(source: Path, *, limits: Limits = DEFAULT_LIMITS) -> Labels:
    """Read one label image, turned upright as `read_image` turns its image.

    Args:
        source: a PNG, TIFF or BMP file of grey or palette pixels; colours are read as grey where their channels are
            equal, and alpha where nothing is transparent.
        limits: caps on its bytes and pixels.

    Returns:
        (h, w) int64, the values that are stored, from 0.

    Raises:
        UnreadableInput: missing, damaged or truncated.
        InputTooLarge: over a cap.
        UnsupportedInput: a format that packs with loss, colours, or values below 0.
    """
    with border(name_of(source), "mask"):
        image = _open(source, limits)
        bits = stored_bits(image)
        image.load()
        values = _values(upright(image), bits)
        if values.min() < 0:
            raise UnsupportedInput(f"expected labels from 0, got {values.min()}; {_AS_PNG}")
        return values


def labels_size(source: Path, *, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height of what `read_labels` gives, from the file's header.

    Raises: as `read_labels`, of what the header tells.
    """
    with border(name_of(source), "mask"):
        return upright_size(_open(source, limits))


def read_label_slice(path: Path, z: int) -> Labels:
    """One axial slice of a volume of labels; the volumes read last are kept, as `VolumeCache` says.

    Args:
        path: as `open_mr` takes it, or a data set of an HDF5 file.
        z: which slice, from 0 at the patient's feet.

    Returns:
        (h, w) int64, from 0, in the patient's order.

    Raises:
        UnsupportedInput: NaN, values that are no whole numbers, or below 0.
        InputError: as `open_mr`.
    """
    labels: Labels = _kept_labels(path)[z].astype(np.int64)
    return labels


def check_on_grid(mask: Path, image: Path) -> None:
    """Refuse a volume of labels that does not lie on its image, voxel by voxel, in whichever order either is stored.

    Of HDF5, which says nothing of where a volume lies, the shapes are compared.

    Raises:
        UnsupportedInput: another shape, or another place, by more than a share `OFF_GRID` of a voxel's shortest side.
        InputError: as `open_mr`.
    """
    got, wanted = mr_grid(mask), mr_grid(image)
    if got.shape != wanted.shape:
        raise UnsupportedInput(
            f"{mask}: expected a mask of its image's shape, {wanted.shape} along z, y, x, got {got.shape}; give the "
            f"mask that was drawn on {image.name}, or resample it to that grid"
        )
    corners = np.array(list(product(*((0, length - 1) for length in wanted.shape[::-1]))))
    apart = float(np.linalg.norm(got.world(corners) - wanted.world(corners), axis=1).max())
    if apart > OFF_GRID * min(wanted.spacing) and hdf5_parts(mask) is None:
        raise UnsupportedInput(
            f"{mask}: expected a mask that lies on its image, got one that lies up to {apart:.2f} mm away from "
            f"{image.name}; resample it to that grid, or correct spacing, origin and direction in its header"
        )


def _read_label_volume(path: Path) -> NDArray[np.int32]:
    volume = open_mr(path)
    with border(name_of(path), "mask"):
        stored = read_whole(volume)
        whole = np.rint(stored)
        off = np.abs(stored - whole)
        if off.max() > ROUNDED or whole.min() < 0:
            strange = stored.min() if whole.min() < 0 else stored.flat[off.argmax()]
            raise UnsupportedInput(
                f"expected labels, whole numbers from 0, got {strange:g}; of probabilities take the likeliest label, "
                "and resample masks by the nearest voxel"
            )
        return whole.astype(np.int32)


_kept_labels = VolumeCache[NDArray[np.int32]](_read_label_volume)


def _open(source: Path, limits: Limits) -> ImageFile.ImageFile:
    data = checked_bytes(source, limits)
    if data.startswith((b"\xff\xd8\xff", b"RIFF")):
        name = "WebP" if data.startswith(b"RIFF") else "JPEG"
        raise UnsupportedInput(
            f"expected a mask in a format that keeps every value, got {name}, which "
            "smears labels over their edges; go back to the mask as it was drawn and save that as PNG, since "
            "converting this file would keep what is smeared"
        )
    if not data.startswith(LOSSLESS):
        raise UnsupportedInput(
            f"expected a mask in PNG, TIFF or BMP, got a file that begins with {data[:8]!r}; {_AS_PNG}"
        )
    image = open_raster(data, limits)
    if image.mode not in _PLAIN | _COLOURS or (image.mode in _COLOURS and is_sixteen_bit(image)):
        raise UnsupportedInput(
            f"expected a mask of grey or palette pixels, got {'16 bits in ' * is_sixteen_bit(image)}Pillow's mode "
            f"{image.mode}; {_AS_PNG}"
        )
    return image


def _values(image: Image.Image, bits: int) -> Labels:
    if image.mode in _COLOURS:
        return _one_channel(image)
    values = np.asarray(image)
    if image.mode == "L" and bits in (2, 4):  # Pillow stretches these to 0..255
        values = values // np.uint8(255 // (2**bits - 1))
    return values.astype(np.int64)


def _one_channel(image: Image.Image) -> Labels:
    channels = np.moveaxis(np.asarray(image), 2, 0)
    colours = channels[:-1] if image.mode.endswith("A") else channels
    if image.mode.endswith("A") and channels[-1].min() < 255:
        raise UnsupportedInput(f"expected a mask that is opaque, got transparent pixels; {_AS_PNG}")
    if (colours != colours[0]).any():
        raise UnsupportedInput(f"expected a mask of one channel, got colours, whose meaning is not known; {_AS_PNG}")
    grey: Labels = colours[0].astype(np.int64)
    return grey
