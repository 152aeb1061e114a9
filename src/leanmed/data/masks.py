"""The reader `masks`: images with masks, as a table names them or as they lie.

```
DIR/manifest.csv         image,mask,fov,site,patient,age
DIR/images/001.png       DIR/masks/001.png          DIR/fov/001.png
DIR/SITE/images/001.png  DIR/SITE/masks/001.png
DIR/CLASS/001.png        DIR/CLASS/001_mask.png     DIR/CLASS/001_mask_1.png
```
In the table, `image` and `mask` are needed, below DIR; `fov` names an image that is 0 where the mask says nothing, and
a column that names patients gives the groups. Site and patient together name a group, for two sites may each have a
patient 1. Every other column becomes an attribute. Without a table, masks are found by name. Several masks of an image
are taken together. Whatever is not 0 in a mask is the label `object`, unless a recipe says what its values mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leanmed.data.class_folders import ORIGINAL_SPLIT, is_split
from leanmed.data.columns import find_column, is_missing, missing_columns, plain
from leanmed.data.matching import match_names
from leanmed.data.sheets import find_table
from leanmed.data.tables import (
    GROUPS,
    Table,
    content_group,
    file_beside,
    gap_notes,
    name_below,
    open_table,
    read_groups,
    row_attributes,
)
from leanmed.data.telling import each, some
from leanmed.errors import DataError
from leanmed.reading.folders import FIELDS, MASK_FOLDER, MASK_NAME, list_folder
from leanmed.reading.images import image_size
from leanmed.reading.labels import Labels, check_on_grid, labels_size, read_label_slice, read_labels
from leanmed.reading.mr import mr_grid
from leanmed.records import Attribute, Mask, Record, Records

TABLES = ("manifest.csv", "masks.csv", "labels.csv")
IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages"})
CLASS = "class"  # the attribute that a folder above images and masks becomes
OUTSIDE = 255  # of `read_mask`: outside the field of view
MOST_LABELS = OUTSIDE - 1
SMEARED = 16  # values between 0 and 255 that no mask of 255s has, unless it was packed with loss

Marks = NDArray[np.uint8]
_Key = tuple[Path, str]  # a folder, and a name without its ending


@dataclass(frozen=True)
class _Found:
    """An image with what belongs to it."""

    image: Path
    masks: tuple[Path, ...]
    within: Path | None = None
    site: str | None = None
    group: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def read(root: Path) -> Records:
    """Read images with masks, by a table or as they lie.

    Images without a mask and masks without an image are left out and counted.

    Raises:
        DataError: no image has a mask; a mask of another size than its image, or one mask for two images; a missing
            column, or a fault of the table.
        InputError: an image or a mask that cannot be read, or a mask in a format that smears it.
    """
    table = next((found for name in TABLES if (found := find_table(root, name))), None)
    return _read_table(root, table) if table else _read_folders(root)


def read_by_name(root: Path, group_of: Callable[[Path], str]) -> Records:
    """Read images with masks as they lie, of a data set whose file names say what must stay together.

    Args:
        root: the data set's folder.
        group_of: takes an image's path below `root` and gives its group.

    Raises:
        DataError: as `read`, and what `group_of` refuses.
        InputError: as `read`.
    """
    return _read_folders(root, group_of)


def read_mask(record: Record, labels: Sequence[str]) -> Marks:
    """A record's mask, in the frame of the pixels that `read_pixels` gives.

    Args:
        record: an image, or a slice of an MR volume, with a mask.
        labels: of the mask, in the order of their numbers; what is marked with any other label is background. A single
            one is also that of a mask whose label has no name.

    Returns:
        (h, w) uint8: 0 is background, k + 1 is `labels[k]`, the later where two are marked, and `OUTSIDE` is where the
        mask says nothing.

    Raises:
        DataError: no mask, a label that the mask does not know, a value in a file that means no label, or a file of
            another size than the image.
        InputError: a file that cannot be read as a mask.
    """
    mask = record.mask.named(labels)
    if unknown := set(labels) - set(mask.values):
        raise DataError(
            f"record {record.id}: expected labels among {some(set(mask.values))}, got {some(unknown)}; name these in "
            "data.labels, or say which values of the files mean them"
        )
    if len(labels) > MOST_LABELS:
        raise DataError(f"expected at most {MOST_LABELS} labels of masks, got {len(labels)}; leave some out")
    marks = np.zeros(_shape(record), np.uint8)
    found = [_checked_values(file, _values(record, file), mask) for file in mask.files]
    for number, label in enumerate(labels, start=1):
        for values in found:
            marks[_means(values, mask.values[label])] = number
    for values in found:
        marks[np.isin(values, mask.unknown)] = OUTSIDE
    if mask.within is not None:
        marks[_values(record, mask.within) == 0] = OUTSIDE
    return marks


def _shape(record: Record) -> tuple[int, int]:
    """Height and width of a record's image, or of its slice in the patient's order."""
    if record.frame is None:
        width, height = image_size(record.image)
        return height, width
    return mr_grid(record.image).shape[1:]


def _values(record: Record, file: Path) -> Labels:
    """The values that a file of a record's mask stores, of the record's size."""
    if record.frame is None:
        values = read_labels(file)
        _check_size(file, values.shape[::-1], _shape(record)[::-1])
        return values
    check_on_grid(file, record.image)
    return read_label_slice(file, record.frame)


def _checked_values(file: Path, values: Labels, mask: Mask) -> Labels:
    """The values of a file, each of which means something."""
    meant = {0, *mask.unknown, *(value for values in mask.values.values() for value in values)}
    held, counts = np.unique(values, return_counts=True)
    if len(meant) > 1:
        strange = [str(value) for value in held.tolist() if value not in meant]
        if strange:
            raise DataError(
                f"{file}: expected values among {some({str(value) for value in meant})}, which mean 0 or a label, got "
                f"{some(strange)}; say what they mean, or correct the mask"
            )
        return values
    between = int(((held > 0) & (held < 255)).sum())
    if between > SMEARED and held[-1] == 255 and counts[1:].argmax() == len(counts) - 2:
        raise DataError(
            f"{file}: expected a mask of 0 and 255, got {between} values between them, as a file that was packed with "
            "loss or resized smoothly has; go back to the mask as it was drawn, or set what is at least 128 to 255, "
            "all else to 0, and save it as PNG"
        )
    return values


def _means(values: Labels, meant: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(values, meant) if meant else values > 0


def _check_size(file: Path, got: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if got != wanted:
        raise DataError(
            f"{file}: expected a mask of its image's size, {wanted[0]} x {wanted[1]}, got {got[0]} x {got[1]}; give "
            "the mask that was drawn on this image"
        )


def _read_table(root: Path, path: Path) -> Records:
    table = open_table(path, needed=("image",))
    columns = list(table.rows[0])
    named, within = find_column(path, columns, "mask"), find_column(path, columns, "fov")
    if named is None:
        raise missing_columns(path, columns, ["mask"])
    attributes = row_attributes(table, (named, within))
    found: list[_Found] = []
    lost: list[str] = []
    bare: list[str] = []
    there = {name_below(root, image): image for image in list_folder(root, masks=True).images}
    images = {name_below(root, image): image for image in list_folder(root).images}
    files: dict[str, dict[str, Path]] = {}
    how: list[str] = []
    for column in filter(None, (table.image, named, within)):
        files[column], said = _files(root, table, column, images if column == table.image else there)
        how += said
    for row, known in zip(table.rows, attributes, strict=True):
        image, mask = files[table.image].get(row[table.image]), files[named].get(row[named])
        if image is None or mask is None:
            (bare if image else lost).append(row[table.image])
            continue
        if image == mask:
            raise DataError(
                f"{path}: expected an image and its mask, got {row[table.image]} for both; correct the table, or name "
                "the files by their whole paths below the folder"
            )
        site = _given(row, table.site)
        fov = _field_of_view(table, row[within], files[within]) if within else None
        group = _given(row, table.group)
        found.append(_Found(image, (mask,), fov, site, _group(table, site, group), known))
    gaps = gap_notes(f"row(s) of {path.name}", lost, "a mask that is there", bare)
    used = {file for own in files.values() for file in own.values()}
    if unlisted := [name for name, file in there.items() if file not in used]:
        gaps.append(f"{len(unlisted)} image(s) in {root} are not in {path.name} and are left out: {some(unlisted)}.")
    return _as_records(root, found, [*table.notes, *how], gaps)


def _files(root: Path, table: Table, column: str, there: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The files that a column names, as paths from the folder, else as `match_names` reads them; and what to say."""
    named = [row[column] for row in table.rows if not is_missing(row[column])]
    if found := {name: file for name in named if (file := file_beside(root, name))}:
        return found, []
    matched = match_names(named, there)
    return {name: there[file] for name, file in matched.files.items()}, matched.notes(f"column {column}")


