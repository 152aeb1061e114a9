"""When all folds have answered: one temperature and one threshold for each, fitted to what all of them say together.

A fold is decided by the validation answers of all folds, but for those to images of the groups that it is tested on: so
many more answers speak than its own validation part has, and the truths of its test part are never looked at. They have
a remote say nevertheless: the networks of the other folds, whose answers speak too, were trained on most of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from leanmed.figures.calibration import Evidence, Temperature, choose_threshold, pooled_temperature, untouched
from leanmed.figures.familiarity import Scale
from leanmed.files import write_json
from leanmed.records import Record
from leanmed.runs import CALIBRATION, FOLD, SPLITS, Run, read_csv
from leanmed.runtime.lines import line_of, read_lines, write_lines
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, with_familiar
from leanmed.training.familiarity import Distances, Scales, read_distances, scales_of

NO_TEMPERATURE = "answers of this kind have no temperature"
Pairs = list[tuple[Record, Answer]]
Rule = tuple[Temperature, float | None]
"""A temperature and a threshold, if there is one."""


@dataclass(frozen=True)
class Rules:
    """How the answers of a run are decided.

    Args:
        folds: each fold's, fitted to no answer to an image of a group that the fold is tested on.
        whole: of a model of all images, or of all folds, fitted to all answers.
    """

    folds: Sequence[Rule]
    whole: Rule


def calibrate(run: Run, records: Sequence[Record]) -> str:
    """Decide the answers of every fold, and write what decided them; a sentence to tell.

    It may be repeated: the answers as the networks gave them stay.
    """
    if run.calibrated_alone():
        return "every fold keeps the calibration that an earlier version gave it by itself"
    rules = rules_of(run, records)
    distances = [read_distances(run, fold) for fold in range(run.facts["folds"])]
    scales = _scales(run, records, [own["validation"] if own else None for own in distances])
    for fold, (temperature, threshold) in enumerate(rules.folds):
        familiar = _familiar(distances[fold] or {}, scales.folds[fold]) if scales else {}
        _decide(run, fold, _uncalibrated(run, fold, records), temperature.value, threshold, familiar)
    fitted, spread = rules.whole[0], _spread([own.value for own, _ in rules.folds])
    sentence = "" if fitted.unfitted == NO_TEMPERATURE else fitted.sentence() + spread
    whole, *folds = ({**asdict(own), "threshold": threshold} for own, threshold in (rules.whole, *rules.folds))
    content = {**whole, "sentence": sentence, "folds": folds}
    if scales:
        content["familiarity"] = {"whole": scales.whole.as_json(), "folds": [own.as_json() for own in scales.folds]}
    write_json(run.path / CALIBRATION, content)
    return sentence or "answers decided"


def rules_of(run: Run, records: Sequence[Record], threshold: str | float | None = None) -> Rules:
    """What decides the answers of a run whose folds have answered.

    Args:
        run: its folds are trained.
        records: of the run, with the groups that its split keeps whole.
        threshold: how thresholds are chosen, or one for all; None: as the recipe says.
    """
    chosen = run.recipe.training.threshold if threshold is None else threshold
    parts = [_uncalibrated(run, fold, records) for fold in range(run.facts["folds"])]
    everything = [pair for part in parts for pair in part["validation"]]
    tested = [{_unit(run, record) for record, _ in part["test"]} for part in parts]
    return Rules(
        folds=[_fitted(_evidence(run, everything, without=units), chosen) for units in tested],
        whole=_fitted(_evidence(run, everything, without=set()), chosen),
    )


def decided(run: Run, records: Sequence[Record], rules: Rules) -> Iterator[tuple[int, Record, Answer]]:
    """The answers to all test parts as other rules than the run's own decide them, each with its fold."""
    kind = TASKS[run.recipe.task].answer
    for fold, (temperature, threshold) in enumerate(rules.folds):
        for record, answer in _uncalibrated(run, fold, records)["test"]:
            yield fold, record, kind.recalibrated(answer, temperature.value, threshold)


