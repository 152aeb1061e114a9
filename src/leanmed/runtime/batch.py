"""Many predictions into one file: in order, at steady memory, in shards, resumable, failures listed.

A file of answers is JSON lines, or a table where its name ends in `.csv`. Of whole scans, each worker holds one at a
time.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from numpy.typing import NDArray
from PIL import Image

from leanmed import __version__
from leanmed.errors import DataError, LeanmedError, OutputError, RunError, UnfamiliarInput
from leanmed.files import encodable, sha256_bytes, sha256_json, whole_file, write_text
from leanmed.outputs import check_one, has_keys
from leanmed.prompts import Prompts
from leanmed.reading.folders import FILES, PICTURES
from leanmed.reading.volume import SUFFIXES as SCANS
from leanmed.reading.volume import is_scan
from leanmed.remote import ENDING, AnyPlace, Place, at_hand, remove, told
from leanmed.runtime.explain import MASKS, check_explained, explain
from leanmed.runtime.lines import as_text, line_of, read_lines
from leanmed.runtime.predictor import Predictor
from leanmed.runtime.sources import Frame
from leanmed.tasks.drawing import as_picture
from leanmed.tasks.kind import Answer, AsFile, ScanAnswer

IN_FLIGHT = 4  # images per worker: enough to keep all busy, few enough for steady memory
ABOUT = ("artifact", "version", "seconds", "remark", "error")  # the last columns of a table
OTHERWISE = "was answered with another choice of --refuse-unfamiliar; remove it, or choose another --out"
BEGINNING = b'{"input": "'  # of a line
OWN_NAME = re.compile(r"(.+-[0-9a-f]{16})(\.\w+)+$")  # of a picture or file beside the answers: see `_plain_name`


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

    def of(self, inputs: Sequence[AnyPlace]) -> Sequence[AnyPlace]:
        """The inputs of this shard."""
        return inputs[self.index - 1 :: self.count]

    def path(self, out: Path) -> Path:
        """`answers.jsonl` becomes `answers-2-of-4.jsonl` when there are several shards."""
        name = f"{out.stem}-{self.index}-of-{self.count}{out.suffix}"
        return out if self.count == 1 else out.with_name(name)


@dataclass(frozen=True)
class Outcome:
    """What became of a shard."""

    path: Place
    answered: int
    failed: tuple[tuple[str, str], ...]  # input, reason
    unfamiliar: tuple[str, ...] = ()  # inputs that were answered, and look unlike the training images


def predict_file(
    predictor: Predictor,
    inputs: Sequence[Place],
    out: Path,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    draw: Path | None = None,
    prompts: Prompts | None = None,
    explanations: Explanations | None = None,
    named: Path | None = None,
    refuse: Callable[[Place], str | None] = lambda path: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict many files into one file of answers, one line or row per input in the order given.

    A line is what `answer` gives. Lines go to `OUT.part`, which takes its name when all inputs are through (or becomes
    the table, where OUT ends in `.csv`), and then `OUT.done` appears beside it. The pictures of what is found in scans
    go to the folder `STEM-montages` beside OUT, and masks to `STEM-files`, whichever the shard.

    Args:
        inputs: all inputs of all shards, of which those behind a URL are copied here one after the other.
        out: the file to write.
        shard: which part of the inputs; None: all.
        resume: go on after the last whole line of a stopped run; a finished one is checked and kept.
        overwrite: replace older answers in `out` when all inputs are through, and the pictures and files beside them.
        workers: images at a time.
        draw: a folder that takes each image with its answer on it, as a PNG; None: none but the pictures of scans.
        prompts: what is meant in each image; None: no prompts.
        explanations: which answers are explained, and where; those that `resume` finds are not explained again.
        named: the file after which the folders of pictures and masks are named; None: `out`.
        refuse: takes each input before it is read, and gives the reason why it should not be, or None.
        progress: takes the number of inputs that are through.

    Raises:
        OutputError: the output is there already; with `overwrite`, it is something else than answers.
        RunError: what is to be resumed is damaged, or belongs to another artifact or other inputs.
    """
    shard = shard or Shard()
    folders = beside(named or out)
    pictures = Pictures(draw or folders[0], images=draw is not None, files=folders[1])
    mine, out = shard.of(inputs), shard.path(out)
    part, marker = (out.with_name(out.name + end) for end in (".part", ".done"))
    check_one(resume=resume, overwrite=overwrite)
    if not resume:
        check_room(out, overwrite)
    about = {
        "artifact": predictor.artifact.sha256,
        "threshold": predictor.manifest.threshold,
        "refuse_unfamiliar": predictor.refuse_unfamiliar,
        "shard": [shard.index, shard.count],
        "asked": sha256_json([encodable(str(path)) for path in mine]),
    }
    whole = resume and out.exists() and not part.exists()
    counts = _finished(out, marker, about) if _is_table(out) and whole else None
    if counts is None:
        if not out.exists():
            marker.unlink(missing_ok=True)
        if not whole:
            _answer_all(predictor, mine, part, pictures, workers, prompts, explanations, refuse, progress)
        lines = _all_lines(part if part.exists() else out, mine, predictor)
        marker.unlink(missing_ok=True)  # an older one's, until the new answers are in their place
        if part.exists() and _is_table(out):
            _write_table(part, out)
        elif part.exists():
            part.replace(out)
        counts = {
            "inputs": lines.count,
            "failed": [list(pair) for pair in lines.failed],
            "unfamiliar": list(lines.unfamiliar),
        }
    # Names of files need not be UTF-8: as ASCII, JSON holds them all.
    write_text(marker, json.dumps(about | counts, indent=1) + "\n")
    part.unlink(missing_ok=True)  # of a table; a kill before this line loses nothing
    if overwrite:
        drop_strangers(folders, inputs)
    failed = tuple((name, reason) for name, reason in counts["failed"])
    return Outcome(out, counts["inputs"] - len(failed), failed, tuple(counts["unfamiliar"]))


