from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contracts.task_contract import TaskContract
from leanmed.errors import DataError, RecipeError
from leanmed.models.anchors import encode_boxes
from leanmed.recipe.recipe import Recipe
from leanmed.records import Boxes, Record
from leanmed.tasks.base import Batch, Named
from leanmed.tasks.detection.answer import Detections
from leanmed.tasks.detection.training import KEPT, MOST_TRUE, NONE, Detection, Found
from leanmed.tasks.recipes import check_recipe

SIDE = 64


def recipe(**detector: Any) -> Recipe:
    sections = {
        "data": {"kind": "slice"},
        "model": {"backbone": "test_efficientnet", "weights": "none", "side": SIDE},
        "detector": {"width": 8, "levels": [4, 8], "anchors_per_level": 2, "crop": SIDE} | detector,
    }
    return check_recipe({"name": "tiny", "task": "detection", **sections}, "here")


def detection(**detector: Any) -> Detection:
    """A network whose untrained logits differ much from place to place."""
    torch.manual_seed(0)
    task = Detection(recipe(**detector), ("nodule",))
    task.model.sides.copy_(torch.linspace(4, 20, len(task.model.sides)))
    for head in task.model.heads:
        torch.nn.init.normal_(head.logits[-1].weight, std=0.5)
    return task


def record(*boxes: tuple[float, float, float, float]) -> Record:
    return Record("a", Path("a.png"), Boxes(boxes), "patient")


def learnable(task: Detection) -> Batch:
    """Eight dark squares of noise with two bright boxes each, a small and a large one."""
    rng = np.random.default_rng(1)
    images = torch.from_numpy(0.1 * rng.random((8, 1, SIDE, SIDE))).float()
    targets = []
    for image in images:
        boxes = [(x, y, x + s, y + s) for s, (x, y) in zip((5, 18), rng.integers(0, 40, (2, 2)).tolist(), strict=True)]
        for x1, y1, x2, y2 in boxes:
            image[:, y1:y2, x1:x2] = 1
        targets.append(task.encode(record(*boxes))["boxes"])
    return Batch({"image": images}, {"boxes": torch.stack(targets)})


class Boxed(TaskContract):
    @pytest.fixture
    def batch(self, task: Detection) -> Batch:
        return learnable(task)

    def far_too_sure(self, outputs: Named) -> Named:
        """Some boxes are right and some are wrong, and all are said to be right."""
        boxes = outputs["boxes"]
        sure = boxes.clone()
        sure[..., 4] = torch.where(boxes[..., 4] > NONE, 10 + boxes[..., 4] / 100, NONE)
        sure[:, 0, :4] = learnable(detection()).targets["boxes"][:, 1]
        return {"boxes": sure}


class TestTopDown(Boxed):
    @pytest.fixture
    def task(self) -> Detection:
        return detection()


class TestAsInThePaper(Boxed):
    @pytest.fixture
    def task(self) -> Detection:
        return detection(neck="none", levels=[8, 16], head="ssdlite", deepest=8)


@pytest.fixture
def task() -> Detection:
    return detection().eval()


def row(*values: float) -> list[float]:
    return list(values)


def outputs(*rows: list[float]) -> Named:
    filled = torch.full((1, KEPT, 5), NONE)
    filled[0, : len(rows)] = torch.tensor(rows).view(-1, 5)
    return {"boxes": filled}


def targets(task: Detection, *boxes: tuple[float, float, float, float]) -> Named:
    return {"boxes": task.encode(record(*boxes))["boxes"][None]}


def seen(task: Detection, found: Named, true: Named) -> Found:
    """A scorer that has seen them."""
    scorer = task.scorer()
    scorer.add(found, true)
    return scorer


def part(task: Detection, *boxes: tuple[float, float, float, float]) -> list[Batch]:
    """A training part of one image."""
    return [Batch({}, task.encode(record(*boxes)))]


