from __future__ import annotations

import inspect
import pickle
import re

import pytest

from leanmed import errors
from leanmed.errors import LeanmedError, MissingExtraError, UnfamiliarInput

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, LeanmedError)]
ARGUMENTS = {UnfamiliarInput: ("as it is", 0.25), MissingExtraError: ("leanmed train", "train")}


def drawn_tree() -> dict[str, str | None]:
    """Class -> its parent, as the module's docstring draws them."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for bars, name in re.findall(r"^([│ ]*(?:[├└]── )?)([A-Z]\w+)", errors.__doc__.split("```")[1], re.M):
        del path[len(bars) // 4 :]
        parents[name] = path[-1] if path else None
        path.append(name)
    return parents


def test_the_tree_drawn_in_the_docstring_is_the_real_one():
    real = {
        name: None if kind is LeanmedError else kind.__base__.__name__
        for name, kind in vars(errors).items()
        if kind in KINDS
    }
    assert drawn_tree() == real
    assert drawn_tree()["LeakError"] == "DataError"


def test_every_error_says_what_it_is_for():
    assert all(kind.__doc__ for kind in KINDS)


def test_a_missing_extra_names_the_command_and_what_to_install():
    message = str(MissingExtraError("leanmed train", "train"))
    assert message.startswith("leanmed train needs packages")
    assert "pip install 'leanmed[train]'" in message


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_passes_between_processes(kind: type[LeanmedError]):
    error = kind(*ARGUMENTS.get(kind, ("as it is",)))
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (kind, str(error), vars(error))
