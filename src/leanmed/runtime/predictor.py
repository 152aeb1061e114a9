"""`load()` an artifact and `predict()`: numpy, ONNX Runtime and Pillow, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from leanmed.data import read_pixels
from leanmed.errors import ArtifactError, DataError, UnfamiliarInput
from leanmed.figures.familiarity import remark
from leanmed.manifest import Manifest
from leanmed.prompts import Prompts
from leanmed.reading.images import DEFAULT_LIMITS, Limits, read_image
from leanmed.reading.lung_slices import Scan, prepare
from leanmed.reading.mr import Whole, open_whole
from leanmed.reading.volume import is_scan, open_volume
from leanmed.records import Record
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.explain import CELLS, MASKS, Saliency, check_explained, explain
from leanmed.runtime.sources import Frame, Source, open_frame
from leanmed.tasks import TASKS
from leanmed.tasks.kind import (
    FAMILIAR,
    MODEL,
    Answer,
    AnswerPart,
    Feeds,
    Kind,
    Outputs,
    RunGraph,
    ScanAnswer,
    with_familiar,
)

if TYPE_CHECKING:
    from leanmed.tasks.answers import Candidate, Detections

MOST = 50  # candidates of a scan


class Predictor:
    """A loaded artifact. One predictor may be used from several threads at once.

    Args:
        artifact: read and checked.
        threads: threads inside one prediction. For many images, one thread each and several images at once is
            faster.
        limits: caps on what is read.
        threshold: decide by this one instead of the artifact's own.
        refuse_unfamiliar: raise an UnfamiliarInput in place of an answer for an image that looks unlike those that the
            model was trained on.

    Raises:
        ArtifactError: ONNX Runtime cannot open a graph, it takes or gives something else than `leanmed.json` says, the
            threshold is none for such an artifact, or it cannot tell how familiar an image looks and should refuse.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        threshold: float | None = None,
        refuse_unfamiliar: bool = False,
    ) -> None:
        self.artifact = artifact
        self.refuse_unfamiliar = refuse_unfamiliar
        if refuse_unfamiliar and artifact.manifest.familiar is None:
            raise ArtifactError(
                "expected an artifact that tells how familiar an image looks, since unfamiliar ones are to be refused, "
                "got one of an earlier version or of too few images; export it again, or answer for all images"
            )
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
        return self.kind_of_task.answer

    @property
    def kind_of_task(self) -> Kind:
        """The artifact's kind of task."""
        return TASKS[self.manifest.task]

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

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        """What one graph gives, in the order of its outputs.

        Raises:
            ArtifactError: the graph fails on what it is given.
        """
        return self._run(graph, self.kind.GRAPHS[graph], feeds)

    def _run(self, graph: str, outputs: Sequence[str], feeds: Feeds) -> Outputs:
        try:
            return cast(Outputs, self._sessions[graph].run(list(outputs), dict(feeds)))
        except Exception as error:  # ONNX Runtime's errors share no base class
            given = " and ".join(f"{name} of shape {values.shape}" for name, values in feeds.items())
            raise ArtifactError(f"expected the graph to take {given}, got: {_line(error)}; export it again") from error

    def outputs(self, pixels: NDArray[Any]) -> Outputs:
        """What the graphs together give for pixels (h, w, c) without prompts, which is what is decided.

        Raises:
            ArtifactError: a graph fails on them.
        """
        return self.kind_of_task.outputs(pixels, self.run)

    def predict(self, image: Source, prompts: Prompts | None = None) -> Any:
        """Answer for one image, or for a whole scan where the artifact looks at slices of scans.

        Args:
            image: a path, the bytes of a file, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a Pillow image.
                An artifact for slices of CT also takes a slice in Hounsfield units (an array of floats or signed
                integers, 1 mm per pixel), a CT slice in DICOM, whose boxes are then in pixels of the slice as it is
                stored, and whole scans, as `open_scan` does. One for volumes of MR takes these whole.
            prompts: what is meant in a single image, for artifacts that take prompts; `look` answers several times.

        Returns:
            The answer of the artifact's kind of task: `leanmed.Prediction` (a label), `leanmed.Detections` (boxes),
            `leanmed.MaskedImage` (a mask), or of a scan `leanmed.Candidates` or `leanmed.MaskedScan`. Each has
            `as_json()` and `familiar`, those of one image `draw(pixels)`, and masks `file()`.

        Raises:
            InputError: it cannot be read as an image, or it looks unfamiliar and such are refused.
            ArtifactError, DataError: the graph fails on it, or gives no sound answer; or prompts lie outside the image
                or are given to an artifact that takes none.
        """
        if prompts is None and self.takes_scans and isinstance(image, str | Path) and is_scan(Path(image)):
            return self.predict_scan(image)
        return self.answer(self.frame(image), prompts)

    def look(self, image: Source) -> Looked:
        """What the graph `model` makes of one image, of which answers to several prompts can then be had.

        The first graph is the slow one of those artifacts that take prompts, and each answer costs the others alone.

        Raises:
            InputError: it cannot be read as an image.
            ArtifactError: the graph fails on it.
        """
        return self._look(self.frame(image))

    def _look(self, frame: Frame) -> Looked:
        outputs, familiar = self._seen(frame.pixels)
        self._check_familiar(familiar)
        return Looked(self, frame, outputs, familiar)

    def _seen(self, pixels: NDArray[Any]) -> tuple[Outputs, float | None]:
        """What the graph `model` gives, and how familiar the image looks, if it tells."""
        outputs = self._run(MODEL, self._outputs_of(MODEL), {"pixels": pixels})
        if self.manifest.familiar is None:
            return outputs, None
        *outputs, share = outputs
        familiar = float(share.reshape(-1)[0])
        if not 0 <= familiar <= 1:
            raise DataError(f"expected `{FAMILIAR}` from 0 to 1, got {familiar}; the model is unsound: export it again")
        return outputs, familiar

    def _check_familiar(self, familiar: float | None) -> None:
        """Refuse an unfamiliar image, if such are to be refused."""
        if self.refuse_unfamiliar and familiar is not None and (said := self.remark(familiar)):
            raise UnfamiliarInput(f"refused: {said} Give images like those, or do not refuse unfamiliar ones", familiar)

    def remark(self, familiar: float | None) -> str:
        """What is to be said of an image that looks so familiar; nothing, unless it looks unfamiliar."""
        about = self.manifest.familiar
        if about is None or familiar is None or familiar >= about.threshold:
            return ""
        return remark(familiar, about.threshold)

    def predict_record(self, record: Record) -> Answer:
        """Answer for a record's image, or for its slice of a volume."""
        return self.answer(self.frame_of(record))

    def frame_of(self, record: Record) -> Frame:
        """A record's image, or its slice of a volume, as the graph takes it."""
        return self.frame(record.image) if record.frame is None else Frame(read_pixels(record))

    def frame(self, image: Source) -> Frame:
        """An image as the graph takes it; see `predict`."""
        return open_frame(image, self.manifest.input, self.limits)

    def answer(self, frame: Frame, prompts: Prompts | None = None) -> Answer:
        """Answer for an image that is read already, with places in the image as it is stored."""
        self.check_prompts(frame, prompts)
        return cast(Answer, self._look(frame).answer(prompts))

    def decide(self, frame: Frame, prompts: Prompts | None = None) -> Answer:
        """As `answer`, but with places in the frame's own pixels, to be drawn over them."""
        self.check_prompts(frame, prompts)
        return self._look(frame).decide(prompts)

    def check_prompts(self, frame: Frame, prompts: Prompts | None) -> Prompts | None:
        """Prompts in the image as it is stored -> in the frame's pixels.

        Raises:
            ArtifactError: the artifact takes none.
            DataError: they lie outside the image.
        """
        if prompts is not None and not self.kind_of_task.has_further_graphs:
            raise ArtifactError(
                f"expected no points or boxes, since artifacts of the kind {self.manifest.task} take the image alone, "
                "got some; leave them out, or take an artifact that takes prompts"
            )
        return None if prompts is None else frame.shown(prompts)

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
        familiar: list[float] = []

        def run(pixels: NDArray[Any]) -> Outputs:
            outputs, own = self._seen(pixels)
            familiar.extend([] if own is None else [own])
            return self.kind_of_task.finish_for(pixels, outputs, None, self.run)

        found = self.kind.search(scan, run, self.manifest, count)
        usual = float(np.median(familiar)) if familiar else None
        self._check_familiar(usual)
        return cast(ScanAnswer, with_familiar(found, usual))

    def explain(self, image: Source, *, masks: int = MASKS, cells: int = CELLS) -> Saliency:
        """Which parts of one image its score depends on: see `leanmed.runtime.explain`.

        Of two labels the score is the probability of the positive one, of more that of the answer; of boxes it is the
        score of the best one. It takes one answer for each random mask, or for each part that is covered, of which
        there are up to `(cells + 1) ** 2`.

        Args:
            image: a single image, as `predict` takes it.
            masks: cover half of the image so many times at random (RISE); 0: cover one part after the other, which is
                faster and finds the place less often.
            cells: of covering one part after the other: into how many the longer side of the image is divided, at
                least 1; a cover is two cells wide.

        Returns:
            What speaks for the score and against it, in the image as it is stored.

        Raises:
            InputError: it cannot be read as a single image.
            ArtifactError, DataError: the answers show their place themselves, as masks do; or as of `predict`.
        """
        check_explained(self, [Path(image)] if isinstance(image, str | Path) else [])
        frame = self.frame(image)
        found = explain(self, frame.pixels, masks=masks, cells=cells)
        return found.placed(frame.points) if frame.points else found

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
            outputs, wanted = [entry.name for entry in session.get_outputs()], self._outputs_of(name)
            if outputs != wanted:
                raise ArtifactError(
                    f"expected the graph {name} to give {', '.join(wanted)}, got {', '.join(outputs)}; export it again"
                )
        for name, taken in self.kind_of_task.inputs.items():
            inputs = [entry.name for entry in self._sessions[name].get_inputs()]
            if sorted(inputs) != sorted(taken):
                raise ArtifactError(
                    f"expected the graph {name} to take {', '.join(taken)}, got {', '.join(inputs)}; export it again"
                )
        self._check_model()

    def _outputs_of(self, graph: str) -> list[str]:
        """The names of a graph's outputs: the kind's, and `familiar` of `model` where the artifact tells it."""
        told = graph == MODEL and self.manifest.familiar is not None
        return [*self.kind.GRAPHS[graph], *[FAMILIAR] * told]

    def _check_model(self) -> None:
        session, manifest = self._sessions[MODEL], self.manifest
        takes = [(entry.name, entry.type, len(entry.shape)) for entry in session.get_inputs()]
        gives = {entry.name: entry.shape for entry in session.get_outputs() if entry.name != FAMILIAR}
        wanted = [("pixels", f"tensor({_onnx_type(manifest.input.dtype)})", 3)]
        final = not self.kind_of_task.has_further_graphs  # of other kinds, only the last graph's outputs have labels
        if takes != wanted or (final and not self.kind.fits(gives, manifest.labels)):
            raise ArtifactError(
                f"expected a graph from {manifest.input.dtype} pixels (h, w, c) to "
                f"{' and '.join(self.kind.GRAPHS[MODEL])} of {', '.join(manifest.labels)}, got one from {takes} to "
                f"{gives}; export it again"
            )


