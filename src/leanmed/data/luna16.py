"""LUNA16's scans as they are distributed, or any scans in that layout.

```
DIR/subset0/UID.mhd, UID.raw ... subset9/    the scans; some subsets are enough
DIR/annotations.csv                          seriesuid,coordX,coordY,coordZ,diameter_mm: the nodules, world mm
DIR/annotations_excluded.csv                 the same of findings that count neither way; may be missing
DIR/seriesuids.csv                           every series there is, one a line; may be missing
DIR/luna16_series_to_patient.csv             seriesuid,patient_id; may be missing
```
Setio et al., "Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in
computed tomography images: the LUNA16 challenge", Medical Image Analysis 42, 2017.

`seg-lungs/` is not read: slices are cut to the lungs by the same code in training and in prediction, where there is no
such mask. A record's group is the patient where the table of patients is there, else the series. Its site is the
subset, since the hospitals are not told: a split that leaves one site out is LUNA16's own ten-fold. Annotations of
series whose scans are not there are left aside and counted.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leanmed.data.box_formats import square
from leanmed.data.tables import name_below, read_rows, read_text
from leanmed.data.telling import each, some
from leanmed.errors import DataError, InputError
from leanmed.reading.ct import Grid, Triple
from leanmed.reading.lung_slices import one_mm_size
from leanmed.reading.orientation import Orientation
from leanmed.reading.volume import open_volume
from leanmed.records import Boxes, Record, Records

PLACE = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
PATIENTS = "luna16_series_to_patient.csv"
UNKNOWN_DIAMETER = 10.0  # mm, of an excluded finding whose diameter is not known
Spot = tuple[float, float, float, float]  # x, y, z in voxels, and a diameter in mm


@dataclass(frozen=True)
class Finding:
    """A place in a scan.

    Args:
        world: its centre (x, y, z), mm.
        diameter: mm; below 0 where it is not known, as for most excluded findings.
    """

    world: Triple
    diameter: float


@dataclass(frozen=True)
class Scans:
    """What is known of the scans that are there, by series.

    Args:
        files: the scan.
        nodules: what is to be found in it.
        excluded: what counts neither as found nor as a false positive.
        groups: the patient, or the series itself.
        notes: what to say of scans, annotations and patients that are not there.
    """

    files: Mapping[str, Path]
    nodules: Mapping[str, tuple[Finding, ...]]
    excluded: Mapping[str, tuple[Finding, ...]]
    groups: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_scans(root: Path) -> Scans:
    """The scans below a folder with their annotations, for evaluation by LUNA16's rules.

    Raises:
        DataError: no scans, or one twice; a table without its columns, or with a value that is no number; annotations
            or a scan of a series that `seriesuids.csv` does not list.
    """
    paths = sorted(path for path in root.glob("subset*/*.mhd") if not path.name.startswith("."))
    files = {path.stem: path for path in paths}
    if not files or len(files) < len(paths):
        raise DataError(
            f"{root}: expected LUNA16's scans, each once, as subset0/UID.mhd and so on, got {len(paths)} files of "
            f"{len(files)} series; give the folder that holds the subsets"
        )
    nodules = _findings(root / "annotations.csv")
    excluded = _findings(root / "annotations_excluded.csv", optional=True)
    notes = _check_listed(root, files, nodules.keys() | excluded.keys())
    patients = _patients(root)
    if alone := set(files) - patients.keys():
        notes.append(
            f"No table names the patients of {len(alone)} of {len(files)} series: each of them is a group of its own, "
            "and two series of one patient may stand on both sides of a split. "
            f"{PATIENTS} (seriesuid, patient_id) names them."
        )
    return Scans(
        files=files,
        nodules={uid: nodules.get(uid, ()) for uid in files},
        excluded={uid: excluded.get(uid, ()) for uid in files},
        groups={uid: patients.get(uid, uid) for uid in files},
        notes=tuple(notes),
    )


def check_places(scans: Scans, series: Iterable[str]) -> None:
    """Refuse nodules outside their scans.

    Raises:
        InputError: a scan that cannot be read.
        DataError: a nodule outside its scan.
    """
    for uid in series:
        grid = open_volume(scans.files[uid]).grid
        for finding in scans.nodules[uid]:
            _inside(uid, grid, finding)


def read(root: Path) -> Records:
    """One slice through the centre of each nodule, and one slice of each scan that no nodule crosses.

    A slice holds the boxes of all nodules that cross it: squares as wide as the nodule, in pixels of the slice at 1 mm.
    The slice without is drawn, from the series' identifier alone, from those between the lowest and the highest
    finding, or the middle half of a scan that has none.

    Raises:
        DataError: as `read_scans`; a scan that cannot be read, or an annotation outside its scan.
    """
    return _read(root, lambda placed: [*placed.central(), *placed.empty()])


def read_centres(root: Path) -> Records:
    """The slice in the middle of each scan, as the paper says; 3 to 4 % of the nodules lie there.

    Raises: as `read`.
    """
    return _read(root, lambda placed: [placed.grid.shape[0] // 2])


@dataclass(frozen=True)
class _Placed:
    """The findings of a scan in its voxels, x, y, z and diameter in mm: nodules, and what is neither one nor none.

    Voxels and slices are counted in the order of the patient's axes, as the network sees them.
    """

    uid: str
    grid: Grid
    nodules: Sequence[Spot]
    excluded: Sequence[Spot]

    def central(self) -> list[int]:
        """The slice nearest to each nodule's centre."""
        return sorted({self._nearest(z) for _, _, z, _ in self.nodules})

    def empty(self) -> list[int]:
        """One slice of the lungs without a finding of either kind in it or in its neighbours, if there is one."""
        count, heights = self.grid.shape[0], [finding[2] for finding in (*self.nodules, *self.excluded)]
        low, high = min(heights, default=count / 4), max(heights, default=3 * count / 4)
        free = [z for z in range(self._nearest(low), self._nearest(high) + 1) if not self._touched(z)]
        seed = int.from_bytes(hashlib.sha256(self.uid.encode()).digest()[:8])
        return [int(np.random.default_rng(seed).choice(free))] if free else []

    def boxes(self, z: int) -> Boxes:
        """The nodules that a slice crosses."""
        (_, rows, columns), (height, width) = self.grid.shape, one_mm_size(self.grid)
        crossing = [nodule for nodule in self.nodules if self._crosses(nodule, z)]
        squares = [
            square(((x + 0.5) * width / columns, (y + 0.5) * height / rows), diameter, (width, height))
            for x, y, _, diameter in crossing
        ]
        return Boxes(tuple(squares), tuple(nodule[3] for nodule in crossing))

    def _touched(self, z: int) -> bool:
        findings = (*self.nodules, *self.excluded)
        return any(self._crosses(finding, near) for finding in findings for near in (z - 1, z, z + 1))

    def _crosses(self, nodule: Spot, z: int) -> bool:
        """Thick slices may all miss a small nodule's sphere: the nearest counts in any case."""
        thickness = self.grid.spacing[2]
        return z == self._nearest(nodule[2]) or abs(z - nodule[2]) * thickness < nodule[3] / 2

    def _nearest(self, height: float) -> int:
        return min(max(round(height), 0), self.grid.shape[0] - 1)


