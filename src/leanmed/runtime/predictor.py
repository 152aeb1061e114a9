"""`load()` an artifact and `predict()`: numpy, ONNX Runtime and Pillow, without torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from leanmed.errors import ArtifactError, DataError, UnsupportedInput
from leanmed.reading.images import DEFAULT_LIMITS, Limits, as_pixels, read_image
from leanmed.reading.lung_slices import Scan, prepare, window
from leanmed.reading.volume import dicom_modality, open_slice, open_volume
from leanmed.records import Detections, Prediction
from leanmed.runtime.artifact import Artifact, Manifest, read_artifact
from leanmed.tasks.detection.candidates import Candidate, find_candidates

PICTURES = ("SC", "OT", "XC")  # modalities in DICOM that say nothing against a slice shown as pixels
FAR = 1e5  # pixels; no slice reaches so far
Source = str | Path | bytes | NDArray[Any] | Image.Image
OUTPUTS = {"probabilities": ["probabilities"], "boxes": ["boxes", "scores"]}  # a manifest's output, the graph's names


class Predictor:
    """A loaded artifact. One predictor may be used from several threads at once.

    Args:
        artifact: read and checked.
        threads: threads inside one prediction. For many images, one thread each and several images at once is
            faster.
        limits: caps on what is read.

    Raises:
        ArtifactError: ONNX Runtime cannot open the graph, or it takes or gives something else than
            `leanmed.json` says.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1, limits: Limits = DEFAULT_LIMITS) -> None:
        self.artifact = artifact
        self.limits = replace(limits, min_side=max(limits.min_side, self.manifest.input.min_side))
        try:
            self._session = open_session(artifact.graph, threads)
        except ArtifactError as error:
            if self.manifest.precision != "int4":
                raise
            raise ArtifactError(f"{error}, or make the artifact with leanmed quantize --to int4 --unpack") from error
        self._check_graph()

    @property
    def manifest(self) -> Manifest:
        """What `leanmed.json` says."""
        return self.artifact.manifest

    @property
    def takes_scans(self) -> bool:
        """Whether it finds boxes in slices of CT, so that whole scans can be searched."""
        return self.manifest.output == "boxes" and self.manifest.input.kind == "slice"

    def read(self, source: str | Path | bytes) -> NDArray[np.uint8]:
        """A file to pixels (h, w, 4), at a reduced scale where the graph would shrink it anyway."""
        path = Path(source) if isinstance(source, str) else source
        return read_image(
            path, limits=self.limits, side=self.manifest.input.side if self.manifest.input.reduced else None
        )

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (h, w, 3 or 4) to probabilities (K,), in the order of the labels.

        Raises:
            ArtifactError: the graph fails, or is one for boxes.
        """
        return self._run("probabilities", pixels)[0]

    def detect(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pixels (h, w, 3 or 4) to boxes (n, 4), xyxy in their frame, and scores (n,), best first, faint ones too.

        Raises:
            ArtifactError: the graph fails, or is one for probabilities.
        """
        boxes, scores = self._run("boxes", pixels)
        return boxes, scores

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Prediction:
        """Probabilities (K,) to the answer, by the threshold the artifact carries.

        Raises:
            DataError: they are no probabilities.
        """
        labels, threshold = self.manifest.labels, self.manifest.threshold
        best = int(np.argmax(probabilities)) if threshold is None else int(probabilities[1] >= threshold)
        return Prediction(labels[best], dict(zip(labels, map(float, probabilities), strict=True)))

    def answered(self, boxes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> Detections:
        """Those of boxes (n, 4) whose scores (n,) reach the threshold the artifact carries.

        Raises:
            DataError: boxes without size, or scores that are none.
        """
        sure = scores >= (self.manifest.threshold or 0.0)
        return Detections(tuple(boxes[sure].tolist()), tuple(scores[sure].tolist()))

    def predict(self, image: Source) -> Prediction:
        """Answer for one image.

        Args:
            image: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a
                Pillow image.

        Raises:
            InputError: it cannot be read as an image.
            ArtifactError, DataError: the graph fails on it, or gives no probabilities.
        """
        return self.decide(self.probabilities(self._pixels(image)))

    def predict_boxes(self, image: Source) -> Detections:
        """What an artifact for boxes finds in one image; otherwise as `predict`.

        One for slices of CT takes a slice in Hounsfield units, too: an array (h, w), (h, w, 1) or (h, w, 3) of floats
        or signed integers, 1 mm per pixel, which is windowed. A CT slice in DICOM is made ready as those of scans are;
        its boxes are in pixels of the slice as it is stored.

        Raises:
            InputError: as `predict`; NaN or infinity; no Hounsfield units; a CT slice without lungs, in which nothing
            would be found; DICOM of another modality.
        """
        if self.takes_scans and isinstance(image, str | Path | bytes):
            source = Path(image) if isinstance(image, str) else image
            modality = dicom_modality(source)
            if modality == "CT":
                return self.answered(*self._detect_stored(prepare(open_slice(source, self.limits))))
            if modality is not None and modality not in PICTURES:
                name = source if isinstance(source, Path) else "image data"
                raise UnsupportedInput(
                    f"{name}: expected CT, or a picture of it (modality {', '.join(PICTURES)}), got DICOM of modality "
                    f"{modality or 'unknown'}; give CT"
                )
        if self.takes_scans and isinstance(image, np.ndarray) and image.dtype.kind in "if":
            image = _windowed(image)
        return self.answered(*self.detect(self._pixels(image)))

    def open_scan(self, path: str | Path) -> Scan:
        """Read a whole scan: `.mhd`, NIfTI, or the folder of one DICOM series.

        Raises:
            InputError: it cannot be read, or is no chest CT.
            MissingExtraError: without scipy, or NIfTI without nibabel.
        """
        return prepare(open_volume(Path(path), self.limits))

    def find_candidates(self, scan: str | Path | Scan, *, count: int | None = None) -> list[Candidate]:
        """Search a whole scan: its candidates, best first, those below the artifact's threshold too.

        Args:
            scan: a path, as `open_scan` takes it, or what that gives.
            count: so many of the best; None: all.

        Raises:
            ArtifactError: the graph fails, or is none for boxes in slices of CT.
            DataError: it gives boxes that are not finite, or scores outside [0, 1].
            InputError, MissingExtraError: as `open_scan`.
        """
        if not self.takes_scans:
            raise ArtifactError(
                f"expected an artifact that gives boxes in slices of CT, got one that gives {self.manifest.output} "
                f"of a {self.manifest.input.kind}; take another artifact"
            )
        scan = scan if isinstance(scan, Scan) else self.open_scan(scan)
        return find_candidates(scan, self._detect_placed, neighbours=self._neighbours, count=count)

    @property
    def _neighbours(self) -> bool:
        return self.manifest.input.slices != 1

    def _detect_placed(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `detect`, for a slice whose place is known: sound boxes, counted from the corner of the first pixel."""
        boxes, scores = self.detect(pixels)
        sound = np.abs(boxes).max(initial=0) < FAR and (boxes[:, :2] < boxes[:, 2:]).all()  # neither holds for NaN
        if not (sound and ((scores >= 0) & (scores <= 1)).all()):
            raise DataError(
                "expected boxes with a size near the slice and scores in [0, 1], got others; the model is unsound: "
                "export it again"
            )
        return boxes + np.float32(0.5 if self.manifest.input.origin == "centre" else 0.0), scores

    def _detect_stored(self, single: Scan) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """As `detect`, for a scan of one slice: boxes (n, 4) in pixels of the slice as it is stored."""
        (piece,) = single.slices(neighbours=self._neighbours)
        boxes, scores = self._detect_placed(piece.pixels)
        return piece.stored_boxes(boxes), scores

    def _pixels(self, image: Source) -> NDArray[np.uint8]:
        return self.read(image) if isinstance(image, str | Path | bytes) else as_pixels(image, limits=self.limits)

    def _run(self, output: str, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        if output != self.manifest.output:
            raise ArtifactError(
                f"expected an artifact that gives {output}, got one that gives {self.manifest.output}; "
                f"call {'predict_boxes' if output == 'probabilities' else 'predict'} instead"
            )
        try:
            return self._session.run(OUTPUTS[output], {"pixels": pixels})  # type: ignore[no-any-return]
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(
                f"expected the graph to take pixels of shape {pixels.shape}, got: {_line(error)}; export it again"
            ) from error

    def _check_graph(self) -> None:
        takes = [(entry.name, entry.type, len(entry.shape)) for entry in self._session.get_inputs()]
        gives = [(entry.name, entry.shape) for entry in self._session.get_outputs()]
        boxes = self.manifest.output == "boxes"
        labels = len(self.manifest.labels)
        fits = [len(shape) for _, shape in gives] == [2, 1] if boxes else [shape for _, shape in gives] == [[labels]]
        names = [name for name, _ in gives]
        if takes != [("pixels", "tensor(uint8)", 3)] or names != OUTPUTS[self.manifest.output] or not fits:
            wanted = "boxes and scores" if boxes else f"{labels} probabilities"
            raise ArtifactError(
                f"expected a graph from uint8 pixels (h, w, c) to {wanted}, got one from "
                f"{takes} to {dict(gives)}; export it again"
            )


def _windowed(hu: NDArray[Any]) -> NDArray[np.uint8]:
    if hu.ndim == 3 and hu.shape[2] == 4:
        raise UnsupportedInput(
            f"image in memory: expected Hounsfield units, height x width x 1 or 3, got {hu.dtype} of shape {hu.shape}; "
            "leave alpha out, or convert pixels to uint8"
        )
    if hu.size and hu.min() >= 0:
        raise UnsupportedInput(
            f"image in memory: expected Hounsfield units, of which those of air are below 0, got {hu.min():g} to "
            f"{hu.max():g}; give HU, or pixels as uint8"
        )
    return window(hu)


def load(path: str | Path, *, threads: int = 1, limits: Limits = DEFAULT_LIMITS) -> Predictor:
    """Read, check and open an artifact folder.

    Raises:
        ArtifactError: no artifact, damaged, edited, or of a kind this ONNX Runtime cannot open.
    """
    return Predictor(read_artifact(Path(path)), threads=threads, limits=limits)


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
