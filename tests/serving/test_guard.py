"""What is let in, and what is told to those that are not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from leanmed.serving.guard import Guard, Rules, host_of

TOKEN = "a-secret-of-some-length"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """In place of the routes: gives the body back."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message.get("body", b"")})


def asked(
    rules: Rules,
    *,
    headers: dict[str, str] | None = None,
    body: Sequence[bytes] = (b"",),
    method: str = "POST",
    path: str = "/v1/predict",
    app: Any = echo,
    stalls: bool = False,
) -> tuple[int, dict[str, str], bytes, dict[str, Any]]:
    """Status, headers and body of the answer, and what was logged."""
    parts, sent, logged = list(body), [], []

    async def receive() -> dict[str, Any]:
        if not parts:
            if stalls:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or stalls}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    about = {"host": "127.0.0.1:8000"} | (headers or {})
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in about.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    guard = Guard(app, rules, ["/v1/predict", "/healthz"], "/v1/predict", log=logged.append)
    asyncio.run(guard(scope, receive, send))
    status = sent[0]["status"] if sent else 0
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]} if sent else {}
    return status, found, b"".join(m.get("body", b"") for m in sent[1:]), logged[0]


def test_a_body_within_the_limits_comes_through_whole() -> None:
    status, _, body, log = asked(Rules(max_bytes=6), body=[b"abc", b"def"])
    assert (status, body) == (200, b"abcdef")
    assert (log["status"], log["bytes"], log["route"]) == (200, 6, "/v1/predict")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "ward.local"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": ""}, 421),
        ({"host": "127.0.0.1/evil"}, 421),
        ({"host": "a@127.0.0.1"}, 421),
        ({"host": "["}, 421),
        ({"host": "[smith-john]"}, 421),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "http://["}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_host_and_origin_must_be_names_of_this_server(headers: dict[str, str], status: int) -> None:
    rules = Rules(hosts=Rules().hosts | {"ward.local"})
    assert asked(rules, headers=headers)[0] == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Token {TOKEN}", 401),
        ("Basic " + base64.b64encode(f"anyone:{TOKEN}".encode()).decode(), 200),
        ("Basic " + base64.b64encode(b"anyone:wrong").decode(), 401),
        ("Basic %%%", 401),
        ("Basic \u00e9", 401),
    ],
)
def test_a_token_must_be_shown_where_there_is_one(authorization: str, status: int) -> None:
    found, headers, _, _ = asked(Rules(token=TOKEN), headers={"authorization": authorization})
    assert found == status
    assert ("www-authenticate" in headers) == (status == 401)


def test_a_probe_of_health_needs_no_token() -> None:
    assert asked(Rules(token=TOKEN), method="GET", path="/healthz")[0] == 200


def test_a_body_that_says_or_turns_out_to_be_too_large_is_refused() -> None:
    assert asked(Rules(max_bytes=5), headers={"content-length": "6"})[0] == 413
    assert asked(Rules(max_bytes=5), headers={"content-length": "-1"})[0] == 413
    status, _, body, log = asked(Rules(max_bytes=5), body=[b"abc", b"def"])
    assert (status, log["status"]) == (413, 413)
    assert json.loads(body)["error"] == "expected a body of at most 5 bytes, got more; send a smaller image"


def test_a_slow_client_is_told_so() -> None:
    status, _, body, _ = asked(Rules(seconds=0.05), body=[b"abc"], stalls=True)
    assert status == 408
    assert b"within 0.05 seconds" in body


def test_a_client_that_goes_away_half_way_gets_nothing_and_harms_nothing() -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the routes see whole bodies only")

    parts = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return parts.pop(0)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    logged: list[Any] = []
    guard = Guard(cut, Rules(), [], "/secret-name.jpg", log=logged.append)
    scope = {"type": "http", "method": "POST", "path": "/secret-name.jpg", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard(scope, receive, send))
    assert sent == []
    assert guard.inside == 0
    assert "secret" not in str(logged[0])
    assert logged[0]["route"] == "other"


def test_more_at_once_than_may_be_are_told_to_come_again() -> None:
    async def both() -> list[int]:
        gate, statuses = asyncio.Event(), []

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await echo(scope, receive, send)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append((message["status"], dict(message["headers"]).get(b"retry-after")))

        guard = Guard(slow, Rules(at_once=1), [], "/", log=lambda line: None)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}
        first = asyncio.create_task(guard(scope, receive, send))
        await asyncio.sleep(0)
        await guard(scope, receive, send)
        gate.set()
        await first
        await guard(scope, receive, send)
        return statuses

    assert asyncio.run(both()) == [(503, b"1"), (200, None), (200, None)]


@pytest.mark.parametrize(
    ("header", "name"), [("A.local:80", "a.local"), ("[::1]:80", "::1"), ("user@x", ""), ("", ""), ("::bad::", "")]
)
def test_a_name_is_read_without_its_port(header: str, name: str) -> None:
    assert host_of(header) == name


def test_a_fault_behind_the_guard_is_told_by_its_kind_alone() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("patient smith")

    status, _, body, log = asked(Rules(), app=broken)
    assert (status, log["fault"]) == (500, "ValueError")
    assert b"smith" not in body
    assert "smith" not in str(log)


def test_two_hosts_are_refused() -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(b"host", b"localhost"), (b"host", b"evil.example")]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": pairs}
    asyncio.run(Guard(echo, Rules(), [], "/v1/predict", log=lambda line: None)(scope, receive, send))
    assert sent[0]["status"] == 421
