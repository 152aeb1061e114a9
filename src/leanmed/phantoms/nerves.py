"""Made ultrasound of nerves, for the outlines of which everything is known.

A patient is skin, fat and two layers of muscle with fasciae between them. In the muscle lie nerves: ovals with a bright
rim, the epineurium, and a honeycomb of dark fascicles in bright tissue. Round them lie what is taken for them: vessels,
dark ovals below which it is brighter, and lymph nodes, ovals with a faint rim and an even inside. Below bone and small
bright reflectors there are shadows. Patients differ in all of this, and in depth, gain and the width of the beam; the
frames of one patient show the same, with the probe moved a little. The images stand in for patients in tests and first
steps, never in a claim about patients.

An image is made as ultrasound is: scatterers with random phases, as strong as the tissue's echo, are blurred by the
pulse, which is wider across than along the beam; their envelope is speckle with Rayleigh's distribution. The echo fades
with depth by what the tissue above it takes, the scanner amplifies it with depth again, and grey is its logarithm.

Places are in mm: y from the skin down, x from the middle of the probe to the right. Echoes are in dB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.errors import DataError
from leanmed.files import whole_folder, write_text

Floats = NDArray[np.float64]
Where = NDArray[np.bool_]
Rng = np.random.Generator

Kind = Literal["nerve", "vessel", "node"]

DEPTH = (28.0, 42.0)  # mm, as wide as deep
# The echo of each tissue, dB below the brightest, and what it takes from the pulse on both ways, dB per mm.
ECHO = {"skin": -6.0, "fat": -26.0, "muscle": -29.0, "deep": -31.0, "vessel": -50.0, "bone": -4.0}
TAKES = {"skin": 1.0, "fat": 0.6, "muscle": 1.1, "deep": 1.2, "vessel": 0.1, "bone": 25.0}
RIM = 0.16  # of an oval's radius
LATTICE = (0.75, 1.1)  # mm between fascicles
WAVES = (2, 3, 5)  # of an oval's border around it


@dataclass(frozen=True)
class Oval:
    """Something round.

    Args:
        kind: what it is.
        x, y: mm, its middle.
        a, b: mm, half of its width and of its height.
        turn: radians.
        waves: how high each of `WAVES` is, as a share of the radius, and where it begins, radians.
        level: dB by which it is brighter than others of its kind.
    """

    kind: Kind
    x: float
    y: float
    a: float
    b: float
    turn: float
    waves: tuple[tuple[float, float], ...]
    level: float

    def away(self, x: Floats, y: Floats) -> Floats:
        """How far points lie from the middle; 1 on the border."""
        across = (x - self.x) * np.cos(self.turn) + (y - self.y) * np.sin(self.turn)
        along = (y - self.y) * np.cos(self.turn) - (x - self.x) * np.sin(self.turn)
        angle = np.arctan2(along / self.b, across / self.a)
        bumps = sum(height * np.sin(n * angle + at) for n, (height, at) in zip(WAVES, self.waves, strict=True))
        away: Floats = np.hypot(across / self.a, along / self.b) / (1 + bumps)
        return away


@dataclass(frozen=True)
class Line:
    """A fascia: a bright line across the image, at a depth of `y` mm, with a slope and a wave."""

    y: float
    slope: float
    height: float
    length: float
    phase: float
    thickness: float
    echo: float

    def depth(self, x: Floats) -> Floats:
        """mm, at each x."""
        wave: Floats = self.y + self.slope * x + self.height * np.sin(x / self.length + self.phase)
        return wave


@dataclass(frozen=True)
class Patient:
    """What the frames of a patient have in common.

    Args:
        age, sex: which nothing in the images follows.
        depth: mm that the image shows, down and across.
        fat: mm of skin and fat above the muscle.
        middle: mm, where the deeper muscle begins.
        lines: the fasciae.
        ovals: nerves first.
        bone: x, y and radius of a bone's rounded top, mm; None: there is none.
        reflectors: x, y and width of small bright things, mm.
        striae: dB by which the fibres of the muscle are brighter than the rest of it.
        pulse: mm along and across the beam.
        amplified: dB per mm by which the scanner makes up for the fading.
        gain: dB.
        span: dB between black and white.
        noise: dB, the scanner's own.
        looks: from how many directions the scanner looks, the mean of which it shows.
    """

    age: int
    sex: str
    depth: float
    fat: float
    middle: float
    lines: tuple[Line, ...]
    ovals: tuple[Oval, ...]
    bone: tuple[float, float, float] | None
    reflectors: tuple[tuple[float, float, float], ...]
    striae: float
    pulse: tuple[float, float]
    amplified: float
    gain: float
    span: float
    noise: float
    looks: int


@dataclass(frozen=True, eq=False)
class Frame:
    """A made image, (h, w) uint8, and where each of its nerves is, (h, w) bool, rim and all."""

    pixels: NDArray[np.uint8]
    nerves: tuple[Where, ...]


def made_patient(seed: int, number: int, nerves: int = 1) -> Patient:
    """A patient; the same numbers give the same.

    Args:
        seed: of all patients.
        number: the patient's.
        nerves: how many; they do not touch.
    """
    rng = np.random.default_rng((seed, number, 0))
    depth = rng.uniform(*DEPTH)
    fat = rng.uniform(0.1, 0.24) * depth
    middle = rng.uniform(0.5, 0.7) * depth
    fasciae = [fat, middle, *rng.uniform(0.12 * depth, 0.85 * depth, rng.integers(1, 4))]
    wanted: list[Kind] = ["nerve"] * nerves
    wanted += ["vessel"] * int(rng.integers(1, 4))
    wanted += ["node"] * int(rng.integers(0, 3))
    return Patient(
        age=int(rng.integers(18, 85)),
        sex=str(rng.choice(["F", "M"])),
        depth=depth,
        fat=fat,
        middle=middle,
        lines=tuple(_line(rng, y) for y in fasciae),
        ovals=_placed(rng, wanted, depth),
        bone=_bone(rng, depth),
        reflectors=tuple(
            (rng.uniform(-0.45, 0.45) * depth, rng.uniform(0.1, 0.45) * depth, rng.uniform(0.6, 2.2))
            for _ in range(rng.integers(0, 3))
        ),
        striae=rng.uniform(5, 11),
        pulse=(rng.uniform(0.1, 0.18), rng.uniform(0.25, 0.5)),
        amplified=rng.uniform(0.75, 1.1),
        gain=rng.uniform(-16, -6),
        span=rng.uniform(42, 56),
        noise=rng.uniform(-78, -68),
        looks=int(rng.integers(1, 4)),
    )


def _line(rng: Rng, y: float) -> Line:
    return Line(
        y=y,
        slope=rng.normal(0, 0.08),
        height=rng.uniform(0.1, 0.8),
        length=rng.uniform(3, 9),
        phase=rng.uniform(0, 2 * np.pi),
        thickness=rng.uniform(0.12, 0.35),
        echo=rng.uniform(-16, -6),
    )


def _bone(rng: Rng, depth: float) -> tuple[float, float, float] | None:
    if rng.random() < 0.5:
        return None
    radius = rng.uniform(5, 12)
    return rng.uniform(-0.45, 0.45) * depth, rng.uniform(0.78, 0.95) * depth + radius, radius


def _placed(rng: Rng, wanted: Sequence[Kind], depth: float) -> tuple[Oval, ...]:
    """Ovals that do not touch; of those that are no nerves, as many as find room in a few tries."""
    placed: list[Oval] = []
    for kind in wanted:
        for _ in range(40 if kind != "nerve" else 400):
            oval = _oval(rng, kind, depth)
            if all(np.hypot(oval.x - o.x, oval.y - o.y) > 1.15 * (max(o.a, o.b) + max(oval.a, oval.b)) for o in placed):
                placed.append(oval)
                break
    return tuple(placed)


def _oval(rng: Rng, kind: Kind, depth: float) -> Oval:
    a = {"nerve": rng.uniform(2.2, 5.0), "vessel": rng.uniform(1.2, 4.2), "node": rng.uniform(1.8, 4.0)}[kind]
    wave = 0.02 if kind == "vessel" else 0.06
    return Oval(
        kind=kind,
        x=rng.uniform(-0.33, 0.33) * depth,
        y=rng.uniform(0.25, 0.65) * depth,
        a=a,
        b=a * rng.uniform(0.5, 0.85),
        turn=rng.normal(0, 0.3),
        waves=tuple((rng.normal(0, wave), rng.uniform(0, 2 * np.pi)) for _ in WAVES),
        level=rng.normal(0, 2.5),
    )


def made_frame(seed: int, number: int, frame: int, side: int = 128, nerves: int = 1) -> Frame:
    """A frame of a patient; the same numbers give the same.

    Args:
        seed: of all patients.
        number: the patient's.
        frame: the frame's.
        side: pixels along each side.
        nerves: of the patient.
    """
    patient, rng = made_patient(seed, number, nerves), np.random.default_rng((seed, number, 1, frame))
    step = patient.depth / side
    across, down = np.meshgrid((np.arange(side) - (side - 1) / 2) * step, (np.arange(side) + 0.5) * step)
    x, y = _probe(rng, across, down)
    echo, takes = _tissue(np.random.default_rng((seed, number, 2)), rng, patient, x, y)
    where = tuple(oval.away(x, y) < 1 for oval in patient.ovals if oval.kind == "nerve")
    shown = _lit(patient, echo, takes, down, step)
    return Frame(_scanned(rng, patient, shown, down, step), where)


def _probe(rng: Rng, across: Floats, down: Floats) -> tuple[Floats, Floats]:
    """Where in the patient each point of a frame lies: the probe is moved, tilted and pressed a little."""
    moved, tilt, pressed = rng.normal(0, 1.2), rng.normal(0, 0.04), rng.normal(1, 0.03)
    bend, phase = rng.normal(0, 0.3), rng.uniform(0, 2 * np.pi)
    x = across * np.cos(tilt) + down * np.sin(tilt) + moved
    y = (down * np.cos(tilt) - across * np.sin(tilt)) * pressed + bend * np.sin(across / 6 + phase)
    return x, y


def _tissue(own: Rng, rng: Rng, patient: Patient, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The echo of every point, and what it takes from the pulse."""
    names = list(ECHO)
    tissue = np.full(x.shape, names.index("deep"))
    fat, middle = (line.depth(x) for line in patient.lines[:2])
    for name, where in (("muscle", y < middle), ("fat", y < fat), ("skin", y < 1.2)):
        tissue[where] = names.index(name)
    bone = np.zeros(x.shape, bool)
    if patient.bone is not None:
        bone = np.hypot(x - patient.bone[0], y - patient.bone[1]) < patient.bone[2]
        tissue[bone] = names.index("bone")
    echo, takes = (np.array(list(of.values()))[tissue] for of in (ECHO, TAKES))
    fibres = _fibres(rng, x.shape, patient.depth / len(x))
    echo += np.where(y < fat, 0.5, 1.0) * patient.striae * np.maximum(fibres - 0.6, 0) * ~bone
    for line in patient.lines:
        near = np.abs(y - line.depth(x)) / line.thickness
        echo = np.maximum(echo, line.echo - 10 * near**2 + 4 * fibres)
    for oval in patient.ovals:
        _lay(own, oval, x, y, echo, takes)
    for at, depth, width in patient.reflectors:
        spot = (np.abs(x - at) < width / 2) & (np.abs(y - depth) < 0.3)
        echo[spot], takes[spot] = -1.0, 22.0
    return echo, takes


