"""Fixtures of the page's tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from chromium import CHROMIUM, chromium


@pytest.fixture(scope="module")  # while it is there an event loop runs, which tests elsewhere need for themselves
def browser() -> Iterator[Any]:
    """A real Chromium, where Debian's package is installed."""
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("needs the program chromium and the Python package playwright")
    with chromium() as found:
        yield found
