from __future__ import annotations

import torch
from torch import Tensor

from leanmed.prompts import BOTTOM_RIGHT, INSIDE, NO_POINT, OUTSIDE, TOP_LEFT
from leanmed.tasks.prompted.prompts import draw_prompts, target_points
from leanmed.tasks.prompted.settings import Prompter


def mask() -> Tensor:
    """(1, 20, 30): an object of 8 x 6 pixels, beside it a column where nothing is known."""
    found = torch.zeros(1, 20, 30, dtype=torch.uint8)
    found[0, 5:11, 4:12] = 1
    found[0, :, 29] = 255
    return found


def drawn(masks: Tensor, seed: int = 0, **settings: float) -> tuple[Tensor, Tensor]:
    return draw_prompts(masks, Prompter(**settings), torch.Generator().manual_seed(seed))


def test_points_lie_where_their_labels_say() -> None:
    for seed in range(30):
        points, labels = drawn(mask(), seed, boxes=0.0, positives=3, negatives=2)
        assert points.shape == (1, 5, 2)
        kinds = labels[0].tolist()
        assert 1 <= kinds.count(INSIDE) <= 3
        assert kinds.count(OUTSIDE) <= 2
        for (x, y), kind in zip(points[0].long().tolist(), kinds, strict=True):
            if kind != NO_POINT:
                assert mask()[0, y, x] == kind


def test_every_number_of_points_is_drawn() -> None:
    numbers = {
        tuple(drawn(mask(), seed, boxes=0.0)[1][0].tolist().count(kind) for kind in (1, 0)) for seed in range(60)
    }
    assert numbers == {(1, 0), (1, 1), (2, 0), (2, 1)}


def test_a_box_that_is_not_moved_runs_along_the_outer_edges_of_the_object() -> None:
    points, labels = drawn(mask(), boxes=1.0, jitter=0.0)
    assert points[0, :2].tolist() == [[3.5, 4.5], [11.5, 10.5]]
    assert labels[0].tolist() == [TOP_LEFT, BOTTOM_RIGHT, NO_POINT]


def test_a_box_is_moved_by_its_share_and_not_beyond_the_image() -> None:
    corners = torch.stack([drawn(mask(), seed, boxes=1.0, jitter=0.5)[0][0, :2] for seed in range(200)])
    low, high = corners.amin(0), corners.amax(0)
    assert low[0].tolist() >= [-0.5, 1.5]
    assert (high[0] - low[0] > torch.tensor([7.0, 5.0])).all()
    assert (high[1] <= torch.tensor([15.5, 13.5])).all()


def test_without_an_object_points_lie_outside_of_it() -> None:
    labels = drawn(torch.zeros_like(mask()), boxes=1.0)[1]
    assert set(labels[0].tolist()) <= {OUTSIDE, NO_POINT}
    assert OUTSIDE in labels[0].tolist()


def test_where_nothing_is_known_there_is_no_prompt() -> None:
    assert drawn(torch.full_like(mask(), 255))[1].unique().tolist() == [NO_POINT]


def test_one_seed_is_one_draw() -> None:
    assert torch.equal(drawn(mask(), 3)[0], drawn(mask(), 3)[0])
    assert not torch.equal(drawn(mask(), 3)[0], drawn(mask(), 4)[0])


def test_the_localiser_is_to_find_the_middle_of_the_object_and_nothing_where_there_is_none() -> None:
    masks = torch.cat([mask(), torch.zeros_like(mask())])
    points = target_points(masks, "centroid")
    assert points[0].tolist() == [torch.tensor(8 / 30).item(), torch.tensor(8 / 20).item()]
    assert points[1].isnan().all()
