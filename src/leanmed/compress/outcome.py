"""What quantization tried and found: values for the report, the manifest and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from leanmed.errors import QualityError
from leanmed.figures.bootstrap import Figure
from leanmed.files import defined

Target = Literal["fp16", "int8", "int4"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the compressed network.

    Args:
        name: as in the model it was exported from.
        op: Conv, Gemm or MatMul.
        shape: of its weight.
        weight_bits: 4, 8, 16 or 32.
        activation_bits: of its input; 8 or 32.
        low, high: the range its input is rounded in; None if it is not rounded.
        error_db: its output's power over the power of the error that rounding its weights makes.
        why: it has more bits than asked for; empty if it has not.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weight_bits: int
    activation_bits: int
    low: float | None = None
    high: float | None = None
    error_db: float | None = None
    why: str = ""

    @property
    def step(self) -> float:
        """The step of its input."""
        return math.nan if self.low is None or self.high is None else (self.high - self.low) / 255


@dataclass(frozen=True)
class Comparison:
    """A compressed graph beside the float one on the same images.

    Args:
        images, groups: how many.
        main_score: the figure that counts; higher is better.
        before, after: the float graph's figures, and the compressed one's.
        change: compressed minus float, with paired intervals, and `agreement`.
    """

    images: int
    groups: int
    main_score: str
    before: Mapping[str, Figure]
    after: Mapping[str, Figure]
    change: Mapping[str, Figure]

    @property
    def drop(self) -> float:
        """How much the main score fell."""
        return -self.change[self.main_score].value

    @property
    def agreement(self) -> float:
        """The share of images to which both answer the same."""
        return self.change["agreement"].value


@dataclass(frozen=True)
class Attempt:
    """One compressed graph and what was measured of it.

    Args:
        techniques: what it was made with, in order.
        judged: on the gate's images.
        noise: power of its error on the calibration images over the variance of the network's answer.
        bytes: of the graph's file.
        milliseconds: medians: `float`, `compressed`, and the networks alone, `float network`, `compressed network`.
        passed: drop and agreement are within their limits.
    """

    techniques: tuple[str, ...]
    judged: Comparison
    noise: float
    bytes: int
    milliseconds: Mapping[str, float]
    passed: bool

    def speedup(self, part: str = "") -> float:
        """Float time over compressed time, of the whole graph or of the `network` alone."""
        tail = f" {part}" if part else ""
        return self.milliseconds[f"float{tail}"] / self.milliseconds[f"compressed{tail}"]


def chosen(attempts: Sequence[Attempt]) -> Attempt:
    """The least noisy of the attempts that passed, or of all if none did."""
    return min([a for a in attempts if a.passed] or attempts, key=lambda attempt: attempt.noise)


@dataclass(frozen=True)
class Outcome:
    """Everything a report of one quantization tells.

    Args:
        to: fp16, int8 or int4.
        max_drop, min_agreement: the gate.
        calibration_images: how many the ranges were taken from.
        before_bytes: the float graph's size.
        attempts: in order.
        layers: of the final attempt.
        left_float: what quantization does not handle -> why.
        warnings: what the user should know.
        tested: the final attempt on images that had no say in choosing it; None if there are none.
    """

    to: Target
    max_drop: float
    min_agreement: float
    calibration_images: int
    before_bytes: int
    attempts: tuple[Attempt, ...]
    layers: tuple[LayerRow, ...]
    left_float: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tested: Comparison | None = None

    @property
    def passed(self) -> bool:
        """An attempt passed the gate."""
        return self.final.passed

    @property
    def final(self) -> Attempt:
        """The attempt that was chosen."""
        return chosen(self.attempts)

    @property
    def measured(self) -> Comparison:
        """The final attempt on the best images there are: new ones, else those of the gate."""
        return self.tested or self.final.judged

    def lines(self) -> list[str]:
        """What to tell the user."""
        found = self.measured
        changes = [f"{n:18} {found.before[n].value:.4f} -> {after.value:.4f}" for n, after in found.after.items()]
        return [
            *self.warnings,
            *changes,
            f"{'agreement':18} {found.agreement:.4f}  n={found.images}",
            f"{self.before_bytes / 1e6:.2f} MB -> {self.final.bytes / 1e6:.2f} MB",
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with null for what is undefined; `final` counts the attempts from 0."""
        more = {"passed": self.passed, "final": self.attempts.index(self.final)}
        return {key: defined(value) for key, value in (asdict(self) | more).items()}


class GateError(QualityError):
    """No remedy brought the compressed graph within the limit; `outcome` tells what was tried."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        judged = outcome.final.judged
        tried = "; ".join(map(_told, outcome.attempts))
        super().__init__(
            f"expected {outcome.to} to cost at most {outcome.max_drop:g} of {judged.main_score} and to agree on "
            f"{100 * outcome.min_agreement:g} % of {judged.images} images, got {tried}; only the report was written; "
            "allow more with --max-drop, fine-tune with --finetune, or choose a higher precision"
        )


def _told(attempt: Attempt) -> str:
    judged = attempt.judged
    return f"{', '.join(attempt.techniques)}: {-judged.drop:+.4f}, {100 * judged.agreement:.1f} %"
