"""The precisions that `leanmed quantize --to` makes: a name in `PRECISIONS` each, and nothing else to change.

A precision is an object that makes attempts and measures them on a bench. Two ways are here: `Stored` keeps the weights
in fewer bits and computes in float32; `Integers` computes in integers too. The command line checks names by the one
dict at the end of this module, and the report, the manifest, the search under a budget and the tests go through it.
What it takes to add one is shown in docs/adding-a-technique.md, which the tests run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from leanmed.compress.bench import Bench, Options, Store, Trial
from leanmed.compress.builder import Builder, Built, Technique
from leanmed.compress.equalize import find_pairs
from leanmed.compress.fp16 import store_half
from leanmed.compress.int8_storage import float_constants, store_int8
from leanmed.compress.network import Network
from leanmed.compress.outcome import Attempt, LayerRow
from leanmed.console import Progress
from leanmed.errors import DataError

QUIET = 0.01  # of the answer's variance: noise below which passing the gate is no luck
FLOAT_BITS = 32


class Precision(Protocol):
    """A way to make an artifact smaller."""

    @property
    def title(self) -> str:
        """What it does, for a list of all of them."""

    @property
    def calibrates(self) -> bool:
        """Whether it looks at training images to make integers of activations; only then can it be fine-tuned."""

    def attempts(self, bench: Bench, tell: Callable[[str], None], progress: Progress) -> list[Trial]:
        """Make and measure at least one attempt; `tell` takes lines, `progress` stage, done and total."""


@dataclass(frozen=True)
class Stored:
    """Weights of fewer bits in the file, and arithmetic in float32: one attempt, and no image is needed.

    Args:
        title: what it does.
        name: of the technique, in reports.
        bits: of a stored weight.
        store: makes the smaller graph of a float one; it is asked for every graph of an artifact.
    """

    title: str
    name: str
    bits: int
    store: Store
    calibrates: bool = False

    def attempts(self, bench: Bench, tell: Callable[[str], None], progress: Progress) -> list[Trial]:
        """The one."""
        model, kept = self.store(bench.network.model)
        whole = float_constants(model)
        rows = []
        for layer in bench.network.layers:
            bits = FLOAT_BITS if layer.weight in whole else self.bits
            rows.append(LayerRow(layer.name, layer.op, layer.shape, bits, FLOAT_BITS, why=kept.get(layer.weight, "")))
        return [bench.measure([self.name], Built(model, tuple(rows)), progress, beside=self.store)]


@dataclass(frozen=True)
class Integers:
    """Integer weights and activations: attempts until one passes and is quiet, or the ladder of techniques ends.

    Args:
        title: what it does.
        bits: of the weights, 8 or 4; activations have 8.
    """

    title: str
    bits: int
    calibrates: bool = True

    def attempts(self, bench: Bench, tell: Callable[[str], None], progress: Progress) -> list[Trial]:
        """One technique more after another, those that add noise dropped again."""
        options = bench.options
        builder = Builder(bench.network, bench.samples, self.bits, unpack=options.unpack, epochs=options.epochs)
        kept, least = options.start, np.inf
        tried: list[Trial] = []
        planned = trials(options, bench.network)[: options.attempts]
        for number, techniques in enumerate(planned, start=1):
            trial, watch = (*kept, *techniques), _of_attempt(number, progress)
            tell(f"attempt {number} of at most {len(planned)}: {', '.join(trial) or 'plain rounding'}")
            built = builder.build(trial, watch)
            tried.append(bench.measure(trial, built, watch, beside=store_int8))
            tell(_told(tried[-1].attempt))
            if bench.beside and not tried[-1].attempt.passed:
                watch = _of_attempt(number, progress, " with 16 bits beside")
                tried.append(bench.measure((*trial, "fp16-beside"), built, watch, beside=store_half))
                tell(_told(tried[-1].attempt))
            attempt = tried[-1].attempt
            if attempt.passed and attempt.noise <= QUIET:
                break
            if attempt.noise < least:
                kept, least = trial, attempt.noise
        return tried


def _of_attempt(number: int, progress: Progress, more: str = "") -> Progress:
    """Progress whose stages are told apart from those of other attempts."""
    return lambda stage, done, total: progress(f"attempt {number}{more}: {stage}", done, total)


def _told(attempt: Attempt) -> str:
    change = f"{attempt.judged.main_score} {-attempt.judged.drop:+.4f}"
    found = "passes" if attempt.passed else "does not pass"
    return f"{', '.join(attempt.techniques)}: {change}, {attempt.bytes:,} bytes, {found}"


def trials(options: Options, network: Network) -> list[tuple[Technique, ...]]:
    """What each attempt adds to those kept: nothing first, then one technique at a time that can change something."""
    idle = {"finetune": options.epochs == 0, "equalize": not find_pairs(network)}
    usable = [name for name in options.ladder if name not in options.start and not idle.get(name)]
    return [(), *((name,) for name in usable)]


PRECISIONS: dict[str, Precision] = {
    "fp16": Stored("weights of 16 bits, arithmetic in float32", "fp16", 16, store_half),
    "w8": Stored("weights of 8 bits, arithmetic in float32", "w8", 8, store_int8),
    "int8": Integers("weights and activations of 8 bits", 8),
    "int4": Integers("most weights of 4 bits, activations of 8", 4),
}
"""Every precision that an artifact can be given, by its name."""


def precision_of(name: str) -> Precision:
    """The precision of this name.

    Raises:
        DataError: there is none.
    """
    if name not in PRECISIONS:
        raise DataError(f"expected --to as one of {', '.join(PRECISIONS)}, got {name!r}; name one of these")
    return PRECISIONS[name]
