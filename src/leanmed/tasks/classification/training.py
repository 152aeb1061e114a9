"""One label per image: two labels share one sigmoid output, as in the anemia paper; more have a softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.figures.calibration import choose_threshold, fit_temperature
from leanmed.models.classifier import Classifier
from leanmed.recipe import recipe as config
from leanmed.records import Record
from leanmed.tasks.augment import augment
from leanmed.tasks.base import Batch, Size, Task
from leanmed.tasks.classification import figures as metrics


class Classification(Task):
    """Photographs to calibrated class probabilities.

    Args:
        recipe: model, augmentation and label smoothing are read from it.
        labels: in the order of the outputs; of two, the second is the positive one.
        pretrained: load the backbone's weights named in the recipe.
    """

    temperature: Tensor
    threshold: Tensor

    def __init__(self, recipe: config.Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.binary = len(labels) == 2
        self.main_score = "auc"
        self.settings = recipe
        self.model = Classifier(recipe.model, 1 if self.binary else len(labels), pretrained=pretrained)
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(h, w, 4) uint8 to (4, side, side) float32."""
        with torch.inference_mode():
            return self.model.resize(torch.from_numpy(np.ascontiguousarray(pixels)))

    def encode(self, record: Record, size: Size | None = None) -> Tensor:
        """The label's position."""
        return torch.tensor(self.labels.index(record.label))

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Flip, turn, shift, zoom; the label stays."""
        images, targets = batch
        return augment(images, self.settings.augment, seed), targets

    def forward(self, images: Tensor) -> Tensor:
        """(b, 4, side, side) to uncalibrated logits: (b,) for two labels, (b, K) for more."""
        logits: Tensor = self.model(images)
        return logits[:, 0] if self.binary else logits

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy on one logit, or cross-entropy on K; labels smoothed as the recipe says."""
        images, targets = batch
        smoothing = self.settings.training.label_smoothing
        if not self.binary:
            return F.cross_entropy(self(images), targets, label_smoothing=smoothing)
        soft = targets.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(self(images), soft)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (b,) or (b, K) to probabilities (b, K), calibrated: Guo et al. 2017, arXiv:1706.04599."""
        scaled = logits / self.temperature.to(logits.device)  # the loop collects logits on the CPU
        if not self.binary:
            return scaled.softmax(-1)
        positive = scaled.sigmoid()
        return torch.stack([1 - positive, positive], -1)

    def table(self, outputs: Tensor, targets: Tensor) -> metrics.Scored:
        """Outputs and targets as the value that metrics take; each image is its own group."""
        probabilities = self.probabilities(outputs).double().numpy()
        predicted = (probabilities[:, 1] >= self.threshold.item()) if self.binary else probabilities.argmax(1)
        return metrics.Scored(
            truth=targets.numpy(),
            probabilities=probabilities,
            predicted=predicted.astype(np.int64),
            group=np.arange(len(targets)).astype(str),
            labels=self.labels,
        )

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The same figures as in the report."""
        return metrics.point(self.table(outputs, targets))

    def calibrate(self, outputs: Tensor, targets: Tensor, threshold: str) -> None:
        """Fit the temperature, then choose the threshold on the calibrated probabilities."""
        self.temperature.fill_(fit_temperature(outputs.double().numpy(), targets.numpy()))
        if self.binary:
            positive = self.probabilities(outputs)[:, 1].double().numpy()
            self.threshold.fill_(choose_threshold(targets.numpy(), positive, threshold))

    def answers(self, outputs: Tensor, sizes: Sequence[Size] | None = None) -> list[dict[str, Any]]:
        """`label` and one `p_<label>` per label."""
        table = self.table(outputs, torch.zeros(len(outputs), dtype=torch.int64))
        return [
            {"label": self.labels[k]} | {f"p_{name}": float(p) for name, p in zip(self.labels, row, strict=True)}
            for k, row in zip(table.predicted, table.probabilities, strict=True)
        ]

    def graph(self) -> nn.Module:
        """Pixels (h, w, 3 or 4) uint8 to probabilities (K,)."""
        return _PixelsToProbabilities(self)

    def manifest(self) -> dict[str, Any]:
        """Labels, input side, threshold, temperature, main score."""
        return {
            "task": "classification",
            "labels": self.labels,
            "input": {"kind": "photograph", "side": self.model.side},
            "threshold": self.threshold.item() if self.binary else None,
            "temperature": self.temperature.item(),
            "main_score": self.main_score,
        }


class _PixelsToProbabilities(nn.Module):
    def __init__(self, task: Classification) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixels: Tensor) -> Tensor:
        return self.task.probabilities(self.task(self.task.model.resize(pixels)[None]))[0]
