"""What a task owns, and so what the training loop and the export may ask of any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from leanmed.records import Record

Batch = tuple[Tensor, Tensor]  # prepared inputs (b, ...), targets (b, ...)
Size = tuple[int, int]  # height and width of an image as it was read, in pixels


class Task(nn.Module, ABC):
    """One kind of question asked of an image: its forward, loss, decode, score, and the graph it exports.

    The loop, the export and every compression technique know this class and none of its kinds.
    """

    main_score: str
    """The figure by which versions of one model are compared, higher being better."""

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """Take from the training part what must be known before training; lines to tell whoever watches."""
        return []

    @abstractmethod
    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Decoded pixels (h, w, 4) of any size to the network's input, by the code that is exported."""

    @abstractmethod
    def encode(self, record: Record, size: Size | None = None) -> Tensor:
        """A record's target as the loss wants it, in the frame of what `prepare` makes of an image of that size."""

    @abstractmethod
    def augment(self, batch: Batch, seed: int) -> Batch:
        """Random changes, input and target together; the same seed makes the same changes."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The scalar that training lowers."""

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Figures over a whole part, from the outputs of `forward` and what `encode` made."""

    @abstractmethod
    def calibrate(self, outputs: Tensor, targets: Tensor, threshold: str) -> None:
        """Fix temperature and decision threshold on validation data."""

    @abstractmethod
    def answers(self, outputs: Tensor, sizes: Sequence[Size] | None = None) -> Sequence[Mapping[str, Any]]:
        """Calibrated, decided answers as plain values, one per image, for the table of predictions.

        Args:
            outputs: of `forward`.
            sizes: of the images, in whose own frames the answers are; None: in the frame of what `prepare` makes.
        """

    @abstractmethod
    def graph(self) -> nn.Module:
        """The module that becomes the artifact's graph: an image's pixels in, answers in its frame out.

        If its answer is no probabilities, its attribute `outputs` names the parts.
        """

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What `leanmed.json` must say of the task: labels, input, threshold, temperature, main score."""
