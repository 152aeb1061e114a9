"""The recipe: every choice that decides what is trained, checked before anything starts.

Defaults are the settings of the anemia paper where it states them ("paper" in a field's description) and
otherwise the plainest choice. A recipe is YAML; `--set model.side=128` changes one value of it. What it says of single
backbones under `backbones`, {backbone: {section: {key: value}}}, is merged in for the one that is chosen.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from leanmed.errors import RecipeError
from leanmed.recipe.strict_yaml import NAMES, read_yaml

FORMAT = 2
RECIPES = Path(__file__).parent / "recipes"
Fraction = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
STRIDES = (2, 4, 8, 16, 32)  # of a backbone's maps
Origin = Literal["corner", "centre"]
ORIGINS: dict[Origin, float] = {"corner": 0.0, "centre": 0.5}  # of a pixel
THRESHOLD_RULE = r"^(f1|youden|sensitivity:(0?\.\d*[1-9]\d*|1(\.0*)?))$"
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Checked = TypeVar("_Checked", bound=BaseModel)
_Change = tuple[str, Any, str]  # a key's path, its value, and who says so


class Section(BaseModel):
    """Some keys of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """What is read."""

    dataset: str = Field(default="folder", description="a reader's name: folder, cp-anemic, luna16-slices...")
    strict: bool = Field(
        default=False,
        description="refuse images without a row or mask and rows or masks without an image, which are else left out "
        "and counted",
    )
    kind: Literal["photograph", "slice", "intensities"] = Field(
        default="photograph",
        description="slice: of a CT scan, 1 mm per pixel, [-1000, 400] HU mapped to 0..255; intensities: axial slices "
        "of MR volumes, as z-scores by the mean and standard deviation of the whole volume",
    )
    origin: Origin | None = Field(
        default=None,
        description="which point of a pixel has whole-numbered coordinates in the boxes of the data set: its corner "
        "or its centre; None: the centre for luna16-slices, the corner for all others",
    )
    labels: tuple[str, ...] | None = Field(
        default=None,
        description="class labels in order, of two the positive one last, or what boxes hold; None: the reader's own "
        "order; images of class labels that are not named here are left out",
    )
    values: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="for each label the values in the masks that mean it, e.g. {gland: [1, 2]}; None: as the reader "
        "says, which for masks without names is that all values but 0 mean `object`",
    )
    cache_bytes: int = Field(
        default=2**30, ge=0, description="prepared images are kept in memory up to this many bytes"
    )

    @property
    def box_origin(self) -> Origin:
        """The origin, chosen or known."""
        return self.origin or origin_of(self.dataset)


def origin_of(dataset: str) -> Origin:
    """Where in a pixel the whole-numbered coordinates of a data set's boxes lie.

    Small nodules of luna16-slices lie .4 pixels to the right of their boxes and below them (docs/results/ct.json).
    """
    return "centre" if dataset == "luna16-slices" else "corner"


class Split(Section):
    """Who is trained on, who selects, who is tested."""

    protocol: Literal["grouped", "holdout", "site", "adapt", "paper"] = Field(
        default="grouped",
        description="grouped: stratified k-fold, groups whole; holdout: one such fold; site: leave one site "
        "out; adapt: the same, but a few groups of the site are learned from and the rest of it is tested; paper: "
        "image-level k-fold as published, which leaks",
    )
    adapt: int = Field(default=1, ge=1, description="groups of a site that `adapt` learns from")
    folds: int = Field(default=5, ge=2, le=50, description="k of k-fold; paper: 5")
    validation: float = Field(
        default=0.15, gt=0, lt=0.5, description="share of a fold's training images held back for selection"
    )
    test: float = Field(default=0.2, gt=0, lt=0.9, description="share of the images that `holdout` tests on")
    groups: str = Field(
        default="audit",
        description="which images a split keeps together; audit: the data set's groups joined with the copies that "
        "an audit finds; reader: the data set's groups alone; else the path of a groups.csv that `leanmed audit` wrote",
    )
    conflicts: Literal["drop", "keep"] = Field(
        default="drop",
        description="copies of one image that carry different labels, or masks that contradict each other: drop leaves "
        "all of them out",
    )
    seed: Seed = 0