def beside(out: Path) -> tuple[Path, Path]:
    """The folders beside a file of answers: of the pictures of scans, and of answers that are files of their own."""
    return out.with_name(f"{out.stem}{PICTURES}"), out.with_name(f"{out.stem}{FILES}")


def check_room(out: Path, overwrite: bool) -> None:
    """Refuse a place that holds something, or with `overwrite` something else than answers; clear a stopped one's."""
    if holds_answers(out, replacing=overwrite) and not overwrite:
        raise OutputError(
            f"expected --out {out} to be new, but it holds answers; add --resume to go on with them, or --overwrite to "
            "replace them, or choose another --out"
        )
    if overwrite:
        out.with_name(f"{out.name}.part").unlink(missing_ok=True)


def holds_answers(out: Path, *, replacing: bool) -> bool:
    """Whether there are answers at a place, whole or not; a place that holds anything else is refused.

    `replacing` says whether answers might lie there, for the error's words.
    """
    part, marker = (out.with_name(out.name + end) for end in (".part", ".done"))
    if out.is_dir():
        raise OutputError(f"expected --out {out} to be a file, but it is a folder; choose another --out")
    held = [path for path in (out, part, marker) if path.exists() and path.stat().st_size]
    is_ours = has_keys(marker, ("artifact", "asked")) or (bool(held) and _begins_with_an_answer(held[0]))
    if held and not is_ours:
        raise OutputError(
            f"expected --out {out} to be new{', or to hold answers' * replacing}, but {held[0].name} is a file of "
            "another kind; choose another --out"
        )
    return bool(held)


def _begins_with_an_answer(path: Path) -> bool:
    """Whether its first line is one that `predict` writes, or half of one if a process was killed so early."""
    try:
        first = next(read_lines(path), {})
        return "error" in first or {"artifact", "version"} <= first.keys()
    except DataError:
        content = path.read_bytes()
        return path.suffix == ".part" and b"\n" not in content and BEGINNING.startswith(content[: len(BEGINNING)])


def drop_strangers(folders: Iterable[Place], inputs: Iterable[Place]) -> None:
    """Remove pictures and files of earlier inputs, which nobody should take for answers to these."""
    known = {_plain_name(path) for path in inputs}
    for folder in folders:
        with told(folder):
            entries: list[Place] = [*folder.iterdir()] if folder.is_dir() else []
        for entry in entries:
            own = OWN_NAME.match(entry.name)
            if own and own[1] not in known:
                remove(entry)


def _is_table(out: Path) -> bool:
    return out.suffix.lower() == ".csv"


