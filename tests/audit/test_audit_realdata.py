"""Copies in the published sets that people have confirmed by eye."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leanmed.audit import audit

DATA = Path(os.environ.get("LEANMED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are absent"),
]


@pytest.mark.parametrize(
    ("a", "b", "transformation"),
    [
        ("cp-anemic/Non-anemic/Image_276.png", "cp-anemic/Non-anemic/Image_323.png", "turn=90.0"),
        ("cp-anemic/Non-anemic/Image_011.png", "cp-anemic/Non-anemic/Image_059.png", "turn=180.0"),
        ("busi/benign/benign (433).png", "busi/malignant/malignant (145).png", "turn=0.0"),
        ("usgra/images/0043.png", "usgra/images/0077.png", "turn=0.0"),
    ],
)
def test_a_known_pair_is_found_among_its_neighbours_alone(a: str, b: str, transformation: str):
    near = sorted((DATA / a).parent.glob("*1.png"))[:6]
    images = {str(p): p for p in [DATA / a, DATA / b, *(p for p in near if "_mask" not in p.name)]}
    found = audit(list(images.items()), workers=1)
    assert found.groups[str(DATA / a)] == found.groups[str(DATA / b)]
    (pair,) = [p for p in found.pairs if {p.a, p.b} == {str(DATA / a), str(DATA / b)}]
    assert transformation in pair.transformation
