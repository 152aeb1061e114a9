"""The terms of distillation: functions of what a student and its teacher make of the same images.

Logits are (b, K), (b, K, n) or (b, K, h, w), classes on axis 1; of one logit (K = 1) the classes are its absence and
its presence. Features are (b, c, h, w), and for `kernel` anything with the batch as its first axis. All terms are at
least 0, and 0 where student and teacher agree (AAM over labels alone is not: it asks for the teacher's borders, and
not for its probabilities). No gradient reaches a teacher. All is computed in single precision, under autocast too.

`known` (b, h, w) says at which pixels there is a truth: elsewhere, such as outside of the field of view, a teacher has
learned nothing, and its logits there are no part of a term. Features cannot be told apart so, and count everywhere.

Every function raises a ValueError for shapes that do not belong together, and for settings out of range.

AAM, KMM and LM: "Lightweight students distilled from large teachers" for prostate MRI, whose text leaves the readings
open that each function states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LEAST = 1e-4  # of a probability in an affinity, so that no divergence exceeds 9.2
SHORTEST = 1e-12  # features below this are taken for 0
MAPS = 4  # axes of maps (b, c, h, w)
OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (down, right): with their opposites the eight neighbours


def affinity(student: Tensor, teacher: Tensor, *, margin: float = 3.0, known: Tensor | None = None) -> Tensor:
    """AAM: neighbouring pixels are alike where the teacher gives them one label, and differ where it gives them two.

    With p the student's probabilities and W_ij = KL(p_i || p_j) for each pixel i and each of its 8 neighbours j: the
    mean of W over pairs of one label, and the mean of max(0, margin - W) over pairs of two; a mean over no pair is 0.
    The margin is that of adaptive affinity fields (Ke et al. 2018, arXiv:1803.10335), since the paper names none.
    Pairs are computed again in the backward pass, so that a batch of 16 images of 384 x 384 keeps less than 100 MiB.

    Args:
        student, teacher: logits (b, K, h, w); labels are the teacher's likeliest.
        margin: of the divergence, in nats.
        known: see the module; a pair counts if both of its pixels are known.
    """
    _same_shape(student, teacher)
    _maps(student, teacher)
    _positive("margin", margin)
    labels = _log_probabilities(teacher.detach()).argmax(1)
    probability = _log_probabilities(student).exp().clamp_min(LEAST)
    alike = differing = probability.new_zeros(())
    pairs, apart = probability.new_zeros(()), probability.new_zeros(())
    for offset in OFFSETS:
        here, there = _neighbours(labels, offset)
        same, other = here == there, here != there
        if known is not None:
            first, second = _neighbours(known, offset)
            same, other = same & first & second, other & first & second
        near, far = checkpoint(
            _divergences, probability, same, other, offset, margin, use_reentrant=False, preserve_rng_state=False
        )
        alike, differing = alike + near, differing + far
        pairs, apart = pairs + 2 * same.sum(), apart + 2 * other.sum()
    return alike / pairs.clamp_min(1) + differing / apart.clamp_min(1)


def feature_affinity(student: Tensor, teacher: Tensor) -> Tensor:
    """AAM's other reading: how much neighbouring places differ is as in the teacher's features.

    Features are taken for distributions by a softmax over their channels. For each place i and each of its 8 neighbours
    j the divergence KL(p_i || p_j) is computed in both networks; the term is the mean squared difference of the two.

    Args:
        student, teacher: features (b, c, h, w); the larger ones are averaged to the size of the smaller ones.
    """
    _maps(student, teacher)
    placed = _same_places(student.float(), teacher.detach().float())
    both = [features.softmax(1).clamp_min(LEAST) for features in placed]
    total, count = both[0].new_zeros(()), 0
    for offset in OFFSETS:
        for own, wanted in zip(*(_both_ways(probability, offset) for probability in both), strict=True):
            total, count = total + ((own - wanted) ** 2).sum(), count + own.numel()
    return total / max(count, 1)


def kernel(student: Tensor, teacher: Tensor, *, gram: str = "batch") -> Tensor:
    """KMM: the Gram matrix of the student's features is that of the teacher's.

    The term is the mean squared plus the mean absolute difference of the two.

    Args:
        student, teacher: features (b, ...).
        gram: batch: the likeness (b, b) of the images of a batch, each with its features as one vector of length 1;
            of one image it is 1 whatever the features. channel: in each image the likeness (c, c) of channels, each
            as one vector of length 1; the student's channels must be as many as the teacher's, by a projection. Raw
            features, the text's plain reading, give terms of 1e12.

    """
    _one_of("gram", gram, ("batch", "channel"))
    _same_images(student, teacher)
    if gram == "channel":
        _maps(student, teacher)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(f"expected as many channels as the teacher's {teacher.shape[1]}, got {student.shape[1]}")
    start = 1 if gram == "batch" else 2
    own, wanted = (_gram(features.float().flatten(start)) for features in (student, teacher.detach()))
    return F.mse_loss(own, wanted) + F.l1_loss(own, wanted)


def logits(
    student: Tensor,
    teacher: Tensor,
    *,
    direction: str = "teacher||student",
    temperature: float = 1.0,
    known: Tensor | None = None,
) -> Tensor:
    """LM: the divergence of the student's probabilities from the teacher's, mean over images and places.

    Args:
        student, teacher: logits.
        direction: teacher||student: KL(teacher || student), as is usual; student||teacher: as the paper's text has it.
        temperature: both logits are divided by it.
        known: see the module.
    """
    _same_shape(student, teacher)
    _one_of("direction", direction, ("teacher||student", "student||teacher"))
    _positive("temperature", temperature)
    own, wanted = (_log_probabilities(values, temperature) for values in (student, teacher.detach()))
    first, second = (wanted, own) if direction == "teacher||student" else (own, wanted)
    divergence = (first.exp() * (first - second)).sum(1)
    if known is None:
        return divergence.mean()
    return torch.where(known, divergence, 0.0).sum() / known.sum().clamp_min(1)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float = 4.0, known: Tensor | None = None) -> Tensor:
    """Plain distillation (Hinton et al. 2015, arXiv:1503.02531): KL(teacher || student), times T squared."""
    return temperature**2 * logits(student, teacher, temperature=temperature, known=known)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: where features are strong (Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2).

    The map of an image is the sum of its squared features over channels, as a vector of length 1; the term is the
    squared distance of both maps, mean over images. It is squared, unlike in the equation, so that it has a gradient
    at 0.

    Args:
        student, teacher: features (b, c, h, w); the larger maps are averaged to the size of the smaller ones.
    """
    _maps(student, teacher)
    own, wanted = (features.float() for features in (student, teacher.detach()))
    own, wanted = _same_places((own**2).sum(1, keepdim=True), (wanted**2).sum(1, keepdim=True))
    return ((_unit(own.flatten(1)) - _unit(wanted.flatten(1))) ** 2).sum(1).mean()


