"""Orthanc of the Debian packages `orthanc` and `orthanc-dicomweb`, in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

from node_fixtures import free_port

from leanmed.dicom_node.multipart import boundary_of, parts

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
IS_INSTALLED = Path(PROGRAM).exists() and PLUGIN.exists()


class Orthanc:
    """An archive that knows one node.

    Args:
        folder: for its files.
        node_port: where the node listens.
    """

    def __init__(self, folder: Path, node_port: int) -> None:
        self.dicom_port, self.http_port, self.folder = free_port(), free_port(), folder
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "Name": "made",
            "StorageDirectory": str(folder / "files"),
            "IndexDirectory": str(folder / "files"),
            "Plugins": [str(PLUGIN)],
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": False,
            "DicomCheckCalledAet": True,
            "DicomModalities": {"leanmed": ["LEANMED", "127.0.0.1", node_port]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(content))

    @property
    def peer(self) -> dict[str, Any]:
        """As the node's configuration names it."""
        return {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": self.dicom_port}

    @property
    def web(self) -> dict[str, Any]:
        """The same over DICOMweb."""
        return {"url": f"http://127.0.0.1:{self.http_port}/dicom-web"}

    def start(self) -> Orthanc:
        with (self.folder / "log").open("ab") as log:
            words = [PROGRAM, str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + 60
        while True:
            try:
                self.ask("/system")
                return self
            except (URLError, OSError):
                log_text = (self.folder / "log").read_text(errors="replace")
                assert self.process.poll() is None, log_text
                assert time.monotonic() < end, log_text
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def request(self, path: str, body: bytes | None = None, **headers: str) -> tuple[str, bytes]:
        """Content type and body of an answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers.get("Content-Type", ""), answer.read()

    def ask(self, path: str, body: bytes | None = None) -> Any:
        content = self.request(path, body)[1]
        return json.loads(content) if content else None

    def send_to_node(self, series: str) -> None:
        """Let Orthanc send a series, by its UID, as a routing rule would."""
        (name,) = self.ask("/tools/lookup", series.encode())
        self.ask("/modalities/leanmed/store", json.dumps([name["ID"]]).encode())

    def series_of(self, study: str) -> dict[str, str]:
        """Modality -> series, of the series of a study, by QIDO-RS."""
        found = json.loads(
            self.request(f"/dicom-web/studies/{study}/series", Accept="application/dicom+json")[1] or "[]"
        )
        return {row["00080060"]["Value"][0]: row["0020000E"]["Value"][0] for row in found}

    def objects(self, study: str, series: str) -> list[bytes]:
        """The objects of a series by WADO-RS."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        kind, content = self.request(f"/dicom-web/studies/{study}/series/{series}", Accept=accept)
        return list(parts([content], boundary_of(kind), 10**9))