class Model(Section):
    """What is trained."""

    backbone: str = Field(
        default="mobilenetv2_100",
        description="the name of a network, as listed below for each kind of task; paper: MobileNetV2",
    )
    backbone_args: dict[str, Any] = Field(
        default_factory=dict,
        description="passed to timm.create_model, e.g. {pad_type: same}, which the file of the weights may say too",
    )
    weights: str = Field(
        default="imagenet",
        description="imagenet: from timm's hub; none: random weights; else the path of a .safetensors or .pth file; "
        "for SAM also a folder of transformers', the id of one on Hugging Face's hub, or a fold of a run, RUN/fold-0",
    )
    side: int = Field(default=224, ge=32, le=1024, description="pixels; images become side x side; paper: 224")
    mean: tuple[Fraction, Fraction, Fraction] | None = Field(
        default=None,
        description="per-channel mean of the pixels in [0, 1]; None: what the file of the weights says, else timm's "
        "value for the backbone",
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        default=None, description="per-channel standard deviation in [0, 1]; None: as for the mean"
    )
    dropout: Fraction = Field(
        default=0.2, description="rate before the last layer; this is our choice, as the paper states none"
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Model:
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected both mean and std, or neither")
        return self


class Augment(Section):
    """Random changes of the training images. The paper names the kinds, not the strengths: those are ours."""

    horizontal_flip: Fraction = Field(default=0.5, description="probability")
    vertical_flip: Fraction = Field(default=0.0, description="probability; not in the paper")
    quarter_turns: bool = Field(default=False, description="also turn by 0, 90, 180 or 270 degrees; not in the paper")
    rotation: float = Field(
        default=15.0, ge=0, le=180, description="degrees, drawn from [-rotation, rotation]; not with boxes"
    )
    shift: float = Field(
        default=0.1, ge=0, le=0.5, description="share of the side, each way; not with boxes, whose crops move"
    )
    scale: tuple[float, float] = Field(default=(0.9, 1.1), description="zoom, drawn from this range")
    brightness: float = Field(default=0.0, ge=0, lt=1, description="relative, each way; not in the paper")
    tint: float = Field(default=0.0, ge=0, lt=1, description="relative, each channel by itself; not in the paper")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError("expected [low, high] with 0 < low <= high")
        return scale


class Training(Section):
    """How it is trained."""

    optimizer: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="paper: Adam")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="paper: 1e-4 (garbled in print)")
    schedule: Literal["constant", "cosine", "cyclic"] = Field(
        default="constant",
        description="of the learning rate; cosine falls to zero over `epochs`; cyclic rises in a straight line from "
        "`least_rate` over `cycle_steps` and falls back as slowly, again and again (Smith 2017, arXiv:1506.01186)",
    )
    cycle_steps: int = Field(default=2000, ge=1, description="steps of half a cycle; the prostate paper: 2000")
    least_rate: float = Field(
        default=1e-6, ge=0, description="the learning rate at which a cycle starts; the prostate paper: 1e-6"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the learning rate rises to its full value")
    weight_decay: float = Field(default=0.0, ge=0, description="passed to the optimiser")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="of class labels; boxes have none")
    precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true",
        description="of the arithmetic in training, by Lightning's name for it; weights are stored in 32 bits",
    )
    batch_size: int = Field(default=32, ge=1, description="images per step and device; paper: 32")
    epochs: int = Field(default=150, ge=1, description="at most; paper: 150")
    patience: int = Field(default=10, ge=1, description="epochs without a better score before stopping; paper: 10")
    select_by: str = Field(
        default="f1",
        description="the validation figure that picks the epoch, as listed below for each kind of task; paper: F1",
    )
    average: float = Field(
        default=0.0, ge=0, lt=1, description="decay of an exponential moving average of the weights; 0: none"
    )
    threshold: str = Field(
        default="f1",
        pattern=THRESHOLD_RULE,
        description="how the decision threshold is chosen on validation data: f1, youden, sensitivity:0.9",
    )
    seed: Seed = 0


