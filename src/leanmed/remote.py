"""Files in a cloud's object store (`s3://`, `gs://`): named as paths are, and worked on as copies at hand.

An object is written at once or not at all, so that whoever reads it sees a whole one. Of what fsspec opens, no other
scheme promises this. The package for a scheme is the user's to install, and credentials are where it looks for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from leanmed.errors import InputTooLarge, LeanmedError, RunError, UnreadableInput
from leanmed.extras import needs

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"
AnyPlace = TypeVar("AnyPlace", bound=Place)

URL = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # one slash: `Path` leaves no more of two
SCHEMES = {"s3": "s3fs", "gs": "gcsfs"}  # and the packages that open them
LOCAL = "file"
ENDING = re.compile(r"(\.nii\.gz|\.[a-z][a-z0-9]{1,4})$", re.IGNORECASE)  # of a file's name; 1.2.840 has none
PIECE = 2**20  # bytes that are copied at a time
FEW = 8  # files, up to which asking for each costs less than a list of its folder
MOST_FILES, MOST_BYTES = 64, 4 * 2**30  # of a folder that is copied
PREFIX = "leanmed-"  # of the folders in which copies lie
MARKER = ".done"  # the end of a file's name that says that others are whole


def is_url(text: str) -> bool:
    """Whether a text names something by a URL, and not by a path on this machine."""
    return URL.match(text) is not None


def place_of(text: str, command: str = "a URL") -> Place:
    """What a text names: a path on this machine, which may be a `file://` URL, or a place in an object store.

    Args:
        text: the one or the other.
        command: what was asked for, for the error's words.

    Raises:
        MissingExtraError: a URL without the extra `ray`, which brings fsspec.
        RunError: a URL of another scheme, without the package that opens it, or that this package refuses.
    """
    found = URL.match(text)
    if not found:
        return Path(text)
    scheme = found[1].lower()
    if scheme == LOCAL:
        return Path(unquote(urlsplit(text).path))
    if scheme not in SCHEMES:
        raise RunError(
            f"expected a path, or a URL that begins with {', '.join(f'{name}://' for name in SCHEMES)} or {LOCAL}://, "
            f"got {scheme}://; mount the other machine's folder here, and give its path"
        )
    needs(command, "ray", "fsspec", "upath")
    from upath import UPath

    try:
        place = UPath(f"{scheme}{text[len(scheme) :]}")
        place.fs  # noqa: B018 (which imports the package of the scheme)
    except ImportError as error:
        raise RunError(
            f"expected {SCHEMES[scheme]} to be installed for {scheme}://, got no such package; pip install "
            f"{SCHEMES[scheme]}, on all machines"
        ) from error
    except Exception as error:
        raise _unreachable(text, error) from error
    return place


def exists(place: Place) -> bool:
    """Whether there is something at a place.

    Raises:
        RunError: its URL cannot be reached.
    """
    if isinstance(place, Path):
        return place.exists()
    with told(place):
        place.fs.invalidate_cache()  # a list of its folder may be from before another process wrote it
        return place.exists()


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Tell in one sentence what goes wrong behind a URL, whatever its package raises; of a path, nothing is changed.

    Raises:
        RunError: something did.
    """
    try:
        yield
    except LeanmedError:
        raise
    except Exception as error:
        if isinstance(place, Path):
            raise
        raise _unreachable(str(place), error) from error


def _unreachable(url: str, error: Exception) -> RunError:
    detail = " ".join(f"{type(error).__name__}: {error}".split())
    return RunError(
        f"expected to reach {url}, got {detail}; check the address, the network and your rights there, and repeat the "
        "command, with --resume if it has that option"
    )


@contextmanager
def at_hand(place: Place, most: int) -> Iterator[Path]:
    """A file on this machine: the place itself, or a copy that is gone when the block ends.

    The copy has another name, but for the ending. Messages about it tell the URL.

    Args:
        place: what is wanted.
        most: bytes that a copy may have.

    Raises:
        InputError: the block's own; behind the URL there is no file, or one of more than `most` bytes.
        RunError: the URL cannot be reached now, which says nothing about the file.
    """
    if isinstance(place, Path):
        yield place
        return
    ending = ENDING.search(place.name)
    with TemporaryDirectory(prefix=PREFIX) as folder:
        copy = Path(folder) / f"input{ending[0] if ending else ''}"
        with told(place):
            _copy(place, copy, most)
        with _named(copy, place):
            yield copy


@contextmanager
def _named(copy: Path, place: Place) -> Iterator[None]:
    """Let errors about a copy, or about what lies in it, name what it is a copy of."""
    try:
        yield
    except LeanmedError as error:
        error.args = (str(error).replace(str(copy), str(place)), *error.args[1:])
        raise


def _copy(place: UPath, copy: Path, most: int) -> None:
    """Copy a file in pieces, since not every server says beforehand how large it is, or is right."""
    size = 0
    try:
        with place.fs.open(place.path, "rb") as source, copy.open("wb") as file:
            while piece := source.read(PIECE):
                size += len(piece)
                if size > most:
                    raise InputTooLarge(
                        f"{str(place)!r}: expected at most {most:,} bytes, got more; raise max_bytes if it is trusted"
                    )
                file.write(piece)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UnreadableInput(f"{str(place)!r}: expected a file, found none; check the address") from error


