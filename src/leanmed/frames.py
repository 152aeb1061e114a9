"""Rows as a table of pandas, which nothing else of leanmed needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leanmed.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table with a row for each, and a column for every key.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("to_frame", "pandas") from error
    return pd.DataFrame(list(rows))
