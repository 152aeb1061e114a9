"""What the training loop, the export and every compression technique may rely on, whatever the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from leanmed.exporting.export import export_further, export_graph, torch_graphs
from leanmed.figures.familiarity import Scale
from leanmed.manifest import Manifest
from leanmed.models.familiarity import Descriptor, Familiarity, Watched, Watching, watching
from leanmed.runtime.predictor import open_graphs
from leanmed.tasks import TASKS
from leanmed.tasks.base import Batch, Named, Task
from leanmed.tasks.kind import AnswerPart

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
    `batch`: eight augmented images and their targets, every label among them, that the task can learn.
    """

    @pytest.fixture
    def task(self) -> Task:
        raise NotImplementedError

    @pytest.fixture
    def batch(self, task: Task) -> Batch:
        raise NotImplementedError

    STEPS, RATE = 8, 3e-3
    """By which the task learns something of the batch; a network that takes more of them says so."""

    def kind(self, task: Task) -> AnswerPart:
        return TASKS[task.manifest()["task"]].answer

    def outputs(self, task: Task, batch: Batch) -> Named:
        with torch.inference_mode():
            return dict(task.eval()(batch.inputs))

    def figures(self, task: Task, outputs: Named, batch: Batch) -> dict[str, float]:
        seen = task.scorer()
        for half in (slice(0, 3), slice(3, None)):
            seen.add(*({name: tensor[half] for name, tensor in named.items()} for named in (outputs, batch.targets)))
        return seen.figures()

    def far_too_sure(self, outputs: Named) -> Named:
        """Outputs whose logits are thirty times what they were."""
        return {name: 30 * tensor for name, tensor in outputs.items()}

    @pytest.mark.parametrize("size", SIZES)
    def test_an_image_of_any_size_is_prepared_to_one_shape(
        self, task: Task, batch: Batch, size: tuple[int, int]
    ) -> None:
        prepared = task.prepare(pixels(*size))
        assert {name: tensor.shape for name, tensor in prepared.items()} == {
            name: tensor.shape[1:] for name, tensor in batch.inputs.items()
        }

    def test_photographs_are_kept_in_their_own_type_next_to_what_is_exported(self, task: Task) -> None:
        exact = task.prepare(pixels(40, 50))
        kept = task.keep(exact)
        assert {tensor.dtype for tensor in kept.values()} == {torch.uint8}
        assert all((tensor / 255 - exact[name]).abs().max() <= 0.5001 / 255 for name, tensor in kept.items())
        with torch.inference_mode():
            one, other = (task.eval()(default_collate([inputs])) for inputs in (exact, kept))
        assert all(one[name].shape == other[name].shape for name in one)

    def test_what_is_prepared_can_be_trained_on(self, task: Task, batch: Batch) -> None:
        stacked = default_collate([task.prepare(pixels(*size)) for size in SIZES])
        assert not any(tensor.is_inference() for tensor in stacked.values())
        assert all(len(tensor) == len(SIZES) for tensor in task.eval()(stacked).values())

    def test_the_same_seed_augments_alike_and_another_one_otherwise(self, task: Task, batch: Batch) -> None:
        first, same, other = (task.augment(batch, seed).inputs for seed in (1, 1, 2))
        assert {name: tensor.shape for name, tensor in first.items()} == {
            name: tensor.shape for name, tensor in batch.inputs.items()
        }
        assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
        assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())

    def test_the_loss_is_a_finite_scalar_and_falls_within_a_few_steps(self, task: Task, batch: Batch) -> None:
        optimizer = torch.optim.Adam(task.train().parameters(), lr=self.RATE)
        losses = []
        for _ in range(self.STEPS):
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
        figures = self.figures(task, self.outputs(task, batch), batch)
        assert {task.main_score, "loss"} <= set(figures)
        assert all(type(value) is float for value in figures.values())

    def test_there_is_one_answer_for_each_image_and_all_have_the_same_keys(self, task: Task, batch: Batch) -> None:
        answers = task.answers(self.outputs(task, batch))
        assert len(answers) == 8
        assert len({tuple(answer.as_json()) for answer in answers}) == 1

    def test_a_temperature_decides_what_the_graph_and_the_manifest_say(self, task: Task, batch: Batch) -> None:
        outputs = self.far_too_sure(self.outputs(task, batch))
        before = self.figures(task, outputs, batch)["loss"]
        task.decide_by(30.0, 0.25)
        assert self.figures(task, outputs, batch)["loss"] < before
        assert task.manifest()["temperature"] == 30
        assert task.manifest()["threshold"] in (0.25, None)
        kind = self.kind(task)
        raw = task.answers(outputs)
        task.decide_by(1.0, 0.0)
        again = [kind.recalibrated(answer, 30.0, raw[0].as_json()["threshold"]) for answer in task.answers(outputs)]
        assert max(apart(a.as_json(), b.as_json()) for a, b in zip(raw, again, strict=True)) <= 1e-5

    def test_the_graph_agrees_with_its_module_to_1e_5_on_any_size_with_and_without_alpha(self, task: Task) -> None:
        kind, module, further = TASKS[task.manifest()["task"]], task.eval().graph().eval(), task.further_graphs()
        names = kind.answer.GRAPHS
        graphs = {"model": export_graph(module, names["model"])}
        graphs |= {name: export_further(graph, kind.inputs[name], names[name]) for name, graph in further.items()}
        by_torch, by_runtime = torch_graphs(module, further, kind), open_graphs(graphs)
        for size in SIZES:
            for channels in (3, 4):
                image = pixels(*size, channels)
                wanted, found = (kind.outputs(image, run) for run in (by_torch, by_runtime))
                assert kind.answer.apart(wanted, found) <= 1e-5, (size, channels)

    def test_a_graph_that_tells_how_familiar_an_image_looks_sees_what_a_training_sees(
        self, task: Task, batch: Batch
    ) -> None:
        watched = task.eval().watched()
        assert watched is not None

        def seen_by(inputs: Named, watched: Watched) -> Descriptor:
            with torch.inference_mode(), watching(task, watched) as seen:
                task(inputs)
                found = seen()
            assert found is not None
            return found

        training = seen_by(batch.inputs, watched)
        alone = seen_by(batch.inputs, watched._replace(taps=()))
        assert len(training.means) == len(training.spreads) == 8
        assert training.means.shape[1] > alone.means.shape[1] > 0, "early maps are seen, and the image"
        fitted, image = Familiarity.fit(training), pixels(40, 50)
        distance = fitted.distance(seen_by(default_collate([task.prepare(image)]), watched)).item()
        module = Watching(task.graph(), task, watched, fitted.scaled(Scale((0.0, 2 * distance), (1.0, 0.0), 20))).eval()
        with torch.inference_mode():
            *answer, told = module(torch.from_numpy(image))
            plain = task.graph().eval()(torch.from_numpy(image))
        assert told.tolist() == pytest.approx([0.5], abs=1e-4)
        for one, other in zip(answer, plain if isinstance(plain, tuple) else (plain,), strict=True):
            assert torch.equal(one, other)

    def test_the_graph_prepares_as_training_does(self, task: Task) -> None:
        image, about = pixels(120, 90), Manifest.model_construct(**task.manifest())
        kind = TASKS[task.manifest()["task"]]
        run = torch_graphs(task.eval().graph().eval(), task.further_graphs(), kind)
        whole = kind.answer.decide(kind.outputs(image, run), about)
        with torch.inference_mode():
            (part,) = task.answers(task(default_collate([task.prepare(image)])), [image.shape[:2]])
        assert part.cells().keys() == whole.cells().keys()
        assert apart(part.as_json(), whole.as_json()) <= 1e-6


