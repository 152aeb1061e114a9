"""Artifact -> artifact: a new calibration and threshold, fitted to labelled images of the place where it is used.

What is fitted stands in `leanmed.figures.recalibration`; it becomes the end of the graph, so that whoever runs the
graph has it. The weights stay as they are, in whatever precision. The gain is measured by cross-fitting: the new images
are parted by groups, and each part is answered with what the other parts give, ten times over.

`recalibration` in `leanmed.json` has these keys:

```
fitted         intercept, or slope and intercept
parameters     name -> {value, low, high, n}: low and high are the 95 % interval over groups
slope, intercepts   as they are in the graph; label -> intercept
images, groups, groups_of_each   what they were fitted to; label -> groups
data_sha256    hash of that data set
threshold      {before, after, rule}
measured       {how, before, after, change}: name -> {value, low, high, n}
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leanmed.console import Progress, Step, silent
from leanmed.errors import ArtifactError, DataError, ExportError, InputError, LeanmedError
from leanmed.evaluation.answered import missing_notes
from leanmed.evaluation.artifacts import NewImages, new_images
from leanmed.exporting.graph import parse, recalibrated
from leanmed.figures.bootstrap import Figure
from leanmed.figures.calibration import Floats, choose_threshold
from leanmed.figures.recalibration import (
    EACH,
    LEAST,
    Answers,
    Recalibration,
    cross_fitted,
    fit,
    mean_of,
    with_intervals,
)
from leanmed.files import defined
from leanmed.manifest import GIVEN, Manifest, image_mark
from leanmed.records import Record
from leanmed.report import markdown
from leanmed.runtime.artifact import ARTIFACT, Artifact, read_artifact, write_artifact
from leanmed.runtime.predictor import Predictor, open_graphs
from leanmed.tasks import TASKS
from leanmed.tasks.kind import MODEL, Outputs

TOLERANCE = 1e-4  # of a probability, between the new graph and what was fitted
FOLDS, REPEATS = 5, 10
HOW = (
    f"each image by what the images of other groups give, in {FOLDS} parts of the groups, {REPEATS} times over; "
    "intervals over groups"
)


@dataclass(frozen=True)
class Recalibrated:
    """An artifact that was recalibrated.

    Args:
        artifact: as it was written.
        notes: what to know of the images.
        changes: name -> figure before, after and their difference, after minus before, cross-fitted.
    """

    artifact: Artifact
    notes: Sequence[str]
    changes: Mapping[str, tuple[Figure, Figure, Figure]]

    def lines(self) -> list[str]:
        """What to tell the user."""
        facts = self.artifact.manifest.recalibration
        threshold = facts["threshold"]
        decided = f"{'threshold':18} {threshold['before']:.4f} -> {threshold['after']:.4f}  ({threshold['rule']})"
        return [
            *self.notes,
            f"{facts['fitted']} fitted to {facts['images']} images of {facts['groups']} groups",
            *(f"{name:18} {markdown.interval(figure)}" for name, figure in facts["parameters"].items()),
            *([decided] if threshold["after"] is not None else []),
            f"measured on {HOW}:",
            *(f"{name:18} {b.value:.4f} -> {a.value:.4f}  {_signed(c)}" for name, (b, a, c) in self.changes.items()),
            *remarks(self.changes),
        ]


def _signed(change: Figure) -> str:
    return f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def remarks(changes: Mapping[str, tuple[Figure, Figure, Figure]]) -> list[str]:
    """What to say if the images do not show that the first figure, which is the loss, falls."""
    name, (_, _, change) = next(iter(changes.items()))
    if change.high < 0:
        return []
    found = "rises on new images" if change.low > 0 else "is not shown to fall: the interval of its change includes 0"
    return [f"The figure {name} {found}. Keep the artifact as it was, or recalibrate on more images."]


def recalibrate(
    source: Path,
    data: Path,
    out: Path,
    *,
    threshold: str | float | None = None,
    dataset: str | None = None,
    overwrite: bool = False,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Recalibrated:
    """Fit calibration and threshold of an artifact to a data set, and write the artifact that has them.

    Images that share a group with one that the artifact was trained or selected on, or are a copy of one, are left out:
    it is surer of them than of others. Those that are used are marked as seen, so that nobody judges the new artifact
    on them.

    Args:
        source: an artifact that gives a probability for each label, in any precision.
        data: the folder of labelled images.
        out: takes the new artifact.
        threshold: of two labels, the number or the rule (`f1`, `youden`, `sensitivity:0.95`) to decide by; None: the
            rule by which the artifact's own was chosen, or its number if that was given as one.
        dataset: the data set's reader; None: the one of the artifact's recipe.
        overwrite: replace an older artifact in `out`.
        cache: a folder for the audit's groups; None: they are not kept.
        progress: takes stage, done and total, of the audit for copies too.

    Raises:
        ArtifactError: `source` is damaged or gives no probability for each label, or `out` is `source`.
        OutputError: `out` holds something; with `overwrite`, something else than an artifact.
        DataError: fewer than 20 groups that are new to the artifact, or a label without images of two of them.
        ExportError: the new graph does not give what was fitted.
    """
    artifact = read_artifact(source)
    kind, manifest = TASKS[artifact.manifest.task], artifact.manifest
    if out.resolve() == source.resolve():
        raise ArtifactError(f"expected --out to be another folder than the artifact {source}, which is still needed")
    ARTIFACT.check(out, overwrite=overwrite)
    if not kind.probabilities:
        raise ArtifactError(
            f"expected an artifact that gives a probability for each label, got one for {manifest.task}, whose "
            "calibration leanmed fits in training only; evaluate it on the new images instead"
        )
    if threshold is not None and len(manifest.labels) > 2:
        raise DataError(
            f"expected no --threshold with the labels {', '.join(manifest.labels)}, of which the likeliest is "
            "answered; leave it out"
        )
    new = new_images(artifact, data, dataset=dataset, cache=cache, progress=progress)
    records, outputs, failed = _outputs(Predictor(artifact), new.records, partial(progress, "images"))
    bench = _Bench(manifest, records, outputs, _rule(manifest, new, threshold))
    found = fit(bench.seen, slope=bench.slope)
    decision = bench.threshold(found, np.arange(len(records)))
    changes = bench.measure(new.recipe.evaluation.resamples)
    facts = _facts(bench, found, decision, changes, new)
    marks = {image_mark(new.known.contents[record.id]) for record in records}
    written = write_artifact(
        out,
        _described(artifact, facts, decision, bench.rule, marks),
        artifact.graphs | {MODEL: _graph(artifact, bench, found)},
        artifact.card + _card(facts, changes),
        artifact.traces,
        overwrite=overwrite,
    )
    return Recalibrated(written, [*new.notes, *missing_notes(failed)], changes)


def _rule(manifest: Manifest, new: NewImages, asked: str | float | None) -> str | float | None:
    """How the threshold is chosen: a rule, a number, or None if there is none."""
    if asked is not None:
        return asked
    if manifest.threshold is None or manifest.threshold_rule == GIVEN:
        return manifest.threshold
    return manifest.threshold_rule or new.recipe.training.threshold


def _outputs(
    predictor: Predictor, records: Sequence[Record], step: Step
) -> tuple[list[Record], list[Outputs], list[tuple[str, str]]]:
    """What the graphs give for each record that can be read, and why others cannot."""
    answered: list[tuple[Record, Outputs]] = []
    failed: list[tuple[str, str]] = []
    for number, record in enumerate(records, start=1):
        try:
            answered.append((record, predictor.outputs(predictor.frame_of(record).pixels)))
        except LeanmedError as error:
            failed.append((record.id, str(error)))
        step(number, len(records))
    if not answered:
        raise InputError(f"expected images that can be read, got none among {len(records)}; the first: {failed[0][1]}")
    return [record for record, _ in answered], [given for _, given in answered], failed


class _Bench:
    """New images with what the graphs gave for them: what calibrations are fitted to and measured on.

    Args:
        manifest: of the artifact as it is.
        records: with the groups that are kept whole.
        outputs: one for each.
        rule: how the threshold is chosen.
    """

    def __init__(
        self, manifest: Manifest, records: Sequence[Record], outputs: Sequence[Outputs], rule: str | float | None
    ) -> None:
        self.manifest, self.records, self.outputs, self.rule = manifest, records, outputs, rule
        self.kind = TASKS[manifest.task]
        self.place = self.kind.answer.GRAPHS[MODEL].index(self.kind.probabilities)
        self.seen = Answers(
            probabilities=np.array([given[self.place] for given in outputs], np.float64),
            truth=np.array([manifest.labels.index(record.label) for record in records]),
            group=np.array([record.group for record in records], np.str_),
            labels=manifest.labels,
        )
        self.slope = self.seen.suffice_for_slope

    def threshold(self, found: Recalibration, which: Any) -> float | None:
        """The threshold by the rule, on some of the images."""
        if not isinstance(self.rule, str):
            return self.rule
        positive = found.applied(self.seen.probabilities[which])[:, 1]
        return float(np.float32(choose_threshold(self.seen.truth[which], positive, self.rule)))

    def measure(self, resamples: int) -> dict[str, tuple[Figure, Figure, Figure]]:
        """Figures before and after, and their difference: the means over the repeats."""
        judge, thresholds = self.kind.judge, [self.manifest.threshold] * len(self.records)
        before = self._table(self.seen.probabilities, thresholds)
        old, after, change = judge.score(before, resamples=resamples), [], []
        for parts in cross_fitted(self.seen, slope=self.slope, folds=FOLDS, repeats=REPEATS):
            probabilities = np.empty_like(self.seen.probabilities)
            thresholds = [None] * len(self.records)
            for own, others, found in parts:
                probabilities[own] = found.applied(self.seen.probabilities[own])
                chosen = self.threshold(found, others)
                for i in own:
                    thresholds[i] = chosen
            table = self._table(probabilities, thresholds)
            after.append(judge.score(table, resamples=resamples))
            change.append(judge.paired(before, table, resamples=resamples))
        return {
            name: (old[name], mean_of([one[name] for one in after]), mean_of([one[name] for one in change]))
            for name in self.kind.recalibrated_figures
        }

    def _table(self, probabilities: Floats, thresholds: Sequence[float | None]) -> Any:
        answers = []
        for given, row, threshold in zip(self.outputs, probabilities, thresholds, strict=True):
            changed = [*given]
            changed[self.place] = row.astype(np.float32)
            answers.append(self.kind.answer.decide(changed, self.manifest.model_copy(update={"threshold": threshold})))
        return self.kind.judge.table_of(self.records, answers, self.manifest.labels)


def _facts(
    bench: _Bench,
    found: Recalibration,
    decision: float | None,
    changes: Mapping[str, tuple[Figure, Figure, Figure]],
    new: NewImages,
) -> dict[str, Any]:
    """See the module."""
    seen, labels = bench.seen, bench.manifest.labels
    before, after, change = ({name: three[k] for name, three in changes.items()} for k in range(3))
    facts = {
        "fitted": "slope and intercept" if bench.slope else "intercept",
        "parameters": with_intervals(seen, found, slope=bench.slope),
        "slope": found.slope,
        "intercepts": dict(zip(labels, found.intercepts, strict=True)),
        "images": len(bench.records),
        "groups": seen.groups,
        "groups_of_each": dict(zip(labels, seen.groups_of_each, strict=True)),
        "data_sha256": new.known.sha256,
        "threshold": {
            "before": bench.manifest.threshold,
            "after": decision,
            "rule": bench.rule if isinstance(bench.rule, str) else GIVEN,
        },
        "measured": {"how": HOW, "before": before, "after": after, "change": change},
    }
    return {name: defined(value) for name, value in facts.items()}


def _graph(artifact: Artifact, bench: _Bench, found: Recalibration) -> bytes:
    """The graph with its new end, checked on some of the images.

    Raises:
        ExportError: it gives something else than what was fitted.
    """
    model = recalibrated(parse(artifact.graph), bench.kind.probabilities, found.slope, found.intercepts, LEAST)
    graph = model.SerializeToString()
    run, predictor = open_graphs({MODEL: graph}), Predictor(artifact)
    wanted = found.applied(bench.seen.probabilities)
    for record, own in list(zip(bench.records, wanted, strict=True))[:: max(1, len(bench.records) // 8)]:
        given = run(MODEL, {"pixels": predictor.frame_of(record).pixels})[bench.place]
        if not (apart := np.abs(given - own).max()) <= TOLERANCE:
            raise ExportError(
                f"on {record.id} the recalibrated graph differs from what was fitted by {apart:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written; please report it"
            )
    return bytes(graph)


def _described(
    artifact: Artifact, facts: Mapping[str, Any], decision: float | None, rule: str | float | None, marks: set[str]
) -> Manifest:
    manifest, origin = artifact.manifest, artifact.manifest.provenance
    chosen = manifest.threshold_rule if rule is None else rule if isinstance(rule, str) else GIVEN
    provenance = {
        "parents": (*origin.parents, artifact.sha256),
        "seen_images": tuple(sorted({*origin.seen_images, *marks})),
        "selected_images": tuple(sorted({*origin.selected_images, *marks})),
    }
    changes = {
        "threshold": decision,
        "threshold_rule": chosen,
        "recalibration": dict(facts),
        "provenance": origin.model_copy(update=provenance),
    }
    return manifest.model_copy(update=changes)


def _card(facts: Mapping[str, Any], changes: Mapping[str, tuple[Figure, Figure, Figure]]) -> str:
    """What is added to the card."""
    numbers = "; ".join(f"{name} {markdown.interval(figure, 3)}" for name, figure in facts["parameters"].items())
    threshold = facts["threshold"]
    decided = (
        f" The decision threshold went from {threshold['before']:.3f} to {threshold['after']:.3f} (rule: "
        f"{threshold['rule']})."
        if threshold["after"] is not None
        else ""
    )
    rows = [(name, *(markdown.interval(vars(figure), 3) for figure in three)) for name, three in changes.items()]
    return (
        f"\n## Recalibration\n\nFitted to {facts['images']} images of {facts['groups']} groups of another place (data "
        f"set SHA-256 `{facts['data_sha256'][:16]}`): {numbers}.{decided} All figures above are of before.\n\n"
        f"{markdown.table(('', 'before', 'after', 'change'), rows)}\n\nMeasured on {HOW}. The slope is fitted only if "
        f"each label has {EACH * len(facts['intercepts'])} groups or more.\n"
        + "".join(f"\n{remark}\n" for remark in remarks(changes))
    )
