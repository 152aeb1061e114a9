"""Which column of a table says what: names as people write them, and the column that names patients."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from leanmed.data.telling import some
from leanmed.errors import DataError

# The first name is ours, and wins where several stand in one table. All as `plain` writes them.
NAMES = {
    "image": (
        *("image", "filename", "file", "imagefile", "imagefilename", "imagename", "imagepath", "filepath", "path"),
        *("img", "imageindex"),
    ),
    "label": ("label", "labels", "class", "classname", "classlabel", "diagnosis", "target", "category"),
    "group": ("group", "groups", "groupid"),
    "site": ("site",),
    "mask": ("mask", "maskfile", "maskfilename", "maskname", "maskpath", "segmentation", "segmentationpath"),
    "fov": ("fov", "fieldofview", "within"),
}
_ENDINGS = ("", "id", "ids", "no", "nr", "number", "num", "uid", "key", "code", "identifier", "instanceuid", "name")
_PERSON = ("patient", "subject", "participant", "person", "individual", "subj", "pat", "mrn", "pid")
_OCCASION = ("case", "study", "exam", "examination", "accession", "encounter", "scan", "series")
PERSONS = frozenset(name + end for name in _PERSON for end in _ENDINGS)
OCCASIONS = frozenset(name + end for name in _OCCASION for end in _ENDINGS)
MISSING = frozenset({"", "na", "n/a", "nan", "null", "<na>", "#n/a"})  # what programs write for nothing

NO_PATIENTS = (
    "Nothing names the patients, so each image is a group of its own (files with the same bytes share one): images of "
    "one patient may stand on both sides of a split."
)


def plain(name: str) -> str:
    """A column's name without case, blanks, `_`, `-`, `.` and `/`: `Patient ID` and `patient_id` are one."""
    return re.sub(r"[\s_./-]+", "", name).casefold()


def find_column(path: Path, names: Sequence[str], wanted: str) -> str | None:
    """The column of a table that stands for one of `NAMES`; None: there is none.

    Raises:
        DataError: several could be meant.
    """
    for among in (NAMES[wanted][:1], NAMES[wanted][1:]):
        found = [name for name in names if plain(name) in among]
        exact = [name for name in found if name == wanted]
        if len(found) > 1 and not exact:
            raise DataError(
                f"{path}: expected one column {wanted}, got {some(found)}, each of which could be meant; name the "
                f"right one `{wanted}`"
            )
        if found:
            return (exact or found)[0]
    return None


def missing_columns(path: Path, names: Sequence[str], needed: Iterable[str]) -> DataError:
    """What to say when columns are not there, with the nearest names that are."""
    lacking = list(needed)
    known = {plain(name): name for name in names}
    near = {want: difflib.get_close_matches(plain(want), known, n=1) for want in lacking}
    hints = [f" (did you mean {known[found[0]]} for {want}?)" for want, found in near.items() if found]
    return DataError(
        f"{path}: expected columns {', '.join(lacking)}, each once; missing: {some(lacking)}, got: {some(names)}"
        f"{''.join(hints)}; correct the first line"
    )


def is_missing(text: str) -> bool:
    """Whether a value is what people and programs write for none."""
    return text.strip().casefold() in MISSING


def group_column(path: Path, rows: Sequence[Mapping[str, str]]) -> str | None:
    """The column that says what must not be torn apart: `group`, else one of persons, else one of their studies.

    Raises:
        DataError: it tears apart what another such column keeps together, so that one cannot tell which is meant.
    """
    names = [name for name in rows[0] if any(not is_missing(row[name]) for row in rows)]
    tiers = [
        [name for name in names if plain(name) in tier] for tier in (frozenset(NAMES["group"]), PERSONS, OCCASIONS)
    ]
    if not any(tiers):
        return None
    candidates = [name for tier in tiers[:2] for name in tier] or tiers[2]
    first = next(tier for tier in tiers if tier)
    for chosen in first:
        if all(_keeps_whole(rows, chosen, other) is None for other in candidates):
            return chosen
    other, value = next((o, v) for o in candidates if (v := _keeps_whole(rows, first[0], o)) is not None)
    raise DataError(
        f"{path}: expected one column that says which images belong to one patient, got {some(candidates)}, which "
        f"disagree: {other} {value} stands in more than one {first[0]}; name the right one `group`, and give the "
        "others names that do not sound like patients"
    )


def _keeps_whole(rows: Sequence[Mapping[str, str]], chosen: str, other: str) -> str | None:
    """A value of `other` that stands in several groups of `chosen`; None: there is none."""
    seen = defaultdict(set)
    for number, row in enumerate(rows):
        if not is_missing(row[other]):
            seen[row[other]].add(f"row {number}" if is_missing(row[chosen]) else row[chosen])
    return next((value for value, groups in seen.items() if len(groups) > 1), None)


def group_notes(table: str, chosen: str | None, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What to say of the groups that a table gives."""
    if chosen is None:
        return [f"{NO_PATIENTS} Name the patients in a column `group` of {table}."]
    counts = Counter(row[chosen] for row in rows if not is_missing(row[chosen]))
    unknown = len(rows) - counts.total()
    notes = []
    if chosen != "group":
        alone = ", none of several images" if counts and max(counts.values()) == 1 else ""
        notes.append(
            f"Column `{chosen}` of {table} is taken to say what must stay together: {len(counts)} groups{alone}. If it "
            "does not name patients, call the column that does `group`."
        )
    if unknown:
        notes.append(
            f"{unknown} of {len(rows)} rows of {table} have nothing in `{chosen}`: each of their images is a group of "
            "its own, and may be of a patient who stands on another side of a split."
        )
    return notes
