"""`leanmed dicom-node` as it is run: killed at any point, asked over DICOMweb, told to end."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from node_fixtures import STUDY, NodeProcess, Pacs, free_port, pacs, store, wait_for, wedge_series, write_config
from pydicom import dcmread
from pydicom.uid import MRImageStorage, generate_uid

from leanmed.dicom_node.command import store_of
from leanmed.dicom_node.config import read_config
from leanmed.dicom_node.multipart import message

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
RULES = [{"artifact": "bright", "modality": "CT", "answers": ["seg", "sr"]}]
RELATED = 'multipart/related; type="application/dicom"; boundary=b'
TOKEN = "0123456789abcdef"


def sent_until_killed(node: NodeProcess, files: list[Path], seconds: float) -> set[str]:
    """The names of the files that were acknowledged before the process was killed, so many seconds after the start."""
    killer = threading.Timer(seconds, node.kill)
    killer.start()
    statuses = store(node.port, files)
    killer.join()
    return {path.name for path, status in zip(files, statuses, strict=False) if status == 0}


def test_what_was_acknowledged_survives_kills_and_is_answered_once(artifacts: dict[str, Path], tmp_path: Path) -> None:
    chance = random.Random(5)
    with pacs() as peer:
        config = write_config(tmp_path / "node.yaml", RULES, peer.peer, pause_seconds=1)
        series = [
            wedge_series(tmp_path / f"ct{k}", slices=12, SeriesInstanceUID=generate_uid(entropy_srcs=[str(k)]))
            for k in range(3)
        ]
        kept = store_of(read_config(config))
        for files in series:
            node = NodeProcess(config, [artifacts["bright"]], tmp_path / "log").wait_until_it_listens()
            acknowledged = sent_until_killed(node, files, chance.uniform(0.1, 2.5))
            on_disk = {str(dcmread(path).SOPInstanceUID) for one in kept.all() for path in one.files}
            wanted = {str(dcmread(path).SOPInstanceUID) for path in files if path.name in acknowledged}
            assert wanted <= on_disk
        node = NodeProcess(config, [artifacts["bright"]], tmp_path / "log").wait_until_it_listens()
        for files in series:
            assert store(node.port, files) == [0] * 12, "the sender sends again what was not acknowledged"
        wait_for(lambda: all(one.state == "sent" and len(one.names) == 12 for one in kept.all()), node.log.read_text())
        node.kill()
        whole = {str(dcmread(p).SOPInstanceUID) for one in kept.all() for p in one.answers.glob("*.dcm")}
        sent = [str(one.SOPInstanceUID) for one in peer.objects]
        assert len(whole) == 6
        assert whole <= set(sent)
        # Of half a series there may have been answers before the rest came: of each set of images one of each form.
        halves = {p.name for one in kept.all() for p in (one.folder / "answers").iterdir() if p.suffix != ".tries"}
        assert len(set(sent)) <= 2 * len(halves)


@pytest.fixture(scope="module")
def peer() -> Iterator[Pacs]:
    with pacs() as made:
        yield made


class Archive(ThreadingHTTPServer):
    """A DICOMweb server with one study of two series, of which one is CT; it fails at the first request."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.objects = [path.read_bytes() for path in files]
        self.series = str(dcmread(files[0]).SeriesInstanceUID)
        self.asked: list[str] = []


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        archive: Any = self.server
        archive.asked.append(self.path)
        rows = [
            {"00080060": {"Value": [modality]}, "0020000E": {"Value": [uid]}}
            for modality, uid in (("CT", archive.series), ("SR", "1.2.3"))
        ]
        if "series?" in self.path:
            self.answer("application/dicom+json", json.dumps(rows).encode())
        elif len([path for path in archive.asked if path == self.path]) == 1:
            self.answer("text/plain", b"", 503)
        else:
            self.answer(*message(archive.objects))

    def answer(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    files = wedge_series(tmp_path_factory.mktemp("archive"), SeriesInstanceUID="1.2.840.4711.1")
    made = Archive(files)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def web(
    artifacts: dict[str, Path], peer: Pacs, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, int]]:
    """A node with DICOMweb, and its port."""
    root = tmp_path_factory.mktemp("web")
    (root / "token").write_text(TOKEN)
    port = free_port()
    about = {
        "web": {"port": port, "token_file": "token", "max_megabytes": 1},
        "source": {"url": f"http://127.0.0.1:{archive.server_port}/dicom-web"},
    }
    node = NodeProcess(write_config(root / "node.yaml", RULES, peer.peer, **about), [artifacts["bright"]], root / "log")
    yield node.wait_until_it_listens(), port
    node.kill()


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"} | named)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else {}
    finally:
        connection.close()


