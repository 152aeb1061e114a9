"""Many predictions into one file: in order, at steady memory, in shards, resumable, failures listed.

Of whole scans, each worker holds one at a time.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmed import __version__
from leanmed.errors import LeanmedError, RunError
from leanmed.files import sha256_bytes, write_json
from leanmed.reading.volume import is_scan
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.detection.candidates import montage

WINDOW = 4  # images in flight per worker: enough to keep all busy, few enough for steady memory
MOST = 50  # candidates of a scan that are written


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1: every `count`-th input, so that shards are equally long."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise RunError(f"expected --shard I/N with 1 <= I <= N, such as 2/4, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise RunError(f"expected --shard I/N with 1 <= I <= N, such as 2/4, got {text!r}")
        return cls(int(index), int(count))

    def of(self, inputs: Sequence[Path]) -> Sequence[Path]:
        """The inputs of this shard."""
        return inputs[self.index - 1 :: self.count]

    def path(self, out: Path) -> Path:
        """`answers.jsonl` becomes `answers-2-of-4.jsonl` when there are several shards."""
        name = f"{out.stem}-{self.index}-of-{self.count}{out.suffix}"
        return out if self.count == 1 else out.with_name(name)


@dataclass(frozen=True)
class Outcome:
    """What became of a shard."""

    path: Path
    answered: int
    failed: tuple[tuple[str, str], ...]  # input, reason


def predict_file(
    predictor: Predictor,
    inputs: Sequence[Path],
    out: Path,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict many files into one JSON Lines file, one line per input in the order given.

    A line is what `answer` gives. Lines go to `OUT.part`, which takes its name when all inputs are through,
    and then `OUT.done` appears beside it. The pictures of scans' candidates go to the folder `STEM-montages` beside
    OUT, whichever the shard.

    Args:
        inputs: all inputs of all shards.
        out: the file to write.
        shard: which part of the inputs; None: all.
        resume: go on after the last whole line of a stopped run; a finished one is checked and kept.
        workers: images at a time.
        progress: takes the number of inputs that are through.

    Raises:
        RunError: the output is there already, is damaged, or belongs to another artifact or other inputs.
    """
    shard, montages = shard or Shard(), out.with_name(f"{out.stem}-montages")
    mine, out = shard.of(inputs), shard.path(out)
    part, marker = (out.with_name(out.name + end) for end in (".part", ".done"))
    if not resume and any(path.exists() for path in (out, part, marker)):
        raise RunError(f"expected a new {out}, got one with content; add --resume, or choose another --out")
    if not out.exists():
        marker.unlink(missing_ok=True)
        _answer_all(predictor, mine, part, montages, workers, progress)
        part.replace(out)
    lines = _all_lines(out, mine, predictor)
    counts = {"inputs": lines.count, "failed": len(lines.failed), "shard": [shard.index, shard.count]}
    write_json(marker, {"artifact": predictor.artifact.sha256, **counts})
    return Outcome(out, lines.count - len(lines.failed), lines.failed)


def _all_lines(out: Path, inputs: Sequence[Path], predictor: Predictor) -> _Lines:
    lines = _Lines.read(out, inputs, predictor)
    if lines.count < len(inputs):
        raise RunError(f"expected {out} to answer {len(inputs)} inputs, got {lines.count}; choose another --out")
    return lines