class MaskContract(TaskContract):
    """For tasks of one label whose answers are masks, which hold confidences in 256 levels."""

    def far_too_sure(self, outputs: Named) -> Named:
        return outputs | {"logits": 3 * outputs["logits"]}

    def test_a_temperature_decides_what_the_graph_and_the_manifest_say(self, task: Task, batch: Batch) -> None:
        """A temperature brings what was kept back to a level or two."""
        outputs = self.outputs(task, batch)
        task.decide_by(1.0, 0.0)
        kept = task.answers(outputs)
        task.decide_by(2.0, 0.25)
        assert (task.manifest()["temperature"], task.manifest()["threshold"]) == (2.0, 0.25)
        for wanted, answer in zip(task.answers(outputs), kept, strict=True):
            self.alike(self.kind(task).recalibrated(answer, 2.0, 0.25), wanted)

    def alike(self, again: Any, wanted: Any) -> None:
        """An answer that was calibrated anew is the one that was wanted."""
        assert np.abs(again.confidence.astype(int) - wanted.confidence.astype(int)).max() <= 1
        assert np.array_equal(again.mask, again.confidence >= 64)


def apart(one: Any, other: Any) -> float:
    """The largest difference of two answers as JSON; infinite where they differ in more than numbers."""
    if isinstance(one, dict):
        return max((apart(value, other[name]) for name, value in one.items()), default=0.0)
    if isinstance(one, list) and len(one) == len(other):
        return max(map(apart, one, other), default=0.0)
    if isinstance(one, float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")
