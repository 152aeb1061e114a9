"""A label with calibrated probabilities. numpy and Pillow alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import ArtifactError, DataError
from leanmed.manifest import Manifest
from leanmed.tasks.findings import Finding, Findings, Measure
from leanmed.tasks.kind import AnswerValue, Explained, familiar_of

GRAPHS = {"model": ("probabilities",)}
PROBABILITIES = "probabilities"
LEAST = 1e-300  # of a probability: keeps logarithms finite


@dataclass(frozen=True)
class Prediction(AnswerValue):
    """What a classifier says of one image.

    Args:
        label: the answer, after the decision threshold.
        probabilities: label -> calibrated probability, in [0, 1]; they sum to one.
        threshold: of two labels, the second was answered from this probability on; None: the likeliest was.

    Raises:
        DataError: probabilities outside [0, 1] or not summing to 1, or a label that has none.
    """

    label: str
    probabilities: Mapping[str, float]
    threshold: float | None = None

    def __post_init__(self) -> None:
        values = list(self.probabilities.values())
        if not all(0.0 <= p <= 1.0 for p in values) or abs(sum(values) - 1.0) > 1e-4:
            raise DataError(
                f"expected probabilities in [0, 1] that sum to 1, got {dict(self.probabilities)}; "
                "the model or the line is unsound"
            )
        if self.label not in self.probabilities:
            raise DataError(f"expected one of the labels {sorted(self.probabilities)}, got {self.label!r}")
        object.__setattr__(self, "probabilities", MappingProxyType(dict(self.probabilities)))

    @property
    def probability(self) -> float:
        """Of two labels, the probability of the second, the positive one; of more, that of the answer."""
        values = list(self.probabilities.values())
        return values[1] if len(values) == 2 else self.probabilities[self.label]

    def as_json(self) -> dict[str, Any]:
        """`label`, `probability`, `probabilities`, `threshold` and `familiar`."""
        return {
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "threshold": self.threshold,
            "familiar": self.familiar,
        }

    def cells(self) -> dict[str, str | float]:
        """`label`, a column for each label's probability, and `familiar`."""
        columns = {f"p_{name}": p for name, p in self.probabilities.items()}
        return {"label": self.label, **columns, **self.familiar_cell}

    def findings(self, labels: tuple[str, ...]) -> Findings:
        """The answer's label, with the probability of each label."""
        measures = tuple(Measure(f"Probability of {name}", p) for name, p in self.probabilities.items())
        return Findings((Finding(self.label, measures),), self.threshold)

    def draw(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image with label and probability below it."""
        from leanmed.tasks.drawing import on_grey, with_caption

        return with_caption(on_grey(pixels), f"{self.label}: {self.probabilities[self.label]:.3f}")

    def placed(self, points: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Prediction:
        """A label has no place."""
        return self


def check(labels: tuple[str, ...], threshold: float | None) -> None:
    """Two labels or more, and a threshold for two only."""
    if len(labels) < 2:
        raise ValueError(f"expected at least two labels to choose from, got {list(labels)}")
    if threshold is not None and len(labels) > 2:
        raise ValueError(f"expected a threshold for two labels only, got one for {len(labels)}")


def fits(shapes: Mapping[str, Sequence[Any]], labels: tuple[str, ...]) -> bool:
    """A probability for each label."""
    return {name: list(shape) for name, shape in shapes.items()} == {"probabilities": [len(labels)]}


def decide(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> Prediction:
    """Probabilities (K,) to the answer: of two labels the second from the threshold on, of more the likeliest."""
    (probabilities,), labels, threshold = outputs, manifest.labels, manifest.threshold
    best = int(np.argmax(probabilities)) if threshold is None else int(probabilities[1] >= threshold)
    return Prediction(labels[best], dict(zip(labels, map(float, probabilities), strict=True)), threshold)


def explained(outputs: Sequence[NDArray[Any]], manifest: Manifest) -> Explained:
    """Of two labels the probability of the second, the positive one; of more, that of the answer."""
    label = manifest.labels[1] if len(manifest.labels) == 2 else decide(outputs, manifest).label
    return Explained(f"Probability of {label}", lambda others: decide(others, manifest).probabilities[label])


def recalibrated(answer: Prediction, temperature: float, threshold: float | None) -> Prediction:
    """An answer made at a temperature of 1 as it is at another one, decided by a threshold or as the likeliest."""
    labels = tuple(answer.probabilities)
    logits = np.log(np.clip([answer.probabilities[label] for label in labels], LEAST, 1.0)) / temperature
    raised = np.exp(logits - logits.max())
    probabilities = raised / raised.sum()
    best = int(np.argmax(probabilities)) if threshold is None else int(np.float32(probabilities[1]) >= threshold)
    values = dict(zip(labels, probabilities.tolist(), strict=True))
    return Prediction(labels[best], values, threshold, familiar=answer.familiar)


def is_answer(line: Mapping[str, Any]) -> bool:
    """It has probabilities."""
    return "probabilities" in line


def answer_of(line: Mapping[str, Any]) -> Prediction:
    """Read back what `Prediction.as_json` gave; other people's lines need `probabilities` and `label` only."""
    try:
        probabilities = {str(name): float(p) for name, p in line["probabilities"].items()}
        threshold = line.get("threshold")
        least = None if threshold is None else float(threshold)
        return Prediction(str(line["label"]), probabilities, least, familiar=familiar_of(line))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"expected `label` and `probabilities` (a number for each label), got {type(error).__name__}: {error}; "
            "correct the line"
        ) from error


def answer_of_row(row: Mapping[str, str], labels: tuple[str, ...], threshold: float | None) -> Prediction:
    """A row with `label` and `p_<label>` for each label."""
    values = np.array([float(row[f"p_{name}"]) for name in labels])
    return Prediction(row["label"], dict(zip(labels, (values / values.sum()).tolist(), strict=True)), threshold)


def labels_of(answers: Sequence[Prediction]) -> tuple[str, ...]:
    """Those of the first answer, in its order; all others must have the same."""
    first = tuple(answers[0].probabilities)
    for answer in answers:
        if set(answer.probabilities) != set(first):
            raise DataError(
                f"expected probabilities of {list(first)} in every answer, got {list(answer.probabilities)} in one; "
                "give answers of one model"
            )
    return first


def apart(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """The largest difference of a probability."""
    return float(np.abs(one[0] - other[0]).max())


def search(scan: Any, run: Any, manifest: Manifest, count: int | None) -> Any:
    """A label is given to one image, not to a scan."""
    raise ArtifactError(
        f"expected an artifact that searches scans, got one that gives a label for each {manifest.input.kind}; take "
        "another artifact, or give it single images"
    )