def _uncalibrated(run: Run, fold: int, records: Sequence[Record]) -> dict[str, Pairs]:
    known = {record.id: record for record in records}
    return {part: _read(run, fold, part, known) for part in ("validation", "test")}


def _spread(temperatures: Sequence[float]) -> str:
    """A fold's own temperature is not the one told of, since it leaves some answers out."""
    low, high = min(temperatures), max(temperatures)
    if low == high:
        return ""
    return f" Each fold's own leaves out what the fold is tested on, and is from {low:.3f} to {high:.3f}."


def _read(run: Run, fold: int, part: str, known: dict[str, Record]) -> Pairs:
    kind = TASKS[run.recipe.task].answer
    return [(known[line["input"]], kind.answer_of(line)) for line in read_lines(run.uncalibrated(fold, part))]


def _unit(run: Run, record: Record) -> str:
    """What the split keeps whole: the group, or under the papers' protocol the image."""
    return record.id if run.facts["protocol"] == "paper" else record.group


def _evidence(run: Run, pairs: Pairs, without: set[str]) -> Evidence | None:
    kept = [(record, answer) for record, answer in pairs if _unit(run, record) not in without]
    return TASKS[run.recipe.task].judge.evidence([r for r, _ in kept], [a for _, a in kept], run.labels)


def _fitted(seen: Evidence | None, chosen: str | float) -> Rule:
    """Temperature and threshold; none of either for kinds that have none, and no threshold for several labels."""
    if seen is None:
        return untouched(0, 0, NO_TEMPERATURE), None
    if seen.logits.ndim == 1 and len(set(seen.truth.tolist())) < 2:
        why = "the answers are all right or all wrong"
        return untouched(len(seen.truth), seen.groups, why), 0.5 if isinstance(chosen, str) else chosen
    temperature = pooled_temperature(seen)
    if seen.logits.ndim > 1:
        return temperature, None
    if not isinstance(chosen, str):
        return temperature, chosen
    positive = 1 / (1 + np.exp(-seen.logits / temperature.value))
    threshold = choose_threshold(seen.truth, positive, chosen, unfound=seen.unfound)
    return temperature, float(np.float32(threshold))


def _scales(run: Run, records: Sequence[Record], distances: Sequence[Distances | None]) -> Scales | None:
    """What the distances of all folds' validation images make; see `leanmed.training.familiarity`."""
    units = {record.id: _unit(run, record) for record in records}
    rows = read_csv(run.path / SPLITS)
    tested = [
        {units[row["image"]] for row in rows if row[f"fold_{fold}"] == "test"} for fold in range(run.facts["folds"])
    ]
    return scales_of(distances, units, tested)


def _familiar(distances: Mapping[str, Distances], scale: Scale) -> dict[str, float]:
    """How familiar each of a fold's unseen images looks to it."""
    found = {name: distance for part in distances.values() for name, distance in part.items()}
    return dict(zip(found, scale.familiar(list(found.values())), strict=True))


def _decide(
    run: Run,
    fold: int,
    parts: dict[str, Pairs],
    temperature: float,
    threshold: float | None,
    familiar: Mapping[str, float],
) -> None:
    """Write the fold's answers as they are decided, then its facts."""
    kind, file = TASKS[run.recipe.task], run.folder(fold) / FOLD
    decided = {
        part: [
            (record, with_familiar(kind.answer.recalibrated(answer, temperature, threshold), familiar.get(record.id)))
            for record, answer in pairs
        ]
        for part, pairs in parts.items()
    }
    for part, pairs in decided.items():
        write_lines(run.answers(fold, part), (line_of(record.id, answer) for record, answer in pairs))
    records, answers = zip(*decided["validation"], strict=True)
    figures = kind.judge.point(kind.judge.table_of(records, answers, run.labels))
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["validation"] |= {name: None if np.isnan(value) else value for name, value in figures.items()}
    facts["manifest"] |= {"temperature": temperature, "threshold": threshold}
    write_json(file, facts)
