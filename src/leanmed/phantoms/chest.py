"""Made CT scans: a chest with lungs, branching vessels and nodules whose places are known.

They look like CT as far as a detector is concerned: vessels cut across are as round and as bright as small nodules.
They stand in for patients in tests and first steps, never in a claim about patients.

A chest is drawn in a frame of its own: mm along the axes x, y, z of the scan, voxel 0, 0, 0 lying at 0, 0, 0. Whatever
is not air, fat or muscle is made of balls: a vessel is a chain of them, a spiculated nodule one with thin chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.data.box_formats import CORNERS, square
from leanmed.data.tables import GROUPS
from leanmed.files import whole_folder, write_text
from leanmed.reading.ct import Floats, Hounsfield, Triple
from leanmed.reading.lung_slices import only_lungs, window
from leanmed.records import Boxes

Rng = np.random.Generator

AIR, LUNG, FAT, MUSCLE, BONE = -1000.0, -860.0, -90.0, 45.0, 400.0  # HU
NOISE = 25.0  # HU, standard deviation
WIDTH, HEIGHT = 330.0, 260.0  # mm, of the field of view
DIAMETERS = (4.0, 30.0)  # mm, of nodules
MEDIAN, SPREAD = 8.0, 0.45  # mm, and standard deviation of the logarithm; LUNA16's median is 6.4 mm
SPICULATED = 0.35  # share of the nodules
STEMS, TWIGS = 18, 160  # vessels of a lung


@dataclass(frozen=True)
class Nodule:
    """A made nodule: its centre (x, y, z) and diameter in mm in the chest's frame, and whether it has spicules."""

    centre: Triple
    diameter: float
    spiculated: bool


@dataclass(frozen=True, eq=False)
class Chest:
    """A made chest, which can be drawn at any height.

    Args:
        seed: of the noise.
        depth: mm along z.
        body: (2,) half axes in mm of the ellipse that the skin is.
        lungs: (2, 6): centre and half axes in mm of the ellipsoids that the lungs are.
        balls: (n, 5): centre and radius in mm, and HU.
        nodules: what is to be found.
    """

    seed: int
    depth: float
    body: Floats
    lungs: Floats
    balls: Floats
    nodules: tuple[Nodule, ...]


def made_chest(seed: int, nodules: int = 3, depth: float = 240.0) -> Chest:
    """Draw a chest with so many nodules, none touching another; the same seed gives the same chest."""
    rng = np.random.default_rng((seed, 0))
    middle = np.array([WIDTH / 2, HEIGHT / 2, depth / 2])
    axes = np.array([52.0, 78.0, 0.55 * depth]) * rng.uniform(0.9, 1.1, (2, 3))
    lungs = np.concatenate([middle + np.array([[-68.0, 0, 0], [68, 0, 0]]), axes], axis=1)
    placed = _place(rng, lungs, nodules)
    spine = np.array([[WIDTH / 2, HEIGHT / 2 + 78, z, 17, BONE] for z in np.arange(0, depth, 4)])
    vessels = [_vessels(rng, lung, middle) for lung in lungs]
    balls = [spine, *vessels, *(_nodule_balls(rng, nodule) for nodule in placed)]
    body = np.array([142.0, 108.0]) * rng.uniform(0.97, 1.03, 2)
    return Chest(seed, depth, body, lungs, np.concatenate(balls), tuple(placed))


def _place(rng: Rng, lungs: Floats, count: int) -> list[Nodule]:
    placed: list[Nodule] = []
    while len(placed) < count:
        diameter = float(np.clip(MEDIAN * np.exp(SPREAD * rng.standard_normal()), *DIAMETERS))
        lung = lungs[rng.integers(2)]
        away = rng.standard_normal(3)
        away *= rng.uniform() ** (1 / 3) / np.linalg.norm(away)
        centre = lung[:3] + away * np.maximum(0.95 * lung[3:] - diameter / 2, 1)
        gaps = [np.linalg.norm(centre - other.centre) - (diameter + other.diameter) / 2 for other in placed]
        if min(gaps, default=np.inf) > 5:
            x, y, z = centre.tolist()
            placed.append(Nodule((x, y, z), round(diameter, 2), bool(rng.random() < SPICULATED)))
    return placed


