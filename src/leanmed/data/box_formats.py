"""Images with boxes, as PASCAL VOC and YOLO write them, and what is shared with COCO (`leanmed.data.coco`).

```
voc    DIR/JPEGImages/001.png   DIR/Annotations/001.xml
yolo   DIR/images/001.png       DIR/labels/001.txt          class, centre and size as shares of the image
```
There is one kind of object, and any number of it. Annotations may as well lie beside their images, or in `train/images`
and `train/labels`: an image's are those of its name at its path, but for folders such as `images` and `labels`.

An image without boxes is an image in which nothing is to be found: in YOLO its text may be missing, in VOC it has a
file without objects. Beside each may stand `groups.csv`, with columns image (below DIR) and group (the patient, say);
without it, images with the same content form a group. Corners are taken as edges, as most programs write them;
PASCAL's own files count pixels from 1, and so lie half a pixel lower right.

What is marked as a crowd (`iscrowd`), to be ignored (`ignore`) or difficult (`difficult`) is neither an object nor
background. Records cannot say so, and images that hold such are left out, with a note. What is `truncated` or
`occluded` is an object.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import yaml

from leanmed.data.class_folders import ORIGINAL_SPLIT, OWN_SPLITS, is_split
from leanmed.data.sheets import find_table
from leanmed.data.tables import GROUPS, by_name, content_group, name_below, read_groups, read_text
from leanmed.data.telling import each, some
from leanmed.errors import DataError, InputError
from leanmed.reading.folders import list_folder
from leanmed.reading.images import image_size
from leanmed.records import Box, Boxes, Record, Records

CORNERS = ("xmin", "ymin", "xmax", "ymax")
PLACES = {
    "voc": "Annotations/NAME.xml for JPEGImages/NAME.png, or beside each image",
    "yolo": "labels/NAME.txt for images/NAME.png, or beside each image",
}

_FOLDERS = frozenset(  # that say what lies in them, not which image it is
    {
        "images",
        "image",
        "imgs",
        "img",
        "jpegimages",
        "labels",
        "label",
        "annotations",
        "annotation",
        "xmls",
        "xml",
        "txt",
    }
    | {"obj_train_data", "obj_valid_data", "obj_test_data", "bboxes"}
)
# Texts that programs leave among YOLO's, and which are no annotations.
_NO_LABELS = re.compile(
    r"(classes|_darknet|train|val|valid|test|predefined_classes|readme.*|obj|notes)\.(txt|labels)", re.I
)
_YES = frozenset({"1", "true", "yes"})


@dataclass
class Found:
    """What annotations say of an image.

    Args:
        boxes: its objects.
        diameters: of each in mm, or none.
        undecided: how many boxes are neither object nor background.
    """

    boxes: list[Box] = field(default_factory=list)
    diameters: list[float] = field(default_factory=list)
    undecided: int = 0


def read_voc(root: Path) -> Records:
    """Read PASCAL VOC: an XML for each image, with an `object` for each box.

    An object may tell its diameter in mm as `diameter_mm`, if all objects of its image do.

    Raises:
        DataError: an image without XML or the reverse, an XML that is none, objects of several names, a box outside
            its image or without size.
    """
    images, others, notes = list_images(root, "jpegimages")  # and not, say, in SegmentationClass
    files = [path for path in others if path.suffix.lower() == ".xml"]
    pairs = _pairs(root, images, files, "voc")
    unannotated = [name_below(root, image) for image in images if image not in pairs]
    _match(root, images, unannotated, [name_below(root, path) for path in set(files) - set(pairs.values())], "voc")
    trees = dict(zip(pairs, each(pairs.values(), _voc_tree), strict=True))
    each(trees.items(), lambda item: check_size(item[0], *_voc_size(*item)))
    objects = {image: tree.findall("object") for image, tree in trees.items()}
    check_one_kind(root, [item.findtext("name", "").strip() for items in objects.values() for item in items])
    found = dict(each(objects.items(), lambda item: (item[0], _voc_found(*item))))
    return records_of(root, found, notes(set(files)))


def read_yolo(root: Path) -> Records:
    """Read YOLO: a text for each image, with a line `class x y width height` for each box.

    Raises:
        DataError: no images, a text without image, a line that is no box, several classes, a box outside its image or
            without size.
    """
    images, others, notes = list_images(root, "images")
    files = [path for path in others if path.suffix.lower() == ".txt" and not _NO_LABELS.fullmatch(path.name)]
    pairs = _pairs(root, images, files, "yolo")
    # A text outside of `labels` that is of no image may say anything; it is counted among what is passed over.
    orphans = [path for path in set(files) - set(pairs.values()) if _has_folder(root, path, "labels")]
    _match(root, images, [], [name_below(root, path) for path in orphans], "yolo")
    lines = dict(zip(pairs, each(pairs.values(), _yolo_lines), strict=True))
    names = _yolo_names(root)
    check_one_kind(root, [names.get(line[0], line[0]) for image in lines for line in lines[image]])
    found = dict(each(images, lambda image: (image, Found(_yolo_boxes(image, lines.get(image, []))))))
    return records_of(root, found, notes({*pairs.values(), *_yolo_sidecars(others)}))


def boxes_inside(image: Path, xyxy: Sequence[Box], diameters: Sequence[float] = ()) -> Boxes:
    """Check boxes against the image they are drawn in.

    Args:
        image: an image file, of which only the header is decoded.
        xyxy: in pixels of the image turned upright, as edges: it reaches from 0 to its width and height.
        diameters: in mm, one per box or none.

    Raises:
        DataError: naming the image: it cannot be read, or a box is outside it or without size.
    """
    width, height = _size(image)
    for x1, y1, x2, y2 in xyxy:
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(
                f"{image}: expected boxes inside its {width} x {height} pixels and with a size, got "
                f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}; correct the annotation"
            )
    try:
        return Boxes(tuple(xyxy), tuple(diameters))
    except DataError as error:
        raise DataError(f"{image}: {error}") from error


def square(centre: tuple[float, float], side: float, size: tuple[float, float]) -> Box:
    """The square about a centre (x, y), cut at the edges of an image of a size (width, height); all in pixels."""
    (x, y), (width, height), half = centre, size, side / 2
    return max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height)


# --- what the formats share


def _size(image: Path) -> tuple[int, int]:
    try:
        return image_size(image)
    except InputError as error:
        raise DataError(f"expected a readable image, got {error}") from error


def list_images(root: Path, folder: str = "") -> tuple[list[Path], list[Path], Callable[[set[Path]], list[str]]]:
    """Images, other files, and what is passed over if some of those others are read.

    Args:
        root: the data set's folder.
        folder: where some images lie in a folder of this name, those outside are of no interest.
    """
    listing = list_folder(root)
    inside = [path for path in listing.images if _has_folder(root, path, folder)]
    images = sorted(inside or listing.images)
    outside = len(listing.images) - len(images)
    grouped = find_table(root, GROUPS)

    def notes(read: set[Path]) -> list[str]:
        said = f"{outside} images outside of folders called {folder} (in capitals or not) were passed over."
        return [*[said] * bool(outside), *listing.notes(lambda path: path in read or path == grouped)]

    return images, list(listing.others), notes


def _key(root: Path, path: Path) -> str:
    """What an image and its annotations have in common: their path without its ending and without folders of a kind."""
    parts = name_below(root, path.with_suffix("")).split("/")
    return "/".join([part for part in parts[:-1] if part.casefold() not in _FOLDERS] + parts[-1:])


def _pairs(root: Path, images: Sequence[Path], files: Sequence[Path], dataset: str) -> dict[Path, Path]:
    """Image -> its annotations: those of its key; else, where it is the only one of its name, those of that name."""
    by_name(root, images, lambda path: name_below(root, path.with_suffix("")))
    keys = Counter(_key(root, path) for path in images)
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(_key(root, path), []).append(path)
    doubled = [key for key, count in keys.items() if count > 1 and key in found]
    doubled += [key for key, paths in found.items() if key in keys and len(paths) > 1]
    if doubled:
        raise DataError(
            f"{root}: expected one image and one file of annotations of a name, got more for {some(set(doubled))}; "
            f"keep the annotations in {PLACES[dataset]}, and nowhere else"
        )
    pairs = {image: found[key][0] for image in images if (key := _key(root, image)) in found}
    loose = [image for image in images if image not in pairs]
    claimed = set(pairs.values())
    unclaimed = [path for path in files if path not in claimed]
    names = Counter(path.stem for path in loose), Counter(path.stem for path in unclaimed)
    alone = {path.stem: path for path in unclaimed if all(count[path.stem] == 1 for count in names)}
    return pairs | {image: alone[image.stem] for image in loose if image.stem in alone}


def _match(
    root: Path, images: Sequence[Path], unannotated: Sequence[str], orphans: Sequence[str], dataset: str
) -> None:
    if not images:
        raise DataError(f"{root}: expected images with boxes there, found none; give the folder that holds them")
    if unannotated or orphans:
        raise DataError(
            f"{root}: expected images, and annotations of the same names, in {PLACES[dataset]}; images without: "
            f"{some(unannotated)}; annotations without image: {some(orphans)}; correct the folders"
        )


def _has_folder(root: Path, path: Path, name: str) -> bool:
    return name in (part.casefold() for part in path.relative_to(root).parts[:-1])


def check_one_kind(root: Path, kinds: Sequence[str]) -> None:
    """Refuse boxes of several kinds.

    Args:
        root: the data set's folder.
        kinds: of each box.

    Raises:
        DataError: naming the kinds, with the number of boxes of each.
    """
    counts = Counter(kinds)
    if len(counts) > 1:
        shown = some([f"{name} ({count})" for name, count in counts.items()])
        raise DataError(
            f"{root}: expected boxes of one kind, got {shown}; give a copy of the annotations with those of one kind"
        )


def check_size(image: Path, width: float, height: float) -> None:
    """Boxes drawn in an image of another size would lie elsewhere in this one; some programs write a size of 0."""
    size = _size(image)
    if width and height and (width, height) != size:
        turned = ", which its EXIF orientation may have turned since" if (height, width) == size else ""
        raise DataError(
            f"{image}: expected an image of {width:g} x {height:g} pixels, as its annotation says, got "
            f"{size[0]} x {size[1]}{turned}; use the image in which the boxes were drawn"
        )


def records_of(root: Path, found: Mapping[Path, Found], notes: Sequence[str]) -> Records:
    """Records of the images that hold nothing undecided, with their groups.

    Args:
        root: the data set's folder.
        found: what the annotations say of each image.
        notes: what there is to say already.

    Raises:
        DataError: a box outside its image or without size; a `groups.csv` that does not fit; no image is left.
    """
    undecided = {image for image, item in found.items() if item.undecided}
    kept = {image: item for image, item in found.items() if image not in undecided}
    if found and not kept:
        raise DataError(
            f"{root}: expected images without boxes that are a crowd, ignored or difficult, got none: such are neither "
            "objects nor background; unmark them if they are objects, or remove them if they are none"
        )
    count = sum(item.undecided for item in found.values())
    more = [
        f"{count} boxes are marked as crowd, ignored or difficult, which is neither object nor background; the "
        f"{len(undecided)} images that hold them are left out."
    ] * bool(undecided)
    groups, said = read_groups(root, {name_below(root, image) for image in found})
    sides = _sides(root, kept)
    more += [f"Folders {some(set(sides.values()))} are sides of a split; {OWN_SPLITS}"] * bool(sides)

    def record(item: tuple[Path, Found]) -> Record:
        image, content = item
        name = name_below(root, image)
        return Record(
            id=name,
            image=image,
            target=boxes_inside(image, content.boxes, content.diameters),
            group=groups.get(name) or content_group(image),
            attributes={ORIGINAL_SPLIT: sides[image]} if image in sides else {},
        )

    return Records(each(kept.items(), record), [*more, *said, *notes])


def _sides(root: Path, images: Iterable[Path]) -> dict[Path, str]:
    """The sides of a split by folders such as `train` and `valid`, if there are two or more."""
    folders = {image: [part for part in image.relative_to(root).parts[:-1] if is_split(part)] for image in images}
    sides = {image: parts[0] for image, parts in folders.items() if parts}
    return sides if len(set(sides.values())) > 1 else {}


def _number(text: str | None, image: Path) -> float:
    try:
        return float(text or "nothing")
    except ValueError as error:
        raise DataError(f"{image}: expected numbers in its annotation, got {text!r}; correct it") from error


# --- PASCAL VOC


def _voc_tree(path: Path) -> ElementTree.Element:
    text = path.read_bytes()
    try:
        if b"<!" in text.replace(b"<!--", b""):  # entities can unfold without a bound
            raise ValueError("a declaration, which VOC does not need")
        return ElementTree.fromstring(text)  # noqa: S314 (no declarations, so no entities)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: expected PASCAL VOC's XML, got: {error}; correct the file") from error


def _voc_size(image: Path, tree: ElementTree.Element) -> tuple[float, float]:
    return _number(tree.findtext("size/width", "0"), image), _number(tree.findtext("size/height", "0"), image)


def _voc_found(image: Path, items: Sequence[ElementTree.Element]) -> Found:
    return Found(
        [_voc_box(image, item) for item in items],
        [_number(text, image) for item in items if (text := item.findtext("diameter_mm"))],
        sum(item.findtext(mark, "").strip().casefold() in _YES for item in items for mark in ("difficult", "ignore")),
    )


def _voc_box(image: Path, item: ElementTree.Element) -> Box:
    x1, y1, x2, y2 = (_number(item.findtext(f"bndbox/{corner}"), image) for corner in CORNERS)
    return x1, y1, x2, y2


# --- YOLO


def _yolo_lines(path: Path) -> list[list[str]]:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if odd := [number for number, line in enumerate(lines, start=1) if len(line) != 5]:
        raise DataError(
            f"{path}: expected lines `class x y width height`, got {len(odd)} others, the first with "
            f"{len(lines[odd[0] - 1])} values; correct the file"
        )
    return lines


def _yolo_boxes(image: Path, lines: Sequence[Sequence[str]]) -> list[Box]:
    """Shares rounded to some digits may end a hair beyond the edge, and are brought back to it."""
    width, height = _size(image)
    boxes = []
    for line in lines:
        x, y, w, h = (_number(text, image) for text in line[1:])
        x1, x2 = (_back_to(width, (x + sign * w / 2) * width) for sign in (-1, 1))
        y1, y2 = (_back_to(height, (y + sign * h / 2) * height) for sign in (-1, 1))
        boxes.append((x1, y1, x2, y2))
    return boxes


def _back_to(end: int, value: float) -> float:
    for edge in (0.0, float(end)):
        if abs(value - edge) < 0.5:
            return edge
    return value


def _yolo_sidecars(others: Iterable[Path]) -> set[Path]:
    """Lists of classes and images, which programs write beside the texts."""
    return {
        p for p in others if _NO_LABELS.fullmatch(p.name) or p.suffix.lower() in (".yaml", ".yml", ".names", ".data")
    }


def _yolo_names(root: Path) -> dict[str, str]:
    """Names of the classes by number, where a list of them lies in the folder; they serve messages alone."""
    for path in (*sorted(root.glob("*.names")), root / "classes.txt", root / "labels/classes.txt"):
        if path.is_file():
            names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            return {str(number): f"{number} {name}" for number, name in enumerate(names)}
    for path in sorted(root.glob("*.y*ml")):
        try:
            names = yaml.safe_load(read_text(path))["names"]
            pairs = names.items() if isinstance(names, dict) else enumerate(names)
            return {str(number): f"{number} {name}" for number, name in pairs}
        except (yaml.YAMLError, KeyError, TypeError):  # some other YAML
            continue
    return {}
