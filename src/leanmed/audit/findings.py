"""What an audit found, as plain values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leanmed.audit.describe import Facts
from leanmed.audit.geometry import in_words

EMPTY_DEVIATION = 2.0  # grey levels: a picture that varies less shows nothing
EMPTY_TISSUE = 64  # pixels
OUTLYING = 5.0  # robust standard deviations from the median
MIN_IMAGES = 20  # for there to be outliers
MEASURES = ("height", "width", "tissue", "mean", "deviation")

Row = tuple[float, float, float]


@dataclass(frozen=True)
class Pair:
    """Two images that show one photograph.

    Args:
        a: id of the first.
        b: id of the second, later in order.
        score: correlation of detail, up to 1; 1 if the pixels are equal.
        map: the first two rows of the matrix that takes pixel (x, y) of a to b.
    """

    a: str
    b: str
    score: float
    map: tuple[Row, Row]

    @property
    def transformation(self) -> str:
        """The map in words, as `geometry.in_words` gives it."""
        return in_words(np.array([*self.map, (0, 0, 1)]))


@dataclass(frozen=True)
class Outlier:
    """An image one of whose measures lies far from the median of all."""

    image: str
    measure: str
    value: float
    median: float


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Args:
        facts: id -> facts, of every readable image.
        groups: id -> id of the first image of its group, of every readable image.
        pairs: the verified pairs, sorted. Of a group of more than `engine.ALL_PAIRS` images only some of its
            pairs stand here, enough to connect it.
        unreadable: id -> reason.
    """

    facts: Mapping[str, Facts]
    groups: Mapping[str, str]
    pairs: tuple[Pair, ...]
    unreadable: Mapping[str, str]

    @property
    def copies(self) -> dict[str, list[str]]:
        """The groups of more than one image, by first image, the largest first."""
        members: dict[str, list[str]] = {}
        for image, group in self.groups.items():
            members.setdefault(group, []).append(image)
        several = {group: images for group, images in members.items() if len(images) > 1}
        return dict(sorted(several.items(), key=lambda item: (-len(item[1]), item[0])))

    @property
    def near_empty(self) -> list[str]:
        """Images with hardly any tissue or hardly any variation in it."""
        return [
            image
            for image, f in self.facts.items()
            if f.deviation < EMPTY_DEVIATION or f.tissue * f.height * f.width < EMPTY_TISSUE
        ]

    @property
    def outliers(self) -> list[Outlier]:
        """Images over `OUTLYING` robust deviations from the median in size, share of tissue or intensity."""
        found = []
        for measure in MEASURES if len(self.facts) >= MIN_IMAGES else ():
            values = {image: float(getattr(f, measure)) for image, f in self.facts.items()}
            median = statistics.median(values.values())
            spread = 1.4826 * statistics.median(abs(v - median) for v in values.values())
            far = {i: v for i, v in values.items() if spread and abs(v - median) > OUTLYING * spread}
            found += [Outlier(image, measure, value, median) for image, value in far.items()]
        return found
