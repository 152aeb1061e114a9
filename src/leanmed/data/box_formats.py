"""Images with boxes, as PASCAL VOC, YOLO and COCO write them; one kind of object, and any number of it.

```
voc    DIR/JPEGImages/001.png   DIR/Annotations/001.xml
yolo   DIR/images/001.png       DIR/labels/001.txt          class, centre and size as shares of the image
coco   DIR/.../001.png          DIR/annotations.json        file names below DIR
```
An image without boxes is an image in which nothing is to be found: in YOLO its text may be missing, in VOC it has a
file without objects. Beside each may stand `groups.csv`, with columns image (below DIR) and group (the patient, say);
without it, images with the same content form a group. Corners are taken as edges, as most programs write them;
PASCAL's own files count pixels from 1, and so lie half a pixel lower right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from leanmed.data.tables import by_name, content_group, images_below, name_below, read_rows, read_text, some
from leanmed.errors import DataError, InputError
from leanmed.reading.images import image_size
from leanmed.records import Box, Boxes, Record

GROUPS = "groups.csv"
COCO = "annotations.json"
CLASSES = "classes.txt"  # names of classes, which some programs leave among YOLO's texts
CORNERS = ("xmin", "ymin", "xmax", "ymax")


Found = dict[Path, list[Box]]


def read_voc(root: Path) -> list[Record]:
    """Read PASCAL VOC: an XML for each image, with an `object` for each box.

    An object may tell its diameter in mm as `diameter_mm`, if all objects of its image do.

    Raises:
        DataError: an image without XML or the reverse, an XML that is none, objects of several names, a box outside
            its image or without size.
    """
    images = by_name(root, images_below(root / "JPEGImages"), lambda path: path.stem)
    files = {path.stem: path for path in (root / "Annotations").glob("*.xml")}
    _match(images, files, root)
    trees = {image: _voc_tree(files[stem]) for stem, image in images.items()}
    for image, tree in trees.items():
        _check_voc_size(image, tree)
    objects = {image: tree.findall("object") for image, tree in trees.items()}
    _check_one_kind(root, [item.findtext("name", "").strip() for items in objects.values() for item in items])
    found = {image: [_voc_box(image, item) for item in items] for image, items in objects.items()}
    diameters = {
        image: [_number(text, image) for item in items if (text := item.findtext("diameter_mm"))]
        for image, items in objects.items()
    }
    return _records(root, found, diameters)


def read_yolo(root: Path) -> list[Record]:
    """Read YOLO: a text for each image, with a line `class x y width height` for each box.

    Raises:
        DataError: no images, a text without image, a line that is no box, several classes, a box outside its image or
            without size.
    """
    images = _named(root / "images", images_below(root / "images"))
    files = _named(root / "labels", (p for p in (root / "labels").rglob("*.txt") if p.name != CLASSES))
    _match(images, dict.fromkeys(images) | files, root)
    lines = {images[name]: _yolo_lines(path) for name, path in files.items()}
    _check_one_kind(root, [line[0] for image in lines for line in lines[image]])
    return _records(root, {image: _yolo_boxes(image, lines.get(image, [])) for image in images.values()})


def read_coco(root: Path) -> list[Record]:
    """Read COCO: `annotations.json` with `images` and `annotations`, whose `bbox` is left, top, width, height.

    Raises:
        DataError: no such file or no such lists in it, an image that is not there, an annotation of an unknown image,
            several categories, a box outside its image or without size.
    """
    table = root / COCO
    try:
        content = json.loads(read_text(table))
        images = {item["id"]: root / _below(item["file_name"]) for item in content["images"]}
        found: Found = {image: [] for image in images.values()}
        if not images or len(found) < len(content["images"]):
            raise ValueError(f"{len(content['images'])} images, {len(found)} of them different in id and file_name")
        for item in content["annotations"]:
            x, y, width, height = map(float, item["bbox"])
            found[images[item["image_id"]]].append((x, y, x + width, y + height))
        _check_one_kind(root, [str(item["category_id"]) for item in content["annotations"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{table}: expected images with id and file_name, and annotations with image_id, category_id and bbox, "
            f"got {type(error).__name__}: {error}; correct the file"
        ) from error
    missing = [name_below(root, image) for image in found if not image.is_file()]
    if missing:
        raise DataError(f"{table}: expected every image it lists below {root}, but missing: {some(missing)}")
    return _records(root, found)


def boxes_inside(image: Path, xyxy: Sequence[Box], diameters: Sequence[float] = ()) -> Boxes:
    """Check boxes against the image they are drawn in.

    Args:
        image: a JPEG, PNG, TIFF or DICOM, of which only the header is decoded.
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


