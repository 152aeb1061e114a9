"""Several data sets in one report: what the artifact carries, its own new patients, other hospitals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leanmed.errors import DataError
from leanmed.figures.bootstrap import Figure, difference
from leanmed.manifest import Manifest
from leanmed.report.report import DataSet, Report


def named_sets(data: Path, also: Sequence[str]) -> dict[str, Path]:
    """The data set that is evaluated and others, by their names; the names of folders if no others are given.

    Args:
        data: the folder of the first.
        also: of each other one `NAME=DIR`, or `DIR`.

    Raises:
        DataError: two of one name, or an empty one.
    """
    given = [text.partition("=") for text in also]
    pairs = [
        (name, Path(folder))
        if equals and not Path(name + equals + folder).is_dir()
        else (_own(path := Path(text)), path)
        for text, (name, equals, folder) in zip(also, given, strict=True)
    ]
    found = {_own(data): data}
    for name, folder in pairs:
        if not name or name in found:
            raise DataError(
                f"expected a name of its own for each data set, got {name or 'an empty one'!r} for {folder}"
                f"{f' and {found[name]}' if name in found else ''}; name it with --also NAME={folder}"
            )
        found[name] = folder
    return found


def _own(folder: Path) -> str:
    return folder.resolve().name


def evaluate_beside(
    sets: Mapping[str, Path], evaluate: Callable[[Path], Report], *, manifest: Manifest | None = None
) -> Report:
    """The report of the first of several data sets, with the figures of the others beside its own.

    The first set is compared with what the artifact carries, and each other set with the first.

    Args:
        sets: by their names.
        evaluate: the report of the data set in a folder.
        manifest: of the artifact, if one is evaluated.

    Raises:
        DataError: as `evaluate` does, with the name of the data set if there are several.
    """
    (name, main), *others = [(name, _report(name, folder, evaluate, len(sets) > 1)) for name, folder in sets.items()]
    carried = [] if manifest is None or not manifest.figures else [carried_set(manifest)]
    if carried and _alike(carried[0], main):
        same = "The artifact carries these very figures: the images are those that its run tested it on."
        carried, main = [], replace(main, notes=[*main.notes, same])
    own = _row(name, main, *carried)
    if not carried and not others:
        return main
    return replace(
        main,
        data_sets=[*carried, own, *(_row(other, report, own) for other, report in others)],
        notes=[
            *main.notes,
            *(f"{other}: {note}" for other, report in others for note in report.notes),
            *_shared(name, main, others),
        ],
        answers=[{"data_set": n, **row} for n, report in ((name, main), *others) for row in report.answers]
        if others
        else main.answers,
    )


def _report(name: str, folder: Path, evaluate: Callable[[Path], Report], is_one_of_several: bool) -> Report:
    try:
        return evaluate(folder)
    except DataError as error:
        raise type(error)(f"data set {name}: {error}" if is_one_of_several else str(error)) from error


def carried_set(manifest: Manifest) -> DataSet:
    """The figures that stand in an artifact's `leanmed.json`, as those of a data set."""
    name = "cross-validated" if manifest.figures_of == "folds" else "its own test part"
    before = ", before its recalibration" if manifest.recalibration else ""
    figures = {figure: _read(values) for figure, values in manifest.figures.items()}
    sizes = {figure.n for figure in figures.values()}
    return DataSet(name + before, figures, images=sizes.pop() if len(sizes) == 1 else None)


def _alike(carried: DataSet, report: Report) -> bool:
    """Whether figures are of the same images, as far as their values tell."""
    shared = [
        name for name, figure in carried.figures.items() if name in report.figures and figure.value == figure.value
    ]
    images = None if report.table is None else report.table.group.size
    return (
        carried.images == images
        and bool(shared)
        and all(math.isclose(carried.figures[name].value, report.figures[name].value, rel_tol=1e-6) for name in shared)
    )


def _read(values: Mapping[str, float | int | None]) -> Figure:
    value, low, high = (np.nan if (found := values.get(key)) is None else found for key in ("value", "low", "high"))
    return Figure(float(value), float(low), float(high), int(values.get("n") or 0))


def _row(name: str, report: Report, before: DataSet | None = None) -> DataSet:
    images, groups = (report.table.group.size, report.table.groups) if report.table else (None, None)
    if before is None:
        return DataSet(name, report.figures, images, groups)
    both = {key: (before.figures[key], own) for key, own in report.figures.items() if key in before.figures}
    change = {key: difference(*pair) for key, pair in both.items()}
    return DataSet(name, report.figures, images, groups, before.name, change)


def _shared(name: str, main: Report, others: Iterable[tuple[str, Report]]) -> list[str]:
    """What to say of other sets that hold images of the first one."""
    counts = {other: len(main.contents & report.contents) for other, report in others}
    return [
        f"{count} images of {other} are in {name} too. The interval of the change between the two takes them for "
        "different ones, and is wider than it need be."
        for other, count in counts.items()
        if count
    ]
