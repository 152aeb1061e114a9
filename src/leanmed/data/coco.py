"""Images with boxes, as COCO writes them; one kind of object, and any number of it.

```
DIR/.../001.png          DIR/annotations.json        file names below DIR
```
The annotations may as well be in `annotations/instances_*.json` or in `_annotations.coco.json`, one file or several.
What is marked as a crowd or to be ignored, and groups: see `leanmed.data.box_formats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from leanmed.data.box_formats import Found, check_one_kind, check_size, list_images, records_of
from leanmed.data.tables import name_below, read_text
from leanmed.data.telling import each, some
from leanmed.errors import DataError
from leanmed.records import Records

COCO = "annotations.json"
COCO_ELSEWHERE = ("annotations/instances*.json", "**/instances*.json", "**/_annotations.coco.json", "**/*coco*.json")
PLACES = f"{COCO}, annotations/instances_*.json or _annotations.coco.json"


def read_coco(root: Path) -> Records:
    """Read COCO: a JSON with `images` and `annotations`, whose `bbox` is left, top, width, height.

    Raises:
        DataError: no such file or no such lists in it, an image that is not there or has another size than it says, an
            annotation of an unknown image, several categories, a box outside its image or without size.
    """
    tables = _coco_tables(root)
    images, _, notes = list_images(root)
    found: dict[Path, Found] = {}
    kinds: list[str] = []
    for table in tables:
        listed, names = _coco_table(root, table, images)
        if twice := [name_below(root, image) for image in listed if image in found]:
            raise DataError(f"{table}: expected images that no other table lists, got {some(twice)}; remove one")
        found |= listed
        kinds += names
    check_one_kind(root, kinds)
    unlisted = len(set(images) - set(found))
    where = ", ".join(name_below(root, table) for table in tables)
    said = f"{unlisted} images are not listed in {where}; they are left out."
    return records_of(root, found, [*notes(set(tables)), *[said] * bool(unlisted)])


def _coco_tables(root: Path) -> list[Path]:
    if (root / COCO).is_file():
        return [root / COCO]
    for pattern in COCO_ELSEWHERE:
        if found := sorted(path for path in root.glob(pattern) if not path.name.startswith(".")):
            return found
    others = sorted(name_below(root, path) for path in root.rglob("*.json"))
    raise DataError(
        f"{root / COCO}: expected annotations there, in annotations/instances_*.json or in _annotations.coco.json, got "
        f"none; other JSON files: {some(others)}; rename the one that lists `images` and `annotations` {COCO}"
    )


def _coco_table(root: Path, table: Path, images: Sequence[Path]) -> tuple[dict[Path, Found], list[str]]:
    """What a table says of each image that it lists, and the kind of each box."""
    try:
        content = json.loads(read_text(table))
        where = {item["id"]: _locate(root, table, item["file_name"], images) for item in content["images"]}
        found = {image: Found() for image in where.values()}
        if not where or len(found) < len(content["images"]):
            raise ValueError(f"{len(content['images'])} images, {len(found)} of them different in id and file_name")
        names = {item["id"]: str(item.get("name", item["id"])) for item in content.get("categories", [])}
        for item in content["annotations"]:
            x, y, width, height = map(float, item["bbox"])
            image = found[where[item["image_id"]]]
            image.boxes.append((x, y, x + width, y + height))
            image.undecided += bool(item.get("iscrowd") or item.get("ignore"))
        kinds = [names.get(item["category_id"], str(item["category_id"])) for item in content["annotations"]]
        sizes = {where[item["id"]]: _coco_size(item) for item in content["images"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{table}: expected images with id and file_name, and annotations with image_id, category_id and bbox, "
            f"got {type(error).__name__}: {error}; correct the file"
        ) from error
    if missing := [name_below(root, image) for image in found if not image.is_file()]:
        raise DataError(
            f"{table}: expected every image it lists below {root}, but missing: {some(missing)}; put them there"
        )
    each(sizes.items(), lambda item: check_size(item[0], *item[1]))
    return found, kinds


def _coco_size(item: Mapping[str, Any]) -> tuple[float, float]:
    return float(item.get("width") or 0), float(item.get("height") or 0)


def _locate(root: Path, table: Path, name: str, images: Sequence[Path]) -> Path:
    """The image of a `file_name`: below the root, beside its table, or the only one whose path ends in that name."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {name}, which is not below the folder")
    wanted = name_below(root, root / name.replace("\\", "/"))
    known = {name_below(root, path): path for path in images}
    for folder in ("", name_below(root, table.parent)):
        if (found := known.get(str(PurePosixPath(folder, wanted)))) is not None:
            return found
    ends = [path for path in images if f"/{name_below(root, path)}".endswith(f"/{wanted}")]
    sides = [path for path in ends if any(part in table.stem for part in path.relative_to(root).parts[:-1])]
    alone = next((group[0] for group in (ends, sides) if len(group) == 1), None)
    return alone or root / wanted
