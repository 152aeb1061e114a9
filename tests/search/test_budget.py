"""A device's budget: how it is written, and what keeps within it."""

from __future__ import annotations

import pytest

from leanmed.errors import DataError
from leanmed.search.budget import Budget, amount


def test_a_budget_is_read_in_bytes_and_milliseconds() -> None:
    assert Budget.parse("size=3MB,latency=20ms,memory=200MiB").limits == {
        "size": 3e6,
        "latency": 20.0,
        "memory": 200 * 2.0**20,
    }
    assert Budget.parse(" latency = .5s ").limits == {"latency": 500.0}
    assert str(Budget.parse("size=1500kB,latency=2s")) == "size 1.5 MB, latency 2,000 ms"


@pytest.mark.parametrize(
    "text", ["", "size", "size=3", "size=3ms", "latency=3MB", "speed=3ms", "size=0MB", "size=-1MB", "size=1MB,size=2MB"]
)
def test_a_budget_of_another_form_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(DataError, match=r"expected --budget as one or more of size=3MB, latency=20ms, memory=200MB"):
        Budget.parse(text)


def test_what_is_beyond_is_told_as_a_multiple_of_the_limit() -> None:
    budget = Budget.parse("size=2MB,latency=10ms")
    assert budget.over({"size": 3e6, "latency": 10.0, "memory": 1e12}) == {"size": 1.5}
    assert not budget.holds({"size": 3e6, "latency": 1.0})
    assert budget.holds({"size": 2e6, "latency": 10.0})
    assert not budget.holds({"size": 1.0, "latency": None}), "what is not known may be anything"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("size", 1_394_000, "1.39 MB"),
        ("size", 512.0, "512 B"),
        ("size", 999_700, "1 MB"),
        ("size", 99_940, "99.9 kB"),
        ("memory", 434_000_000, "434 MB"),
        ("latency", 8.94, "8.94 ms"),
        ("latency", 7400.0, "7,400 ms"),
        ("memory", None, "not known"),
    ],
)
def test_costs_are_told_in_units(name: str, value: float | None, words: str) -> None:
    assert amount(name, value) == words
