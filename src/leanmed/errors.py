"""Everything leanmed raises on purpose, so that a caller can catch as much or as little as it wants.

```
LeanmedError
├── InputError            a file or array that cannot be read as an image
│   ├── UnreadableInput       missing, empty, truncated, damaged, or no image at all
│   ├── InputTooLarge         over the pixel or byte cap, which an option can raise
│   ├── UnsupportedInput      an image, but of a kind that has no right reading here
│   └── UnfamiliarInput       an image unlike those that the model was trained on, where such are refused
├── DataError             a data set whose files, table and labels do not agree
│   └── LeakError             a split that would put one group on both sides
├── RecipeError           a recipe with an unknown key or a value out of range
├── RunError              a run folder that is missing, unfinished or of another recipe
├── ArtifactError         an artifact that is missing, damaged, edited or too new
├── OutputError           a place to write to that holds something
├── ExportError           the graph and the model it was made from disagree
├── QualityError          a compressed artifact that loses more than it may
└── MissingExtraError     a command that needs `pip install leanmed[...]`
```

Every message is one paragraph: what was expected, what was found, what to do.
"""

from __future__ import annotations

from typing import Any


class LeanmedError(Exception):
    """Base of all errors that leanmed raises on purpose. They can be sent from one process to another."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python itself would make the copy from the message alone, which is not what each error takes.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InputError(LeanmedError):
    """A file or array that cannot be read as an image."""


class UnreadableInput(InputError):
    """Missing, empty, truncated, damaged, or no image at all."""


class InputTooLarge(InputError):
    """Over the pixel or byte cap. The caps are options and can be raised."""


class UnsupportedInput(InputError):
    """An image, but of a kind that has no right reading here."""


class UnfamiliarInput(InputError):
    """An image unlike those that the model was trained on, where such are refused.

    Args:
        message: see the module.
        familiar: how familiar it looks, from 0 to 1.
    """

    def __init__(self, message: str, familiar: float) -> None:
        super().__init__(message)
        self.familiar = familiar


class DataError(LeanmedError):
    """A data set whose files, table and labels do not agree."""


class LeakError(DataError):
    """A split that would put one group on both sides."""


class RecipeError(LeanmedError):
    """A recipe with an unknown key or a value out of range."""


class RunError(LeanmedError):
    """A run folder that is missing, unfinished or of another recipe."""


class ArtifactError(LeanmedError):
    """An artifact that is missing, damaged, edited or too new."""


class OutputError(LeanmedError):
    """A place to write to that holds something, which is neither lost nor mixed with what is new."""


class ExportError(LeanmedError):
    """The exported graph and the model it was made from disagree."""


class QualityError(LeanmedError):
    """A compressed artifact that loses more than it may."""


class MissingExtraError(LeanmedError):
    """A command that needs more than the default install.

    Args:
        command: what was asked for, as the user would name it.
        extra: the optional dependency group that brings it, e.g. ``train``.
    """

    def __init__(self, command: str, extra: str) -> None:
        super().__init__(
            f"{command} needs packages that the default install leaves out; "
            f"install them with: pip install 'leanmed[{extra}]'"
        )
