from __future__ import annotations

import numpy as np
import pytest

from leanmed.audit.groups import components, joined, maps_from


def test_components_keep_the_order_of_the_items():
    found = components(["a", "b", "c", "d", "e"], [("d", "b"), ("e", "d")])
    assert found == [["a"], ["b", "d", "e"], ["c"]]


def test_without_pairs_each_item_is_alone():
    assert components([1, 2], []) == [[1], [2]]


def test_a_long_chain_is_one_component():
    assert len(components(range(5000), [(k, k + 1) for k in range(4999)])) == 1


def test_two_relations_are_joined_where_either_ties():
    patients = {"a": "p1", "b": "p1", "c": "p2", "d": "p3"}
    photographs = {"a": "x", "b": "y", "c": "y", "d": "z"}
    assert joined(patients, photographs) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_a_name_that_both_relations_use_ties_nothing_by_itself():
    assert joined({"a": "1", "b": "2"}, {"a": "2", "b": "3"}) == {"a": "a", "b": "b"}


def test_maps_are_chained_along_the_shortest_way_and_turned_round_where_needed():
    def move(x: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, 0], [0, 0, 1.0]])

    maps = {(0, 1): move(5), (1, 2): move(7), (0, 3): move(-2)}
    reached = maps_from(2, maps, {0: [1, 3], 1: [0, 2], 2: [1], 3: [0]})
    assert {k: m[0, 2] for k, m in reached.items()} == pytest.approx({2: 0, 1: -7, 0: -12, 3: -14})
