from __future__ import annotations

from typing import Any

import pytest
import torch

from leanmed.recipe.recipe import Recipe
from leanmed.tasks.detection.augment import Crops, augment_boxes, draw_crops
from leanmed.tasks.recipes import check_recipe

SIDE, CROP = 48, 32
STILL = {"horizontal_flip": 0, "vertical_flip": 0, "scale": [1, 1]}
WILD = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True, "scale": [0.8, 1.25]}


def recipe(origin: str = "corner", on_object: float = 1.0, **augment: Any) -> Recipe:
    sections = {
        "data": {"origin": origin},
        "detector": {"crop": CROP, "crop_on_object": on_object},
        "augment": {"brightness": 0} | augment,
    }
    return check_recipe({"name": "tiny", "task": "detection", **sections}, "here")


def bright(x1: int, y1: int, x2: int, y2: int, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are 1 inside one box and 0 outside, and that box with a row of filling."""
    images = torch.zeros(copies, 1, SIDE, SIDE)
    images[..., y1:y2, x1:x2] = 1
    rows = torch.tensor([[x1, y1, x2, y2], [torch.nan] * 4], dtype=torch.float32)
    return images, rows.expand(copies, 2, 4)


def extent(image: torch.Tensor) -> list[float]:
    """The box of what is brighter than one half."""
    y, x = torch.nonzero(image[0] > 0.5, as_tuple=True)
    return [float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)]


def centroid(image: torch.Tensor) -> list[float]:
    """x, y of the middle of what is bright, the corner of the first pixel being 0, 0."""
    at = torch.arange(CROP) + 0.5
    return [float((image[0].sum(k) * at).sum() / image.sum()) for k in (0, 1)]


def test_boxes_stay_on_what_they_hold_through_turns_flips_and_zooms() -> None:
    images, boxes = bright(14, 20, 26, 28, copies=64)
    crops, moved = augment_boxes(images, boxes, recipe(**WILD), seed=1)
    assert crops.shape == (64, 1, CROP, CROP)
    assert moved[:, 1].isnan().all()
    for crop, (box, _) in zip(crops, moved, strict=True):
        if box.isfinite().all():
            assert extent(crop) == pytest.approx(box.tolist(), abs=1.0)
    assert moved[:, 0].isfinite().all(dim=1).float().mean() > 0.8


def test_each_image_gives_so_many_crops_that_differ_each_with_its_own_boxes() -> None:
    small, large = bright(22, 22, 24, 24, copies=1), bright(20, 20, 28, 28, copies=1)
    settings = check_recipe(recipe(**STILL).model_dump(mode="json") | {"detector": {"crop": CROP, "crops": 8}}, "here")
    crops, boxes = augment_boxes(*(torch.cat(pair) for pair in zip(small, large, strict=True)), settings, seed=1)
    whole = boxes[:, 0, 2:] - boxes[:, 0, :2]
    assert whole[:8].nan_to_num(0).amax() == 2
    assert whole[8:].nan_to_num(0).amax() == 8
    assert len({crop.numpy().tobytes() for crop in crops}) > 8


def test_boxes_in_numbers_of_pixels_are_flipped_as_those() -> None:
    """Three bright pixels are, in their numbers, the box from 10 to 12, whose middle lies half a pixel off theirs."""
    images, _ = bright(10, 10, 13, 13, copies=32)
    numbers = torch.tensor([[10.0, 10, 12, 12]]).expand(32, 1, 4)
    settings = recipe(origin="centre", **(WILD | {"scale": [1, 1]}))
    crops, moved = augment_boxes(images, numbers, settings, seed=2)
    for crop, (box,) in zip(crops, moved, strict=True):
        if box.isfinite().all() and box.min() > 1 and box.max() < CROP - 3:
            assert ((box[:2] + box[2:]) / 2 + 0.5).tolist() == pytest.approx(centroid(crop), abs=0.01)


def test_what_reaches_over_the_crops_edge_is_cut_off_and_what_lies_beyond_is_gone() -> None:
    still = Crops(torch.eye(2)[None], torch.tensor([[16.0, 16.0]]), CROP, 0.0)
    boxes = torch.tensor([[[-4.0, 2, 6, 8], [30, 30, 40, 33], [20, 20, 24, 26]]])
    found = still.boxes(boxes)[0]
    assert found[0].tolist() == [0, 2, 6, 8]
    assert found[1].isnan().all()
    assert found[2].tolist() == [20, 20, 24, 26]


def test_a_crop_holds_an_object_as_often_as_the_recipe_says() -> None:
    _, boxes = bright(4, 4, 8, 8, copies=400)
    for share in (0.0, 1.0):
        crops = draw_crops(boxes, SIDE, recipe(on_object=share, **STILL), torch.Generator().manual_seed(0))
        held = crops.boxes(boxes)[:, 0].isfinite().all(dim=1).float().mean().item()
        assert (held == 1.0) == (share == 1.0)
        assert held > 0.1


def test_an_image_without_objects_is_cropped_anywhere() -> None:
    boxes = torch.full((50, 3, 4), torch.nan)
    crops = draw_crops(boxes, SIDE, recipe(**WILD), torch.Generator().manual_seed(0))
    assert crops.centre.isfinite().all()
    assert crops.centre.std(0).min() > SIDE / 5


def test_each_object_of_an_image_is_chosen_at_times() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 2], [44, 44, 46, 46]]]).expand(60, 2, 4)
    held = draw_crops(boxes, SIDE, recipe(**STILL), torch.Generator().manual_seed(0)).boxes(boxes)
    assert held[:, 0].isfinite().any()
    assert held[:, 1].isfinite().any()


def test_brightness_keeps_the_range_and_the_seed_decides() -> None:
    images, boxes = bright(14, 20, 26, 28, copies=8)
    settings = recipe(**(STILL | {"brightness": 0.5}))
    (first, _), (same, _), (other, _) = (augment_boxes(images, boxes, settings, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1
    assert len(first.amax((1, 2, 3)).unique()) > 1
