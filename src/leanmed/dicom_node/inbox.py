"""The store: what was acknowledged is on disk, and a series' state is what lies in its folder.

```
series/ID/images/NAME-CONTENT.dcm    what was received; names are hashes of UIDs, which might be paths, and contents
series/ID/answers/SET/               the answers to a set of images, whole or not there
    outcome.json                     which objects there are, and what was refused and why
    ANSWER.taken                     one of them has reached its destination
    rejected.json                    the destination will not take some of them
    sent.json                        they all have reached their destination
series/ID/answers/SET.tries          how often it was begun to answer, and the process ended
wanted/NAME.json                     a study that is to be fetched, and which of its series wait for that
lock                                 held by the node that works here
```
Each state follows from the one before by one rename on the disk, so that a process may be killed at any point.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydicom import Dataset

from leanmed.dicom_node.journal import is_uid, short_hash
from leanmed.errors import DataError, InputTooLarge, UnreadableInput
from leanmed.reading.dicom import parse_dicom
from leanmed.reading.raster import Limits
from leanmed.reading.source import border

State = Literal["received", "answered", "rejected", "sent", "refused"]
OUTCOME, SENT, REJECTED, TAKEN = "outcome.json", "sent.json", "rejected.json", ".taken"
TRIES = 10  # after which a series that ends the process is refused; a process may also end for other reasons
PART = ".part"
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True)
class Received:
    """What became of an object.

    Args:
        series: the series' ID in the store.
        is_new: it was not there before.
        sop_class, sop_instance: its UIDs.
    """

    series: str
    is_new: bool
    sop_class: str
    sop_instance: str


@dataclass(frozen=True)
class Outcome:
    """What came of answering a series.

    Args:
        objects: names of the files to send, in order.
        refused: name of the artifact, or "" for the whole series -> why there is no answer.
        seconds: that answering took.
    """

    objects: tuple[str, ...]
    refused: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Series:
    """One series in the store, with the images that were there when it was looked at.

    Args:
        folder: its own.
        names: of the images' files, sorted.
    """

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def at(cls, folder: Path) -> Series:
        """What was received whole so far."""
        return cls(folder, tuple(sorted(path.name for path in (folder / "images").glob("[!.]*.dcm"))))

    @property
    def id(self) -> str:
        """What logs call it."""
        return self.folder.name

    @property
    def images(self) -> Path:
        """The folder of what was received."""
        return self.folder / "images"

    @property
    def files(self) -> list[Path]:
        """The images."""
        return [self.images / name for name in self.names]

    @property
    def images_id(self) -> str:
        """Names the images that are there: other images, another name."""
        return short_hash(*self.names)

    @property
    def answers(self) -> Path:
        """The folder of the answers to these images; it is there once they are whole."""
        return self.folder / "answers" / self.images_id

    @property
    def sent_before(self) -> list[Path]:
        """The folders of answers to other images of the series that have reached their destination, in that order."""
        sent = [path for path in self.answers.parent.glob(f"[!.]*/{SENT}") if path.parent != self.answers]
        return [path.parent for path in sorted(sent, key=lambda path: path.stat().st_mtime_ns)]

    @property
    def _tries(self) -> Path:
        return self.answers.with_suffix(".tries")

    @property
    def changed(self) -> float:
        """When an image came last, in seconds since the epoch."""
        return self.images.stat().st_mtime

    @property
    def outcome(self) -> Outcome | None:
        """What came of answering; None: it was not answered yet."""
        try:
            content = json.loads((self.answers / OUTCOME).read_text(encoding="utf-8"))
            return Outcome(tuple(content["objects"]), content["refused"], content["seconds"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # a damaged one is made anew
            return None

    @property
    def state(self) -> State:
        """See the module."""
        outcome = self.outcome
        if outcome is None:
            return "received"
        if not outcome.objects:
            return "refused"
        if (self.answers / SENT).exists():
            return "sent"
        return "rejected" if (self.answers / REJECTED).exists() else "answered"

    @property
    def ended(self) -> float | None:
        """When nothing was left to be done, in seconds since the epoch; None: something is."""
        names = {"sent": SENT, "refused": OUTCOME}
        state = self.state
        return (self.answers / names[state]).stat().st_mtime if state in names else None

    @property
    def tries(self) -> int:
        """How often it was begun to answer these images, without coming to an end."""
        try:
            return int(self._tries.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def begin(self) -> int:
        """Count that answering begins; see `tries`."""
        tries = self.tries + 1
        write_durably(self._tries, str(tries).encode())
        return tries

    def finish(self) -> None:
        """Forget how often it was begun."""
        self._tries.unlink(missing_ok=True)

    def keep(self, objects: Mapping[str, bytes], outcome: Outcome) -> None:
        """Write the answers, all or none of them.

        Raises:
            OSError: the disk is full, or fails; nothing was changed.
            ValueError: an outcome that names objects which are not given.
        """
        if missing := set(outcome.objects) - set(objects):
            raise ValueError(f"expected every object that the outcome names, got none called {min(missing)}; give it")
        content = {"objects": list(outcome.objects), "refused": dict(outcome.refused), "seconds": outcome.seconds}
        answers = self.answers
        temporary = answers.with_name(f".{answers.name}{PART}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for name, written in objects.items():
                write_durably(temporary / name, written)
            write_durably(temporary / OUTCOME, json.dumps(content, indent=1).encode())
            _discard(answers)  # one whose outcome was damaged
            temporary.replace(answers)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(answers.parent)

    def untaken(self) -> list[Path]:
        """The answers that have not reached their destination."""
        outcome = self.outcome
        files = [self.answers / name for name in outcome.objects] if outcome else []
        return [path for path in files if not path.with_suffix(TAKEN).exists()]

    def mark_taken(self, answer: Path) -> None:
        """Remember that one answer has reached its destination."""
        write_durably(answer.with_suffix(TAKEN), b"")

    def mark_rejected(self, reason: str) -> None:
        """Remember that the destination will not take some answers as they are."""
        write_durably(self.answers / REJECTED, json.dumps({"reason": reason}).encode())

    @property
    def rejection(self) -> str:
        """Why the destination will not take some answers; empty: it does."""
        if self.state != "rejected":
            return ""
        with suppress(FileNotFoundError, ValueError, KeyError):
            return str(json.loads((self.answers / REJECTED).read_text(encoding="utf-8"))["reason"])
        return "unknown"

    def mark_sent(self) -> None:
        """Remember that all answers have reached their destination."""
        write_durably(self.answers / SENT, json.dumps({"time": round(time.time(), 3)}).encode())

    def forget_outcome(self) -> None:
        """Let it be answered again."""
        _discard(self.answers)
        self.finish()


class Store:
    """All series, and the studies that are to be fetched.

    Args:
        root: the folder; it is made if it is not there.
        max_bytes: of one object.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root, self.limits = root, Limits(max_bytes=max_bytes, max_scan_bytes=max(max_bytes, Limits.max_scan_bytes))
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}
        self._opened = time.monotonic()
        self._came: dict[str, float] = {}
        for folder in (self._series, self._wanted):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def _series(self) -> Path:
        return self.root / "series"

    @property
    def _wanted(self) -> Path:
        return self.root / "wanted"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other nodes from the store meanwhile; the system lets go of it however the process ends.

        Raises:
            DataError: another process has it.
        """
        with (self.root / "lock").open("ab") as file:
            try:
                _lock(file)
            except OSError as error:
                raise DataError(
                    f"expected `store` {self.root} to be this node's own, got one that a running node uses; stop that "
                    "node first, or name another folder"
                ) from error
            yield

    def clean(self) -> None:
        """Remove the halves that a killed process has left; only before anything is received."""
        for half in [path for pattern in ("*/*/", "*/", "") for path in self.root.glob(f"{pattern}*/.*{PART}")]:
            if half.is_dir():
                shutil.rmtree(half)
            else:
                half.unlink()
        for series in self.all():
            for older in _superseded(series.files):
                older.unlink()

    def put(
        self, content: bytes, sop_instance: str | None = None, brings: Callable[[str], None] | None = None
    ) -> Received:
        """Keep an object; when this returns, it is on the disk. One of other content takes the place of the older.

        Args:
            content: a DICOM file.
            sop_instance: the UID by which the sender calls it; None: the object's own.
            brings: is given the series' ID before anything is written.

        Raises:
            UnreadableInput: no DICOM, or identifiers that are missing, no UIDs, or not the sender's.
            InputTooLarge: over the limit.
            OSError: the disk is full, or fails; nothing is kept.
        """
        if len(content) > self.limits.max_bytes:
            raise InputTooLarge(
                f"expected an object of at most {self.limits.max_bytes:,} bytes, got {len(content):,}; raise "
                "max_megabytes, or route such objects elsewhere"
            )
        with border("object", "DICOM object"):
            dataset = parse_dicom(content, self.limits)
            identifiers = [str(dataset.get(name) or "") for name in _IDENTIFIERS]
        study, series, instance = identifiers
        if not all(map(is_uid, identifiers)) or sop_instance not in (None, instance):
            raise UnreadableInput(
                "expected an object whose study, series and instance have UIDs of digits and dots, the instance's as "
                "it was announced, got others; send it again"
            )
        name = series_id(study, series)
        if brings:
            brings(name)
        own = short_hash(instance)
        path = self._series / name / "images" / f"{own}-{_content_hash(content, dataset)}.dcm"
        with self._lock:
            is_new = not path.exists()
            if is_new:
                write_durably(path, content)
            older = [one for one in path.parent.glob(f"{own}*.dcm") if one != path]
            for one in older:
                one.unlink()
            if older or not is_new:
                _sync(path.parent)  # whoever renamed it may have been killed before
            self._came[name] = time.monotonic()
        return Received(name, is_new, str(dataset.get("SOPClassUID") or ""), instance)

    def quiet(self, series: str) -> float:
        """Seconds since an image of a series came, or the store was opened: clocks that are set do not count."""
        return time.monotonic() - self._came.get(series, self._opened)

    def waiting(self) -> Iterator[tuple[Series, State]]:
        """Every series for which something is left to be done; those for which nothing is are looked at once."""
        for folder in sorted(self._series.glob("[!.]*")):
            with suppress(FileNotFoundError):  # of a folder that is made or removed at this moment
                changed = (folder / "images").stat().st_mtime_ns
                if self._ended.get(folder.name) == changed:
                    continue
                series = Series.at(folder)
                state = series.state
                if series.names and state in ("received", "answered", "rejected"):
                    yield series, state
                else:
                    self._ended[folder.name] = changed

    def all(self) -> Iterator[Series]:
        """Every series with an image."""
        for folder in sorted(self._series.glob("[!.]*")):
            series = Series.at(folder)
            if series.names:
                yield series

    def remove_ended(self, before: float) -> list[str]:
        """Remove the series for which nothing is left to be done since a time; their IDs."""
        removed = []
        for series in self.all():
            with self._lock:  # no image comes in between
                ended = series.ended
                if ended is not None and max(ended, series.changed) < before and series == Series.at(series.folder):
                    _discard(series.folder)
                    self._ended.pop(series.id, None)
                    self._came.pop(series.id, None)
                    removed.append(series.id)
        return removed

    def want(self, study: str, series: Sequence[str] = ()) -> None:
        """Remember that a study is to be fetched; when this returns, it is on the disk.

        Args:
            study: its UID.
            series: IDs of its series that will come, as soon as they are known.
        """
        path = self._wanted / f"{short_hash(study)}.json"
        if series or not path.exists():  # who asks again must not take back what is known
            write_durably(path, json.dumps({"study": study, "series": list(series)}).encode())

    def is_awaited(self, series: str) -> bool:
        """Whether more images of a series are to be fetched."""
        return any(series in known.get("series", ()) for _, known in self._known())

    def _known(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted(self._wanted.glob("[!.]*.json")):
            with suppress(FileNotFoundError, ValueError):  # it was fetched at this moment, or somebody has damaged it
                yield path, json.loads(path.read_text(encoding="utf-8"))

    def wanted(self) -> Iterator[tuple[Path, str]]:
        """The studies that are to be fetched, each with the file to remove once it was."""
        for path, known in self._known():
            yield path, str(known["study"])


def series_id(study: str, series: str) -> str:
    """What the store and the log call a series, by its UID and its study's."""
    return short_hash(study, series)


