"""Which file a table means: by its path, by one from another computer, or by the end of a path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from leanmed.reading.folders import SUFFIXES

DEEPEST = 32  # leading folders of a path that may be dropped
_ENDING = re.compile(f"({'|'.join(map(re.escape, sorted(SUFFIXES)))})$", re.IGNORECASE)

Keys = Callable[[str], Iterable[str]]


class Matched(NamedTuple):
    """The files that a table names.

    Args:
        files: name in the table -> file; names without a file are not among them.
        how: how names were read, if not as they stand, in words that follow "names are read"; else empty.
    """

    files: dict[str, str]
    how: str

    def notes(self, what: str) -> list[str]:
        """What to say of names that were not read as they stand."""
        return [f"The names of {what} are read {self.how}."] * bool(self.how)


def match_names(names: Sequence[str], files: Collection[str]) -> Matched:
    """Find the files that a column of a table names.

    One way of reading names is chosen for the whole column, that by which most of them are files, the plainest if
    several are as good. Each looser way takes a name for a file only if one path is the end of the other, and is passed
    over if by it a name could mean two files, or two names one: so a name whose file is missing is not read as another
    file, and no table of one folder is laid over another.

    Args:
        names: as the table has them.
        files: paths below the folder, with slashes.
    """
    wanted = list(dict.fromkeys(names))
    best = Matched({}, "")
    for how, of_name, of_file in _ways(wanted):
        found = _by(wanted, files, of_name, of_file)
        if len(found) > len(best.files):
            best = Matched(found, how)
        if len(best.files) == len(wanted):
            break
    return best


def with_slashes(name: str) -> str:
    """A name as a path below the folder, though it may be written with backslashes or a leading `./`."""
    return name.replace("\\", "/").removeprefix("./")


def _ways(names: Sequence[str]) -> Iterator[tuple[str, Callable[[str], str], Keys]]:
    """Ways to read names, the plainest first: what is said of it, a name's key, and the keys that a file has."""
    yield "", lambda name: name, lambda file: [file]
    yield "", with_slashes, lambda file: [file]
    yield "whatever the case of their letters", _folded, lambda file: [file.casefold()]
    deepest = max((with_slashes(name).count("/") for name in names), default=0)
    for count in range(1, min(deepest, DEEPEST) + 1):
        yield f"without their first {count} folder(s)", _without(count), lambda file: [file.casefold()]
    yield "by the ends of the files' paths", _folded, _tails
    yield "by the ends of the files' paths, without their endings", _folded, lambda file: _tails(_ENDING.sub("", file))


def _folded(name: str) -> str:
    return with_slashes(name).casefold()


def _without(count: int) -> Callable[[str], str]:
    return lambda name: "/".join(_folded(name).split("/")[count:])


def _tails(file: str) -> Iterator[str]:
    parts = file.casefold().split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def _by(names: Sequence[str], files: Collection[str], of_name: Callable[[str], str], of_file: Keys) -> dict[str, str]:
    """Name -> file; nothing at all if a name could mean two files, or two names mean one."""
    asked: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if key := of_name(name):
            asked[key].append(name)
    found: dict[str, str] = {}
    for file in files:
        for key in of_file(file):
            for name in asked.get(key, ()):
                if name in found:
                    return {}
                found[name] = file
    return found if len(set(found.values())) == len(found) else {}
