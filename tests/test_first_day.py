"""The notebook of the docs runs from its first cell to its last, and shows what it showed when it was written."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-day.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the notebook's own machinery
def test_the_notebook_of_the_first_day_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    before = [shown(cell) for cell in notebook.cells]

    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    after = [shown(cell) for cell in notebook.cells]
    assert [len(cell) for cell in after] == [len(cell) for cell in before]
    assert "auc" in str(after)
    assert {"run", "report", "artifact"} <= {path.name for path in tmp_path.iterdir()}


def shown(cell):
    """What a cell has printed or returned, without what libraries complain of."""
    return [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
