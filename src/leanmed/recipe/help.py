"""What `leanmed recipe` lists: every key of a recipe, as its field describes it."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leanmed.recipe.recipe import Backbones, Recipe


def describe_recipe() -> str:
    """Every key of a recipe with its default, range and meaning, one a line."""
    lines = [
        f"{name}.{key} = {_meaning(field)}"
        for name, section in Recipe.model_fields.items()
        if isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)
        for key, field in section.annotation.model_fields.items()
    ]
    return "\n".join([*lines, f"backbones = {_meaning(Backbones.model_fields['backbones'])}"])


def _meaning(field: FieldInfo) -> str:
    default = repr(field.get_default(call_default_factory=True))
    return "  ".join(filter(None, (default, _range(field), field.description)))


def _range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"[{' | '.join(map(str, get_args(field.annotation)))}]"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{s} {getattr(m, n)}" for m in field.metadata for n, s in signs.items() if hasattr(m, n)]
    return f"[{', '.join(bounds)}]" if bounds else ""
