"""What quantization tried and found: values for the report, the manifest and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from leanmed.errors import QualityError
from leanmed.metrics import Figure

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
    def scheme(self) -> str:
        """How weights and input are rounded."""
        if self.weight_bits > 8:
            return "float"
        return f"weights signed, per channel; input unsigned, per tensor, step {self.step:.3g}"

    @property
    def step(self) -> float:
        """The step of its input."""
        return math.nan if self.low is None or self.high is None else (self.high - self.low) / 255


@dataclass(frozen=True)
class Attempt:
    """One compressed graph and what was measured of it.

    Args:
        techniques: what it was made with, in order.
        figures, change: of the compressed graph, and compressed minus float with `agreement`, on the gate's images.
        drop: of the main score.
        difference: root mean square change of the answers on the calibration images.
        bytes: of the graph's file.
        milliseconds: medians: `float`, `compressed`, and the networks alone, `float network`, `compressed network`.
        passed: drop and agreement are within their limits.
    """

    techniques: tuple[str, ...]
    figures: Mapping[str, Figure]
    change: Mapping[str, Figure]
    drop: float
    difference: float
    bytes: int
    milliseconds: Mapping[str, float]
    passed: bool

    def speedup(self, part: str = "") -> float:
        """Float time over compressed time, of the whole graph or of the `network` alone."""
        tail = f" {part}" if part else ""
        return self.milliseconds[f"float{tail}"] / self.milliseconds[f"compressed{tail}"]


@dataclass(frozen=True)
class Outcome:
    """Everything a report of one quantization tells.

    Args:
        to: fp16, int8 or int4.
        main_score, max_drop, min_agreement: the gate.
        images, groups: how many it was measured on.
        calibration_images: how many the ranges were taken from.
        before: the float graph's figures.
        before_bytes: its size.
        attempts: in order; the last is the one that passed, if any did.
        layers: of the last attempt.
        left_float: what quantization does not handle -> why.
        warnings: what the user should know.
    """

    to: Target
    main_score: str
    max_drop: float
    min_agreement: float
    images: int
    groups: int
    calibration_images: int
    before: Mapping[str, Figure]
    before_bytes: int
    attempts: tuple[Attempt, ...]
    layers: tuple[LayerRow, ...]
    left_float: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """The last attempt passed the gate."""
        return self.attempts[-1].passed

    @property
    def final(self) -> Attempt:
        """The attempt that was kept: the last if it passed, else the one that lost least."""
        return self.attempts[-1] if self.passed else min(self.attempts, key=lambda attempt: attempt.drop)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with null for what is undefined."""
        plain = asdict(self) | {"passed": self.passed}
        found = _defined(plain)
        assert isinstance(found, dict)  # noqa: S101 (asdict gives one)
        return found


class GateError(QualityError):
    """No remedy brought the compressed graph within the limit; `outcome` tells what was tried."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        tried = "; ".join(f"{', '.join(a.techniques) or 'nearest'}: {-a.drop:+.4f}" for a in outcome.attempts)
        super().__init__(
            f"expected {outcome.to} to cost at most {outcome.max_drop:g} of {outcome.main_score} on {outcome.images} "
            f"images and to agree on {100 * outcome.min_agreement:g} %, got {tried}; only the "
            "report was written; allow more with --max-drop, fine-tune with --finetune, or choose a higher precision"
        )


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
