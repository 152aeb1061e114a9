"""What the audit's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_pictures import Pixels
from PIL import Image


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, Pixels], tuple[str, Path]]:
    """Write a picture below the test's folder, as its name's suffix says: (name, path)."""

    def write(name: str, image: Pixels) -> tuple[str, Path]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if image[..., 3].min() < 255 else image[..., :3]).save(path)
        return name, path

    return write
