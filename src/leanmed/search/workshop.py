"""Makes candidates and measures them; what was made once is kept, so that a search that was stopped goes on.

```
WORK/opened.json                      for which candidates the test part was opened
WORK/search.json                      of which run, data and settings the rest is made
WORK/students/NAME/                   a run of one fold
WORK/candidates/NAME/artifact/        what was made
WORK/candidates/NAME/measured.json    written last: a candidate that has one is done
```
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from leanmed.audit.grouping import AUDIT, Known
from leanmed.benchmark.benchmark import interleaved
from leanmed.benchmark.device import Estimate
from leanmed.benchmark.profile import peak_mib
from leanmed.compress.bench import Options, total_bytes
from leanmed.compress.command import RecordImages, quantize_parts, sort_images, write_quantized
from leanmed.compress.distil import Teacher
from leanmed.compress.gate import answers, compare_tables, table_of
from leanmed.compress.outcome import Comparison
from leanmed.compress.parts import Parts
from leanmed.compress.precisions import PRECISIONS
from leanmed.console import Progress
from leanmed.errors import LeanmedError, RunError
from leanmed.exporting.export import export
from leanmed.files import defined, sha256_file, sha256_json, write_json
from leanmed.recipe.recipe import Distillation, Recipe
from leanmed.runs import MODEL, Run
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import load
from leanmed.search.candidates import FLOAT, Candidate
from leanmed.tasks import TASKS
from leanmed.training.train import train

ARTIFACT, MEASURED, SEARCH, OPENED = "artifact", "measured.json", "search.json", "opened.json"
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None  # not on Windows
REPEATS = 30  # answers that are timed
SECONDS = 20.0  # for which they are
MIB = 2**20
Tell = Callable[[str], None]
Elsewhere = Callable[[Path], Estimate]
"""What one answer of an artifact takes on a device that is not this machine."""


class TimeIsUp(Exception):
    """The search's time was over while a student was trained, which goes on when the search does."""


@dataclass(frozen=True)
class Measured:
    """One candidate as it was found.

    Args:
        name, network, precision, tuned: of the candidate.
        score, low, high: the main score on validation images, with its 95 % interval; NaN: not known.
        change, change_low, change_high: of the score from the run's own float model on the same images.
        faithful: the share of these images to which it answers as the float version of its own network does; of a
            float version 1.
        images: of validation.
        costs: size and memory in bytes, latency in milliseconds; None: not known.
        techniques: that made it.
        seconds: that making and measuring took.
        guessed: a part of its latency is a guess, since the device's table lacks some class of operator.
        remarks: what a user should know of it.
        failed: why there is no such artifact; empty: there is one.
    """

    name: str
    network: str
    precision: str
    tuned: bool
    score: float = math.nan
    low: float = math.nan
    high: float = math.nan
    change: float = math.nan
    change_low: float = math.nan
    change_high: float = math.nan
    faithful: float = math.nan
    images: int = 0
    costs: Mapping[str, float | None] = field(default_factory=dict)
    techniques: tuple[str, ...] = ()
    seconds: float = 0.0
    guessed: bool = False
    remarks: tuple[str, ...] = ()
    failed: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measured:
        """Read back what `defined` gave."""
        found: dict[str, Any] = {key: math.nan if value is None else value for key, value in content.items()}
        return cls(**found | {key: tuple(found.get(key) or ()) for key in ("techniques", "remarks")})


class _Known(NamedTuple):
    """A network's float artifact, and what its images may be used for."""

    path: Path
    artifact: Artifact
    known: Known
    parts: Parts


