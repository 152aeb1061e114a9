"""MR volumes with masks, as prostate data sets have them: one record for each axial slice, from the patient's feet.

```
mr-sites     DIR/SITE/CASE.nii.gz        DIR/SITE/CASE_segmentation.nii.gz (or _seg, _mask, _label)
             DIR/SITE/CASE/t2.nii.gz     DIR/SITE/CASE/t2_anatomy_reader1.nii.gz (Prostate158), or mask.nii.gz
promise12    DIR/Case00.mhd              DIR/Case00_segmentation.mhd
nnunet       DIR/imagesTr/CASE_0000.nii.gz  DIR/labelsTr/CASE.nii.gz  DIR/dataset.json, which names the labels
nci-isbi     DIR/.../CASE/.../*.dcm      DIR/.../CASE.nrrd
volumes-h5   DIR/NAME.h5 with data sets image0, label0, image1, label1...
```
Every slice is a record, with and without anything marked. The group is the case, with its site. Whatever is not 0 is
the label `object`, unless the data set names its labels or a recipe says what the values mean.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from leanmed.data.class_folders import ORIGINAL_SPLIT, is_split
from leanmed.data.tables import name_below, read_text
from leanmed.data.telling import each, some
from leanmed.errors import DataError, InputError
from leanmed.reading.folders import MASK_FOLDER, MASK_NAME
from leanmed.reading.hdf5 import SUFFIXES as HDF5
from leanmed.reading.hdf5 import hdf5_parts, hdf5_spacing, hdf5_volumes
from leanmed.reading.labels import check_on_grid
from leanmed.reading.mr import mr_grid
from leanmed.reading.source import border, name_of
from leanmed.reading.volume import SUFFIXES, is_series
from leanmed.records import Mask, Record, Records

_READER = re.compile(r"(?P<image>.+?)_(?P<what>anatomy|tumou?r)_reader(?P<number>\d+)", re.IGNORECASE)
_SEQUENCE = re.compile(r"(t[12]w?|pd|adc|dwi|flair|image|img|volume|vol|scan|mri?)([_-](tse|ax|axial|tra|w))*", re.I)
_IN_HDF5 = re.compile(r"(?P<before>.*?)image(?P<after>[^/]*)", re.IGNORECASE)
_OBJECT: Mapping[str, tuple[int, ...]] = {"object": ()}
NNUNET, IGNORE = "dataset.json", "ignore"  # nnU-Net's name for what nobody has marked


@dataclass(frozen=True)
class _Case:
    """A volume with its masks.

    Args:
        image: the volume.
        masks: volumes on it; what any of them marks is marked.
        group: the case, and its site before it.
        site: where it comes from.
        values: what the numbers in the masks mean.
        split: the side of a split that it was on.
        unknown: numbers by which they say nothing.
    """

    image: Path
    masks: tuple[Path, ...]
    group: str
    site: str | None = None
    values: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _OBJECT)
    split: str | None = None
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Pairs:
    """Volumes with the masks beside them, and the names of those that are alone."""

    masks: Mapping[Path, tuple[Path, ...]]
    lost: tuple[str, ...]
    bare: tuple[str, ...]
    unused: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        said = {
            "masks have no volume and are left out": self.lost,
            "volumes have no mask and are left out": self.bare,
            "masks, of tumours or by further readers, are left out": self.unused,
        }
        return [f"{len(names)} {what}: {some(names)}." for what, names in said.items() if names]


def read_sites(root: Path) -> Records:
    """Read `mr-sites`: volumes with masks beside them, in a folder for each site.

    A folder between the site and a file named for what it shows (`t2.nii.gz`) is the case. Folders named as sides of a
    split are no sites.

    Raises:
        DataError: no volume with a mask; a volume or mask that cannot be read, or a mask that lies elsewhere.
    """
    pairs = _pairs(root, SUFFIXES)
    cases = []
    for image, masks in pairs.masks.items():
        folders = list(image.parent.relative_to(root).parts)
        split = next((name for name in folders if is_split(name)), None)
        own = [] if _SEQUENCE.fullmatch(_stem(image)) and folders else [_stem(image)]
        above = [name for name in (folders if own else folders[:-1]) if not is_split(name)]
        cases.append(_Case(image, masks, "/".join([*folders, *own]), above[0] if above else None, split=split))
    return _as_records(root, cases, pairs.notes(), "SITE/CASE.nii.gz with SITE/CASE_segmentation.nii.gz")


def read_promise12(root: Path) -> Records:
    """Read `promise12`: MetaImages with masks beside them, at any depth; the case is the name of the file.

    Litjens et al., "Evaluation of prostate segmentation algorithms for MRI: the PROMISE12 challenge", Medical Image
    Analysis 18, 2014. Which of its centres a case comes from is not told.

    Raises:
        DataError: as `read_sites`.
    """
    pairs = _pairs(root, (".mhd", ".mha"))
    cases = [_Case(image, masks, _stem(image)) for image, masks in pairs.masks.items()]
    return _as_records(root, cases, pairs.notes(), "CASE.mhd with CASE_segmentation.mhd")


def read_nnunet(root: Path) -> Records:
    """Read `nnunet`: the first channel of each case in `imagesTr`, its labels in `labelsTr`, named by `dataset.json`.

    Raises:
        DataError: as `read_sites`; no `dataset.json`, or one that does not say which value each label has.
    """
    values, ending = _nnunet_labels(root / NNUNET)
    unknown = values.pop(IGNORE, ())
    found = {path.name.removesuffix(ending): path for path in sorted((root / "labelsTr").glob(f"*{ending}"))}
    firsts = {
        path.name.removesuffix(f"_0000{ending}"): path for path in sorted((root / "imagesTr").glob(f"*_0000{ending}"))
    }
    others = len([path for path in (root / "imagesTr").glob(f"*{ending}") if path not in firsts.values()])
    cases = [
        _Case(path, (found[case],), case, values=values, unknown=unknown)
        for case, path in firsts.items()
        if case in found
    ]
    pairs = _Pairs({}, tuple(sorted(found.keys() - firsts)), tuple(sorted(firsts.keys() - found)))
    notes = [f"{others} files in imagesTr are other channels than the first (_0000): they are left out."] * bool(others)
    wanted = f"imagesTr/CASE_0000{ending} with labelsTr/CASE{ending}"
    return _as_records(root, cases, pairs.notes(), wanted, notes)


def read_nci_isbi(root: Path) -> Records:
    """Read `nci-isbi`: a DICOM series somewhere in a folder named as the case, and a mask `CASE.nrrd` anywhere.

    NCI-ISBI 2013 Challenge, "Automated Segmentation of Prostate Structures". The first part of a case's name
    (`Prostate3T` in `Prostate3T-01-0001`) is its site.

    Raises:
        DataError: as `read_sites`; several series of one case.
    """
    files = sorted(path for path in root.rglob("*") if path.name.lower().endswith(".nrrd"))
    series = [folder for folder in sorted(root.rglob("*")) if folder.is_dir() and is_series(folder, "MR")]
    of_case: dict[str, list[Path]] = defaultdict(list)
    for mask in files:
        of_case[_nci_case(mask, series, root)].append(mask)
    folders = {case: [s for s in series if case in s.relative_to(root).parts] for case in of_case}
    if several := [case for case, found in folders.items() if len(found) > 1]:
        raise DataError(
            f"{root}: expected one MR series of each case, got several of {some(several)}; keep the axial T2 series "
            "that the mask was drawn on"
        )
    cases = []
    for case, masks in of_case.items():
        if folders[case]:
            site = case.partition("-")[0] if "-" in case else None
            cases.append(_Case(folders[case][0], tuple(masks), f"{site}/{case}" if site else case, site))
    used = {found for one in folders.values() for found in one}
    bare = [name_below(root, folder) for folder in series if folder not in used]
    lost = [case for case, found in folders.items() if not found]
    notes = _Pairs({}, tuple(lost), tuple(bare)).notes()
    return _as_records(root, cases, notes, "a folder CASE with a DICOM series in it and a mask CASE.nrrd")


def read_hdf5(root: Path) -> Records:
    """Read `volumes-h5`: in HDF5 files, volumes named `image` and more, and masks named `label`, `mask` or `seg` alike.

    The axes must be z, y, x, from the patient's feet, from the front and from the right. The folder of a file is its
    site, and file and volume together are the case.

    Raises:
        DataError: as `read_sites`.
        MissingExtraError: without h5py.
    """
    cases: list[_Case] = []
    lost: list[str] = []
    bare: list[str] = []
    for file in sorted(path for path in root.rglob("*") if path.suffix.lower() in HDF5):
        with _as_data_error(), border(name_of(file), "HDF5 file"):
            names = hdf5_volumes(file)
        masks = {found for name in names if (found := _hdf5_mask(name, names))}
        above = [name for name in file.parent.relative_to(root).parts if not is_split(name)]
        for name in names:
            mask = _hdf5_mask(name, names)
            if mask:
                site = above[0] if above else None
                cases.append(_Case(file / name, (file / mask,), f"{name_below(root, file)}/{name}", site))
            elif name not in masks:
                (bare if _IN_HDF5.fullmatch(name) else lost).append(f"{name_below(root, file)}/{name}")
    notes = _Pairs({}, tuple(lost), tuple(bare)).notes()
    return _as_records(root, cases, notes, "data sets image0, label0... of three axes in a file ending in .h5")


def _pairs(root: Path, endings: Sequence[str]) -> _Pairs:
    """Volumes below a folder and the masks beside each: all parts of its mask, of several readers' the first."""
    found = [path for path in sorted(root.rglob("*")) if path.name.lower().endswith(tuple(endings)) and path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    stems = {(path.parent, _stem(path)): path for path in found}
    stems |= _only_volumes(found)
    plain: dict[Path, list[Path]] = defaultdict(list)
    read: dict[Path, list[tuple[int, Path]]] = defaultdict(list)
    images: list[Path] = []
    lost: list[str] = []
    unused: list[str] = []
    for path in found:
        reader = _READER.fullmatch(_stem(path))
        named = reader or MASK_NAME.fullmatch(_stem(path))
        alone = MASK_FOLDER.fullmatch(_stem(path))  # mask.nii.gz
        image = stems.get((path.parent, named["image"] if named else "")) if named or alone else None
        if not (named or alone):
            images.append(path)
        elif image is None:
            lost.append(name_below(root, path))
        elif reader is None:
            plain[image].append(path)
        elif reader["what"].lower() == "anatomy":
            read[image].append((int(reader["number"]), path))
        else:
            unused.append(name_below(root, path))
    chosen = {image: tuple(plain[image]) or tuple(path for _, path in sorted(read[image])[:1]) for image in images}
    unused += [name_below(root, path) for image in read for _, path in read[image] if path not in chosen[image]]
    bare = [name_below(root, image) for image, masks in chosen.items() if not masks]
    masks = {image: masks for image, masks in chosen.items() if masks}
    return _Pairs(masks, tuple(lost), tuple(bare), tuple(unused))


def _only_volumes(found: Sequence[Path]) -> dict[tuple[Path, str], Path]:
    """The one volume of each folder that has one alone, by the folder and an empty name."""
    beside: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        if not any(pattern.fullmatch(_stem(path)) for pattern in (_READER, MASK_NAME, MASK_FOLDER)):
            beside[path.parent].append(path)
    return {(folder, ""): paths[0] for folder, paths in beside.items() if len(paths) == 1}


def _stem(path: Path) -> str:
    """A file's name without the ending of a volume."""
    return next(
        (path.name[: -len(end)] for end in (".nii.gz", *SUFFIXES) if path.name.lower().endswith(end)), path.name
    )


def _nnunet_labels(path: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    """What the values mean, as either version of nnU-Net writes it, and the ending of the volumes' names."""
    if not path.is_file():
        raise DataError(
            f"{path}: expected the labels' names there, found no such file; write it as nnU-Net asks for it"
        )
    try:
        content = json.loads(read_text(path))
        labels = content["labels"]
        first = all(str(key).isdecimal() for key in labels)  # version 1 has numbers before names
        named = {str(v): k for k, v in labels.items()} if first else labels
        values = {
            str(name): tuple(int(value) for value in (found if isinstance(found, list) else [found]))
            for name, found in named.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}: expected JSON such as {{"labels": {{"background": 0, "gland": 1}}}}, got {error}; correct it'
        ) from error
    ending = str(content.get("file_ending", ".nii.gz"))
    if not ending.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: expected volumes, got file_ending {ending}; read images with the reader masks")
    return {name: found for name, found in values.items() if any(found)}, ending


def _nci_case(mask: Path, series: Sequence[Path], root: Path) -> str:
    """The case of a mask, whose name may have more behind it, as in `CASE_truth`: the longest name of a folder above a
    series. `P-10` is no mask of the case `P-1`.
    """
    folders = {part for folder in series for part in folder.relative_to(root).parts}
    named = [part for part in folders if mask.stem.startswith(part) and not mask.stem[len(part) :][:1].isalnum()]
    return max(named, key=len, default=mask.stem)


def _hdf5_mask(name: str, names: Sequence[str]) -> str | None:
    """The data set that holds the mask of an image, if the one named is an image and has one."""
    image = _IN_HDF5.fullmatch(name)
    others = [f"{image['before']}{what}{image['after']}" for what in ("label", "mask", "seg")] if image else []
    return next((other for other in others if other in names), None)


@contextmanager
def _as_data_error() -> Iterator[None]:
    """So that all that is wrong with a data set is told at once."""
    try:
        yield
    except InputError as error:
        raise DataError(str(error)) from error


def _as_records(
    root: Path, cases: Sequence[_Case], gaps: Sequence[str], wanted: str, notes: Sequence[str] = ()
) -> Records:
    """A record for each slice of each case, whose masks lie on it."""
    if not cases:
        raise DataError(
            f"{root}: expected volumes with masks, named {wanted}, got none; name them so"
            f"{''.join(f'. {note}' for note in (*notes, *gaps))}"
        )

    def slices(case: _Case) -> list[Record]:
        with _as_data_error():
            grid = mr_grid(case.image)
            for mask in case.masks:
                check_on_grid(mask, case.image)
            dx, dy, dz = grid.spacing
            spacing = hdf5_spacing(case.image) if hdf5_parts(case.image) else (dz, dy, dx)
        target = Mask(case.masks, case.values, unknown=case.unknown)
        attributes = {ORIGINAL_SPLIT: case.split} if case.split else {}
        name = name_below(root, case.image)
        return [
            Record(f"{name}#{z}", case.image, target, case.group, case.site, attributes, z, spacing)
            for z in range(grid.shape[0])
        ]

    return Records((record for records in each(cases, slices) for record in records), notes, gaps)
