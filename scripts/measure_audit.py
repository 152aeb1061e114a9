"""Measure the audit: what it finds in real data, what it finds of planted copies, and what it costs at scale.

    python scripts/measure_audit.py sets                      -> docs/results/audit.json, "sets"
    python scripts/measure_audit.py recall                    -> docs/results/audit_recall.json
    python scripts/measure_audit.py recall --many             -> docs/results/scale.json, "recall with the large index"
    python scripts/measure_audit.py scale --count 1000 --count 10000 --count 100000
                                                              -> docs/results/scale.json, "audits"
    python scripts/measure_audit.py threads --count 5000      -> docs/results/audit_threads.json

The real data sets are looked for in LEANMED_DATA, else in ../shared/data.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import typer
from audit_changes import Change, Pixels, Rng, changes
from measure_scale import keep
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress, TaskID

from leanmed.audit import Findings, audit, candidates, reading
from leanmed.audit import verify as rules
from leanmed.audit.candidates import find_candidates
from leanmed.audit.describe import Description
from leanmed.audit.store import Store
from leanmed.benchmark.benchmark import machine
from leanmed.files import sha256_file, write_json
from leanmed.phantoms.eyelids import EyelidSet
from leanmed.reading.images import read_image

Named = list[tuple[str, Path]]

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LEANMED_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "docs" / "results"
SETS = {
    "cp-anemic": ("cp-anemic", "*/*.png"),
    "busi": ("busi", "*/*.png"),
    "usgra": ("usgra", "images/*.png"),
    "luna16-slices": ("luna16-slices", "JPEGImages/*.jpg"),
    "retina-vessels": ("retina-vessels", "*/images/*"),
}
KNOWN = {
    "cp-anemic": [
        ("Non-anemic/Image_276.png", "Non-anemic/Image_323.png"),
        ("Non-anemic/Image_011.png", "Non-anemic/Image_059.png"),
    ],
    "busi": [("benign/benign (433).png", "malignant/malignant (145).png")],
    "usgra": [("images/0043.png", "images/0077.png")],
}
BEFORE = "LEANMED_AUDIT_THREADS_BEFORE"
ARMS = {
    "a thread per core in each process (before)": {BEFORE: "1"},
    "OMP_NUM_THREADS=1 (before)": {BEFORE: "1", "OMP_NUM_THREADS": "1"},
    "one thread in each process (now)": {},
}
if os.environ.get(BEFORE):  # also in the processes of an audit, which import this file
    reading.single_threaded = lambda: None
    reading.blas_threads = candidates.blas_threads = nullcontext
app = typer.Typer(add_completion=False, help=__doc__)


def images_of(name: str) -> Named:
    folder, pattern = SETS[name]
    found = [p for p in sorted((DATA / folder).glob(pattern)) if "_mask" not in p.name]
    return [(str(p.relative_to(DATA / folder)), p) for p in found]


def update(part: str, rows: Mapping[str, object]) -> None:
    """Add rows to a part of audit.json."""
    path = RESULTS / "audit.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    content["command"] = "python scripts/measure_audit.py"
    write_json(path, {**content, part: {**content.get(part, {}), **rows}})


@contextmanager
def shown(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per stage of an audit."""
    with Progress() as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{title}: {stage}")
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


@app.command()
def sets(workers: int = 2) -> None:
    """Audit the real data sets."""
    rows = {}
    for name in SETS:
        images = images_of(name)
        with shown(name) as progress:
            begun = time.perf_counter()
            found = audit(images, workers=workers, progress=progress)
        rows[name] = set_row(name, found, time.perf_counter() - begun)
        typer.echo(f"{name}: {rows[name]}")
    update("sets", rows)


def set_row(name: str, found: Findings, seconds: float) -> dict[str, object]:
    pairs = {(p.a, p.b) for p in found.pairs}
    sizes = [len(images) for images in found.copies.values()]
    row: dict[str, object] = {
        "images": len(found.facts),
        "groups": len(set(found.groups.values())),
        "groups of several": len(sizes),
        "images with a copy": sum(sizes),
        "largest group": max(sizes, default=1),
        "pairs": len(pairs),
        "pairs of equal pixels": sum(found.facts[a].pixels == found.facts[b].pixels for a, b in pairs),
        "unreadable": len(found.unreadable),
        "near-empty": len(found.near_empty),
        "seconds": round(seconds, 1),
    }
    if name in KNOWN:
        row["known pairs found"] = f"{sum(pair in pairs for pair in KNOWN[name])} of {len(KNOWN[name])}"
    if name == "luna16-slices":
        row |= luna_row(pairs)
    return row


