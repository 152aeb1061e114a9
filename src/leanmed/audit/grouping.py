"""What must never be split: the reader's groups, the audit's, or both joined; and what conflicts become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from leanmed.audit import GROUPS_VERSION, audit
from leanmed.audit.conflicts import UNKNOWN_GROUP
from leanmed.audit.groups import joined
from leanmed.audit.mask_conflicts import CONTRADICTS, LEAST_DICE, contradicting, contradictions, equal_images
from leanmed.console import Progress, now_and_then, silent
from leanmed.cores import available_processes
from leanmed.data import content_hashes, data_hash
from leanmed.data.tables import content_group, read_rows
from leanmed.errors import DataError
from leanmed.recipe.recipe import Split
from leanmed.records import Mask, Record
from leanmed.runs import write_csv

AS_NAMED = "as the data set names them"
NOT_AUDITED = "Not audited: copies of one image may stand on both sides of a split."
AUDIT = "leanmed-audit"  # the folder beside a run or a report, so that work on the same data shares one audit


@dataclass(frozen=True)
class Grouping:
    """Records with their final groups.

    Args:
        records: those to train and score on.
        conflicting: ids of images whose copies carry another label, or a mask that contradicts theirs.
        dropped: whether those were left out of `records`.
        source: where the groups come from, in words.
        left_out: those that were left out, with their groups.
        patients_known: whether the data set names any group, or copies alone are kept together.
    """

    records: list[Record]
    conflicting: tuple[str, ...]
    dropped: bool
    source: str
    left_out: tuple[Record, ...] = ()
    patients_known: bool = True

    def notes(self) -> list[str]:
        """What a report must say of it."""
        groups = len({record.group for record in self.records})
        lines = [NOT_AUDITED] * (self.source == AS_NAMED)
        lines.append(f"{len(self.records)} images in {groups} groups; groups: {self.source}.")
        if self.conflicting:
            fate = "left out of training and scoring" if self.dropped else "kept"
            what = (
                f"a copy whose mask contradicts theirs: one is empty, or their Dice is below {LEAST_DICE:g}"
                if any(isinstance(record.target, Mask) for record in (*self.records, *self.left_out))
                else "a copy with another label"
            )
            lines.append(f"{len(self.conflicting)} images have {what}; they were {fate}.")
        return lines


def group_records(
    records: Sequence[Record],
    split: Split,
    cache: Path,
    *,
    data_sha256: str,
    tell: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Grouping:
    """Give every record its final group, and drop conflicts if the split says so.

    Args:
        records: as the reader gave them.
        split: `groups` is `audit`, `reader` or a `groups.csv` of an audit; `conflicts` is `drop` or `keep`.
        cache: a folder for the audit's groups; those of the same data are used again.
        data_sha256: hash of the data set, which names the cached groups.
        tell: takes one line of progress at a time.
        progress: takes stage, done and total of an audit; None: a line is told now and then.

    Raises:
        DataError: a `groups.csv` that does not fit the records.
    """
    masked = any(isinstance(record.target, Mask) for record in records)
    if split.groups == "reader":
        copies = {r.id: content_group(r.image) for r in records}
        apart = _equal_but_contradicting(records, copies)
        relation, source = {r.id: r.group for r in records}, AS_NAMED
    else:
        given = split.groups != "audit"
        path = Path(split.groups) if given else cache / f"groups-{data_sha256[:16]}-{GROUPS_VERSION}.csv"
        if not given and not path.is_file():
            tell("auditing for copies, so that none stands on both sides of a split")
            _audit(records, cache, path, progress or now_and_then(tell))
        copies = read_groups(path, records)
        relation = joined({r.id: r.group for r in records}, copies)
        source = f"the data set's own joined with {path.name if given else 'an audit for copies'}"
        said = read_contradicting(path, records) if masked else set()
        if said is None:
            said = _equal_but_contradicting(records, {r.id: content_group(r.image) for r in records})
            source += ", which does not say which copies have masks that contradict each other: audit the data again"
        apart = said
    regrouped = [replace(r, group=relation[r.id]) for r in records]
    # Two labels in one patient are two findings; two labels of one photograph contradict each other.
    torn = conflicts([replace(r, group=copies[r.id]) for r in records]) | apart
    drop = split.conflicts == "drop" and bool(torn)
    kept = [r for r in regrouped if not (drop and r.id in torn)]
    left_out = tuple(r for r in regrouped if drop and r.id in torn)
    known = not all(record.group.startswith(UNKNOWN_GROUP) for record in records)
    found = Grouping(kept, tuple(sorted(torn)), drop, source, left_out, known)
    for line in found.notes():
        tell(line)
    return found


@dataclass(frozen=True)
class Known:
    """A data set that an artifact meets.

    Args:
        grouping: its records with their final groups.
        contents: record id -> SHA-256 of the image file.
        sha256: of the whole data set.
    """

    grouping: Grouping
    contents: Mapping[str, str]
    sha256: str


def group_for_artifact(
    records: Sequence[Record], split: Split, cache: Path | None, *, progress: Progress = silent
) -> Known:
    """Group a data set as the one an artifact was trained on was grouped.

    Args:
        records: as the reader gave them.
        split: of the artifact's recipe; a groups.csv of the training machine says nothing here, and an audit is made.
        cache: as in `group_records`; None keeps nothing.
        progress: takes stage, done and total of an audit.
    """
    contents = dict(zip((record.id for record in records), content_hashes(records), strict=True))
    sha256 = data_hash(records, list(contents.values()))
    wanted = split.model_copy(update={"groups": split.groups if split.groups == "reader" else "audit"})
    with TemporaryDirectory() as scratch:
        folder = cache or Path(scratch)
        grouping = group_records(records, wanted, folder, data_sha256=sha256, tell=lambda line: None, progress=progress)
        return Known(grouping, contents, sha256)


def share_nothing(found: Grouping, was_seen: Callable[[Record], bool]) -> list[Record]:
    """The records of those groups of which no image was seen, be it one that was left out."""
    known = {record.group for record in (*found.records, *found.left_out) if was_seen(record)}
    return [record for record in found.records if record.group not in known]


def absent(seen: Collection[str], contents: Collection[str], copies: int | None = None) -> list[str]:
    """What to say of images an artifact was made from that are not in a data set.

    Args:
        seen, contents: marks of the images that made it, and of those in the data set.
        copies: how many images are taken for copies by the artifact's traces; None: it has none.
    """
    lost = len(set(seen) - set(contents))
    start = f"{lost} of {len(set(seen))} images that made the artifact are not in this data set."
    if copies is None:
        rest = "Changed copies of them and other images of their patients cannot be recognised"
    else:
        rest = (
            f"By the traces that the artifact keeps of them, {copies} images here are taken for changed copies of one, "
            "and are left out with their groups (docs/audit.md says how many copies traces miss). Other images of "
            "their patients cannot be recognised"
        )
    return [f"{start} {rest}: check with `leanmed audit --split`."] * bool(lost)


def _audit(records: Sequence[Record], cache: Path, path: Path, progress: Progress) -> None:
    found = audit([(r.id, r.image) for r in records], cache=cache, workers=available_processes(), progress=progress)
    # What cannot be read is grouped with nothing; training names it soon.
    other = contradicting(contradictions(found.pairs, records))
    rows = [
        {"image": r.id, "group": found.groups.get(r.id, r.id)}
        | ({CONTRADICTS: other.get(r.id, "")} if isinstance(r.target, Mask) else {})
        for r in records
    ]
    write_csv(path, rows)


def read_groups(path: Path, records: Sequence[Record]) -> dict[str, str]:
    """Image -> group from a `groups.csv`.

    Raises:
        DataError: a record without a row.
    """
    rows = read_rows(path, needed=("image", "group"))
    found = {row["image"]: row["group"] for row in rows}
    missing = [r.id for r in records if r.id not in found]
    if missing:
        raise DataError(
            f"{path}: expected a row for every image, but {len(missing)} have none, such as {missing[0]}; "
            "run `leanmed audit` on this data set again"
        )
    return {r.id: found[r.id] for r in records}


def read_contradicting(path: Path, records: Sequence[Record]) -> set[str] | None:
    """The ids of images that a `groups.csv` says to have a mask that contradicts a copy's; None: it does not say."""
    rows = read_rows(path, needed=("image", "group"))
    if CONTRADICTS not in rows[0]:
        return None
    known = {record.id for record in records}
    return {row["image"] for row in rows if row[CONTRADICTS] and row["image"] in known}


def _equal_but_contradicting(records: Sequence[Record], contents: Mapping[str, str]) -> set[str]:
    """The ids of images whose file, byte by byte, is there again with a mask that contradicts theirs."""
    return set(contradicting(contradictions(equal_images(contents, records), records)))


def conflicts(records: Sequence[Record]) -> set[str]:
    """Ids of images in groups that carry more than one label; boxes, each in its own frame, contradict nothing."""
    labels = defaultdict(set)
    for record in records:
        if isinstance(record.target, str):
            labels[record.group].add(record.target)
    return {record.id for record in records if len(labels[record.group]) > 1}
