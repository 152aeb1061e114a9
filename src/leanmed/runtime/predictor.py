"""`load()` an artifact and `predict()`: numpy, ONNX Runtime and Pillow, without torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from leanmed.data import read_pixels
from leanmed.errors import ArtifactError
from leanmed.manifest import Manifest
from leanmed.reading.images import DEFAULT_LIMITS, Limits, read_image
from leanmed.reading.lung_slices import Scan, prepare
from leanmed.reading.mr import Whole, open_whole
from leanmed.reading.volume import is_scan, open_volume
from leanmed.records import Record
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.sources import Frame, Source, open_frame
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, AnswerPart, Outputs, ScanAnswer

if TYPE_CHECKING:
    from leanmed.tasks.answers import Candidate, Detections

MODEL = "model"  # the graph from an image to its answer
MOST = 50  # candidates of a scan


class Predictor:
    """A loaded artifact. One predictor may be used from several threads at once.

    Args:
        artifact: read and checked.
        threads: threads inside one prediction. For many images, one thread each and several images at once is
            faster.
        limits: caps on what is read.
        threshold: decide by this one instead of the artifact's own.

    Raises:
        ArtifactError: ONNX Runtime cannot open a graph, it takes or gives something else than `leanmed.json` says, or
            the threshold is none for such an artifact.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        threshold: float | None = None,
    ) -> None:
        self.artifact = artifact
        self._manifest = artifact.manifest if threshold is None else _decided_at(artifact.manifest, threshold)
        self.limits = replace(limits, min_side=max(limits.min_side, self.manifest.input.min_side))
        missing = set(self.kind.GRAPHS) - set(artifact.graphs)
        if missing:
            raise ArtifactError(
                f"expected an artifact with the graphs {', '.join(self.kind.GRAPHS)}, got {sorted(artifact.graphs)}; "
                "take one that has them"
            )
        self._sessions = {name: self._open(artifact.graphs[name], threads) for name in self.kind.GRAPHS}
        self._check_graphs()

    @property
    def manifest(self) -> Manifest:
        """What `leanmed.json` says, but for a threshold that was given instead."""
        return self._manifest

    @property
    def kind(self) -> AnswerPart:
        """How answers of the artifact's kind of task are decided."""
        return TASKS[self.manifest.task].answer

    @property
    def takes_scans(self) -> bool:
        """Whether it looks at slices of scans, so that it answers for whole ones too."""
        return self.manifest.input.kind == "slice" or self._takes_volumes

    @property
    def _takes_volumes(self) -> bool:
        return self.manifest.input.scaled == "volume"

    def read(self, source: str | Path | bytes) -> NDArray[np.uint8]:
        """A file to pixels (h, w, 4), at a reduced scale where the graph would shrink it anyway."""
        path = Path(source) if isinstance(source, str) else source
        return read_image(
            path, limits=self.limits, side=self.manifest.input.side if self.manifest.input.reduced else None
        )

    def outputs(self, pixels: NDArray[Any], graph: str = MODEL) -> Outputs:
        """What one graph gives for pixels (h, w, c), in the order of its outputs.

        Raises:
            ArtifactError: the graph fails on them.
        """
        try:
            return cast(Outputs, self._sessions[graph].run(list(self.kind.GRAPHS[graph]), {"pixels": pixels}))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(
                f"expected the graph to take pixels of shape {pixels.shape}, got: {_line(error)}; export it again"
            ) from error

    def predict(self, image: Source) -> Any:
        """Answer for one image, or for a whole scan where the artifact looks at slices of scans.

        Args:
            image: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a Pillow image.
                An artifact for slices of CT also takes a slice in Hounsfield units (an array of floats or signed
                integers, 1 mm per pixel), a CT slice in DICOM, whose boxes are then in pixels of the slice as it is
                stored, and whole scans, as `open_scan` does. One for volumes of MR takes these whole.

        Returns:
            The answer of the artifact's kind of task: `leanmed.Prediction` (a label), `leanmed.Detections` (boxes),
            `leanmed.MaskedImage` (a mask), or of a scan `leanmed.Candidates` or `leanmed.MaskedScan`. Each has
            `as_json()`, those of one image `draw(pixels)`, and masks `file()`.

        Raises:
            InputError: it cannot be read as an image.
            ArtifactError, DataError: the graph fails on it, or gives no sound answer.
        """
        if self.takes_scans and isinstance(image, str | Path) and is_scan(Path(image)):
            return self.predict_scan(image)
        return self.answer(self.frame(image))

    def predict_record(self, record: Record) -> Answer:
        """Answer for a record's image, or for its slice of a volume."""
        if record.frame is None:
            return self.answer(self.frame(record.image))
        return self.answer(Frame(read_pixels(record)))

    def frame(self, image: Source) -> Frame:
        """An image as the graph takes it; see `predict`."""
        return open_frame(image, self.manifest.input, self.limits)

    def answer(self, frame: Frame) -> Answer:
        """Answer for an image that is read already, with places in the image as it is stored."""
        found = self.decide(frame)
        return found.placed(frame.points) if frame.points else found

    def decide(self, frame: Frame) -> Answer:
        """As `answer`, but with places in the frame's own pixels, to be drawn over them."""
        return self.kind.decide(self.outputs(frame.pixels), self.manifest)

    def open_scan(self, path: str | Path) -> Scan | Whole:
        """Read a whole scan: a volume in one file, or the folder of one DICOM series.

        Raises:
            InputError: it cannot be read, or is not what the artifact looks at: a chest CT, or a volume of MR.
            MissingExtraError: CT without scipy, or NIfTI without nibabel.
        """
        if self._takes_volumes:
            return open_whole(Path(path), self.limits)
        return prepare(open_volume(Path(path), self.limits))

    def predict_scan(self, scan: str | Path | Scan | Whole, *, count: int | None = MOST) -> ScanAnswer:
        """Answer for a whole scan: what is found in it, or its mask.

        Args:
            scan: a path, as `open_scan` takes it, or what that gives.
            count: so many of the best candidates; None: all. A mask is whole in any case.

        Raises:
            ArtifactError: the graph fails, or is none for slices of scans.
            DataError: it gives no sound answer.
            InputError, MissingExtraError: as `open_scan`.
        """
        if not self.takes_scans:
            raise ArtifactError(
                f"expected an artifact for slices of scans, got one for a {self.manifest.input.kind}; take another "
                "artifact"
            )
        scan = scan if isinstance(scan, Scan | Whole) else self.open_scan(scan)
        return self.kind.search(scan, self.outputs, self.manifest, count)

    def predict_boxes(self, image: Source) -> Detections:
        """An older name of `predict` for artifacts that give boxes; it goes with the next version."""
        self._must_give("boxes")
        return cast("Detections", self.answer(self.frame(image)))

    def find_candidates(self, scan: str | Path | Scan, *, count: int | None = None) -> list[Candidate]:
        """An older name of `predict_scan`, whose `found` it gives as a list; it goes with the next version."""
        return list(cast(Any, self.predict_scan(scan, count=count)).found)

    def _must_give(self, output: str) -> None:
        gives = [name for outputs in self.kind.GRAPHS.values() for name in outputs]
        if output not in gives:
            raise ArtifactError(f"expected an artifact that gives {output}, got one that gives {', '.join(gives)}")

    def _open(self, graph: bytes, threads: int) -> onnxruntime.InferenceSession:
        try:
            return open_session(graph, threads)
        except ArtifactError as error:
            if self.manifest.precision != "int4":
                raise
            raise ArtifactError(f"{error}, or make the artifact with leanmed quantize --to int4 --unpack") from error

    def _check_graphs(self) -> None:
        for name, session in self._sessions.items():
            outputs = [entry.name for entry in session.get_outputs()]
            if outputs != list(self.kind.GRAPHS[name]):
                raise ArtifactError(
                    f"expected the graph {name} to give {', '.join(self.kind.GRAPHS[name])}, got {', '.join(outputs)}; "
                    "export it again"
                )
        session, manifest = self._sessions[MODEL], self.manifest
        takes = [(entry.name, entry.type, len(entry.shape)) for entry in session.get_inputs()]
        gives = {entry.name: entry.shape for entry in session.get_outputs()}
        wanted = [("pixels", f"tensor({_onnx_type(manifest.input.dtype)})", 3)]
        if takes != wanted or not self.kind.fits(gives, manifest.labels):
            raise ArtifactError(
                f"expected a graph from {manifest.input.dtype} pixels (h, w, c) to "
                f"{' and '.join(self.kind.GRAPHS[MODEL])} of {', '.join(manifest.labels)}, got one from {takes} to "
                f"{gives}; export it again"
            )