def luna_row(pairs: set[tuple[str, str]]) -> dict[str, object]:
    """Slices that the manifest says are one, and whether any pair crosses patients."""
    with (DATA / "luna16-slices" / "manifest.csv").open() as file:
        rows = {f"JPEGImages/{row['image']}": row for row in csv.DictReader(file)}
    same = Counter(row["pixel_md5"] for row in rows.values())
    known = sum(n * (n - 1) // 2 for n in same.values())
    equal = sum(rows[a]["pixel_md5"] == rows[b]["pixel_md5"] for a, b in pairs)
    across = sum(rows[a]["patient_id"] != rows[b]["patient_id"] for a, b in pairs)
    return {"known pairs found": f"{equal} of {known}", "pairs across patients": across}


@app.command()
def recall(
    per_set: int = 40,
    others: int = 100,
    seed: int = 0,
    workers: int = 2,
    many: Annotated[bool, typer.Option("--many", help="By the index that is else for a million features.")] = False,
    out: Annotated[Path, typer.Option(help="With --many.")] = RESULTS / "scale.json",
) -> None:
    """Plant copies of real images, one change at a time, among the originals and other images."""
    if many:
        candidates.FLAT_BELOW = candidates.MANY = 0
    rng = np.random.default_rng(seed)
    rows, evidence = [], Evidences()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        different = {name: one_of_each_group(name, work, workers) for name in SETS}
        shuffled = [[images[i] for i in rng.permutation(len(images))] for images in different.values()]
        originals = [image for images in shuffled for image in images[:per_set]]
        distractors = [image for images in shuffled for image in images[per_set : per_set + others]]
        for (kind, strength), change in changes().items():
            planted = plant(originals, change, rng, work / "copies")
            found = audit([*originals, *distractors, *planted], cache=work, workers=workers)
            rows.append(recall_row(kind, strength, originals, found))
            evidence.add(descriptions(work, originals), descriptions(work, planted))
            typer.echo(rows[-1])
        for images in different.values():
            evidence.add_chance(descriptions(work, images))
    table = recall_table(rows, evidence, per_set, others, seed)
    if many:
        shares = {f"{row['kind']}, {row['strength']}": row["recall"] for row in rows}
        about = {name: table[name] for name in ("command", "images", "recall", "precision")}
        keep(out, "recall with the large index", about | {"recall per change": shares})
    else:
        write_json(RESULTS / "audit_recall.json", table)


def one_of_each_group(name: str, work: Path, workers: int) -> Named:
    """The first image of each group of a set: images of which none is a copy of another."""
    images = images_of(name)
    groups = audit(images, cache=work, workers=workers).groups
    return [(f"{name}/{i}", path) for i, path in images if groups.get(i) == i]


def plant(originals: Named, change: Change, rng: Rng, folder: Path) -> Named:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    planted = []
    for number, (name, path) in enumerate(originals):
        changed = np.ascontiguousarray(change(read_image(path), rng))
        copy = folder / f"{number:05d}.png"
        Image.fromarray(changed).save(copy, compress_level=1)
        planted.append((f"copy/{name}", copy))
    return planted


def recall_row(kind: str, strength: str, originals: Named, found: Findings) -> dict[str, object]:
    def source(name: str) -> str:
        return name.removeprefix("copy/")

    true = {source(p.a) for p in found.pairs if source(p.a) == source(p.b)}
    false = sum(source(p.a) != source(p.b) for p in found.pairs)
    per_set: dict[str, list[bool]] = defaultdict(list)
    for name, _ in originals:
        per_set[name.split("/")[0]].append(name in true)
    return {
        "kind": kind,
        "strength": strength,
        "recall": round(len(true) / len(originals), 4),
        "recall per set": {name: round(float(np.mean(hits)), 4) for name, hits in per_set.items()},
        "pairs": len(found.pairs),
        "false pairs": false,
    }


def descriptions(work: Path, images: Named) -> list[Description]:
    """What the last audit described."""
    with Store(work) as store:
        return list(store.get([sha256_file(path) for _, path in images]))


class Evidences:
    """Scores of copies and of others, by how many features agree: what the thresholds are chosen from."""

    def __init__(self) -> None:
        self.scores: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, originals: Sequence[Description], planted: Sequence[Description]) -> None:
        for original, copy in zip(originals, planted, strict=True):
            self._note("copies", original, copy)

    def add_chance(self, described: Sequence[Description]) -> None:
        """Candidates among images of which none is a copy of another."""

        def read(numbers: Sequence[int]) -> Iterator[tuple[NDArray[np.float32], Pixels]]:
            return ((described[i].points, described[i].descriptors) for i in numbers)

        for i, j in find_candidates(len(described), read, lambda stage, done, total: None):
            self._note("others", described[i], described[j])

    def _note(self, what: str, a: Description, b: Description) -> None:
        found = rules.compare(a, b)
        enough = found and found.overlap >= rules.MIN_OVERLAP and found.pixels >= rules.MIN_PIXELS
        if found is None or not enough:
            self.scores[what, "too little"].append(0.0)
        else:
            many = found.matches >= rules.MANY_MATCHES
            self.scores[what, "many matches" if many else "few matches"].append(found.score)

    def table(self) -> dict[str, object]:
        """Per number of matches, how many copies and others reach each score."""
        steps = [0.0, *(round(0.05 * k, 2) for k in range(6, 20))]
        rows: dict[str, object] = {}
        for matches in ("few matches", "many matches"):
            rows[matches] = [
                {
                    "score": s,
                    **{w: sum(x >= s for x in self.scores[w, matches]) for w in ("copies", "others")},
                }
                for s in steps
            ]
        return rows | {"too little": {w: len(self.scores[w, "too little"]) for w in ("copies", "others")}}


