from __future__ import annotations

import pickle

import numpy as np
import pytest

from leanmed.errors import DataError
from leanmed.prompts import Prompts


def test_points_without_labels_are_all_on_what_is_meant():
    assert Prompts(((1, 2), (3, 4))).labels == (1, 1)
    assert Prompts(((1, 2), (3, 4)), (0, 1)).labels == (0, 1)
    assert Prompts(box=(1, 2, 3, 4)) == Prompts((), (), (1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "at least one point or a box"),
        ({"points": ((1, float("nan")),)}, "finite numbers"),
        ({"points": ((1, 2),), "labels": (1, 0)}, "one label for each of 1 points"),
        ({"points": ((1, 2),), "labels": (2,)}, "labels of 1 (a point on what is meant) or 0"),
        ({"box": (1, 2, 1, 4)}, "x1 < x2 and y1 < y2"),
        ({"box": (1, 2, float("inf"), 4)}, "finite numbers"),
    ],
)
def test_what_is_no_prompt_is_refused(content, words, refused):
    with refused(DataError, words):
        Prompts(**content)


def test_prompts_are_read_from_a_command_line():
    assert Prompts.parse(["120,88.5", " -1 , 2"], ["0", "1"], "1,2,30,4e1") == Prompts(
        ((120.0, 88.5), (-1.0, 2.0)), (0, 1), (1.0, 2.0, 30.0, 40.0)
    )


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1;2", "x,2", "1,"])
def test_a_malformed_point_or_box_is_refused(text, refused):
    with refused(DataError, "expected a point X,Y such as 120,88.5, 2 numbers with commas", repr(text)):
        Prompts.parse([text])
    with refused(DataError, "expected a box X1,Y1,X2,Y2", repr(text)):
        Prompts.parse([], box=text)


def test_a_label_other_than_0_and_1_is_refused(refused):
    with refused(DataError, "expected a label of 1", "got '2'"):
        Prompts.parse(["1,2"], ["2"])


def test_the_last_pixel_is_inside_and_its_far_edge_is_not_but_a_box_may_reach_it(refused):
    inside = Prompts(((0, 0), (19.9, 9.9)), box=(0, 0, 20, 10))
    assert inside.checked((10, 20)) is inside
    for x, y in ((20, 5), (5, 10), (-0.1, 5), (5, -1)):
        with refused(DataError, "with x from 0 to 20 and y from 0 to 10 pixels", f"got ({x:g}, {y:g});"):
            Prompts(((5, 5), (x, y))).checked((10, 20))
    with refused(DataError, "got (5, 5) and (21, 9);"):
        Prompts(box=(5, 5, 21, 9)).checked((10, 20))


def test_prompts_follow_to_another_frame_and_a_turned_box_keeps_its_corners_in_order():
    found = Prompts(((1, 2),), (0,), (1, 2, 5, 4)).mapped(lambda points: np.array([10.0, 0.0]) + points * [-1.0, 3.0])
    assert found == Prompts(((9, 6),), (0,), (5, 6, 9, 12))
    assert Prompts(box=(1, 2, 5, 4)).mapped(lambda points: points * 2) == Prompts(box=(2, 4, 10, 8))


def test_prompts_are_plain_values_for_a_line_and_travel_to_other_processes():
    prompts = Prompts(((1, 2),), box=(1, 2, 5, 4))
    assert prompts.as_json() == {"points": [[1.0, 2.0]], "labels": [1], "box": [1.0, 2.0, 5.0, 4.0]}
    assert Prompts(((1, 2),)).as_json()["box"] is None
    assert pickle.loads(pickle.dumps(prompts)) == prompts
