"""Which file a table means: by its path, one from another computer, its last part, or its name without ending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

DEEPEST = 32  # leading folders of a path that may be dropped

Key = Callable[[str], str]


class Matched(NamedTuple):
    """The files that a table names.

    Args:
        files: name in the table -> file; names without a file, or of which two could be meant, are not among them.
        how: how names were read, if not as they stand, in words that follow "names are read"; else empty.
    """

    files: dict[str, str]
    how: str


def match_names(names: Sequence[str], files: Collection[str]) -> Matched:
    """Find the files that a column of a table names.

    One way of reading names is chosen for the whole column, that by which most of them are files, the plainest if
    several are as good: else a name whose file is missing could be read as another file.

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


def _ways(names: Sequence[str]) -> Iterator[tuple[str, Key, Key]]:
    """Ways to read names, the plainest first: what is said of it, and what is compared of a name and of a file."""
    yield "", lambda name: name, lambda file: file
    yield "", with_slashes, lambda file: file
    yield "whatever the case of their letters", lambda name: with_slashes(name).casefold(), str.casefold
    deepest = max((with_slashes(name).count("/") for name in names), default=0)
    for count in range(1, min(deepest, DEEPEST) + 1):
        yield f"without their first {count} folder(s)", _without(count), str.casefold
    yield "by their last part", _last, _last
    yield "by their last part without its ending", _stem, _stem


def _without(count: int) -> Key:
    def rest(name: str) -> str:
        return "/".join(with_slashes(name).split("/")[count:]).casefold()

    return rest


def _last(name: str) -> str:
    return with_slashes(name).rpartition("/")[2].casefold()


def _stem(name: str) -> str:
    return PurePosixPath(_last(name)).stem


def _by(names: Sequence[str], files: Collection[str], of_name: Key, of_file: Key) -> dict[str, str]:
    """Name -> file, where one name and one file alone have the same key."""
    there: dict[str, list[str]] = defaultdict(list)
    for file in files:
        there[of_file(file)].append(file)
    asked: dict[str, list[str]] = defaultdict(list)
    for name in names:
        asked[of_name(name)].append(name)
    return {own[0]: there[key][0] for key, own in asked.items() if key and len(own) == len(there.get(key, ())) == 1}
