"""The terms of distillation: against slow loops over plain numbers, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from leanmed.compress.distil_terms import (
    affinity,
    attention,
    emkd,
    feature_affinity,
    kernel,
    logits,
    mskd,
    regions,
    soft_targets,
)

CLOSE = 5e-6
LEAST = 1e-4  # of a probability in an affinity
FAR = 1e4  # a logit of which a softmax leaves 0 and 1
Term = Callable[[Tensor, Tensor], Tensor]


def made(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two(*shape: int) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's, of the same shape."""
    return made(*shape), made(*shape, seed=1)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def at(maps: Tensor, y: int, x: int) -> list[float]:
    """The raised probabilities of one pixel of (K, h, w)."""
    return [max(p, LEAST) for p in softmax(maps[:, y, x].tolist())]


def neighbours(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Each pixel with each of its eight neighbours that lie in the image."""
    return [
        (y, x, y + down, x + right)
        for y, x, down, right in product(range(height), range(width), (-1, 0, 1), (-1, 0, 1))
        if (down or right) and 0 <= y + down < height and 0 <= x + right < width
    ]


def slow_affinity(student: Tensor, teacher: Tensor, margin: float = 3.0) -> float:
    alike, differing = [], []
    for own, wanted in zip(student, teacher, strict=True):
        for y, x, v, u in neighbours(*own.shape[1:]):
            apart = divergence(at(own, y, x), at(own, v, u))
            if wanted[:, y, x].argmax() == wanted[:, v, u].argmax():
                alike.append(apart)
            else:
                differing.append(max(0.0, margin - apart))
    return mean(alike) + mean(differing)


def slow_feature_affinity(student: Tensor, teacher: Tensor) -> float:
    return mean(
        [
            (divergence(at(own, y, x), at(own, v, u)) - divergence(at(wanted, y, x), at(wanted, v, u))) ** 2
            for own, wanted in zip(student, teacher, strict=True)
            for y, x, v, u in neighbours(*own.shape[1:])
        ]
    )


def cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def slow_kernel(student: list[list[float]], teacher: list[list[float]]) -> float:
    """Of rows."""
    places = list(product(range(len(student)), repeat=2))
    apart = [cosine(student[i], student[j]) - cosine(teacher[i], teacher[j]) for i, j in places]
    return mean([a * a for a in apart]) + mean([abs(a) for a in apart])


def rows(features: Tensor) -> list[list[float]]:
    return [own.flatten().tolist() for own in features]


def slow_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> float:
    """KL(teacher || student) of (b, K, ...)."""
    every = zip(*(maps.flatten(2).mT.flatten(0, 1).tolist() for maps in (student, teacher)), strict=True)
    return mean(
        [
            divergence(softmax([v / temperature for v in wanted]), softmax([v / temperature for v in own]))
            for own, wanted in every
        ]
    )


def slow_attention(student: Tensor, teacher: Tensor) -> float:
    """Of maps of one height and width."""
    found = []
    for pair in zip(student, teacher, strict=True):
        own, wanted = ([math.fsum(v * v for v in place) for place in maps.flatten(1).T.tolist()] for maps in pair)
        lengths = math.hypot(*own), math.hypot(*wanted)
        found.append(math.fsum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(own, wanted, strict=True)))
    return mean(found)


def slow_regions(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    """Of features of the labels' height and width."""
    found = []
    for own, wanted, masks in zip(student, teacher, labels, strict=True):
        means = [
            {int(k): features[:, masks == k].mean(1).tolist() for k in masks.unique()} for features in (own, wanted)
        ]
        for i, j in combinations(means[0], 2):
            found.append((cosine(means[0][i], means[0][j]) - cosine(means[1][i], means[1][j])) ** 2)
    return mean(found)


def as_two_classes(one: Tensor) -> Tensor:
    """A sigmoid of z is the softmax of 0 and z."""
    return torch.cat([torch.zeros_like(one), one], 1)


# affinity


def side_by_side(left: tuple[float, float], right: tuple[float, float]) -> Tensor:
    """An image of 1 x 2 pixels, each with two logits."""
    return torch.tensor([left, right]).T.reshape(1, 2, 1, 2)


QUARTERS = side_by_side((math.log(3), 0.0), (0.0, math.log(3)))  # probabilities 3/4 and 1/4, beside 1/4 and 3/4
APART = math.log(3) / 2  # KL of these two, both ways: 3/4 log 3 - 1/4 log 3


def test_two_pixels_of_one_label_by_hand() -> None:
    assert affinity(QUARTERS, side_by_side((1, 0), (2, 0))).item() == pytest.approx(APART, abs=CLOSE)


def test_two_pixels_of_two_labels_by_hand() -> None:
    wanted = side_by_side((1, 0), (0, 1))
    assert affinity(QUARTERS, wanted).item() == pytest.approx(3 - APART, abs=CLOSE)
    assert affinity(QUARTERS, wanted, margin=0.5).item() == 0


def test_two_sure_pixels_are_as_far_apart_as_the_least_probability_allows() -> None:
    """1 log(1 / 1e-4) + 1e-4 log(1e-4 / 1) = .9999 log 1e4."""
    sure = side_by_side((FAR, -FAR), (-FAR, FAR))
    wanted = (1 - LEAST) * math.log(1e4)
    assert affinity(sure, side_by_side((1, 0), (1, 0))).item() == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("margin", [0.7, 3.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_affinity_equals_the_slow_loop(classes: int, margin: float) -> None:
    student, teacher = two(2, classes, 4, 5)
    wanted = slow_affinity(student, teacher, margin)
    assert affinity(student, teacher, margin=margin).item() == pytest.approx(wanted, abs=CLOSE)


def test_affinity_of_one_logit_is_that_of_two_classes() -> None:
    student, teacher = two(2, 1, 3, 4)
    wanted = slow_affinity(as_two_classes(student), as_two_classes(teacher))
    assert affinity(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_affinity_is_zero_where_regions_are_even_and_far_apart() -> None:
    logits = torch.zeros(1, 2, 4, 6)
    logits[:, 1, :, 3:], logits[:, 0, :, :3] = FAR, FAR
    assert affinity(logits, logits).item() == 0


def test_a_mean_over_no_pair_is_zero() -> None:
    even = torch.zeros(1, 2, 3, 3)
    assert affinity(even, even).item() == 0  # no pair of two labels
    assert affinity(even[..., :1, :2], side_by_side((1, 0), (0, 1))).item() == 3  # none of one label
    assert affinity(even[..., :1, :1], even[..., :1, :1]).item() == 0  # no pair at all


def test_the_gradient_of_affinity_is_that_of_finite_differences() -> None:
    """Pairs are computed again in the backward pass, which must find what the forward pass found."""
    student, teacher = (maps.requires_grad_() for maps in two(1, 2, 3, 3))
    affinity(student, teacher).backward()
    assert student.grad is not None
    for place in product(range(2), range(3), range(3)):
        step = torch.zeros_like(student)
        step[(0, *place)] = 1e-2
        with torch.no_grad():
            slope = (slow_affinity(student + step, teacher) - slow_affinity(student - step, teacher)) / 2e-2
        assert student.grad[(0, *place)].item() == pytest.approx(slope, abs=1e-3)


def test_affinity_keeps_less_than_100_mib_of_16_images_of_384_x_384() -> None:
    """What is kept grows with the pixels, of which 2 images of 64 x 64 have 1 / 288."""
    student = made(2, 2, 64, 64).requires_grad_()
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = affinity(student, made(2, 2, 64, 64, seed=1))
    assert found.requires_grad
    assert 0 < 288 * sum(size for _, size in kept.values()) < 100 * 2**20


# feature_affinity


def test_feature_affinity_equals_the_slow_loop_for_any_channels() -> None:
    student, teacher = made(2, 3, 4, 5), made(2, 6, 4, 5, seed=1)
    wanted = slow_feature_affinity(student, teacher)
    assert feature_affinity(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_feature_affinity_averages_the_larger_maps() -> None:
    student, teacher = made(2, 3, 4, 6), made(2, 6, 2, 3, seed=1)
    averaged = student.view(2, 3, 2, 2, 3, 2).mean((3, 5))
    wanted = slow_feature_affinity(averaged, teacher)
    assert feature_affinity(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_feature_affinity_by_hand() -> None:
    """The student's places differ by log 3 / 2 both ways, the teacher's not at all."""
    assert feature_affinity(QUARTERS, torch.zeros(1, 5, 1, 2)).item() == pytest.approx(APART**2, abs=CLOSE)


def test_features_of_one_place_have_no_neighbours() -> None:
    assert feature_affinity(made(2, 3, 1, 1), made(2, 3, 4, 4)).item() == 0


# kernel


@pytest.mark.parametrize("term", [affinity, logits, soft_targets])
@pytest.mark.parametrize("classes", [1, 3])
def test_where_only_a_part_is_known_a_term_is_that_of_this_part(term: Any, classes: int) -> None:
    (student, teacher), known = two(2, classes, 5, 6), torch.zeros(2, 5, 6, dtype=torch.bool)
    known[..., :4] = True
    student.requires_grad_()
    found = term(student, teacher, known=known)
    assert found.item() == pytest.approx(term(student[..., :4], teacher[..., :4]).item(), abs=CLOSE)
    found.backward()
    assert student.grad is not None
    assert student.grad[..., :4].abs().max() > 0
    assert student.grad[..., 4:].abs().max() == 0
    assert term(student, teacher, known=torch.zeros_like(known)).item() == 0


def test_pixels_that_are_not_known_are_of_no_region() -> None:
    (student, teacher), known = two(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.bool)
    labels = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    known[..., :4] = True
    part = regions(student[..., :4], teacher[..., :4], labels[..., :4])
    assert regions(student, teacher, labels, known).item() == pytest.approx(part.item(), abs=CLOSE)


@pytest.mark.parametrize("term", [emkd, mskd])
def test_predictions_are_compared_where_they_are_known(term: Any) -> None:
    (student, teacher), (own, taught), known = two(2, 3, 4, 6), two(2, 5, 4, 6), torch.rand(2, 4, 6) < 0.5
    changed = torch.where(known[:, None], teacher, -9 * teacher)  # labels too, where they are not known
    both = [term((student, [own]), (logits, [taught]), known=known).item() for logits in (teacher, changed)]
    assert both[0] == pytest.approx(both[1], abs=CLOSE)
    assert term((student, [own]), (changed, [taught])).item() != pytest.approx(both[0], abs=CLOSE)


def test_the_kernel_of_two_images_by_hand() -> None:
    """The student's have a cosine of 0, the teacher's of .6: two of four cells differ by .6."""
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    assert kernel(student, teacher).item() == pytest.approx(0.36 / 2 + 0.6 / 2, abs=CLOSE)


def test_the_kernel_of_a_batch_equals_the_slow_loop_for_any_channels_and_sizes() -> None:
    student, teacher = made(4, 3, 5, 6), made(4, 7, 2, 3, seed=1)
    wanted = slow_kernel(rows(student), rows(teacher))
    assert kernel(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_the_kernel_of_channels_equals_the_slow_loop_for_any_size() -> None:
    student, teacher = made(3, 4, 5, 6), made(3, 4, 2, 3, seed=1)
    wanted = mean([slow_kernel(rows(a), rows(b)) for a, b in zip(student, teacher, strict=True)])
    assert kernel(student, teacher, gram="channel").item() == pytest.approx(wanted, abs=CLOSE)


def test_a_batch_of_one_image_has_no_kernel() -> None:
    student = made(1, 3, 4, 4).requires_grad_()
    found = kernel(student, made(1, 5, 2, 2, seed=1))
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_features_of_any_size_give_cosines() -> None:
    student, teacher = two(3, 20)
    wanted = pytest.approx(slow_kernel(rows(student), rows(teacher)), abs=CLOSE)
    assert kernel(1e25 * student, 1e-8 * teacher).item() == wanted


def test_an_image_without_features_has_no_gradient_and_disturbs_no_other() -> None:
    student = torch.cat([torch.zeros(1, 3, 2, 2), made(2, 3, 2, 2)]).requires_grad_()
    found = kernel(student, made(3, 3, 2, 2, seed=1))
    found.backward()
    assert found.isfinite()
    assert student.grad is not None
    assert student.grad[0].abs().max() == 0
    assert 0 < student.grad.abs().max() < 10


# logits, soft_targets


def test_the_divergence_of_probabilities_by_hand() -> None:
    """Teacher 1/2 and 1/2, student 3/4 and 1/4: .5 log(2/3) + .5 log 2 = .5 log(4/3)."""
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert logits(student, teacher).item() == pytest.approx(0.5 * math.log(4 / 3), abs=CLOSE)
    back = 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    assert logits(student, teacher, direction="student||teacher").item() == pytest.approx(back, abs=CLOSE)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logits_equal_the_slow_loop_for_images_places_and_pixels(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = two(*shape)
    shaped = [maps[..., None] if len(shape) == 2 else maps for maps in (student, teacher)]
    wanted = slow_logits(shaped[0], shaped[1], temperature)
    assert logits(student, teacher, temperature=temperature).item() == pytest.approx(wanted, abs=CLOSE)


def test_the_other_direction_is_the_first_with_the_networks_exchanged() -> None:
    student, teacher = two(2, 3, 7)
    found = logits(student, teacher, direction="student||teacher").item()
    assert found == pytest.approx(slow_logits(teacher, student), abs=CLOSE)


@pytest.mark.parametrize("shape", [(5, 1), (2, 1, 7), (2, 1, 3, 4)])
def test_one_logit_is_two_classes(shape: tuple[int, ...]) -> None:
    student, teacher = two(*shape)
    wanted = logits(as_two_classes(student), as_two_classes(teacher)).item()
    assert wanted > 0.1
    assert logits(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_soft_targets_are_the_divergence_times_the_temperature_squared() -> None:
    student, teacher = two(2, 3, 7)
    assert soft_targets(student, teacher).item() == pytest.approx(16 * slow_logits(student, teacher, 4), abs=CLOSE)
    assert soft_targets(student, teacher, temperature=1).item() == logits(student, teacher).item()


# attention


def test_attention_maps_of_two_places_by_hand() -> None:
    """Squares of 9 and 0 are the map (1, 0), squares of 9 + 16 and 25 the map (1, 1) / sqrt(2)."""
    student, teacher = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[3.0, 0.0]], [[-4.0, 5.0]]]])
    wanted = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert attention(student, teacher).item() == pytest.approx(wanted, abs=CLOSE)


def test_attention_equals_the_slow_loop_for_any_channels() -> None:
    student, teacher = made(3, 4, 3, 5), made(3, 6, 3, 5, seed=1)
    assert attention(student, teacher).item() == pytest.approx(slow_attention(student, teacher), abs=CLOSE)


def test_the_larger_attention_map_is_averaged() -> None:
    """Squares of 4, 0, 0 and 0 average to 2 and 0, the map (1, 0), which is the teacher's too."""
    student, teacher = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]]), torch.tensor([[[[7.0, 0.0]]]])
    assert attention(student, teacher).item() == 0
    assert attention(teacher.flip(-1), student).item() == pytest.approx(2)


def test_an_attention_map_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 3, 2, 2).requires_grad_()
    found = attention(student, made(1, 3, 2, 2))
    found.backward()
    assert found.item() == pytest.approx(1)
    assert student.grad is not None
    assert student.grad.abs().max() == 0


# regions, emkd, mskd


def test_the_resemblance_of_two_regions_by_hand() -> None:
    """Means of (2, 0) and (0, 3), whose cosine is 0; the teacher's of (1, 0) and (3, 4), whose cosine is .6."""
    student = torch.tensor([[[[1.0, 3.0, 0.0]], [[0.0, 0.0, 3.0]]]])
    teacher = torch.tensor([[[[1.0, 1.0, 3.0]], [[0.0, 0.0, 4.0]]]])
    assert regions(student, teacher, torch.tensor([[[0, 0, 1]]])).item() == pytest.approx(0.36, abs=CLOSE)


def test_regions_equal_the_slow_loop_and_absent_labels_make_no_pair() -> None:
    student, teacher = made(3, 4, 4, 5), made(3, 6, 4, 5, seed=1)
    labels = torch.randint(0, 3, (3, 4, 5), generator=torch.Generator().manual_seed(2))
    labels[0][labels[0] == 2] = 1
    labels[1] = 0
    wanted = slow_regions(student, teacher, labels)
    assert regions(student, teacher, labels).item() == pytest.approx(wanted, abs=CLOSE)


def test_a_region_of_part_of_a_place_counts_by_its_part() -> None:
    """Both places of the features are of label 0 by half, so the means are (1, 1) and (1, 1) / 2: a cosine of 1."""
    student = torch.eye(2).view(1, 2, 1, 2)
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])  # means of (1/2, 0) and (1/2, 0): a cosine of 1
    labels = torch.tensor([[[0, 1, 0, 1]]])
    assert regions(student, teacher, labels).item() == pytest.approx(0, abs=1e-6)
    assert regions(student, teacher.flip(1) - student, torch.tensor([[[0, 0, 1, 1]]])).item() > 0.1


