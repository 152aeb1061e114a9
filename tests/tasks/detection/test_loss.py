from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from leanmed.models.anchors import default_boxes, encode_boxes
from leanmed.tasks.detection.loss import hardest, multibox
from leanmed.tasks.detection.settings import Detector

DEFAULTS = default_boxes(32, [8], torch.tensor([8.0]))  # sixteen, side by side
NOTHING = torch.full((2, 4), torch.nan)


def settings(**changes: Any) -> Detector:
    return Detector(**({"negatives": 3, "negatives_floor": 2, "box_weight": 1} | changes))


def outputs(logits: dict[int, float], offsets: dict[int, list[float]] | None = None) -> torch.Tensor:
    """Of one image: logits of -100 and offsets of 0, but for these."""
    made = torch.zeros(1, 16, 5)
    made[..., 4] = -100
    for position, logit in logits.items():
        made[0, position, 4] = logit
    for position, values in (offsets or {}).items():
        made[0, position, :4] = torch.tensor(values)
    return made


def boxes(*rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.stack(rows), NOTHING])[None] if rows else NOTHING[None]


def test_one_object_and_its_three_hardest_negatives_by_hand() -> None:
    """Logits 0 of the object, and 0, -1, -2, -3 elsewhere: of these the first three count."""
    found = outputs({5: 0.0, 0: 0.0, 1: -1.0, 2: -2.0, 3: -3.0})
    wanted = math.log(2) + sum(math.log1p(math.exp(z)) for z in (0, -1, -2))
    assert multibox(found, boxes(DEFAULTS[5]), DEFAULTS, settings()).item() == pytest.approx(wanted, abs=1e-5)


def test_offsets_count_by_smooth_l1_over_the_number_of_positives() -> None:
    """Two objects; of the first, offsets of .5 and 3 are wrong: .125 + 2.5, over 2."""
    found = outputs({5: 100.0, 9: 100.0}, {5: [0.5, 3, 0, 0]})
    target = boxes(DEFAULTS[5], DEFAULTS[9])
    assert multibox(found, target, DEFAULTS, settings()).item() == pytest.approx(2.625 / 2, abs=1e-5)
    assert multibox(found, target, DEFAULTS, settings(box_weight=2)).item() == pytest.approx(2.625, abs=1e-5)


def test_offsets_are_taught_as_they_are_decoded() -> None:
    box = DEFAULTS[5] + torch.tensor([1.0, -1, 2, 1])
    offsets = encode_boxes(box[None], DEFAULTS[5:6])[0].tolist()
    loss = multibox(outputs({5: 100.0}, {5: offsets}), boxes(box), DEFAULTS, settings())
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_an_image_without_objects_teaches_by_the_floor_of_hard_negatives() -> None:
    found = outputs({0: 0.0, 1: 0.0, 2: 0.0})
    assert multibox(found, boxes(), DEFAULTS, settings()).item() == pytest.approx(2 * math.log(2), abs=1e-5)
    floor = settings(negatives_floor=3)
    assert multibox(found, boxes(), DEFAULTS, floor).item() == pytest.approx(3 * math.log(2), abs=1e-5)


def test_negatives_are_mined_in_each_image_by_itself_and_never_among_positives() -> None:
    loss = torch.tensor([[9.0, 5, 4, 3, 2], [1, 2, 3, 4, 5]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    mined = hardest(loss, positive, ~positive, settings())
    assert mined.tolist() == [[False, True, True, True, False], [False, False, False, True, True]]


def test_a_default_box_next_to_an_object_counts_neither_way() -> None:
    """Moved by 3 of 8 pixels, the box overlaps its best default box with an IoU of .45, and the next with .23."""
    box = DEFAULTS[5] + torch.tensor([3.0, 0, 3, 0])
    found = outputs({5: 100.0, 6: 0.0}, {5: encode_boxes(box[None], DEFAULTS[5:6])[0].tolist()})
    taught = multibox(found, boxes(box), DEFAULTS, settings(near=0.4)).item()
    assert taught == pytest.approx(math.log(2), abs=1e-5)
    assert multibox(found, boxes(box), DEFAULTS, settings(near=0.2)).item() == pytest.approx(0, abs=1e-5)
