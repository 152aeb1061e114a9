"""DICOMweb servers that redirect, say nothing, or give something else than they were asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from node_bench import Bench
from node_fixtures import STUDY, wedge_series
from pydicom import dcmread

from leanmed.dicom_node.config import Rule, Server
from leanmed.dicom_node.dicomweb import NotReached, fetch, stow
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.listen import Held
from leanmed.dicom_node.multipart import boundary_of, message, parts
from leanmed.dicom_node.web import Web
from leanmed.runtime.predictor import Predictor

Reply = tuple[int, dict[str, str], bytes]
RULES = [Rule(artifact="bright", modality="CT")]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@contextmanager
def answering(reply: Callable[[str, str], Reply]) -> Iterator[tuple[Server, list[tuple[str, str | None]]]]:
    """A server by a function of method and path, and what it was asked: path and authorization."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = reply(self.command, self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *about: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(url=f"http://127.0.0.1:{server.server_port}/dicom-web"), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def referenced(files: list[Path]) -> bytes:
    items = [{"00081155": {"vr": "UI", "Value": [str(dcmread(path).SOPInstanceUID)]}} for path in files]
    return json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_by_nothing(slices: list[Path], tmp_path: Path, status: int) -> None:
    (tmp_path / "token").write_text("Bearer secret")
    with answering(lambda *about: (200, {}, b"")) as (other, seen):
        with answering(lambda *about: (status, {"Location": other.url}, b"")) as (server, _):
            server = server.model_copy(update={"authorization_file": tmp_path / "token"})
            with pytest.raises(NotReached, match=f"the server answered {status}"):
                stow(server, [slices[0].read_bytes()])
        assert not seen


@pytest.mark.parametrize("named", [0, 1])
def test_what_a_server_does_not_name_as_stored_was_not_stored(slices: list[Path], named: int) -> None:
    body = referenced(slices[:named]) if named else b""
    missing = f"does not say that it stored {2 - named} objects"
    with answering(lambda *about: (200, {}, body)) as (server, _), pytest.raises(NotReached, match=missing):
        stow(server, [path.read_bytes() for path in slices[:2]])


def test_what_a_server_names_as_stored_was_stored(slices: list[Path]) -> None:
    with answering(lambda *about: (200, {}, referenced(slices))) as (server, asked):
        stow(server, [path.read_bytes() for path in slices])
        assert [path for path, _ in asked] == ["/dicom-web/studies"]


def archive(files: list[Path], given: list[bytes], cut: bool = False) -> Callable[[str, str], Reply]:
    """Replies with the series of files, and gives objects for it, perhaps not to the end."""
    uid = str(dcmread(files[0]).SeriesInstanceUID)
    kind, body = message(given)

    def reply(method: str, path: str) -> Reply:
        if "series?" in path:
            return 200, {}, json.dumps([{"00080060": {"Value": ["CT"]}, "0020000E": {"Value": [uid]}}]).encode()
        return 200, {"Content-Type": kind}, body[: len(body) // 2] if cut else body

    return reply


def test_a_study_that_came_half_is_not_answered_until_the_rest_came(
    tmp_path: Path, predictors: dict[str, Predictor], slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [path.read_bytes() for path in slices]
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": 4242}
    with answering(archive(slices, contents, cut=True)) as (half, _), answering(archive(slices, contents)) as (all_, _):
        bench = Bench(tmp_path, predictors, peer, source=half.model_dump())
        monkeypatch.setattr(bench.node.patience, "is_over", lambda name: True)
        bench.store.want(STUDY)
        bench.node.fetch_due()
        assert 0 < len(bench.series.files) < 6
        bench.store.want(STUDY)  # somebody asks again
        bench.node.answer_due()
        assert bench.series.state == "received"
        again = Store(bench.store.root, 10**8)
        assert again.is_awaited(bench.series.id), "a node that starts again knows of it"
        bench.node.config = bench.config.model_copy(update={"source": all_})
        bench.node.fetch_due()
        bench.node.answer_due()
        assert bench.series.state == "answered"
        assert len(bench.series.files) == 6
        bench.listener.stop()


def test_objects_of_another_study_are_not_taken(inbox: Store, slices: list[Path], tmp_path: Path) -> None:
    other = wedge_series(tmp_path / "other", slices=1, StudyInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3.5")
    replies = archive(slices, [other[0].read_bytes()])
    with answering(replies) as (server, _), pytest.raises(NotReached, match="another study or series"):
        fetch(server, STUDY, RULES, inbox)
    assert not list(inbox.all())


def test_a_request_holds_its_series_while_it_is_read(inbox: Store, slices: list[Path]) -> None:
    held = Held()
    kind, body = message(path.read_bytes() for path in slices)
    put, seen = inbox.put, []

    def watched(*about: Any, **named: Any) -> Any:
        received = put(*about, **named)
        seen.append(held.holds(received.series))
        return received

    inbox.put = watched  # type: ignore[method-assign]
    kept, failed = Web(inbox, False, dict, held)._keep(body, boundary_of(kind))
    assert (len(kept), failed, seen) == (6, 0, [True] * 6)
    assert not held.holds(kept[0].series)


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_a_message_may_have_a_preamble(size: int) -> None:
    kind, body = message([b"one", b"two"])
    for whole in (body, b"\r\n" + body, b"This is a message of several parts.\r\n\r\n" + body):
        chunks = [whole[k : k + size] for k in range(0, len(whole), size)]
        assert list(parts(chunks, boundary_of(kind), 100)) == [b"one", b"two"]
