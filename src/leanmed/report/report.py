"""An evaluation as files: report.json for programs, report.html for people, answers.csv with every image's answer.

The page needs nothing but itself: no script, no network, no font. If a result leaks, that is its first line.

`report.json` has these keys, with null for whatever is undefined or unknown:

```
leak          why the figures are too good to be true, or null
caution       what else must be known before any figure is read, or null
title, protocol, notice, main_score
images, groups, labels
metrics       name -> {value, low, high, n}: low and high are the 95 % interval over groups, n counts images
beside        title -> the same figures on other images, such as all of them, those that leak included
per_fold      [{fold, images, groups, figures: {name: value}, threshold, temperature}]
fold_mean     name -> {mean, sd, folds}: over the folds in which the figure is defined, which `folds` counts
subgroups     [{name, value, n, groups, positives, figures: {name: {value, low, high, n}}}]
comparisons   title -> name -> {value, low, high, n}: differences on the same images, and agreement
data_sets     [{name, images, groups, figures, compared_with, change}]: figures, and their change from those of the set
              `compared_with`, whose images are others: name -> {value, low, high, n}
predictive_values  [{of, prevalence, figures: {ppv, npv}}]: at this data set's own prevalence and at a stated one
decision_curve     {thresholds, net_benefit, low, high, treat_all}: lists of equal length, of two labels, or null;
              treating nobody has a net benefit of 0
remarks       what must be said about the figures: counts, and which are undefined and why
notes         what the reader must know: conflicts, failures, what was left out
curves        [{fold, train_loss, validation_loss, validation_score, score_name, chosen}]
mistakes      [{id, truth, answered, probability}]; of boxes also `places`
counts        what stands behind the figures, for kinds of task that tell it, or null
data_hash, seeds, versions, recipe, command
```
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from leanmed.errors import InputError
from leanmed.figures.bootstrap import Figure, Ints, SubgroupRow
from leanmed.files import defined, write_json, write_text
from leanmed.frames import frame_of
from leanmed.outputs import Output
from leanmed.reading.lung_slices import read_slice
from leanmed.records import Box
from leanmed.report import plots
from leanmed.report.glossary import Term, Words
from leanmed.report.pages import NOTICE, render_page
from leanmed.report.pictures import TILE, close_up, montage, thumbnail
from leanmed.report.plots import History, Plot
from leanmed.runs import write_csv

if TYPE_CHECKING:
    import pandas as pd

FEW_GROUPS = 30
REPORT = Output(
    "a report",
    ("notice", "main_score", "metrics"),
    "report.json",
    ("report.html", "report.json", "answers.csv", "candidates.csv", "montage-*.jpg"),
)
Reader = Callable[[Path], NDArray[np.uint8]]
Tiles = Sequence[Sequence[str | None]]
"""Of each montage the pictures as JPEG in base64; None where an image cannot be read."""


class Table(Protocol):
    """The test images with truths and answers, as a kind of task keeps them."""

    group: NDArray[np.str_]
    fold: Ints | None
    labels: tuple[str, ...]

    @property
    def groups(self) -> int:
        """How many groups the images come from."""

    def subset(self, which: Any) -> Table:
        """The table of some of the images."""


@dataclass(frozen=True)
class Provenance:
    """What the result was made from, so that it can be made again."""

    data_hash: str
    seeds: Sequence[int]
    versions: Mapping[str, str]
    recipe: Mapping[str, Any]
    command: str


@dataclass(frozen=True)
class FoldRow:
    """One fold by itself; NaN figures are undefined there."""

    fold: int
    images: int
    groups: int
    figures: Mapping[str, float]
    threshold: float | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class DataSet:
    """Figures of one data set among several.

    Args:
        name: of the set.
        figures: name -> figure.
        images, groups: how many; None: not known.
        compared_with: the name of the set whose figures `change` takes away; empty: of none.
        change: name -> difference, with its interval for images that share no group.
    """

    name: str
    figures: Mapping[str, Figure]
    images: int | None = None
    groups: int | None = None
    compared_with: str = ""
    change: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class AtPrevalence:
    """How often answers are right at a prevalence.

    Args:
        of: whose prevalence it is, in words.
        prevalence: the share of positive images.
        figures: name -> figure.
    """

    of: str
    prevalence: float
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Places:
    """Where in an image a mistake lies: the box in question, and all true and predicted ones, xyxy in pixels."""

    focus: Box
    true: Sequence[Box] = ()
    predicted: Sequence[Box] = ()


@dataclass(frozen=True)
class Mistake:
    """What was answered wrongly, with the probability of the wrong answer, and for boxes where in the image.

    `picture` makes a picture of it (h, w, 3) where neither the image alone nor a close-up of boxes shows it.
    """

    id: str
    image: Path
    truth: str
    answered: str
    probability: float
    places: Places | None = None
    frame: int | None = None
    picture: Callable[[], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class Example:
    """One image of a montage, with the probability of the answer to it."""

    id: str
    image: Path
    probability: float
    frame: int | None = None


@dataclass(frozen=True)
class Montage:
    """Images of one true label that got one answer: how many there are, and those that are shown."""

    truth: str
    answered: str
    images: int
    examples: Sequence[Example]

    @property
    def title(self) -> str:
        """Truth and answer in words."""
        right = self.truth == self.answered
        return f"True {self.truth}, answered {'so' if right else self.answered}"


@dataclass(frozen=True)
class Gallery:
    """Images sorted by truth and answer; `reading` says which are shown."""

    reading: str
    montages: Sequence[Montage]


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """Everything a report says. Only what is given is shown.

    Args:
        protocol: how training and test were kept apart, in a sentence.
        figures: name -> figure, on all test images.
        main_score: the name of the figure to lead with.
        leak: why the figures are too good, if they are.
        caution: what else must be known before any figure is read.
        words: what things are called.
        beside: title -> figures on other images, to be seen beside these.
        terms: the figures' names and meanings, in the order in which they are shown.
        table: the test images with truths and answers.
        comparisons: title -> what `paired` gave.
        mistakes: what to look at first; on the page only without a gallery, which shows them too.
        gallery: images sorted by truth and answer.
        remarks: what must be said about the table of figures.
        plots: in order.
        counts: what stands behind the figures.
        answers: of each image what is known of it, and what was answered: a row of answers.csv.
        data_sets: this data set and others, to be shown beside each other.
        predictive_values: at this data set's own prevalence, and at a stated one.
        decision_curve: net benefit by threshold.
        contents: SHA-256 of the images judged, which tell whether two reports share some; not shown.
    """

    title: str
    protocol: str
    figures: Mapping[str, Figure]
    main_score: str
    provenance: Provenance
    words: Words
    terms: Mapping[str, Term]
    leak: str | None = None
    caution: str | None = None
    table: Table | None = None
    folds: Sequence[FoldRow] = ()
    subgroups: Sequence[SubgroupRow] = ()
    beside: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    comparisons: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    histories: Sequence[History] = ()
    mistakes: Sequence[Mistake] = ()
    gallery: Gallery | None = None
    remarks: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    counts: Mapping[str, Mapping[str, int]] | None = None
    answers: Sequence[Mapping[str, str | float]] = ()
    data_sets: Sequence[DataSet] = ()
    predictive_values: Sequence[AtPrevalence] = ()
    decision_curve: Mapping[str, Sequence[float]] | None = None
    contents: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """What is judged, and each figure with its interval: the arrays behind them fill the screen."""
        lines = [
            f"  {name}: {figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"
            for name, figure in self.figures.items()
        ]
        return "\n".join([f"Report of {self.title}:", *lines])

    @property
    def undefined(self) -> list[str]:
        """Which figures the images cannot tell, a sentence for each thing that is lacking."""
        lacking: dict[str, list[str]] = {}
        for name, term in _terms(self).items():
            if any(math.isnan(values[name]) for values in _values(self) if name in values):
                lacking.setdefault(term.needs, []).append(term.title)
        return [f"Undefined (–) without {needs}: {', '.join(titles)}." for needs, titles in lacking.items()]

    def to_frame(self) -> pd.DataFrame:
        """The figures as a table of pandas: `figure`, `value`, the 95 % interval `low` to `high`, and `n` images.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of([{"figure": name, **vars(figure)} for name, figure in self.figures.items()])


