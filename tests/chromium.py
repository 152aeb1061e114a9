"""A real Chromium without a window, and a server of files that can be ended, for tests and measurements of the page."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000  # milliseconds; machines are busy
ANSWERED = "article h2, article .error"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Files(http.server.ThreadingHTTPServer):
    """Serves a folder on a free port of this computer, and keeps what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.sent = 0
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def end(self) -> None:
        """As if the network were gone."""
        self.shutdown()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - as the standard library has it
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
    }
    server: Files

    def log_message(self, *about: Any) -> None:
        self.server.asked.append(self.path)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        self.server.sent += len(content)
        outputfile.write(content)


class Visit:
    """A page that is open, and what goes wrong on it."""

    def __init__(self, browser: Any, address: str, *, width: int = 360) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 740})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.faults.append(line.text))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def wait(self, selector: str, count: int = 1) -> None:
        """Until so many are there."""
        self.page.locator(selector).nth(count - 1).wait_for()

    def wait_until_offline(self) -> None:
        """Until the page says that it works without a network."""
        self.wait("#offline:has-text('now works without a network')")

    def ask(self, files: Sequence[Path], model: str | None = None) -> list[dict[str, Any]]:
        """The lines of the answers to some files, as the page saves them."""
        if self.page.locator("#clear").is_visible():
            self.page.click("#clear")
        if model is not None and self.page.locator("#model").is_visible():
            self.page.select_option("#model", label=model)
        self.choose(files)
        self.wait(ANSWERED, len(files))
        return self.lines()

    def choose(self, files: Sequence[Path]) -> None:
        """Choose files, once the page shows where: before that it does not hear of it."""
        self.wait("#ask:visible")
        self.page.set_input_files("#files", [str(file) for file in files])

    def lines(self) -> list[dict[str, Any]]:
        """What the page saves."""
        with self.page.expect_download() as download:
            self.page.click("#export")
        content = Path(download.value.path()).read_text("utf-8")
        return [json.loads(line) for line in content.splitlines()]

    def close(self) -> None:
        """Forget everything of it."""
        self.context.close()
