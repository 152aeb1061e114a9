"""`leanmed predict` of enhanced CT and MR gives the answers of the classic series that they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node_fixtures import wedge_series
from pydicom.uid import MRImageStorage

from leanmed.phantoms.chest import made_chest
from leanmed.phantoms.scans import drawn, made_grid, write_enhanced, write_series
from leanmed.reading.images import find_inputs
from leanmed.reading.mr import open_mr
from leanmed.runtime.batch import answer
from leanmed.runtime.predictor import Predictor


def test_an_enhanced_ct_has_the_candidates_of_the_series(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    chest = made_chest(1, depth=80.0)
    grid = made_grid(chest, (5.0, 5.0, 10.0))
    stored = drawn(chest, grid)
    (tmp_path / "classic").mkdir()
    write_series(tmp_path / "classic", stored, grid)
    write_enhanced(tmp_path / "whole.dcm", stored, grid)
    lines = [
        answer(predictors["nodules"], path)
        for path in find_inputs([str(tmp_path / "classic"), str(tmp_path / "whole.dcm")], scans=True)
    ]
    assert len(lines) == 2
    assert lines[0]["candidates"] == lines[1]["candidates"]
    assert lines[0]["candidates"]


def test_an_enhanced_mr_has_the_mask_of_the_series(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    wedge_series(tmp_path / "classic", Modality="MR", SOPClassUID=MRImageStorage)
    volume = open_mr(tmp_path / "classic")
    stored = volume.voxels(0, len(volume)).astype(np.int16)
    write_enhanced(tmp_path / "whole.dcm", stored, volume.grid, "MR")
    classic, whole = (predictors["prostate"].predict(tmp_path / name) for name in ("classic", "whole.dcm"))
    assert np.array_equal(classic.mask, whole.mask)
    assert classic.millilitres == pytest.approx(whole.millilitres)
    assert classic.mask.any()