def _vessels(rng: Rng, lung: Floats, middle: Floats) -> Floats:
    """Stems from the hilum to all parts of a lung, and twigs from the stems, (n, 5)."""
    hilum = middle + (lung[:3] - middle) * [0.45, 1, 1]
    aims = rng.standard_normal((STEMS, 3))
    aims *= 0.9 * rng.uniform(0.2, 1, (STEMS, 1)) ** (1 / 3) / np.linalg.norm(aims, axis=1, keepdims=True)
    stems = _chains(rng, np.broadcast_to(hilum, (STEMS, 3)), lung[:3] + aims * lung[3:], (2.6, 1.0), 50)
    roots = stems[rng.integers(10, 50, TWIGS), rng.integers(0, STEMS, TWIGS)]
    ends = (roots[:, :3] + rng.normal(0, 20, (TWIGS, 3)) - lung[:3]) / lung[3:]
    ends /= np.maximum(np.linalg.norm(ends, axis=1, keepdims=True), 1) / 0.97  # within the lung
    twigs = _chains(rng, roots[:, :3], lung[:3] + ends * lung[3:], (1.0, 0.4), 30)
    return np.concatenate([stems.reshape(-1, 5), twigs.reshape(-1, 5)])


def _chains(rng: Rng, starts: Floats, ends: Floats, radii: tuple[float, float], length: int) -> Floats:
    """Bent lines of balls that get thinner, (length, n, 5)."""
    t = np.linspace(0, 1, length)[:, None, None]
    bend = rng.normal(0, 0.12, starts.shape) * np.linalg.norm(ends - starts, axis=1, keepdims=True)
    path = starts + t * (ends - starts) + np.sin(np.pi * t) * bend
    radius = np.broadcast_to(radii[0] + t * (radii[1] - radii[0]), (*path.shape[:2], 1))
    return np.concatenate([path, radius, np.full_like(radius, MUSCLE)], axis=-1)


def _nodule_balls(rng: Rng, nodule: Nodule) -> Floats:
    """(n, 5): the nodule, and spicules that reach half its radius beyond it, getting thinner."""
    radius, hu = nodule.diameter / 2, rng.uniform(-20, 60)
    body = np.array([[*nodule.centre, radius, hu]])
    if not nodule.spiculated:
        return body
    rays = rng.standard_normal((12, 1, 3))
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    reach = np.linspace(0.9, 1.5, 12)[:, None]
    thickness = np.broadcast_to(radius * (1.7 - reach) / 6, (12, 12, 1))
    points = np.concatenate([nodule.centre + radius * reach * rays, thickness, np.full((12, 12, 1), hu)], axis=-1)
    return np.concatenate([body, points.reshape(-1, 5)])


def draw(chest: Chest, spacing: tuple[float, float], z: float) -> Hounsfield:
    """The slice at a height z in mm: HU (y, x), with pixels of the given spacing (x, y) in mm.

    Noise is drawn for each slice anew, from the chest's seed and the height alone.
    """
    columns, rows = (np.arange(round(n / s)) * s for n, s in zip((WIDTH, HEIGHT), spacing, strict=True))
    y, x = rows[:, None].astype(np.float32), columns.astype(np.float32)
    hu = _background(chest, x, y, z, max(spacing))
    for ball in chest.balls[np.abs(chest.balls[:, 2] - z) < chest.balls[:, 3] + max(spacing)].tolist():
        _lay(hu, ball, x, y, z, max(spacing))
    noise = np.random.default_rng((chest.seed, 1, round(100 * z) + 10**6))
    return hu + np.float32(NOISE) * noise.standard_normal(hu.shape, dtype=np.float32)


