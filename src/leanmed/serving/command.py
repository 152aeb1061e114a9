"""What `leanmed serve` does: check, open the artifacts in workers, and listen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from leanmed.errors import DataError
from leanmed.reading.raster import Limits
from leanmed.runtime.artifact import read_artifact
from leanmed.serving.app import Pool, Server
from leanmed.serving.guard import LOOPBACK, App, Rules
from leanmed.serving.workers import Worker
from leanmed.web.site import named_folder

LEAST_TOKEN = 16  # characters
CONNECTIONS = 256  # at a time; more are told to come again
HEADER_SECONDS, KEPT_ALIVE = 15.0, 15  # for a request's first lines, and between two requests
MEGABYTE = 10**6


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Args:
        host, port: where to listen.
        names: by which the server may be called besides loopback's and `host`.
        token: what clients must show; empty: nothing, which loopback alone allows.
        workers: processes that answer.
        waiting: requests that may wait besides those that are answered.
        seconds: for a body to arrive, and for an answer to be made.
        max_bytes: of a body.
        max_pixels: of an image.
        refuse_unfamiliar: give no answer to images unlike the training images.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: Sequence[str] = ()
    token: str = ""
    workers: int = 1
    waiting: int = 16
    seconds: float = 30.0
    max_bytes: int = 64 * MEGABYTE
    max_pixels: int = 50_000_000
    refuse_unfamiliar: bool = False


def read_token(file: Path) -> str:
    """The token that a file holds.

    Raises:
        DataError: it is too short to be a secret, or no text.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected --token-file {file} to hold a line of text, got none: {error}; mend that") from error
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise DataError(
            f"expected a token of {LEAST_TOKEN} plain characters or more in {file}, got {len(token)}; make one, for "
            "example with: openssl rand -hex 32"
        )
    return token


def make_server(artifacts: Sequence[Path], settings: Settings) -> tuple[Server, Rules]:
    """The server, whose workers are not started yet, and its rules.

    Raises:
        ArtifactError: one of the artifacts is none, or damaged.
        DataError: two have one name, or the server would answer others without a token.
    """
    if settings.host not in LOOPBACK and not settings.token:
        raise DataError(
            f"expected --token-file beside --host {settings.host}, where others can reach the server, got none; write "
            "a token into a file and name it, or listen on 127.0.0.1"
        )
    if settings.names and not settings.token:
        raise DataError(
            "expected --token-file beside --allow-host, since others then reach the server, if through a proxy, "
            "got none; write a token into a file and name it"
        )
    named = named_artifacts(artifacts)
    read = {name: read_artifact(path).model_copy(update={"graphs": {}}) for name, path in named.items()}
    limits = Limits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    workers = [Worker(named, limits, settings.refuse_unfamiliar) for _ in range(settings.workers)]
    rules = Rules(
        hosts=LOOPBACK | {name.lower() for name in (settings.host, *settings.names)},
        token=settings.token,
        max_bytes=settings.max_bytes,
        seconds=settings.seconds,
        at_once=settings.workers + settings.waiting,
    )
    return Server(read, Pool(workers, settings.seconds), limits, settings.refuse_unfamiliar), rules


def named_artifacts(artifacts: Sequence[Path]) -> dict[str, Path]:
    """Name -> folder, of what is given as NAME=FOLDER or as a folder, whose name is the artifact's.

    Raises:
        DataError: two have one name.
    """
    pairs = [(name or folder.name, folder) for name, folder in map(named_folder, artifacts)]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise DataError(
            "expected artifacts of different names, by which clients choose, got one twice; name them, such as "
            "eyes=eyes/artifact lungs=lungs/artifact"
        )
    return named


def serve(artifacts: Sequence[Path], settings: Settings, tell: Callable[[str], None] = print) -> None:
    """Serve until the process is told to stop; then answer what was begun, and end.

    Args:
        artifacts: folders; at least one.
        settings: how.
        tell: takes one line at a time.

    Raises:
        ArtifactError, DataError: as `make_server`; the address is taken, or is not this computer's; or a worker cannot
            open an artifact.
    """
    server, rules = make_server(artifacts, settings)
    listening = listen_at(settings.host, settings.port)  # before the artifacts are opened, which takes seconds
    server.pool.start()
    name = (*settings.names, settings.host)[0]
    tell(f"answers by {', '.join(server.artifacts)}")
    tell(f"http://{name}:{settings.port}   Research use only: not a medical device.   Ctrl-C ends it.")
    try:
        uvicorn.Server(web_config(server.app(rules), settings.seconds)).run(sockets=[listening])
    finally:
        server.pool.stop()


def web_config(app: App, seconds: float) -> uvicorn.Config:
    """How uvicorn runs an app behind the guard, whose answers take so many seconds at most."""
    return uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        lifespan="on",
        workers=1,
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEPT_ALIVE,
        timeout_graceful_shutdown=int(3 * seconds) + 5,
    )


def listen_at(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        DataError: the address is taken, or is not this computer's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends without delay; else a client waits 40 ms for the second half of an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise DataError(
            f"expected to listen on {host}, port {port}, got: {error.strerror or error}; choose "
            "another --port, or an address of this computer as --host"
        ) from error
    return listening


class Impatient(H11Protocol):
    """HTTP that ends a connection whose client does not say what it wants, or does not take what it asked for."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait(HEADER_SECONDS)

    def handle_events(self) -> None:
        """A request may have come whole."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait(None)

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the answer to be taken."""
        super().on_response_complete()
        self._wait(KEPT_ALIVE + HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._wait(None)
        super().connection_lost(exc)

    def _wait(self, seconds: float | None) -> None:
        """End the connection after so many seconds from now; None: not at all."""
        if self._patience:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
