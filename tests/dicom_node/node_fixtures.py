"""Made artifacts and made series for the tests of the DICOM node, and what stands in for a PACS."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper
from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt

from artifact_fixtures import manifest, mean_red_graph
from detection_fixtures import constant_graph
from leanmed.manifest import Input
from leanmed.phantoms.chest import made_chest
from leanmed.phantoms.scans import AXIAL, drawn, made_grid, write_series
from leanmed.reading.ct import Grid
from leanmed.runtime.artifact import write_artifact

STUDY, FRAME = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
PATIENT = {"PatientName": "Mustermann^Erika", "PatientID": "4711", "StudyInstanceUID": STUDY}
PLANE = {"FrameOfReferenceUID": FRAME, "SeriesDescription": "Thorax", "BodyPartExamined": "CHEST", "SeriesNumber": "3"}
BRIGHT = 160  # grey, from which on the made segmenter of single images marks


def bright_graph(dtype: int, threshold: float) -> bytes:
    """A graph that marks, of any number of channels, where the middle one of three is above a threshold."""
    constants = {
        "one": np.array([1], np.int64),
        "axis": np.array([2], np.int64),
        "least": np.array([threshold], np.float32),
        "full": np.array([255], np.uint8),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["floats", "one"], ["channel"], axis=2),
        helper.make_node("Squeeze", ["channel", "axis"], ["middle"]),
        helper.make_node("Greater", ["middle", "least"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("Mul", ["mask", "full"], ["confidence"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("pixels", dtype, ["h", "w", "c"])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["h", "w"]) for name in ("mask", "confidence")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def write_nodules(path: Path) -> Path:
    """A detector of slices of chest CT that marks the same place in all of them."""
    about = Input(kind="slice", side=64, slices=3, reduced=False)
    made = manifest(name="nodules", task="detection", labels=("nodule",), main_score="ap50", input=about)
    write_artifact(path, made, {"model": constant_graph()}, "# card\n")
    return path


def write_labels(path: Path) -> Path:
    """A classifier of single images by how bright they are."""
    made = manifest(name="brightness", labels=("dark", "bright"), input=Input(side=32, reduced=False), threshold=0.3)
    write_artifact(path, made, {"model": mean_red_graph()}, "# card\n")
    return path


def write_masks(path: Path) -> Path:
    """A segmenter of single images that marks what is shown bright."""
    made = manifest(
        name="bright", task="segmentation", labels=("bright",), main_score="dice", input=Input(side=32, reduced=False)
    )
    write_artifact(path, made, {"model": bright_graph(TensorProto.UINT8, BRIGHT)}, "# card\n")
    return path


def write_volumes(path: Path) -> Path:
    """A segmenter of volumes of MR that marks what lies a standard deviation above the mean."""
    about = Input(kind="intensities", dtype="float32", scaled="volume", side=32, slices=3, reduced=False)
    made = manifest(name="prostate", task="segmentation", labels=("gland",), main_score="dice", input=about)
    write_artifact(path, made, {"model": bright_graph(TensorProto.FLOAT, 1.0)}, "# card\n")
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "nodules": write_nodules,
    "brightness": write_labels,
    "bright": write_masks,
    "prostate": write_volumes,
}


def chest_series(folder: Path, slices: int = 30, **changes: Any) -> list[Path]:
    """A made chest CT of so many coarse slices, from the feet to the head in the order of the list."""
    folder.mkdir(parents=True, exist_ok=True)
    chest = made_chest(1)
    # 64 x 80 pixels: ITK leaves the last pixels of a SEG unread where their number is no multiple of 8.
    grid = made_grid(chest, (4.125, 4.0625, chest.depth / slices))
    window = {"WindowCenter": "-300", "WindowWidth": "1400"}
    return write_series(folder, drawn(chest, grid), grid, **(PATIENT | PLANE | window | changes))


def wedge_series(folder: Path, direction: Any = AXIAL, slices: int = 6, **changes: Any) -> list[Path]:
    """A small series in which no slice, row or column is like another: what is turned or shifted shows."""
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = np.indices((slices, 20, 24))
    stored = np.where((y < 4 + z) & (x < 3 + 2 * z), 300, -900).astype(np.int16)
    grid = Grid(stored.shape, (0.8, 0.9, 2.5), (-10.0, 20.0, -30.0), direction)
    return write_series(
        folder, stored, grid, **(PATIENT | PLANE | {"WindowCenter": "0", "WindowWidth": "500"} | changes)
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_config(path: Path, rules: Sequence[dict[str, Any]], destination: dict[str, Any], **changes: Any) -> Path:
    """A configuration whose store lies beside it."""
    content = {"port": free_port(), "store": "store", "pause_seconds": 0.3, "rules": list(rules)}
    path.write_text(yaml.safe_dump(content | {"destination": destination} | changes))
    return path


class Pacs:
    """Takes objects by C-STORE and remembers them; `status` is what it answers."""

    def __init__(self, port: int | None = None, **options: Any) -> None:
        self.port, self.status = port or free_port(), 0x0000
        self.objects: list[Dataset] = []
        self.arrived = threading.Event()
        self.entity = AE("PACS")
        for context in AllStoragePresentationContexts:
            self.entity.add_supported_context(str(context.abstract_syntax))
        self.server: Any = self.entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)], **options
        )

    @property
    def peer(self) -> dict[str, Any]:
        return {"ae_title": "PACS", "host": "127.0.0.1", "port": self.port}

    def _store(self, event: Any) -> int:
        if self.status == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.objects.append(dataset)
            self.arrived.set()
        return self.status

    def stop(self) -> None:
        self.server.shutdown()


@contextmanager
def pacs(**options: Any) -> Iterator[Pacs]:
    made = Pacs(**options)
    try:
        yield made
    finally:
        made.stop()


def store(
    port: int, files: Iterable[Path], *, called: str = "LEANMED", calling: str = "CLIENT", tls: Any = None
) -> list[int | None]:
    """Send files in one association: the status of each, None where the node was gone; empty: it was rejected."""
    datasets = [dcmread(path) for path in files]
    entity = AE(calling)
    for pair in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        entity.add_requested_context(*pair)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    if not association.is_established:
        return []
    found: list[int | None] = []
    try:
        for dataset in datasets:
            found.append(association.send_c_store(dataset).get("Status") if association.is_established else None)
    finally:
        if association.is_established:
            association.release()
    return found


class NodeProcess:
    """`leanmed dicom-node` in a process of its own.

    Args:
        config: its configuration.
        artifacts: what it answers by.
        log: a file that its output is added to.
    """

    def __init__(self, config: Path, artifacts: Sequence[Path], log: Path) -> None:
        self.config, self.log = config, log
        self.port = int(yaml.safe_load(config.read_text())["port"])
        words = ["dicom-node", *map(str, artifacts), "--config", str(config)]
        with log.open("a") as file:
            command = [sys.executable, "-m", "leanmed", *words]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def wait_until_it_listens(self, seconds: float = 60) -> NodeProcess:
        end = time.monotonic() + seconds
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """As the kernel ends a process, at any point of its work."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What its log says of an event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


def wait_for(what: Callable[[], bool], why: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.05)
