"""The page's modules as one text, for a page that is a single file: browsers load no modules from a disk.

It knows as much of JavaScript as these modules use: imports in one line from beside them, and exports of declarations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(?P<name>[\w.]+)";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) )", re.M)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (?P<name>\w+)", re.M)


def bundle(modules: Mapping[str, str], main: str) -> str:
    """The text of a module with those of all that it imports above it, each once.

    Args:
        modules: file name -> text.
        main: the name of the one to begin with.

    Raises:
        ValueError: two of them declare one name, which would be one place in the text.
    """
    ordered: dict[str, str] = {}
    _gather(main, modules, ordered, ())
    declared: dict[str, str] = {}
    for name, text in ordered.items():
        for found in _DECLARED.finditer(text):
            other = declared.setdefault(found["name"], name)
            if other != name:
                raise ValueError(f"expected names that differ, got {found['name']} in {other} and {name}; rename one")
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in ordered.values())


def _gather(name: str, modules: Mapping[str, str], ordered: dict[str, str], above: tuple[str, ...]) -> None:
    if name in above:
        raise ValueError(f"expected modules that do not import each other in a ring, got {' -> '.join((*above, name))}")
    for found in _IMPORT.finditer(modules[name]):
        _gather(found["name"], modules, ordered, (*above, name))
    ordered.setdefault(name, modules[name])
