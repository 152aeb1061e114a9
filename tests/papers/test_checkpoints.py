"""The sizes of the paper's files, from parameter counts."""

from __future__ import annotations

import pytest

from leanmed.papers.checkpoints import fake_quant_bytes, paper_bytes
from leanmed.papers.published import PAPER


def test_one_small_layer_by_hand() -> None:
    # A 1x1 convolution of 3 to 2 channels and its bias: 8 floats in 2 tensors, no counter.
    found = fake_quant_bytes([(2, 3, 1, 1)], floats=8, counters=0, tensors=2)
    assert found["fp32"] == 8 * 4 + 2 * 265
    assert found["fp16"] == 8 * 2 + 2 * 265
    assert found["int8"] == found["fp32"] + 4 * (2 + 1) + 2 * 265 + 3 * 270
    assert found["int4"] == found["fp32"] + 4 * 6 + 265 + 3 * 270


def test_the_papers_network_gives_the_papers_sizes() -> None:
    found = {name: size / 1e6 for name, size in paper_bytes().items()}
    assert found == pytest.approx({"fp32": 9.12, "fp16": 4.60, "int8": 9.26, "int4": 17.77}, rel=1e-3)  # files saved
    assert found == pytest.approx({name: row["megabytes"] for name, row in PAPER.items()}, rel=3e-3)