def _given(row: Mapping[str, str], column: str | None) -> str | None:
    return None if column is None or is_missing(row[column]) else row[column]


def _field_of_view(table: Table, name: str, files: Mapping[str, Path]) -> Path | None:
    """Without it everything would count, the dark rim too; so one that is named must be there."""
    if is_missing(name):
        return None
    if name not in files:
        raise DataError(
            f"{table.path}: expected the field of view {name} in the folder of the table, found none; put it there"
        )
    return files[name]


def _group(table: Table, site: str | None, group: str | None) -> str:
    """A patient's number is one of a site; a column `group` says by itself what must stay together."""
    if group is None:
        return ""
    return group if site is None or plain(table.group or "") == "group" else f"{site}/{group}"


def _read_folders(root: Path, group_of: Callable[[Path], str] | None = None) -> Records:
    listing = list_folder(root, masks=True)
    images, masks, fields = _sorted_out([path.relative_to(root) for path in listing.images])
    owners: dict[Path, Path] = {}
    homes: dict[Path, Path] = {}
    mine = defaultdict(list)
    for image in images:
        for key in _keys(image):
            for mask in masks.get(key, ()):
                if owners.setdefault(mask, image) != image:
                    raise DataError(
                        f"{root / mask}: expected the mask of one image, got {owners[mask]} and {image}; give each "
                        "image a mask of its own, beside it or in a folder of masks beside its own"
                    )
                homes[image] = key[0]
                mine[image].append(mask)
    found = []
    for image, (site, attributes) in _folders_above(homes).items():
        within = next((root / fields[key] for key in _keys(image) if key in fields), None)
        files = tuple(root / mask for mask in sorted(mine[image]))
        found.append(_Found(root / image, files, within, site, "", attributes))
    lost = [str(mask) for group in masks.values() for mask in group if mask not in owners]
    bare = [str(image) for image in images if image not in homes]
    group_table = find_table(root, GROUPS)
    notes = [*listing.notes(lambda path: path == group_table)]
    gaps = gap_notes("mask(s)", lost, "a mask", bare)
    if any(CLASS in one.attributes for one in found):
        notes.append(
            f"The folders above the images are kept as the attribute `{CLASS}`. If they are sites, put the images of "
            "each into SITE/images and their masks into SITE/masks."
        )
    if group_of is not None:
        named = each(found, lambda one: replace(one, group=group_of(one.image.relative_to(root))))
        return _as_records(root, named, notes, gaps)
    groups, said = read_groups(root, {name_below(root, one.image) for one in found}) if found else ({}, [])
    grouped = [replace(one, group=groups.get(name_below(root, one.image), "")) for one in found]
    return _as_records(root, grouped, [*notes, *said], gaps)


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], dict[_Key, list[Path]], dict[_Key, Path]]:
    """Images, masks and fields of view, these by where their image is and by its name."""
    kinds = {path: _kind(path) for path in paths}
    beside = {(path.parent, path.stem) for path, kind in kinds.items() if kind in ("", "image")}
    images, by_folder, fields = [], [], {}
    masks = defaultdict(list)
    for path, kind in kinds.items():
        name = MASK_NAME.fullmatch(path.stem)
        if kind == "field":
            fields[_home(path), path.stem] = path
        elif kind == "mask":
            by_folder.append(path)
        elif name and (not kind or (path.parent, name["image"]) in beside):
            masks[path.parent, name["image"]].append(path)
        else:
            images.append(path)
    known = {key for image in images for key in _keys(image)}
    for path in by_folder:
        name = MASK_NAME.fullmatch(path.stem)
        whole = (_home(path), path.stem)
        masks[whole if whole in known or name is None else (whole[0], name["image"])].append(path)
    return images, dict(masks), fields


