"""What the anemia paper printed of its quantized models, to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping

from leanmed.compress.report import Point

# Tables 5, 6 and 8: means over its folds, file size and latency, in its own setting.
PAPER: Mapping[str, Mapping[str, float]] = {
    "fp32": {
        "loss": 0.2141, "accuracy": 0.9313, "precision": 0.9374, "recall": 0.9500, "f1": 0.9428, "auc": 0.9657,
        "megabytes": 9.13, "milliseconds": 48.6,
    },
    "fp16": {
        "loss": 0.2149, "accuracy": 0.9250, "precision": 0.9370, "recall": 0.9400, "f1": 0.9377, "auc": 0.9654,
        "megabytes": 4.61, "milliseconds": 37.4,
    },
    "int8": {
        "loss": 0.7441, "accuracy": 0.7125, "precision": 0.7697, "recall": 0.7519, "f1": 0.7607, "auc": 0.9005,
        "megabytes": 9.24, "milliseconds": 91.9,
    },
    "int4": {
        "loss": 2.3136, "accuracy": 0.4313, "precision": 0.2000, "recall": 0.0100, "f1": 0.0196, "auc": 0.6387,
        "megabytes": 17.75, "milliseconds": 49.5,
    },
}  # fmt: skip


def paper_points(score: str) -> list[Point]:
    """Size, speed and change of each precision against the paper's own FP32; none of a score that it does not have."""
    base = PAPER["fp32"]
    return [
        Point(
            name,
            row["megabytes"] / base["megabytes"],
            base["milliseconds"] / row["milliseconds"],
            row[score] - base[score],
        )
        for name, row in PAPER.items()
        if score in row
    ]


BESIDE = {"anemia": {"the anemia paper": paper_points}}
"""By the name of an artifact's recipe, what was published on the same question."""
