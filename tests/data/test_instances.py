"""Objects of a mask one by one: which pixels are of one, in which order, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leanmed.data.instances import instances, read_instances
from leanmed.records import Mask, Record

TWO = np.zeros((8, 8), int)
TWO[:4, :5] = [
    [0, 0, 0, 0, 3],
    [1, 0, 0, 0, 0],
    [0, 1, 0, 0, 0],
    [0, 1, 0, 0, 0],
]


def test_pixels_that_touch_at_a_corner_are_of_one_object_and_the_highest_comes_first():
    first, second = instances(TWO)
    assert np.argwhere(first).tolist() == [[0, 4]]
    assert np.argwhere(second).tolist() == [[1, 0], [2, 1], [3, 1]]
    assert first.dtype == bool


def test_objects_below_the_least_area_are_left_out():
    assert [int(one.sum()) for one in instances(TWO, min_area=3)] == [3]
    assert instances(TWO, min_area=4) == []


def test_an_empty_mask_has_no_objects_and_one_of_three_axes_is_refused():
    assert instances(np.zeros((3, 4), bool)) == []
    with pytest.raises(ValueError, match="two axes"):
        instances(np.zeros((3, 4, 1)))


@pytest.fixture
def record(tmp_path):
    """`record(array, array, values={...})`: an image with so many files of its mask."""

    def make(*files, values=None, within=None):
        def save(name, array):
            Image.fromarray(np.asarray(array, np.uint8)).save(tmp_path / name)
            return tmp_path / name

        paths = tuple(save(f"mask-{number}.png", array) for number, array in enumerate(files))
        mask = Mask(paths, values or {"object": ()}, within if within is None else save("fov.png", within))
        return Record(id="a", image=save("a.png", np.zeros(files[0].shape)), target=mask, group="a")

    return make


def test_each_file_of_a_mask_is_an_object_whole_or_their_union_falls_into_parts(record):
    left, right = TWO * 0, TWO * 0
    left[:, 0], right[:, 1], right[0, 4] = 1, 1, 1
    made = record(left, right)
    by_file = read_instances(made, ["object"], by_file=True)
    assert [(label, int(part.sum())) for label, part in by_file] == [("object", 8), ("object", 9)]
    assert np.array_equal(by_file[1][1], right > 0)
    assert [int(part.sum()) for _, part in read_instances(made, ["object"])] == [16, 1]


def test_objects_of_several_labels_come_label_by_label(record):
    made = record(TWO, values={"vessel": (3,), "nerve": (1,)})
    found = read_instances(made, ["nerve", "vessel"])
    assert [(label, int(part.sum())) for label, part in found] == [("nerve", 3), ("vessel", 1)]
    assert [label for label, _ in read_instances(made, ["nerve", "vessel"], min_area=2)] == ["nerve"]


def test_an_empty_file_and_what_lies_outside_the_field_of_view_are_no_objects(record):
    field = np.ones(TWO.shape)
    field[0] = 0
    made = record(TWO, TWO * 0, within=field)
    for by_file in (True, False):
        assert [int(part.sum()) for _, part in read_instances(made, ["object"], by_file=by_file)] == [3]
