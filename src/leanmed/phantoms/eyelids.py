"""Made data ("phantoms"), so that every step can be run, timed and tested without a patient.

`PHANTOMS` names the kinds. Each is a function that writes a folder in the form that leanmed reads everywhere:
```
root/labels.csv      image,label,group,site, then the attributes
root/images/*.png
root/phantoms.json   what it was made from
```
Phantoms look like their modality, and one thing can be learned from them: a planted signal of known size.
They stand in for patients in tests, benchmarks and first steps, never in a claim about patients.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from leanmed.errors import DataError
from leanmed.files import whole_folder, write_json, write_text

Rng = np.random.Generator
Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]  # one value a pixel, or three
Points = NDArray[np.float64]  # (..., 2), x and y
Row = dict[str, str | float]

DRAWING = 1  # raise it when the same parameters come to give other pixels
WIDTH = 228  # pixels, the median of the cut-outs in CP-AnemiC
ANEMIA_BELOW = 11.0  # g/dL, the WHO's threshold for children of 6-59 months
PREVALENCE = 0.6
# Haemoglobin by label: lowest, highest, and beta(a, b) between them.
HB_SHAPES = {"anemic": (3.0, 11.0, 3.0, 1.0), "non-anemic": (11.0, 15.0, 1.2, 2.0)}
REDNESS = (0.5, 0.12)  # mean and within-class standard deviation of log(R / G)
SITE_SHARE = 0.25  # of that variance, what differs between sites


@dataclass(frozen=True)
class Subject:
    """A made child: haemoglobin in g/dL, age in months, sex (F or M), and the number of its site, from 0."""

    hb: float
    age_months: int
    sex: str
    site: int


def draw_subject(rng: Rng, sites: int = 1) -> Subject:
    """Draw a child of 6-59 months, whose age, sex and site say nothing about its haemoglobin."""
    low, high, a, b = HB_SHAPES["anemic" if rng.random() < PREVALENCE else "non-anemic"]
    hb = math.floor(10 * (low + (high - low) * rng.beta(a, b))) / 10  # rounding up could cross the threshold
    return Subject(hb, int(rng.integers(6, 60)), "FM"[rng.integers(2)], int(rng.integers(sites)))


def label_of(hb: float) -> str:
    """``anemic`` below 11 g/dL, else ``non-anemic``."""
    return "anemic" if hb < ANEMIA_BELOW else "non-anemic"


@dataclass(frozen=True)
class Site:
    """How a site's cameras and lamps colour its photographs, and what is left of the variance of redness."""

    red: float = 0.0  # shift of redness, in its within-class standard deviations
    blue: float = 0.0  # shift of log(B / G)
    light: float = 0.0  # shift of log exposure
    own: float = 1.0  # standard deviation of the subjects' own redness, in the unit of `red`


NEUTRAL = Site()


def made_sites(count: int) -> tuple[Site, ...]:
    """`count` sites, each of another cast, whose `red` has the variance `SITE_SHARE` (one site: 0)."""
    reds = np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1)
    reds *= math.sqrt(SITE_SHARE) / max(float(reds.std()), 1e-9)
    own = math.sqrt(1.0 - float(reds.var()))
    turns = 1 + 2.4 * np.arange(count)  # steps of the golden angle never bring two sites together
    casts = np.stack([reds, 0.09 * np.cos(turns), 0.12 * np.sin(turns)], axis=1)
    return tuple(Site(red, blue, light, own) for red, blue, light in casts.tolist())


def redness(image: Pixels) -> float:
    """Mean log(R / G) over the opaque pixels of an RGBA image: the statistic the signal is planted in."""
    red, green = (image[image[..., 3] == 255][:, :2].astype(np.float64) + 1.0).T
    return float(np.log(red / green).mean())


def _own_redness(rng: Rng, hb: float, signal: float, site: Site) -> float:
    """A subject's redness in standard deviations: nearly normal within a class, of deviation `site.own`.

    A share `rho` of it is haemoglobin within the class. That makes redness a near straight line in Hb up to a
    signal of 1; above, a step at the threshold grows. Without signal, redness says nothing of Hb at all.
    """
    low, high, a, b = HB_SHAPES[label_of(hb)]
    standardised = ((hb - low) / (high - low) * (a + b) - a) / math.sqrt(a * b / (a + b + 1))
    rho = min(signal, 1.0) / 3.0
    within = rho * standardised + math.sqrt(1.0 - rho**2) * rng.standard_normal()
    return signal * (-0.5 if hb < ANEMIA_BELOW else 0.5) + site.own * within