class Distillation(Section):
    """How a student learns from a teacher, which `leanmed train --teacher RUN` names: terms added to its own loss.

    A term of weight 0 is left out; None stands for the prostate paper's weights where the kind of task allows the term.
    """

    affinity: float | None = Field(
        default=None,
        ge=0,
        description="weight of AAM: pixels differ from their neighbours as in the teacher's mask; .9",
    )
    kernel: float | None = Field(
        default=None,
        ge=0,
        description="weight of KMM: images of a batch resemble each other as they do to the teacher; .9",
    )
    logits: float | None = Field(
        default=None, ge=0, description="weight of LM: probabilities are those of the teacher; .2"
    )
    soft_targets: float = Field(
        default=0.0, ge=0, description="weight of plain distillation at a temperature (Hinton 2015, arXiv:1503.02531)"
    )
    attention: float = Field(
        default=0.0, ge=0, description="weight of attention transfer (Zagoruyko 2017, arXiv:1612.03928)"
    )
    emkd: float = Field(
        default=0.0,
        ge=0,
        description="weight of EMKD: predictions, attention maps and region contrast (Qin 2021, arXiv:2108.09987)",
    )
    mskd: float = Field(
        default=0.0,
        ge=0,
        description="weight of our reading of MSKD: predictions and attention at every scale; the paper says no more",
    )
    margin: float = Field(default=3.0, gt=0, description="of AAM: pixels of different labels are pushed so far apart")
    between: Literal["labels", "features"] = Field(
        default="labels",
        description="of AAM; labels: the teacher's labels say which neighbours are alike; features: the deepest "
        "features of both are compared",
    )
    gram: Literal["batch", "channel"] = Field(
        default="batch",
        description="of KMM; batch: likeness of images; channel: likeness of channels, through a 1 x 1 convolution",
    )
    direction: Literal["teacher||student", "student||teacher"] = Field(
        default="teacher||student", description="of LM's Kullback-Leibler divergence; the paper's text has the other"
    )
    temperature: float = Field(default=4.0, gt=0, description="of soft_targets, emkd and mskd")


class Adapters(Section):
    """How little of a trained transformer is trained: bottlenecks or LoRA in its blocks, or some of its parts."""

    method: Literal[
        "none",
        "hierarchical",
        "hierarchical-0.24",
        "uniform",
        "reversed",
        "first-removed",
        "last-removed",
        "strategy-1",
        "strategy-2",
        "lora",
        "med-sa",
        "full",
        "decoder",
    ] = Field(
        default="none",
        description="none: all of the network is trained, or what SAMUS adds to SAM's weights; hierarchical: "
        "bottlenecks whose width grows with depth (HA-SAM); the next six: its other preset and its ablations; lora: of "
        "queries and values, as SAMed; med-sa: the bottlenecks of Med-SA; full: encoder and decoder, as MedSAM; "
        "decoder: no encoder. Untrained last layers are always trained",
    )
    ratio: float | None = Field(
        default=None,
        gt=0,
        le=4,
        description="mean width of the bottlenecks as a share of the blocks' own; None: .25 for med-sa, .24 for "
        "hierarchical-0.24, else 1/16",
    )
    equal_budget: bool = Field(
        default=False,
        description="scale the widths, or choose the rank of lora, to as many parameters as hierarchical has with the "
        "same ratio (1/16 if none is given), up to rounding",
    )
    rank: int = Field(default=4, ge=1, description="of lora; SAMed: 4")
    decoder: bool = Field(
        default=False, description="train the decoder beside the adapters, as SAMed and Med-SA do; not for classifiers"
    )
    blocks: str | None = Field(
        default=None,
        description="module path of the transformer blocks, where * stands for any number, e.g. layers.*.blocks; "
        "None: found where there is only one such sequence",
    )

    @model_validator(mode="after")
    def _none_without_effect(self) -> Adapters:
        if self.method == "none":
            used: set[str] = set()
        elif self.method in ("full", "decoder"):
            used = {"blocks"}
        elif self.method == "lora":
            used = {"blocks", "decoder", "equal_budget", *(("ratio",) if self.equal_budget else ("rank",))}
        else:
            used = {"blocks", "decoder", "equal_budget"} | ({"ratio"} if self.method != "hierarchical-0.24" else set())
        for name, field in type(self).model_fields.items():
            if name not in used | {"method"} and getattr(self, name) != field.default:
                raise ValueError(f"expected {name} to be left out, since method {self.method} ignores it as set here")
        return self


