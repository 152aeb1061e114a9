"""Hospitals whose labels come true as a known probability says, for an artifact that answers the mean red."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artifact_fixtures import LABELS
from leanmed.manifest import Provenance

RECIPE: dict[str, Any] = {"name": "made", "split": {"groups": "reader"}, "evaluation": {"resamples": 200}}


def write_hospital(root: Path, images: int = 60, *, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> Path:
    """A folder of plain pictures with a `labels.csv`, each image of a patient of its own.

    An image is anemic with the probability sigmoid(z), and its mean red is sigmoid(scale * z + shift) of white.
    """
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows = ["image,label,group"]
    for k, z in enumerate(rng.normal(0, 1.2, images)):
        red = min(max(round(255 / (1 + np.exp(-(scale * z + shift)))), 1), 254)  # 0 and 255 would be certain
        other = rng.integers(0, 256, 2)  # so that no two files are alike
        Image.fromarray(np.full((9, 8, 3), (red, *other), np.uint8)).save(root / "images" / f"{k:03}.png")
        rows.append(f"images/{k:03}.png,{LABELS[int(rng.random() < 1 / (1 + np.exp(-z)))]},patient-{k}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def origin_of(**changes: Any) -> Provenance:
    """Where an artifact comes from whose data sets are grouped as they name their patients."""
    content: dict[str, Any] = {"leanmed": "0", "data_sha256": "0" * 64, "seed": 0, "protocol": "grouped", "fold": 0}
    return Provenance(**(content | {"recipe": RECIPE} | changes))
