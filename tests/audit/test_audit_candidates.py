from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from leanmed.audit.candidates import CELL, DIMENSIONS, FLAT_BELOW, MANY, PER_CELL, _inverted_file, _learn
from leanmed.audit.describe import MIRROR


def made_codes(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, DIMENSIONS), np.float32)


@pytest.mark.parametrize(("features", "cells"), [(FLAT_BELOW, 282), (250_000, 1000), (MANY - 1, 1025)])
def test_cells_grow_with_the_square_root_of_the_features_as_far_as_their_places_can_be_learned(
    features: int, cells: int
):
    index = _inverted_file(made_codes(1025 * PER_CELL), features)
    assert index.nlist == cells
    assert index.is_trained


@pytest.mark.parametrize("features", [MANY, 2 * MANY])
def test_the_cells_of_many_features_hold_no_more_of_them_where_there_are_more(features: int):
    index = _inverted_file(made_codes(8000), features)
    assert index.nlist == -(-features // CELL)
    assert index.is_trained


def test_a_mirrored_descriptor_has_the_code_of_its_own_mirror_image():
    descriptors = np.random.default_rng(0).integers(0, 255, (200, 128), np.uint8)
    coder = _learn(descriptors)
    code, mirrored = coder.code(descriptors)
    again, other = coder.code(descriptors[:, MIRROR])
    np.testing.assert_allclose(code, again, atol=1e-5)
    assert (mirrored ^ other).all()