def _read(root: Path, choose: Callable[[_Placed], Sequence[int]]) -> Records:
    scans = read_scans(root)

    def slices(item: tuple[str, Path]) -> list[Record]:
        uid, path = item
        placed, orientation = _placed(uid, path, scans)
        return [
            Record(
                id=f"{name_below(root, path)}#{orientation.level(z)}",
                image=path,
                target=placed.boxes(z),
                group=scans.groups[uid],
                site=path.parent.name,
                frame=orientation.level(z),
            )
            for z in choose(placed)
        ]

    return Records((record for records in each(scans.files.items(), slices) for record in records), scans.notes)


def _placed(uid: str, path: Path, scans: Scans) -> tuple[_Placed, Orientation]:
    """The findings in the order of the patient's axes, and how the scan is stored."""
    try:
        stored = open_volume(path).grid
    except InputError as error:
        raise DataError(str(error)) from error
    orientation = Orientation.of(stored)
    grid = orientation.grid(stored)
    nodules = [(*_inside(uid, grid, finding), finding.diameter) for finding in scans.nodules[uid]]
    excluded = [(*_triple(grid, finding), _known(finding.diameter)) for finding in scans.excluded[uid]]
    return _Placed(uid, grid, nodules, excluded), orientation


def _triple(grid: Grid, finding: Finding) -> Triple:
    x, y, z = grid.voxel(finding.world).tolist()
    return x, y, z


def _known(diameter: float) -> float:
    return diameter if diameter > 0 else UNKNOWN_DIAMETER


def _inside(uid: str, grid: Grid, finding: Finding) -> Triple:
    """The voxel (x, y, z) of a nodule's centre.

    Raises:
        DataError: it lies outside the scan.
    """
    x, y, z = _triple(grid, finding)
    depth, rows, columns = grid.shape
    if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5 and -0.5 <= z <= depth - 0.5):
        raise DataError(
            f"annotations.csv: {uid}: expected nodules inside the scan, got one at {finding.world} mm, voxel "
            f"({x:.1f}, {y:.1f}, {z:.1f}) of {columns} x {rows} x {depth}; correct the table"
        )
    return x, y, z


def _findings(table: Path, *, optional: bool = False) -> dict[str, tuple[Finding, ...]]:
    if optional and not table.is_file():
        return {}

    def finding(row: Mapping[str, str]) -> tuple[str, Finding]:
        try:
            x, y, z, diameter = (float(row[column]) for column in PLACE[1:])
        except ValueError:
            x = y = z = diameter = math.nan
        if not math.isfinite(x + y + z + diameter) or (diameter <= 0 and not optional):
            raise DataError(
                f"{table}: {row['seriesuid']}: expected a place and a diameter in mm, got {row}; correct it"
            )
        return row["seriesuid"], Finding((x, y, z), diameter)

    found = defaultdict(list)
    for uid, one in each(read_rows(table, needed=PLACE), finding):
        found[uid].append(one)
    return {uid: tuple(findings) for uid, findings in found.items()}


def _check_listed(root: Path, files: Mapping[str, Path], annotated: set[str]) -> list[str]:
    """Refuse series that are not listed; what to say of those that are not there."""
    table = root / "seriesuids.csv"
    listed = set(read_text(table).split()) if table.is_file() else annotated | set(files)
    if strangers := (annotated | set(files)) - listed:
        raise DataError(
            f"{root}: expected scans and annotations of the series that {table.name} lists; got others: "
            f"{some(strangers)}; correct the tables"
        )
    absent = listed - set(files)
    note = f"{len(files)} scans are there; those of {len(absent)} other series that the tables name are not."
    return [note] * bool(absent)


def _patients(root: Path) -> dict[str, str]:
    table = root / PATIENTS
    if not table.is_file():
        return {}
    return {row["seriesuid"]: row["patient_id"] for row in read_rows(table, needed=("seriesuid", "patient_id"))}
