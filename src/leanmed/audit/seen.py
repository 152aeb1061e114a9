"""Which images of a data set made an artifact: by their contents, and by the traces that it keeps of them.

Where the old images are at hand, the audit compares pixels and groups their copies with them. Where some are not, the
artifact's traces still recognise most changed copies (docs/audit.md has how many), but not other images of a patient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from leanmed.audit.describe import Description
from leanmed.audit.grouping import Known, absent, share_nothing
from leanmed.audit.reading import describe_all, processes
from leanmed.audit.store import Store
from leanmed.audit.traces import Traces, copies, query, trace
from leanmed.console import silent
from leanmed.errors import ArtifactError
from leanmed.manifest import Provenance, image_mark
from leanmed.records import Record


def make_traces(records: Sequence[Record], cache: Path | None) -> bytes:
    """What an artifact keeps of the images that made it, about 257 bytes each; nothing of slices of volumes.

    Args:
        records: those images.
        cache: the folder of an audit, whose descriptions are used again; None: there is none.
    """
    with _described(records, cache) as found:
        codes = [trace(description) for _, description in found]
    return Traces.of(codes).to_bytes() if codes else b""


@dataclass(frozen=True)
class Met:
    """A data set as an artifact meets it.

    Args:
        unseen: images that share no group with one that made the artifact, or that is taken for a copy of one.
        notes: what a report must say of it.
    """

    unseen: list[Record]
    notes: list[str]


def meet(known: Known, origin: Provenance, traces: bytes, cache: Path | None) -> Met:
    """Sort a data set's images by whether an artifact has seen them.

    Args:
        known: the data set, grouped.
        origin: of the artifact.
        traces: that it keeps; empty: none.
        cache: as in `make_traces`.
    """
    seen, marks = set(origin.seen_images), {name: image_mark(content) for name, content in known.contents.items()}
    everyone = (*known.grouping.records, *known.grouping.left_out)
    strangers = [record for record in everyone if marks[record.id] not in seen]
    found, more = None, []
    if traces and seen - set(marks.values()):
        try:
            found = _copies(strangers, traces, cache)
        except ArtifactError as error:
            more = [f"The artifact's traces of its training images cannot be used: {error}."]
    unseen = share_nothing(known.grouping, lambda record: marks[record.id] in seen or record.id in (found or ()))
    return Met(unseen, [*absent(seen, set(marks.values()), None if found is None else len(found)), *more])


def _copies(records: Sequence[Record], traces: bytes, cache: Path | None) -> set[str]:
    """Ids of the images that are taken for copies of a traced one."""
    with _described(records, cache) as found:
        names, codes = [], []
        for name, description in found:
            names.append(name)
            codes.append(query(description))
    taken = copies(Traces.from_bytes(traces), codes)
    return {name for name, is_copy in zip(names, taken, strict=True) if is_copy}


@contextmanager
def _described(records: Sequence[Record], cache: Path | None) -> Iterator[Iterable[tuple[str, Description]]]:
    """Ids and descriptions of those records that are images and can be read, one after the other."""
    images = sorted((record.id, record.image) for record in records if record.frame is None)
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leanmed-audit-")))
        store, pool = stack.enter_context(Store(folder)), stack.enter_context(processes(1, folder))
        contents, _ = describe_all(images, store, pool, silent)
        yield zip(contents, store.get(list(contents.values())), strict=True)