def test_images_of_one_label_have_no_pair_of_regions() -> None:
    assert regions(made(2, 3, 4, 4), made(2, 3, 4, 4, seed=1), torch.zeros(2, 4, 4)).item() == 0


def test_emkd_is_the_sum_of_predictions_deepest_attention_and_shallowest_regions() -> None:
    student, teacher = two(2, 3, 4, 5)
    own = [made(2, 4, 4, 5, seed=2), made(2, 6, 2, 2, seed=3)]
    taught = [made(2, 5, 4, 5, seed=4), made(2, 3, 3, 3, seed=5), made(2, 8, 2, 2, seed=6)]
    wanted = (
        16 * slow_logits(student, teacher, 4)
        + slow_attention(own[-1], taught[-1])
        + slow_regions(own[0], taught[0], teacher.argmax(1))
    )
    assert emkd((student, own), (teacher, taught)).item() == pytest.approx(wanted, abs=CLOSE)


def test_emkd_of_one_logit_marks_regions_where_it_is_above_zero() -> None:
    student, teacher = two(2, 1, 4, 5)
    own, taught = made(2, 4, 4, 5, seed=2), made(2, 5, 4, 5, seed=3)
    rest = soft_targets(student, teacher) + attention(own, taught)
    wanted = rest.item() + slow_regions(own, taught, (teacher[:, 0] > 0).long())
    assert emkd((student, [own]), (teacher, [taught])).item() == pytest.approx(wanted, abs=CLOSE)