def eyelid(
    rng: Rng, hb: float, *, signal: float = 1.0, site: Site = NEUTRAL, side: int = WIDTH, cutout: bool = True
) -> Pixels:
    """Draw the conjunctiva of a lower eyelid: uint8 (h, w, 4), RGBA, black where alpha is 0.

    Args:
        rng: where all randomness comes from.
        hb: haemoglobin, g/dL; it shows in redness and vessels, as far as the signal goes, and nowhere else.
        site: the cast of the photograph.
        signal, side, cutout: as in `EyelidSet`. Cut-outs have 0.35 to 2.25 times the median width.
    """
    spread = float(np.clip(np.exp(rng.normal(0.0, 0.33)), 0.35, 2.25))
    outline = _draw_outline(rng, round(side * (spread if cutout else 0.62)), tilt=0.55 if cutout else 0.1)
    scene, alpha = _draw_tissue(rng, outline, _own_redness(rng, hb, signal, site))
    if not cutout:
        scene, alpha = _draw_face(rng, scene, alpha, outline, side)
    return _photograph(rng, scene, alpha, site)


@dataclass(frozen=True)
class _Outline:
    """The crescent of tissue: for each of its columns (w,), the upper and the lower edge, in pixels."""

    top: Field
    bottom: Field

    @property
    def shape(self) -> tuple[int, int]:
        return math.ceil(float(self.bottom.max())), len(self.top)

    def at(self, x: Points, v: Points) -> Points:
        """Columns x, at heights v from -1 (upper edge) to 1 (lower edge) -> pixel coordinates (..., 2)."""
        top, bottom = (np.interp(x, np.arange(len(edge)), edge) for edge in (self.top, self.bottom))
        return np.stack([x, (top + bottom) / 2 + v * (bottom - top) / 2], axis=-1)


def _draw_outline(rng: Rng, width: int, tilt: float) -> _Outline:
    """A crescent cut out by hand: a sagging, tilted arc, thickest about its middle, with small corners."""
    knots = np.linspace(-1.0, 1.0, 21)
    bent = knots + rng.uniform(-0.25, 0.25) * (1 - knots**2)  # moves the thickest place aside
    thick = rng.uniform(0.2, 0.42) * (1 - np.abs(bent) ** rng.uniform(1.6, 2.8)) ** rng.uniform(0.6, 1.1)
    arc = np.clip(rng.normal(0.36, 0.12), 0.1, 0.65) * (1 - bent**2) + rng.uniform(-tilt, tilt) * knots
    waves = rng.normal(0.0, 0.015, (2, 1)) * np.sin(2 * np.pi * knots) + rng.normal(0.0, 0.004, (2, 21))
    columns = (2 * np.arange(width) + 1) / width - 1
    edges = arc + np.outer([-0.5, 0.5], thick) + waves
    top, bottom = (np.interp(columns, knots, edge) * width / 2 for edge in edges)
    return _Outline((top - top.min()).astype(np.float32), (bottom - top.min()).astype(np.float32))


def _draw_tissue(rng: Rng, outline: _Outline, own: float) -> tuple[Field, Field]:
    """Reflectance (h, w, 3) and coverage (h, w), both 0..1, of tissue with the given standardised redness."""
    (h, w), (top, bottom) = outline.shape, (outline.top, outline.bottom)
    y, x = np.arange(h, dtype=np.float32)[:, None] + 0.5, np.linspace(-1, 1, w, dtype=np.float32)
    alpha = np.clip(np.minimum(y - top, bottom - y) + 0.5, 0, 1)
    v = np.clip((2 * y - top - bottom) / np.maximum(bottom - top, 1), -1.5, 1.5)
    contrast = np.float32(np.exp(rng.normal(-0.15, 0.4)))
    patches, streaks, gloom = (_mottle(rng, (h, w), cells) for cells in ((4, 9), (3, 45), (2, 5)))
    vessels = _vessels(rng, outline, round(25 * math.exp(0.3 * own + rng.normal(0.0, 0.3))))
    pale = rng.normal(0.08, 0.12) * v + rng.uniform(-0.1, 0.2) * v * v  # towards one edge, or both
    ratio = np.exp(contrast * (0.16 * patches + 0.05 * streaks - pale) + 0.4 * vessels)
    mean_ratio = max(REDNESS[0] + REDNESS[1] * own, 0.05)  # no tissue is green
    ratio *= mean_ratio * alpha.sum() / (ratio * alpha).sum()  # here the signal is planted
    tip = (0.5 + 0.5 * x * rng.choice([-1, 1])) ** 4  # one end turns away from the light
    shade = contrast * (0.06 * gloom + 0.02 * streaks - rng.uniform(0, 0.5) * tip)
    red = 0.78 * np.exp(shade - 0.1 * vessels - 0.05 * v * v)
    green = red * np.exp(-ratio)
    blue = green * np.exp(rng.normal(-0.1, 0.08) + 0.3 * shade + 0.1 * vessels)
    tissue = np.stack([red, green, blue], axis=-1).astype(np.float32)
    _paint(tissue, np.ones(3, np.float32), _glints(rng, outline))
    return tissue, alpha


