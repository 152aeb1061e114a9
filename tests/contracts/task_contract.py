"""What the training loop, the export and every compression technique may rely on, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leanmed.export.export import apart, export_graph
from leanmed.runtime.predictor import open_session
from leanmed.tasks.base import Batch, Task

SIZES = [(20, 20), (20, 1000), (1000, 20), (37, 53), (32, 32)]
NOT_TRAINED_BY = 1e-12  # a gradient below this would be none at all


def pixels(height: int, width: int, channels: int = 4) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * width)
    image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    image[: height // 3, :, 3:] = 0  # no tissue there
    return image


def answer_of(module: torch.nn.Module, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        answer = module(torch.from_numpy(image))
    return [part.numpy() for part in (answer if isinstance(answer, tuple) else (answer,))]


class TaskContract:
    """Inherit it in a class `Test...` that gives the two fixtures; all the rest is tested here.

    `task`: a small untrained task with random weights, made anew for each test.
    `batch`: eight prepared inputs and their targets, every label among them, that the task can learn.
    """

    @pytest.fixture
    def task(self) -> Task:
        raise NotImplementedError

    @pytest.fixture
    def batch(self, task: Task) -> Batch:
        raise NotImplementedError

    def outputs(self, task: Task, batch: Batch) -> torch.Tensor:
        with torch.inference_mode():
            return task.eval()(batch[0])

    def far_too_sure(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs whose logits are thirty times what they were."""
        return 30 * outputs

    def numbers(self, answer: Mapping[str, Any]) -> list[NDArray[np.float32]]:
        """One of the task's answers as the graph gives it."""
        return [np.array(list(answer.values())[1:], np.float32)]

    @pytest.mark.parametrize("size", SIZES)
    def test_an_image_of_any_size_is_prepared_to_one_shape(
        self, task: Task, batch: Batch, size: tuple[int, int]
    ) -> None:
        prepared = task.prepare(pixels(*size))
        assert prepared.shape == batch[0].shape[1:]
        assert prepared.isfinite().all()

    def test_what_is_prepared_can_be_trained_on(self, task: Task, batch: Batch) -> None:
        assert not torch.stack([task.prepare(pixels(*size)) for size in SIZES]).is_inference()
        assert len(self.outputs(task, batch)) == len(batch[0])

    def test_the_same_seed_augments_alike_and_another_one_otherwise(self, task: Task, batch: Batch) -> None:
        first, same, other = (task.augment(batch, seed)[0] for seed in (1, 1, 2))
        assert first.shape == batch[0].shape
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_the_loss_is_a_finite_scalar_and_falls_within_a_few_steps(self, task: Task, batch: Batch) -> None:
        optimizer = torch.optim.Adam(task.train().parameters(), lr=3e-3)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = task.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert loss.shape == ()
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.9 * losses[0]

    def test_every_parameter_learns(self, task: Task, batch: Batch) -> None:
        task.train().zero_grad()
        task.loss(batch).backward()
        asleep = [
            name
            for name, parameter in task.named_parameters()
            if parameter.grad is None or parameter.grad.abs().max() < NOT_TRAINED_BY
        ]
        assert asleep == []

    def test_the_score_holds_the_main_one_and_the_loss_as_plain_numbers(self, task: Task, batch: Batch) -> None:
        figures = task.score(self.outputs(task, batch), batch[1])
        assert {task.main_score, "loss"} <= set(figures)
        assert all(type(value) is float for value in figures.values())

    def test_there_is_one_answer_for_each_image_and_all_have_the_same_columns(self, task: Task, batch: Batch) -> None:
        answers = task.answers(self.outputs(task, batch))
        assert len(answers) == len(batch[0])
        assert len({tuple(answer) for answer in answers}) == 1

    def test_calibration_lowers_the_loss_and_travels_with_the_weights(self, task: Task, batch: Batch) -> None:
        before = {name: value.clone() for name, value in task.state_dict().items()}
        outputs = self.far_too_sure(self.outputs(task, batch))
        loss = task.score(outputs, batch[1])["loss"]
        task.calibrate(outputs, batch[1], "f1")
        assert task.score(outputs, batch[1])["loss"] < loss
        assert task.manifest()["temperature"] > 1
        assert any(not torch.equal(value, before[name]) for name, value in task.state_dict().items())

    def test_the_graph_agrees_with_its_module_to_1e_5_on_any_size_with_and_without_alpha(self, task: Task) -> None:
        module = task.eval().graph().eval()
        session = open_session(export_graph(module))
        for size in SIZES:
            for channels in (3, 4):
                image = pixels(*size, channels)
                found = session.run(None, {"pixels": image})
                assert apart(answer_of(module, image), found) <= 1e-5, (size, channels)

    def test_the_graph_prepares_as_training_does(self, task: Task) -> None:
        image = pixels(120, 90)
        whole = answer_of(task.eval().graph(), image)
        with torch.inference_mode():
            parts = task.answers(task(task.prepare(image)[None]), [image.shape[:2]])[0]
        rounding = 1e-6 if len(whole) == 1 else 1e-3  # boxes are written with two decimals
        assert apart(whole, self.numbers(parts)) <= rounding