def fold_rows(
    table: Any,
    measure: Callable[[Any], Mapping[str, float]],
    thresholds: Mapping[int, float] | None = None,
    temperatures: Mapping[int, float] | None = None,
) -> list[FoldRow]:
    """One row per fold of a table that has folds, with the figures that `measure` gives of it."""
    rows = []
    for fold in [] if table.fold is None else np.unique(table.fold).tolist():
        part = table.subset(table.fold == fold)
        threshold, temperature = (thresholds or {}).get(fold), (temperatures or {}).get(fold)
        rows.append(FoldRow(fold, part.group.size, part.groups, measure(part), threshold, temperature))
    return rows


def write_report(
    out: Path,
    content: Report,
    *,
    read: Reader | None = None,
    further: Callable[[Path], object] = lambda folder: None,
    overwrite: bool = False,
) -> None:
    """Write a folder with report.json, report.html and, where there are answers, answers.csv, whole.

    Each montage of a gallery is also a picture of its own, `montage-1.jpg` and so on, in the order of the page.

    Args:
        out: the folder.
        content: the report.
        read: image file -> uint8 (h, w, 4) RGBA, for the pictures; None leaves them out.
        further: writes more into the folder that it is given; `REPORT.holds` lists what that may be.
        overwrite: replace an older report in `out`.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than a report.
    """
    REPORT.check(out, overwrite=overwrite)
    tiles = _tiles(content, read)
    page, values = _page(content, read, tiles), as_json(content)
    with REPORT.folder(out, overwrite=overwrite) as folder:
        write_text(folder / "report.html", page)
        write_json(folder / "report.json", values)
        _write_montages(folder, content, tiles)
        if content.answers:
            columns = list(dict.fromkeys(name for row in content.answers for name in row))
            write_csv(folder / "answers.csv", content.answers, columns)
        further(folder)