def _answer_all(
    predictor: Predictor,
    inputs: Sequence[Path],
    part: Path,
    montages: Path,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Write a line for each input that has none yet."""
    part.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    if part.exists():
        lines = _Lines.read(part, inputs, predictor)
        done = lines.count
        with part.open("r+b") as file:
            file.truncate(lines.size)
    # Names of files need not be UTF-8: what cannot be encoded is written as JSON's own escape.
    with part.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for number, line in enumerate(answers(predictor, inputs[done:], workers, montages), start=done + 1):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            progress(number)


def answers(
    predictor: Predictor, inputs: Iterable[Path], workers: int, montages: Path | None = None
) -> Iterator[dict[str, Any]]:
    """One plain answer per input, in order, `workers` at a time, with a bounded number in flight."""
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in inputs:
            waiting.append(pool.submit(answer, predictor, path, montages))
            if len(waiting) >= WINDOW * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def answer(predictor: Predictor, path: Path, montages: Path | None = None) -> dict[str, Any]:
    """The line for one input, an answer or the reason why there is none.

    Its keys are `input`; `label`, `probability` and `probabilities`, or from an artifact for boxes `boxes` and
    `scores`, or of a scan `candidates`, `threshold`, `montage`, `slices` and, if there are any, `notes`; `artifact`,
    `version` and `seconds`. Or else they are `input` and `error`.

    Args:
        montages: the folder for the pictures of scans' candidates; None: `montage` is null.
    """
    started = time.perf_counter()
    try:
        found = _found(predictor, path, montages)
    except LeanmedError as error:
        return {"input": str(path), "error": str(error)}
    return {
        "input": str(path),
        **found,
        "artifact": predictor.artifact.sha256,
        "version": __version__,
        "seconds": round(time.perf_counter() - started, 6),
    }


def _found(predictor: Predictor, path: Path, montages: Path | None) -> dict[str, Any]:
    if predictor.manifest.output == "probabilities":
        return _probabilities(predictor, path)
    if predictor.takes_scans and is_scan(path):
        return _candidates(predictor, path, montages)
    return _boxes(predictor, path)


def _probabilities(predictor: Predictor, path: Path) -> dict[str, Any]:
    found = predictor.predict(path)
    return {"label": found.label, "probability": found.probability, "probabilities": dict(found.probabilities)}


def _boxes(predictor: Predictor, path: Path) -> dict[str, Any]:
    found = predictor.predict_boxes(path)
    return {"boxes": [list(box) for box in found.boxes], "scores": list(found.scores)}


def _candidates(predictor: Predictor, path: Path, montages: Path | None) -> dict[str, Any]:
    """The best candidates of a scan, the threshold, and the slices searched; `montage` is relative to the answers."""
    scan, threshold = predictor.open_scan(path), predictor.manifest.threshold or 0.0
    found = predictor.find_candidates(scan, count=MOST)
    picture = montages and montages / _picture_name(path)
    if picture:
        montage(picture, scan, found, threshold=threshold)
    notes = {"notes": list(scan.volume.notes)} if scan.volume.notes else {}
    return {
        "candidates": [candidate.as_json() | {"answered": candidate.score >= threshold} for candidate in found],
        "threshold": threshold,
        "montage": picture and f"{picture.parent.name}/{picture.name}",
        "slices": len(scan.searched),
        **notes,
    }


def _picture_name(path: Path) -> str:
    """A file name of plain letters that no other input has: one of the same name elsewhere has another hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name).strip("._-")[:60]
    return f"{plain or 'scan'}-{sha256_bytes(os.fsencode(path))[:16]}.png"


@dataclass(frozen=True)
class _Lines:
    """The whole lines of a file of answers: how many, of how many bytes, and what failed."""

    count: int
    size: int
    failed: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path, inputs: Sequence[Path], predictor: Predictor) -> _Lines:
        """Read lines that should answer the first inputs; half a line at the end is passed over.

        Raises:
            RunError: they answer others, or by another artifact, or are damaged.
        """
        count, size, failed = 0, 0, []
        with path.open("rb") as file:
            for content in file:
                if not content.endswith(b"\n"):
                    break
                line = _parse(content, path)
                if count == len(inputs) or line["input"] != str(inputs[count]):
                    raise RunError(f"{path} answers other inputs; remove it, or choose another --out")
                if line.get("artifact", predictor.artifact.sha256) != predictor.artifact.sha256:
                    raise RunError(f"{path} was answered by another artifact; remove it, or choose another --out")
                if "error" in line:
                    failed.append((line["input"], line["error"]))
                count, size = count + 1, size + len(content)
        return cls(count, size, tuple(failed))


def _parse(content: bytes, path: Path) -> dict[str, str]:
    try:
        line: dict[str, str] = json.loads(content)
        line["input"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"expected {path} to hold answers, got {content[:50]!r}; remove it, or choose another --out"
        ) from error
    return line
