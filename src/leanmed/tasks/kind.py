"""What every part of leanmed may ask of a kind of task, whichever it is.

A kind is a folder with four modules. Each gives the names that one of the protocols below lists, and is imported when
it is first asked for: who predicts needs no torch, and who trains no plots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import DataError
from leanmed.manifest import Manifest
from leanmed.prompts import Prompts
from leanmed.recipe.recipe import Settings
from leanmed.records import Attribute, Record, Value

if TYPE_CHECKING:  # only the judge and the training need the packages behind these
    from leanmed.figures.bootstrap import Figure, SubgroupRow
    from leanmed.figures.calibration import Evidence
    from leanmed.report.glossary import Term, Words
    from leanmed.report.plots import Plot
    from leanmed.report.report import Gallery, Mistake, Report

Outputs = Sequence[NDArray[Any]]
"""What one graph gives for one image, in the order of its outputs."""
Pixels = NDArray[np.uint8]
"""(h, w, 3 or 4)."""
Points = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Points (n, 2), x and y in pixels of what a graph saw -> in pixels of the image as it is stored."""
Feeds = Mapping[str, NDArray[Any]]
"""What one graph is given: arrays by the names of its inputs."""
RunGraph = Callable[[str, Feeds], Outputs]
"""Runs one of an artifact's graphs by its name."""
Finish = Callable[[Outputs, tuple[int, int], Prompts | None, RunGraph], Outputs]
"""See `Kind.finish`."""
Explain = Callable[[Outputs, Manifest], "Explained"]
"""See `Kind.explained`."""
FAMILIAR = "familiar"
"""The last output of `model`, of artifacts that tell how familiar an image looks; no kind's own."""
PredictiveValues = Callable[..., "dict[str, Figure]"]
"""See `Kind.predictive_values`."""
MODEL = "model"
"""The graph that looks at an image first, and of most kinds the only one."""


@dataclass(frozen=True, kw_only=True)
class AnswerValue(Value):
    """What the answers of all kinds hold.

    Args:
        familiar: how much the image looks like those that the model was trained on, in [0, 1]: of images like these
            that it had not seen, the share that look at least as unlike them. Of a scan, the median of its slices.
            None: not known, since the artifact does not say.
    """

    familiar: float | None = None

    @property
    def familiar_cell(self) -> dict[str, str | float]:
        """The column `familiar` of a table, empty where it is not known."""
        return {"familiar": "" if self.familiar is None else round(self.familiar, 4)}


def with_familiar(answer: Any, familiar: float | None) -> Any:
    """An `AnswerValue` that says how familiar its image looked."""
    return answer if familiar is None else replace(answer, familiar=familiar)


def familiar_of(line: Mapping[str, Any]) -> float | None:
    """What a line says of how familiar its image looked; None: nothing, as other people's lines.

    Raises:
        ValueError, TypeError: something else than a number from 0 to 1.
    """
    value = None if line.get("familiar") is None else float(line["familiar"])
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"`familiar` is a number from 0 to 1, got {value}")
    return value


class Answer(Protocol):
    """What a model says of one image: an `AnswerValue`, checked when it is made."""

    @property
    def familiar(self) -> float | None:
        """See `AnswerValue`."""

    def as_json(self) -> dict[str, Any]:
        """Plain values: the part of a line that `answer_of` reads back."""

    def cells(self) -> dict[str, str | float]:
        """What a spreadsheet shows: one cell a column."""

    def draw(self, pixels: Pixels) -> Pixels:
        """The image (h, w, 3 or 4) with the answer on it, or in a line of text below it: (h', w', 3)."""

    def placed(self, points: Points) -> Self:
        """The same answer with its places in another frame; an answer without places is itself."""


