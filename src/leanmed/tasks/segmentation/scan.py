"""Masks of whole volumes. numpy and Pillow alone, until a file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leanmed.errors import ArtifactError
from leanmed.manifest import Manifest
from leanmed.reading.orientation import Orientation
from leanmed.tasks.findings import MILLILITRES, Finding, Findings, Measure
from leanmed.tasks.kind import AnswerValue
from leanmed.tasks.segmentation.pieces import largest_pieces

SHOWN = 12  # slices of a picture
COLUMNS = 4
GREYS = (-2.0, 4.0)  # standard deviations of a volume that are shown as black and as white


@dataclass(frozen=True, eq=False)
class MaskedScan(AnswerValue):
    """What a segmenter says of a whole volume.

    Args:
        labels: what the mask's values mean, from 1 on.
        mask: (z, h, w) uint8, in the patient's order: axial slices from the feet.
        scan: the volume that was shown, as `leanmed.reading.mr.open_whole` reads it.
        threshold: of one label, the least probability that is marked; None: of several labels.
    """

    labels: tuple[str, ...]
    mask: NDArray[np.uint8]
    scan: Any
    threshold: float | None

    @property
    def millilitres(self) -> dict[str, float]:
        """The volume that each label marks."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels) + 1)
        voxel = float(np.prod(self.scan.grid.spacing)) / 1000
        return {label: round(float(counts[k]) * voxel, 4) for k, label in enumerate(self.labels, start=1)}

    def as_json(self) -> dict[str, Any]:
        """`labels`, `millilitres` of each, how many `slices` there are, `threshold` and `familiar`."""
        about = {"labels": list(self.labels), "millilitres": self.millilitres, "slices": len(self.mask)}
        return about | {"threshold": self.threshold, "familiar": self.familiar}

    def cells(self) -> dict[str, str | float]:
        """The volume that each label marks, and `familiar`."""
        return {f"ml {label}": volume for label, volume in self.millilitres.items()} | self.familiar_cell

    def file(self) -> tuple[str, bytes]:
        """The mask as NIfTI on the volume's own grid: the end of its name, and its bytes."""
        import gzip

        from leanmed.reading.mr import mask_as_nifti

        return ".nii.gz", gzip.compress(mask_as_nifti(self.mask, self.scan.stored, self.scan.path), mtime=0)

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """The mask on the stored grid, and the volume that each label marks."""
        volumes = self.millilitres.items()
        found = tuple(Finding(label, (Measure("Volume", volume, MILLILITRES),)) for label, volume in volumes)
        stored = np.ascontiguousarray(Orientation.of(self.scan.stored).as_stored(self.mask))
        return Findings(found, self.threshold, stored)

    def picture(self) -> Image.Image:
        """Some slices that hold most, from the feet, each with the outlines over it."""
        from leanmed.tasks.drawing import outlined, with_caption

        areas = (self.mask > 0).sum(axis=(1, 2))
        fullest = np.argsort(-areas, kind="stable")[:SHOWN] if areas.any() else np.arange(len(areas))[:SHOWN]
        tiles = []
        low, high = GREYS
        for z in sorted(fullest.tolist()):
            grey = np.clip((self.scan.scores[z] - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
            tiles.append(np.asarray(outlined(Image.fromarray(grey).convert("RGB"), self.mask[z])))
        blank = np.zeros_like(tiles[0])
        tiles += [blank] * (-len(tiles) % COLUMNS)
        rows = [np.concatenate(tiles[k : k + COLUMNS], axis=1) for k in range(0, len(tiles), COLUMNS)]
        said = ", ".join(f"{label} {volume:.1f} ml" for label, volume in self.millilitres.items())
        return Image.fromarray(with_caption(Image.fromarray(np.concatenate(rows)), said))


def mask_scan(scan: Any, answer: Callable[[NDArray[np.float32]], NDArray[np.uint8]], manifest: Manifest) -> MaskedScan:
    """Answer every axial slice of a volume, shown with the slices below and above it.

    Raises:
        ArtifactError: the artifact is none for MR volumes.
    """
    if manifest.input.kind != "intensities":
        raise ArtifactError(
            f"expected an artifact for slices of MR, got one that marks a {manifest.input.kind}; take another artifact"
        )
    mask = np.stack([answer(scan.slice(z)) for z in range(len(scan.scores))])
    if manifest.pieces == "volume":
        mask = largest_pieces(mask)
    return MaskedScan(manifest.labels, mask, scan, manifest.threshold)
