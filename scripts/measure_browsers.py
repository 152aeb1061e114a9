"""The page of `leanmed web` in Firefox and in WebKit, the engine of Safari: whether it answers there as Python does.

    python scripts/measure_browsers.py NAME=ARTIFACT,ARTIFACT...=FOLDER... --out FILE

The models and images are given as for `measure_page.py`, which does more of the same in Chromium. Firefox is driven by
its own Marionette, and WebKitGTK's MiniBrowser by WebKitWebDriver on a screen of Xvfb (Debian's packages `firefox-esr`,
`webkit2gtk-driver` and `xvfb`). Safari itself differs from WebKitGTK in how it decodes and draws images.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from measure_page import PICTURES, form_of, largest, parse, some_of

from agreement import apart
from chromium import ANSWERED, Files
from image_set import write_image_set
from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.runtime.batch import answer
from leanmed.runtime.predictor import load
from leanmed.web.runtime import VERSION
from leanmed.web.site import write_web
from server_process import free_port

MINI_BROWSER = "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser"
PATIENCE = 180  # seconds
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's name in WebDriver
# The page saves its lines as a Blob; `exportFunction` is Firefox's way for scripts of a driver to give a page one.
SAVE = """
const done = arguments[arguments.length - 1];
const page = window.wrappedJSObject ?? window;
const make = page.URL.createObjectURL;
const mine = (blob) => {
  page.URL.createObjectURL = make;
  new Response(blob).text().then(done);
  return make.call(page.URL, blob);
};
page.URL.createObjectURL = typeof exportFunction === "function" ? exportFunction(mine, page) : mine;
document.getElementById("export").click();
"""

Call = Callable[[str, dict[str, Any]], Any]


class Marionette:
    """Firefox without a window."""

    name = "firefox"

    def __init__(self, profile: Path) -> None:
        port = free_port()
        (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        words = ["firefox-esr", "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = connected(port)
        self.file = self.connection.makefile("rb")
        self._read()
        self.number = 0
        about = self("NewSession", {})["capabilities"]
        self.version = about["browserVersion"]

    def __call__(self, command: str, given: dict[str, Any]) -> Any:
        """What WebDriver's command gives."""
        self.number += 1
        message = json.dumps([0, self.number, f"WebDriver:{command}", given])
        self.connection.sendall(f"{len(message.encode())}:{message}".encode())
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(error)
        return result

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self.file.read(1)
        return json.loads(self.file.read(int(length[:-1])))

    def end(self) -> None:
        """End the browser."""
        self.process.kill()
        self.process.wait()


