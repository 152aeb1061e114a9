"""FP16 as a storage format."""

from __future__ import annotations

import numpy as np
import pytest
from made_networks import answer, found_network, made_images

from leanmed.compress import fp16
from leanmed.compress.fp16 import store_half
from leanmed.compress.graph import initializers


def test_large_weights_are_stored_in_half_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16, "FLOOR", 200)
    model, kept = store_half(found_network().model)
    stored = initializers(model)
    assert stored["net.head.weight_fp16"].dtype == np.float16
    assert stored["net.head.bias"].dtype == np.float32
    assert kept["net.head.bias"] == "it has fewer than 200 values"
    images = made_images(6, seed=9)
    assert np.abs(answer(model, images) - answer(found_network().model, images)).max() < 2e-3


def test_values_beyond_float16_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16, "FLOOR", 200)
    large = found_network().weights()["net.head.weight"].copy()
    large[0, 0] = 1e5
    model, kept = store_half(found_network().replace({"net.head.weight": large}).model)
    assert kept["net.head.weight"] == "its largest value 1e+05 is beyond float16"
    assert initializers(model)["net.head.weight"].dtype == np.float32
