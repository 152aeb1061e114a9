"""Where things of one kind are: boxes with scores, by SSD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

from leanmed.errors import DataError, RecipeError
from leanmed.models.anchors import choose_sides, coverage, decode_boxes
from leanmed.models.familiarity import Tap, Watched
from leanmed.models.pixels import kept, unit
from leanmed.models.ssd import SSD
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.tasks.base import Batch, Named, Parts, Scorer, Size, Task
from leanmed.tasks.detection import answer, figures
from leanmed.tasks.detection.answer import Detections
from leanmed.tasks.detection.augment import augment_boxes
from leanmed.tasks.detection.judge import MAIN_SCORE
from leanmed.tasks.detection.loss import multibox
from leanmed.tasks.detection.settings import DetectionRecipe

OBJECTS = ("object",)  # what boxes hold, when the recipe does not say
MOST_TRUE = 100  # boxes of one image to learn from
CANDIDATES, KEPT = 300, 50  # the best default boxes before suppression, and the boxes after it
NONE = -100.0  # the logit of a row that holds no box: a score of zero
FEW = 0.8  # of the training boxes matched by a default box, below which somebody should know


class Detection(Task):
    """Images to boxes around objects of one kind.

    A batch's inputs are `image`, (b, c, side, side) float32 in [0, 1], or uint8 as it is kept;
    its targets are `boxes`, (b, `MOST_TRUE`, 4) xyxy in the frame of that square, the rest being NaN. The output is
    `boxes`, (b, `KEPT`, 5): the best boxes xyxy in the frame of the square, and their logits.

    Args:
        recipe: model, detector and augmentation are read from it.
        labels: the name of the objects.
        pretrained: load the backbone's weights named in the recipe.
    """

    main_score = MAIN_SCORE
    temperature: Tensor
    threshold: Tensor

    def __init__(self, recipe: Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.settings = cast(DetectionRecipe, recipe)
        self.model = SSD(recipe.model, self.settings.detector, pretrained=pretrained)
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """Choose the default boxes' sizes from the training boxes, and tell how many of them they match."""
        boxes = torch.cat([own[there(own)] for own in (batch.targets["boxes"] for batch in data)])
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

    def parts(self) -> Parts:
        """The backbone; neck and heads are new."""
        return Parts("model.backbone")

    def watched(self) -> Watched:
        """The finest of the backbone's maps."""
        maps = "model.backbone.maps"
        return Watched(maps, (Tap(maps),))

    def prepare(self, pixels: NDArray[Any]) -> Named:
        """(h, w, 4) uint8 to (c, side, side) float32 in [0, 1]."""
        with torch.inference_mode():
            return {"image": self.model.frame(torch.from_numpy(np.ascontiguousarray(pixels)))}

    def keep(self, inputs: Named) -> Named:
        """(c, side, side) uint8, without loss where the image was not shrunk."""
        return {"image": kept(inputs["image"])}

    def encode(self, record: Record, size: Size | None = None) -> Named:
        """The boxes in the frame of the square."""
        boxes = record.boxes.xyxy
        if len(boxes) > MOST_TRUE:
            raise DataError(f"record {record.id}: expected at most {MOST_TRUE} boxes, got {len(boxes)}; tile the image")
        target = torch.full((MOST_TRUE, 4), torch.nan)
        target[: len(boxes)] = torch.tensor(boxes).view(-1, 4) / (self.scale(size) if size else 1.0)
        return {"boxes": target}

    def scale(self, size: Size) -> Any:
        """Pixels of an image (height, width) for one of the square: 1 unless it is larger than the square."""
        return self.model.square(*size) / self.model.side

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Crop, turn, flip, zoom, with the boxes."""
        images, boxes = augment_boxes(unit(batch.inputs["image"]), batch.targets["boxes"], self.settings, seed)
        return Batch({"image": images}, {"boxes": boxes})

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """See the class."""
        images = inputs["image"]
        rows = [self.suppress(outputs, images.shape[-1]) for outputs in self.model(images)]
        return {"boxes": torch.stack([F.pad(row, (0, 0, 0, KEPT - len(row)), value=NONE) for row in rows])}

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

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """`logits` (b, 1, n) of all default boxes, their `boxes` (b, n, 5) with offsets, and the maps as `features`.

        `places` (b, n, 4) are the default boxes themselves, in the frame of the square that is seen.
        """
        images = inputs["image"]
        outputs, maps = self.model.reveal(images)
        features = {f"features.{k}": m for k, m in enumerate(maps)}
        places = self.model.default_boxes(images.shape[-1]).expand(len(images), -1, -1)
        return {"logits": outputs[..., 4][:, None], "boxes": outputs, "places": places} | features

    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """SSD's loss over all default boxes: see `multibox`."""
        return multibox(revealed["boxes"], targets["boxes"], revealed["places"][0], self.settings.detector)

    def scores(self, logits: Tensor) -> Tensor:
        """Logits to the probability that a box is right: a sigmoid, calibrated."""
        return (logits / self.temperature.to(logits.device)).sigmoid()

    def scorer(self) -> Found:
        """Keeps at most `KEPT` boxes an image."""
        return Found(self)

    def decide_by(self, temperature: float, threshold: float | None) -> None:
        """Divide logits by a temperature; answer boxes from a threshold on."""
        self.temperature.fill_(temperature)
        self.threshold.fill_(threshold or 0.0)

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> list[Detections]:
        """The boxes of each image, as the artifact decides them."""
        rows, square = outputs["boxes"].double().cpu(), (self.model.side, self.model.side)
        found = []
        for own, size in zip(rows, sizes or [square] * len(rows), strict=True):
            boxes, scores = self.in_image(own, size)
            found.append(answer.decided([boxes.float().numpy(), scores.numpy()], self.threshold.item()))
        return found

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

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """As `graph`: the boxes of all tasks, each scored by the mean of what the tasks say of its place."""
        return _PixelsToJointBoxes([self, *others])

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
            "threshold": self.threshold.item(),
            "temperature": self.temperature.item(),
            "main_score": self.main_score,
        }


