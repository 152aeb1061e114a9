"""`leanmed serve` in a process of its own."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120.0


@contextmanager
def serving(artifacts: Sequence[Path], folder: Path, *options: str) -> Iterator[int]:
    """The port of a server with one worker, whose log goes into a folder."""
    port = free_port()
    words = ["serve", *map(str, artifacts), "--port", str(port), "--workers", "1", *options]
    log = folder / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "leanmed", *words], stdout=file, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_SECONDS
            while not is_up(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(log.read_text())
                time.sleep(0.1)
            yield port
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def is_up(port: int) -> bool:
    """Whether the server says that it can answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
