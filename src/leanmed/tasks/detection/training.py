"""Where things of one kind are: boxes with scores, by SSD."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from leanmed.errors import DataError, RecipeError
from leanmed.figures.calibration import choose_threshold, fit_temperature
from leanmed.models.anchors import choose_sides, coverage, decode_boxes
from leanmed.models.ssd import SSD
from leanmed.recipe import recipe as config
from leanmed.records import Record
from leanmed.tasks.base import Batch, Size, Task
from leanmed.tasks.detection import figures as detection
from leanmed.tasks.detection.augment import augment_boxes
from leanmed.tasks.detection.loss import multibox

MOST_TRUE = 100  # boxes of one image to learn from
CANDIDATES, KEPT = 300, 50  # the best default boxes before suppression, and the boxes after it
LEAST = 1e-15  # of a score and of what it lacks to one: keeps logarithms finite
NONE = -100.0  # the logit of a row that holds no box: a score of zero
FEW = 0.8  # of the training boxes matched by a default box, below which somebody should know


class Detection(Task):
    """Images to boxes around objects of one kind.

    A batch's images are (b, c, side, side) and its targets (b, `MOST_TRUE`, 4) boxes in the frame of that square, the
    rest being NaN.

    Args:
        recipe: model, detector and augmentation are read from it.
        labels: the name of the objects.
        pretrained: load the backbone's weights named in the recipe.
    """

    temperature: Tensor
    threshold: Tensor

    def __init__(self, recipe: config.Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.main_score = "ap50"
        self.settings = recipe
        self.model = SSD(recipe.model, recipe.detector, pretrained=pretrained)
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """Choose the default boxes' sizes from the training boxes, and tell how many of them they match."""
        boxes = torch.cat([image[there(image)] for _, image in data])
        if not len(boxes):
            raise DataError("expected a box in the training part, got none; add images with boxes")
        wanted, sides = self.settings.detector.anchors, self.model.sides
        chosen = choose_sides(boxes, len(sides)) if wanted == "auto" else torch.tensor(wanted)
        if len(chosen) != len(sides):
            raise RecipeError(
                f"expected {len(sides)} sides in detector.anchors, one a level and box, got {len(chosen)}"
            )
        sides.copy_(chosen)
        share = coverage(boxes, self.model.default_boxes(self.model.side), self.settings.detector.matching)
        sizes = ", ".join(f"{side:.1f}" for side in chosen.tolist())
        line = f"default boxes of {sizes} pixels match {share:.1%} of {len(boxes)} boxes"
        if share < FEW:
            line += f"; WARNING: below {FEW:.0%}: choose finer detector.levels, another detector.anchors or more zoom"
        return [line]

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(h, w, 4) uint8 to (c, side, side) float32."""
        with torch.inference_mode():
            return self.model.frame(torch.from_numpy(np.ascontiguousarray(pixels)))

    def encode(self, record: Record, size: Size | None = None) -> Tensor:
        """(`MOST_TRUE`, 4): the boxes in the frame of the square."""
        boxes = record.boxes.xyxy
        if len(boxes) > MOST_TRUE:
            raise DataError(f"record {record.id}: expected at most {MOST_TRUE} boxes, got {len(boxes)}; tile the image")
        target = torch.full((MOST_TRUE, 4), torch.nan)
        target[: len(boxes)] = torch.tensor(boxes).view(-1, 4) / (self.scale(size) if size else 1.0)
        return target

    def scale(self, size: Size) -> Any:
        """Pixels of an image (height, width) for one of the square: 1 unless it is larger than the square."""
        return self.model.square(*size) / self.model.side

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Crop, turn, flip, zoom, with the boxes."""
        return augment_boxes(*batch, self.settings, seed)

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, s, s) to (b, `KEPT`, 5): the best boxes xyxy in the frame of the square, and their logits."""
        rows = [self.suppress(outputs, images.shape[-1]) for outputs in self.model(images)]
        return torch.stack([F.pad(row, (0, 0, 0, KEPT - len(row)), value=NONE) for row in rows])

    def suppress(self, outputs: Tensor, side: int) -> Tensor:
        """The network's outputs (n, 5) to at most `KEPT` boxes and logits (k, 5), best first, none much over another.

        Args:
            outputs: of one image.
            side: of the square that the network saw, in pixels.
        """
        logits, which = outputs[:, 4].topk(min(CANDIDATES, len(outputs)))
        boxes = decode_boxes(outputs[which, :4], self.model.default_boxes(side, which))
        kept = nms(boxes, logits, self.settings.detector.nms)[:KEPT]
        return torch.cat([boxes[kept], logits[kept, None]], 1)

    def loss(self, batch: Batch) -> Tensor:
        """SSD's loss over all default boxes: see `multibox`."""
        images, targets = batch
        defaults = self.model.default_boxes(images.shape[-1])
        return multibox(self.model(images), targets, defaults, self.settings.detector)

    def scores(self, logits: Tensor) -> Tensor:
        """Logits to the probability that a box is right: a sigmoid, calibrated."""
        return (logits / self.temperature.to(logits.device)).sigmoid()

    def table(self, outputs: Tensor, targets: Tensor) -> detection.Detected:
        """Outputs and targets as the value that the figures take; each image is its own group."""
        real = [rows[rows[:, 4] > NONE] for rows in outputs]
        count = len(outputs)
        return detection.Detected(
            truth=[image[there(image)].double().numpy() for image in targets],
            boxes=[rows[:, :4].double().numpy() for rows in real],
            scores=[self.scores(rows[:, 4]).double().numpy() for rows in real],
            threshold=np.full(count, self.threshold.item()),
            group=np.arange(count).astype(str),
            labels=self.labels,
        )

    def marks(self, outputs: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Logits (m,) of the boxes that count, and whether each finds an object (0 or 1), by the rule of LUNA16."""
        marks = detection.match_centres(self.table(outputs, targets))
        scores = marks.score.clip(LEAST, 1 - LEAST)
        logits = np.log(scores) - np.log1p(-scores)
        return logits, marks.hit.astype(np.int64)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The same figures as in the report; the loss is the log loss of the boxes' scores."""
        logits, hit = (torch.from_numpy(column) for column in self.marks(outputs, targets))
        loss = F.binary_cross_entropy_with_logits(logits, hit.double()).item() if len(hit) else 0.0
        return {"loss": loss, **detection.point(self.table(outputs, targets))}

    def calibrate(self, outputs: Tensor, targets: Tensor, threshold: str) -> None:
        """Fit the temperature to whether boxes find an object, then choose the threshold; not without any that does."""
        logits, hit = self.marks(outputs, targets)
        if not 0 < hit.sum() < len(hit):
            return
        self.temperature.mul_(fit_temperature(logits, hit))
        logits, hit = self.marks(outputs, targets)
        missed = np.zeros(int(there(targets).sum()) - hit.sum())  # objects without a box have no score
        truth, scores = np.append(hit, missed + 1), np.append(1 / (1 + np.exp(-logits)), missed)
        self.threshold.fill_(choose_threshold(truth.astype(np.int64), scores, threshold))

    def answers(self, outputs: Tensor, sizes: Sequence[Size] | None = None) -> list[dict[str, Any]]:
        """`boxes`: JSON [[x1, y1, x2, y2, score], ...], best first."""
        rows, square = [], (self.model.side, self.model.side)
        for own, size in zip(outputs, sizes or [square] * len(outputs), strict=True):
            boxes, scores = self.in_image(own, size)
            found = torch.cat([boxes.double().round(decimals=2), scores.double().round(decimals=6)[:, None]], 1)
            rows.append({"boxes": json.dumps(found.tolist())})
        return rows

    def in_image(self, rows: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Rows (k, 5) of one image to boxes (n, 4) in its own frame, cut off at its edge, and scores (n,)."""
        (height, width), scale = size, self.scale(size)
        x, y = (rows[:, i:4:2] * scale for i in (0, 1))
        x, y = x.clamp(0, width), y.clamp(0, height)
        boxes = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
        inside = (rows[:, 4] > NONE) & (x[:, 0] < x[:, 1]) & (y[:, 0] < y[:, 1])
        return boxes[inside], self.scores(rows[inside, 4])

    def graph(self) -> nn.Module:
        """Pixels (h, w, 3 or 4) uint8 to boxes (n, 4) xyxy in their frame, and scores (n,), best first."""
        return _PixelsToBoxes(self)

    def manifest(self) -> dict[str, Any]:
        """Labels, input, threshold, temperature, main score."""
        return {
            "task": "detection",
            "labels": self.labels,
            "input": {
                "kind": self.settings.data.kind,
                "side": self.model.side,
                "slices": self.model.slices,
                "origin": self.settings.data.box_origin,
                "reduced": False,  # boxes are in the pixels of the image as it is
            },
            "output": "boxes",
            "threshold": self.threshold.item(),
            "temperature": self.temperature.item(),
            "main_score": self.main_score,
        }


class _PixelsToBoxes(nn.Module):
    outputs = ("boxes", "scores")

    def __init__(self, task: Detection) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        task = self.task
        outputs = task.model(task.model.frame(pixels)[None])[0]
        return task.in_image(task.suppress(outputs, task.model.side), (pixels.shape[0], pixels.shape[1]))


def there(boxes: Tensor) -> Tensor:
    """(..., m, 4) to (..., m): whether a row is a box and not filling."""
    return boxes.isfinite().all(-1)
