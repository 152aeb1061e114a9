"""Answers to many images, in Python: what failed is kept beside what was answered, and a table of pandas shows both."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from leanmed.cores import available_cores
from leanmed.errors import LeanmedError
from leanmed.frames import frame_of
from leanmed.reading.images import find_inputs
from leanmed.runtime.predictor import Predictor, load
from leanmed.runtime.sources import Source

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3  # inputs that failed, in a warning


@dataclass(frozen=True)
class Answers(Sequence[Any]):
    """The answers to a list of inputs, in its order.

    Args:
        inputs: what each is called: the path of a file, or its place in the list.
        found: of each input the answer of the artifact's kind of task; None: it failed.
        errors: of each input why it failed; None: it did not.
    """

    inputs: tuple[str, ...]
    found: tuple[Any | None, ...]
    errors: tuple[str | None, ...]

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Answers: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Answers(self.inputs[place], self.found[place], self.errors[place])
        return self.found[place]

    def __len__(self) -> int:
        return len(self.found)

    @property
    def failed(self) -> dict[str, str]:
        """Input -> why there is no answer to it."""
        return {name: error for name, error in zip(self.inputs, self.errors, strict=True) if error is not None}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each input: `input`, the columns that `leanmed predict --out answers.csv` writes, and `error`."""
        return [
            {"input": name, **({} if answer is None else answer.cells()), "error": error}
            for name, answer, error in zip(self.inputs, self.found, self.errors, strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """`rows` as a table of pandas.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of(self.rows())


def predict(artifact: str | Path | Predictor, inputs: str | Path | Iterable[Source], *, workers: int = 0) -> Answers:
    """Answer for many images; one that cannot be read is kept in `failed`, and a warning tells of it.

    Args:
        artifact: an artifact folder, or what `load` opened.
        inputs: a list of what `Predictor.predict` takes (paths, bytes, arrays, Pillow images); or a folder, or a
            pattern such as "photos/*.jpg".
        workers: images at a time, each on one thread; 0: one per core. Several images at a time are faster than one
            image on several threads.

    Raises:
        ArtifactError: the folder is no artifact, or damaged.
        InputError: the folder or the pattern names no image.
    """
    predictor = artifact if isinstance(artifact, Predictor) else load(artifact)
    listed: list[Any]
    if isinstance(inputs, str | Path):
        listed = list(find_inputs([str(inputs)], scans=predictor.takes_scans))
    else:
        listed = list(inputs)
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        pairs = list(pool.map(lambda source: _answered(predictor, source), listed))
    names = tuple(_name(source, place) for place, source in enumerate(listed))
    answers = Answers(names, tuple(answer for answer, _ in pairs), tuple(error for _, error in pairs))
    if failed := list(answers.failed.items()):
        told = "; ".join(f"{name}: {error}" for name, error in failed[:NAMED])
        warnings.warn(f"{len(failed)} of {len(answers)} inputs have no answer: {told}", stacklevel=2)
    return answers


def _answered(predictor: Predictor, source: Source) -> tuple[Any | None, str | None]:
    try:
        return predictor.predict(source), None
    except LeanmedError as error:
        return None, str(error)


def _name(source: object, place: int) -> str:
    return str(source) if isinstance(source, str | Path) else str(place)