def test_stow_takes_images_that_are_then_answered(web: tuple[NodeProcess, int], peer: Pacs, tmp_path: Path) -> None:
    node, port = web
    files = wedge_series(tmp_path / "ct")
    kind, body = message([*(path.read_bytes() for path in files), b"no DICOM"])
    status, told = ask(port, "POST", "/studies", body, content_type=kind)
    assert status == 202
    assert len(told["00081198"]["Value"]) == 1
    named = {item["00081155"]["Value"][0] for item in told["00081199"]["Value"]}
    assert named == {str(dcmread(path).SOPInstanceUID) for path in files}
    wait_for(lambda: len(peer.objects) >= 2, node.log.read_text())
    status, states = ask(port, "GET", "/status")
    assert (status, set(states) - {"sent", "answered", "received"}) == (200, set())


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/studies", b"", {"authorization": "Bearer wrong"}, 401),
        ("/studies", b"x", {"content_type": "application/dicom"}, 400),
        ("/studies", b"x", {"content_type": RELATED}, 400),
        (
            "/studies",
            b"x" * 1_000_001,
            {"content_type": RELATED},
            413,
        ),
        ("/studies", b"x", {"origin": "http://evil.example"}, 403),
        ("/studies/no-uid/answer", b"", {}, 400),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    web: tuple[NodeProcess, int], path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert ask(web[1], "POST", path, body, **headers)[0] == status


def test_a_message_of_objects_none_of_which_is_dicom_is_a_conflict(web: tuple[NodeProcess, int]) -> None:
    kind, body = message([b"no DICOM", b"nor this"])
    assert ask(web[1], "POST", "/studies", body, content_type=kind)[0] == 409


def test_a_study_that_is_asked_for_is_fetched_and_answered(
    web: tuple[NodeProcess, int], peer: Pacs, archive: Archive
) -> None:
    """The archive fails at first; the node tries again."""
    node, port = web
    status, _ = ask(port, "POST", f"/studies/{STUDY}/answer")
    assert status == 202
    wait_for(lambda: bool(node.lines("fetched")), node.log.read_text())
    assert node.lines("not fetched")[0]["reason"] == "the server answered 503"
    assert node.lines("fetched")[0]["objects"] == 6
    assert not [path for path in archive.asked if path.endswith("/series/1.2.3")], "no rule fits an SR"
    wait_for(lambda: len({str(one.SOPInstanceUID) for one in peer.objects}) >= 2, node.log.read_text())
    assert STUDY not in node.log.read_text()


def test_it_ends_when_it_is_told_to_and_its_log_names_nobody(artifacts: dict[str, Path], tmp_path: Path) -> None:
    with pacs() as peer:
        config = write_config(tmp_path / "node.yaml", RULES, peer.peer)
        node = NodeProcess(config, [artifacts["bright"]], tmp_path / "log").wait_until_it_listens()
        files = wedge_series(tmp_path / "ct", slices=3)
        assert store(node.port, files) == [0] * 3
        wait_for(peer.arrived.is_set, "no answer came")
        assert store(node.port, wedge_series(tmp_path / "mr", Modality="MR", SOPClassUID=MRImageStorage)) == [0] * 6
        wait_for(lambda: bool(node.lines("refused")), node.log.read_text())
        assert node.stop() == 0
    text = node.log.read_text()
    assert "Research use only: not a medical device" in text
    assert "Traceback" not in text
    first = dcmread(files[0])
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert str(first[keyword].value) not in text, keyword
    said = subprocess.run(
        [sys.executable, "-m", "leanmed", "dicom-node", "--status", "--config", str(config)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert [line.split()[1] for line in said.splitlines() if line[0] != " "].count("refused") == 1
    assert "modality MR" in said


def test_it_answers_by_artifacts_only_if_some_are_given(tmp_path: Path) -> None:
    config = write_config(tmp_path / "node.yaml", RULES, {"ae_title": "PACS", "host": "127.0.0.1", "port": 4242})
    done = subprocess.run(
        [sys.executable, "-m", "leanmed", "dicom-node", "--config", str(config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "leanmed: expected artifacts, which answer, got none" in done.stderr