class Found(Scorer):
    """The boxes of a part, and the true ones."""

    def __init__(self, task: Detection) -> None:
        self.task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """See `Scorer`."""
        self._seen.append((outputs["boxes"].float().cpu(), targets["boxes"].cpu()))

    def objects(self) -> int:
        """How many true boxes there are."""
        return sum(int(there(truth).sum()) for _, truth in self._seen)

    def table(self) -> figures.Detected:
        """All of them as the value that the figures take; each image is its own group."""
        pairs = [pair for outputs, targets in self._seen for pair in zip(outputs, targets, strict=True)]
        real = [rows[rows[:, 4] > NONE] for rows, _ in pairs]
        return figures.Detected(
            truth=[truth[there(truth)].double().numpy() for _, truth in pairs],
            boxes=[rows[:, :4].double().numpy() for rows in real],
            scores=[self.task.scores(rows[:, 4]).double().numpy() for rows in real],
            threshold=np.full(len(pairs), self.task.threshold.item()),
            group=np.arange(len(pairs)).astype(str),
            labels=self.task.labels,
        )

    def figures(self) -> dict[str, float]:
        """The same as in the report; the loss is the log loss of boxes' scores, by the rule of LUNA16."""
        table = self.table()
        marks = figures.match_centres(table)
        logits, hit = torch.from_numpy(answer.log_odds(marks.score)), torch.from_numpy(marks.hit)
        loss = F.binary_cross_entropy_with_logits(logits, hit.double()).item() if len(hit) else 0.0
        return {"loss": loss, **figures.point(table)}


class _PixelsToBoxes(nn.Module):
    def __init__(self, task: Detection) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        task = self.task
        outputs = task.model(task.model.frame(pixels)[None])[0]
        return task.in_image(task.suppress(outputs, task.model.side), (pixels.shape[0], pixels.shape[1]))


class _PixelsToJointBoxes(nn.Module):
    """The boxes of several detectors: what one says of a box is its best score that overlaps it, or nothing, 0."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.members = nn.ModuleList(_PixelsToBoxes(cast(Detection, task)) for task in tasks)
        self.overlap = cast(Detection, tasks[0]).settings.detector.nms

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = [member(pixels) for member in self.members]
        boxes = torch.cat([own for own, _ in found])  # (n, 4)
        said = []
        for own, scores in found:
            seen = torch.where(box_iou(boxes, own) > self.overlap, scores, 0.0)  # (n, k)
            said.append(F.pad(seen, (0, 1)).amax(1))  # one more, so that a detector without boxes says 0
        joint = torch.stack(said).mean(0)
        kept = nms(boxes, joint, self.overlap)[:KEPT]
        return boxes[kept], joint[kept]


def there(boxes: Tensor) -> Tensor:
    """(..., m, 4) to (..., m): whether a row is a box and not filling."""
    return boxes.isfinite().all(-1)


TASK = Detection


def labels_of(dataset: str, records: Sequence[Record], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The name of what the boxes hold."""
    return wanted or OBJECTS
