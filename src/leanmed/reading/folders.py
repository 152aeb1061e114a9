"""Which files below a folder are images, and which are passed over and why: nothing is left out in silence.

An image is known by the ending of its name, and DICOM without a known ending by its `DICM` mark. A mask that lies
beside its image (`a_mask.png` beside `a.png`) is no image of its own.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from leanmed.errors import InputError
from leanmed.reading.source import DICOM_SUFFIXES
from leanmed.reading.volume import SUFFIXES as SCANS
from leanmed.reading.volume import is_series, is_volume
from leanmed.remote import AnyPlace, Place, files_below

if TYPE_CHECKING:
    from upath import UPath

DICOM = frozenset(DICOM_SUFFIXES)
HEIC = frozenset({".heic", ".heif"})  # images where the extra `heic` is installed
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", *DICOM}) | (
    HEIC if find_spec("pillow_heif") else frozenset()
)

_CONVERT = "save such as JPEG or PNG"
_REMARKS = (
    dict.fromkeys((".avif", ".gif", ".jp2", ".j2k"), _CONVERT)
    | dict.fromkeys(HEIC, f"pip install 'leanmed[heic]', or {_CONVERT}")
    | dict.fromkeys((*SCANS, ".mha", ".nrrd", ".nhdr"), "a whole scan, not an image")
)
_VOXELS = frozenset({".raw", ".zraw"})  # of an .mhd beside them
_NOISE = frozenset({".ds_store", "thumbs.db", "desktop.ini"})  # what file managers write, which nobody misses
_MASK = r"(?:mask|segmentation|seg|ground[_ -]?truth|gt|label|annotation)s?"
MASK_NAME = re.compile(rf"(?P<image>.+?)[_ .-]+{_MASK}(?:[_ -]*\d+)?", re.IGNORECASE)
MASK_FOLDER = re.compile(_MASK, re.IGNORECASE)
FIELDS = frozenset({"fov", "field_of_view"})  # folders of images that say where masks say something
ANSWERS = (".jsonl", ".csv")  # files of answers
SINGLE = (".nii", ".nii.gz")  # scans that are one file
PICTURES, FILES = "-montages", "-files"  # the ends of the folders that lie beside them


@dataclass(frozen=True)
class Listing(Generic[AnyPlace]):
    """The files below a folder.

    Args:
        folder: where was looked.
        images: to be read, folder by folder, each by name; with `scans` whole scans too.
        masks: beside their images.
        others: files of other kinds.
        hidden: images whose names begin with a dot, or that lie in such a folder.
        links: links to folders, which are not followed.
        answers: what earlier predictions wrote beside their files of answers.
    """

    folder: AnyPlace
    images: tuple[AnyPlace, ...]
    masks: tuple[AnyPlace, ...] = ()
    others: tuple[AnyPlace, ...] = ()
    hidden: tuple[AnyPlace, ...] = ()
    links: tuple[AnyPlace, ...] = ()
    answers: tuple[AnyPlace, ...] = ()

    def notes(self, is_read: Callable[[AnyPlace], bool] = lambda path: False) -> list[str]:
        """What is passed over and why, in one sentence or none.

        Args:
            is_read: whether one of the others is read all the same: a table, or the annotations of an image.
        """
        kinds = Counter(map(_kind, (path for path in self.others if not is_read(path))))
        parts = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
        apart = {"masks beside their images": self.masks, "hidden": self.hidden, "links to folders": self.links}
        apart["answers of earlier predictions"] = self.answers
        parts += [f"{len(paths)} {what} (such as {paths[0].name})" for what, paths in apart.items() if paths]
        count = kinds.total() + sum(map(len, apart.values()))
        said = f"{count} {'file was' if count == 1 else 'files were'} passed over in {self.folder}: {'; '.join(parts)}."
        return [said] * bool(parts)


def list_folder(folder: Path, *, scans: bool = False, masks: bool = False) -> Listing[Path]:
    """Every file below a folder, sorted into images and what is passed over.

    Args:
        folder: searched in depth, without hidden folders and links to folders.
        scans: take scans of CT and MR too: `.mhd`, NIfTI, and each folder that itself holds a series in DICOM, which
            then stands for its DICOM files.
        masks: take masks that lie beside their images as images too.

    Raises:
        InputError: a folder that cannot be listed.
    """
    images: list[Path] = []
    others: list[Path] = []
    hidden: list[Path] = []
    links: list[Path] = []
    answers: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_cannot_list):
        here = Path(parent)
        links += [here / name for name in folders if os.path.islink(here / name)]  # noqa: PTH114 - as os.walk sees it
        for name in (name for name in folders if name.startswith(".")):
            hidden += [path for path in _files_below(here / name) if path.suffix.lower() in SUFFIXES]
        written = {name for name in folders if _is_of_answers(name, names)}
        for name in sorted(written):
            answers += [path for path in _files_below(here / name) if is_image(path)]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in written)
        series = scans and (is_series(here) or is_series(here, "MR"))
        if series:
            images.append(here)
        for path in (here / name for name in sorted(names)):
            if path.name.lower() in _NOISE:
                continue
            if path.name.startswith("."):
                hidden += [path] * (path.suffix.lower() in SUFFIXES)
            elif (scans and is_volume(path)) or is_image(path):
                images += [path] * (not (series and _is_dicom(path)))
            elif not (scans and path.suffix.lower() in _VOXELS and path.with_suffix(".mhd").name in names):
                others.append(path)
    beside = set() if masks else masks_among(images)
    kept = tuple(path for path in images if path not in beside)
    return Listing(folder, kept, tuple(sorted(beside)), tuple(others), tuple(hidden), tuple(links), tuple(answers))


def list_behind(place: UPath, *, scans: bool = False) -> Listing[UPath]:
    """Every file below a place behind a URL, sorted as `list_folder` sorts them by their names alone: none is opened.

    So DICOM without a known ending is passed over, slices in DICOM are taken one by one, and of scans with `scans` only
    NIfTI is taken.

    Raises:
        RunError: the place cannot be reached.
    """
    images: list[UPath] = []
    others: list[UPath] = []
    hidden: list[UPath] = []
    answers: list[UPath] = []
    files = files_below(place)
    names: dict[tuple[str, ...], set[str]] = {}
    for _, (*folders, name) in files if files and files[0][1] else ():
        names.setdefault(tuple(folders), set()).add(name)
    for path, parts in files:
        known = path.suffix.lower() in SUFFIXES
        above = [parts[:depth] for depth in range(1, len(parts))]
        if path.name.lower() in _NOISE:
            continue
        if any(part.startswith(".") for part in parts):
            hidden += [path] * known
        elif any(_is_of_answers(folder[-1], names.get(folder[:-1], ())) for folder in above):
            answers += [path] * known
        elif known or (scans and path.name.lower().endswith(SINGLE)):
            images.append(path)
        else:
            others.append(path)
    beside = masks_among(images)
    kept = tuple(path for path in images if path not in beside)
    masks = tuple(path for path in images if path in beside)
    return Listing(place, kept, masks, tuple(others), tuple(hidden), (), tuple(answers))


def _is_of_answers(folder: str, names: Collection[str]) -> bool:
    """Whether a folder is what a prediction wrote beside its file of answers, which is among the names beside it."""
    stem = next((folder.removesuffix(end) for end in (PICTURES, FILES) if folder.endswith(end)), "")
    return bool(stem) and any(f"{stem}{end}" in names for end in ANSWERS)


def is_image(path: Path) -> bool:
    """Whether a file is an image by the ending of its name, or DICOM by its mark."""
    return path.suffix.lower() in SUFFIXES or _is_dicom(path)


def masks_among(paths: Collection[AnyPlace]) -> set[AnyPlace]:
    """The masks that lie beside their images.

    One is named as its image with an ending such as `_mask`, `_mask_1` or `_seg`, and lies in the same folder; or it
    lies in a folder such as `masks`, or of fields of view, and an image of its name in the folder above or in another
    one beside.
    """
    stems: dict[Place, set[str]] = {}
    for path in paths:
        stems.setdefault(path.parent, set()).add(_stem(path))
        if not _is_of_masks(path.parent.name):
            stems.setdefault(path.parent.parent / "*", set()).add(_stem(path))
    found = set()
    for path in paths:
        name = MASK_NAME.fullmatch(_stem(path))
        image = name["image"] if name else _stem(path)
        if name and image in stems[path.parent]:
            found.add(path)
        elif _is_of_masks(path.parent.name):
            above = path.parent.parent
            images = stems.get(above, set()) | stems.get(above / "*", set())
            if image in images or _stem(path) in images:
                found.add(path)
    return found


def _is_of_masks(folder: str) -> bool:
    return bool(MASK_FOLDER.fullmatch(folder)) or folder.casefold() in FIELDS


def _stem(path: Place) -> str:
    """A file's name without its ending, be that `.nii.gz`."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def _is_dicom(path: Path) -> bool:
    """DICOM by the ending of its name or by its mark; the index of a disk, DICOMDIR, has the mark and no image."""
    if path.suffix.lower() in DICOM:
        return True
    if path.suffix.lower() in SUFFIXES or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # then it is counted among those passed over
        return False


def _kind(path: Place) -> str:
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    remark = _REMARKS.get(suffix)
    return f"{suffix or 'without an ending'}{f' ({remark})' if remark else ''}"


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _cannot_list(error: OSError) -> None:
    raise InputError(
        f"{str(error.filename)!r}: expected a folder that can be listed, got: {error.strerror}; check its permissions"
    ) from error
