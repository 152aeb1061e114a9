"""From an association to the answers in a PACS, in one process; and all that goes wrong on the way."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from node_fixtures import Pacs, free_port, pacs, store, wedge_series
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComprehensiveSRStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from leanmed.dicom_node import inbox as inbox_module
from leanmed.dicom_node import node as node_module
from leanmed.dicom_node.config import Config, Tls
from leanmed.dicom_node.inbox import TRIES, Series, Store
from leanmed.dicom_node.listen import Listener, client_context, server_context
from leanmed.dicom_node.node import FIRST_WAIT, LONGEST_WAIT, Node, Patience
from leanmed.runtime.predictor import Predictor

# pynetdicom leaves the socket of a connection that fails to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
RULES = [{"artifact": "bright", "modality": "CT"}]


class Bench:
    """A node whose work is done when a test says so."""

    def __init__(self, root: Path, predictors: dict[str, Predictor], peer: dict[str, Any], **changes: Any) -> None:
        content = {"store": root / "store", "port": free_port(), "pause_seconds": 0, "rules": RULES}
        self.config = Config.model_validate(content | {"calling": ["CLIENT"], "destination": peer} | changes)
        self.store = Store(self.config.store, 64 * 10**6)
        self.lines: list[dict[str, Any]] = []
        self.listener = Listener(self.config, self.store, self.log)
        self.node = Node(self.config, self.store, predictors, self.listener.open, self.log)
        self.listener.start()

    def log(self, event: str, **about: Any) -> None:
        self.lines.append({"event": event, **about})

    def send(self, files: list[Path], **options: Any) -> list[int | None]:
        return store(self.config.port, files, **options)

    def work(self) -> None:
        """All that can be done now."""
        end = time.monotonic() + 10
        while any(map(self.listener.open.holds, [one.id for one in self.store.all()])):
            assert time.monotonic() < end, "an association that was released still counts as open"
            time.sleep(0.01)
        self.node.answer_due()
        self.node.send_due()

    @property
    def series(self) -> Series:
        (found,) = self.store.all()
        return found

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def peer() -> Iterator[Pacs]:
    with pacs() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, predictors: dict[str, Predictor], peer: Pacs) -> Iterator[Bench]:
    made = Bench(tmp_path, predictors, peer.peer)
    yield made
    made.listener.stop()


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    return wedge_series(tmp_path / "ct")


def test_a_series_is_answered_once_after_its_association(bench: Bench, peer: Pacs, slices: list[Path]) -> None:
    assert bench.send(slices) == [0] * 6
    bench.work()
    bench.work()
    assert sorted(str(one.SOPClassUID.name) for one in peer.objects) == [
        "Comprehensive 3D SR Storage",
        "Segmentation Storage",
    ]
    assert bench.series.state == "sent"
    assert {one.StudyInstanceUID for one in peer.objects} == {dcmread(slices[0]).StudyInstanceUID}


def test_it_answers_an_echo(bench: Bench) -> None:
    entity = AE("CLIENT")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", bench.config.port, ae_title="LEANMED")
    assert association.send_c_echo().Status == 0
    association.release()


def test_titles_that_are_not_allowed_are_rejected(bench: Bench, slices: list[Path]) -> None:
    assert bench.send(slices, calling="STRANGER") == []
    assert bench.send(slices, called="ANOTHER") == []
    assert not list(bench.store.all())
    assert len(bench.said("association rejected")) == 2


def test_nothing_is_answered_while_its_association_is_open_or_within_the_pause(
    tmp_path: Path, predictors: dict[str, Predictor], peer: Pacs, slices: list[Path]
) -> None:
    bench = Bench(tmp_path, predictors, peer.peer, pause_seconds=60)
    datasets = [dcmread(path) for path in slices]
    entity = AE("CLIENT")
    entity.add_requested_context(datasets[0].SOPClassUID)
    association = entity.associate("127.0.0.1", bench.config.port, ae_title="LEANMED")
    assert association.send_c_store(datasets[0]).Status == 0
    assert bench.listener.open.holds(bench.series.id)
    assert not bench.node._is_complete(bench.series)
    association.abort()
    end = time.monotonic() + 10
    while bench.listener.open.holds(bench.series.id):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not bench.node._is_complete(bench.series), "the pause is not over"
    past = time.time() - 61
    os.utime(bench.series.images, (past, past))
    assert bench.node._is_complete(bench.series)
    bench.listener.stop()


def test_an_association_that_is_aborted_leaves_what_was_acknowledged(bench: Bench, slices: list[Path]) -> None:
    datasets = [dcmread(path) for path in slices]
    entity = AE("CLIENT")
    entity.add_requested_context(datasets[0].SOPClassUID)
    association = entity.associate("127.0.0.1", bench.config.port, ae_title="LEANMED")
    assert [association.send_c_store(one).Status for one in datasets[:2]] == [0, 0]
    association.abort()
    assert len(bench.series.files) == 2
    assert bench.send(slices) == [0] * 6
    assert len(bench.series.files) == 6


def test_duplicates_are_acknowledged_and_answered_once(bench: Bench, peer: Pacs, slices: list[Path]) -> None:
    bench.send(slices + slices)
    bench.work()
    first = [one.SOPInstanceUID for one in peer.objects]
    assert bench.send(slices) == [0] * 6
    bench.work()
    assert [one.SOPInstanceUID for one in peer.objects] == first


def test_images_that_come_later_are_answered_with_all(bench: Bench, peer: Pacs, slices: list[Path]) -> None:
    bench.send(slices[:3])
    bench.work()
    bench.send(slices[3:])
    bench.work()
    half, whole = [one for one in peer.objects if one.SOPClassUID == SegmentationStorage]
    assert half.SeriesInstanceUID == whole.SeriesInstanceUID
    assert half.SOPInstanceUID != whole.SOPInstanceUID


def test_a_study_of_another_modality_is_kept_and_refused_by_name(bench: Bench, peer: Pacs, tmp_path: Path) -> None:
    assert bench.send(wedge_series(tmp_path / "mr", Modality="MR", SOPClassUID=MRImageStorage)) == [0] * 6
    bench.work()
    assert bench.series.state == "refused"
    (line,) = bench.said("refused")
    assert line["refusals"][""].startswith("expected a series that a rule fits (modality CT, ")
    assert "got one of modality MR" in line["refusals"][""]
    assert peer.objects == []


def test_what_is_no_image_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = wedge_series(tmp_path / "sr")[0]
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    del dataset.PixelData
    dataset.save_as(path)
    assert bench.send([path]) == [0]
    bench.work()
    assert bench.said("refused")[0]["refusals"]["bright"].startswith("expected images, got an object without pixels")


def test_answers_of_the_node_that_come_back_are_not_answered(bench: Bench, peer: Pacs, tmp_path: Path) -> None:
    files = wedge_series(tmp_path / "loop", Manufacturer="leanmed")
    bench.send(files)
    bench.work()
    assert "do not route answers back" in bench.said("refused")[0]["refusals"][""]
    assert peer.objects == []


def test_a_scan_that_is_cut_off_is_refused_where_slices_are_missing_and_answered_where_not(
    tmp_path: Path, predictors: dict[str, Predictor], peer: Pacs
) -> None:
    rules = [{"artifact": "prostate", "modality": "MR", "answers": ["seg"]}]
    bench = Bench(tmp_path, predictors, peer.peer, rules=rules)
    files = wedge_series(tmp_path / "mr", Modality="MR", SOPClassUID=MRImageStorage)
    bench.send([*files[:2], *files[3:]])
    bench.work()
    reason = bench.said("refused")[0]["refusals"]["prostate"]
    assert "apart; add the slices that are missing" in reason
    assert bench.series.state == "refused"
    bench.send(files)
    bench.work()
    assert bench.series.state == "sent"
    assert len(peer.objects) == 1
    bench.listener.stop()


def test_one_artifact_that_cannot_answer_does_not_stand_in_the_way_of_another(
    tmp_path: Path, predictors: dict[str, Predictor], peer: Pacs, slices: list[Path]
) -> None:
    rules = [{"artifact": "nodules", "modality": "CT"}, {"artifact": "brightness", "modality": "CT"}]
    bench = Bench(tmp_path, predictors, peer.peer, rules=rules)
    bench.send(slices)
    bench.work()
    (line,) = bench.said("answered")
    assert "expected a chest CT" in line["refusals"]["nodules"]
    assert "UID: expected a chest CT" in line["refusals"]["nodules"], "the series' own UID stays out of the log"
    assert len(peer.objects) == 1
    bench.listener.stop()


def test_an_artifact_whose_answers_have_no_form_in_dicom_is_refused(
    bench: Bench, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown:
        familiar = None

    predictor = bench.node.predictors["bright"]
    monkeypatch.setattr(type(predictor), "decide", lambda *about: Unknown())
    bench.send(slices)
    bench.work()
    assert "expected an artifact whose answers can be put into DICOM" in bench.said("refused")[0]["refusals"]["bright"]


def test_answers_wait_for_a_pacs_that_is_down_and_keep_their_uids(
    tmp_path: Path, predictors: dict[str, Predictor], slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    bench = Bench(tmp_path, predictors, {"ae_title": "PACS", "host": "127.0.0.1", "port": port})
    bench.send(slices)
    bench.work()
    assert bench.series.state == "answered"
    wanted = sorted(str(dcmread(path).SOPInstanceUID) for path in bench.series.answers.glob("*.dcm"))
    assert bench.said("not sent")[0]["reason"] == "PACS does not answer"
    bench.node.send_due()
    assert len(bench.said("not sent")) == 1, "it is not tried again before its wait is over"
    with pacs(port=port) as peer:
        monkeypatch.setattr(bench.node.patience, "is_over", lambda name: True)
        peer.status = 0xA700
        bench.node.send_due()
        assert bench.said("not sent")[1]["reason"] == "PACS answered 0xA700"
        peer.status = 0
        bench.node.send_due()
        assert sorted(str(one.SOPInstanceUID) for one in peer.objects) == wanted
    assert bench.series.state == "sent"
    bench.listener.stop()


def test_a_pacs_that_rejects_the_node_or_the_class_of_its_answers_is_named(
    bench: Bench, peer: Pacs, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.node.patience, "is_over", lambda name: True)
    bench.send(slices)
    peer.entity.require_calling_aet = ["SOMEBODY"]
    bench.work()
    peer.entity.require_calling_aet = []
    peer.entity.remove_supported_context(SegmentationStorage)
    peer.stop()
    peer.server = peer.entity.start_server(("127.0.0.1", peer.port), block=False)
    bench.work()
    reasons = [line["reason"] for line in bench.said("not sent")]
    assert reasons == ["PACS rejects the association", "PACS does not take objects of this class"]


def test_waits_grow_to_a_bound_and_end_with_success() -> None:
    patience = Patience()
    waits = [patience.failed("a") for _ in range(9)]
    assert waits[:4] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT, 8 * FIRST_WAIT]
    assert waits[-1] == LONGEST_WAIT
    assert not patience.is_over("a")
    assert patience.is_over("b")
    patience.succeeded("a")
    assert patience.is_over("a")


def test_a_disk_that_is_full_when_the_answer_is_ready_keeps_the_images(
    bench: Bench, peer: Pacs, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(slices)
    write = inbox_module.write_durably

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".dcm":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(inbox_module, "write_durably", full)
    monkeypatch.setattr(bench.node.patience, "is_over", lambda name: True)
    for _ in range(5):
        bench.work()
    assert bench.said("not answered")[0]["reason"] == "the disk: No space left on device"
    assert bench.series.state == "received"
    monkeypatch.setattr(inbox_module, "write_durably", write)
    bench.work()
    assert bench.series.state == "sent", "a full disk is no fault of the series, however often it is tried"


def test_a_disk_that_is_full_refuses_images_as_out_of_resources(
    bench: Bench, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*about: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inbox_module.os, "fsync", full)
    assert bench.send(slices[:2]) == [0xA700, 0xA700]
    assert not list(bench.store.all())


def test_a_series_that_ends_the_process_again_and_again_is_refused(bench: Bench, slices: list[Path]) -> None:
    bench.send(slices)
    for _ in range(TRIES):
        bench.series.begin()  # and the process ends
    bench.work()
    assert f"the process ended {TRIES} times" in bench.said("refused")[0]["refusals"][""]


def test_a_series_that_may_have_ended_the_process_is_answered_last(
    bench: Bench, slices: list[Path], tmp_path: Path
) -> None:
    bench.send(slices)
    suspect = bench.series
    bench.send(wedge_series(tmp_path / "other"))
    bench.send(wedge_series(tmp_path / "third"))
    suspect.begin()
    bench.work()
    assert [line["series"] for line in bench.said("answered")][2] == suspect.id


def test_images_that_come_while_it_answers_are_not_left_out(
    bench: Bench, peer: Pacs, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = node_module.answer_series

    def slowly(series: Series, *about: Any) -> Any:
        found = answer(series, *about)
        if len(series.files) < 6:
            bench.send(slices[3:])
        return found

    monkeypatch.setattr(node_module, "answer_series", slowly)
    bench.send(slices[:3])
    bench.work()
    assert [line["event"] for line in bench.lines if line["event"] != "image"] == ["more images came"]
    bench.work()
    assert bench.said("answered")[0]["images"] == 6
    assert len(peer.objects) == 2


PACKINGS: dict[Any, Callable[[Any], bytes]] = {
    JPEGBaseline8Bit: lambda values: imagecodecs.jpeg8_encode(values.astype(np.uint8), level=100),
    JPEGExtended12Bit: lambda values: imagecodecs.jpeg8_encode(values, level=100, bitspersample=12),
    JPEGLosslessSV1: lambda values: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12),
    JPEGLSLossless: lambda values: imagecodecs.jpegls_encode(values),
    JPEG2000Lossless: lambda values: imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True),
}


@pytest.mark.parametrize("syntax", [*PACKINGS, RLELossless])
def test_compressed_images_are_taken_as_they_are_and_answered(
    bench: Bench, peer: Pacs, slices: list[Path], syntax: Any
) -> None:
    for path in slices[:2]:
        dataset = dcmread(path)
        values = (dataset.pixel_array // 16).astype(np.uint16)  # stored values reach 1324
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        dataset.RescaleSlope = 16
        dataset.PixelData = values.tobytes()
        if syntax == RLELossless:
            dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
        else:
            if syntax == JPEGBaseline8Bit:
                dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            dataset.PixelData = encapsulate([PACKINGS[syntax](values)])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    assert bench.send(slices[:2]) == [0, 0]
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in bench.series.files} == {syntax}
    bench.work()
    assert not bench.said("refused")
    (seg,) = [one for one in peer.objects if one.SOPClassUID == SegmentationStorage]
    marked = seg.pixel_array.reshape(-1, 20, 24)
    assert sorted(int(frame.sum()) for frame in marked) == [12, 25]


def test_the_log_names_no_patient(bench: Bench, peer: Pacs, slices: list[Path], tmp_path: Path) -> None:
    first = dcmread(slices[0])
    bench.send(slices)
    bench.send(wedge_series(tmp_path / "mr", Modality="MR", SOPClassUID=MRImageStorage))
    bench.work()
    bench.node.tidy()
    text = str(bench.lines)
    told = [str(first[keyword].value) for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID")]
    assert not [word for word in (*told, str(first.SeriesInstanceUID), "Mustermann") if word in text]


NEW_KEY = ("-newkey", "rsa:2048", "-nodes", "-keyout")


def made_certificates(folder: Path) -> Callable[[str], Tls]:
    """`made("node")`: a certificate that the authority in a folder has signed."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", *NEW_KEY, "all.key", "-out", "all.pem", "-subj", "/CN=all")

    def made(name: str) -> Tls:
        asked = (*NEW_KEY, f"{name}.key", "-subj", f"/CN={name}")
        openssl("req", *asked, "-out", f"{name}.csr")
        authority = ("-CA", "all.pem", "-CAkey", "all.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{name}.csr", *authority, "-out", f"{name}.pem")
        return Tls(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", authorities=folder / "all.pem")

    return made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates, is not installed")
def test_with_tls_callers_without_a_signed_certificate_are_left_outside(
    tmp_path: Path, predictors: dict[str, Predictor], slices: list[Path]
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = made_certificates(tmp_path / "ours"), made_certificates(tmp_path / "theirs")
    own, scanner, stranger = ours("node"), ours("scanner"), theirs("stranger")
    with pacs(ssl_context=server_context(ours("pacs"))) as peer:
        bench = Bench(tmp_path, predictors, peer.peer | {"tls": own.model_dump()}, tls=own.model_dump())
        assert bench.send(slices, tls=(client_context(scanner), None)) == [0] * 6
        assert bench.send(slices[:1], tls=(client_context(stranger), None)) == []
        assert bench.send(slices[:1]) == [], "without TLS"
        bench.work()
        assert len(peer.objects) == 2
        bench.listener.stop()
