"""Measure how well copies of training images are known from their traces alone, and choose the constants of traces.py.

    OMP_NUM_THREADS=1 python scripts/measure_traces.py recall --work DIR    -> docs/results/traces.json
    OMP_NUM_THREADS=1 python scripts/measure_traces.py waves --work DIR     prints the tables EVEN and ODD_WAVES

Of each real set, a random half of the audit's groups is traced. Queried are changed copies of traced images, and the
other half: images of which no copy is traced, so that each of them taken for a copy is a false alarm. What was
described is kept in DIR, and a later run goes on from there. The real data sets are looked for in LEANMED_DATA, else
in ../shared/data.
"""

from __future__ import annotations

import csv
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from audit_changes import changes
from measure_audit import DATA, RESULTS, SETS, images_of
from numpy.typing import NDArray

from leanmed.audit import audit, traces
from leanmed.audit.describe import MIRROR, Description, describe
from leanmed.audit.store import Store
from leanmed.audit.traces import Codes, Traces, best_votes, query
from leanmed.benchmark.benchmark import machine
from leanmed.files import sha256_file, whole_file, write_json
from leanmed.reading.images import read_image

CHANGES = (
    ("flip", "horizontal"),
    ("turn", "90 degrees"),
    ("crop", "70% of the area"),
    ("crop", "50% of the area"),
    ("crop", "35% of the area"),
    ("scale", "x 0.5"),
    ("scale", "x 1.5"),
    ("JPEG", "quality 75"),
    ("JPEG", "quality 30"),
    ("brightness", "x 0.75"),
    ("brightness", "x 1.33"),
    ("rotation", "5 degrees"),
    ("combined", "crop 80 %, flip, JPEG 75"),
    ("combined", "turn, x 0.7, brightness x 0.8"),
    ("combined", "rotate 5, crop 70 %, JPEG 50"),
    ("combined", "all of these"),
)
THRESHOLDS = (1.5, 1.75, 2.0, 2.15, 2.3, 2.45, 2.6, 2.8, 3.0, 3.25, 3.5, 4.0)
PATIENTS = ("luna16-slices",)  # sets whose manifest says which patient an image is of
app = typer.Typer(add_completion=False, help=__doc__)
Votes = NDArray[np.float64]
Work = Annotated[Path, typer.Option(help="Where descriptions are kept.")]


@dataclass(frozen=True)
class Described:
    """A real set: its images' groups and descriptions, and (kind, strength) -> image number -> changed copy."""

    groups: list[str]
    images: list[Description]
    copies: dict[tuple[str, str], dict[int, Description]]


def described(name: str, work: Path, per_set: int, seed: int) -> Described:
    """Audit and describe a set and changed copies of some of its images; kept in `work`."""
    kept = work / f"{name}-{per_set}-{seed}.pkl"
    if kept.is_file():
        return Described(*pickle.loads(kept.read_bytes()))
    images = images_of(name)
    groups = audit(images, cache=work / name, workers=1).groups
    images = [(image, path) for image, path in images if image in groups]
    with Store(work / name) as store:
        found = [light(image) for image in store.get([sha256_file(path) for _, path in images])]
    rng, table = np.random.default_rng(seed), changes()
    copies: dict[tuple[str, str], dict[int, Description]] = {change: {} for change in CHANGES}
    for number in rng.permutation(len(images))[:per_set].tolist():
        pixels = read_image(images[number][1])
        for change in CHANGES:
            copies[change][number] = light(describe(np.ascontiguousarray(table[change](pixels, rng))))
    result = [groups[image] for image, _ in images], found, copies
    with whole_file(kept) as part:
        part.write_bytes(pickle.dumps(result))
    return Described(*result)


def light(description: Description) -> Description:
    """The description without its picture, which traces do not look at."""
    return replace(description, grey=np.zeros((1, 1), np.uint8), mask=np.zeros((1, 1), np.bool_))


@app.command()
def waves(work: Work, per_set: int = 60, seed: int = 0) -> None:
    """Print the waves that vary most over the features of the sets, each set counting the same."""
    names = [f"{y}{x}{kind}{k}" for y in range(4) for x in range(4) for kind in "cs" for k in range(5)]
    names = [name for name in names if name[2] == "c" or name[3] in "123"]
    matrix, spreads, usual = np.stack([wave(name) for name in names], axis=1), [], []
    for each in SETS:
        features = np.concatenate([image.descriptors for image in described(each, work, per_set, seed).images])
        values = features @ matrix
        spreads.append(values.var(axis=0))
        usual.append(np.median(values, axis=0))
    order = np.argsort(-np.mean(spreads, axis=0))
    even = (matrix * matrix[MIRROR]).sum(axis=0) > 0
    counts = traces.PARTS[0] + traces.PARTS[1], traces.PARTS[2]
    typer.echo({names[i]: round(float(np.mean(usual, axis=0)[i])) for i in order[even[order]][: counts[0]]})
    typer.echo([names[i] for i in order[~even[order]][: counts[1]]])