def _lock(file: IO[bytes]) -> None:
    """Take a file for this process.

    Raises:
        OSError: another has it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is whole and on the disk when this returns, or not there.

    Raises:
        OSError: the disk is full, or fails.
    """
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync(path.parent)
    for folder in made:
        _sync(folder.parent)


def _superseded(files: Iterable[Path]) -> list[Path]:
    """The older versions of instances of which a killed process has left two."""
    versions: dict[str, list[Path]] = {}
    for path in files:
        versions.setdefault(path.stem.partition("-")[0], []).append(path)
    ordered = [sorted(paths, key=lambda path: path.stat().st_mtime_ns) for paths in versions.values()]
    return [older for paths in ordered for older in paths[:-1]]


def _content_hash(content: bytes, dataset: Dataset) -> str:
    """Names what an object holds: its dataset and its transfer syntax, whoever wrote its file meta group."""
    start = 0
    length = dataset.file_meta.get("FileMetaInformationGroupLength")
    if length is not None and content[128:132] == b"DICM":
        start = 144 + int(length)  # PS3.10 7.1: the preamble, the prefix, the element that holds the length
    body = hashlib.sha256(memoryview(content)[start:])
    body.update(str(dataset.file_meta.TransferSyntaxUID).encode())
    return body.hexdigest()[:16]


def _discard(folder: Path) -> None:
    """Remove a folder, of which no half is ever seen."""
    gone = folder.with_name(f".{folder.name}.gone{PART}")
    with suppress(FileNotFoundError):
        folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk; Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
