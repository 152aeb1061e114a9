"""What `leanmed serve` does: check, open the artifacts in workers, and listen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from leanmed.errors import DataError
from leanmed.reading.raster import Limits
from leanmed.runtime.artifact import read_artifact
from leanmed.serving.app import Pool, Server
from leanmed.serving.guard import LOOPBACK, Guard, Rules
from leanmed.serving.workers import Worker

LEAST_TOKEN = 16  # characters
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


def make_app(artifacts: Sequence[Path], settings: Settings) -> Guard:
    """The server as ASGI; its workers start with its lifespan.

    Raises:
        ArtifactError: one of the artifacts is none, or damaged.
        DataError: two have one name, or the server would listen to others without a token.
    """
    if settings.host not in LOOPBACK and not settings.token:
        raise DataError(
            f"expected --token-file beside --host {settings.host}, where others can reach the server, got none; write "
            "a token into a file and name it, or listen on 127.0.0.1"
        )
    named = {path.resolve().name: path.resolve() for path in artifacts}
    if len(named) < len(artifacts):
        raise DataError("expected artifacts in folders of different names, by which clients choose; rename one")
    manifests = {name: read_artifact(path).manifest for name, path in named.items()}
    limits = Limits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    workers = [Worker(named, limits, settings.refuse_unfamiliar) for _ in range(settings.workers)]
    rules = Rules(
        hosts=LOOPBACK | {name.lower() for name in (settings.host, *settings.names)},
        token=settings.token,
        max_bytes=settings.max_bytes,
        seconds=settings.seconds,
        at_once=settings.workers + settings.waiting,
    )
    return Server(manifests, Pool(workers, settings.seconds), settings.max_bytes).app(rules)


def serve(artifacts: Sequence[Path], settings: Settings, tell: Callable[[str], None] = print) -> None:
    """Serve until the process is told to stop; then answer what was begun, and end.

    Args:
        artifacts: folders; at least one.
        settings: how.
        tell: takes one line at a time.

    Raises:
        As `make_app`.
    """
    app = make_app(artifacts, settings)
    tell(f"http://{settings.host}:{settings.port}   Research use only: not a medical device.   Ctrl-C ends it.")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.seconds) + 5,
        h11_max_incomplete_event_size=2**16,
    )
