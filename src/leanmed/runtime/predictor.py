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

from leanmed.errors import ArtifactError
from leanmed.records import Prediction
from leanmed.runtime.artifact import Artifact, Manifest, read_artifact
from leanmed.runtime.input import DEFAULT_LIMITS, Limits, as_pixels, read_image


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
        self._session = open_session(artifact.graph, threads)
        self._check_graph()

    @property
    def manifest(self) -> Manifest:
        """What `leanmed.json` says."""
        return self.artifact.manifest

    def read(self, source: str | Path | bytes) -> NDArray[np.uint8]:
        """A file to pixels (h, w, 4), at a reduced scale where the graph would shrink it anyway."""
        path = Path(source) if isinstance(source, str) else source
        return read_image(
            path, limits=self.limits, side=self.manifest.input.side if self.manifest.input.reduced else None
        )

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (h, w, 3 or 4) to probabilities (K,), in the order of the labels.

        Raises:
            ArtifactError: the graph fails.
        """
        try:
            return self._session.run([self.manifest.output], {"pixels": pixels})[0]  # type: ignore[no-any-return]
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(
                f"expected the graph to take pixels of shape {pixels.shape}, got: {_line(error)}; export it again"
            ) from error

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Prediction:
        """Probabilities (K,) to the answer, by the threshold the artifact carries.

        Raises:
            DataError: they are no probabilities.
        """
        labels, threshold = self.manifest.labels, self.manifest.threshold
        best = int(np.argmax(probabilities)) if threshold is None else int(probabilities[1] >= threshold)
        return Prediction(labels[best], dict(zip(labels, map(float, probabilities), strict=True)))

    def predict(self, image: str | Path | bytes | NDArray[Any] | Image.Image) -> Prediction:
        """Answer for one image.

        Args:
            image: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a
                Pillow image.

        Raises:
            InputError: it cannot be read as an image.
            ArtifactError, DataError: the graph fails on it, or gives no probabilities.
        """
        pixels = self.read(image) if isinstance(image, str | Path | bytes) else as_pixels(image, limits=self.limits)
        return self.decide(self.probabilities(pixels))

    def _check_graph(self) -> None:
        takes = [(entry.name, entry.type, len(entry.shape)) for entry in self._session.get_inputs()]
        gives = {entry.name: entry.shape for entry in self._session.get_outputs()}
        labels = len(self.manifest.labels)
        if takes != [("pixels", "tensor(uint8)", 3)] or gives.get(self.manifest.output) != [labels]:
            raise ArtifactError(
                f"expected a graph from uint8 pixels (h, w, c) to {labels} probabilities, got one from "
                f"{takes} to {gives}; export it again"
            )


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