class Evaluation(Section):
    """What the report shows."""

    resamples: int = Field(default=2000, ge=100, le=100_000, description="bootstrap resamples of the intervals")
    subgroups: tuple[str, ...] | None = Field(
        default=None, description="attributes to show figures by; None: the site and every attribute of few values"
    )
    edges: dict[str, tuple[float, ...]] = Field(
        default_factory=dict,
        description="for each attribute, the inner edges of its bands in its own unit; without them, quartiles",
    )


class Recipe(Section):
    """Everything that decides what is trained. Each kind of task has one of its own, with what only it needs."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT, description="of the recipe; older ones are brought to it")
    name: str = Field(pattern=r"^[a-z0-9-]+$")
    task: str
    data: Data = Field(default_factory=Data)
    split: Split = Field(default_factory=Split)
    model: Model = Field(default_factory=Model)
    augment: Augment = Field(default_factory=Augment)
    training: Training = Field(default_factory=Training)
    distillation: Distillation = Field(default_factory=Distillation)
    adapters: Adapters = Field(default_factory=Adapters)
    evaluation: Evaluation = Field(default_factory=Evaluation)


class Settings(Protocol):
    """What a kind of task says of its recipes."""

    RECIPE: type[Recipe]
    """The recipe with the kind's own sections."""
    SCORES: tuple[str, ...]
    """The validation figures that may pick the epoch."""
    IGNORED: Mapping[str, str]
    """Keys that the kind does not use, `section.key`, each with the reason: a value for one is refused."""
    BACKBONES: tuple[str, ...]
    """Those that a recipe may have settings for; empty: any."""
    BACKBONES_HELP: str
    """Which networks it takes, for the list of keys."""
    STUDENTS: Mapping[str, Sequence[str]]
    """Small networks that a search under a budget may train, by names: the settings `key.path=value` of each."""


Kinds = Mapping[str, Settings]
"""The kinds of task by their names; the first is meant where a recipe names none."""


class Backbones(Section):
    """What a file may say of single backbones."""

    backbones: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict,
        description="{backbone: {section: {key: value}}}, in a file only: settings of single backbones, merged in for "
        "the one in model.backbone; --set wins",
    )