def as_json(content: Report) -> dict[str, Any]:
    """The content of report.json; the module's docstring lists the keys."""
    table = content.table
    values = {
        "leak": content.leak,
        "caution": content.caution,
        "title": content.title,
        "protocol": content.protocol,
        "notice": NOTICE,
        "main_score": content.main_score,
        "images": table.group.size if table else None,
        "groups": table.groups if table else None,
        "labels": table.labels if table else None,
        "metrics": content.figures,
        "beside": content.beside,
        "per_fold": content.folds,
        "fold_mean": fold_mean(content.folds),
        "subgroups": content.subgroups,
        "comparisons": content.comparisons,
        "data_sets": content.data_sets,
        "predictive_values": content.predictive_values,
        "decision_curve": content.decision_curve,
        "remarks": _remarks(content),
        "notes": content.notes,
        "curves": content.histories,
        # Where a file lies says something about a person's machine; its id suffices.
        "mistakes": [
            {k: v for k, v in vars(m).items() if k not in ("image", "picture") and v is not None}
            for m in content.mistakes
        ],
        "counts": content.counts,
        **vars(content.provenance),
    }
    return {key: defined(value) for key, value in values.items()}


def fold_mean(folds: Sequence[FoldRow]) -> dict[str, dict[str, float]]:
    """Name -> mean, standard deviation (NaN of one fold) and number of the folds that define the figure."""
    means = {}
    for name in folds[0].figures if folds else ():
        values = [row.figures[name] for row in folds if not math.isnan(row.figures[name])]
        sd = statistics.stdev(values) if len(values) > 1 else math.nan
        mean = statistics.fmean(values) if values else math.nan
        means[name] = {"mean": mean, "sd": sd, "folds": len(values)}
    return means


def render(content: Report, read: Reader | None = None) -> str:
    """The page as one HTML text. Every value is escaped: file names and labels are not to be trusted."""
    return _page(content, read, _tiles(content, read))


