"""Two versions of leanmed on the same artifacts and runs: whether answers and figures are the same.

    python scripts/compare_answers.py OLD NEW --out docs/results/compatibility.json

OLD and NEW are folders of the same names: files of answers by `leanmed predict`, reports by `leanmed evaluate`, and
graphs that `leanmed export` and `leanmed quantize` made of one run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from leanmed.files import defined, write_json

LABELS = {"label"}  # compared bit by bit
NUMBERS = {"probability", "probabilities", "boxes", "scores", "candidates"}


def apart(one: Any, other: Any) -> float:
    """The largest difference of two JSON values; infinite (in the file null) where more than numbers differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return max((apart(one[k], other.get(k)) for k in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list):
        same = len(one) == len(other)
        return max(map(apart, one, other), default=0.0) if same else float("inf")
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


def answers(old: Path, new: Path) -> dict[str, Any]:
    pairs = list(zip(*([json.loads(x) for x in p.read_text().splitlines()] for p in (old, new)), strict=True))
    return {
        "answers": len(pairs),
        "labels_that_differ": sum(a.get(k) != b.get(k) for a, b in pairs for k in LABELS),
        "largest_difference": max(apart(a[k], b.get(k)) for a, b in pairs for k in NUMBERS & set(a)),
    }


def reports(old: Path, new: Path) -> dict[str, Any]:
    one, other = (json.loads((p / "report.json").read_text()) for p in (old, new))
    keys = ("metrics", "per_fold", "subgroups", "counts", "mistakes")
    return {"figures_apart": {key: apart(one[key], other[key]) for key in keys}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    found: dict[str, Any] = {"note": given.note}
    for path in sorted(given.old.iterdir()):
        if path.suffix == ".onnx":
            one, other = path.read_bytes(), (given.new / path.name).read_bytes()
            found[path.name] = {"bytes": [len(one), len(other)], "same": one == other}
        elif path.suffix == ".jsonl":
            found[path.stem] = answers(path, given.new / path.name)
        elif (path / "report.json").is_file():
            found[path.name] = reports(path, given.new / path.name)
    write_json(given.out, defined(found))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
