"""What stands between the network and the answers: who may ask, from where, how much, how long and how many at once.

It is a layer of ASGI, so that nothing of a request is kept before it was let in.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refusal = tuple[int, str, dict[str, str]]
"""Status, reason and headers."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = frozenset({"/healthz"})  # needs no token: a probe has none, and it tells nothing
DRAIN_SECONDS = 5.0  # for which a refused body is taken
HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+))(?::\d{1,5})?")
AGAIN = {"retry-after": "1"}


class TooMuch(Exception):
    """The body is larger than it may be."""


class TooSlow(Exception):
    """The body took longer than it may."""


@dataclass(frozen=True)
class Rules:
    """Who may ask, and how much.

    Args:
        hosts: names by which the server may be called, without port; others are refused, so that a page elsewhere
            cannot reach it by a name of its own (DNS rebinding).
        token: what a client must show; empty: nothing.
        max_bytes: of a body.
        seconds: for a body to arrive.
        at_once: requests for answers that are let in at a time; the others are told to come again.
    """

    hosts: frozenset[str] = LOOPBACK
    token: str = ""
    max_bytes: int = 64 * 2**20
    seconds: float = 30.0
    at_once: int = 16


def host_of(value: str) -> str:
    """The name in a Host header, without its port; empty: it is no such header."""
    found = HOST.fullmatch(value)
    return (found[1] or found[2]).lower() if found else ""


def log_line(content: dict[str, Any]) -> None:
    """A line of the server's log, on standard error."""
    print(json.dumps({"time": round(time.time(), 3), **content}), file=sys.stderr, flush=True)


class Guard:
    """Lets in what the rules allow, and logs every request without names, paths or pixels.

    Args:
        app: what stands behind it.
        rules: see there.
        routes: the paths that a log may name; any other is `other`.
        answers: the one that takes images.
        log: takes what a line of the log holds.
        seen: is told method, route, status and seconds of every request.
    """

    def __init__(
        self,
        app: App,
        rules: Rules,
        routes: Iterable[str],
        answers: str,
        *,
        log: Callable[[dict[str, Any]], None] = log_line,
        seen: Callable[[str, str, int, float], None] = lambda method, route, status, seconds: None,
    ) -> None:
        self.app, self.rules, self.routes, self.answers = app, rules, frozenset(routes), answers
        self.log, self.seen = log, seen
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        started, body, answered = time.perf_counter(), _Body(scope, receive, self.rules), _Answered(send)
        fault = {}
        try:
            await self._let_in(scope, body, answered)
        except ConnectionError:
            pass  # the client is gone, and nobody waits for an answer
        except Exception as error:  # whatever it is, its words may tell of the request
            fault = {"fault": type(error).__name__}
            if answered.status == GONE:
                await _refuse(answered, 500, "the server failed on this request", {})
        route = scope["path"] if scope["path"] in self.routes else "other"
        seconds = time.perf_counter() - started
        self.seen(scope["method"], route, answered.status, seconds)
        told = {"method": scope["method"], "route": route, "status": answered.status}
        self.log(told | {"seconds": round(seconds, 4), "bytes": body.bytes} | fault)

    async def _let_in(self, scope: Scope, body: _Body, answered: _Answered) -> None:
        refused = self._refused(scope)
        if not refused and scope["method"] == "POST" and scope["path"] == self.answers:
            refused = await self._within_number(scope, body, answered)
        elif not refused:
            await self.app(scope, body.receive, answered)
        if refused:
            await body.drain()
            await _refuse(answered, *refused)

    async def _within_number(self, scope: Scope, body: _Body, answered: _Answered) -> Refusal | None:
        if self.inside >= self.rules.at_once:
            return 503, "the server is busy; come again in a second", AGAIN
        self.inside += 1
        try:
            replayed = _Replayed(await body.whole(), body.receive)
            await self.app(scope, replayed, answered)
        except TooMuch:
            return 413, f"expected a body of at most {self.rules.max_bytes:,} bytes, got more; send a smaller image", {}
        except TooSlow:
            return 408, f"expected the whole body within {self.rules.seconds:g} seconds; send it again", {}
        finally:
            self.inside -= 1
        return None

    def _refused(self, scope: Scope) -> Refusal | None:
        """Why a request is not let in; None: it is."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        host = headers.get("host", "")
        if len(hosts) != 1 or host_of(host) not in self.rules.hosts:
            return 421, "expected a name that this server is called by, got another one; see --allow-host", {}
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if (origin is not None and _place(origin) != host.lower()) or site in ("cross-site", "same-site"):
            return 403, "expected a request from a page of this server, got one from elsewhere", {}
        is_open = not self.rules.token or scope["path"] in OPEN
        if not is_open and not _shows(headers.get("authorization", ""), self.rules.token):
            ask = {"www-authenticate": "Basic"}
            return 401, "expected the server's token; send it as Authorization: Bearer TOKEN", ask
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.rules.max_bytes:
            most = f"{self.rules.max_bytes:,}"
            return 413, f"expected a body of at most {most} bytes, got another length; send a smaller image", {}
        return None


def _place(origin: str) -> str:
    """Name and port of an origin; empty: it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _shows(authorization: str, token: str) -> bool:
    """Whether a header carries the token: as a bearer's, or as the password that a browser asks for."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, or no text
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(value.encode(), token.encode())


class _Body:
    """A body that is received within its limits of bytes and time."""

    def __init__(self, scope: Scope, receive: Receive, rules: Rules) -> None:
        self.receive, self.rules, self.bytes = receive, rules, 0
        expects = any(name.lower() == b"expect" for name, _ in scope["headers"])
        self.more, self.waits = True, expects  # a client that waits for leave to send is told no without its body

    async def whole(self) -> bytes:
        """All of it.

        Raises:
            TooMuch, TooSlow, ConnectionError: it is not to be had.
        """
        end, parts = time.monotonic() + self.rules.seconds, []
        self.waits = False
        while self.more:
            try:
                message = await asyncio.wait_for(self.receive(), max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                raise TooSlow from error
            if message["type"] == "http.disconnect":
                self.more = False
                raise ConnectionError
            parts.append(message.get("body", b""))
            self.bytes += len(parts[-1])
            self.more = message.get("more_body", False)
            if self.bytes > self.rules.max_bytes:
                raise TooMuch
        return b"".join(parts)

    async def drain(self) -> None:
        """Take what still comes and forget it, up to a bound: who is cut off while sending sees no answer."""
        left, end = self.rules.max_bytes, time.monotonic() + DRAIN_SECONDS
        with suppress(TimeoutError):
            while self.more and left > 0 and not self.waits:
                message = await asyncio.wait_for(self.receive(), max(0.0, end - time.monotonic()))
                left -= len(message.get("body", b"")) + 1
                self.more = message["type"] == "http.request" and message.get("more_body", False)


class _Replayed:
    """Gives a body that was received already, once, and then what the client does next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


GONE = 499  # nothing was sent: the client was gone


class _Answered:
    """Sends, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self.send, self.status = send, GONE

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


async def _refuse(send: Send, status: int, reason: str, headers: dict[str, str]) -> None:
    body = json.dumps({"error": reason}).encode()
    about = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    pairs = [(name.encode(), value.encode()) for name, value in about.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
