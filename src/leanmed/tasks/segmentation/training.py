"""Masks by an encoder and a decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from leanmed.data.masks import read_mask
from leanmed.files import sha256_bytes
from leanmed.models.familiarity import Watched
from leanmed.models.pixels import kept, tissue, unit
from leanmed.models.segmenter import build_segmenter
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.tasks.base import Batch, Named, Parts, Scorer, Size, Task
from leanmed.tasks.segmentation.answer import LEVELS, MaskedImage, decided, least_level
from leanmed.tasks.segmentation.augment import OUTSIDE, augment_masks
from leanmed.tasks.segmentation.judge import MAIN_SCORE
from leanmed.tasks.segmentation.loss import mask_loss
from leanmed.tasks.segmentation.pieces import Pieces
from leanmed.tasks.segmentation.settings import SegmentationRecipe

AUXILIARY = 0.4  # weight of each further output that a network has in training
THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # of one label, of which the best is taken for its score
LEAST_SPREAD = 1e-3  # of the pixels of an image, below which it is flat


class Segmentation(Task):
    """Images, or slices of MR, to a mask of what is to be found in them.

    A batch's inputs are `image`, (b, 4, side, side): three channels times alpha, and alpha, which is 0 where the square
    reaches beyond the image. Photographs are in [0, 1], or uint8 as they are kept; slices of MR are in standard
    deviations of their volume. Its targets are `mask`, (b, side, side) uint8, 255 where nothing is known, and `case`,
    (b,), a number that images of one volume share. The output is `logits`, (b, 1, side, side) for one label and
    (b, K + 1, side, side) for more, the first being the background's.

    Args:
        recipe: model, segmenter and augmentation are read from it.
        labels: what the mask's values mean, from 1 on.
        pretrained: load the weights named in the recipe.
    """

    main_score = MAIN_SCORE
    temperature: Tensor
    threshold: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, labels: tuple[str, ...], *, pretrained: bool = True) -> None:
        super().__init__()
        self.labels = labels
        self.binary = len(labels) == 1
        self.settings = cast(SegmentationRecipe, recipe)
        self.side, self.slices = recipe.model.side, self.settings.segmenter.slices
        self.photographs = self.settings.data.kind == "photograph"
        whole: Pieces = "image" if self.photographs else "volume"
        self.pieces: Pieces = "all" if self.settings.segmenter.pieces == "all" else whole
        outputs = 1 if self.binary else len(labels) + 1
        self.model: Any = self.network(recipe, outputs, pretrained=pretrained)
        self.register_buffer("mean", torch.tensor(recipe.model.mean or (0.485, 0.456, 0.406)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(recipe.model.std or (0.229, 0.224, 0.225)).view(3, 1, 1))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.5))

    def network(self, recipe: Recipe, outputs: int, *, pretrained: bool) -> nn.Module:
        """What makes logits of the images that `seen` gives, with so many of them for each pixel."""
        return build_segmenter(recipe.model, self.slices, outputs, pretrained=pretrained)

    def squared(self, pixels: Tensor) -> Tensor:
        """Pixels (h, w, 3 or 4) to (4, side, side) float32: padded to a square on the right and below, then resized."""
        return tissue(pixels, self.side, levels=LEVELS if self.photographs else 1, padded=True)

    def parts(self) -> Parts:
        """The encoder, where the network has one that was trained before; its decoder is new."""
        return Parts("model.encoder") if hasattr(self.model, "encoder") else super().parts()

    def watched(self) -> Watched:
        """The network's early maps."""
        return Watched("", (self.model.early,)).below("model")

    def prepare(self, pixels: NDArray[Any]) -> Named:
        """See `squared`."""
        with torch.inference_mode():
            return {"image": self.squared(torch.from_numpy(np.ascontiguousarray(pixels)))}

    def keep(self, inputs: Named) -> Named:
        """Photographs as uint8, slices of MR as float16."""
        image = inputs["image"]
        return {"image": kept(image) if self.photographs else image.half()}

    def encode(self, record: Record, size: Size | None = None) -> Named:
        """The mask in the frame of the square, each pixel that of the nearest in the image."""
        mask = torch.from_numpy(read_mask(record, self.labels))
        height, width = mask.shape
        square = max(height, width)
        padded = F.pad(mask[None, None], (0, square - width, 0, square - height), value=OUTSIDE)
        resized = F.interpolate(padded, (self.side, self.side), mode="nearest-exact")[0, 0]
        case = int(sha256_bytes(str(record.image).encode())[:15], 16)
        return {"mask": resized, "case": torch.tensor(case)}

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Crop, flip, turn, shift, zoom, with the masks; change the values.

        With crops of photographs, the inputs also have the `mean` and `std` of the whole image, (b, 3, 1, 1): a crop is
        normalized as the image that it is of.
        """
        whole, crops = unit_or_float(batch.inputs["image"]), self.settings.segmenter.crops
        images, masks = augment_masks(whole, batch.targets["mask"], self.settings, seed)
        inputs = {"image": images}
        if self.photographs and self.settings.segmenter.crop is not None:
            statistics = zip(("mean", "std"), self.statistics(whole), strict=True)
            inputs |= {
                name: values.expand(len(whole), -1, -1, -1).repeat_interleave(crops, 0) for name, values in statistics
            }
        return Batch(inputs, {"mask": masks, "case": batch.targets["case"].repeat_interleave(crops)})

    def statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of photographs (b, 4, s, s) by which they are normalized, (b or 1, 3, 1, 1)."""
        if self.settings.segmenter.normalize == "fixed":
            return self.mean[None], self.std[None]
        colour, alpha = images[:, :3], images[:, 3:]
        area = alpha.sum((2, 3), keepdim=True).clamp_min(1.0)
        mean = colour.sum((2, 3), keepdim=True) / area
        centred = colour - mean * alpha
        return mean, ((centred * centred).sum((2, 3), keepdim=True) / area).sqrt().clamp_min(LEAST_SPREAD)

    def seen(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs as in a batch to what the network sees, (b, 1 or 3, s, s): normalized, and 0 outside the image."""
        images = unit_or_float(inputs["image"])
        colour, alpha = images[:, :3], images[:, 3:]
        if self.photographs:
            mean, std = (inputs["mean"], inputs["std"]) if "mean" in inputs else self.statistics(images)
            colour = (colour - mean * alpha) / std
        return colour if self.slices == 3 else colour[:, 1:2]

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """`logits`, the network's `features`, numbered from the shallowest, and its further outputs in training."""
        maps = self.model(self.seen(inputs))
        features = {f"features.{k}": m for k, m in enumerate(maps.features)}
        more = {f"auxiliary.{k}": m for k, m in enumerate(maps.auxiliary)}
        return {"logits": maps.logits} | features | more

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """See the class."""
        return {"logits": self.reveal(inputs)["logits"].float()}

    def known(self, targets: Named) -> Tensor:
        """The pixels of the image that a mask speaks of."""
        return targets["mask"] != OUTSIDE

    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """The recipe's loss; that of further outputs counts `AUXILIARY` times."""
        name, masks = self.settings.segmenter.loss, targets["mask"]
        loss = mask_loss(revealed["logits"].float(), masks, name)
        for output, logits in revealed.items():
            if output.startswith("auxiliary."):
                full = F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear")
                loss = loss + AUXILIARY * mask_loss(full, masks, name)
        return loss

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (b, c, s, s) to probabilities of the same shape, calibrated where there is one label."""
        return (logits / self.temperature.to(logits.device)).sigmoid() if self.binary else logits.softmax(1)

    def in_image(self, probabilities: Tensor, size: Any) -> tuple[Tensor, Tensor]:
        """Probabilities (c, side, side) to mask and confidence (h, w) uint8 in the image's own frame.

        Each channel is enlarged by itself, so that no more than one of them is held at the image's size.
        """
        height, width = size
        square = torch.sym_max(height, width)

        def enlarged(channel: Tensor) -> Tensor:
            whole = F.interpolate(channel[None, None], (square, square), mode="bilinear", align_corners=False)
            return (whole[0, 0, :height, :width] * LEVELS).round().to(torch.uint8)

        if self.binary:
            confidence = enlarged(probabilities[0])
            mask = (confidence >= least_level(self.threshold.item())).to(torch.uint8)
            return mask, confidence
        confidence = enlarged(probabilities[0])
        mask = torch.zeros_like(confidence)
        for k in range(1, len(probabilities)):
            own = enlarged(probabilities[k])
            better = own > confidence
            mask = torch.where(better, torch.full_like(mask, k), mask)
            confidence = torch.where(better, own, confidence)
        return mask, confidence

    def scorer(self) -> Overlaps:
        """Keeps three counts for each case and label."""
        return Overlaps(self)

    def decide_by(self, temperature: float, threshold: float | None) -> None:
        """Divide logits by a temperature; mark from a threshold on."""
        self.temperature.fill_(temperature)
        if threshold is not None:
            self.threshold.fill_(threshold)

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> list[MaskedImage]:
        """The mask of each image, as the artifact decides it."""
        probabilities = self.probabilities(outputs["logits"].float())
        found = []
        for own, size in zip(probabilities, sizes or [(self.side, self.side)] * len(probabilities), strict=True):
            mask, confidence = (part.cpu().numpy() for part in self.in_image(own, size))
            if self.binary:
                found.append(decided(confidence, self.labels, self.threshold.item(), self.pieces))
            else:
                found.append(MaskedImage.of(self.labels, mask, confidence, pieces=self.pieces))
        return found

    def graph(self) -> nn.Module:
        """Pixels (h, w, 3 or 4) to mask and confidence, (h, w) uint8."""
        return _PixelsToMask([self])

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """As `graph`, of the mean of all tasks' probabilities."""
        return _PixelsToMask([self, *others])

    def manifest(self) -> dict[str, Any]:
        """Labels, input, threshold, temperature, main score."""
        about: dict[str, Any] = {"kind": "photograph"}
        if not self.photographs:
            about = {"kind": "intensities", "dtype": "float32", "unit": "z-scores", "scaled": "volume"}
        return {
            "task": "segmentation",
            "labels": self.labels,
            "input": {**about, "side": self.side, "slices": self.slices, "reduced": False},
            "threshold": self.threshold.item() if self.binary else None,
            "temperature": self.temperature.item(),
            "main_score": self.main_score,
            "pieces": self.pieces,
        }


class Overlaps(Scorer):
    """How many pixels of each label are right, wrong and missed, in each case.

    With one label this is counted for several thresholds, and the figures are those of the best one: the threshold of
    a run is fitted later, to such validation images, and a network whose probabilities all lie below one half may still
    be the best.
    """

    def __init__(self, task: Segmentation) -> None:
        self.task = task
        columns = len(THRESHOLDS) if task.binary else len(task.labels)
        self._counts: dict[int, Tensor] = defaultdict(lambda: torch.zeros(columns, 3, dtype=torch.int64))
        self._losses: list[tuple[float, int]] = []

    def add(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """See `Scorer`."""
        task, logits, masks = self.task, outputs["logits"].float(), targets["mask"]
        probabilities = task.probabilities(logits)
        likeliest, known = probabilities.argmax(1), masks != OUTSIDE
        for k in range(len(THRESHOLDS) if task.binary else len(task.labels)):
            said = (probabilities[:, 0] >= THRESHOLDS[k] if task.binary else likeliest == k + 1) & known
            true = masks == (1 if task.binary else k + 1)
            counts = torch.stack([(true & said).sum((1, 2)), (said & ~true).sum((1, 2)), (true & ~said).sum((1, 2))], 1)
            for case, own in zip(targets["case"].tolist(), counts.cpu(), strict=True):
                self._counts[case][k] += own
        scaled = logits / task.temperature.to(logits.device) if task.binary else logits
        self._losses.append((float(mask_loss(scaled, masks, task.settings.segmenter.loss)), len(masks)))

    def figures(self) -> dict[str, float]:
        """Dice and IoU, the mean over cases of the mean over labels, and the mean loss of the batches."""
        right, wrong, missed = torch.stack(list(self._counts.values())).double().unbind(-1)  # (n, columns) each
        union = right + wrong + missed
        iou = torch.where(union > 0, right / union.clamp_min(1), 1.0)
        dice = torch.where(union > 0, 2 * right / (union + right).clamp_min(1), 1.0)
        if self.task.binary:
            best = int(dice.mean(0).argmax())
            iou, dice = iou[:, best], dice[:, best]
        weights = sum(count for _, count in self._losses)
        loss = sum(loss * count for loss, count in self._losses) / weights
        return {"loss": loss, "dice": float(dice.mean()), "iou": float(iou.mean())}


class _PixelsToMask(nn.Module):
    """Of several tasks the mean; they prepare alike, so the image is prepared once."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(tasks)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tasks = [cast(Segmentation, task) for task in self.tasks]
        first = tasks[0]
        image = {"image": first.squared(pixels)[None]}
        found = [task.probabilities(task(image)["logits"])[0] for task in tasks]
        mean = found[0] if len(found) == 1 else torch.stack(found).mean(0)
        return first.in_image(mean, (pixels.shape[0], pixels.shape[1]))


def unit_or_float(images: Tensor) -> Tensor:
    """Images as they are kept, uint8 or float16, to float32."""
    return unit(images).float()


TASK = Segmentation


def labels_of(dataset: str, records: Sequence[Record], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """As wanted, else as the masks' values are named."""
    return wanted or tuple(dict.fromkeys(label for record in records for label in record.mask.values))
