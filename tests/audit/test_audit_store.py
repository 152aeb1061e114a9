from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import crescent, texture

from leanmed.audit.describe import describe
from leanmed.audit.store import FILE, Store
from leanmed.errors import DataError


def test_a_description_comes_back_as_it_went_in(tmp_path: Path):
    images = [texture(1), crescent(texture(2)), np.zeros((3, 4, 4), np.uint8)]
    given = [describe(image) for image in images]
    with Store(tmp_path) as store:
        store.put(zip("abc", given, strict=True))
    with Store(tmp_path) as store:
        for name, before in zip("abc", given, strict=True):
            (after,) = store.get([name])
            assert after.facts == before.facts
            assert after.frame == before.frame
            for part in ("grey", "mask", "points", "descriptors"):
                assert np.array_equal(getattr(after, part), getattr(before, part))


def test_contents_come_back_in_the_order_asked_for_and_as_often(tmp_path: Path):
    with Store(tmp_path) as store:
        store.put((str(k), describe(texture(k, 30, 30 + k))) for k in range(4))
        assert [facts.width for facts in store.facts(["3", "0", "3"])] == [33, 30, 33]
        (points, descriptors), *_ = store.features(["2", "1"])
        (whole,) = store.get(["2"])
        assert np.array_equal(points, whole.points)
        assert np.array_equal(descriptors, whole.descriptors)


def test_the_store_knows_what_it_holds(tmp_path: Path):
    with Store(tmp_path) as store:
        store.put([("a", describe(texture(5, 30, 30)))])
        assert "a" in store
        assert "b" not in store
        with pytest.raises(KeyError):
            list(store.get(["b"]))


def test_a_damaged_store_is_named(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"no database at all, whatever its name says" * 100)
    with pytest.raises(DataError, match="delete it"):
        Store(tmp_path)
