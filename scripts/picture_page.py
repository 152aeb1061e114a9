"""The pictures of docs/phone.md and docs/serve.md: the page with an answer to a made image, as a telephone shows it.

python scripts/picture_page.py ARTIFACT IMAGE --out docs/images/page.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from PIL import Image

from chromium import Files, Visit, chromium
from leanmed.web.site import write_web
from server_process import serving

GAP = 24  # pixels between pictures
GROUND = "#d5dde2"


def main(
    artifact: Annotated[Path, typer.Argument(help="An artifact; its folder's name is shown by the server.")],
    image: Annotated[Path, typer.Argument(help="A made image.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")],
    server: Annotated[bool, typer.Option(help="Show the page as a server gives it.")] = False,
) -> None:
    """Open the page, ask, and put what one sees before and after side by side."""
    with TemporaryDirectory() as scratch, chromium() as browser:
        work = Path(scratch)
        if server:
            with serving([artifact], work) as port:
                parts = shown(Visit(browser, f"http://127.0.0.1:{port}/"), image, work, waits=False)
        else:
            write_web([artifact], work / "site", tell=lambda line: None)
            served = Files(work / "site")
            parts = shown(Visit(browser, served.address), image, work, waits=True)
            served.end()
        height = max(part.height for part in parts)
        picture = Image.new("RGB", (sum(part.width + GAP for part in parts) + GAP, height + 2 * GAP), GROUND)
        left = GAP
        for part in parts:
            picture.paste(part, (left, GAP))
            left += part.width + GAP
        picture.save(out)


def shown(visit: Visit, image: Path, work: Path, *, waits: bool) -> list[Image.Image]:
    """The page before an image is given, the answer, and the model's card."""
    if waits:
        visit.wait_until_offline()
    visit.page.screenshot(path=work / "before.png")
    visit.ask([image])
    # the notice at the top of a screen would cover what a picture longer than a screen shows there
    visit.page.evaluate("() => { document.querySelector('body > .notice').style.position = 'static'; }")
    visit.page.locator("article").screenshot(path=work / "answer.png")
    visit.page.click("#card")
    visit.page.screenshot(path=work / "card.png")
    visit.close()
    return [Image.open(work / f"{name}.png").convert("RGB") for name in ("before", "answer", "card")]


if __name__ == "__main__":
    typer.run(main)
