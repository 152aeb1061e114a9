"""What an answer says in the terms of a structured report: findings with measures and places, and a mask. numpy alone.

A kind of task whose answers give `findings` can be sent to a PACS; see `leanmed.dicom_node`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from leanmed.reading.ct import Triple
from leanmed.records import Box

NO_UNIT, MILLIMETRES, MILLILITRES = "1", "mm", "ml"  # as UCUM writes them


@dataclass(frozen=True)
class Measure:
    """A number of a finding.

    Args:
        name: what is measured, such as Diameter.
        value: finite.
        unit: in UCUM.
    """

    name: str
    value: float
    unit: str = NO_UNIT


@dataclass(frozen=True)
class Finding:
    """One thing that an answer says.

    Args:
        label: what it is.
        measures: its numbers.
        box: xyxy in pixels of the stored image, counted from the corner of its first pixel; None: no place in one.
        z: of a scan, the stored slice in which the box lies, from 0; of a single image 0.
        world: x, y, z in mm of the patient's frame (LPS), where the stored slices do not show the box; None: they do.
    """

    label: str
    measures: tuple[Measure, ...] = ()
    box: Box | None = None
    z: int = 0
    world: Triple | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """All that an answer says.

    Args:
        found: what is answered; nothing that lies below the threshold.
        threshold: of the decision; None: there is none.
        mask: (z, h, w) uint8 on the stored grid, 0 for background and k + 1 for the label k; z is 1 for a single image.
            None: the answer is no mask.
    """

    found: tuple[Finding, ...]
    threshold: float | None = None
    mask: NDArray[np.uint8] | None = None


@runtime_checkable
class Reportable(Protocol):
    """An answer, to an image or to a scan, that can be put into a structured report."""

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """What it says, given the artifact's labels."""
