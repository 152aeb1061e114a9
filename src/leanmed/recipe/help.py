"""What `leanmed recipe` lists: every key of a recipe, as its field describes it."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leanmed.recipe.recipe import Backbones, Kinds, Presets, Recipe


def describe_recipe(kinds: Kinds) -> str:
    """Every key of a recipe with its default, range and meaning, one a line; then what single kinds of task take."""
    lines = [f"task = {next(iter(kinds))!r}  [{' | '.join(kinds)}]  the kind of task", *_keys(Recipe)]
    lines.append(f"backbones = {_meaning(Backbones.model_fields['backbones'])}")
    lines.append(f"presets = {_meaning(Presets.model_fields['presets'])}")
    for name, settings in kinds.items():
        shared = _keys(Recipe)
        own = [line for line in _keys(settings.RECIPE) if line not in shared]
        lines += [
            "",
            *[f"{name} has besides, or with another default:", *own, ""] * bool(own),
            f"{name} takes as training.select_by: {', '.join(settings.SCORES)}",
            f"{name} takes as model.backbone: {settings.BACKBONES_HELP}",
            "",
            f"{name} ignores these keys, and refuses values for them:",
        ]
        lines += [f"{key}  {why}" for key, why in settings.IGNORED.items()]
    return "\n".join(lines)


def _keys(recipe: type[BaseModel]) -> list[str]:
    return [
        f"{name}.{key} = {_meaning(field)}"
        for name, section in recipe.model_fields.items()
        if isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)
        for key, field in section.annotation.model_fields.items()
    ]


def _meaning(field: FieldInfo) -> str:
    default = repr(field.get_default(call_default_factory=True))
    return "  ".join(filter(None, (default, _range(field), field.description)))


def _range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"[{' | '.join(map(str, get_args(field.annotation)))}]"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{s} {getattr(m, n)}" for m in field.metadata for n, s in signs.items() if hasattr(m, n)]
    return f"[{', '.join(bounds)}]" if bounds else ""