def _page(content: Report, read: Reader | None, tiles: Tiles) -> str:
    return render_page(
        "report.html",
        report=content,
        terms=_terms(content),
        means=fold_mean(content.folds),
        remarks=_remarks(content),
        plots=_plots(content),
        subgroups=[(name, list(rows)) for name, rows in groupby(content.subgroups, attrgetter("name"))],
        forest=_forest(content),
        compared={name for one in content.data_sets for name in one.figures},
        changed={name for one in content.data_sets for name in one.change},
        thumbnails=[_picture(mistake, read) for mistake in content.mistakes] if read and not content.gallery else [],
        tiles=tiles,
        words=content.words,
        recipe=yaml.safe_dump(defined(content.provenance.recipe), sort_keys=False, allow_unicode=True),
    )


def _terms(content: Report) -> dict[str, Term]:
    """A term for every figure on the page: those that nobody named first, then the others in their order."""
    rows: list[FoldRow | SubgroupRow | DataSet | AtPrevalence] = [*content.folds, *content.subgroups]
    shown = [*rows, *content.data_sets, *content.predictive_values]
    tables = [content.figures, *content.beside.values(), *content.comparisons.values(), *(row.figures for row in shown)]
    names = dict.fromkeys(name for table in tables for name in table)
    known = content.terms
    return {n: Term(n, "") for n in names if n not in known} | {n: known[n] for n in known if n in names}


def _remarks(content: Report) -> list[str]:
    """What must be said about the table of figures: its baseline, its dashes, how far its intervals go."""
    remarks, table = list(content.remarks), content.table
    if table is not None and table.groups < FEW_GROUPS:
        remarks.append(f"With as few as {table.groups} groups, bootstrap intervals tend to be too narrow.")
    remarks += content.undefined
    if any(math.isnan(f.low) and not math.isnan(f.value) for f in content.figures.values()):
        remarks.append("A figure without an interval came out the same in every resample, or in too few.")
    return remarks


def _values(content: Report) -> list[Mapping[str, float]]:
    """The values without their intervals, of all images, at each prevalence, and of each fold."""
    tables = (content.figures, *(row.figures for row in content.predictive_values))
    return [
        *({name: f.value for name, f in table.items()} for table in tables),
        *(row.figures for row in content.folds),
    ]


def _plots(content: Report) -> list[Plot]:
    """Those of the kind of task, then the training's."""
    return [*content.plots, *([plots.training(content.histories)] if content.histories else [])]


def _forest(content: Report) -> Plot | None:
    measured = any(not math.isnan(f.value) for row in content.subgroups for f in row.figures.values())
    return plots.forest(content.subgroups, content.figures) if measured else None


def _tiles(content: Report, read: Reader | None) -> Tiles:
    """The pictures of each montage; none of any without a reader."""
    if read is None or content.gallery is None:
        return []
    return [[_tile(example, read) for example in montage.examples] for montage in content.gallery.montages]


def _tile(example: Example, read: Reader) -> str | None:
    pixels = _pixels(example, read)
    return None if pixels is None else thumbnail(pixels, TILE)


def _write_montages(out: Path, content: Report, tiles: Tiles) -> None:
    """Each montage as a JPEG."""
    shown = content.gallery.montages if content.gallery and tiles else ()
    for number, (own, pictures) in enumerate(zip(shown, tiles, strict=True), start=1):
        sheet = montage(own.title, pictures, [example.probability for example in own.examples])
        sheet.save(out / f"montage-{number}.jpg", "JPEG", quality=90)


def _pixels(shown: Mistake | Example, read: Reader) -> NDArray[np.uint8] | None:
    """The image, or None if it cannot be read."""
    try:
        return read(shown.image) if shown.frame is None else read_slice(shown.image, shown.frame)
    except (InputError, OSError):
        return None


def _picture(mistake: Mistake, read: Reader) -> str | None:
    """The image or the place in it as a JPEG in base64, or None if it cannot be read."""
    if mistake.picture:
        try:
            return thumbnail(mistake.picture())
        except (InputError, OSError):
            return None
    pixels = _pixels(mistake, read)
    if pixels is None:
        return None
    if (where := mistake.places) is None:
        return thumbnail(pixels)
    return close_up(pixels, where.focus, where.true, where.predicted)