class Presets(Section):
    """What a file may offer as presets."""

    presets: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict,
        description="{preset: {section: {key: value}}}, in a file only: settings that --preset puts in together; --set "
        "wins",
    )


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with leanmed."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def shipped_text(name: str) -> str:
    """A shipped recipe as it is written, with its comments.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in shipped_recipes():
        raise RecipeError(f"expected a shipped recipe among {', '.join(shipped_recipes())}, got {name!r}")
    return (RECIPES / f"{name}.yaml").read_text("utf-8")


def load_recipe(name: str, overrides: Sequence[str] = (), *, kinds: Kinds) -> Recipe:
    """Read a shipped recipe by its name, or a YAML file by its path, with `key.path=value` overrides.

    Overrides come last: they choose the backbone, and win over what the recipe says of it under `backbones`.

    Raises:
        RecipeError: no such recipe, an unknown key, a key that the kind of task ignores, or a value out of range; the
            message names the key.
    """
    path = _recipe_file(name)
    content = _read_mapping(path)
    content.pop("presets", None)
    backbones = _backbones(content, str(path), kinds)
    asked = [_parsed(override) for override in overrides]
    model = _changed(content, asked).get("model", {})
    chosen = str(model.get("backbone", Model().backbone)) if isinstance(model, dict) else ""
    source = " ".join([str(path), *(f"--set {override}" for override in overrides)])
    return check_recipe(_changed(content, [*backbones.get(chosen, []), *asked]), source, kinds=kinds)


def preset_settings(name: str, preset: str) -> list[str]:
    """The settings of a recipe's preset, as overrides `key.path=value` for `load_recipe`.

    Raises:
        RecipeError: no such recipe, or it has no such preset; the message names those that it has.
    """
    path = _recipe_file(name)
    found = _checked(Presets, {"presets": _read_mapping(path).get("presets", {})}, str(path)).presets
    if preset not in found:
        raise RecipeError(
            f"expected --preset among {', '.join(found)} for {name}, got {preset!r}; name one of these"
            if found
            else f"expected no --preset with {name}, which has none, got {preset!r}; leave it out, and use --set"
        )
    return [
        f"{section}.{key}={json.dumps(value)}" for section, keys in found[preset].items() for key, value in keys.items()
    ]


def _recipe_file(name: str) -> Path:
    """The file of a recipe that is named, or a path to one."""
    path = RECIPES / f"{name}.yaml" if name in shipped_recipes() else Path(name)
    if not path.is_file():
        names = ", ".join(shipped_recipes())
        raise RecipeError(f"expected a recipe's name ({names}) or a YAML file, got {name!r}, which is neither")
    return path


def stored_recipe(content: Any, source: str, *, kinds: Kinds) -> Recipe:
    """A recipe as a run or an artifact keeps it, be it of an older format.

    Raises:
        RecipeError: it is of a newer format, or of an older one with a setting that is no more.
    """
    content = dict(content) if isinstance(content, Mapping) else content
    if not isinstance(content, dict) or content.get("format") == FORMAT:
        return check_recipe(content, source, kinds=kinds)
    found = content.pop("format", 1)
    if found != 1:
        raise RecipeError(
            f"{source}: expected a recipe of format {FORMAT} or older, got {found!r}; install a newer leanmed"
        )
    try:
        return check_recipe(_from_format_1(content, kinds), source, kinds=kinds)
    except RecipeError as error:
        raise RecipeError(
            f"{source} was written by an older leanmed, with a setting that this version does not have ({error}); "
            "train again, or use the version that wrote it"
        ) from error


def read_stored(path: Path, *, kinds: Kinds) -> Recipe:
    """The `recipe.yaml` of a run.

    Raises:
        RecipeError: as `stored_recipe`; or it is no YAML.
    """
    return stored_recipe(_read_mapping(path), str(path), kinds=kinds)


def _from_format_1(content: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Format 1 wrote the sections of all kinds into each recipe, and what the chosen one ignores with the rest."""
    settings = kinds.get(str(content.get("task", next(iter(kinds)))))
    if settings is None:
        return content
    others = {name for kind in kinds.values() for name in kind.RECIPE.model_fields} - set(settings.RECIPE.model_fields)
    kept: dict[str, Any] = {}
    for name, section in content.items():
        if name in others:
            continue
        used = isinstance(section, dict)
        kept[name] = {k: v for k, v in section.items() if f"{name}.{k}" not in settings.IGNORED} if used else section
    return kept


def check_recipe(content: Any, source: str, *, kinds: Kinds) -> Recipe:
    """Turn a plain value into a checked recipe; `source` is named in the error.

    Raises:
        RecipeError: an unknown kind of task or key, a key that the kind ignores, or a value out of range.
    """
    if not isinstance(content, dict):
        raise RecipeError(
            f"{source}: expected keys and values, as `leanmed recipe` lists them, got {reprlib.repr(content)}"
        )
    if content.get("format", FORMAT) != FORMAT:
        raise RecipeError(
            f"{source}: format: expected {FORMAT}, got {content['format']!r}; leave it out, and name the keys as "
            "`leanmed recipe` lists them"
        )
    task = content.get("task", next(iter(kinds)))
    if not isinstance(task, str) or task not in kinds:
        raise RecipeError(f"{source}: task: expected one of {', '.join(kinds)}, got {task!r}; name one of these")
    settings = kinds[task]
    _refuse_ignored(content, task, settings, kinds, source)
    recipe = _checked(settings.RECIPE, content | {"task": task}, source)
    if recipe.training.select_by not in settings.SCORES:
        raise RecipeError(
            f"{source}: expected training.select_by among {', '.join(settings.SCORES)} for {task}, got "
            f"{recipe.training.select_by}; name one of these"
        )
    return recipe


