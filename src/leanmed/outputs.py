"""The one rule for everything that a command is told to write by `--out`.

It is refused when it holds something, before any work is done. `--overwrite` replaces what leanmed itself wrote there,
once the new output is whole, and never a file or folder with anything else in it. A kind of output is an `Output`,
which stands beside the code that writes it and lists all that it may hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from leanmed.errors import OutputError
from leanmed.files import encodable, is_leftover, whole_folder


@dataclass(frozen=True)
class Output:
    """A kind of output, and how it is recognised.

    Args:
        name: what it is, with its article.
        keys: of the JSON object that shows whose it is.
        marker: a pattern for the path of that object's file within the folder; empty: the output is this one file.
        holds: patterns for the names of all that lies directly in the folder.
        kept: names of what a stopped command leaves there to go on from. They do not fill the folder, and stay in it
            when the rest is replaced.
        resumed: a stopped command goes on by `--resume`.
        option: of the command line, which says where it goes.
        begins: of one file that is no JSON, what it begins with.
    """

    name: str
    keys: tuple[str, ...]
    marker: str = ""
    holds: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    resumed: bool = False
    option: str = "--out"
    begins: bytes = b""

    def check(self, out: Path, *, overwrite: bool = False) -> None:
        """Refuse a place that this output may not take.

        Args:
            out: where to write. It need not exist.
            overwrite: it may hold such an output already.

        Raises:
            OutputError: it holds something else; or such an output, and `overwrite` is false.
        """
        place = f"{self.option} {out}"
        held = self._held(out)
        strange = [name for name in held if self.marker and not any(fnmatchcase(name, own) for own in self.holds)]
        is_ours = bool(held) and not strange and self._is_marked(out)
        if not held or (is_ours and overwrite):
            return
        if is_ours:
            raise OutputError(
                f"expected {place} to be new{' or empty' if self.marker else ''}, but it holds {self.name}; add "
                f"{'--resume to go on with it, or ' if self.resumed else ''}--overwrite to replace it, or choose "
                f"another {self.option}"
            )
        found = f"it holds {(strange or held)[0]}" if self.marker else "it is a file of another kind"
        raise OutputError(
            f"expected {place} to be new{' or empty' if self.marker else ''}"
            f"{f', or to hold nothing but {self.name}' if overwrite else ''}, but {found}; choose another {self.option}"
        )

    @contextmanager
    def folder(self, out: Path, *, overwrite: bool = False) -> Iterator[Path]:
        """Yield a new folder that takes the place of `out` if the block ends well; see `check` and `whole_folder`."""
        self.check(out, overwrite=overwrite)
        with whole_folder(out, replace=True, keep=self.kept) as folder:
            yield folder

    def _held(self, out: Path) -> list[str]:
        """The names of what would be lost."""
        if out.exists() and out.is_dir() != bool(self.marker):
            wanted, got = ("folder", "file") if self.marker else ("file", "folder")
            raise OutputError(
                f"expected {self.option} {out} to be a {wanted}, but it is a {got}; choose another {self.option}"
            )
        if not self.marker:
            return [out.name] if out.exists() and out.stat().st_size else []
        entries = sorted(out.iterdir()) if out.exists() else []
        return [encodable(entry.name) for entry in entries if entry.name not in self.kept and not is_leftover(entry)]

    def _is_marked(self, out: Path) -> bool:
        if self.begins:
            with out.open("rb") as file:
                return file.read(len(self.begins)) == self.begins
        files = list(out.glob(self.marker)) if self.marker else [out]
        return bool(files) and has_keys(files[0], self.keys)


def check_one(*, resume: bool, overwrite: bool) -> None:
    """Refuse to go on with an output and to replace it.

    Raises:
        OutputError: both are asked for.
    """
    if resume and overwrite:
        raise OutputError("expected --resume or --overwrite, got both; leave one out")


def has_keys(file: Path, keys: tuple[str, ...]) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)
