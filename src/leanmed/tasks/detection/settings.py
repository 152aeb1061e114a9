"""What a recipe says of a detector."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from leanmed.recipe.recipe import STRIDES, Fraction, Recipe, Section


class Detector(Section):
    """What is found, by SSD (Liu et al. 2016, arXiv:1512.02325).

    Images keep their scale: they are padded to `model.side`, and only larger ones are shrunk to it.
    """

    slices: Literal[1, 3] = Field(
        default=1, description="1: the middle channel alone, which is the slice itself; 3: its neighbours too"
    )
    zoom: int = Field(default=1, ge=1, le=4, description="factor by which images are enlarged inside the network")
    neck: Literal["none", "fpn"] = Field(
        default="fpn", description="none: heads on the backbone's own maps, as in SSD; fpn: maps joined top-down"
    )
    width: int = Field(default=96, ge=8, le=512, description="channels of the joined maps")
    depth: int = Field(default=3, ge=1, le=8, description="convolutions between a joined map and its head")
    deepest: Literal[4, 8, 16, 32] = Field(default=32, description="the backbone is cut after this stride")
    levels: tuple[int, ...] = Field(
        default=(4,),
        min_length=1,
        description="strides of the maps with heads, in pixels of the enlarged image; without neck, those beyond "
        "`deepest` are added as in SSD",
    )
    head: Literal["ssd", "ssdlite"] = Field(
        default="ssd", description="3 x 3 convolutions, or separable ones (Sandler et al. 2018, arXiv:1801.04381)"
    )
    anchors: Literal["auto"] | tuple[float, ...] = Field(
        default="auto", description="sides of the square default boxes; auto: from the training boxes' own sizes"
    )
    anchors_per_level: int = Field(default=5, ge=1, le=20, description="default boxes per position")
    matching: float = Field(
        default=0.5, gt=0, lt=1, description="IoU from which a default box is taken for an object; paper: .5"
    )
    near: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="a default box with an IoU from this up to `matching` is ignored: neither object nor background; "
        "paper: .5",
    )
    negatives: float = Field(default=3.0, gt=0, description="hard negatives per positive default box; paper: 3")
    negatives_floor: int = Field(
        default=8,
        ge=1,
        description="hard negatives per image at least, so that images without objects are learned from",
    )
    box_weight: float = Field(
        default=0.5, gt=0, description="weight of the box term of the loss against the class term; paper: 1"
    )
    crop: int = Field(
        default=160,
        ge=32,
        le=1024,
        description="side in pixels of the crops in training; the epoch is selected on whole images",
    )
    crops: int = Field(
        default=1,
        ge=1,
        le=64,
        description="crops of each image in a step, so that an epoch sees each image this many times",
    )
    crop_on_object: Fraction = Field(default=0.8, description="share of crops that hold an object, where there is one")
    nms: float = Field(
        default=0.3, gt=0, lt=1, description="of two boxes with a higher IoU, the lower scored one is removed"
    )

    @field_validator("levels")
    @classmethod
    def _doubling(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if levels[0] not in STRIDES or any(after != 2 * before for before, after in pairwise(levels)):
            raise ValueError(f"expected strides, each twice the one before, the first among {list(STRIDES)}")
        return levels

    @model_validator(mode="after")
    def _levels_fit(self) -> Detector:
        if self.neck == "fpn" and self.levels[-1] > self.deepest:
            raise ValueError(f"expected levels up to `deepest`, {self.deepest}, as neck is fpn")
        return self


class DetectionRecipe(Recipe):
    """A recipe with a detector."""

    detector: Detector = Field(default_factory=Detector)

    @model_validator(mode="after")
    def _maps_lie_on_one_another(self) -> DetectionRecipe:
        deepest, zoom = self.detector.deepest, self.detector.zoom
        for name, side in (("model.side", self.model.side), ("detector.crop", self.detector.crop)):
            if side * zoom % deepest:
                raise ValueError(
                    f"expected {name} times detector.zoom to be a multiple of {deepest}, got {side * zoom}"
                )
        return self


RECIPE = DetectionRecipe
SCORES = ("ap50", "froc", "sensitivity", "f1", "loss")
IGNORED = {
    "model.dropout": "SSD has none",
    "augment.rotation": "boxes stay upright; augment.quarter_turns turns them",
    "augment.shift": "training sees crops, which move about; detector.crop sets them",
    "training.label_smoothing": "boxes have no class labels",
    "data.values": "it reads no masks",
}
BACKBONES = ("mobilenetv1", "mobilenetv2", "inceptionv2", "resnet50", "resnet101")
STUDENTS = {name: (f"model.backbone={name}",) for name in ("mobilenetv3_small_100", "mobilenetv3_small_050")}
BACKBONES_HELP = f"{', '.join(BACKBONES)}, or another convolutional model of timm"
