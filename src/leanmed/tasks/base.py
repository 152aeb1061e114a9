"""What a task owns, and so what the training loop and the export may ask of any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from leanmed.records import Record

Batch = tuple[Tensor, Tensor]  # prepared inputs (b, ...), targets (b, ...)


class Task(nn.Module, ABC):
    """One kind of question asked of an image: its forward, loss, decode, score, and the graph it exports.

    The loop, the export and every compression technique know this class and none of its kinds.
    """

    main_score: str
    """The figure by which versions of one model are compared, higher being better."""

    @abstractmethod
    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Decoded pixels (h, w, 4) of any size to the network's input, by the code that is exported."""

    @abstractmethod
    def encode(self, record: Record) -> Tensor:
        """A record's target as the loss wants it."""

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
    def answers(self, outputs: Tensor) -> Sequence[Mapping[str, Any]]:
        """Calibrated, decided answers as plain values, one per image, for the table of predictions."""

    @abstractmethod
    def graph(self) -> nn.Module:
        """The module that becomes the artifact's graph: an image's pixels in, answers in its frame out."""

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What `leanmed.json` must say of the task: labels, input, threshold, temperature, main score."""
