"""Masks of what is pointed at, by Segment Anything and a localiser that points where nobody does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.models.familiarity import Tap, Watched
from leanmed.models.point_localiser import PointLocaliser, localisation_loss, pixels
from leanmed.models.prompted import build_prompted
from leanmed.models.sam import PromptedSegmenter, checkpoint_blocks
from leanmed.prompts import INSIDE, NO_POINT, OUTSIDE
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.tasks.base import Batch, FurtherGraph, Named, Parts, Size, Task
from leanmed.tasks.prompted.answer import PromptedMask
from leanmed.tasks.prompted.judge import one_label
from leanmed.tasks.prompted.prompts import draw_prompts, target_points
from leanmed.tasks.prompted.settings import PromptedRecipe
from leanmed.tasks.segmentation.training import Segmentation
from leanmed.tasks.segmentation.training import labels_of as labels_of_masks

PROMPTS = 0x9E3779B9  # so that prompts are not drawn by the numbers that turn the images


class Prompted(Segmentation):
    """Images and prompts to a mask of what is pointed at.

    A batch is that of `Segmentation`, with `point`, (b, 2) x, y in [0, 1], among the targets: what the localiser is to
    find, NaN in an image without the object. `augment` adds prompts to the inputs, drawn from the true masks: `points`,
    (b, n, 2) in pixels of the square, and their `labels`, (b, n). Where there are none, as in all that is scored, the
    localiser points.

    The localiser learns beside the network from the same images; neither hands the other a gradient.

    Args:
        recipe: as of `Segmentation`, and `prompter`.
        labels: one, what is marked.
        pretrained: load the weights named in the recipe.
    """

    def __init__(self, recipe: Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        self.prompter = cast(PromptedRecipe, recipe).prompter
        super().__init__(recipe, labels, pretrained=pretrained)
        self.localiser = PointLocaliser(
            self.prompter.localiser, pretrained=pretrained, backbone=self.prompter.localiser_backbone
        )

    def network(self, recipe: Recipe, outputs: int, *, pretrained: bool) -> PromptedSegmenter:
        """SAM, whose mask is one logit for each pixel."""
        network = build_prompted(recipe.model, pretrained=pretrained)
        checkpoint_blocks(network, self.prompter.checkpointing)
        return network

    def parts(self) -> Parts:
        """SAM's; the localiser is none of them. What serves several answers to one prompt is never asked."""
        unasked = tuple(f"model.mask_decoder.output_hypernetworks_mlps.{k}" for k in (1, 2, 3))
        fresh = tuple(f"model.{name}" for name in sorted(self.model.fresh))
        return Parts("model.vision_encoder", ("model.mask_decoder",), ("model.prompt_encoder", *unasked), fresh)

    def watched(self) -> Watched:
        """The image encoder's first two blocks."""
        encoder = "model.vision_encoder"
        blocks = range(min(2, len(self.model.blocks)))
        taps = tuple(Tap(f"{encoder}.layers.{k}", axis=-1) for k in blocks)
        return Watched(f"{encoder}.patch_embed", taps)

    def encode(self, record: Record, size: Size | None = None) -> Named:
        """The mask in the frame of the square, and the point in it that the localiser is to find."""
        targets = super().encode(record, size)
        return targets | {"point": target_points(targets["mask"][None], self.prompter.point)[0]}

    def augment(self, batch: Batch, seed: int) -> Batch:
        """As `Segmentation`; then draw prompts."""
        inputs, targets = super().augment(batch, seed)
        points, labels = draw_prompts(targets["mask"], self.prompter, torch.Generator().manual_seed(seed ^ PROMPTS))
        point = target_points(targets["mask"], self.prompter.point)
        return Batch(inputs | {"points": points, "labels": labels}, targets | {"point": point})

    def told(self, targets: Named) -> Named:
        """The point that the localiser should have found; nothing where an image has no object."""
        if targets["point"].isnan().any():
            return {}
        return {"points": pixels(targets["point"], self.side)[:, None], "labels": torch.tensor([[INSIDE]])}

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """`logits`, the embedding as `features`, the localiser's `point`, and the `iou` expected of the mask.

        Also `asked`, the points (b, n, 2) that the mask is of, in pixels of the square, and their labels, `marks`.
        """
        images = self.seen(inputs)
        embeddings, found = self.model.embed(images), self.localiser(images)
        points, labels = inputs.get("points"), inputs.get("labels")
        if points is None or labels is None:
            points = pixels(found.detach(), self.side)[:, None]
            labels = torch.full(points.shape[:2], INSIDE, device=points.device)
        logits, iou = self.model.decode(embeddings, points, labels)
        given = {"asked": points, "marks": labels}
        return {"logits": self.enlarged(logits), "features": embeddings, "point": found, "iou": iou, **given}

    def enlarged(self, logits: Tensor) -> Tensor:
        """Logits of a coarser size to (b, 1, side, side)."""
        return F.interpolate(logits, (self.side, self.side), mode="bilinear", align_corners=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """Logits, the localiser's points (b, 2), the expected IoU (b,), and the points that the masks are of."""
        revealed = self.reveal(inputs)
        kept = {name: revealed[name] for name in ("logits", "point", "iou", "asked", "marks")}
        return {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}

    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """The recipe's loss of the masks, and the squared errors of the localiser's points and of the expected IoU.

        A point counts only where there is an object.
        """
        logits, masks = revealed["logits"].float(), targets["mask"]
        found = ~targets["point"].isnan().any(1)
        points = localisation_loss(revealed["point"][found].float(), targets["point"][found]) if found.any() else 0.0
        expected = F.mse_loss(revealed["iou"].float(), overlap(logits.detach(), masks))
        return super().loss_of({"logits": logits}, targets) + points + expected

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> list[Any]:
        """The mask of each image for the points it was asked with, as the artifact decides it."""
        masks = super().answers(outputs, sizes)
        frames = sizes or [(self.side, self.side)] * len(masks)
        given = ((outputs["asked"] + 0.5) / self.side, outputs["marks"], outputs["iou"].clamp(0, 1))
        found = []
        for mask, size, points, marks, score in zip(masks, frames, *(part.cpu() for part in given), strict=True):
            real = marks != NO_POINT
            placed = (points[real] * max(size)).tolist()
            found.append(PromptedMask.about(mask, placed, marks[real].tolist(), float(score)))
        return found

    def graph(self) -> nn.Module:
        """Pixels (h, w, 3 or 4) to what the other two graphs take: an embedding, and the square that it is of."""
        return _PixelsToEmbedding(self)

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """Embeddings of several networks have no mean."""
        return Task.ensemble(self, others)

    def further_graphs(self) -> dict[str, FurtherGraph]:
        """The decoder of prompts, and the localiser."""
        patches = self.side // self.model.stride
        example = {
            "embedding": torch.randn(1, self.model.channels, patches, patches),
            "points": torch.tensor([[20.0, 30.0], [50.0, 10.0]]),
            "labels": torch.tensor([INSIDE, OUTSIDE]),
            "canvas": torch.zeros(60, 80, dtype=torch.uint8),
        }
        height, width, count = (torch.export.Dim(name, min=1) for name in ("height", "width", "count"))
        lengths = {"points": {0: count}, "labels": {0: count}, "canvas": {0: height, 1: width}}
        square = {"image": torch.randn(1, 3, self.side, self.side)}
        return {
            "decoder": FurtherGraph(_PromptsToMask(self), [example], lengths),
            "localiser": FurtherGraph(_SquareToPoint(self), [square]),
        }

    def manifest(self) -> dict[str, Any]:
        """As of `Segmentation`."""
        return {**super().manifest(), "task": "prompted"}


def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """IoU (b,) of logits (b, 1, h, w) above 0 with masks (b, h, w), over known pixels; where both are empty it is 1."""
    said, true, known = logits[:, 0] > 0, masks == 1, masks <= 1
    both, either = ((part & known).flatten(1).sum(1) for part in (said & true, said | true))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


class _PixelsToEmbedding(nn.Module):
    def __init__(self, task: Prompted) -> None:
        super().__init__()
        self.task = task

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        image = self.task.seen({"image": self.task.squared(pixels)[None]})
        return self.task.model.embed(image), image


class _PromptsToMask(nn.Module):
    """An embedding, points (n, 2) and labels (n,) in the image's own frame, and zeros (h, w) of the image's size."""

    def __init__(self, task: Prompted) -> None:
        super().__init__()
        self.task = task

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor, canvas: Tensor) -> tuple[Tensor, ...]:
        task, (height, width) = self.task, canvas.shape
        square: Any = torch.sym_max(height, width)
        placed = points * (task.side / square) - 0.5
        logits, iou = task.model.decode(embedding, placed[None], labels[None])
        mask, confidence = task.in_image(task.probabilities(task.enlarged(logits))[0], (height, width))
        return mask, confidence, iou.clamp(0, 1)


class _SquareToPoint(nn.Module):
    def __init__(self, task: Prompted) -> None:
        super().__init__()
        self.localiser = task.localiser

    def forward(self, image: Tensor) -> Tensor:
        return self.localiser(image)[0]  # type: ignore[no-any-return]


TASK = Prompted


def labels_of(dataset: str, records: Sequence[Record], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """As of masks; there must be one."""
    labels = labels_of_masks(dataset, records, wanted)
    one_label(labels)
    return labels