def _kind(path: Path) -> str:
    """What the folders above a file say that it is: an image, a mask, a field of view, or nothing."""
    return next((kind for part in reversed(path.parent.parts) if (kind := _folder_kind(part))), "")


def _folder_kind(name: str) -> str:
    if name.casefold() in IMAGES:
        return "image"
    if name.casefold() in FIELDS:
        return "field"
    return "mask" if MASK_FOLDER.fullmatch(name) else ""


def _home(path: Path) -> Path:
    """The folder of a file without the part that says what it is: A/1 for A/images/1."""
    parts = path.parent.parts
    last = next((at for at in reversed(range(len(parts))) if _folder_kind(parts[at])), None)
    return path.parent if last is None else Path(*parts[:last], *parts[last + 1 :])


def _keys(image: Path) -> list[_Key]:
    """Where the masks of an image may be: beside it, or in a folder beside its own."""
    home = _home(image) if _kind(image) else image.parent.parent
    return [(image.parent, image.stem), (home, image.stem)]


def _folders_above(homes: Mapping[Path, Path]) -> dict[Path, tuple[str | None, dict[str, Attribute]]]:
    """What the folders say above each image: the site, or the class where masks lie beside images; and the split."""
    parts = {image: [part for part in home.parts if part.casefold() not in IMAGES] for image, home in homes.items()}
    while (
        parts and all(len(names) > 1 for names in parts.values()) and len({names[0] for names in parts.values()}) == 1
    ):
        parts = {image: names[1:] for image, names in parts.items()}
    said: dict[Path, tuple[str | None, dict[str, Attribute]]] = {}
    for image, home in homes.items():
        sides = [name for name in parts[image] if is_split(name)]
        others = [name for name in parts[image] if not is_split(name)]
        attributes: dict[str, Attribute] = {ORIGINAL_SPLIT: sides[0]} if sides else {}
        of_class = home == image.parent and not _kind(image)
        if others and of_class:
            attributes[CLASS] = others[0]
        said[image] = (others[0] if others and not of_class else None, attributes)
    return said


def _as_records(root: Path, found: Sequence[_Found], notes: Sequence[str], gaps: Sequence[str]) -> Records:
    """Check that what belongs together has one size."""
    if not found:
        raise DataError(
            f"{root}: expected images with masks, got none; list them in {TABLES[0]} (columns image and mask), or put "
            "them into images/ and masks/ under the same names, or each mask beside its image as NAME_mask.png"
            f"{''.join(f'. {note}' for note in (*notes, *gaps))}"
        )

    def record(one: _Found) -> Record:
        size = image_size(one.image)
        for file in (*one.masks, one.within):
            if file is not None:
                _check_size(file, labels_size(file), size)
        group = content_group(one.image) if is_missing(one.group) else one.group
        mask = Mask(one.masks, within=one.within)
        return Record(name_below(root, one.image), one.image, mask, group, one.site, one.attributes)

    return Records(each(found, record), notes, gaps)
