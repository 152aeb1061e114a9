"""Time the reading of CT scans and the CPM, and count what is odd about luna16-slices.

python scripts/measure_ct.py LUNA16_SLICES --out docs/results/ct.json

The scan is a made one of 300 slices of 512 x 512, as MetaImage and as a DICOM series. Times are those of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from leanmed.benchmark.benchmark import machine
from leanmed.data import read_pixels, read_records
from leanmed.files import write_json
from leanmed.phantoms.chest import HEIGHT, WIDTH, made_chest
from leanmed.phantoms.scans import drawn, made_grid, write_mhd, write_series
from leanmed.reading.lung_slices import prepare, three_slices
from leanmed.reading.volume import open_volume
from leanmed.records import Record
from leanmed.tasks.detection.luna16_rules import Points, cpm

SLICES, PIXELS, ROUNDS = 300, 512, 5
SCANS, CANDIDATES, NODULES = 888, 90, 1186
BRIGHTER, SPECKS = 120, 20  # grey levels above the median around, and pixels of a slice that are: it is speckled
SMALL, TISSUE = 9.0, 90  # mm; grey level above which a pixel counts as nodule


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slices", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = {
        "command": "python scripts/measure_ct.py " + " ".join(sys.argv[1:]),
        "seconds": times() | {f"CPM of {SCANS} scans with {CANDIDATES} candidates each": seconds(judge())},
        "luna16-slices": oddities(read_records("luna16-slices", given.slices)),
        "machine": machine(),
    }
    write_json(given.out, found)
    print(found)


def seconds(action: Callable[[], Any]) -> float:
    """The median of the thread's own time."""
    spent = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        action()
        spent.append(time.thread_time() - started)
    return round(statistics.median(spent), 4)


def times() -> dict[str, float]:
    """Making a whole scan ready, and three slices of one, the files being in the system's cache."""
    chest = made_chest(0)
    grid = made_grid(chest, (WIDTH / PIXELS, HEIGHT / PIXELS, chest.depth / SLICES))
    with tempfile.TemporaryDirectory() as folder:
        mhd, series = Path(folder) / "made.mhd", Path(folder) / "series"
        stored = drawn(chest, grid)
        write_mhd(mhd, stored, grid)
        series.mkdir()
        write_series(series, stored, grid)
        found = {}
        for name, path in (("MetaImage", mhd), ("DICOM", series)):
            volume = open_volume(path)
            found[f"{name}: {len(volume)} slices ready"] = seconds(lambda v=volume: prepare(v))
            found[f"{name}: three slices"] = seconds(lambda v=volume: three_slices(v, SLICES // 2))
    return found


def judge() -> Callable[[], Any]:
    """Random candidates among random nodules."""
    rng = np.random.default_rng(0)
    names = np.array([f"scan {k}" for k in range(SCANS)])
    places = rng.uniform(0, 300, (SCANS * CANDIDATES, 3))
    candidates = Points(names.repeat(CANDIDATES), places, rng.uniform(size=len(places)))
    nodules = Points(rng.choice(names, NODULES), rng.uniform(0, 300, (NODULES, 3)), rng.uniform(3, 30, NODULES))
    return lambda: cpm(names.tolist(), candidates, nodules)


def oddities(records: list[Record]) -> dict[str, Any]:
    """Counts over slices, and where small nodules lie in their boxes."""
    speckled, offsets = 0, []
    for record in records:
        grey = read_pixels(record)[..., 0].astype(np.float64)
        speckled += int((grey - median_filter(grey, 3) > BRIGHTER).sum() > SPECKS)
        pairs = zip(record.boxes.xyxy, record.boxes.diameters, strict=True)
        offsets += [offset(grey, box) for box, diameter in pairs if diameter <= SMALL]
    known = [o for o in offsets if o]
    return {
        "records": len(records),
        "nodules": sum(len(record.boxes.xyxy) for record in records),
        "records with several nodules": sum(len(record.boxes.xyxy) > 1 for record in records),
        f"records with over {SPECKS} pixels more than {BRIGHTER} grey levels above the median of 3 x 3": speckled,
        f"nodules up to {SMALL:g} mm": len(known),
        "their median offset from the box's middle, x and y, pixels": np.median(known, axis=0).round(2).tolist(),
    }


def offset(grey: np.ndarray, box: tuple[float, float, float, float]) -> list[float]:
    """From a box's middle to the centroid of the tissue in the circle about it, if there is any."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
    radius = max(4.0, (box[2] - box[0]) / 2 + 2)
    weight = np.clip(grey - TISSUE, 0, None) * ((x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2)
    if not weight.sum():
        return []
    return [float((weight * x).sum() / weight.sum() - middle[0]), float((weight * y).sum() / weight.sum() - middle[1])]


if __name__ == "__main__":
    main()
