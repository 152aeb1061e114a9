"""An artifact: one folder that holds the whole computation, from decoded pixels to the answer.

```
model.onnx      uint8 (h, w, 3 or 4) of any size in; out, probabilities (K,), or boxes (n, 4) with scores (n,)
leanmed.json    the Manifest below, with the SHA-256 of each graph and of itself
CARD.md         what it is for, what it was made from, how good it is
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from leanmed.errors import ArtifactError
from leanmed.files import check_free, sha256_bytes, sha256_json, whole_folder, write_json, write_text

FORMAT = 1
MANIFEST = "leanmed.json"
CARD = "CARD.md"
MAX_GRAPH_BYTES = 2**31
MAX_CARD_BYTES = 2**20
MAX_MANIFEST_BYTES = 2**26  # it names a million training images in a third of that
INTENDED_USE = "Research use only. Not a medical device: never the sole ground of a decision about a patient."

Precision = Literal["fp32", "fp16", "int8", "int4"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Graph(_Frozen):
    """One ONNX file of the artifact."""

    file: str = Field(pattern=r"^[A-Za-z0-9_-]+\.onnx$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_GRAPH_BYTES)


class Input(_Frozen):
    """What the graph takes: uint8 (h, w, 3 or 4).

    A `photograph` is RGB or RGBA, alpha the tissue mask. A `slice` is one of a CT scan, 1 mm per pixel, [-1000, 400] HU
    mapped to 0..255, its channels being the slices below, itself and above.
    """

    kind: Literal["photograph", "slice"] = "photograph"
    dtype: Literal["uint8"] = "uint8"
    side: int = Field(gt=0, description="pixels; the side of the square the graph resizes to, or pads to")
    slices: Literal[1, 3] | None = Field(
        default=None, description="for boxes: 1: only the middle channel is looked at; 3: all are"
    )
    origin: Literal["corner", "centre"] = Field(
        default="corner", description="for boxes: where in a pixel its whole-numbered coordinates lie"
    )
    reduced: bool = Field(
        default=True, description="large files may be decoded at a reduced scale: it was measured to keep the answer"
    )
    min_side: int = Field(default=8, gt=0, description="pixels; smaller images are refused")


def image_mark(content: str) -> str:
    """What an artifact keeps of an image it was made from: the first 16 digits of the SHA-256 of its file."""
    return content[:16]


class Provenance(_Frozen):
    """Where the artifact comes from: to make it again, and never to score it on what it learned from."""

    leanmed: str = Field(description="version of leanmed that wrote it")
    recipe: dict[str, Any] = Field(default_factory=dict, description="the resolved recipe")
    data_sha256: str = Field(description="hash of the whole data set: contents, labels and groups")
    seed: int
    protocol: str
    fold: int
    seen_images: tuple[str, ...] = Field(default=(), description="`image_mark` of each image used to train or select")
    selected_images: tuple[str, ...] = Field(
        default=(), description="those of seen_images that nothing was trained on: they chose epoch and threshold"
    )
    parents: tuple[str, ...] = Field(default=(), description="hashes of the artifacts this one was made from")
    packages: dict[str, str] = Field(default_factory=dict)


class Manifest(_Frozen):
    """`leanmed.json`.

    `figures` are the measured ones: name -> {value, low, high, n}, low and high being a 95 % interval.
    `quantization` tells how a compressed artifact was made, and is empty for the float one.
    """

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    name: str
    task: Literal["classification", "detection"]
    labels: tuple[str, ...] = Field(
        min_length=1, description="in the order of the probabilities, positive last; or the one thing in the boxes"
    )
    input: Input
    output: Literal["probabilities", "boxes"] = Field(
        default="probabilities", description="boxes: (n, 4) xyxy in pixels of the image, and beside them `scores` (n,)"
    )
    threshold: float | None = Field(
        ge=0,
        le=1,
        description="two labels: answer the second when its probability is at least this; boxes: answer those with at "
        "least this score",
    )
    temperature: float = Field(gt=0, description="logits were divided by this; it is inside the graph")
    precision: Precision = "fp32"
    main_score: str = Field(description="the figure by which versions of this artifact are compared")
    graphs: dict[str, Graph] = Field(max_length=4)
    card_sha256: str = Field(default="", description="of CARD.md")
    figures: dict[str, dict[str, float | int | None]] = Field(default_factory=dict)
    leak: str | None = Field(default=None, description="why the figures are too good, if they are")
    provenance: Provenance
    quantization: dict[str, Any] = Field(default_factory=dict)
    intended_use: str = INTENDED_USE

    @field_validator("labels")
    @classmethod
    def _enough(cls, labels: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if known.data.get("task") == "classification" and len(labels) < 2:
            raise PydanticCustomError("too_short", "Tuple should have at least 2 items for classification")
        return labels

    @model_validator(mode="after")
    def _labels_fit(self) -> Manifest:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"expected different labels, got {list(self.labels)}")
        boxes = self.task == "detection"
        if boxes != (self.output == "boxes") or boxes != (len(self.labels) == 1):
            raise ValueError(
                f"expected one label and boxes for detection, else more and probabilities, got {self.labels}"
            )
        if boxes and self.threshold is None:
            raise ValueError("expected a threshold for boxes, got none")
        if self.threshold is not None and len(self.labels) > 2:
            raise ValueError(f"expected a threshold for two labels only, got one for {len(self.labels)}")
        return self


class Artifact(_Frozen):
    """A checked artifact in memory: the manifest, its hash, and the bytes of each graph."""

    manifest: Manifest
    sha256: str
    graphs: dict[str, bytes]
    card: str

    @property
    def graph(self) -> bytes:
        """The bytes of the one graph, for artifacts that have one.

        Raises:
            ArtifactError: it has others.
        """
        if "model" not in self.graphs:
            raise ArtifactError(
                f"expected an artifact with a graph `model`, got {sorted(self.graphs)}; take one that has it"
            )
        return self.graphs["model"]


def write_artifact(out: Path, manifest: Manifest, graphs: Mapping[str, bytes], card: str) -> Artifact:
    """Write an artifact folder whole, filling in the graphs' hashes and sizes; an older one is replaced.

    Raises:
        ArtifactError: `out` exists and is no artifact.
    """
    check_room(out)
    entries = {n: Graph(file=f"{n}.onnx", sha256=sha256_bytes(b), bytes=len(b)) for n, b in graphs.items()}
    manifest = manifest.model_copy(update={"graphs": entries, "card_sha256": sha256_bytes(card.encode())})
    content = manifest.model_dump(mode="json")
    with whole_folder(out, replace=True) as folder:
        for name, graph in graphs.items():
            (folder / entries[name].file).write_bytes(graph)
        write_json(folder / MANIFEST, content | {"sha256": sha256_json(content)})
        write_text(folder / CARD, card)
    return Artifact(manifest=manifest, sha256=sha256_json(content), graphs=dict(graphs), card=card)


def check_room(out: Path) -> None:
    """Refuse a folder that cannot become an artifact's, before any work is done.

    Raises:
        ArtifactError: `out` exists and is no artifact.
    """
    if not (out / MANIFEST).is_file():
        check_free(out, wanted="new, empty or an artifact", error=ArtifactError)


def read_artifact(path: Path) -> Artifact:
    """Read an artifact and check every hash before anything of it is used.

    Raises:
        ArtifactError: no artifact, damaged, edited by hand, or written by a newer leanmed.
    """
    manifest, digest = _read_manifest(path)
    graphs = {name: _read_graph(path / graph.file, graph) for name, graph in manifest.graphs.items()}
    return Artifact(manifest=manifest, sha256=digest, graphs=graphs, card=_read_card(path / CARD, manifest))


def _read_card(file: Path, manifest: Manifest) -> str:
    """The card, or nothing where it was left behind: a graph predicts without it."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        content = opened.read(MAX_CARD_BYTES + 1)
    if sha256_bytes(content) != manifest.card_sha256:
        raise ArtifactError(f"{file} was edited or damaged: its hash does not match; take a fresh copy or export again")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{file}: expected text in UTF-8, got {error}; export the artifact again") from error


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: expected an artifact, a folder with {MANIFEST}, got none; check the path")
    try:
        content = _parse(file)
        digest = content.pop("sha256")
        if sha256_json(content) != digest:
            raise ArtifactError(
                f"{file} was edited or damaged: its hash does not match; take a fresh copy or export again"
            )
        return Manifest.model_validate(content), digest
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file} is damaged ({_reason(error)}); take a fresh copy of the artifact") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return repr(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'manifest'}: {first['msg']}"


def _parse(file: Path) -> Any:
    size = file.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise ValueError(f"expected at most {MAX_MANIFEST_BYTES:,} bytes, got {size:,}")
    content = json.loads(file.read_bytes())
    if content.get("format", 0) > FORMAT:
        raise ArtifactError(
            f"{file}: expected format {FORMAT} or older, got {content['format']}; install a newer leanmed"
        )
    return content


def _read_graph(file: Path, graph: Graph) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size == graph.bytes else b""
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error.strerror}); take a fresh copy of it") from error
    if size != graph.bytes:
        raise ArtifactError(f"{file}: expected {graph.bytes} bytes, got {size}: damaged; take a fresh copy of it")
    if sha256_bytes(content) != graph.sha256:
        raise ArtifactError(
            f"{file} does not match its hash in {MANIFEST}: damaged or replaced; take a fresh copy of it"
        )
    return content