@dataclass(frozen=True, eq=False)
class Workshop:
    """Where candidates are made of a run.

    Args:
        run: finished.
        fold: whose model is compressed, and whose images choose.
        data: the data set's folder.
        place: takes what is made.
        students: name -> recipe, of networks besides the run's own.
        own: the name of the run's own network.
        calibration: training images that set ranges; None: as many as the kind of task says.
        epochs: of fine-tuning.
        attempts: at each compression, at most; None: as many as there are techniques.
        elsewhere: estimates the latency on another device; None: answers are timed here.
        timed_on: what tells whose times they are.
        tell: takes one line at a time.
        progress: takes stage, done and total.
    """

    run: Run
    fold: int
    data: Path
    place: Path
    students: Mapping[str, Recipe]
    own: str
    calibration: int | None
    epochs: int
    attempts: int | None
    elsewhere: Elsewhere | None
    timed_on: str
    tell: Tell
    progress: Progress

    def open(self) -> None:
        """Begin, or go on with what an earlier search of the same kind left in the place.

        Raises:
            RunError: it is of another run, other data or other settings.
        """
        file, now = self.place / SEARCH, self._facts()
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            now = {key: value for key, value in before.items() if key.startswith("student ")} | now
            differ = [_change(key, before[key], now[key]) for key in before if before[key] != now.get(key)]
            if differ:
                raise RunError(
                    f"expected to go on with the search in {self.place}, which was started otherwise "
                    f"({'; '.join(differ)}); give the same again, or --overwrite to begin anew"
                )
        write_json(file, now)

    def _facts(self) -> dict[str, Any]:
        return {
            "model": sha256_file(self.run.folder(self.fold) / MODEL),
            "fold": self.fold,
            "data": str(self.data.resolve()),
            "calibration": self.calibration,
            "fine-tuning": self.epochs,
            "attempts": self.attempts,
            "timed on": self.timed_on,
            **{f"student {name}": sha256_json(own.model_dump(mode="json")) for name, own in self.students.items()},
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other searches out of the place while the block runs; on systems without such locks, nothing is done.

        Raises:
            RunError: another one is in it.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        with (self.place / "lock").open("w") as file:
            if fcntl:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise RunError(
                        f"expected nobody else at work in {self.place}, but another search is; wait for its end, or "
                        "choose another --out"
                    ) from error
            yield

    def opened(self) -> list[str]:
        """The candidates for which the test part was opened."""
        file = self.place / OPENED
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []

    def open_for(self, name: str) -> None:
        """Note that the test part is opened for a candidate."""
        write_json(self.place / OPENED, list(dict.fromkeys([*self.opened(), name])))

    def folder(self, candidate: Candidate) -> Path:
        """Where a candidate lies."""
        return self.place / "candidates" / candidate.name

    def artifact(self, candidate: Candidate) -> Path:
        """Where its artifact lies, once it is made."""
        return self.folder(candidate) / ARTIFACT

    def known(self, candidate: Candidate) -> Measured | None:
        """What was found of it before; None: it was not measured yet, or not made, which is tried again."""
        file = self.folder(candidate) / MEASURED
        if not file.is_file():
            return None
        found = Measured.from_json(json.loads(file.read_text(encoding="utf-8")))
        return None if found.failed else found

    def measure(self, candidate: Candidate, is_over: Callable[[], bool]) -> Measured:
        """Make a candidate and measure it, unless that was done.

        Args:
            candidate: what to make.
            is_over: whether the search's time is.

        Raises:
            TimeIsUp: it takes a student whose training was not done when the time was over.
        """
        found = self.known(candidate)
        if found is None:
            if candidate.precision != FLOAT:  # what a stopped search left half done; of a float one, all or nothing
                shutil.rmtree(self.folder(candidate), ignore_errors=True)
            start = time.monotonic()
            same: dict[str, Any] = {
                "name": candidate.name,
                "network": candidate.network,
                "precision": candidate.precision,
            }
            try:
                about = self._made(candidate, is_over)
            except LeanmedError as error:
                about = {"failed": str(error)}
            spent = round(time.monotonic() - start, 1)
            found = Measured(**same, tuned=candidate.tuned, seconds=spent, **about)
            write_json(self.folder(candidate) / MEASURED, defined(found))
        return found

    def _made(self, candidate: Candidate, is_over: Callable[[], bool]) -> dict[str, Any]:
        made = self._float(candidate.network, is_over)
        out, remarks, about = self.artifact(candidate), list[str](), dict[str, Any](faithful=1.0)
        if candidate.precision == FLOAT:
            artifact = made.artifact
            judged = self._judged(artifact)
        else:
            calibrates = PRECISIONS[candidate.precision].calibrates
            parts = Parts(made.parts.training if calibrates else [], made.parts.validation, [], made.parts.notes)
            options = Options(attempts=self.attempts)  # what does not pass their gate is a candidate all the same
            if candidate.tuned:
                options = replace(options, start=("gptq", "finetune"), ladder=(), epochs=self.epochs, attempts=1)
            quantized = quantize_parts(made.artifact, candidate.precision, parts, options, progress=self.progress)
            artifact = write_quantized(out, made.artifact, quantized, made.known, parts)
            final, remarks = quantized.outcome.final, [*quantized.outcome.warnings]
            # Of the run's own network, the gate has compared just these answers already.
            judged = final.judged if candidate.network == self.own else self._judged(artifact)
            about = {"faithful": final.judged.agreement, "techniques": final.techniques}
        if self.elsewhere:
            estimate = self.elsewhere(out)
            latency, guesses = estimate.milliseconds, estimate.lines()
        else:
            latency, guesses = self._timed(out), []
        mib = peak_mib(out, artifact.manifest.input)
        memory = None if mib is None else mib * MIB
        score, change = judged.after[judged.main_score], judged.change[judged.main_score]
        return {
            "score": score.value,
            "low": score.low,
            "high": score.high,
            "change": change.value,
            "change_low": change.low,
            "change_high": change.high,
            "images": judged.images,
            "costs": {"size": float(total_bytes(artifact.graphs)), "latency": latency, "memory": memory},
            "guessed": bool(guesses),
            "remarks": (*remarks, *guesses),
            **about,
        }

    def _float(self, network: str, is_over: Callable[[], bool]) -> _Known:
        """A network's float artifact, whose training may be what takes longest."""
        if network in self._floats:
            return self._floats[network]
        out = self.artifact(Candidate(network, FLOAT))
        if not out.is_dir():
            run, fold = (self.run, self.fold) if network == self.own else (self._student(network, is_over), 0)
            export(run, out, fold=fold, data=self.data, tell=self.tell, progress=self.progress)
        artifact = read_artifact(out)
        known, parts = sort_images(artifact, self.data, self._audit, None, self.calibration, self.progress)
        found = _Known(out, artifact, known, parts)
        if network != self.own:
            self._check_same_images(artifact)
        self._floats[network] = found
        return found

    def _check_same_images(self, student: Artifact) -> None:
        """Refuse a student that has seen other images than the run's model, since it would be judged on them."""
        own, its = (one.manifest.provenance for one in (self._own().artifact, student))
        if (own.seen_images, own.selected_images) != (its.seen_images, its.selected_images):
            raise RunError(
                "expected a student that was trained and selected on the images of the run's fold, got one of others; "
                "begin anew with --overwrite"
            )

    def _own(self) -> _Known:
        return self._float(self.own, lambda: False)

    @cached_property
    def _floats(self) -> dict[str, _Known]:
        return {}

    @property
    def _audit(self) -> Path:
        return self.place / AUDIT

    def _student(self, name: str, is_over: Callable[[], bool]) -> Run:
        """A student's run of one fold, which learns from the run's model of that fold where both see alike."""
        recipe, out = self.students[name], self.place / "students" / name
        teacher = Teacher(self.run, self.data, self.fold)
        alike = recipe.model.side == self.run.recipe.model.side
        if not alike:
            self.tell(f"{name} sees images of another size than the run's network, and learns without a teacher")
            recipe = recipe.model_copy(update={"distillation": Distillation()})

        def tell(line: str) -> None:
            if not line.startswith("done; now:"):  # what would come next without a search
                self.tell(f"{name}: {line}")
            if is_over():
                raise TimeIsUp

        begun = (out / "run.json").is_file()
        return train(
            recipe, self.data, out, resume=begun, teacher=teacher if alike else None, only=self.fold, tell=tell
        )

    def _judged(self, artifact: Artifact) -> Comparison:
        """An artifact beside the run's own float one on validation images."""
        own = self._own()
        kind, records = TASKS[artifact.manifest.task], own.parts.validation
        side = artifact.manifest.input.side if artifact.manifest.input.reduced else None
        step = partial(self.progress, "answering validation images")
        table = table_of(records, answers(artifact, RecordImages(records, side), step=step), artifact.manifest)
        return compare_tables(self._own_table, table, own.artifact.manifest.main_score, kind.judge)

    @cached_property
    def _own_table(self) -> Any:
        own = self._own()
        side = own.artifact.manifest.input.side if own.artifact.manifest.input.reduced else None
        images = RecordImages(own.parts.validation, side)
        return table_of(own.parts.validation, answers(own.artifact, images), own.artifact.manifest)

    def _timed(self, path: Path) -> float:
        """Milliseconds of one answer on one thread.

        The run's own float artifact takes turns, and its time when the search began is the measure of all: so a
        machine that is busier later does not make a candidate slow.
        """
        own = self._own()
        both = {"own": load(own.path), "candidate": load(path)}
        record = own.parts.validation[0]
        actions = {name: partial(one.outputs, one.frame_of(record).pixels) for name, one in both.items()}
        found = interleaved(actions, REPEATS, SECONDS)
        times = {name: found[name]["median_ms"] for name in actions}
        file = self.folder(Candidate(self.own, FLOAT)) / "milliseconds.json"
        if not file.is_file():
            write_json(file, times["own"])
        return float(json.loads(file.read_text(encoding="utf-8")) * times["candidate"] / times["own"])


def _change(key: str, before: Any, now: Any) -> str:
    """In words, what differs from an earlier search."""
    if key.startswith("student "):
        return f"{key} had other settings; give the same, or choose another name for the new ones"
    return "another model" if key == "model" else f"{key}: {before} -> {now}"
