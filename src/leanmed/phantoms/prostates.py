"""Made MRI of the prostate from several sites, whose scanners differ in ways that are known.

A pelvis is an ellipse of fat and muscle with a bladder, a rectum and a prostate, an ellipsoid with a wobbling border in
a dark capsule, its inner zone darker than its outer one. Sites differ as real ones do: in contrast, the field's bias,
noise, resolution, and the coil: one in the rectum makes what is near it bright. They stand in for patients in tests and
first steps, never in a claim about patients.

Places are in mm from the middle of the field of view, along z, y, x: to the head, to the back and to the left.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leanmed.files import whole_folder
from leanmed.reading.ct import Floats, Grid, Triple
from leanmed.reading.nifti import nifti_bytes

Rng = np.random.Generator
Where = NDArray[np.bool_]

FIELD = (140.0, 180.0)  # mm along a side of a slice
# How bright each tissue is in T2-weighted MRI, as a share of urine.
LEVELS = {
    "air": 0.02,
    "fat": 0.6,
    "muscle": 0.22,
    "bladder": 1.0,
    "wall": 0.35,
    "rectum": 0.1,
    "capsule": 0.25,
    "outer": 0.8,
    "inner": 0.5,
}
TISSUES = tuple(LEVELS)
AXES = ((14.0, 19.0), (15.0, 21.0), (19.0, 28.0))  # mm, half axes of prostates along z, y, x
WAVES, WAVE = 6, 0.05  # of a prostate's border, and how high each is as a share of the radius
CAPSULE = 0.92  # share of the radius at which it begins
TEXTURE = 0.08  # share by which tissues vary within themselves
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Site:
    """How a site's scanner shows tissues.

    Args:
        levels: of `TISSUES`, as shares of urine.
        bias: amplitude of the slow brightening across the field, a share.
        noise: standard deviation of the noise in each of the two channels, a share of urine.
        blur: mm, standard deviation of the blur within a slice.
        coil: how much brighter it is near the coil, a share.
        endorectal: whether the coil lies in the rectum, or else around the body.
        field: mm along a side of a slice.
        thickness: mm between slices.
        scale: the number that urine has.
        flipped: whether slices are stored with left and right, and front and back, swapped.
    """

    levels: Floats
    bias: float
    noise: float
    blur: float
    coil: float
    endorectal: bool
    field: float
    thickness: float
    scale: float
    flipped: bool


@dataclass(frozen=True, eq=False)
class Case:
    """One made volume: (z, y, x) in the patient's order, int16, and where the prostate is in it."""

    voxels: NDArray[np.int16]
    prostate: Where


def made_site(seed: int, number: int) -> Site:
    """The scanner of a site; the same seed and number give the same."""
    rng = np.random.default_rng((seed, number, 0))
    contrast = rng.uniform(0.55, 1.7)
    levels = np.array(list(LEVELS.values())) ** contrast * rng.uniform(0.8, 1.2, len(LEVELS))
    return Site(
        levels=levels,
        bias=rng.uniform(0.05, 0.45),
        noise=rng.uniform(0.01, 0.08),
        blur=rng.uniform(0.3, 1.6),
        coil=rng.uniform(0.3, 1.2),
        endorectal=bool(rng.random() < 0.35),
        field=rng.uniform(*FIELD),
        thickness=rng.uniform(3.2, 4.2),
        scale=rng.uniform(150, 2000),
        flipped=number % 2 == 1,
    )


