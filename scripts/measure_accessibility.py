"""Look for what keeps people from using the pages with a keyboard or a screen reader, by axe-core in Chromium.

    npm pack axe-core && tar xzf axe-core-*.tgz
    python scripts/measure_accessibility.py ARTIFACT IMAGE ARTIFACT IMAGE... --axe package/axe.min.js --out FILE

Each artifact answers for its image on the page of `leanmed web`. The first one's page of `leanmed serve`, and the form
for browsers without scripts, are looked at as well. axe-core finds about half of what people stumble over; that the
page goes with a keyboard alone is tested, and no screen reader was listened to.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from chromium import Files, Visit, chromium
from leanmed import __version__
from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.web.site import write_web
from server_process import serving

RUN = (
    "axe.run().then(({ violations, passes }) => "
    "({ violations: violations.map(({ id }) => id), passes: passes.length }))"
)


def main() -> None:
    """Look and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("given", nargs="+", type=Path)
    parser.add_argument("--axe", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    axe = given.axe.read_text("utf-8")
    pairs = list(zip(given.given[::2], given.given[1::2], strict=True))
    found: dict[str, Any] = {}

    def look(page: Any, what: str) -> None:
        found[what] = page.evaluate(f"{axe}; {RUN}")
        print(what, found[what], flush=True)

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for number, (artifact, image) in enumerate(pairs):
            write_web([artifact], Path(folder) / str(number), tell=lambda line: None)
            served = Files(Path(folder) / str(number))
            visit = Visit(browser, served.address)
            visit.wait_until_offline()
            look(visit.page, f"{artifact}, at the start")
            visit.ask([image])
            look(visit.page, f"{artifact}, with an answer")
            visit.page.click("#card")
            look(visit.page, f"{artifact}, with the card")
            visit.page.click("#about-close")
            visit.ask([given.axe])  # which is no image
            look(visit.page, f"{artifact}, with an error")
            visit.close()
        artifact, image = pairs[0]
        with serving([artifact], Path(folder)) as port:
            visit = Visit(browser, f"http://127.0.0.1:{port}/")
            visit.ask([image])
            look(visit.page, "the server's page, with an answer")
            visit.page.goto(f"http://127.0.0.1:{port}/form")
            look(visit.page, "the form without scripts")
            visit.page.set_input_files("input[type=file]", str(image))
            visit.page.click("button")
            visit.page.wait_for_url("**/v1/predict")
            look(visit.page, "the form's answer")
        named = re.search(r"axe v([\d.]+)", axe)
        about = {"chromium": browser.version, "axe-core": named and named[1], "leanmed": __version__}
    command = shlex.join(["python", "scripts/measure_accessibility.py", *sys.argv[1:]])
    write_json(given.out, {"command": command, "machine": machine(), "versions": about, "pages": found})


if __name__ == "__main__":
    main()
