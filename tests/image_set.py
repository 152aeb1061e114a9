"""Images as people have them, made from a few: the set on which Python, the server and a browser must agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
TELEPHONE = (4032, 3024)  # 12 megapixels


def write_image_set(
    pictures: Sequence[Image.Image], folder: Path, *, telephone: tuple[int, int] = TELEPHONE
) -> list[Path]:
    """Write each picture in several forms, and return the files; decoders may differ on those that end in .jpg.

    Args:
        pictures: RGB; the forms take turns.
        folder: to write to.
        telephone: width and height of a photograph that is reduced before the graph sees it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, picture in enumerate(pictures):
        rgb = picture.convert("RGB")
        forms = {
            "plain.png": lambda path, rgb=rgb: rgb.save(path),
            "grey.png": lambda path, rgb=rgb: rgb.convert("L").save(path),
            "palette.png": lambda path, rgb=rgb: rgb.quantize(64).save(path),
            "alpha.png": lambda path, rgb=rgb: masked(rgb).save(path),
            "turned.jpg": lambda path, rgb=rgb, turn=2 + number % 7: turned(rgb, turn, path),
            "progressive.jpg": lambda path, rgb=rgb: rgb.save(path, quality=92, progressive=True),
            "grey.jpg": lambda path, rgb=rgb: rgb.convert("L").save(path, quality=92),
            "lossless.webp": lambda path, rgb=rgb: rgb.save(path, lossless=True),
            "plain.bmp": lambda path, rgb=rgb: rgb.save(path),
        }
        for name, write in forms.items():
            path = folder / f"{number}-{name}"
            write(path)
            files.append(path)
    large = pictures[0].convert("RGB").resize(telephone, Image.Resampling.BICUBIC)
    large.save(folder / "telephone.jpg", quality=90)
    large.save(folder / "telephone.png", compress_level=1)
    return [*files, folder / "telephone.jpg", folder / "telephone.png"]


def masked(picture: Image.Image) -> Image.Image:
    """With an ellipse of full alpha, and none outside, as cut-out tissue has it."""
    width, height = picture.size
    y, x = np.mgrid[:height, :width]
    inside = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) < 0.2
    shown = picture.copy()
    shown.putalpha(Image.fromarray((inside * 255).astype(np.uint8)))
    return shown


def turned(picture: Image.Image, orientation: int, path: Path) -> None:
    """Stored turned, with the EXIF entry that says so."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(path, quality=92, exif=exif)