def _lay(rng: Rng, oval: Oval, x: Floats, y: Floats, echo: Floats, takes: Floats) -> None:
    """Put an oval into the tissue."""
    away = oval.away(x, y)
    inside, rim = away < 1, (away < 1) & (away > 1 - RIM)
    if oval.kind == "vessel":
        echo[inside], takes[inside] = ECHO["vessel"], TAKES["vessel"]
        echo[(away < 1) & (away > 0.9)] = -20 + oval.level
    elif oval.kind == "node":
        echo[inside], takes[inside] = rng.uniform(-31, -19) + oval.level, 0.9
        echo[rim] = -17 + oval.level
    else:
        echo[inside], takes[inside] = -17 + oval.level, 1.2
        echo[_fascicles(rng, oval, x, y) & inside] = -31 + oval.level
        echo[rim] = -12 + oval.level


def _fascicles(rng: Rng, oval: Oval, x: Floats, y: Floats) -> Where:
    """The dark rounds of a nerve's honeycomb, on a lattice of triangles whose points are moved a little."""
    step, reach = rng.uniform(*LATTICE), 1.2 * max(oval.a, oval.b)
    rows = range(-int(reach / step) - 1, int(reach / step) + 2)
    lattice = [((column + 0.5 * (row % 2)) * step, row * step * 0.87) for row in rows for column in rows]
    found = np.zeros(x.shape, bool)
    for place in (place for place in lattice if np.hypot(*place) < reach):
        at = np.array([oval.x, oval.y]) + place + rng.normal(0, 0.12 * step, 2)
        found |= np.hypot(x - at[0], y - at[1]) < rng.uniform(0.28, 0.42) * step
    return found


