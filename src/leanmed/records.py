"""The two values that every part of leanmed takes and gives: what is known of an image, and what a model
says of it.

Both are frozen and checked when they are made, so no later stage has to check them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from leanmed.errors import DataError

Attribute = float | str


class _Value:
    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Other processes get values by pickle, which does not know read-only mappings."""
        fields = (dict(v) if isinstance(v, MappingProxyType) else v for v in vars(self).values())
        return type(self), tuple(fields)


@dataclass(frozen=True)
class Record(_Value):
    """One labelled image.

    Args:
        id: unique within the data set; the image's path below the root, as a rule.
        image: the image file.
        target: the class label, for classification.
        group: what must never be split between training and test: a patient, a photograph, a scan.
        site: the hospital or device the image came from, or None.
        attributes: what else is known (age, sex, haemoglobin...), for subgroup tables. Numbers become floats;
            missing values are left out.

    Raises:
        DataError: an empty id, target or group; an id that is no text in UTF-8; an attribute that is neither
            text nor a finite number.
    """

    id: str
    image: Path
    target: str
    group: str
    site: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("id", "target", "group"):
            if not getattr(self, name):
                raise DataError(f"record {self.id or self.image}: expected its {name}, got nothing; fill it in")
        try:
            self.id.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"record {self.id!r}: expected a name in UTF-8; rename the file") from error
        checked = {name: self._attribute(name, value) for name, value in self.attributes.items()}
        object.__setattr__(self, "attributes", MappingProxyType(checked))

    def _attribute(self, name: str, value: Any) -> Attribute:
        if isinstance(value, str):
            return value
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"record {self.id}: expected attribute {name} to be text or a finite number, got {value!r}; "
                "leave missing values out"
            )
        return number


@dataclass(frozen=True)
class Prediction(_Value):
    """What a classifier says of one image.

    Args:
        label: the answer, after the decision threshold.
        probabilities: label -> calibrated probability, in [0, 1]; they sum to one.

    Raises:
        DataError: probabilities outside [0, 1] or not summing to 1, or a label that has none.
    """

    label: str
    probabilities: Mapping[str, float]

    def __post_init__(self) -> None:
        values = list(self.probabilities.values())
        if not all(0.0 <= p <= 1.0 for p in values) or abs(sum(values) - 1.0) > 1e-4:
            raise DataError(
                f"expected probabilities in [0, 1] that sum to 1, got {dict(self.probabilities)}; "
                "the model is unsound: export it again"
            )
        if self.label not in self.probabilities:
            raise DataError(f"expected one of the labels {sorted(self.probabilities)}, got {self.label!r}")
        object.__setattr__(self, "probabilities", MappingProxyType(dict(self.probabilities)))

    @property
    def probability(self) -> float:
        """Of two labels, the probability of the second, the positive one; of more, that of the answer."""
        values = list(self.probabilities.values())
        return values[1] if len(values) == 2 else self.probabilities[self.label]
