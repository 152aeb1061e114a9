"""Losses as functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.models.anchors import BACKGROUND, encode_boxes, match
from leanmed.tasks.detection.settings import Detector


def multibox(outputs: Tensor, boxes: Tensor, defaults: Tensor, settings: Detector) -> Tensor:
    """SSD's loss (Liu et al. 2016, arXiv:1512.02325, equations 1-3), with one logit instead of two classes.

    Binary cross-entropy of positives and of the hardest negatives, `negatives` for each positive of the image but at
    least `negatives_floor`, plus smooth L1 of the positives' offsets; over the number of positives in the batch. In
    the paper an image without objects teaches nothing; here it has the floor's negatives. In the paper a default box
    just below the matching IoU is a negative, and a hard one; here, from an IoU of `near` on, it counts neither way.

    Args:
        outputs: (b, n, 5), four offsets and a logit for each default box.
        boxes: (b, m, 4) xyxy, rows of NaN where an image has fewer than m.
        defaults: (n, 4) xyxy.
        settings: of matching and mining.

    Returns:
        A scalar.
    """
    there = [image[image.isfinite().all(1)] for image in boxes]
    of = torch.stack([match(own, defaults, settings.matching, settings.near) for own in there])  # (b, n)
    positive, negative = of >= 0, of == BACKGROUND
    total = positive.sum().clamp_min(1)
    cross_entropy = F.binary_cross_entropy_with_logits(outputs[..., 4], positive.float(), reduction="none")
    classes = cross_entropy[positive | hardest(cross_entropy, positive, negative, settings)].sum()
    wanted = [encode_boxes(own[i[i >= 0]], defaults[i >= 0]) for own, i in zip(there, of, strict=True)]
    offsets = F.smooth_l1_loss(outputs[..., :4][positive], torch.cat(wanted), reduction="sum")
    return (classes + settings.box_weight * offsets) / total


def hardest(cross_entropy: Tensor, positive: Tensor, negative: Tensor, settings: Detector) -> Tensor:
    """Which negatives of each image are mined: those of the highest loss; (b, n) bool, as all but the settings."""
    wanted = (settings.negatives * positive.sum(1)).clamp_min(settings.negatives_floor)
    loss = cross_entropy.detach().masked_fill(~negative, -1)
    rank = loss.argsort(1, descending=True).argsort(1)
    return (rank < wanted[:, None]) & negative
