"""Made artifacts, and a gate to measure them with, for the tests of compression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made_networks import SIDE, made_images, made_network
from numpy.typing import NDArray

from leanmed.compress.gate import Gate, answers, make_gate
from leanmed.data import content_hashes, read_records
from leanmed.manifest import Input, Manifest, Provenance
from leanmed.records import Record
from leanmed.runtime.artifact import Artifact, write_artifact

LABELS = ("non-anemic", "anemic")


def made_manifest(**changes: Any) -> Manifest:
    """The manifest of a made network that answers `anemic` from one half on."""
    origin = Provenance(leanmed="0", data_sha256="0" * 64, seed=0, protocol="grouped", fold=0)
    content: dict[str, Any] = {
        "name": "made",
        "task": "classification",
        "labels": LABELS,
        "input": Input(side=SIDE, reduced=False),
        "threshold": 0.5,
        "temperature": 1.0,
        "main_score": "auc",
        "graphs": {},
        "provenance": origin,
    }
    return Manifest(**(content | changes))


def made_artifact(graph: bytes | None = None, **changes: Any) -> Artifact:
    """An artifact in memory."""
    graphs = {"model": graph or made_network()}
    return Artifact(manifest=made_manifest(**changes), sha256="1" * 64, graphs=graphs, card="# made (fp32)\n")


def made_records(truths: Sequence[str]) -> list[Record]:
    """A record, of a group of its own, for each true label."""
    return [Record(str(k), Path(f"{k}.png"), truth, f"group {k}") for k, truth in enumerate(truths)]


def made_gate(artifact: Artifact, images: Sequence[NDArray[np.uint8]] = (), **changes: Any) -> Gate:
    """A gate whose truths are the float network's own answers, but for every fifth."""
    images = images or made_images(40, seed=3)
    positive = [answer[0][1] >= 0.5 for answer in answers(artifact, images)]
    truths = [LABELS[int(is_one != (k % 5 == 0))] for k, is_one in enumerate(positive)]
    return make_gate(made_records(truths), images, artifact.manifest, resamples=50, **changes)


def write_selected(path: Path, data: Path) -> Path:
    """A made network's artifact that claims to have been trained on images 0 to 29 of 60, and chosen on 30 to 44."""
    hashes = [content[:16] for content in content_hashes(read_records("folder", data))]
    known = {"seen_images": tuple(hashes[:45]), "selected_images": tuple(set(hashes[30:45]) - set(hashes[:30]))}
    recipe = {"name": "made", "data": {"dataset": "folder", "labels": list(LABELS)}}
    manifest = made_manifest()
    origin = manifest.provenance.model_copy(update=known | {"recipe": recipe})
    write_artifact(
        path, manifest.model_copy(update={"provenance": origin}), {"model": made_network()}, "# made (fp32)\n"
    )
    return path
