"""When all folds have answered: one temperature and one threshold for each, fitted to what all of them say together.

A fold is decided by the validation answers of all folds, but for those to images of the groups that it is tested on: so
hundreds of answers speak in place of some dozens, and its test part has no say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from leanmed.figures.calibration import Evidence, Temperature, choose_threshold, pooled_temperature
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
    known, folds = {record.id: record for record in records}, range(run.facts["folds"])
    validation = {fold: _read(run, fold, "validation", known) for fold in folds}
    found: dict[str, Any] = {"folds": []}
    for fold in folds:
        test = _read(run, fold, "test", known)
        seen = _evidence(run, [pair for pairs in validation.values() for pair in pairs], _kept_out(run, test))
        temperature, threshold = _fitted(run, seen)
        _decide(run, fold, {"validation": validation[fold], "test": test}, temperature.value, threshold)
        found["folds"].append({**asdict(temperature), "threshold": threshold})
    whole = _evidence(run, [pair for pairs in validation.values() for pair in pairs], set())
    temperature, threshold = _fitted(run, whole)
    sentence = "" if whole is None else temperature.sentence()
    write_json(run.path / CALIBRATION, {**asdict(temperature), "threshold": threshold, "sentence": sentence, **found})
    return sentence or "answers decided"


def _read(run: Run, fold: int, part: str, known: dict[str, Record]) -> Pairs:
    kind = TASKS[run.recipe.task].answer
    return [(known[line["input"]], kind.answer_of(line)) for line in read_lines(run.uncalibrated(fold, part))]


def _kept_out(run: Run, test: Pairs) -> set[str]:
    """Groups that are tested; under the papers' protocol, which splits by image, images."""
    return {_unit(run, record) for record, _ in test}


def _unit(run: Run, record: Record) -> str:
    return record.id if run.facts["protocol"] == "paper" else record.group


def _evidence(run: Run, pairs: Pairs, without: set[str]) -> Evidence | None:
    kept = [(record, answer) for record, answer in pairs if _unit(run, record) not in without]
    return TASKS[run.recipe.task].judge.evidence([r for r, _ in kept], [a for _, a in kept], run.labels)


def _fitted(run: Run, seen: Evidence | None) -> tuple[Temperature, float | None]:
    """Temperature and threshold; none of either for kinds that have none, and no threshold for several labels."""
    if seen is None:
        return Temperature(1.0, 1.0, 1.0, 0, 0), None
    both = seen.logits.ndim == 1 and 0 < seen.truth.sum() < len(seen.truth)
    if seen.logits.ndim == 1 and not both:  # nothing is found, or nothing is wrong
        return Temperature(1.0, 1.0, 1.0, len(seen.truth), 0), 0.5
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