def test_boxes_are_taught_in_the_frame_of_the_square_and_only_larger_images_shrink(task: Detection) -> None:
    boxes = record((10, 20, 30, 60))
    assert task.encode(boxes, (50, SIDE))["boxes"][0].tolist() == [10, 20, 30, 60]
    assert task.encode(boxes, (2 * SIDE, 100))["boxes"][0].tolist() == [5, 10, 15, 30]
    assert task.encode(boxes, (50, 50))["boxes"][1:].isnan().all()
    assert task.encode(record())["boxes"].isnan().all()


def test_more_boxes_than_an_image_may_have_are_refused(task: Detection) -> None:
    with pytest.raises(DataError, match=f"at most {MOST_TRUE} boxes, got {MOST_TRUE + 1}"):
        task.encode(record(*[(0, 0, 1, 1)] * (MOST_TRUE + 1)))


def test_answers_are_in_the_images_own_frame_cut_off_at_its_edge_best_first(task: Detection) -> None:
    found = outputs(row(5, 10, 15, 30, 0.0), row(-3, 8, 5, 90, -1.0), row(50, 0, 60, 10, -2.0))
    (answer,) = task.answers(found, [(2 * SIDE, 90)])
    third = 1 / (1 + np.exp(2))
    assert (answer.boxes, answer.scores, answer.threshold) == (((10, 20, 30, 60),), (0.5,), 0.5)
    assert answer.faint_boxes == ((0, 16, 10, 128),), "the third lies to the right of the image's 90 pixels"
    assert task.answers(found)[0].faint_scores[1] == pytest.approx(third, abs=1e-6)


def test_an_image_without_boxes_has_an_empty_answer(task: Detection) -> None:
    assert task.answers(outputs(), [(9, 9)]) == [Detections((), (), 0.5)]


def test_of_boxes_over_one_another_the_best_is_kept(task: Detection) -> None:
    defaults, places = task.model.default_boxes(SIDE), [3, 40, 7]
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    rows = torch.cat([torch.zeros(len(defaults), 4), torch.full((len(defaults), 1), -9.0)], 1)
    rows[places, :4], rows[places, 4] = encode_boxes(boxes, defaults[places]), torch.tensor([0.5, 2.0, 1.0])
    kept = task.suppress(rows, SIDE)
    assert kept[:2].flatten().tolist() == pytest.approx([1, 1, 11, 11, 2, 30, 30, 40, 40, 1], abs=1e-4)
    assert set(kept[2:, 4].tolist()) == {-9.0}


def test_the_loss_told_is_the_log_loss_of_the_boxes(task: Detection) -> None:
    """A hit at a logit of 0 and a miss at -log 3: -(ln .5 + ln .75) / 2."""
    found = outputs(row(1, 0, 11, 10, 0.0), row(30, 30, 40, 40, -np.log(3)))
    figures = seen(task, found, targets(task, (0, 0, 10, 10))).figures()
    assert figures["loss"] == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2, abs=1e-6)
    assert figures["ap50"] == 1.0


def test_default_boxes_are_chosen_from_the_training_boxes_and_their_share_is_told() -> None:
    task = detection(levels=[4], anchors_per_level=3)
    (line,) = task.begin([batch for s in (2, 4, 8) for batch in part(task, (22 - s, 22 - s, 22 + s, 22 + s))])
    assert task.model.sides.tolist() == pytest.approx([4.04, 8, 15.8], rel=0.02)
    assert line.startswith("default boxes of 4.1, 8.0, 15.8 pixels match 100.0% of 3 boxes")
    (line,) = task.begin(part(task, (0, 0, 60, 2)))
    assert "match 0.0% of 1 boxes; WARNING" in line


def test_default_boxes_can_be_given(task: Detection) -> None:
    data = part(task, (0, 0, 4, 4))
    given = detection(anchors=[3.0, 4.0, 5.0, 6.0])
    given.begin(data)
    assert given.model.sides.tolist() == [3, 4, 5, 6]
    with pytest.raises(RecipeError, match=r"expected 4 sides .* got 1"):
        detection(anchors=[3.0]).begin(data)


def test_a_training_part_without_boxes_is_refused(task: Detection) -> None:
    with pytest.raises(DataError, match="expected a box in the training part"):
        task.begin(part(task))