def _mottle(rng: Rng, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Smooth standard noise of a given shape, with `cells` down and across."""
    grid = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC))


def _paint(scene: Field, colour: Field, cover: Field) -> None:
    """Lay a colour, (3,) or (h, w, 3), over the scene (h, w, 3) where `cover` (h, w) is 1."""
    scene += cover[..., None] * (colour - scene)


def _strokes(shape: tuple[int, int], paths: Points, inks: Points, width: int) -> Field:
    """Cover (h, w) of lines through the points `paths` (n, points, 2); `inks` (n,) in 0..1 say how strong."""
    image = Image.new("L", shape[::-1])
    draw = ImageDraw.Draw(image)
    for path, ink in zip(paths, inks.tolist(), strict=True):
        draw.line(path.ravel().tolist(), fill=round(255 * ink), width=max(1, width))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _vessels(rng: Rng, outline: _Outline, count: int) -> Field:
    """Thin vessels, at most 90, that wander from the lower edge upwards; (h, w) in 0..1."""
    h, w = outline.shape
    bends = rng.normal(0.0, 0.003 * w, (90, 8)).cumsum(axis=1).cumsum(axis=1)
    heights = 1 - np.linspace(0, 1, 8) * rng.uniform(0.5, 2.0, (90, 1))
    paths = outline.at(rng.uniform(0, w, (90, 1)) + bends, heights)
    return _strokes((h, w), paths[:count], 0.15 + 0.75 * rng.beta(1, 3, 90)[:count], w // 150)


def _glints(rng: Rng, outline: _Outline) -> Field:
    """Wet spots that mirror the lamp, crowded in one place; (h, w) in 0..1."""
    h, w = outline.shape
    count = rng.poisson(rng.choice([0.3, 3.0]))
    spots = outline.at(w * rng.normal(rng.uniform(0.1, 0.9), 0.05, count), rng.uniform(-0.8, 0.8, count))
    paths = spots[:, None] + rng.normal(0.0, 0.006 * w, (count, 3, 2)) * np.array([1.0, 0.5])
    return _strokes((h, w), paths, rng.uniform(0.25, 0.95, count), w // 100)


def _draw_face(rng: Rng, tissue: Field, alpha: Field, outline: _Outline, side: int) -> tuple[Field, Field]:
    """Skin, eyeball and lashes around the tissue of a lid pulled down: reflectance and coverage, 4:3."""
    (h, w), left, upper = alpha.shape, round(0.19 * side), round(0.34 * side)
    u = np.linspace(-1, 1, w, dtype=np.float32)
    gape = rng.uniform(0.12, 0.17) * side * (1 - u * u) ** 0.8
    lid = np.interp(u, [-1, 1], outline.top[[0, -1]]).astype(np.float32) - gape  # in rows of the tissue
    edges = (np.pad(edge + upper, (left, side - left - w), mode="edge") for edge in (lid, outline.bottom))
    scene = _skin(rng, side, *edges)
    first = math.floor(lid.min())  # negative: above the tissue
    y = np.arange(first, h, dtype=np.float32)[:, None]
    opening = scene[upper + first : upper + h, left : left + w]
    _paint(opening, _eyeball(rng, y, lid), np.clip(np.minimum(y - lid, outline.top - y + 1), 0, 1))
    _paint(opening[-first:], tissue, alpha)
    for edge, length in ((lid, -0.075), (outline.bottom + 0.008 * side, 0.035)):
        lashes = _lashes(rng, edge, length * side) + np.array([left, upper])
        cover = _strokes(scene.shape[:2], lashes, rng.uniform(0.5, 0.95, len(lashes)), side // 350)
        _paint(scene, np.full(3, 0.05, np.float32), cover)
    return scene, np.ones_like(cover)


def _skin(rng: Rng, side: int, lid: Field, bottom: Field) -> Field:
    """Skin of any tone, with folds along the upper lid and the lower edge of the tissue, (side,) each."""
    y = np.arange(round(0.75 * side), dtype=np.float32)[:, None]
    above, below = (lid - y) / side, (y - bottom) / side
    folds = 0.35 * np.exp(-(((above - 0.06) / 0.01) ** 2)) + 0.25 * np.exp(-(((below - 0.09) / 0.02) ** 2))
    rims = 0.5 * np.exp(-((above / 0.02) ** 2)) + 0.25 * np.exp(-((below / 0.012) ** 2))
    beside = np.clip(6 * np.abs(np.linspace(-1, 1, side, dtype=np.float32)) - 3, 0, 1)  # the eye: no folds
    grain = 0.06 * _mottle(rng, above.shape, (5, 7)) + 0.03 * _mottle(rng, above.shape, (60, 80))
    tone = (np.array([0.78, 0.63, 0.54]) ** rng.uniform(1.0, 2.8)).astype(np.float32)
    skin: Field = np.exp(grain - (1 - beside) ** 2 * (folds + rims))[..., None] * tone
    return skin


def _eyeball(rng: Rng, y: Field, lid: Field) -> Field:
    """Sclera in the shade of the lid (w,), and an iris that looks up; for rows y (h, 1)."""
    w = len(lid)
    radius, middle = 0.185 * w, w * rng.uniform(0.43, 0.57)
    x, y_iris = np.arange(w, dtype=np.float32) - middle, y - lid[w // 2] - rng.uniform(0.1, 0.5) * radius
    shade = 1 - 0.45 * np.exp((lid - y) / (0.05 * w)) - 0.25 * (2 * x / w) ** 4
    eye: Field = shade[..., None] * np.array([0.82, 0.75, 0.71], np.float32)
    iris, pupil, lamp = (0.24, 0.13, 0.08), (0.02, 0.02, 0.02), (0.9, 0.9, 0.9)
    for colour, size, offset in ((iris, 1.0, 0.0), (pupil, 0.4, 0.0), (lamp, 0.1, 0.35)):
        distance = np.hypot(x / radius - offset, y_iris / radius - offset)
        _paint(eye, np.array(colour, np.float32), np.clip((size - distance) * 12 + 0.5, 0, 1))
    return eye


def _lashes(rng: Rng, edge: Field, length: float) -> Points:
    """Fifty bent lashes (50, 3, 2) along an edge (w,), spread outwards; negative lengths point up."""
    roots = rng.uniform(0.04, 0.96, 50)
    x, y = roots * len(edge), np.interp(roots * len(edge), np.arange(len(edge)), edge)
    reach = length * rng.uniform(0.5, 1.0, 50)
    lean = np.abs(reach) * (1.6 * roots - 0.8 + rng.normal(0, 0.15, 50))
    return np.stack([x, y, x + 0.3 * lean, y + 0.6 * reach, x + lean, y + reach], axis=-1).reshape(50, 3, 2)


def _photograph(rng: Rng, scene: Field, alpha: Field, site: Site) -> Pixels:
    """Light, cast, lens and sensor: reflectance (h, w, 3) and coverage (h, w) -> uint8 (h, w, 4)."""
    h, w = alpha.shape
    down, across = (np.exp(rng.normal(0, 0.08) * np.linspace(-1, 1, n, dtype=np.float32)) for n in (h, w))
    exposure = np.array([REDNESS[1] * site.red, 0, site.blue]) + min(site.light + rng.normal(0, 0.16), 0.15)
    light = scene * np.outer(down, across)[..., None] * (255 * np.exp(exposure)).astype(np.float32)
    exposed = Image.fromarray(np.minimum(light, 255).astype(np.uint8))
    lens = ImageFilter.BoxBlur(rng.uniform(0.3, 0.8) * max(1, w / 400))
    noise = rng.uniform(0.3, 1.0) * rng.standard_normal((h, w, 1), dtype=np.float32) + 0.5
    seen = np.clip(np.asarray(exposed.filter(lens)) + noise, 0, 255)
    image = np.dstack([seen.astype(np.uint8), np.rint(255 * alpha).astype(np.uint8)])
    return image * (image[..., 3:] > 0)


@dataclass(frozen=True)
class EyelidSet:
    """Made photographs of eyelids, some of them copies of others. Any one can be made without the rest.

    Args:
        count, seed: how many images, and where all randomness begins.
        signal: distance between the classes' mean `redness`, in within-class standard deviations. Its AUC is
            Phi(signal / sqrt(2)): .50 at 0, .76 at 1, .98 at 3. Who corrects for the sites' casts sees more.
        sites: how many sites, each of another cast; a site says nothing about haemoglobin.
        copies: expected share of images that are copies of another's photograph, and share its group.
        conflicts: expected share of the copies that carry another child's label, site and attributes.
        cutout: tissue only, with alpha as its mask; or opaque photographs with the skin around it.
        side: median width of the cut-outs, or width of the photographs, in pixels.

    Raises:
        DataError: a parameter out of range.
    """

    count: int = 200
    seed: int = 0
    signal: float = 1.0
    sites: int = 3
    copies: float = 0.0
    conflicts: float = 0.0
    cutout: bool = True
    side: int = WIDTH

    def __post_init__(self) -> None:
        ranges = {"count": (1, 99_999), "seed": (0, 2**63), "sites": (1, 99), "side": (64, 8192)}
        ranges |= {"signal": (0, 10), "copies": (0, 1), "conflicts": (0, 1)}
        for name, (low, high) in ranges.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise DataError(f"expected phantoms with {name} from {low} to {high}, got {value}")

    def item(self, index: int) -> tuple[Row, Pixels]:
        """A row of `labels.csv` and its image, uint8 (h, w, 4), made from the seed and the index alone."""
        source = self._source(index)
        shown = draw_subject(self._rng(source, 1), self.sites)
        look: dict[str, Any] = {"signal": self.signal, "side": self.side, "cutout": self.cutout}
        image = eyelid(self._rng(source, 2), shown.hb, site=made_sites(self.sites)[shown.site], **look)
        if source == index:
            return _row(index, source, shown), image
        rng = self._rng(index, 3)
        image = _copied(rng, image)
        said = draw_subject(rng, self.sites) if rng.random() < self.conflicts else shown
        return _row(index, source, said), image

    def _source(self, index: int) -> int:
        """The image whose photograph this one shows: itself, as a rule."""
        rng = self._rng(index, 0)
        return self._source(int(rng.integers(index))) if index and rng.random() < self.copies else index

    def _rng(self, index: int, stream: int) -> Rng:
        return np.random.default_rng((self.seed, index, stream))


def _row(index: int, source: int, subject: Subject) -> Row:
    row: Row = {"image": f"images/{index:05d}.png", "label": label_of(subject.hb)}
    row |= {"group": f"photograph-{source:05d}", "site": f"site-{subject.site + 1}"}
    return row | {"age_months": subject.age_months, "sex": subject.sex, "hb": subject.hb}


def _copied(rng: Rng, image: Pixels) -> Pixels:
    """A copy as they turn up in data sets: flipped, turned, cropped, encoded again, or none of these."""
    if rng.random() < 0.35:
        image = image[:, ::-1]
    image = np.rot90(image, rng.choice([0, 0, 0, 1, 2, 3]))
    if rng.random() < 0.35:
        (top, bottom), (left, right) = (rng.uniform([0, 0.94], [0.06, 1]) * n for n in image.shape[:2])
        image = image[int(top) : int(bottom), int(left) : int(right)]
    image = np.ascontiguousarray(image)
    if rng.random() < 0.35:
        file = io.BytesIO()
        Image.fromarray(image[..., :3]).save(file, "JPEG", quality=int(rng.integers(75, 95)))
        image[..., :3] = np.asarray(Image.open(file)) * (image[..., 3:] > 0)
    return image


def eyelids(root: Path, **parameters: Any) -> Path:
    """Write made photographs of eyelids; the parameters are those of `EyelidSet`.

    The same parameters give the same bytes, as long as numpy and Pillow stay the same. Returns root.

    Raises:
        DataError: a parameter out of range, or a root that holds anything but these phantoms.
    """
    made = EyelidSet(**parameters)
    return _write(root, {"kind": "eyelids", **asdict(made)}, map(made.item, range(made.count)))


def _write(root: Path, origin: dict[str, Any], items: Iterable[tuple[Row, Pixels]]) -> Path:
    """Write rows and images, and what they were made from, unless root holds them already."""
    origin = {"note": "made data, no patients", "drawing": DRAWING, **origin}
    note = root / "phantoms.json"
    if note.is_file() and json.loads(note.read_text("utf-8")) == origin:
        return root
    with whole_folder(root) as folder:
        (folder / "images").mkdir()
        rows: list[Row] = []
        for row, image in items:
            picture = image if image[..., 3].min() < 255 else image[..., :3]
            Image.fromarray(picture).save(folder / str(row["image"]), compress_level=1)
            rows.append(row)
        lines = [",".join(map(str, fields)) for fields in (rows[0], *(row.values() for row in rows))]
        write_text(folder / "labels.csv", "\n".join(lines) + "\n")
        write_json(folder / note.name, origin)
    return root


PHANTOMS: dict[str, Callable[..., Path]] = {"eyelids": eyelids}
