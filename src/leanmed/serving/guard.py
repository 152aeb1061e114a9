"""What stands between the network and the answers: who may ask, from where, how much, how long and how many at once.

It is a layer of ASGI, so that nothing of a request is kept before it was let in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
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
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
DRAINED, DRAIN_SECONDS = 16 * 2**20, 5.0  # bytes of a refused body that are taken, and for how long
OPEN = frozenset({"/healthz"})  # needs no token: a probe has none, and it tells nothing


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
    """The name in a Host header, or in an origin's part after `//`, without its port."""
    return (urlsplit(f"//{value}").hostname or "").lower()


class Guard:
    """Lets in what the rules allow, and logs every request without names, paths or pixels.

    Args:
        app: what stands behind it.
        rules: see there.
        routes: the paths that a log may name; any other is `other`.
        log: takes one line of JSON; None: it goes to standard error.
        seen: is told method, route, status and seconds of every request.
    """

    def __init__(
        self,
        app: App,
        rules: Rules,
        routes: Iterable[str],
        *,
        log: Callable[[str], None] | None = None,
        seen: Callable[[str, str, int, float], None] = lambda method, route, status, seconds: None,
    ) -> None:
        self.app, self.rules, self.routes = app, rules, frozenset(routes)
        self.log, self.seen = log or _to_stderr, seen
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, counted = time.perf_counter(), _Counted(receive, self.rules)
        answered = _Answered(send)
        try:
            refused = self._refused(scope)
            if refused:
                await counted.drain()
                await _refuse(answered, *refused)
            elif scope["method"] == "POST":
                await self._within_number(scope, counted, answered)
            else:
                await self.app(scope, receive, answered)
        except ConnectionError:
            pass  # the client is gone, and nobody waits for an answer
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            seconds = time.perf_counter() - started
            self.seen(scope["method"], route, answered.status, seconds)
            told = {"time": round(time.time(), 3), "method": scope["method"], "route": route, "status": answered.status}
            self.log(json.dumps(told | {"seconds": round(seconds, 4), "bytes": counted.bytes}))

    async def _within_number(self, scope: Scope, counted: _Counted, answered: _Answered) -> None:
        if self.inside >= self.rules.at_once:
            await counted.drain()
            await _refuse(answered, 503, "the server is busy; come again in a second", {"retry-after": "1"})
            return
        self.inside += 1
        try:
            body = await counted.whole()  # before the app sees it, which would answer a fault in it by itself
            await self.app(scope, _Replayed(body, counted.receive), answered)
        except TooMuch:
            await counted.drain()
            most = f"{self.rules.max_bytes:,}"
            await _refuse(answered, 413, f"expected a body of at most {most} bytes, got more; send a smaller image")
        except TooSlow:
            most = f"{self.rules.seconds:g}"
            await _refuse(answered, 408, f"expected the whole body within {most} seconds; send it again")
        finally:
            self.inside -= 1

    def _refused(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Status, reason and headers of a request that is not let in; None: it is."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = host_of(headers.get("host", ""))
        if host not in self.rules.hosts:
            return 421, "expected a name that this server is called by, got another one; see --allow-host", {}
        origin = headers.get("origin")
        if origin is not None and host_of(urlsplit(origin).netloc) not in self.rules.hosts:
            return 403, "expected a request from a page of this server, got one from elsewhere", {}
        if (
            self.rules.token
            and scope["path"] not in OPEN
            and not _shows(headers.get("authorization", ""), self.rules.token)
        ):
            return (
                401,
                "expected the server's token; send it as Authorization: Bearer TOKEN",
                {"www-authenticate": "Basic"},
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.rules.max_bytes:
            return (
                413,
                f"expected a body of at most {self.rules.max_bytes:,} bytes, got {length}; send a smaller image",
                {},
            )
        return None


def _shows(authorization: str, token: str) -> bool:
    """Whether a header carries the token: as a bearer's, or as the password that a browser asks for."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(value.encode(), token.encode())


class _Counted:
    """Receives a body within its limits of bytes and time."""

    def __init__(self, receive: Receive, rules: Rules) -> None:
        self.receive, self.rules, self.bytes = receive, rules, 0
        self.more = True

    async def whole(self) -> bytes:
        """All of it.

        Raises:
            TooMuch, TooSlow, ConnectionError: it is not to be had.
        """
        end, parts = time.monotonic() + self.rules.seconds, []
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
        """Take what still comes of a body and forget it, up to a bound: who is cut off while sending sees no answer."""
        left, end = DRAINED, time.monotonic() + DRAIN_SECONDS
        with suppress(TimeoutError):
            while self.more and left > 0:
                message = await asyncio.wait_for(self.receive(), max(0.0, end - time.monotonic()))
                left -= len(message.get("body", b"")) + 1
                self.more = message["type"] == "http.request" and message.get("more_body", False)


class _Replayed:
    """Gives a body that was received already, and then what the client does next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answered:
    """Sends, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self.send, self.status = send, 499  # nothing was sent: the client was gone

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


async def _refuse(send: Send, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"error": reason}).encode()
    about = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **(headers or {}),
    }
    pairs = [(name.encode(), value.encode()) for name, value in about.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
