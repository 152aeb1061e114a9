"""What quantization tried and found: values for the report, the manifest and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from leanmed.errors import QualityError
from leanmed.figures.bootstrap import SMALL_GROUPS, Figure
from leanmed.files import defined

Verdict = Literal["shown", "open", "refuted"]
_ROUNDING = 1e-9  # of a score: 0.9 - 0.895 is a little more than 0.005 in floating point


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
    def drop_interval(self) -> tuple[float, float]:
        """The 95 % interval of the drop, its lower end first; NaN where it is undefined."""
        change = self.change[self.main_score]
        return -change.high, -change.low

    @property
    def agreement(self) -> float:
        """The share of images to which both answer the same."""
        return self.change["agreement"].value

    @property
    def has_interval(self) -> bool:
        """The drop of the main score has a 95 % interval."""
        return not any(map(math.isnan, self.drop_interval))

    @property
    def why_no_interval(self) -> str:
        """Why the drop has no interval, as a clause."""
        if self.groups < SMALL_GROUPS:
            return f"the images are of {self.groups} groups and an interval needs {SMALL_GROUPS}"
        return f"{self.main_score} is undefined in more than a tenth of the resamples"


@dataclass(frozen=True)
class Limits:
    """What a compressed graph may lose, and what a comparison says of that.

    A drop measured on some dozens of images is uncertain, so that three verdicts are possible: it is `shown` to be
    within the limit, `refuted`, or `open`.

    Args:
        max_drop: the most the main score may fall, as a fraction: .005 is .005 AUC.
        min_agreement: the least share of images to which both graphs must answer the same, 0 to 1.
    """

    max_drop: float
    min_agreement: float

    def verdict(self, found: Comparison) -> Verdict:
        """Whether the images show that the graph loses no more than it may.

        `shown`: the drop and its whole 95 % interval are within `max_drop`, and enough answers agree. `refuted`: the
        whole interval is above `max_drop`, or too few answers agree. `open`: neither.
        """
        least, most = found.drop_interval
        if not self.agrees(found) or not (math.isnan(least) or self._within(least)):
            return "refuted"
        # A percentile interval need not hold the measured value, so that both are asked for. NaN is within no limit.
        return "shown" if self._within(most) and self._within(found.drop) else "open"

    def passes(self, found: Comparison) -> bool:
        """Whether the graph may be used: within the limits is shown, or is open and was measured.

        If only what is shown could pass, no set of some dozens of images would ever pass anything.
        """
        verdict = self.verdict(found)
        return verdict == "shown" or (verdict == "open" and self._within(found.drop))

    def agrees(self, found: Comparison) -> bool:
        """Enough answers are those of the float graph."""
        return found.agreement >= self.min_agreement

    def in_words(self, found: Comparison) -> str:
        """The verdict as a few words, for a cell of a table."""
        limit = f"{self.max_drop:g}"
        verdict, most = self.verdict(found), found.drop_interval[1]
        if verdict == "refuted":
            agreement = f"agreement below {100 * self.min_agreement:g} %"
            return f"refuted: {f'drop above {limit}' if self.agrees(found) else agreement}"
        if verdict == "shown":
            return f"shown: drop within {limit}"
        if not self._within(found.drop):
            return f"open: drop measured above {limit}, but one within it is not excluded"
        if not found.has_interval:
            return f"open: drop measured within {limit}, but without an interval a larger one is not excluded"
        return f"open: drop measured within {limit}, but up to {self._number(most)} is not excluded"

    def not_excluded(self, found: Comparison, score: str = "", which: str = "") -> str:
        """One sentence on what the images could not exclude of the drop; empty if that is nothing.

        Args:
            found: the comparison.
            score: the main score's name for people; empty: its short name.
            which: images these are, e.g. `new to the artifact`; empty: those of the gate.
        """
        least, most = found.drop_interval
        within, start = self._within(found.drop), self._measured(found, score, which)
        if found.has_interval and (self._within(most) if within else not self._within(least)):
            return ""
        limit, more = f"{self.max_drop:g}", "measure on more images."
        if not within:
            return f"{start}, more than the {limit} allowed, but a drop within that cannot be excluded either; {more}"
        if not found.has_interval:
            return f"{start}: a drop of more than the {limit} allowed cannot be excluded; {more}"
        return (
            f"{start}: a drop of up to {self._number(most)}, more than the {limit} allowed, cannot be excluded; {more}"
        )

    def concerns(self, found: Comparison, score: str = "", which: str = "") -> list[str]:
        """A sentence for each limit that was exceeded, or that the images could not exclude to be; see `not_excluded`.

        Args:
            found, score, which: as of `not_excluded`.
        """
        said = []
        if not self._within(found.drop):
            said.append(f"{self._measured(found, score, which)}, more than the {self.max_drop:g} that the gate allows.")
        elif sentence := self.not_excluded(found, score, which):
            said.append(sentence)
        if not self.agrees(found):
            said.append(
                f"{_on(found, which)} {100 * found.agreement:.1f} % of the answers are those of the float model, fewer "
                f"than the {100 * self.min_agreement:g} % that the gate asks for."
            )
        return said

    def _measured(self, found: Comparison, score: str, which: str) -> str:
        """`On 82 images of 60 groups the drop of AUC is 0.002 (95 % interval -0.006 to 0.011)`."""
        least, most = (self._number(end) for end in found.drop_interval)
        spread = f"95 % interval {least} to {most}" if found.has_interval else f"no interval: {found.why_no_interval}"
        drop = f"the drop of {score or found.main_score} is {self._number(found.drop)}"
        return f"{_on(found, which)} {drop} ({spread})"

    def _within(self, drop: float) -> bool:
        return drop <= self.max_drop + _ROUNDING

    def _number(self, drop: float) -> str:
        """With three decimals, or as many as it takes for a drop above the limit not to look like the limit."""
        above = not self._within(drop)
        digits = next((d for d in range(3, 9) if (round(drop, d) > self.max_drop) == above), 9)
        return f"{round(drop, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def _on(found: Comparison, which: str) -> str:
    return f"On {found.images} images of {found.groups} groups{f' {which}' if which else ''}"


@dataclass(frozen=True)
class Attempt:
    """One compressed graph and what was measured of it.

    Args:
        techniques: what it was made with, in order.
        judged: on the gate's images.
        noise: power of its error on the calibration images over the variance of the network's answer.
        bytes: of the graph's file.
        milliseconds: medians: `float`, `compressed`, and the networks alone, `float network`, `compressed network`.
        verdict: whether the gate's images show that drop and agreement are within their limits.
        passed: it may be used; see `Limits.passes`.
    """

    techniques: tuple[str, ...]
    judged: Comparison
    noise: float
    bytes: int
    milliseconds: Mapping[str, float]
    verdict: Verdict
    passed: bool

    def speedup(self, part: str = "") -> float:
        """Float time over compressed time, of the whole graph or of the `network` alone."""
        tail = f" {part}" if part else ""
        return self.milliseconds[f"float{tail}"] / self.milliseconds[f"compressed{tail}"]


def chosen(attempts: Sequence[Attempt]) -> Attempt:
    """The least noisy of the attempts whose limits are shown to be kept, else of those that passed, else of all."""

    def order(attempt: Attempt) -> tuple[bool, bool, float]:
        return not attempt.passed, attempt.passed and attempt.verdict != "shown", attempt.noise

    return min(attempts, key=order)


@dataclass(frozen=True)
class Outcome:
    """Everything a report of one quantization tells.

    Args:
        to: the name of the precision.
        max_drop, min_agreement: the gate.
        calibration_images: how many the ranges were taken from.
        before_bytes: the float graph's size.
        attempts: in order.
        layers: of the final attempt.
        left_float: what quantization does not handle -> why.
        warnings: what the user should know.
        tested: the final attempt on images that had no say in choosing it; None if there are none.
        unfamiliar: how many images look unfamiliar to the float model, to the final one, and of how many; None: it does
            not tell.
    """

    to: str
    max_drop: float
    min_agreement: float
    calibration_images: int
    before_bytes: int
    attempts: tuple[Attempt, ...]
    layers: tuple[LayerRow, ...]
    left_float: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tested: Comparison | None = None
    unfamiliar: tuple[int, int, int] | None = None

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

    @property
    def limits(self) -> Limits:
        """The gate's limits."""
        return Limits(self.max_drop, self.min_agreement)

    @property
    def not_excluded(self) -> str:
        """What the gate's images could not exclude of the final attempt's drop; empty unless its verdict is open."""
        return self.limits.not_excluded(self.final.judged) if self.final.verdict == "open" else ""

    def lines(self) -> list[str]:
        """What to tell the user."""
        found = self.measured
        changes = [f"{n:18} {found.before[n].value:.4f} -> {after.value:.4f}" for n, after in found.after.items()]
        return [
            *self.warnings,
            *([self.not_excluded] if self.not_excluded else []),
            *changes,
            f"{'agreement':18} {found.agreement:.4f}  n={found.images}",
            f"{self.before_bytes / 1e6:.2f} MB -> {self.final.bytes / 1e6:.2f} MB",
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with null for what is undefined; `final` counts the attempts from 0."""
        more = {"passed": self.passed, "final": self.attempts.index(self.final), "not_excluded": self.not_excluded}
        return {key: defined(value) for key, value in (asdict(self) | more).items()}


class GateError(QualityError):
    """No remedy brought the compressed graph within the limit; `outcome` tells what was tried."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        judged = outcome.final.judged
        tried = "; ".join(map(_told, outcome.attempts))
        more_images = "measure on more images, " if outcome.final.verdict == "open" else ""
        super().__init__(
            f"expected {outcome.to} to cost at most {outcome.max_drop:g} of {judged.main_score} and to agree on "
            f"{100 * outcome.min_agreement:g} % of {judged.images} images, got {tried}; only the report was written; "
            f"{more_images}{_advice(outcome)} or choose a higher precision"
        )


def _advice(outcome: Outcome) -> str:
    """What to do about the limits that were missed, as far as it was not done."""
    judged, tuned = outcome.final.judged, any("finetune" in attempt.techniques for attempt in outcome.attempts)
    ways = ["allow more with --max-drop"] * (judged.drop > outcome.max_drop - _ROUNDING)
    ways += ["ask for less with --min-agreement"] * (judged.agreement < outcome.min_agreement)
    ways += ["fine-tune with --finetune (and without --attempts)"] * (not tuned and outcome.calibration_images > 0)
    return "".join(f"{way}, " for way in ways)


def _told(attempt: Attempt) -> str:
    judged = attempt.judged
    change = judged.change[judged.main_score]
    spread = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
    spread = spread if judged.has_interval else f"no interval: {judged.why_no_interval}"
    agreement = f"{100 * judged.agreement:.1f} %"
    return f"{', '.join(attempt.techniques)}: {change.value:+.4f} ({spread}), {agreement}"
