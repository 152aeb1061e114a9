"""From pairs to groups, and from the audit's groups and the reader's to one relation."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from leanmed.audit.describe import Matrix

T = TypeVar("T", bound=Hashable)


def components(items: Sequence[T], pairs: Iterable[tuple[T, T]]) -> list[list[T]]:
    """Connected components, each in the order of `items`, sorted by first member."""
    parent = {item: item for item in items}

    def root(item: T) -> T:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        parent[root(a)] = root(b)
    found: dict[T, list[T]] = {}
    for item in items:
        found.setdefault(root(item), []).append(item)
    return list(found.values())


def joined(*relations: Mapping[str, str]) -> dict[str, str]:
    """The union of several groupings of the same items: item -> the first item of its component."""
    items = list(relations[0])
    pairs = [pair for relation in relations for pair in _chains(relation)]
    return {item: members[0] for members in components(items, pairs) for item in members}


def _chains(relation: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs that tie each item to the first of its group."""
    first: dict[str, str] = {}
    return [(first.setdefault(group, item), item) for item, group in relation.items()]


def maps_from(
    start: int, maps: Mapping[tuple[int, int], Matrix], neighbours: Mapping[int, Sequence[int]]
) -> dict[int, Matrix]:
    """Maps from `start` to every image that a chain of known maps reaches, along the shortest chain."""
    reached = {start: np.eye(3)}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for there in neighbours[here]:
            if there not in reached:
                step = maps[here, there] if here < there else np.linalg.inv(maps[there, here])
                reached[there] = step @ reached[here]
                waiting.append(there)
    return reached
