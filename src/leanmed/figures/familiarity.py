"""How familiar an image looks to a model: from a distance to a share, and what is said of it. numpy alone.

A distance says how unlike the training images an image is (`leanmed.models.familiarity`). What counts as far is known
from images that the model was not trained on: `familiar` is the share of these that lie at least as far away, which is
the p-value of conformal anomaly detection (Laxhammar and Falkman 2010; Bates et al. 2023, "Testing for outliers with
conformal p-values", arXiv:2104.08279). So of images like these, 5 % have a value below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.figures.bootstrap import Figure, with_intervals

UNFAMILIAR = 0.05  # below this an image is remarked on: of a model's own images, so many of a hundred are by mistake
LEAST_IMAGES = 20  # unseen ones; fewer say too little about which distances are usual
TAIL, KNOTS = 0.1, 33  # the scale is finest where it decides: as many knots below this share as above it


@dataclass(frozen=True)
class Scale:
    """The shares of a model's own unseen images that lie at least as far away as some distances.

    Args:
        distances: ascending, the last being twice that of the farthest image.
        shares: at these, descending from 1 to 0; between two of them they are interpolated.
        images: how many images it is made of.
    """

    distances: tuple[float, ...]
    shares: tuple[float, ...]
    images: int

    @classmethod
    def of(cls, distances: Sequence[float]) -> Scale | None:
        """The scale that unseen images' distances make; None: there are fewer than `LEAST_IMAGES`, or all are alike.

        At the i-th of n distances, counted from 0, the share is (n - i + 1) / (n + 1): the image itself is one of those
        that are at least as far. Beyond the farthest it falls to 0 at twice its distance, so that what is very far
        still differs from what is far.
        """
        ordered = np.sort(np.asarray(distances, np.float64))
        n = len(ordered)
        if n < LEAST_IMAGES or ordered[0] == ordered[-1]:
            return None
        wanted = np.concatenate([np.linspace(1.0, TAIL, KNOTS), np.linspace(TAIL, 0.0, KNOTS)])
        kept = ordered[np.unique(np.round((1 - wanted) * (n - 1)).astype(int))]
        places, first = np.unique(kept, return_index=True)
        shares = (n + 1 - np.searchsorted(ordered, kept[first])) / (n + 1)
        return cls((*places.tolist(), 2 * float(ordered[-1])), (*shares.tolist(), 0.0), n)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scale:
        """Read back what `as_json` gave."""
        return cls(tuple(content["distances"]), tuple(content["shares"]), content["images"])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def familiar(self, distances: NDArray[np.float64] | Sequence[float]) -> list[float]:
        """The share for each distance, in [0, 1]."""
        found: list[float] = np.interp(distances, self.distances, self.shares).tolist()
        return found


def remark(familiar: float, threshold: float) -> str:
    """What an answer says of an image below the threshold."""
    return (
        f"This image looks unlike those that the model was trained on (familiar {familiar:.3f}, below {threshold:g}), "
        "so its answer may mean nothing."
    )


def suspected(familiar: Sequence[float], groups: Sequence[str], threshold: float, resamples: int = 2000) -> Figure:
    """The share of images below the threshold, with its interval over groups."""
    below = np.array(familiar) < threshold
    group = np.array(groups, dtype=np.str_)
    measured = with_intervals(
        lambda weights: {"suspected": weights @ below / weights.sum(axis=1)},
        group,
        evidence={"suspected": np.unique(group).size},
        resamples=resamples,
    )
    return measured["suspected"]


def suspected_in_words(found: Figure, threshold: float) -> str:
    """One sentence on how many images look unlike the training images."""
    share = f"{100 * found.value:.1f} %"
    if not np.isnan(found.low):
        share += f" (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %)"
    return (
        f"{round(found.value * found.n)} of {found.n} images, {share}, look unlike those that the model was trained on "
        f"(familiar below {threshold:g}); of images like these, {100 * threshold:g} % are expected to."
    )