def _size(image: Path) -> tuple[int, int]:
    try:
        return image_size(image)
    except InputError as error:
        raise DataError(f"expected a readable image, got {error}") from error


def _records(root: Path, found: Found, diameters: Mapping[Path, list[float]] | None = None) -> list[Record]:
    groups = _groups(root, {name_below(root, image) for image in found})
    return [
        Record(
            id=name_below(root, image),
            image=image,
            target=boxes_inside(image, boxes, (diameters or {}).get(image, ())),
            group=groups.get(name_below(root, image)) or content_group(image),
        )
        for image, boxes in found.items()
    ]


def _groups(root: Path, names: set[str]) -> dict[str, str]:
    if not (root / GROUPS).is_file():
        return {}
    rows = read_rows(root / GROUPS, needed=("image", "group"))
    groups = {row["image"]: row["group"] for row in rows}
    if groups.keys() != names or len(rows) > len(names):
        raise DataError(
            f"{root / GROUPS}: expected one row for each image, got {len(rows)} for {len(names)}; images without: "
            f"{some(names - groups.keys())}; rows without image: {some(groups.keys() - names)}; correct the table"
        )
    return groups


def _match(images: Mapping[str, Path], files: Mapping[str, object], root: Path) -> None:
    if not images and not files:
        raise DataError(f"{root}: expected images with boxes there, found none; give the folder that holds them")
    if images.keys() != files.keys():
        raise DataError(
            f"{root}: expected images, and annotations of the same names; images without: "
            f"{some(images.keys() - files.keys())}; annotations without image: {some(files.keys() - images.keys())}; "
            "correct the folders"
        )


def _below(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {name}, which is not below the folder")
    return name


def _check_one_kind(root: Path, kinds: Sequence[str]) -> None:
    if len(set(kinds)) > 1:
        raise DataError(f"{root}: expected boxes of one kind, got {some(set(kinds))}; keep those of one")


def _voc_tree(path: Path) -> ElementTree.Element:
    text = path.read_bytes()
    try:
        if b"<!" in text.replace(b"<!--", b""):  # entities can unfold without a bound
            raise ValueError("a declaration, which VOC does not need")
        return ElementTree.fromstring(text)  # noqa: S314 (no declarations, so no entities)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: expected PASCAL VOC's XML, got: {error}; correct the file") from error


def _check_voc_size(image: Path, tree: ElementTree.Element) -> None:
    """Boxes drawn in an image of another size would lie elsewhere in this one; some programs write a size of 0."""
    declared = tuple(_number(tree.findtext(f"size/{side}", "0"), image) for side in ("width", "height"))
    if all(declared) and declared != (size := _size(image)):
        raise DataError(
            f"{image}: expected an image of {declared[0]:g} x {declared[1]:g} pixels, as its annotation says, got "
            f"{size[0]} x {size[1]}; use the image in which the boxes were drawn"
        )


def _voc_box(image: Path, item: ElementTree.Element) -> Box:
    x1, y1, x2, y2 = (_number(item.findtext(f"bndbox/{corner}"), image) for corner in CORNERS)
    return x1, y1, x2, y2


def _named(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    return by_name(folder, paths, lambda path: name_below(folder, path.with_suffix("")))


def _yolo_lines(path: Path) -> list[list[str]]:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if any(len(line) != 5 for line in lines):
        raise DataError(f"{path}: expected lines `class x y width height`, got others; correct the file")
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


def _number(text: str | None, image: Path) -> float:
    try:
        return float(text or "nothing")
    except ValueError as error:
        raise DataError(f"{image}: expected numbers in its annotation, got {text!r}; correct it") from error
