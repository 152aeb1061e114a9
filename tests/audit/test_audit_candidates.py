from __future__ import annotations

import numpy as np
import pytest

from leanmed.audit.candidates import CELL, DIMENSIONS, FLAT_BELOW, _inverted_file, _learn
from leanmed.audit.describe import MIRROR


@pytest.mark.parametrize("features", [FLAT_BELOW, 20 * FLAT_BELOW])
def test_the_cells_of_a_large_set_hold_no_more_features_than_those_of_a_small_one(features: int):
    """Else each lookup would cost more in a larger set, and the audit would grow faster than the number of images."""
    codes = np.random.default_rng(0).random((5000, DIMENSIONS), np.float32)
    index = _inverted_file(codes, features)
    assert index.nlist == -(-features // CELL)
    assert index.is_trained


def test_a_mirrored_descriptor_has_the_code_of_its_own_mirror_image():
    descriptors = np.random.default_rng(0).integers(0, 255, (200, 128), np.uint8)
    coder = _learn(descriptors)
    code, mirrored = coder.code(descriptors)
    again, other = coder.code(descriptors[:, MIRROR])
    np.testing.assert_allclose(code, again, atol=1e-5)
    assert (mirrored ^ other).all()