def wave(name: str) -> np.ndarray:
    """(128,): the wave of this name, of length one."""
    shift, around = (np.arange(4) + 0.5) * np.pi / 4, np.arange(8) * np.pi / 4
    parts = np.cos(int(name[0]) * shift), np.cos(int(name[1]) * shift)
    value = np.einsum("y,x,t->yxt", *parts, (np.cos if name[2] == "c" else np.sin)(int(name[3]) * around)).reshape(128)
    return value / np.linalg.norm(value)


@app.command()
def recall(work: Work, per_set: int = 60, seed: int = 0) -> None:
    """Count the copies that are found and the other images that are taken for copies."""
    rows: dict[str, dict[str, object]] = {}
    pooled, unseen = [], {}
    for name in SETS:
        found = described(name, work, per_set, seed)
        traced = half_of_groups(found, seed)
        kept = [traces.trace(found.images[i]) for i in sorted(traced)]
        numbers = [i for i in range(len(found.images)) if i not in traced]
        others = [query(found.images[i]) for i in numbers]
        copied = {change: [query(d) for d in made.values()] for change, made in found.copies.items()}
        alone = Traces.of(kept)
        false = np.array(list(best_votes(alone, others)))
        rows[name] = row(alone, false, copied) | {"bytes per image": round(len(alone.to_bytes()) / len(traced), 1)}
        if name in PATIENTS:
            rows[name] |= of_new_patients(name, traced, numbers, false)
        typer.echo(f"{name}: {rows[name]}")
        pooled += kept
        unseen[name] = others
    together = Traces.of(pooled)
    pool = {name: alarms(np.array(list(best_votes(together, others)))) for name, others in unseen.items()}
    content = {
        "command": "python scripts/measure_traces.py recall",
        "data": {name: f"shared/data/{SETS[name][0]}/{SETS[name][1]}" for name in SETS},
        "seed": seed,
        "copied images per set and change": per_set,
        "machine": machine(),
        "constants": {constant: getattr(traces, constant) for constant in CONSTANTS},
        "each set by itself": rows,
        "traces of all sets at once": {"traced": len(together.counts), **pool},
    }
    write_json(RESULTS / "traces.json", content)


CONSTANTS = ("FEATURES_KEPT", "MAX_TRACED", "MAX_DISTANCE", "MIN_VOTES", "RARE", "MIN_WEIGHT", "BIN", "PARTS")


def half_of_groups(found: Described, seed: int) -> set[int]:
    """The images of those groups that were copied, and of others drawn by chance up to half of all groups."""
    copied = {found.groups[i] for i in found.copies[CHANGES[0]]}
    rest = sorted(set(found.groups) - copied)
    np.random.default_rng(seed).shuffle(rest)
    chosen = copied | set(rest[: max(0, len(set(found.groups)) // 2 - len(copied))])
    return {i for i, group in enumerate(found.groups) if group in chosen}


def row(traced: Traces, false: Votes, copied: dict[tuple[str, str], list[Codes]]) -> dict[str, object]:
    """Recall and false alarms of a set, at the chosen threshold and at others."""
    votes = {change: np.array(list(best_votes(traced, made))) for change, made in copied.items()}
    together = np.concatenate(list(votes.values()))
    return {
        "traced": len(traced.counts),
        **alarms(false),
        "recall": share(together),
        "recall per change": {", ".join(change): share(found) for change, found in votes.items()},
        "at votes": {
            str(t): {"recall": round(float((together >= t).mean()), 4), "false alarms": int((false >= t).sum())}
            for t in THRESHOLDS
        },
    }


def alarms(false: Votes) -> dict[str, object]:
    count = int((false >= traces.MIN_VOTES).sum())
    return {"other images": len(false), "false alarms": count, "share of false alarms": share(false)}


def share(votes: Votes) -> float:
    return round(float((votes >= traces.MIN_VOTES).mean()), 4)


def of_new_patients(name: str, traced: set[int], others: list[int], false: Votes) -> dict[str, object]:
    """False alarms by whether the patient has another image that is traced: such as the next slice of one CT."""
    with (DATA / name / "manifest.csv").open() as file:
        patient_of = {Path(r["image"]).name: (r.get("site", ""), r["patient_id"]) for r in csv.DictReader(file)}
    patients = [patient_of[path.name] for _, path in images_of(name)]
    known = {patients[i] for i in traced}
    new = np.array([patients[i] not in known for i in others])
    return {"of patients with a traced image": alarms(false[~new]), "of other patients": alarms(false[new])}


if __name__ == "__main__":
    app()