def predict_lines(
    predictor: Predictor,
    inputs: Sequence[Place],
    stream: TextIO,
    *,
    workers: int = 1,
    pictures: Pictures | None = None,
    prompts: Prompts | None = None,
    explanations: Explanations | None = None,
) -> Outcome:
    """Predict many files into a stream of JSON lines, such as standard output."""
    failed, unfamiliar = [], []
    for line in answers(predictor, inputs, workers, pictures, prompts=prompts, explanations=explanations):
        if "error" in line:
            failed.append((line["input"], line["error"]))
        if "remark" in line:
            unfamiliar.append(line["input"])
        stream.write(encodable(as_text(line)))
        stream.flush()
    return Outcome(Path("-"), len(inputs) - len(failed), tuple(failed), tuple(unfamiliar))


def _write_table(part: Path, out: Path) -> None:
    """Lines as a table, a row for each."""
    cells = [name for line in read_lines(part) for name in line.get("cells", {})]
    columns = ["input", *dict.fromkeys(cells), *ABOUT]
    with whole_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        table.writeheader()
        for line in read_lines(part):
            table.writerow({k: encodable(str(v)) for k, v in (line | line.get("cells", {})).items()})


def _finished(out: Path, marker: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the marker of a finished table says, once it is sure that it answers the same question."""
    if not marker.is_file():
        raise RunError(f"expected {marker.name} beside {out}, which says that it is whole, got none; remove {out}")
    said: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    for name, words in (("artifact", "by another artifact"), ("threshold", "with another threshold")):
        if said.get(name) != about[name]:
            raise RunError(f"{out} was answered {words}; remove it, or choose another --out")
    if said.get("asked") != about["asked"]:
        raise RunError(f"{out} answers other inputs; remove it, or choose another --out")
    if said.get("refuse_unfamiliar", False) != about["refuse_unfamiliar"]:
        raise RunError(f"{out} {OTHERWISE}")
    return {"inputs": said["inputs"], "failed": said["failed"], "unfamiliar": said.get("unfamiliar", [])}


def _all_lines(out: Path, inputs: Sequence[Place], predictor: Predictor) -> _Lines:
    lines = _Lines.read(out, inputs, predictor)
    if lines.count < len(inputs):
        raise RunError(f"expected {out} to answer {len(inputs)} inputs, got {lines.count}; choose another --out")
    return lines


def _answer_all(
    predictor: Predictor,
    inputs: Sequence[Place],
    part: Path,
    pictures: Pictures,
    workers: int,
    prompts: Prompts | None,
    explanations: Explanations | None,
    refuse: Callable[[Place], str | None],
    progress: Callable[[int], None],
) -> None:
    """Write a line for each input that has none yet."""
    part.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    if part.exists():
        lines = _Lines.read(part, inputs, predictor, unfinished=True)
        done = lines.count
        _go_on_in_a_new_file(part, lines.size)
    as_table = part.name.lower().endswith(".csv.part")
    # Names of files need not be UTF-8: what cannot be encoded is written as JSON's own escape.
    with part.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        given: dict[str, Any] = {"prompts": prompts, "explanations": explanations, "refuse": refuse}
        answered = answers(predictor, inputs[done:], workers, pictures, **given, cells=as_table)
        for number, line in enumerate(answered, start=done + 1):
            file.write(as_text(line))
            file.flush()
            progress(number)


def _go_on_in_a_new_file(part: Path, size: int) -> None:
    """Keep the first bytes. A process that was taken for lost, but is not, writes on into the old file, unseen."""
    with whole_file(part) as temporary:
        shutil.copyfile(part, temporary)
        os.truncate(temporary, size)


def answers_these(path: Path, inputs: Sequence[Place], predictor: Predictor) -> bool:
    """Whether what a file of answers holds, whole or not, was answered by this predictor to the first of the inputs."""
    try:
        _Lines.read(path, inputs, predictor, unfinished=True)
    except RunError:
        return False
    return True


@dataclass(frozen=True)
class Pictures:
    """Where answers are drawn, and written as files.

    Args:
        folder: takes PNGs.
        images: draw over each image too, not over scans alone.
        files: takes the answers that are files of their own, such as masks; None: nothing does.
    """

    folder: Path
    images: bool = False
    files: Path | None = None

    def save(self, source: Place, picture: Image.Image, end: str = "") -> str:
        """Write a picture under a name that no other input has; that name, relative to the folder's parent.

        `end` tells pictures of one input apart that go to the same folder.
        """
        path = self.folder / f"{_plain_name(source)}{end}.png"
        with whole_file(path) as temporary:
            picture.save(temporary, "PNG")
        return f"{self.folder.name}/{path.name}"

    def keep(self, source: Place, answer: object) -> dict[str, str]:
        """Write an answer that is a file of its own: `file`, its name relative to the folder's parent, or nothing."""
        if self.files is None or not isinstance(answer, AsFile):
            return {}
        suffix, content = answer.file()
        path = self.files / f"{_plain_name(source)}{suffix}"
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
        return {"file": f"{self.files.name}/{path.name}"}


@dataclass(frozen=True)
class Explanations:
    """Which answers are explained by a picture of what their score depends on, and where these pictures go.

    Args:
        folder: takes PNGs.
        inputs: those that are explained.
        masks: as of `leanmed.runtime.explain.explain`.
    """

    folder: Path
    inputs: frozenset[Place]
    masks: int = MASKS

    @classmethod
    def of(
        cls, predictor: Predictor, inputs: Sequence[Path], folder: Path, most: int, masks: int = MASKS
    ) -> Explanations:
        """Explain the first so many of all inputs, in whichever shard they are.

        Raises:
            ArtifactError: the artifact's answers have no score to follow.
            UnsupportedInput: a whole scan among the inputs.
        """
        check_explained(predictor, inputs)
        return cls(folder, frozenset(inputs[:most]), masks)

    def save(self, predictor: Predictor, source: Place, pixels: NDArray[Any]) -> dict[str, str]:
        """Draw why: `explanation`, the picture's name relative to the folder's parent, or nothing."""
        if source not in self.inputs:
            return {}
        drawn = explain(predictor, pixels, masks=self.masks).draw(pixels)
        return {"explanation": Pictures(self.folder).save(source, Image.fromarray(drawn), "-explained")}


def answers(
    predictor: Predictor,
    inputs: Iterable[Place],
    workers: int,
    pictures: Pictures | None = None,
    *,
    prompts: Prompts | None = None,
    explanations: Explanations | None = None,
    refuse: Callable[[Place], str | None] = lambda path: None,
    cells: bool = False,
) -> Iterator[dict[str, Any]]:
    """One plain answer per input, in order, `workers` at a time, with a bounded number in flight.

    `refuse` is that of `predict_file`, the rest as of `answer`.
    """

    def one(path: Place) -> dict[str, Any]:
        if reason := refuse(path):
            return {"input": str(path), "error": reason}
        return answer(predictor, path, pictures, prompts=prompts, explanations=explanations, cells=cells)

    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in inputs:
            waiting.append(pool.submit(one, path))
            if len(waiting) >= IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def answer(
    predictor: Predictor,
    place: Place,
    pictures: Pictures | None = None,
    *,
    prompts: Prompts | None = None,
    explanations: Explanations | None = None,
    cells: bool = False,
) -> dict[str, Any]:
    """The line for one input, an answer or the reason why there is none.

    Its keys are `input`; those of the answer's `as_json` (for a label `label`, `probability`, `probabilities`; for
    boxes `boxes`, `scores`, `faint`; for a mask `labels`, `pixels`, `mask`, `confidence`; for a scan `candidates`,
    `slices`; and `threshold` and `familiar` for all); `picture`, where one was drawn; `file`, where the answer was
    written as one; `explanation`, where it is explained; `prompts`, where there are some; `remark`, where the image
    looks unfamiliar; `artifact`, `version` and `seconds`, which do not include the explanation. Or else they are
    `input` and `error`, and `familiar` where the image was refused for that.

    Args:
        pictures: where to draw; None: nowhere.
        prompts: what is meant in the image; None: no prompts.
        explanations: where to explain it; None: nowhere.
        cells: add `cells`, what a table shows.
    """
    started = time.perf_counter()
    about: dict[str, Any] = {}
    try:
        with _at_hand(place, predictor) as path:
            found, drawn, frame = _found(predictor, path, place, pictures, prompts)
            if pictures and (pictures.images or is_scan(path)):
                about["picture"] = drawn
            about |= pictures.keep(place, found) if pictures else {}
            seconds = round(time.perf_counter() - started, 6)
            if explanations and frame:
                about |= explanations.save(predictor, place, frame.pixels)
    except UnfamiliarInput as error:
        return {"input": str(place), "familiar": error.familiar, "error": str(error)}
    except RunError:
        raise
    except LeanmedError as error:
        return {"input": str(place), "error": str(error)}
    line = line_of(str(place), found, **about, **about_answer(predictor, found, prompts), seconds=seconds)
    return line | ({"cells": found.cells()} if cells else {})


def _at_hand(place: Place, predictor: Predictor) -> AbstractContextManager[Path]:
    """A file on this machine, if need be a copy of no more bytes than the predictor may read."""
    if isinstance(place, Path):
        return nullcontext(place)
    limits = predictor.limits
    return at_hand(place, limits.max_scan_bytes if place.name.lower().endswith(SCANS) else limits.max_bytes)


def about_answer(predictor: Predictor, found: Answer | ScanAnswer, prompts: Prompts | None) -> dict[str, Any]:
    """What the line of an answer says besides it: `prompts`, where there are some, `artifact`, `version`, `remark`."""
    about: dict[str, Any] = {} if prompts is None else {"prompts": prompts.as_json()}
    about |= {"artifact": predictor.artifact.sha256, "version": __version__}
    said = predictor.remark(found.familiar)
    return about | ({"remark": said} if said else {})


def _found(
    predictor: Predictor, path: Path, place: Place, pictures: Pictures | None, prompts: Prompts | None
) -> tuple[Answer | ScanAnswer, str | None, Frame | None]:
    """The answer, the name of its picture if one was drawn, and the single image that it is to.

    `path` is read, and `place` is what the picture is named after.
    """
    if prompts is None and predictor.takes_scans and is_scan(path):
        scan = predictor.predict_scan(path)
        return scan, pictures.save(place, scan.picture()) if pictures else None, None
    frame = predictor.frame(path)
    found = predictor.decide(frame, prompts)
    drawn = None
    if pictures and pictures.images:
        drawn = pictures.save(place, Image.fromarray(found.draw(as_picture(frame.pixels))))
    return (found.placed(frame.points) if frame.points else found), drawn, frame


def _plain_name(path: Place) -> str:
    """A file name of plain letters, without ending, that no other input has: a namesake elsewhere has another hash."""
    stem = ENDING.sub("", path.name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:60]
    return f"{plain or 'image'}-{sha256_bytes(os.fsencode(str(path)))[:16]}"


@dataclass(frozen=True)
class _Lines:
    """The whole lines of a file of answers: how many, of how many bytes, what failed, and what looks unfamiliar."""

    count: int
    size: int
    failed: tuple[tuple[str, str], ...]
    unfamiliar: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, inputs: Sequence[Place], predictor: Predictor, *, unfinished: bool = False) -> _Lines:
        """Read lines that should answer the first inputs; half a line at the end is passed over.

        Of an unfinished file, all from the first damaged line on is passed over, if there is a whole one before it: a
        machine that loses its power may leave more than half a line.

        Raises:
            RunError: they answer others, or by another artifact, or are damaged.
        """
        count, size, failed, unfamiliar = 0, 0, [], []
        with path.open("rb") as file:
            for content in file:
                if not content.endswith(b"\n"):
                    break
                try:
                    line = _parse(content, path)
                except RunError:
                    if unfinished and count:
                        break
                    raise
                if count == len(inputs) or line["input"] != str(inputs[count]):
                    raise RunError(f"{path} answers other inputs; remove it, or choose another --out")
                if line.get("artifact", predictor.artifact.sha256) != predictor.artifact.sha256:
                    raise RunError(f"{path} was answered by another artifact; remove it, or choose another --out")
                if line.get("threshold", predictor.manifest.threshold) != predictor.manifest.threshold:
                    raise RunError(f"{path} was answered with another threshold; remove it, or choose another --out")
                answered, refused = "remark" in line, "error" in line and "familiar" in line
                if answered if predictor.refuse_unfamiliar else refused:
                    raise RunError(f"{path} {OTHERWISE}")
                if "error" in line:
                    failed.append((line["input"], line["error"]))
                if answered:
                    unfamiliar.append(line["input"])
                count, size = count + 1, size + len(content)
        return cls(count, size, tuple(failed), tuple(unfamiliar))


def _parse(content: bytes, path: Path) -> dict[str, str]:
    try:
        line: dict[str, str] = json.loads(content)
        line["input"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"expected {path} to hold answers, got {content[:50]!r}; remove it, or choose another --out"
        ) from error
    return line