def regions(student: Tensor, teacher: Tensor, labels: Tensor, known: Tensor | None = None) -> Tensor:
    """EMKD's region affinity: how much the features of two labels' regions resemble each other.

    Of each label in an image the mean of the features over its pixels is taken; the term is the squared difference of
    the cosines between every two labels' means, mean over the pairs of labels that an image has (Qin et al. 2021,
    arXiv:2108.09987, section III-C). Of images with one label there is no pair, and the term is 0.

    Args:
        student, teacher: features (b, c, h, w) of any size and channels.
        labels: (b, h, w) whole numbers from 0; the paper has the true ones, here the teacher's likeliest.
        known: see the module; other pixels are of no region.
    """
    _maps(student, teacher)
    _same_images(student, labels)
    count = int(labels.max()) + 1
    masks = F.one_hot(labels.long(), count).movedim(-1, 1).float()  # (b, K, h, w)
    if known is not None:
        masks = masks * known[:, None]
    own, wanted = (_cosines(features.float(), masks) for features in (student, teacher.detach()))
    both = [_areas(masks, features.shape[-2:]) > 0 for features in (student, teacher)]
    present = both[0] & both[1]
    pairs = torch.triu((present[:, :, None] & present[:, None]).float(), 1)
    return (((own - wanted) ** 2) * pairs).sum() / pairs.sum().clamp_min(1)


def emkd(
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]],
    *,
    temperature: float = 4.0,
    known: Tensor | None = None,
) -> Tensor:
    """EMKD: predictions, importance maps and region affinity, added with equal weights (Qin et al. 2021).

    Args:
        student, teacher: logits (b, K, h, w) of each, and its features from the shallowest to the deepest. Importance
            maps are compared at the deepest, regions at the shallowest.
        temperature: of the predictions.
        known: see the module.
    """
    (own, features), (wanted, taught) = student, teacher
    labels = _log_probabilities(wanted.detach()).argmax(1)
    predictions = soft_targets(own, wanted, temperature=temperature, known=known)
    return predictions + attention(features[-1], taught[-1]) + regions(features[0], taught[0], labels, known)


