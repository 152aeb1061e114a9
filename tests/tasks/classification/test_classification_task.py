from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from contracts.task_contract import TaskContract
from leanmed.records import Record
from leanmed.tasks.base import Batch
from leanmed.tasks.classification.training import Classification
from leanmed.tasks.recipes import check_recipe


def classification(*labels: str, smoothing: float = 0.0) -> Classification:
    torch.manual_seed(0)
    sections = {
        "model": {"backbone": "test_efficientnet", "weights": "none", "side": 32, "dropout": 0.0},
        "training": {"label_smoothing": smoothing},
    }
    return Classification(check_recipe({"name": "tiny", **sections}, "here"), labels)


def learnable(classes: int) -> Batch:
    """Eight squares of noise whose overall brightness tells the class."""
    targets = torch.arange(8) % classes
    noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    colour = 0.2 * noise + 0.8 * targets.view(-1, 1, 1, 1) / (classes - 1)
    return Batch({"image": torch.cat([colour, torch.ones(8, 1, 32, 32)], 1)}, {"label": targets})


class TestTwoLabels(TaskContract):
    @pytest.fixture
    def task(self) -> Classification:
        return classification("no", "yes")

    @pytest.fixture
    def batch(self) -> Batch:
        return learnable(2)


class TestThreeLabels(TaskContract):
    @pytest.fixture
    def task(self) -> Classification:
        return classification("a", "b", "c")

    @pytest.fixture
    def batch(self) -> Batch:
        return learnable(3)


@pytest.fixture
def two() -> Classification:
    return classification("no", "yes").eval()


@pytest.fixture
def three() -> Classification:
    return classification("a", "b", "c").eval()


def test_two_labels_share_one_logit_and_three_have_one_each(two: Classification, three: Classification) -> None:
    assert two(learnable(2).inputs)["logits"].shape == (8,)
    assert three(learnable(3).inputs)["logits"].shape == (8, 3)


def test_two_labels_have_a_sigmoid_divided_by_the_temperature(two: Classification) -> None:
    two.temperature.fill_(2.0)
    found = two.probabilities(torch.tensor([0.0, 2 * math.log(3)]))
    assert torch.allclose(found, torch.tensor([[0.5, 0.5], [0.25, 0.75]]))


def test_three_labels_have_a_softmax_divided_by_the_temperature(three: Classification) -> None:
    three.temperature.fill_(2.0)
    found = three.probabilities(torch.tensor([[0.0, 0.0, 2 * math.log(2)]]))
    assert torch.allclose(found, torch.tensor([[0.25, 0.25, 0.5]]))


@pytest.mark.parametrize(("smoothing", "wanted"), [(0.0, math.log(4)), (0.2, math.log(4) - 0.1 * math.log(3))])
def test_the_loss_is_cross_entropy_of_the_smoothed_label(smoothing: float, wanted: float) -> None:
    """A logit of -ln 3 is a probability of 1/4; with smoothing .2 the loss is -.9 ln(1/4) - .1 ln(3/4)."""
    task = classification("no", "yes", smoothing=smoothing)
    revealed = {"logits": torch.tensor([[-math.log(3)]])}
    assert task.loss_of(revealed, {"label": torch.tensor([1])}).item() == pytest.approx(wanted)


def test_probabilities_sum_to_one_even_for_extreme_outputs(two: Classification, three: Classification) -> None:
    extreme = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4])
    for task, outputs in ((two, extreme), (three, extreme[:, None] * torch.eye(3)[0])):
        rows = [list(answer.probabilities.values()) for answer in task.answers({"logits": outputs})]
        assert [sum(row) for row in rows] == pytest.approx([1.0] * 5, abs=1e-6)
        assert all(0 <= p <= 1 for row in rows for p in row)


def test_the_second_label_is_answered_at_the_threshold_and_above(two: Classification) -> None:
    two.threshold.fill_(0.75)
    answers = two.answers({"logits": torch.tensor([0.0, math.log(3) + 1e-4])})
    assert [answer.label for answer in answers] == ["no", "yes"]
    assert list(answers[0].probabilities) == ["no", "yes"]
    assert answers[0].threshold == 0.75


def test_of_three_labels_the_likeliest_is_answered(three: Classification) -> None:
    answers = three.answers({"logits": torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])})
    assert [answer.label for answer in answers] == ["b", "a"]
    assert answers[0].threshold is None


def test_three_labels_have_a_temperature_but_no_threshold(three: Classification) -> None:
    three.decide_by(2.0, None)
    assert (three.manifest()["temperature"], three.manifest()["threshold"]) == (2.0, None)


def test_a_label_is_encoded_by_its_position(three: Classification) -> None:
    record = Record("1", image=None, target="b", group="g")  # type: ignore[arg-type]
    assert three.encode(record)["label"].item() == 1


def test_outputs_kept_on_the_cpu_are_scored_by_a_task_on_another_device() -> None:
    """Validation outputs are collected on the CPU while the task is on a GPU."""
    task = classification("no", "yes")
    with FakeTensorMode(allow_non_fake_inputs=True):
        task.temperature = torch.ones((), device="cuda")
        found: Tensor = task.probabilities(torch.zeros(4))
    assert found.device.type == "cpu"
