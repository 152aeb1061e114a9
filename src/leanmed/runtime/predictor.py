"""`load()` an artifact and `predict()`: numpy, ONNX Runtime and Pillow, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from leanmed.errors import ArtifactError
from leanmed.records import Prediction
from leanmed.runtime.artifact import Artifact, Manifest, read_artifact
from leanmed.runtime.input import Limits, as_pixels, read_image


class Predictor:
    """A loaded artifact. One predictor may be used from several threads at once.

    Args:
        artifact: read and checked.
        threads: threads inside one prediction; for many images, one thread each and several images at once is faster.
        limits: caps on what is read.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1, limits: Limits = Limits()) -> None:
        self.artifact = artifact
        self.limits = limits
        self._session = open_session(artifact.graph, threads)

    @property
    def manifest(self) -> Manifest:
        """What `leanmed.json` says."""
        return self.artifact.manifest

    def read(self, source: str | Path | bytes) -> NDArray[np.uint8]:
        """A file to pixels (h, w, 4), at a reduced scale where the graph would shrink it anyway."""
        path = Path(source) if isinstance(source, str) else source
        return read_image(path, limits=self.limits, side=self.manifest.input.side)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (h, w, 3 or 4) to probabilities (K,), in the order of the labels."""
        return self._session.run([self.manifest.output], {"pixels": pixels})[0]  # type: ignore[no-any-return]

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Prediction:
        """Probabilities (K,) to the answer, by the threshold the artifact carries."""
        labels, threshold = self.manifest.labels, self.manifest.threshold
        best = int(np.argmax(probabilities)) if threshold is None else int(probabilities[1] >= threshold)
        return Prediction(labels[best], dict(zip(labels, map(float, probabilities), strict=True)))

    def predict(self, image: str | Path | bytes | NDArray[Any] | Any) -> Prediction:
        """Answer for one image.

        Args:
            image: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a Pillow image.

        Raises:
            InputError: it cannot be read as an image.
        """
        is_file = isinstance(image, str | Path | bytes)
        pixels = self.read(image) if is_file else as_pixels(image, limits=self.limits)
        return self.decide(self.probabilities(pixels))


def load(path: str | Path, *, threads: int = 1, limits: Limits = Limits()) -> Predictor:
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
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ArtifactError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open this graph: {error}; install a newer onnxruntime"
        ) from error