class WebKit:
    """WebKitGTK's own small browser, through its driver."""

    name = "webkit"
    PATHS = {  # noqa: RUF012
        "Navigate": ("POST", "/url"),
        "SetTimeouts": ("POST", "/timeouts"),
        "ExecuteScript": ("POST", "/execute/sync"),
        "ExecuteAsyncScript": ("POST", "/execute/async"),
        "FindElement": ("POST", "/element"),
    }

    def __init__(self, profile: Path) -> None:
        port = free_port()
        words = ["xvfb-run", "-a", "WebKitWebDriver", f"--port={port}"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        connected(port).close()
        self.address = f"http://127.0.0.1:{port}/session"
        options = {"webkitgtk:browserOptions": {"binary": MINI_BROWSER, "args": ["--automation"]}}
        begun = self._ask("POST", "", {"capabilities": {"alwaysMatch": options}})
        self.address += f"/{begun['sessionId']}"
        self.version = begun["capabilities"]["browserVersion"]

    def __call__(self, command: str, given: dict[str, Any]) -> Any:
        """What WebDriver's command gives."""
        if command == "ElementSendKeys":
            return self._ask("POST", f"/element/{given['id']}/value", {"text": given["text"]})
        method, path = self.PATHS[command]
        found = self._ask(method, path, given)
        return found if command == "FindElement" else {"value": found}

    def _ask(self, method: str, path: str, given: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(given).encode(), {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=2 * PATIENCE) as response:
            return json.load(response)["value"]

    def end(self) -> None:
        """End the browser."""
        self._ask("DELETE", "", {})
        self.process.terminate()
        self.process.wait()


def connected(port: int) -> socket.socket:
    """A connection to a port of this computer, once somebody listens there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


class Tab:
    """A page in a browser."""

    def __init__(self, call: Call) -> None:
        self.call = call
        call("SetTimeouts", {"script": 1000 * PATIENCE, "pageLoad": 1000 * PATIENCE})

    def open(self, address: str) -> None:
        """Until it hears that files are chosen."""
        self.call("Navigate", {"url": address})
        self.wait("!document.getElementById('ask').hidden")

    def run(self, script: str) -> Any:
        """What a script gives."""
        return self.call("ExecuteScript", {"script": script, "args": []})["value"]

    def wait(self, condition: str) -> None:
        """Until a condition of the page holds."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"return {condition}"):
            if time.monotonic() > end:
                raise RuntimeError(f"{condition}: {self.run('return document.body.innerText')}")
            time.sleep(0.2)

    def wait_until_offline(self) -> None:
        """Until the page says that it works without a network."""
        self.wait("document.getElementById('offline').textContent.includes('now works without')")

    def ask(self, files: Sequence[Path], model: str) -> list[dict[str, Any]]:
        """The lines of the answers to some files, as the page saves them."""
        choose = f"""
        const list = document.getElementById('model'); document.getElementById('clear').click();
        list.value = [...list.options].find(({{ text }}) => text === {json.dumps(model)}).value;
        list.dispatchEvent(new Event('change'));"""
        self.run(choose)
        found = self.call("FindElement", {"using": "css selector", "value": "#files"})
        element = found.get("value", found)[ELEMENT]
        for count, file in enumerate(files, start=1):
            self.call("ElementSendKeys", {"id": element, "text": str(file)})
            self.wait(f"document.querySelectorAll('{ANSWERED}').length === {count}")
        saved = self.call("ExecuteAsyncScript", {"script": SAVE, "args": []})["value"]
        return [json.loads(line) for line in saved.splitlines()]


@contextmanager
def tab_of(browser: type[Marionette] | type[WebKit], folder: Path) -> Iterator[tuple[Tab, str]]:
    """A page, and the browser's version."""
    folder.mkdir()
    driver = browser(folder)
    try:
        yield Tab(driver), driver.version
    finally:
        driver.end()


def main(
    models: Annotated[list[str], typer.Argument(help="NAME=ARTIFACT,ARTIFACT...=FOLDER each.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
) -> None:
    """Measure, and write it all."""
    rows, versions = [], {}
    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name, artifacts, folder in map(parse, models):
            pictures = [Image.open(image).convert("RGB") for image in some_of(folder, PICTURES)]
            files = write_image_set(pictures, work / f"{name}-images")
            write_web([Path(f"{path.name}={path}") for path in artifacts], work / "site", tell=lambda line: None)
            ours = {path: [answer(load(path), file) for file in files] for path in artifacts}
            for browser in (Marionette, WebKit):
                served = Files(work / "site")
                with tab_of(browser, work / f"{name}-{browser.name}") as (tab, versions[browser.name]):
                    tab.open(served.address)
                    tab.wait_until_offline()
                    served.end()
                    tab.open(served.address)
                    for path in artifacts:
                        rows.append(
                            {"model": name, "precision": load(path).manifest.precision, "browser": browser.name}
                            | compared(files, tab.ask(files, path.name), ours[path])
                        )
                        print(rows[-1], flush=True)
            shutil.rmtree(work / "site")
    write_json(
        out,
        {
            "command": shlex.join(["python", "scripts/measure_browsers.py", *sys.argv[1:]]),
            "machine": machine(),
            "versions": versions | {"onnxruntime_web": VERSION},
            "apart": "as in page.json; all answers are given after the server of the page has ended",
            "same_answers": rows,
        },
    )


def compared(
    files: Sequence[Path], lines: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]
) -> dict[str, object]:
    """How far the answers lie from Python's, by form; and what was refused, with the reason."""
    found: dict[str, list[float]] = {}
    refused = {}
    for file, line, own in zip(files, lines, ours, strict=True):
        if "error" in line:
            refused[file.name] = line["error"]
        else:
            found.setdefault(form_of(file), []).append(apart(own, line))
    return {"images": len(files), "answered": largest(found), "refused": refused}


if __name__ == "__main__":
    typer.run(main)