def _refuse_ignored(content: dict[str, Any], task: str, settings: Settings, kinds: Kinds, source: str) -> None:
    """A setting without effect would let its author believe that it had one."""
    for name in content:
        owners = [kind for kind, other in kinds.items() if name in other.RECIPE.model_fields]
        if owners and task not in owners:
            raise RecipeError(
                f"{source}: {name}: a section of {' and '.join(owners)}, which {task} ignores; leave it out"
            )
    for key, why in settings.IGNORED.items():
        section, _, name = key.partition(".")
        given = content.get(section)
        if not isinstance(given, dict) or name not in given:
            continue
        default = settings.RECIPE.model_fields[section].annotation.model_fields[name].get_default()  # type: ignore[union-attr]
        if given[name] != default:
            raise RecipeError(f"{source}: {key}: {task} ignores it ({why}), got {given[name]!r}; leave it out")


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path.read_bytes(), str(path))
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: expected keys and values, as `leanmed recipe` lists them, got {reprlib.repr(content)}"
        )
    return content


def _checked(kind: type[_Checked], content: Any, source: str) -> _Checked:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the recipe"
        wrong = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{source}: {key}: {wrong}, got {reprlib.repr(first['input'])}; "
            "`leanmed recipe` lists every key with its range"
        ) from error


def threshold_of(text: str) -> str | float:
    """A threshold as it is typed: a number from 0 to 1, or the name of a rule.

    Raises:
        RecipeError: it is neither.
    """
    if re.match(THRESHOLD_RULE, text):
        return text
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 1:
        raise RecipeError(
            f"expected a threshold as a number from 0 to 1, f1, youden or sensitivity:0.95, got {text!r}; correct it"
        )
    return number


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def overridden(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's content with `key.path=value` put in.

    Raises:
        RecipeError: an override of another form.
    """
    return _changed(dict(content), map(_parsed, overrides))


def _parsed(override: str) -> _Change:
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"expected --set key.path=value, got {override!r}; for example --set model.side=128")
    names = path.rpartition(".")[2] in NAMES
    return path, read_yaml(text, f"--set {override}", names=names), f"--set {override}"


def _changed(content: dict[str, Any], changes: Iterable[_Change]) -> dict[str, Any]:
    """A copy of a recipe's content with values put in, later ones over earlier ones."""
    content = deepcopy(content)
    for path, value, source in changes:
        *parents, last = path.split(".")
        node = content
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{source}: expected {key} to be a section, got a value; name a key below a section")
        node[last] = value
    return content


def _backbones(content: dict[str, Any], path: str, kinds: Kinds) -> dict[str, list[_Change]]:
    """Take `backbones` out of a recipe's content: what it says of each, checked be it chosen or not."""
    found = {}
    given = _checked(Backbones, {"backbones": content.pop("backbones", {})}, path).backbones
    known = kinds[content["task"]].BACKBONES if content.get("task") in kinds else ()
    if given:
        check_recipe(content, path, kinds=kinds)  # so that none of them is blamed for the rest
    for name, sections in given.items():
        source = f"{path}: backbones.{name}"
        if known and name not in known:
            raise RecipeError(f"{source}: unknown backbone; expected one of {', '.join(known)}")
        found[name] = [(f"{s}.{key}", value, source) for s, values in sections.items() for key, value in values.items()]
        whole = _changed(content, [("model.backbone", name, source), *found[name]])
        if check_recipe(whole, source, kinds=kinds).model.backbone != name:
            raise RecipeError(f"{source}: expected settings of {name}, got another model.backbone; remove that key")
    return found
