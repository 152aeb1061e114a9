"""The recipe: every choice that decides what is trained, checked before anything starts.

Defaults are the settings of the anemia paper where it states them ("paper" in a field's description) and otherwise the
plainest choice. A recipe is YAML; `--set model.side=128` changes one value of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leanmed.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Section):
    """What is read."""

    dataset: str = Field(default="folder", description="a reader's name: folder, cp-anemic")
    labels: tuple[str, ...] | None = Field(
        default=None, description="class labels in order, the positive one last; None: the reader's own order"
    )
    cache_bytes: int = Field(
        default=2**30, ge=0, description="prepared images are kept in memory up to this many bytes"
    )


class Split(_Section):
    """Who is trained on, who selects, who is tested."""

    protocol: Literal["grouped", "holdout", "site", "paper"] = Field(
        default="grouped",
        description="grouped: stratified k-fold, groups whole; holdout: one such fold; site: leave one site out; "
        "paper: image-level k-fold as published, which leaks",
    )
    folds: int = Field(default=5, ge=2, le=50, description="k of k-fold; paper: 5")
    validation: float = Field(
        default=0.15, gt=0, lt=0.5, description="share of each fold's training images held back for selection"
    )
    test: float = Field(default=0.2, gt=0, lt=0.9, description="share tested under `holdout`")
    seed: int = Field(default=0, ge=0)


class Model(_Section):
    """What is trained."""

    backbone: str = Field(default="mobilenetv2_100", description="any timm model's name; paper: MobileNetV2")
    backbone_args: dict[str, Any] = Field(
        default_factory=dict, description="passed to timm.create_model, e.g. {pad_type: same}"
    )
    weights: str = Field(
        default="imagenet", description="imagenet: timm's hub; none: random; else a .safetensors or .pth file"
    )
    side: int = Field(default=224, ge=32, le=1024, description="pixels; images become side x side; paper: 224")
    mean: tuple[float, float, float] | None = Field(
        default=None, description="per-channel mean of the pixels in [0, 1]; None: what timm says of the backbone"
    )
    std: tuple[float, float, float] | None = Field(
        default=None, description="per-channel standard deviation in [0, 1]; None: what timm says of the backbone"
    )
    dropout: Fraction = Field(default=0.2, description="before the last layer; MobileNetV2 paper: 0.2")

    @model_validator(mode="after")
    def _both_or_none(self) -> Model:
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected both mean and std, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"expected std above 0, got {self.std}")
        return self


class Augment(_Section):
    """Random changes of the training images. The paper names the kinds, not the strengths: those are ours."""

    horizontal_flip: Fraction = Field(default=0.5, description="probability")
    vertical_flip: Fraction = Field(default=0.0, description="probability; not in the paper")
    rotation: float = Field(default=15.0, ge=0, le=180, description="degrees, drawn from [-rotation, rotation]")
    shift: float = Field(default=0.1, ge=0, le=0.5, description="share of the side, each way")
    scale: tuple[float, float] = Field(default=(0.9, 1.1), description="zoom, drawn from this range")
    brightness: float = Field(default=0.0, ge=0, lt=1, description="relative, each way; not in the paper")
    tint: float = Field(default=0.0, ge=0, lt=1, description="relative, each channel by itself; not in the paper")

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"expected scale [low, high] with 0 < low <= high, got {list(self.scale)}")
        return self


class Training(_Section):
    """How it is trained."""

    optimizer: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="paper: Adam")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="paper: 1e-4 (garbled in print)")
    schedule: Literal["constant", "cosine"] = Field(default="constant", description="over `epochs`, to zero")
    weight_decay: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    batch_size: int = Field(default=32, ge=1, description="images, per device; paper: 32")
    epochs: int = Field(default=150, ge=1, description="at most; paper: 150")
    patience: int = Field(default=10, ge=1, description="epochs without a better score before stopping; paper: 10")
    select_by: Literal["f1", "auc", "accuracy", "loss"] = Field(
        default="f1", description="the validation figure that picks the epoch; paper: F1"
    )
    average: float = Field(
        default=0.0, ge=0, lt=1, description="decay of an exponential moving average of the weights; 0: none"
    )
    threshold: str = Field(
        default="f1",
        pattern=r"^(f1|youden|sensitivity:0?\.\d+)$",
        description="how the decision threshold is chosen on validation data: f1, youden, sensitivity:0.9",
    )
    seed: int = Field(default=0, ge=0)


class Evaluation(_Section):
    """What the report shows."""

    resamples: int = Field(default=2000, ge=100, le=100_000, description="bootstrap resamples of the intervals")
    subgroups: tuple[str, ...] | None = Field(
        default=None, description="attributes to show figures by; None: the site and every attribute of few values"
    )
    edges: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="attribute -> inner edges of its bands, in its own unit; else quartiles"
    )


class Recipe(_Section):
    """Everything that decides what is trained."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    task: Literal["classification"] = "classification"
    data: Data = Field(default_factory=Data)
    split: Split = Field(default_factory=Split)
    model: Model = Field(default_factory=Model)
    augment: Augment = Field(default_factory=Augment)
    training: Training = Field(default_factory=Training)
    evaluation: Evaluation = Field(default_factory=Evaluation)


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with leanmed."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by its name, or a YAML file by its path, with `key.path=value` overrides.

    Raises:
        RecipeError: no such recipe, an unknown key, or a value out of range; the message names the key.
    """
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if name in shipped_recipes() else Path(name)
    if not path.is_file():
        raise RecipeError(
            f"expected a recipe's name ({', '.join(shipped_recipes())}) or a YAML file, got {name!r}, which is neither"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"expected {path} to hold keys and values (see the shipped recipes), got {type(content).__name__}")
    for override in overrides:
        _override(content, override)
    return check_recipe(content, str(path))


def check_recipe(content: Any, source: str) -> Recipe:
    """Turn a plain value into a checked recipe; `source` is named in the error.

    Raises:
        RecipeError: an unknown key or a value out of range.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"{source}: {key or 'recipe'}: {first['msg']}, got {first['input']!r}; "
            "`leanmed train --help-recipe` lists every key with its range"
        ) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"expected --set key.path=value, got {override!r}; for example --set model.side=128")
    *parents, last = path.split(".")
    node = content
    for key in parents:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}: {key} is a value, not a section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {error}") from error


def describe_recipe() -> str:
    """Every key of a recipe with its default and meaning, one a line, for `--help-recipe`."""
    lines = []
    for name, section in Recipe.model_fields.items():
        kind = section.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            continue
        lines += [
            f"{name}.{key} = {field.get_default(call_default_factory=True)!r}  {field.description or ''}".rstrip()
            for key, field in kind.model_fields.items()
        ]
    return "\n".join(lines)