def _fibres(rng: Rng, shape: tuple[int, ...], step: float) -> Floats:
    """Streaks along x of mean 0 and deviation 1."""
    noise = _blurred(rng.standard_normal(shape), 0.15 / step, 2.0 / step)
    streaks: Floats = (noise - noise.mean()) / noise.std()
    return streaks


def _lit(patient: Patient, echo: Floats, takes: Floats, down: Floats, step: float) -> Floats:
    """The echo as it comes back, dB: less what lies above took, and amplified with depth."""
    taken = (np.cumsum(takes, axis=0) - takes) * step
    shadow = _blurred(taken, 0.0, 0.4 / step)
    lit: Floats = echo - shadow + patient.amplified * down
    return lit


def _scanned(rng: Rng, patient: Patient, shown: Floats, down: Floats, step: float) -> NDArray[np.uint8]:
    """Speckle, the scanner's noise, and grey as the logarithm of the envelope."""
    along, across = max(patient.pulse[0] / step, 0.5), max(patient.pulse[1] / step, 0.9)
    power = np.sqrt(4 * np.pi * along * across)  # which noise loses when it is blurred
    own = 10 ** ((patient.noise + patient.amplified * down) / 20)

    def one_channel() -> Floats:
        scattered = _blurred(10 ** (shown / 20) * rng.standard_normal(shown.shape), along, across)
        channel: Floats = power * scattered + own * rng.standard_normal(shown.shape)
        return channel

    envelope = sum(np.hypot(one_channel(), one_channel()) for _ in range(patient.looks)) / patient.looks
    level = 20 * np.log10(np.maximum(envelope, 1e-6)) + patient.gain
    grey: NDArray[np.uint8] = (255 * np.clip(1 + level / patient.span, 0, 1)).round().astype(np.uint8)
    return grey


