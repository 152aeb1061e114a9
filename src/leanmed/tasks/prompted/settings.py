"""What a recipe says of a network that marks what it is pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from leanmed.recipe.recipe import Section
from leanmed.tasks.segmentation.settings import IGNORED as IGNORED_BY_MASKS
from leanmed.tasks.segmentation.settings import SCORES, SegmentationRecipe

__all__ = ["BACKBONES", "BACKBONES_HELP", "IGNORED", "RECIPE", "SCORES", "STUDENTS"]


class Prompter(Section):
    """Prompts: those that training draws from the true masks, and the localiser that points where nobody does."""

    point: Literal["centroid", "distance-peak"] = Field(
        default="distance-peak",
        description="the point of an object that the localiser learns to find; distance-peak: the pixel that lies "
        "deepest inside it; centroid: the mean of its pixels, which may lie outside; paper: centroid",
    )
    localiser: str = Field(
        default="none",
        description="weights of the localiser; none: random; imagenet: from timm's hub; else the path of a "
        ".safetensors or .pth file",
    )
    localiser_backbone: str = Field(
        default="resnet18",
        description="the localiser's network, by timm's name; a smaller one makes a smaller artifact; paper: resnet18",
    )
    positives: int = Field(default=2, ge=1, le=16, description="most points inside the object that training draws")
    negatives: int = Field(default=1, ge=0, le=16, description="most points outside the object that training draws")
    boxes: float = Field(default=0.25, ge=0, le=1, description="share of training's prompts that are a box alone")
    jitter: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="how far each corner of a box is moved in training, at most, as a share of the box's sides",
    )
    checkpointing: Literal["none", "global", "all"] = Field(
        default="none",
        description="blocks of the encoder that are computed again in the backward pass, which saves memory and costs "
        "time; global: those that attend to the whole image; all: every block",
    )


class PromptedRecipe(SegmentationRecipe):
    """A recipe with prompts."""

    prompter: Prompter = Field(default_factory=Prompter)

    @model_validator(mode="after")
    def _whole_images(self) -> PromptedRecipe:
        if self.segmenter.crop is not None:
            raise ValueError(
                f"expected no segmenter.crop, since the encoder sees whole images, got {self.segmenter.crop}"
            )
        if self.segmenter.slices != 3:
            raise ValueError(
                f"expected segmenter.slices to be 3, since the encoder has three channels, got {self.segmenter.slices}"
            )
        return self


RECIPE = PromptedRecipe
IGNORED = {**IGNORED_BY_MASKS, "model.dropout": "SAM has none"}
BACKBONES = (
    *("sam-vit-b", "sam-vit-l", "sam-vit-h", "sam-small"),
    *("sam-hq-vit-b", "sam-hq-vit-l", "sam-hq-vit-h", "samus-vit-b", "samus-small"),
)
STUDENTS: Mapping[str, tuple[str, ...]] = {}  # such a network must have learned before, or it learns too slowly
BACKBONES_HELP = (
    "sam-vit-b, sam-vit-l or sam-vit-h; sam-hq-vit-b, sam-hq-vit-l or sam-hq-vit-h, which are SAM-HQ's; sam-small, "
    "which can be trained from nothing; samus-vit-b or samus-small, which start from the weights of sam-vit-b or "
    "sam-small and train only what SAMUS adds"
)