class ScanAnswer(Protocol):
    """What a model says of a whole scan."""

    @property
    def familiar(self) -> float | None:
        """See `AnswerValue`."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""

    def cells(self) -> dict[str, str | float]:
        """As of `Answer`."""

    def picture(self) -> Any:
        """A Pillow image of what was found."""


@runtime_checkable
class AsFile(Protocol):
    """An answer, to an image or to a scan, that is a file of its own besides its line: a mask."""

    def file(self) -> tuple[str, bytes]:
        """The end of its name, such as `.png`, and its bytes."""


@dataclass(frozen=True)
class Explained:
    """What is followed in the answers to one image while parts of it are covered.

    Args:
        name: what the score is, as it is called below a picture.
        score: the final outputs for the image, or for the image with a part covered, to a number.
    """

    name: str
    score: Callable[[Outputs], float]


class AnswerPart(Protocol):
    """`answer.py`: numpy and Pillow alone.

    A kind whose answers take more than the graph `model` also gives `INPUTS` and `finish`, one whose answers do not
    show their place themselves `explained`, and one that gives a probability for each label `PROBABILITIES`: see
    `Kind`.
    """

    GRAPHS: Mapping[str, tuple[str, ...]]
    """An artifact's graphs, each with the names of its outputs in order."""

    def check(self, labels: tuple[str, ...], threshold: float | None) -> None:
        """Refuse labels and a threshold that do not go with the kind, with a ValueError."""

    def fits(self, shapes: Mapping[str, Sequence[Any]], labels: tuple[str, ...]) -> bool:
        """Whether outputs of these names have these shapes, in which None or a name stands for any length.

        It is asked of the graph `model` of a kind that has no other.
        """

    def decide(self, outputs: Outputs, manifest: Manifest) -> Answer:
        """The one rule from the final outputs to an answer. Raises DataError when they are unsound."""

    def recalibrated(self, answer: Any, temperature: float, threshold: float | None) -> Answer:
        """An answer made at a temperature of 1 as it is at another one, decided by a threshold."""

    def answer_of(self, line: Mapping[str, Any]) -> Answer:
        """Read back what `as_json` gave. Raises DataError when it is none."""

    def is_answer(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of a file of answers is one of this kind."""

    def answer_of_row(self, row: Mapping[str, str], labels: tuple[str, ...], threshold: float | None) -> Answer:
        """Read a row of `predictions.csv`, which runs kept before format 2."""

    def labels_of(self, answers: Sequence[Any]) -> tuple[str, ...]:
        """The labels that answers from elsewhere are made of."""

    def apart(self, one: Outputs, other: Outputs) -> float:
        """How far two final outputs for one image lie apart, 0 being alike."""

    def search(self, scan: Any, run: Callable[[Pixels], Outputs], manifest: Manifest, count: int | None) -> ScanAnswer:
        """A whole scan's answer from its slices'. Raises ArtifactError when the kind has none."""


class JudgedScans(Protocol):
    """What whole scans showed."""

    @property
    def report(self) -> Report:
        """Figures and all that goes with them."""

    def write(self, out: Path) -> Path:
        """Write what the report does not hold into a folder; the file's path."""


class JudgePart(Protocol):
    """`judge.py`: from records and answers to figures; a `table` is the kind's own value.

    A kind whose words depend on the table also gives `words`, one whose answers are yes or no `predictive_values` and
    `decision_curve`, and one with `PROBABILITIES` `RECALIBRATED`: see `Kind`.
    """

    MAIN_SCORE: str
    """The figure to lead with."""
    MAX_DROP: float
    """The most the main score may fall when a model is compressed, unless the user says otherwise."""
    CALIBRATION: int
    """How many training images set the ranges of a compressed model, unless the user says otherwise."""
    TERMS: Mapping[str, Term]
    """What the kind's figures are called, in the order in which they are shown."""
    SHOWN: tuple[str, ...]
    """The figures that a report of a compression plots."""
    CARD_COLUMNS: Mapping[str, str]
    """Of the card's table of subgroups: figure -> heading."""
    WORDS: Words
    """What the report calls things."""

    def check(self, dataset: str, records: Sequence[Record], labels: tuple[str, ...]) -> None:
        """Refuse records that a model with these labels cannot be judged on, with a DataError."""

    def table_of(
        self,
        records: Sequence[Record],
        answers: Sequence[Any],
        labels: tuple[str, ...],
        folds: Sequence[int] | None = None,
    ) -> Any:
        """Records and the answers to them, in the same order, as the value that the figures take."""

    def score(self, table: Any, *, resamples: int = ...) -> dict[str, Figure]:
        """Every figure with its interval."""

    def point(self, table: Any) -> dict[str, float]:
        """The figures of one fold, without intervals."""

    def paired(self, a: Any, b: Any, *, resamples: int = ...) -> dict[str, Figure]:
        """How b differs from a on the same images, and `agreement`."""

    def evidence(self, records: Sequence[Record], answers: Sequence[Any], labels: tuple[str, ...]) -> Evidence | None:
        """What temperature and threshold are fitted to, of answers at a temperature of 1; None: the kind has none."""

    def subgroups(
        self,
        table: Any,
        attributes: Mapping[str, Sequence[Attribute | None]],
        *,
        edges: Mapping[str, Sequence[float]],
        resamples: int,
    ) -> list[SubgroupRow]:
        """Figures for each value of each attribute, and of what the kind knows itself."""

    def terms(self, table: Any) -> Mapping[str, Term]:
        """`TERMS` as they hold for one table."""

    def mistakes(self, table: Any, records: Sequence[Record], answers: Sequence[Any]) -> list[Mistake]:
        """What to look at first."""

    def gallery(self, table: Any, records: Sequence[Record], answers: Sequence[Any]) -> Gallery | None:
        """Images sorted by truth and answer, which a page shows in place of the mistakes; None: the kind has none."""

    def remarks(self, table: Any) -> list[str]:
        """What must be said about the table of figures: counts, and what an answer without a model would reach."""

    def plots(self, table: Any, thresholds: Sequence[float]) -> list[Plot]:
        """Those that the table allows."""

    def counts(self, table: Any) -> dict[str, dict[str, int]] | None:
        """What stands behind the figures, for report.json; None when the figures say it all."""

    def judge_scans(
        self,
        manifest: Manifest,
        name: str,
        root: Path,
        answer: Callable[[Path], Any],
        *,
        command: str = ...,
        progress: Callable[[int, int], None] = ...,
    ) -> JudgedScans:
        """An artifact on the whole scans below a folder. Raises ArtifactError when the kind answers for none."""

    def describe(self, manifest: Manifest) -> str:
        """The card's sentences on what the artifact does."""

    def limits(self, manifest: Manifest) -> list[str]:
        """The card's sentences on what its figures do not say."""


class TrainingPart(Protocol):
    """`training.py`: torch."""

    TASK: Callable[..., Any]
    """Makes the kind's `tasks.base.Task` from a recipe, labels and whether to load pretrained weights."""

    def labels_of(self, dataset: str, records: Sequence[Record], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """The labels in the order of the outputs. Raises DataError when the records do not have them."""


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Args:
        package: where its modules stand.
    """

    package: str

    @cached_property
    def answer(self) -> AnswerPart:
        """Decision, JSON, drawing: numpy and Pillow."""
        return cast(AnswerPart, self._part("answer"))

    @property
    def has_further_graphs(self) -> bool:
        """Whether an answer takes other graphs after `model`; only then may prompts be given."""
        return hasattr(self.answer, "finish")

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """The graphs after `model`, each with the names of its inputs in order; of most kinds there are none."""
        return cast(Mapping[str, tuple[str, ...]], getattr(self.answer, "INPUTS", {}))

    @property
    def finish(self) -> Finish:
        """`finish(outputs, size, prompts, run) -> outputs`: what further graphs make of the outputs of `model`.

        `size` is the height and width of the pixels that `model` saw, and prompts are in these pixels; without any, an
        answer is given too, or refused with an ArtifactError. `run(name, feeds)` runs a further graph. Without such a
        function in `answer.py`, the outputs of `model` are the final ones.
        """
        return cast(Finish, getattr(self.answer, "finish", _as_they_are))

    def outputs(self, pixels: NDArray[Any], run: RunGraph) -> Outputs:
        """The final outputs for pixels (h, w, c), without prompts."""
        return self.finish_for(pixels, run(MODEL, {"pixels": pixels}), None, run)

    def finish_for(self, pixels: NDArray[Any], outputs: Outputs, prompts: Prompts | None, run: RunGraph) -> Outputs:
        """As `finish`, for these pixels, which a further graph is given too if `INPUTS` names `pixels`."""

        def feed(name: str, feeds: Feeds) -> Outputs:
            return run(name, {**feeds, "pixels": pixels} if "pixels" in self.inputs[name] else feeds)

        height, width = pixels.shape[:2]
        return self.finish(outputs, (height, width), prompts, feed)

    @property
    def has_explained(self) -> bool:
        """Whether answers have a score that can be explained; a mask shows its place itself."""
        return hasattr(self.answer, "explained")

    @property
    def explained(self) -> Explain:
        """`explained(outputs, manifest) -> Explained`: the score to follow, from the final outputs for a whole image.

        Only where `has_explained`. It raises a DataError when the outputs are unsound.
        """
        return cast(Explain, self.answer.explained)  # type: ignore[attr-defined]

    @property
    def probabilities(self) -> str:
        """The output of `model` that holds a probability for each label, summing to 1; empty: it has none."""
        name = cast(str, getattr(self.answer, "PROBABILITIES", ""))
        return name if name in self.answer.GRAPHS[MODEL] else ""

    @property
    def recalibrated_figures(self) -> tuple[str, ...]:
        """The figures that another calibration and threshold of `probabilities` may change."""
        return cast(tuple[str, ...], getattr(self.judge, "RECALIBRATED", ()))

    def words(self, table: Any) -> Words:
        """What the report of one table calls things."""
        return cast("Words", self.judge.words(table) if hasattr(self.judge, "words") else self.judge.WORDS)

    def predictive_values(self, labels: tuple[str, ...]) -> PredictiveValues:
        """`predictive_values(table, prevalence, *, resamples) -> {"ppv": Figure, "npv": Figure}`.

        They are at a stated prevalence of the second label, or if it is None at the table's own.

        Raises:
            DataError: the kind's answers to these labels are not yes or no.
        """
        if not hasattr(self.judge, "predictive_values") or len(labels) != 2:
            raise DataError(
                "expected answers that are one of two labels with --prevalence, since predictive values follow from "
                f"their sensitivity and specificity, got {self.package.rpartition('.')[2]} of {', '.join(labels)}; "
                "leave it out"
            )
        return cast(PredictiveValues, self.judge.predictive_values)

    def decision_curve(self, table: Any) -> Mapping[str, Sequence[float]] | None:
        """Net benefit by threshold for report.json: see `leanmed.report.report`; None: the table has none."""
        found = self.judge.decision_curve(table) if hasattr(self.judge, "decision_curve") else None
        return cast("Mapping[str, Sequence[float]] | None", found)

    @cached_property
    def settings(self) -> Settings:
        """Its part of the recipe."""
        return cast(Settings, self._part("settings"))

    @cached_property
    def judge(self) -> JudgePart:
        """Figures: the extra `report`."""
        return cast(JudgePart, self._part("judge"))

    @cached_property
    def training(self) -> TrainingPart:
        """The task to be trained: torch."""
        return cast(TrainingPart, self._part("training"))

    def _part(self, name: str) -> Any:
        return import_module(f"{self.package}.{name}")


def _as_they_are(outputs: Outputs, size: tuple[int, int], prompts: Prompts | None, run: RunGraph) -> Outputs:
    return outputs