def _background(chest: Chest, x: Hounsfield, y: Hounsfield, z: float, pixel: float) -> Hounsfield:
    """Air, a body of fat, muscle within it, and lungs within that."""
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    hu = np.full((y.size, x.size), AIR, np.float32)
    flat: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = [
        (middle, chest.body, FAT),
        (middle, chest.body - 14, MUSCLE),
    ]
    for lung in chest.lungs:
        cut = 1 - ((z - lung[2]) / lung[5]) ** 2
        if cut > 0:
            flat.append((lung[:2], lung[3:5] * np.sqrt(cut), LUNG))
    for centre, axes, value in flat:
        away = np.hypot((x - centre[0]) / axes[0], (y - centre[1]) / axes[1])
        cover = np.clip((1 - away) * axes.min() / pixel + 0.5, 0, 1).astype(np.float32)
        hu += cover * (np.float32(value) - hu)
    return hu


def _lay(hu: Hounsfield, ball: list[float], x: Hounsfield, y: Hounsfield, z: float, pixel: float) -> None:
    """Brighten the pixels of one ball, its edge a pixel wide."""
    bx, by, bz, radius, value = ball
    left, right = np.searchsorted(x, [bx - radius - pixel, bx + radius + pixel])
    top, bottom = np.searchsorted(y[:, 0], [by - radius - pixel, by + radius + pixel])
    patch = hu[top:bottom, left:right]
    away = np.sqrt((x[left:right] - bx) ** 2 + (y[top:bottom] - by) ** 2 + (z - bz) ** 2)
    cover = np.clip((radius - away) / pixel + 0.5, 0, 1)
    np.maximum(patch, LUNG + cover * (value - LUNG), out=patch)


def crossing(chest: Chest, z: float) -> Boxes:
    """The nodules that a slice at a height z crosses, in pixels of 1 mm: squares as wide as the nodules."""
    crossed = [nodule for nodule in chest.nodules if abs(nodule.centre[2] - z) < nodule.diameter / 2]
    boxes = []
    for nodule in crossed:
        # Voxel 0 lies at 0 mm, and so the first pixel reaches from -0.5 to 0.5 mm.
        x, y = nodule.centre[0] + 0.5, nodule.centre[1] + 0.5
        boxes.append(square((x, y), nodule.diameter, (WIDTH, HEIGHT)))
    return Boxes(tuple(boxes), tuple(nodule.diameter for nodule in crossed))


def write_slices(root: Path, count: int = 300, seed: int = 0) -> Path:
    """Write made slices as PASCAL VOC, which the data set `voc` reads, with the diameters and a `groups.csv`.

    Each patient has three slices: two through nodules and one through none. They have the form of LUNA16's slices:
    8-bit grey, 1 mm per pixel, black outside the lungs. Returns root.

    Raises:
        DataError: a root that holds something.
    """
    with whole_folder(root) as folder:
        for name in ("JPEGImages", "Annotations"):
            (folder / name).mkdir()
        rows = ["image,group"]
        for index in range(count):
            patient, which = divmod(index, 3)
            chest = made_chest(seed + patient)
            z = chest.nodules[which].centre[2] if which < 2 else _free_height(chest)
            grey = window(draw(chest, (1, 1), z))
            Image.fromarray(only_lungs(grey)).save(folder / f"JPEGImages/{index:05d}.png")
            write_text(folder / f"Annotations/{index:05d}.xml", _voc(f"{index:05d}.png", crossing(chest, z)))
            rows.append(f"JPEGImages/{index:05d}.png,made-{seed + patient:05d}")
        write_text(folder / GROUPS, "\n".join(rows) + "\n")
    return root


def _free_height(chest: Chest) -> float:
    """A height in the middle half of the chest at which no nodule is cut; the middle, should there be none."""
    heights = np.random.default_rng((chest.seed, 2)).permutation(np.linspace(0.25, 0.75, 100) * chest.depth)
    return next((float(z) for z in heights if not crossing(chest, float(z)).xyxy), chest.depth / 2)


def _voc(name: str, boxes: Boxes) -> str:
    objects = [
        f"<object><name>nodule</name><diameter_mm>{diameter:g}</diameter_mm><bndbox>"
        + "".join(f"<{corner}>{value:.2f}</{corner}>" for corner, value in zip(CORNERS, box, strict=True))
        + "</bndbox></object>"
        for box, diameter in zip(boxes.xyxy, boxes.diameters, strict=True)
    ]
    return f"<annotation><filename>{name}</filename>{''.join(objects)}</annotation>\n"
