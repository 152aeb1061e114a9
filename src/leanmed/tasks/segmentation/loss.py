"""What segmentation training lowers: functions of logits and masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.tasks.segmentation.augment import OUTSIDE

GAMMA = 2.0  # of the focal loss
SMOOTHING = 1.0  # pixels added to both sides of Dice's fraction, so that an empty mask has a gradient


def mask_loss(logits: Tensor, masks: Tensor, loss: str) -> Tensor:
    """The loss that a recipe names, over the pixels that are known.

    Args:
        logits: (b, 1, h, w) of one label, or (b, K + 1, h, w) of background and K labels.
        masks: (b, h, w) uint8; `OUTSIDE` where nothing is known.
        loss: dice+cross-entropy, dice, cross-entropy or focal.
    """
    known = masks != OUTSIDE
    truth = torch.where(known, masks, 0).long()
    total = logits.new_zeros(())
    if loss != "dice":
        each = _cross_entropy(logits, truth)
        if loss == "focal":  # Lin et al. 2017, arXiv:1708.02002, equation 4
            each = each * (1 - (-each).exp()) ** GAMMA
        total = total + (each * known).sum() / known.sum().clamp_min(1)
    if "dice" in loss:
        total = total + dice_loss(logits, truth, known)
    return total


def dice_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797, with plain sums in the denominator), over the batch.

    It is the mean over labels, the background not being one of them.
    """
    if logits.shape[1] == 1:
        probability, wanted = logits.sigmoid(), (truth == 1)[:, None].to(logits.dtype)
    else:
        probability = logits.softmax(1)[:, 1:]
        wanted = F.one_hot(truth, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    known = known[:, None]
    both = (probability * wanted * known).sum((0, 2, 3))
    each = ((probability + wanted) * known).sum((0, 2, 3))
    return 1 - ((2 * both + SMOOTHING) / (each + SMOOTHING)).mean()


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """(b, h, w)."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], truth.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, truth, reduction="none")
