"""One label per image: two labels share one sigmoid output, as in the anemia paper; more have a softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.data import class_labels
from leanmed.models.classifier import Classifier
from leanmed.models.familiarity import Watched
from leanmed.models.pixels import kept, unit
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.tasks.augment import augment
from leanmed.tasks.base import Batch, Named, Parts, Scorer, Size, Task
from leanmed.tasks.classification.answer import Prediction
from leanmed.tasks.classification.figures import Scored, point
from leanmed.tasks.classification.judge import MAIN_SCORE


class Classification(Task):
    """Photographs to calibrated class probabilities.

    A batch's inputs are `image`, (b, 4, side, side) float32 in [0, 1], or uint8 as it is kept;
    its targets are `label`, (b,). The output is `logits`, (b,) for two labels and (b, K) for more.

    Args:
        recipe: model, augmentation and label smoothing are read from it.
        labels: in the order of the outputs; of two, the second is the positive one.
        pretrained: load the backbone's weights named in the recipe.
    """

    main_score = MAIN_SCORE
    temperature: Tensor
    threshold: Tensor

    def __init__(self, recipe: Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.binary = len(labels) == 2
        self.settings = recipe
        self.model = Classifier(recipe.model, 1 if self.binary else len(labels), pretrained=pretrained)
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def parts(self) -> Parts:
        """The backbone, whose last layer is new."""
        return Parts("model.backbone", fresh=tuple(f"model.backbone.{path}" for path in self.model.last_layers()))

    def watched(self) -> Watched:
        """The backbone's early stages."""
        return Watched("", self.model.taps()).below("model.backbone")

    def prepare(self, pixels: NDArray[Any]) -> Named:
        """(h, w, 4) uint8 to (4, side, side) float32 in [0, 1]."""
        with torch.inference_mode():
            return {"image": self.model.resize(torch.from_numpy(np.ascontiguousarray(pixels)))}

    def keep(self, inputs: Named) -> Named:
        """(4, side, side) uint8."""
        return {"image": kept(inputs["image"])}

    def encode(self, record: Record, size: Size | None = None) -> Named:
        """The label's position."""
        return {"label": torch.tensor(self.labels.index(record.label))}

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Flip, turn, shift, zoom; the label stays."""
        images = unit(batch.inputs["image"])
        return Batch({"image": augment(images, self.settings.augment, seed)}, batch.targets)

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """See the class."""
        logits: Tensor = self.model(inputs["image"])
        return {"logits": logits[:, 0] if self.binary else logits}

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """`logits` (b, 1) for two labels or (b, K), and the backbone's last `features` (b, c, h, w)."""
        logits, features = self.model.reveal(inputs["image"])
        return {"logits": logits, "features": features}

    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """Binary cross-entropy on one logit, or cross-entropy on K; labels smoothed as the recipe says."""
        logits, labels = revealed["logits"], targets["label"]
        logits = logits[:, 0] if self.binary else logits
        smoothing = self.settings.training.label_smoothing
        if not self.binary:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        soft = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, soft)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (b,) or (b, K) to probabilities (b, K), calibrated: Guo et al. 2017, arXiv:1706.04599."""
        scaled = logits / self.temperature.to(logits.device)  # scorers gather logits on the CPU
        if not self.binary:
            return scaled.softmax(-1)
        positive = scaled.sigmoid()
        return torch.stack([1 - positive, positive], -1)

    def decided(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Probabilities (n, K) to the labels answered (n,)."""
        if not self.binary:
            likeliest: NDArray[np.int64] = np.argmax(probabilities, axis=1)
            return likeliest
        # In the graph's own precision: a probability that is the threshold there must be it here.
        sure: NDArray[np.bool_] = probabilities[:, 1].astype(np.float32) >= np.float32(self.threshold.item())
        return sure.astype(np.int64)

    def scorer(self) -> Logits:
        """Keeps logits and labels, a few bytes an image."""
        return Logits(self)

    def decide_by(self, temperature: float, threshold: float | None) -> None:
        """Divide logits by a temperature; of two labels, answer the second from a threshold on."""
        self.temperature.fill_(temperature)
        if threshold is not None:
            self.threshold.fill_(threshold)

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        """One label each, with its probabilities."""
        probabilities = self._exact(outputs["logits"].double().cpu() / self.temperature.cpu()).numpy()
        threshold = self.threshold.item() if self.binary else None
        return [
            Prediction(self.labels[k], dict(zip(self.labels, row.tolist(), strict=True)), threshold)
            for k, row in zip(self.decided(probabilities), probabilities, strict=True)
        ]

    def _exact(self, scaled: Tensor) -> Tensor:
        """Scaled logits in double precision to probabilities whose small ones keep their digits."""
        return torch.stack([(-scaled).sigmoid(), scaled.sigmoid()], -1) if self.binary else scaled.softmax(-1)

    def graph(self) -> nn.Module:
        """Pixels (h, w, 3 or 4) uint8 to probabilities (K,)."""
        return _PixelsToProbabilities([self])

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """Pixels (h, w, 3 or 4) uint8 to the mean of all tasks' probabilities (K,)."""
        return _PixelsToProbabilities([self, *others])

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


class Logits(Scorer):
    """The logits and labels of a part."""

    def __init__(self, task: Classification) -> None:
        self.task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """See `Scorer`."""
        self._seen.append((outputs["logits"].float().cpu(), targets["label"].cpu()))

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Logits (n,) or (n, K), and labels (n,)."""
        logits, labels = zip(*self._seen, strict=True)
        return torch.cat(logits), torch.cat(labels)

    def table(self) -> Scored:
        """All of them as the value that the figures take; each image is its own group."""
        logits, labels = self.gathered()
        probabilities = self.task.probabilities(logits).double().numpy()
        return Scored(
            truth=labels.numpy(),
            probabilities=probabilities,
            predicted=self.task.decided(probabilities),
            group=np.arange(len(labels)).astype(str),
            labels=self.task.labels,
        )

    def figures(self) -> dict[str, float]:
        """The same as in the report."""
        return point(self.table())


class _PixelsToProbabilities(nn.Module):
    """Of several tasks the mean; they resize alike, so the image is resized once."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(tasks)

    def forward(self, pixels: Tensor) -> Tensor:
        tasks = [cast(Classification, task) for task in self.tasks]
        image = tasks[0].model.look(pixels)[None]
        found = [task.probabilities(task({"image": image})["logits"])[0] for task in tasks]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)


TASK = Classification


def labels_of(dataset: str, records: Sequence[Record], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """As `class_labels` finds them."""
    return class_labels(dataset, records, wanted)
