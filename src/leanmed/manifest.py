"""`leanmed.json`: what an artifact says of itself.

Manifests carry a format number. Those of an older format are brought to this one when they are read; those of a newer
one are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT = 3
MAX_GRAPH_BYTES = 2**31
MAX_TRACES_BYTES = 2**23
GIVEN = "given"  # a threshold that somebody named as a number
INTENDED_USE = "Research use only. Not a medical device: never the sole ground of a decision about a patient."

Made = Literal["refit", "fold", "ensemble"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Graph(_Frozen):
    """One ONNX file of the artifact."""

    file: str = Field(pattern=r"^[A-Za-z0-9_-]+\.onnx$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_GRAPH_BYTES)


class Traces(_Frozen):
    """What is kept of the training images, so that copies of them are recognised: see `leanmed.audit.traces`."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_TRACES_BYTES)


class Input(_Frozen):
    """What the graph takes: pixels (h, w, c) of any size, of one of three types.

    A `photograph` is uint8, RGB or RGBA, alpha the tissue mask. A `slice` is one of a CT scan, uint8, 1 mm per pixel,
    [-1000, 400] HU mapped to 0..255, its channels being the slices below, itself and above. `intensities` are int16 or
    float32 values as they are stored, in `unit`.
    """

    kind: Literal["photograph", "slice", "intensities"] = "photograph"
    dtype: Literal["uint8", "int16", "float32"] = "uint8"
    unit: str = Field(default="", max_length=32, description="of the values, such as HU; empty: grey levels or none")
    scaled: Literal["none", "volume"] = Field(
        default="none",
        description="of intensities, by whoever gives them; volume: z-scores by the mean and standard deviation of the "
        "whole volume that an axial slice is of, its channels being the slices below, itself and above",
    )
    side: int = Field(gt=0, description="pixels; the side of the square the graph resizes to, or pads to")
    slices: Literal[1, 3] | None = Field(
        default=None, description="of a slice: 1: only the middle channel is looked at; 3: all are"
    )
    origin: Literal["corner", "centre"] = Field(
        default="corner", description="where in a pixel its whole-numbered coordinates lie, of answers with places"
    )
    reduced: bool = Field(
        default=True, description="large files may be decoded at a reduced scale: it was measured to keep the answer"
    )
    min_side: int = Field(default=8, gt=0, description="pixels; smaller images are refused")

    @model_validator(mode="after")
    def _type_fits_kind(self) -> Input:
        if (self.kind == "intensities") == (self.dtype == "uint8"):
            raise ValueError(f"expected int16 or float32 for intensities, else uint8, got {self.dtype} for {self.kind}")
        return self


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
    made: Made = Field(
        default="fold", description="refit: trained on all images; fold: one of the run's; ensemble: all of the run's"
    )
    fold: int | None = Field(default=None, description="which fold, of a fold")
    seen_images: tuple[str, ...] = Field(default=(), description="`image_mark` of each image used to train or select")
    selected_images: tuple[str, ...] = Field(
        default=(), description="those of seen_images that nothing was trained on: they chose epoch and threshold"
    )
    parents: tuple[str, ...] = Field(default=(), description="hashes of the artifacts this one was made from")
    teacher: dict[str, str] | None = Field(
        default=None, description="name, backbone and sha256 of the run from which the model learned too; None: of none"
    )
    packages: dict[str, str] = Field(default_factory=dict)


class Familiar(_Frozen):
    """How an artifact tells that an image is unlike those that it was trained on; see `leanmed.models.familiarity`."""

    threshold: float = Field(gt=0, lt=1, description="an image whose `familiar` is below it is remarked on")
    images: int = Field(gt=0, description="validation images of the run's folds, by which `familiar` was scaled")
    bytes: int = Field(gt=0, description="what it takes in the graph")
    suspected: dict[str, float | int | None] = Field(
        default_factory=dict,
        description="the share of the run's test images below the threshold, each by a model that had not seen it and "
        "by a scale made without its group: {value, low, high, n}",
    )


class Manifest(_Frozen):
    """`leanmed.json`.

    `figures` are the measured ones: name -> {value, low, high, n}, low and high being a 95 % interval.
    `quantization` tells how a compressed artifact was made, and is empty for the float one. `recalibration` tells what
    was fitted to images of another place (see `leanmed.exporting.recalibrate`), and is empty if nothing was; `figures`
    are then those of before.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    name: str
    task: str = Field(description="the kind of task, which says what the graphs give and how it is decided")
    labels: tuple[str, ...] = Field(min_length=1, description="what answers are made of, in the order of the outputs")
    input: Input
    threshold: float | None = Field(ge=0, le=1, description="the least probability or score that is answered")
    pieces: Literal["all", "image", "volume"] = Field(
        default="all",
        description="of masks, which connected pieces of a label whoever runs the graph keeps; image: the largest of "
        "each image; volume: the largest of each volume, once its slices are put together",
    )
    threshold_rule: str = Field(
        default="",
        max_length=64,
        description="how the threshold was chosen on validation images: f1, youden, sensitivity:0.9; given: it was not",
    )
    temperature: float = Field(gt=0, description="logits were divided by this; it is inside the graph")
    precision: str = Field(
        default="fp32",
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
        description="fp32, or how the weights are stored and computed with, such as int8",
    )
    main_score: str = Field(description="the figure by which versions of this artifact are compared")
    graphs: dict[str, Graph] = Field(max_length=4)
    familiar: Familiar | None = Field(
        default=None, description="None: the artifact does not tell how familiar an image is"
    )
    traces: Traces | None = Field(default=None, description="of traces.bin; None: there is none")
    figures_of: Literal["itself", "folds"] = Field(
        default="itself",
        description="itself: measured with this model on images new to it; folds: cross-validated, with the models of "
        "the run's folds, which were made in the same way, each on images new to it",
    )
    figures: dict[str, dict[str, float | int | None]] = Field(default_factory=dict)
    leak: str | None = Field(default=None, description="why the figures are too good, if they are")
    provenance: Provenance
    quantization: dict[str, Any] = Field(default_factory=dict)
    recalibration: dict[str, Any] = Field(default_factory=dict)
    intended_use: str = INTENDED_USE

    @property
    def bytes(self) -> int:
        """The size of all graphs together."""
        return sum(graph.bytes for graph in self.graphs.values())

    @property
    def threshold_origin(self) -> str:
        """How the threshold was chosen, in words that follow it."""
        rule, _, least = self.threshold_rule.partition(":")
        how = {
            "f1": "for the best F1",
            "youden": "for the best sum of sensitivity and specificity",
            "sensitivity": f"for the best specificity with a sensitivity of at least {least}",
        }
        images = "the images that it was recalibrated on" if self.recalibration else "validation images"
        return "that was given as a number" if rule == GIVEN else f"chosen on {images} {how.get(rule, '')}".rstrip()

    @model_validator(mode="after")
    def _labels_differ(self) -> Manifest:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"expected different labels, got {list(self.labels)}")
        return self


def migrated(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest of an older format in this one; of this one, a copy.

    Format 1 had `output`, which the kind of task says already. Up to format 2 the card had a hash.
    """
    found = dict(content)
    if found.get("format", FORMAT) == 1:
        found.pop("output", None)
    if found.get("format", FORMAT) < FORMAT:
        found.pop("card_sha256", None)
        rule = found.get("provenance", {}).get("recipe", {}).get("training", {}).get("threshold", "")
        found |= {"format": FORMAT, "threshold_rule": rule if found.get("threshold") is not None else ""}
    return found