def test_mskd_is_soft_targets_and_the_mean_attention_of_scales_paired_from_the_deepest_on() -> None:
    student, teacher = two(2, 3, 4, 5)
    own = [made(2, 4, 4, 5, seed=2), made(2, 6, 2, 2, seed=3)]
    taught = [made(2, 2, 9, 9, seed=4), made(2, 3, 4, 5, seed=5), made(2, 8, 2, 2, seed=6)]
    scales = [slow_attention(own[0], taught[1]), slow_attention(own[1], taught[2])]
    wanted = 16 * slow_logits(student, teacher, 4) + mean(scales)
    assert mskd((student, own), (teacher, taught)).item() == pytest.approx(wanted, abs=CLOSE)


# what all promise

MASKS = torch.randint(0, 2, (2, 5, 6), generator=torch.Generator().manual_seed(3))
TERMS: dict[str, Term] = {
    "affinity": affinity,
    "feature_affinity": feature_affinity,
    "kernel": kernel,
    "kernel of channels": lambda student, teacher: kernel(student, teacher, gram="channel"),
    "logits": logits,
    "logits, the other way": lambda student, teacher: logits(student, teacher, direction="student||teacher"),
    "soft_targets": soft_targets,
    "attention": attention,
    "regions": lambda student, teacher: regions(student, teacher, MASKS[: len(student)]),
    "emkd": lambda student, teacher: emkd((student, [student]), (teacher, [teacher])),
    "mskd": lambda student, teacher: mskd((student, [student]), (teacher, [teacher])),
}
every = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


