"""YAML of plain values, in which everything is said once and where it stands."""

from __future__ import annotations

from typing import Any

import yaml

from leanmed.errors import RecipeError


def read_yaml(text: str | bytes, source: str) -> Any:
    """Plain values of a YAML text; `source` is named in the error.

    Raises:
        RecipeError: it is no YAML, gives a key twice, or holds an alias.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise RecipeError(f"{source}: expected valid YAML, got an error: {detail}; correct it there") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, since of two sections `training` one would silently be lost; and aliases, with which a
    few lines can fill the memory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(problem=f"{twice} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias stands in it; write the value out")
        return super().compose_node(parent, index)