def _blurred(image: Floats, down: float, across: float) -> Floats:
    """Blurred by bells of two widths in pixels."""
    blurred: Floats = _bell(image.shape[0], down) @ image @ _bell(image.shape[1], across).T
    return blurred


def _bell(length: int, width: float) -> Floats:
    """(length, length): each row the weights of a bell around its own place."""
    apart = np.arange(length) - np.arange(length)[:, None]
    weights = np.exp(-0.5 * (apart / max(width, 0.05)) ** 2)
    bell: Floats = weights / weights.sum(axis=1, keepdims=True)
    return bell


def write_nerves(
    root: Path, patients: int = 12, frames: int = 4, side: int = 128, two_nerves: float = 0.5, seed: int = 0
) -> Path:
    """Write made ultrasound as the data set `masks` reads it.

    ```
    root/manifest.csv      image,mask,patient,age,sex,nerves
    root/images/P000-0.png root/masks/P000-0.png            grey; 255 where a nerve is
    ```

    Args:
        root: a new or empty folder.
        patients: how many.
        frames: of each patient.
        side: pixels along each side of an image, from 32.
        two_nerves: share of the patients who have two nerves, evenly among them; the others have one.
        seed: the same gives the same bytes, and fewer patients or frames are the first of more.

    Returns:
        root.

    Raises:
        DataError: a root that holds something, no patient or frame, a side below 32, or a share outside 0 to 1.
    """
    if patients < 1 or frames < 1 or side < 32 or not 0 <= two_nerves <= 1:
        raise DataError(
            "expected at least one patient and one frame, a side of at least 32 pixels and a share of 0 to 1 with two "
            f"nerves, got {patients}, {frames}, {side} and {two_nerves}; correct them"
        )
    lines = ["image,mask,patient,age,sex,nerves"]
    with whole_folder(root) as folder:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        for number in range(patients):
            nerves = 1 + int((number + 1) * two_nerves) - int(number * two_nerves)
            patient = made_patient(seed, number, nerves)
            for frame in range(frames):
                made, name = made_frame(seed, number, frame, side, nerves), f"P{number:03d}-{frame}.png"
                Image.fromarray(made.pixels).save(folder / "images" / name)
                Image.fromarray(np.uint8(255) * np.any(made.nerves, axis=0)).save(folder / "masks" / name)
                known = f"P{number:03d},{patient.age},{patient.sex},{len(made.nerves)}"
                lines.append(f"images/{name},masks/{name},{known}")
        write_text(folder / "manifest.csv", "\n".join(lines) + "\n")
    return root