@pytest.mark.parametrize("name", [name for name in TERMS if name != "affinity"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(name: str) -> None:
    student = made(2, 3, 5, 6).requires_grad_()
    found = TERMS[name](student, student.detach().clone())
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


@every
def test_a_term_is_a_scalar_above_zero_that_teaches_the_student_alone(term: Term) -> None:
    student, teacher = (maps.requires_grad_() for maps in two(2, 3, 5, 6))
    found = term(student, teacher)
    found.backward()
    assert found.shape == ()
    assert found > 0
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-6
    assert teacher.grad is None


@every
@pytest.mark.parametrize("batch", [1, 2])
def test_logits_far_from_zero_have_a_finite_term_and_gradient(term: Term, batch: int) -> None:
    student, teacher = (maps.sign() * FAR for maps in two(batch, 3, 5, 6))
    found = term(student.requires_grad_(), teacher)
    found.backward()
    assert found.isfinite()
    assert found >= -1e-6
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every
def test_one_logit_far_from_zero_has_a_finite_term_and_gradient(term: Term) -> None:
    student, teacher = (maps.sign() * FAR for maps in two(2, 1, 5, 6))
    found = term(student.requires_grad_(), teacher)
    found.backward()
    assert found.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every
def test_a_term_of_bfloat16_under_autocast_is_computed_in_single_precision(term: Term) -> None:
    student, teacher = (maps.bfloat16() for maps in two(2, 3, 5, 6))
    wanted = term(student.float(), teacher.float())
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = term(student, teacher)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), abs=CLOSE)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: affinity(made(2, 3, 4, 4), made(2, 2, 4, 4)), "one shape"),
        (lambda: affinity(made(2, 3), made(2, 3)), "maps"),
        (lambda: affinity(made(2, 3, 4, 4), made(2, 3, 4, 4), margin=0), "margin above 0"),
        (lambda: feature_affinity(made(2, 3), made(2, 3)), "maps"),
        (lambda: feature_affinity(made(2, 3, 4, 4), made(1, 3, 4, 4)), "same images, got 2 and 1"),
        (lambda: kernel(made(2, 3), made(2, 3), gram="pixel"), "gram to be batch or channel, got 'pixel'"),
        (lambda: kernel(made(3, 3), made(2, 3)), "same images, got 3 and 2"),
        (lambda: kernel(made(2, 3, 4, 4), made(2, 5, 4, 4), gram="channel"), "teacher's 5, got 3"),
        (lambda: kernel(made(2, 3), made(2, 3), gram="channel"), "maps"),
        (lambda: logits(made(2, 1), made(2, 2)), "one shape"),
        (lambda: logits(made(2), made(2)), "one shape"),
        (lambda: logits(made(2, 2), made(2, 2), direction="both"), "direction"),
        (lambda: logits(made(2, 2), made(2, 2), temperature=0), "temperature above 0"),
        (lambda: soft_targets(made(2, 2), made(2, 2), temperature=math.inf), "finite temperature"),
        (lambda: attention(made(2, 3), made(2, 3)), "maps"),
        (lambda: regions(made(2, 3, 4, 4), made(2, 3, 4, 4), torch.zeros(1, 4, 4)), "same images, got 2 and 1"),
        (lambda: mskd((made(2, 3), []), (made(2, 3), [])), "one scale"),
    ],
)
def test_what_does_not_belong_together_is_refused(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
