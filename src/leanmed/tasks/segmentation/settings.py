"""What a recipe says of a segmenter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from leanmed.recipe.recipe import Augment, Data, Recipe, Section, Training


class MaskData(Data):
    """What is read."""

    dataset: str = Field(default="masks", description="a reader's name: masks, mr-sites, nnunet...")
    kind: Literal["photograph", "intensities"] = Field(
        default="photograph",
        description="photograph: images of 8 bits; intensities: axial slices of MR volumes with the slices beside "
        "them, as z-scores by the mean and standard deviation of the whole volume",
    )


class Changes(Augment):
    """Random changes of the training images, with their masks.

    Gamma, bias, noise and blur change the values alone: by these, scanners differ.
    """

    gamma: float = Field(
        default=0.0, ge=0, lt=1, description="values are raised to a power drawn from [1 - gamma, 1 + gamma]"
    )
    bias: float = Field(
        default=0.0, ge=0, lt=1, description="relative height of a smooth field that brightens one side of the image"
    )
    noise: float = Field(
        default=0.0, ge=0, lt=1, description="greatest standard deviation of added noise, as a share of the values' own"
    )
    blur: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of images shown at a resolution that is lower, by a factor of up to 2.5",
    )


class Segmenter(Section):
    """How masks are learned."""

    slices: Literal[1, 3] = Field(
        default=3,
        description="channels that the network sees; 3: the colours, or a slice with those beside it; 1: the green "
        "channel, which for MR is the slice itself",
    )
    normalize: Literal["image", "fixed"] = Field(
        default="image",
        description="of photographs; image: each channel by its mean and standard deviation in this image; fixed: by "
        "model.mean and model.std",
    )
    pieces: Literal["all", "largest"] = Field(
        default="all",
        description="which connected pieces of a label's mask an answer keeps; largest: one for each image, or for "
        "each volume in three dimensions; it needs scipy where the artifact runs. Epochs are selected with all",
    )
    loss: Literal["dice+cross-entropy", "dice", "cross-entropy", "focal"] = Field(
        default="dice+cross-entropy",
        description="what training lowers; dice+cross-entropy is their sum; focal: Lin et al. 2017, gamma 2; paper: "
        "dice or focal",
    )
    crop: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="side in pixels of the crops in training, of the resized image; None: the whole image",
    )
    crops: int = Field(
        default=1,
        ge=1,
        le=64,
        description="crops of each image in a step, so that an epoch sees each image this many times",
    )


class MaskTraining(Training):
    """How it is trained."""

    select_by: str = Field(
        default="dice", description="the validation figure that picks the epoch, as listed below for each kind of task"
    )


class SegmentationRecipe(Recipe):
    """A recipe with a segmenter."""

    data: MaskData = Field(default_factory=MaskData)
    augment: Changes = Field(default_factory=Changes)
    training: MaskTraining = Field(default_factory=MaskTraining)
    segmenter: Segmenter = Field(default_factory=Segmenter)

    @model_validator(mode="after")
    def _crop_fits(self) -> SegmentationRecipe:
        crop = self.segmenter.crop
        if crop is not None and crop > self.model.side:
            raise ValueError(f"expected segmenter.crop up to model.side, {self.model.side}, got {crop}")
        if crop is None and self.segmenter.crops > 1:
            raise ValueError("expected segmenter.crop beside segmenter.crops, got none")
        return self


RECIPE = SegmentationRecipe
SCORES = ("dice", "iou", "loss")
IGNORED = {
    "data.origin": "masks have pixels, and no coordinates",
    "training.label_smoothing": "it is of class labels",
}
BACKBONES: tuple[str, ...] = ()
STUDENTS = {name: (f"model.backbone={name}",) for name in ("enet", "espnet", "mobilenetv3_small_050")}
BACKBONES_HELP = (
    "enet, espnet, erfnet, unet, unetplusplus, deeplabv3plus, deeplabv3plus_resnet50, transunet, h2former, swinunet, "
    "missformer, or any convolutional model of timm, to which a small decoder is added"
)