def made_case(seed: int, number: int, case: int, side: int = 96, slices: int = 12) -> Case:
    """A case of a site; the same numbers give the same.

    Args:
        seed: of all sites.
        number: the site's.
        case: the case's.
        side: pixels along each side of a slice.
        slices: how many.
    """
    site, rng = made_site(seed, number), np.random.default_rng((seed, number, 1, case))
    lengths = ((slices, site.thickness), (side, site.field / side), (side, site.field / side))
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * step for n, step in lengths), indexing="ij", sparse=True)
    centre = rng.uniform(-1, 1, 3) * (3.0, 5.0, 4.0)
    axes = np.array([rng.uniform(*half) for half in AXES])
    tissue = np.full((slices, side, side), TISSUES.index("air"))
    rectum = centre[1] + axes[1] + rng.uniform(9, 12)

    def lay(name: str, where: Where) -> None:
        tissue[np.broadcast_to(where, tissue.shape)] = TISSUES.index(name)

    def ellipse(middle: tuple[float, float], half: tuple[float, float]) -> Where:
        inside: Where = np.hypot((y - middle[0]) / half[0], (x - middle[1]) / half[1]) < 1
        return inside

    width = site.field * rng.uniform(0.44, 0.49)
    body = ellipse((0, 0), (0.8 * width, width))
    lay("fat", body)
    for left in (-1, 1):
        lay("muscle", ellipse((centre[1], centre[2] + left * (axes[2] + 17)), (rng.uniform(26, 34), 11.0)))
    lay("muscle", ellipse((rectum + 22, centre[2]), (7.0, 40.0)) & body)
    reach = rng.uniform(20, 30)
    above = np.array([axes[0] + 0.6 * reach, -10.0, 0.0]) + centre
    lay("bladder", ((z - above[0]) / reach) ** 2 + ((y - above[1]) / 26) ** 2 + ((x - above[2]) / 34) ** 2 < 1)
    lay("wall", ellipse((rectum, centre[2]), (rng.uniform(8, 10), rng.uniform(11, 15))))
    lay("rectum", ellipse((rectum, centre[2]), (rng.uniform(4, 6), rng.uniform(5, 9))))
    away, wave = _from_centre(rng, (z - centre[0], y - centre[1], x - centre[2]), axes)
    prostate = away < wave
    lay("capsule", prostate)
    lay("outer", away < CAPSULE * wave)
    before = ((z - centre[0]) / axes[0], (y - centre[1]) / axes[1] + 0.25, (x - centre[2]) / axes[2])
    lay("inner", np.sqrt(sum(part**2 for part in before)) < 0.62 * wave)
    near = np.hypot(np.hypot(z - centre[0], y - rectum), x - centre[2])
    signal = site.levels[tissue] * (1 + TEXTURE * _slow(rng, tissue.shape, (slices, side // 4, side // 4)))
    voxels = _scanned(rng, site, signal, _coil(site, near, y))
    return Case(voxels, prostate)


def _from_centre(rng: Rng, from_centre: tuple[Floats, Floats, Floats], axes: Floats) -> tuple[Floats, Floats]:
    """How far each voxel lies from the middle in radii, and how many radii the border lies away in its direction."""
    scaled = np.broadcast_arrays(*(part / half for part, half in zip(from_centre, axes, strict=True)))
    away = np.sqrt(sum(part**2 for part in scaled))
    direction = np.stack(scaled) / np.maximum(away, 1e-6)
    waves, phases = rng.normal(0, 2.5, (WAVES, 3)), rng.uniform(0, 2 * np.pi, WAVES)
    wave = 1 + WAVE * np.sin(np.tensordot(waves, direction, 1) + phases[:, None, None, None]).sum(0)
    return away, wave


def _coil(site: Site, near: Floats, y: Floats) -> Floats:
    """How sensitive the coil is: around the body more so at front and back, in the rectum around it."""
    if site.endorectal:
        return 1 + 3 * site.coil * np.exp(-near / 18)
    return 1 + site.coil * (2 * y / site.field) ** 2


def _scanned(rng: Rng, site: Site, signal: Floats, coil: Floats) -> NDArray[np.int16]:
    """Blurred, biased and noisy: the magnitude of two noisy channels, as MR has it."""
    shape = signal.shape
    blur = _blur(shape[1], site.blur * shape[1] / site.field)
    blurred = np.einsum("ay,zyx,bx->zab", blur, signal, blur, optimize=True)
    seen = blurred * coil * np.exp(site.bias * _slow(rng, shape, (2, 3, 3)))
    real, imaginary = rng.normal(0, site.noise, (2, *shape))
    numbers = np.clip(site.scale * np.hypot(seen + real, imaginary), 0, np.iinfo(np.int16).max)
    stored: NDArray[np.int16] = numbers.round().astype(np.int16)
    return stored


def _blur(length: int, width: float) -> Floats:
    """(length, length): each row the weights of a bell of a width in pixels."""
    apart = np.arange(length) - np.arange(length)[:, None]
    weights = np.exp(-0.5 * (apart / max(width, 0.1)) ** 2)
    bell: Floats = weights / weights.sum(axis=1, keepdims=True)
    return bell


def _slow(rng: Rng, shape: tuple[int, ...], knots: tuple[int, int, int]) -> Floats:
    """A field of mean 0 and deviation 1 at its knots, linear between them."""
    field = rng.standard_normal(knots)
    for axis, (length, count) in enumerate(zip(shape, knots, strict=True)):
        place = np.linspace(0, count - 1, length)
        weights = np.maximum(1 - np.abs(place[:, None] - np.arange(count)), 0)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field


def write_prostates(
    root: Path, cases: int = 6, sites: int = 6, side: int = 96, slices: int = 12, seed: int = 0
) -> Path:
    """Write made MRI as the data set `mr-sites` reads it: `site-1/Case00.nii.gz`, `Case00_segmentation.nii.gz`...

    Args:
        root: a new or empty folder.
        cases: of each site.
        sites: how many.
        side: pixels along each side of a slice.
        slices: of each case.
        seed: the same gives the same bytes.

    Returns:
        root.

    Raises:
        DataError: a root that holds something.
        MissingExtraError: without nibabel.
    """
    with whole_folder(root) as folder:
        for number in range(sites):
            site = made_site(seed, number)
            (folder / f"site-{number + 1}").mkdir()
            for case in range(cases):
                made, grid = made_case(seed, number, case, side, slices), _grid(site, side, slices)
                for name, voxels in ("", made.voxels), ("_segmentation", made.prostate.astype(np.uint8)):
                    stored = voxels[:, ::-1, ::-1] if site.flipped else voxels
                    path = folder / f"site-{number + 1}" / f"Case{case:02d}{name}.nii.gz"
                    path.write_bytes(gzip.compress(nifti_bytes(stored, grid), mtime=0))
    return root


def _grid(site: Site, side: int, slices: int) -> Grid:
    """The grid as stored, the middle of the field at 0, 0, 0."""
    step = site.field / side
    half = (side - 1) / 2 * step * (1 if site.flipped else -1)
    origin: Triple = (half, half, -(slices - 1) / 2 * site.thickness)
    return Grid((slices, side, side), (step, step, site.thickness), origin, FLIPPED if site.flipped else AXIAL)
