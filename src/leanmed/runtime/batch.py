"""Many predictions into one file: in order, at steady memory, in shards, resumable, with what failed listed at the end."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmed import __version__
from leanmed.errors import InputError, RunError
from leanmed.files import write_json
from leanmed.runtime.predictor import Predictor

WINDOW = 4  # images in flight per worker: enough to keep all busy, few enough for steady memory


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1: every `count`-th input, so that shards are equally long."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise RunError(f"expected --shard i/N with 1 <= i <= N, for example 2/4, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise RunError(f"expected --shard i/N with 1 <= i <= N, for example 2/4, got {text!r}")
        return cls(int(index), int(count))

    def of(self, inputs: Sequence[Path]) -> Sequence[Path]:
        """The inputs of this shard."""
        return inputs[self.index - 1 :: self.count]

    def path(self, out: Path) -> Path:
        """`answers.jsonl` becomes `answers-2-of-4.jsonl` when there are several shards."""
        return out if self.count == 1 else out.with_name(f"{out.stem}-{self.index}-of-{self.count}{out.suffix}")


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
    """Predict many files into one JSON Lines file, one line per input in the order given, and a done-marker beside it.

    A line holds `input`, `label`, `probability`, `probabilities`, `artifact`, `version`, `seconds`; or `input` and `error`.
    While it works, lines go to `OUT.part`; the file takes its name, and `OUT.done` appears, when all inputs are through.

    Args:
        predictor: answers.
        inputs: all inputs of all shards.
        out: the file to write.
        shard: which part of the inputs; None: all.
        resume: go on after the last whole line of a stopped run; a finished shard is left as it is.
        workers: images at a time.
        progress: takes the number of inputs that are through.

    Raises:
        RunError: the output is there already, or belongs to another artifact or other inputs.
    """
    shard = shard or Shard()
    mine, out = shard.of(inputs), shard.path(out)
    part, marker = out.with_name(out.name + ".part"), out.with_name(out.name + ".done")
    if marker.is_file() and resume:
        return _finished(out)
    if out.exists() or marker.exists() or (part.exists() and not resume):
        raise RunError(f"{out} or a part of it is there already; add --resume to go on, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(part, mine, predictor) if part.exists() else 0
    with part.open("a", encoding="utf-8") as file:
        for number, line in enumerate(answers(predictor, mine[done:], workers), start=done + 1):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            progress(number)
    part.replace(out)
    outcome = _finished(out)
    write_json(
        marker,
        {"artifact": predictor.artifact.sha256, "inputs": len(mine), "failed": len(outcome.failed), "shard": [shard.index, shard.count]},
    )
    return outcome


def answers(predictor: Predictor, inputs: Iterable[Path], workers: int) -> Iterator[dict[str, Any]]:
    """One plain answer per input, in order, `workers` at a time, with a bounded number in flight."""
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in inputs:
            waiting.append(pool.submit(answer, predictor, path))
            if len(waiting) >= WINDOW * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def answer(predictor: Predictor, path: Path) -> dict[str, Any]:
    """The line for one input: an answer, or the reason why there is none."""
    started = time.perf_counter()
    try:
        prediction = predictor.predict(path)
    except InputError as error:
        return {"input": str(path), "error": str(error)}
    return {
        "input": str(path),
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": dict(prediction.probabilities),
        "artifact": predictor.artifact.sha256,
        "version": __version__,
        "seconds": round(time.perf_counter() - started, 6),
    }


def _whole_lines(part: Path, inputs: Sequence[Path], predictor: Predictor) -> int:
    """Cut a half-written last line off, and count the lines that answer the first inputs."""
    content = part.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in content.splitlines()]
    same = all(line["input"] == str(path) for line, path in zip(lines, inputs, strict=False))
    artifact = predictor.artifact.sha256
    if not same or len(lines) > len(inputs) or any(line.get("artifact", artifact) != artifact for line in lines):
        raise RunError(f"{part} answers other inputs, or by another artifact; remove it, or choose another --out")
    part.write_bytes(content)
    return len(lines)


def _finished(out: Path) -> Outcome:
    with out.open(encoding="utf-8") as file:
        lines = (json.loads(line) for line in file)
        found = [(line["input"], line.get("error")) for line in lines]
    failed = tuple((name, reason) for name, reason in found if reason)
    return Outcome(out, len(found) - len(failed), failed)