def recall_table(rows: list[dict[str, object]], evidence: Evidences, *asked: int) -> dict[str, object]:
    pairs, false = sum(int(str(r["pairs"])) for r in rows), sum(int(str(r["false pairs"])) for r in rows)
    return {
        "command": shlex.join(["python", *sys.argv]),
        "images": dict(zip(("copied per set", "others per set", "seed"), asked, strict=True)),
        "thresholds": {name: getattr(rules, name) for name in dir(rules) if name.isupper()},
        "recall": round(float(np.mean([float(str(r["recall"])) for r in rows])), 4),
        "precision": round(1 - false / max(1, pairs), 4),
        "changes": rows,
        "reaching a score": evidence.table(),
    }


@app.command("scale")
def at_scale(
    count: Annotated[list[int], typer.Option(help="Images; repeatable.")],
    work: Annotated[Path, typer.Option(help="Where to make the images and keep the cache.")] = Path("audit-work"),
    out: Annotated[Path, typer.Option()] = RESULTS / "scale.json",
    workers: int = 2,
    fresh: Annotated[bool, typer.Option(help="Begin without the descriptions of an earlier run.")] = True,
) -> None:
    """Audit so many images: copies of real ones, made photographs and made scans."""
    for number in count:
        images = make_images(number, work / "images")
        cache = work / f"cache-{number}"
        if fresh:
            shutil.rmtree(cache, ignore_errors=True)
        with shown(f"{number:,}") as progress, Meter(progress) as meter:
            found = audit(images, cache=cache, workers=workers, progress=meter.advance)
        row = {
            "command": shlex.join(["python", *sys.argv]),
            "images": number,
            "workers": workers,
            **meter.figures(),
            **truth_row(images, found),
        }
        row["cache MB"] = round(sum(f.stat().st_size for f in cache.iterdir()) / 1e6)
        typer.echo(row)
        keep(out, "audits", {str(number): row})


@app.command()
def threads(
    count: Annotated[int, typer.Option(help="Images.")] = 5000,
    work: Annotated[Path, typer.Option(help="Where to make the images.")] = Path("audit-work"),
    note: Annotated[str, typer.Option(help="What else the machine did.")] = "",
) -> None:
    """Audit by two processes on both cores: with as many threads in each as OpenBLAS starts, and with one."""
    make_images(count, work / "images")
    rows = {}
    for arm, variables in ARMS.items():
        command = [sys.executable, __file__, "once", "--count", str(count), "--work", str(work)]
        ended = subprocess.run(command, check=True, capture_output=True, env=os.environ | variables)
        rows[arm] = json.loads(ended.stdout.splitlines()[-1])
        typer.echo({arm: rows[arm]})
    about = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "note": note, "images": count}
    write_json(RESULTS / "audit_threads.json", about | rows)


@app.command()
def once(
    count: Annotated[int, typer.Option()], work: Annotated[Path, typer.Option()] = Path("audit-work"), workers: int = 2
) -> None:
    """What one audit of made images costs, as JSON."""
    images = make_images(count, work / "images")
    with tempfile.TemporaryDirectory() as cache, Meter(lambda stage, done, total: None) as meter:
        audit(images, cache=Path(cache), workers=workers, progress=meter.advance)
    typer.echo(json.dumps(meter.figures()))