@dataclass(frozen=True, eq=False)
class Looked:
    """One image that the graph `model` has looked at, to be asked as often as one likes.

    Args:
        predictor: whose graphs answer.
        frame: the image.
        outputs: of the graph `model`.
        familiar: how familiar the image looks; None: the artifact does not tell.
    """

    predictor: Predictor
    frame: Frame
    outputs: Outputs
    familiar: float | None = None

    def answer(self, prompts: Prompts | None = None) -> Any:
        """As `Predictor.predict`; prompts and places are in the image as it is stored."""
        found = self.decide(prompts)
        return found.placed(self.frame.points) if self.frame.points else found

    def decide(self, prompts: Prompts | None = None) -> Answer:
        """As `answer`, but with places in the frame's own pixels, to be drawn over them."""
        predictor = self.predictor
        shown = predictor.check_prompts(self.frame, prompts)
        final = predictor.kind_of_task.finish_for(self.frame.pixels, self.outputs, shown, predictor.run)
        return cast(Answer, with_familiar(predictor.kind.decide(final, predictor.manifest), self.familiar))


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
    path: str | Path,
    *,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    threshold: float | None = None,
    refuse_unfamiliar: bool = False,
) -> Predictor:
    """Read, check and open an artifact folder; the arguments are those of `Predictor`.

    Raises:
        ArtifactError: no artifact, damaged, edited, or of a kind this ONNX Runtime cannot open.
    """
    given: dict[str, Any] = {"threads": threads, "limits": limits, "threshold": threshold}
    return Predictor(read_artifact(Path(path)), **given, refuse_unfamiliar=refuse_unfamiliar)


def open_session(graph: bytes, threads: int = 1, *, in_order: bool = False) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU whose idle threads sleep: spinning ones starve a busy machine.

    Args:
        graph: an ONNX file.
        threads: that one run may use.
        in_order: nodes run as early as their order in the file has them, so that what each needs can be freed soon.

    Raises:
        ArtifactError: ONNX Runtime cannot open the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
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


def open_graphs(graphs: Mapping[str, bytes]) -> RunGraph:
    """Open an artifact's graphs, each with one thread: what runs them by their names.

    Raises:
        ArtifactError: ONNX Runtime cannot open one.
    """
    sessions = {name: open_session(graph) for name, graph in graphs.items()}
    # the kind of task knows nothing of the output that tells how familiar an image looks
    outputs = {k: [o.name for o in s.get_outputs() if o.name != FAMILIAR] for k, s in sessions.items()}
    return lambda name, feeds: cast(Outputs, sessions[name].run(outputs[name], dict(feeds)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
