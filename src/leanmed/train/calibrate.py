"""When all folds have answered: one temperature and one threshold for each, fitted to what all of them say together.

A fold is decided by the validation answers of all folds, but for those to images of the groups that it is tested on: so
many more answers speak than its own validation part has, and the truths of its test part are never looked at. They have
a remote say nevertheless: the networks of the other folds, whose answers speak too, were trained on most of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from leanmed.figures.calibration import Evidence, Temperature, choose_threshold, pooled_temperature, untouched
from leanmed.files import write_json
from leanmed.records import Record
from leanmed.runs import CALIBRATION, FOLD, Run
from leanmed.runtime.lines import line_of, read_lines, write_lines
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer

Pairs = list[tuple[Record, Answer]]


def calibrate(run: Run, records: Sequence[Record]) -> str:
    """Decide the answers of every fold, and write what decided them; a sentence to tell.

    It may be repeated: the answers as the networks gave them stay.
    """
    if run.calibrated_alone():
        return "every fold keeps the calibration that an earlier version gave it by itself"
    known, folds = {record.id: record for record in records}, range(run.facts["folds"])
    validation = {fold: _read(run, fold, "validation", known) for fold in folds}
    everything = [pair for pairs in validation.values() for pair in pairs]
    found: dict[str, Any] = {"folds": []}
    for fold in folds:
        test = _read(run, fold, "test", known)
        seen = _evidence(run, everything, without={_unit(run, record) for record, _ in test})
        temperature, threshold = _fitted(run, seen)
        _decide(run, fold, {"validation": validation[fold], "test": test}, temperature.value, threshold)
        found["folds"].append({**asdict(temperature), "threshold": threshold})
    whole = _evidence(run, everything, without=set())
    temperature, threshold = _fitted(run, whole)
    sentence = "" if whole is None else temperature.sentence() + _spread([own["value"] for own in found["folds"]])
    write_json(run.path / CALIBRATION, {**asdict(temperature), "threshold": threshold, "sentence": sentence, **found})
    return sentence or "answers decided"


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


def _fitted(run: Run, seen: Evidence | None) -> tuple[Temperature, float | None]:
    """Temperature and threshold; none of either for kinds that have none, and no threshold for several labels."""
    if seen is None:
        return untouched(0, 0, "answers of this kind have no temperature"), None
    if seen.logits.ndim == 1 and len(set(seen.truth.tolist())) < 2:
        return untouched(len(seen.truth), seen.groups, "the answers are all right or all wrong"), 0.5
    temperature = pooled_temperature(seen)
    if seen.logits.ndim > 1:
        return temperature, None
    positive = 1 / (1 + np.exp(-seen.logits / temperature.value))
    threshold = choose_threshold(seen.truth, positive, run.recipe.training.threshold, unfound=seen.unfound)
    return temperature, float(np.float32(threshold))


def _decide(run: Run, fold: int, parts: dict[str, Pairs], temperature: float, threshold: float | None) -> None:
    """Write the fold's answers as they are decided, then its facts."""
    kind, file = TASKS[run.recipe.task], run.folder(fold) / FOLD
    decided = {
        part: [(record, kind.answer.recalibrated(answer, temperature, threshold)) for record, answer in pairs]
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
