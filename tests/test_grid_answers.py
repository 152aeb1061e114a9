"""One set of images through Python, the server and a real browser: the same answers, for each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agreement import apart, post
from chromium import Files, Visit
from grid_fixtures import KINDS, Place, recipe
from image_set import write_image_set
from leanmed.data import read_records
from leanmed.reading.images import as_pixels
from leanmed.runtime.batch import answer
from leanmed.runtime.predictor import load
from leanmed.web.site import write_web
from server_process import serving

PRECISIONS = ("fp32", "int8", "int4")
EXACT = 1e-3
LOSSY = 0.02  # where two decoders make different pixels of one file


def is_lossless(path: Path) -> bool:
    """Whether every decoder makes the same pixels of it."""
    return path.suffix in (".png", ".webp", ".bmp")


@pytest.mark.parametrize("kind", KINDS)
def test_python_the_server_and_the_browser_answer_alike(
    kind: str, grid: Place, browser: Any, tmp_path: Path, make_pictures: Callable[..., Sequence[Image.Image]]
) -> None:
    artifacts = {to: grid.artifact(kind, "plain", to) for to in PRECISIONS}
    files = write_image_set(make_pictures(kind, grid), tmp_path / "images", telephone=(960, 720))
    assert len(files) >= 20
    named = [Path(f"{to}={path}") for to, path in artifacts.items()]
    write_web(named, tmp_path / "site", tell=lambda line: None)
    served = Files(tmp_path / "site")
    with serving(named, tmp_path) as port:
        visit = Visit(browser, served.address)
        for to, path in artifacts.items():
            predictor = load(path)
            ours = [answer(predictor, file) for file in files]
            for way, theirs in {
                "server": [post(port, to, file.read_bytes()) for file in files],
                "browser": visit.ask(files, to),
            }.items():
                for file, one, other in zip(files, ours, theirs, strict=True):
                    assert "error" not in other, (way, file.name, other)
                    least = EXACT if way == "server" or is_lossless(file) else LOSSY
                    assert apart(one, other) <= least, (way, to, file.name)
                    assert other["artifact"] == predictor.artifact.sha256
        assert visit.faults == []
        visit.close()
    served.end()


@pytest.fixture
def make_pictures() -> Callable[..., Sequence[Image.Image]]:
    """Some of a kind's made images, as pictures."""

    def pictures(kind: str, grid: Place) -> list[Image.Image]:
        records = read_records(recipe(kind).data.dataset, grid.data(kind))[:2]
        return [Image.fromarray(as_pixels(Image.open(record.image))).convert("RGB") for record in records]

    return pictures
