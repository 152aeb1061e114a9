"""YAML of plain values, in which everything is said once and where it stands.

Names stay the text that they are: YAML takes `no` for false, `007` for 7 and `1e5` for a number, which are labels in
`labels: [no, 007]`.
"""

from __future__ import annotations

from typing import Any

import yaml

from leanmed.errors import RecipeError

NAMES = frozenset({"labels", "subgroups"})  # keys whose lists are of names


def read_yaml(text: str | bytes, source: str, *, names: bool = False) -> Any:
    """Plain values of a YAML text.

    Args:
        text: the YAML.
        source: named in the error.
        names: if it is a list, it is one of names.

    Raises:
        RecipeError: it is no YAML, gives a key twice, or holds an alias.
    """
    try:
        return yaml.load(text, _ListOfNames if names else _Loader)  # noqa: S506 (safe loaders)
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
        for key, value in node.value:
            if key.value in NAMES:
                _as_text(value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias stands in it; write the value out")
        return super().compose_node(parent, index)


class _ListOfNames(_Loader):
    """Takes the items of a list as text."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        _as_text(node)
        return node


def _as_text(node: yaml.Node | None) -> None:
    """Let the items of a list stay text."""
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(item, yaml.ScalarNode):
            item.tag = "tag:yaml.org,2002:str"
