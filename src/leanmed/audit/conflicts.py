"""Copies that contradict each other: one photograph with two labels, patients, sites or measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leanmed.records import Attribute, Record

LABEL = "label"
MASK = "mask"  # a field that `mask_conflicts` alone finds, for it needs the map between two copies
UNKNOWN_GROUP = "content-"  # what a reader calls the group of an image of which it knows no patient


@dataclass(frozen=True)
class Conflict:
    """A group of copies in which a field has more than one value.

    Args:
        group: id of the group's first image.
        field: `label`, `mask`, `group`, `site` or the name of an attribute.
        values: value -> ids of the images that carry it.
    """

    group: str
    field: str
    values: Mapping[Attribute, tuple[str, ...]]

    @property
    def spread(self) -> float | None:
        """Largest less smallest value, of a field of numbers."""
        numbers = [value for value in self.values if isinstance(value, int | float)]
        return max(numbers) - min(numbers) if len(numbers) == len(self.values) else None


def find_conflicts(copies: Mapping[str, Sequence[str]], records: Sequence[Record]) -> list[Conflict]:
    """The conflicts within each group of copies, labels first; a missing value contradicts nothing.

    Args:
        copies: group -> ids of its images, as `Findings.copies` gives it.
        records: what is known of the images; those that no group names are passed over.
    """
    known = {record.id: _fields(record) for record in records}
    found = []
    for group, images in copies.items():
        values: dict[str, dict[Attribute, tuple[str, ...]]] = {}
        for image in images:
            for field, value in known.get(image, {}).items():
                seen = values.setdefault(field, {})
                seen[value] = (*seen.get(value, ()), image)
        found += [Conflict(group, field, seen) for field, seen in values.items() if len(seen) > 1]
    return sorted(found, key=lambda conflict: conflict.field != LABEL)


def _fields(record: Record) -> dict[str, Attribute]:
    # Boxes and masks lie in their own image's frame: those of copies differ without contradicting each other.
    fields: dict[str, Attribute] = {LABEL: record.target} if isinstance(record.target, str) else {}
    if not record.group.startswith(UNKNOWN_GROUP):
        fields["group"] = record.group
    if record.site is not None:
        fields["site"] = record.site
    return fields | dict(record.attributes)
