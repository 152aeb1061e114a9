"""`leanmed serve` in a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from leanmed.errors import DataError
from leanmed.runtime.batch import answer as answer_file
from leanmed.runtime.predictor import load
from leanmed.serving.command import Settings, make_server, read_token, serve

BOUNDARY = "xxBOUNDARYxx"


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def form(content: bytes, name: str = "image", **fields: str) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="../../etc/x.png"\r\n\r\n'
    return b"".join([*parts, head.encode(), content, f"\r\n--{BOUNDARY}--\r\n".encode()])


FORM = {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def server(
    tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, subprocess.Popen[str], Path]]:
    """Port and process of a server of two artifacts, and the file of its log."""
    root = tmp_path_factory.mktemp("serve")
    for name in ("eyes", "other"):
        shutil.copytree(tiny_artifact, root / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "eyes", "other", "--port", str(port), "--workers", "2", "--max-megabytes", "1"]
    log = root / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "leanmed", *words], cwd=root, stdout=file, stderr=subprocess.STDOUT, text=True
        )
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if ask(port, "GET", "/healthz")[0] == 200:
                break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    yield port, process, log
    process.kill()
    process.wait()


Running = tuple[int, subprocess.Popen[str], Path]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {k: v for k, v in one.items() if k not in ("input", "seconds")} == {
        k: v for k, v in other.items() if k not in ("input", "seconds")
    }


def test_an_image_in_the_body_or_in_a_form_gets_the_line_of_predict(
    server: Running, tiny_artifact: Path, photographs: list[Path]
) -> None:
    port, content = server[0], photographs[4].read_bytes()
    line = answer_file(load(tiny_artifact), photographs[4])
    for body, headers in ((content, {}), (form(content), FORM), (form(content, artifact="other"), FORM)):
        status, about, answer = ask(port, "POST", "/v1/predict", body, **headers)
        assert status == 200, answer
        assert same(json.loads(answer), line)
        assert about["cache-control"] == "no-store"
        assert about["x-content-type-options"] == "nosniff"


def test_the_drawing_is_given_on_demand(server: Running, photographs: list[Path]) -> None:
    status, about, answer = ask(server[0], "POST", "/v1/predict?form=png", photographs[4].read_bytes())
    assert (status, about["content-type"]) == (200, "image/png")
    assert answer.startswith(b"\x89PNG")


def test_a_person_gets_a_page_with_the_notice_the_answer_and_the_drawing(
    server: Running, photographs: list[Path]
) -> None:
    status, about, answer = ask(
        server[0], "POST", "/v1/predict", form(photographs[4].read_bytes(), form="page"), **FORM
    )
    text = answer.decode()
    assert (status, about["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Research use only. Not a medical device." in text
    assert "src='data:image/png;base64," in text
    assert "probability of the positive label" in text
    wrong = form(b"<script>alert(1)</script>", form="page", artifact="<b>")
    status, _, answer = ask(server[0], "POST", "/v1/predict", wrong, **FORM)
    assert status == 404
    assert "&lt;b&gt;" in answer.decode()
    assert "<b>" not in answer.decode()


@pytest.mark.parametrize(
    ("body", "headers", "path", "status", "said"),
    [
        (b"no image at all", {}, "/v1/predict", 422, "expected"),
        (b"", {}, "/v1/predict", 400, "expected an image as the body, got none"),
        (b"x", {}, "/v1/predict?artifact=third", 404, "expected artifact among eyes, other"),
        (b"x", {}, "/v1/predict?form=exe", 404, "form among json, png, mask, page"),
        (form(b"x", name="file"), FORM, "/v1/predict", 400, "the form's field `image`, got none"),
        (b"--broken", FORM, "/v1/predict", 400, "expected a f"),
        (b"x" * 1_000_001, {}, "/v1/predict", 413, "at most 1,000,000 bytes"),
        (b"x", {"origin": "http://evil.example"}, "/v1/predict", 403, "from elsewhere"),
        (b"x", {"host": "evil.example"}, "/v1/predict", 421, "--allow-host"),
        (b"", {}, "/nothing", 404, "openapi.json"),
    ],
)
def test_bad_requests_get_a_status_and_one_sentence(
    body: bytes, headers: dict[str, str], path: str, status: int, said: str, server: Running
) -> None:
    found, about, answer = ask(server[0], "POST", path, body, **headers)
    assert (found, about["content-type"]) == (status, "application/json")
    assert said in json.loads(answer)["error"]


def test_the_page_is_that_of_leanmed_web_and_asks_this_server(server: Running) -> None:
    status, about, answer = ask(server[0], "GET", "/")
    text = answer.decode()
    assert (status, about["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in about["content-security-policy"]
    assert "frame-ancestors 'none'" in about["content-security-policy"]
    assert "Research use only. Not a medical device." in text
    assert not re.search(r"(src|href)=\"?https?:", text), "the page loads nothing from elsewhere"
    site = json.loads(ask(server[0], "GET", "/site.json")[2])
    assert site["server"] is True
    assert [model["name"] for model in site["models"]] == ["eyes", "other"]
    assert site["limits"] == {"max_bytes": 10**6, "max_pixels": 50 * 10**6}
    for place, kind in {
        "app.js": "text/javascript",
        "style.css": "text/css",
        "words/en.json": "application/json",
    }.items():
        status, about, _ = ask(server[0], "GET", f"/{place}")
        assert (status, about["content-type"].partition(";")[0]) == (200, kind)


def test_a_form_without_scripts_shows_the_notice_and_what_is_known_of_each_artifact(server: Running) -> None:
    status, about, answer = ask(server[0], "GET", "/form")
    text = answer.decode()
    assert status == 200
    assert "default-src 'none'" in about["content-security-policy"]
    # With `no-referrer` a browser would send the page's own form with `Origin: null`, which is refused.
    assert about["referrer-policy"] == "same-origin"
    assert "Research use only. Not a medical device." in text
    assert "<h2>eyes</h2>" in text
    assert "<option value='other'>" in text
    assert not re.search(r"(src|href)=\"?https?:", text), "the page loads nothing from elsewhere"


def test_health_metrics_and_description(server: Running) -> None:
    port = server[0]
    assert json.loads(ask(port, "GET", "/healthz")[2]) == {"status": "ok", "workers": 2}
    described = json.loads(ask(port, "GET", "/openapi.json")[2])
    assert described["openapi"].startswith("3.1")
    assert described["paths"]["/v1/predict"]["post"]["parameters"][0]["schema"]["enum"] == ["eyes", "other"]
    ask(port, "GET", "/some/path/with/a/name")
    metrics = ask(port, "GET", "/metrics")[2].decode()
    assert 'leanmed_requests_total{method="GET",route="/healthz",status="200"}' in metrics
    assert 'route="other",status="404"' in metrics
    assert "name" not in metrics.replace("# HELP", "")
    assert ask(port, "PUT", "/v1/predict")[0] == 405


def test_a_killed_worker_loses_nothing_but_its_own_request(server: Running, photographs: list[Path]) -> None:
    port, process, _ = server
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    content = photographs[2].read_bytes()
    statuses = [ask(port, "POST", "/v1/predict", content)[0] for _ in range(4)]
    assert statuses.count(200) >= 2
    assert set(statuses) <= {200, 500}
    end = time.monotonic() + 60
    while json.loads(ask(port, "GET", "/healthz")[2])["workers"] < 2:
        assert time.monotonic() < end, "workers that die are started anew, without a request"
        time.sleep(0.2)


def test_the_log_has_a_line_of_json_for_each_request_and_names_nothing(
    server: Running, photographs: list[Path]
) -> None:
    port, _, log = server
    ask(port, "POST", "/v1/predict", form(photographs[1].read_bytes()), **FORM)
    ask(port, "GET", "/patients/smith.png")
    end, lines = time.monotonic() + 20, []
    while not any(line["route"] == "/v1/predict" and line["bytes"] > 100 for line in lines):
        assert time.monotonic() < end, "a line is written when its request is over"
        time.sleep(0.1)
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    page = {"/", "/form", "/site.json", "/app.js", "/style.css", "/words/en.json"}
    known = {"/v1/predict", "/healthz", "/metrics", "/openapi.json", "other"}
    assert {line["route"] for line in lines} <= page | known
    assert "smith" not in log.read_text()
    assert "etc" not in log.read_text()


def test_it_answers_what_was_begun_and_ends(
    tiny_artifact: Path, photographs: list[Path], tmp_path: Path, server: Running
) -> None:
    port, process, log = server
    assert ask(port, "POST", "/v1/predict", photographs[0].read_bytes())[0] == 200
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert "Traceback" not in log.read_text()
    assert "Research use only" in log.read_text()


def test_others_are_served_with_a_token_only(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected --token-file beside --host 0\.0\.0\.0"):
        make_server([tiny_artifact], Settings(host="0.0.0.0"))
    token = tmp_path / "token"
    token.write_text("short\n")
    with pytest.raises(DataError, match="expected a token of 16 plain characters or more"):
        read_token(token)
    token.write_text("0123456789abcdef\n")
    assert (
        make_server([tiny_artifact], Settings(host="192.0.2.2", token=read_token(token)))[1].token == "0123456789abcdef"
    )
    with pytest.raises(DataError, match=r"expected --token-file .* to hold a line of text"):
        read_token(tmp_path / "none")
    with pytest.raises(DataError, match="expected --token-file beside --allow-host"):
        make_server([tiny_artifact], Settings(names=["ward.local"]))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DataError, match=r"expected to listen on 127.0.0.1, port .*; choose another --port"):
            serve([tiny_artifact], Settings(port=taken.getsockname()[1]))
    named, _ = make_server([tiny_artifact, Path(f"other={tiny_artifact}")], Settings())
    assert list(named.artifacts) == [tiny_artifact.name, "other"]
    with pytest.raises(DataError, match="expected artifacts of different names"):
        make_server([tiny_artifact, tiny_artifact], Settings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_to_listen_everywhere_takes_a_name_by_which_others_call(host: str, tiny_artifact: Path, tmp_path: Path) -> None:
    settings = Settings(host=host, token="0123456789abcdef")
    with pytest.raises(DataError, match="--allow-host ward-pc"):
        make_server([tiny_artifact], settings)
    assert "ward-pc" in make_server([tiny_artifact], replace(settings, names=["ward-pc"]))[1].hosts
