"""The page as `leanmed serve` gives it: the same page, whose answers the server makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chromium import Visit
from PIL import Image
from server_process import serving

from grid_fixtures import Place
from leanmed.runtime.batch import answer
from leanmed.runtime.predictor import load


def test_the_server_s_page_answers_and_shows_what_browsers_cannot_read(
    browser: Any, tiny_artifact: Path, photographs: list[Path], tmp_path: Path
) -> None:
    with Image.open(photographs[1]) as image:
        image.save(tmp_path / "scan.tif")
    (tmp_path / "note.png").write_text("no image")
    with serving([Path(f"eyes={tiny_artifact}")], tmp_path) as port:
        visit = Visit(browser, f"http://127.0.0.1:{port}/")
        assert "not stored there" in visit.page.inner_text("#privacy")
        first, second, third = visit.ask([photographs[0], tmp_path / "scan.tif", tmp_path / "note.png"])
        predictor = load(tiny_artifact)
        for line, path in ((first, photographs[0]), (second, tmp_path / "scan.tif")):
            assert line["probabilities"] == answer(predictor, path)["probabilities"]
            assert line["input"] == path.name
        assert "expected" in third["error"]
        assert visit.page.locator("article img[alt*='scan.tif']").count() == 1
        assert all(url.startswith((f"http://127.0.0.1:{port}/", "blob:")) for url in visit.requests)
        assert [fault for fault in visit.faults if "422" not in fault] == []
        visit.close()


def test_prompts_go_to_the_server(browser: Any, grid: Place, tmp_path: Path) -> None:
    artifact = grid.artifact("prompted", "plain", "fp32")
    image = next(grid.data("prompted").rglob("*.png"))
    with serving([Path(f"nerves={artifact}")], tmp_path) as port:
        visit = Visit(browser, f"http://127.0.0.1:{port}/")
        visit.ask([image])
        canvas = visit.page.locator("canvas")
        shown = canvas.bounding_box()
        visit.page.mouse.move(shown["x"] + 10, shown["y"] + 10)
        visit.page.mouse.down()
        visit.page.mouse.move(shown["x"] + 60, shown["y"] + 80, steps=4)
        visit.page.mouse.up()
        visit.wait(".clear:visible")
        (line,) = visit.lines()
        x1, y1, x2, y2 = line["prompts"]["box"]
        assert x1 < x2
        assert y1 < y2
        assert [mark for _, _, mark in line["pointed"]] == [2, 3]
        visit.close()
