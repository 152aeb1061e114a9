"""Senders that stop, stall, flood or correct themselves hold nothing up, and nothing of theirs is lost."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from node_bench import Bench
from node_fixtures import Pacs, wait_for
from pydicom import dcmread
from pynetdicom import AE

from leanmed.dicom_node import listen as listen_module
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.listen import OUT_OF_RESOURCES, Held, stored
from leanmed.runtime.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def associated(bench: Bench, path: Path) -> Any:
    """An association that is open, for objects like that of a file."""
    entity = AE("CLIENT")
    entity.add_requested_context(dcmread(path).SOPClassUID)
    association = entity.associate("127.0.0.1", bench.config.port, ae_title="LEANMED")
    assert association.is_established
    return association


def half_a_pdu(association: Any) -> None:
    """The head of a PDU of a kilobyte, and nothing after it."""
    association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 1024))


def test_a_connection_that_is_closed_during_the_write_does_not_hold_its_series(
    bench: Bench, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, closed = bench.store.put, threading.Event()
    close = bench.listener.held.closed

    def telling(sender: Any) -> None:
        close(sender)
        closed.set()

    def slow(*about: Any) -> Any:
        received = put(*about)
        assert bench.listener.held.holds(received.series), "it is held before it is written"
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        assert closed.wait(10)
        return received

    monkeypatch.setattr(bench.listener.held, "closed", telling)
    monkeypatch.setattr(bench.store, "put", slow)
    association = associated(bench, slices[0])
    association.send_c_store(dcmread(slices[0]))
    wait_for(lambda: bool(bench.said("image")), "the image was not taken")
    wait_for(lambda: not bench.listener.held.holds(bench.series.id), "it is held for ever", 10)


def test_the_dead_hold_nothing() -> None:
    held, ended = Held(), threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    held.brings(ended, "series")
    assert not held.holds("series")


def test_a_sender_that_is_silent_within_a_pdu_is_left_and_its_series_answered(
    bench: Bench, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen_module, "PDU_SECONDS", 0.3)
    association = associated(bench, slices[0])
    assert association.send_c_store(dcmread(slices[0])).Status == 0
    assert bench.listener.held.holds(bench.series.id)
    half_a_pdu(association)
    wait_for(lambda: not bench.listener.held.holds(bench.series.id), "it is held for ever", 10)
    wait_for(lambda: not bench.listener._server.active_associations, "its place is taken for ever", 10)


def test_the_node_ends_while_a_sender_is_silent(bench: Bench, slices: list[Path]) -> None:
    association = associated(bench, slices[0])
    half_a_pdu(association)
    (acceptor,) = bench.listener._server.active_associations
    bench.listener.stop()
    wait_for(lambda: not acceptor.dul.is_alive(), "a thread waits for the rest, and the process for it", 10)
    bench.listener = type(bench.listener)(bench.config, bench.store)


def test_an_object_beyond_the_limit_ends_its_association(
    tmp_path: Path, predictors: dict[str, Predictor], peer: Pacs, slices: list[Path]
) -> None:
    bench = Bench(tmp_path, predictors, peer.peer)
    bench.listener._server.most_bytes = 20_000
    dataset = dcmread(slices[0])
    dataset.add_new(0x00091001, "OB", bytes(100_000))
    association = associated(bench, slices[0])
    assert "Status" not in association.send_c_store(dataset)
    assert {"event": "association aborted", "reason": "an object is larger than max_megabytes"} in bench.lines
    assert not list(bench.store.all())
    assert bench.send(slices) == [0] * 6, "several objects may together be larger"
    bench.listener.stop()


def test_a_pdu_that_no_sender_needs_is_not_read(bench: Bench, slices: list[Path]) -> None:
    association = associated(bench, slices[0])
    association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 2**31))
    wait_for(lambda: not bench.listener._server.active_associations, "it waits for two gigabytes", 10)


def test_an_object_beyond_the_limit_is_not_kept(tmp_path: Path, slices: list[Path]) -> None:
    small = Store(tmp_path / "small", 900)
    assert stored(small, slices[0].read_bytes())[0] == OUT_OF_RESOURCES
    assert not list(small.all())


def test_a_corrected_image_takes_the_place_of_the_older_and_is_answered_anew(
    bench: Bench, peer: Pacs, slices: list[Path]
) -> None:
    bench.send(slices)
    bench.work()
    dataset = dcmread(slices[0])
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(slices[0])
    assert bench.send(slices) == [0] * 6
    assert len(bench.series.files) == 6
    assert bytes(len(dataset.PixelData)) in [dcmread(path).PixelData for path in bench.series.files]
    assert bench.series.state == "received"
    bench.work()
    assert len({one.SOPInstanceUID for one in peer.objects}) == 4


def test_of_two_versions_that_a_killed_process_left_the_newer_stays(inbox: Store, slices: list[Path]) -> None:
    inbox.put(slices[0].read_bytes())
    (series,) = inbox.all()
    (older,) = series.files
    newer = older.with_name(f"{older.stem.partition('-')[0]}-0000.dcm")
    newer.write_bytes(b"newer")
    inbox.clean()
    assert [path.read_bytes() for path in series.images.iterdir()] == [b"newer"]
