"""The two values that every part of leanmed takes and gives: what is known of an image, and what a model says of it.

Both are frozen and checked when they are made, so no later stage has to check them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from leanmed.errors import DataError

Attribute = float | str


@dataclass(frozen=True)
class Record:
    """One labelled image.

    Args:
        id: unique within the data set; the image's path below the root, as a rule.
        image: the image file.
        target: the class label, for classification.
        group: what must never be split between training and test: a patient, a photograph, a scan.
        site: the hospital or device the image came from, or None.
        attributes: what else is known (age, sex, haemoglobin...), for subgroup tables. Missing values are left out.

    Raises:
        DataError: an empty id, target or group; an attribute that is neither text nor a finite number.
    """

    id: str
    image: Path
    target: str
    group: str
    site: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "target", "group"):
            if not getattr(self, name):
                raise DataError(f"record {self.id or self.image}: expected a {name}, got an empty one")
        for name, value in self.attributes.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"record {self.id}: attribute {name} is {value}; leave missing values out")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Args:
        label: the answer, after the decision threshold.
        probabilities: label -> calibrated probability; they sum to one.

    Raises:
        DataError: probabilities outside [0, 1] or not summing to 1, or a label that has none.
    """

    label: str
    probabilities: Mapping[str, float]

    def __post_init__(self) -> None:
        values = list(self.probabilities.values())
        if not all(0.0 <= p <= 1.0 for p in values) or abs(sum(values) - 1.0) > 1e-4:
            raise DataError(f"expected probabilities that sum to 1, got {dict(self.probabilities)}")
        if self.label not in self.probabilities:
            raise DataError(f"label {self.label!r} is not among {sorted(self.probabilities)}")

    @property
    def probability(self) -> float:
        """Of two labels, the probability of the second, the positive one; of more, that of the answer."""
        values = list(self.probabilities.values())
        return values[1] if len(values) == 2 else self.probabilities[self.label]