def mskd(
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]],
    *,
    temperature: float = 4.0,
    known: Tensor | None = None,
) -> Tensor:
    """Our reading of MSKD, multi-scale distillation, of which the paper gives a name and figures alone.

    Predictions, and attention maps at every scale: the student's features and the teacher's are paired from the
    deepest on.

    Args:
        student, teacher: as of `emkd`.
        temperature: of the predictions.
        known: see the module.
    """
    (own, features), (wanted, taught) = student, teacher
    pairs = list(zip(reversed(features), reversed(taught), strict=False))
    if not pairs:
        raise ValueError("expected features of one scale at least, got none")
    scales = torch.stack([attention(first, second) for first, second in pairs]).mean()
    return soft_targets(own, wanted, temperature=temperature, known=known) + scales


def _log_probabilities(values: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits to log-probabilities of two classes at least, on axis 1."""
    scaled = values.float() / temperature
    if scaled.shape[1] == 1:
        return torch.cat([F.logsigmoid(-scaled), F.logsigmoid(scaled)], 1)
    return scaled.log_softmax(1)


def _neighbours(maps: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of maps (..., h, w): every place that has a neighbour at the offset, and these neighbours."""
    down, right = offset
    height, width = maps.shape[-2:]
    first, second = maps[..., : height - down, :], maps[..., down:, :]
    if right >= 0:
        return first[..., : width - right], second[..., right:]
    return first[..., -right:], second[..., : width + right]


def _both_ways(probability: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """KL(here || there) and KL(there || here), (b, h', w') each."""
    here, there = _neighbours(probability, offset)
    difference = here.log() - there.log()
    return (here * difference).sum(1), -(there * difference).sum(1)


def _divergences(
    probability: Tensor, same: Tensor, other: Tensor, offset: tuple[int, int], margin: float
) -> tuple[Tensor, Tensor]:
    """Sums over both directions: of W where labels are the same, and of max(0, margin - W) where they are others."""
    near = far = probability.new_zeros(())
    for divergence in _both_ways(probability, offset):
        near = near + torch.where(same, divergence, 0.0).sum()
        far = far + torch.where(other, (margin - divergence).relu(), 0.0).sum()
    return near, far


def _gram(rows: Tensor) -> Tensor:
    """(..., n, m) to (..., n, n): the cosines of its rows."""
    unit = _unit(rows)
    return _product(unit, unit.mT)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The matrix product in single precision: autocast would round both to eight bits first."""
    with torch.autocast(one.device.type, enabled=False):
        return one @ other


def _unit(rows: Tensor) -> Tensor:
    """Rows (..., m) with a length of 1; a row of zeros stays one, and has no gradient, which would be endless."""
    largest = rows.detach().abs().amax(-1, keepdim=True)
    rows = rows / largest.clamp_min(SHORTEST)  # so that no square overflows
    length = torch.where(largest > SHORTEST, (rows**2).sum(-1, keepdim=True), 1.0).sqrt()
    return torch.where(largest > SHORTEST, rows / length, 0.0)


def _same_places(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of two sizes, averaged to the smaller height and width."""
    size: Any = tuple(min(a, b) for a, b in zip(one.shape[-2:], other.shape[-2:], strict=True))
    pooled = (m if m.shape[-2:] == size else F.adaptive_avg_pool2d(m, size) for m in (one, other))
    first, second = pooled
    return first, second


def _areas(masks: Tensor, size: Any) -> Tensor:
    """How much of each label (b, K) there is at another size."""
    return F.adaptive_avg_pool2d(masks, tuple(size)).sum((2, 3))


def _cosines(features: Tensor, masks: Tensor) -> Tensor:
    """(b, K, K): the cosines between the mean features of labels' regions."""
    shares = F.adaptive_avg_pool2d(masks, (features.shape[-2], features.shape[-1])).flatten(2)  # (b, K, n)
    sums = _product(shares, features.flatten(2).mT)  # (b, K, c)
    return _gram(sums / shares.sum(2, keepdim=True).clamp_min(SHORTEST))


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.ndim < 2:
        raise ValueError(f"expected logits of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}")


def _same_images(student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):
        raise ValueError(f"expected both of the same images, got {len(student)} and {len(teacher)}")


def _maps(student: Tensor, teacher: Tensor) -> None:
    _same_images(student, teacher)
    if student.ndim != MAPS or teacher.ndim != MAPS:
        raise ValueError(f"expected maps (b, c, h, w), got {tuple(student.shape)} and {tuple(teacher.shape)}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"expected {name} to be {' or '.join(known)}, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"expected a finite {name} above 0, got {value}")