def _onnx_type(dtype: str) -> str:
    return "float" if dtype == "float32" else dtype


def _decided_at(manifest: Manifest, threshold: float) -> Manifest:
    try:
        TASKS[manifest.task].answer.check(manifest.labels, threshold)
    except ValueError as error:
        raise ArtifactError(f"this artifact takes no threshold: {error}; leave it out") from error
    if not 0 <= threshold <= 1:
        raise ArtifactError(f"expected a threshold from 0 to 1, got {threshold:g}; correct it")
    return manifest.model_copy(update={"threshold": threshold})


def load(
    path: str | Path, *, threads: int = 1, limits: Limits = DEFAULT_LIMITS, threshold: float | None = None
) -> Predictor:
    """Read, check and open an artifact folder; the arguments are those of `Predictor`.

    Raises:
        ArtifactError: no artifact, damaged, edited, or of a kind this ONNX Runtime cannot open.
    """
    return Predictor(read_artifact(Path(path)), threads=threads, limits=limits, threshold=threshold)


def open_session(graph: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU whose idle threads sleep: spinning ones starve a busy machine.

    Raises:
        ArtifactError: ONNX Runtime cannot open the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, and need not be printed too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in files of their own would escape the hash: they are looked for where nothing can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ArtifactError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open this graph: {_line(error)}; install a newer "
            "onnxruntime"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