def files_below(folder: UPath) -> list[tuple[UPath, tuple[str, ...]]]:
    """All files below a place, folder by folder, each by name, with the parts of its name below the place.

    A place that is a file is its own, and has no parts.

    Raises:
        RunError: the place cannot be reached, or an object's name is none that a path could have.
    """
    with told(folder):
        above = folder.path.rstrip("/")
        found = [path for path in folder.fs.find(above) if not path.endswith("/")]
        if found == [above]:
            return [(folder, ())]
        below = sorted((tuple(path[len(above) :].lstrip("/").split("/")) for path in found), key=lambda p: (p[:-1], p))
        for parts in below:
            if {"", ".", ".."} & {*parts} or any("::" in part or "\\" in part for part in parts):
                name = "/".join(parts)
                raise RunError(f"expected names of files below {folder}, got {name!r}, which no path has; rename it")
        return [(folder.joinpath(*parts), parts) for parts in below]


@contextmanager
def folder_at_hand(place: Place, wanted: str) -> Iterator[Path]:
    """A folder on this machine: the place itself, or a copy of the files in it.

    Args:
        place: the folder.
        wanted: a file that must be in it, without which nothing is copied.

    Raises:
        RunError: the URL cannot be reached, or holds no such folder, or one of too many files.
    """
    if isinstance(place, Path):
        yield place
        return
    with TemporaryDirectory(prefix=PREFIX) as copy, _named(Path(copy), place):
        if not exists(place / wanted):
            raise RunError(f"expected a folder with {wanted} at {place}, got none; check the address")
        with told(place):
            names = _listed(place)
            if len(names) > MOST_FILES:
                raise RunError(
                    f"expected at most {MOST_FILES} files beside {wanted} at {place}, got {len(names)}; put them into "
                    "a folder of their own"
                )
            for name in names:
                if place.fs.isfile((place / name).path):
                    _copy(place / name, Path(copy) / name, MOST_BYTES)
        yield Path(copy)


@contextmanager
def mirrored(place: Place) -> Iterator[Mirror]:
    """A folder on this machine that stands for one behind a URL; a folder on disk stands for itself."""
    if isinstance(place, Path):
        yield Mirror(place, place)
        return
    with TemporaryDirectory(prefix=PREFIX) as copy, _named(Path(copy), place):
        yield Mirror(place, Path(copy))


class Mirror:
    """A folder, and one on this machine with copies of some of its files, which are brought here and sent back.

    Args:
        place: the folder. If it is on disk, nothing is copied.
        copy: the folder here.
    """

    def __init__(self, place: Place, copy: Path) -> None:
        self.place, self.copy = place, copy
        self.sent: dict[str, tuple[int, int]] = {}  # name -> size and time of the copy, as it is in the folder

    def fetch(self, names: Iterable[str]) -> None:
        """Bring those of the files that are there, and forget copies of those that are not.

        Raises:
            RunError: the URL cannot be reached.
        """
        if isinstance(self.place, Path):
            return
        names = list(names)
        with told(self.place):
            held = set(names if len(names) <= FEW else _listed(self.place))
            for name in names:
                copy = self.copy / name
                copy.unlink(missing_ok=True)
                self.sent.pop(name, None)
                if name in held and self._brought(name, copy):
                    self.sent[name] = _state(copy)

    def _brought(self, name: str, copy: Path) -> bool:
        assert not isinstance(self.place, Path)  # noqa: S101 - `fetch` has looked
        try:
            self.place.fs.get_file((self.place / name).path, str(copy))
        except FileNotFoundError:
            copy.unlink(missing_ok=True)
            return False
        return True

    def send(self) -> None:
        """Send what is new or changed, folders too, and files that mark others as whole last; remove what is gone here.

        What was fetched last is removed first.

        Raises:
            RunError: the URL cannot be reached.
        """
        if isinstance(self.place, Path):
            return
        with told(self.place):
            found = {path.relative_to(self.copy).as_posix(): path for path in self.copy.rglob("*") if path.is_file()}
            for name in sorted(found, key=lambda name: (name.endswith(MARKER), name)):
                if self.sent.get(name) != _state(found[name]):
                    self.place.fs.put_file(str(found[name]), (self.place / name).path)
                    self.sent[name] = _state(found[name])
            for name in [name for name in reversed(self.sent) if name not in found]:
                remove(self.place / name)
                del self.sent[name]


def write(place: Place, text: str) -> None:
    """Write a small file.

    Raises:
        RunError: the URL cannot be reached.
    """
    if isinstance(place, Path):
        place.write_text(text, encoding="utf-8")
        return
    with told(place):
        place.fs.pipe_file(place.path, text.encode())


def remove(place: Place) -> None:
    """Remove a file, if it is there.

    Raises:
        RunError: the URL cannot be reached, or nothing may be removed there.
    """
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    with told(place), suppress(FileNotFoundError):
        place.fs.rm_file(place.path)  # `rm` takes names for patterns, and does not say what it could not remove


def _listed(folder: UPath) -> list[str]:
    folder.fs.invalidate_cache()
    try:
        return [path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.path, detail=False)]
    except FileNotFoundError:
        return []


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
