"""The store: what was acknowledged is on disk, and a series' state is what lies in its folder.

```
series/ID/images/NAME.dcm            what was received; names are hashes of UIDs, which might be paths
series/ID/answers/SET/               the answers to a set of images, whole or not there
    outcome.json                     which objects there are, and what was refused and why
    sent.json                        they have reached their destination
series/ID/answers/SET.tries          how often it was begun to answer, and the process ended
wanted/NAME.json                     a study that is to be fetched
```
Each state follows from the one before by one rename on the disk, so that a process may be killed at any point.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leanmed.dicom_node.journal import is_uid, short_hash
from leanmed.errors import UnreadableInput
from leanmed.reading.dicom import parse_dicom
from leanmed.reading.raster import Limits
from leanmed.reading.source import border

State = Literal["received", "answered", "sent", "refused"]
OUTCOME, SENT = "outcome.json", "sent.json"
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
    def set(self) -> str:
        """Names the images that are there: other images, another name."""
        return short_hash(*self.names)

    @property
    def answers(self) -> Path:
        """The folder of the answers to these images; it is there once they are whole."""
        return self.folder / "answers" / self.set

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
        except FileNotFoundError:
            return None
        return Outcome(tuple(content["objects"]), content["refused"], content["seconds"])

    @property
    def state(self) -> State:
        """See the module."""
        outcome = self.outcome
        if outcome is None:
            return "received"
        if not outcome.objects:
            return "refused"
        return "sent" if (self.answers / SENT).exists() else "answered"

    @property
    def ended(self) -> float | None:
        """When nothing was left to be done, in seconds since the epoch; None: something is."""
        names = {"sent": SENT, "refused": OUTCOME}
        state = self.state
        return (self.answers / names[state]).stat().st_mtime if state in names else None

    @property
    def tries(self) -> int:
        """How often it was begun to answer these images, without coming to an end."""
        return int(self._tries.read_text()) if self._tries.exists() else 0

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
        """
        content = {"objects": list(outcome.objects), "refused": dict(outcome.refused), "seconds": outcome.seconds}
        answers = self.answers
        temporary = answers.with_name(f".{answers.name}{PART}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for name, written in objects.items():
                write_durably(temporary / name, written)
            write_durably(temporary / OUTCOME, json.dumps(content, indent=1).encode())
            temporary.replace(answers)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(answers.parent)

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
        for folder in (self._series, self._wanted):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def _series(self) -> Path:
        return self.root / "series"

    @property
    def _wanted(self) -> Path:
        return self.root / "wanted"

    def clean(self) -> None:
        """Remove the halves that a killed process has left; only before anything is received."""
        for half in [path for pattern in ("*/*/", "*/", "") for path in self.root.glob(f"{pattern}*/.*{PART}")]:
            if half.is_dir():
                shutil.rmtree(half)
            else:
                half.unlink()

    def put(self, content: bytes, sop_instance: str | None = None) -> Received:
        """Keep an object; when this returns, it is on the disk. One that is there already stays as it is.

        Args:
            content: a DICOM file.
            sop_instance: the UID by which the sender calls it; None: the object's own.

        Raises:
            UnreadableInput: no DICOM, or identifiers that are missing, no UIDs, or not the sender's.
            InputTooLarge: over the limit.
            OSError: the disk is full, or fails; nothing is kept.
        """
        with border("object", "DICOM object"):
            dataset = parse_dicom(content, self.limits)
            identifiers = [str(dataset.get(name) or "") for name in _IDENTIFIERS]
        study, series, instance = identifiers
        if not all(map(is_uid, identifiers)) or sop_instance not in (None, instance):
            raise UnreadableInput(
                "expected an object whose study, series and instance have UIDs of digits and dots, the instance's as "
                "it was announced, got others; send it again"
            )
        name = short_hash(study, series)
        path = self._series / name / "images" / f"{short_hash(instance)}.dcm"
        with self._lock:
            is_new = not path.exists()
            if is_new:
                write_durably(path, content)
            else:
                _sync(path.parent)  # whoever renamed it may have been killed before
        return Received(name, is_new, str(dataset.get("SOPClassUID") or ""), instance)

    def waiting(self) -> Iterator[tuple[Series, State]]:
        """Every series for which something is left to be done; those for which nothing is are looked at once."""
        for folder in sorted(self._series.glob("[!.]*")):
            with suppress(FileNotFoundError):  # of a folder that is made or removed at this moment
                changed = (folder / "images").stat().st_mtime_ns
                if self._ended.get(folder.name) == changed:
                    continue
                series = Series.at(folder)
                state = series.state
                if series.names and state in ("received", "answered"):
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
                    removed.append(series.id)
        return removed

    def want(self, study: str) -> None:
        """Remember that a study is to be fetched; when this returns, it is on the disk."""
        write_durably(self._wanted / f"{short_hash(study)}.json", json.dumps({"study": study}).encode())

    def wanted(self) -> Iterator[tuple[Path, str]]:
        """The studies that are to be fetched, each with the file to remove once it was."""
        for path in sorted(self._wanted.glob("[!.]*.json")):
            yield path, json.loads(path.read_text(encoding="utf-8"))["study"]


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