def make_images(count: int, folder: Path) -> Named:
    """Images 0..count-1; those that exist are kept. The name says what is shown: `SOURCE-NUMBER.jpg`."""
    real = [path for name in SETS for _, path in images_of(name)]
    table = list(changes().values())
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with Progress() as bar:
        for number in bar.track(range(count), description=f"making {count:,} images"):
            rng = np.random.default_rng(number)
            kind = rng.choice(["copy", "photograph", "scan"], p=[0.3, 0.35, 0.35])
            shown = f"real{rng.integers(len(real))}" if kind == "copy" else f"{kind}{number}"
            path = folder / f"{number // 1000:03d}" / f"{shown}-{number}.{'png' if kind == 'copy' else 'jpg'}"
            if not path.is_file():
                save(draw(kind, shown, number, real, table, rng), path)
            made.append((path.name, path))
    return made


def draw(kind: str, shown: str, number: int, real: list[Path], table: list[Change], rng: Rng) -> Pixels:
    if kind == "copy":
        change = table[rng.integers(len(table))]
        return np.ascontiguousarray(change(read_image(real[int(shown.removeprefix("real"))]), rng))
    if kind == "photograph":
        return EyelidSet(count=number + 1, seed=1, side=256, cutout=False).item(number)[1]
    return made_scan(rng)


def made_scan(rng: Rng) -> Pixels:
    """Speckle over layers, in a frame with a scale bar that all scans share."""
    layers = cv2.resize(rng.random((rng.integers(6, 24), 3), np.float32), (320, 240), interpolation=cv2.INTER_CUBIC)
    blobs = cv2.resize(rng.random((9, 12), np.float32), (320, 240), interpolation=cv2.INTER_CUBIC)
    speckle = cv2.GaussianBlur(rng.standard_normal((240, 320)).astype(np.float32), (0, 0), 1.2)
    grey = np.clip(255 * np.clip(0.2 + 0.5 * layers + 0.4 * (blobs - 0.5), 0, 1) * (0.8 + speckle), 0, 255)
    grey[:24], grey[:, :30], grey[:, 290:] = 0, 0, 0
    grey[40:220:20, 292:300], grey[8:14, 40:120:4] = 255, 220
    return np.dstack([np.repeat(grey[..., None], 3, axis=2), np.full((240, 320), 255)]).astype(np.uint8)


def save(image: Pixels, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    opaque = image[..., 3].min() == 255
    Image.fromarray(image if path.suffix == ".png" and not opaque else image[..., :3]).save(part, quality=88)
    part.replace(path)


def truth_row(images: Named, found: Findings) -> dict[str, object]:
    """How many copies were paired, and how many made images, of which none is a copy of another."""
    false = [p for p in found.pairs if not real_pair(p.a, p.b)]
    sources = Counter(name.split("-")[0] for name, _ in images)
    copied = [name for name, _ in images if name.startswith("real") and sources[name.split("-")[0]] > 1]
    paired = {p.a for p in found.pairs} | {p.b for p in found.pairs}
    return {
        "pairs": len(found.pairs),
        "pairs with a made image": len(false),
        "copies paired": round(sum(name in paired for name in copied) / max(1, len(copied)), 4),
    }


def real_pair(a: str, b: str) -> bool:
    return a.startswith("real") and b.startswith("real")


class Meter:
    """Seconds per stage, CPU seconds and peak resident memory of this process and its children."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress, self._peak, self._cpu = progress, 0, 0.0
        self._stages: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Meter:
        self._begun = self._last = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._begun
        self._done.set()
        self._thread.join()

    def advance(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + now - self._last
        self._last = now
        self._progress(stage, done, total)

    def figures(self) -> dict[str, object]:
        return {
            "seconds": round(self._seconds, 1),
            "seconds per stage": {stage: round(s, 1) for stage, s in self._stages.items()},
            "CPU seconds": round(self._cpu, 1),
            "peak memory MB": round(self._peak / 1e6),
        }

    def _watch(self) -> None:
        process = psutil.Process()
        used: dict[int, float] = {}
        start = sum(process.cpu_times()[:2])
        while not self._done.wait(0.5):
            resident = 0
            for one in [process, *process.children(recursive=True)]:
                try:
                    used[one.pid] = sum(one.cpu_times()[:2])
                    resident += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self._peak, self._cpu = max(self._peak, resident), sum(used.values()) - start


if __name__ == "__main__":
    app()
