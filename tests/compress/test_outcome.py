"""What a comparison says of the gate's limits: worked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from made_artifacts import made_artifact

from leanmed.compress.command import _beyond, card, describe
from leanmed.compress.outcome import Attempt, Comparison, GateError, Limits, Outcome, Verdict, chosen
from leanmed.figures.bootstrap import Figure

LIMITS = Limits(max_drop=0.005, min_agreement=0.95)
NAN = math.nan
OPEN, SHOWN, LOST = (0.002, -0.006, 0.011), (0.002, 0.001, 0.004), (0.05, 0.03, 0.07)
MORE = "measure on more images."


def compared(
    drop: float, least: float = NAN, most: float = NAN, *, agreement: float = 1.0, images: int = 82, groups: int = 60
) -> Comparison:
    """A drop of the AUC from .9 with the ends of its interval."""
    before, after, same = (Figure(value, NAN, NAN, images) for value in (0.9, 0.9 - drop, agreement))
    change = {"auc": Figure(-drop, -most, -least, images), "agreement": same}
    return Comparison(images, groups, "auc", {"auc": before}, {"auc": after}, change)


def attempt(found: Comparison, noise: float = 0.1) -> Attempt:
    return Attempt(("gptq",), found, noise, 250, {}, LIMITS.verdict(found), LIMITS.passes(found))


def outcome(*attempts: Attempt, tested: Comparison | None = None) -> Outcome:
    return Outcome("int8", LIMITS.max_drop, LIMITS.min_agreement, 30, 1000, attempts, (), tested=tested)


@pytest.mark.parametrize(
    ("found", "verdict", "passes"),
    [
        (compared(0.002, 0.001, 0.004), "shown", True),
        (compared(-0.02, -0.03, -0.01), "shown", True),
        (compared(0.9 - 0.895, 0.9 - 0.895, 0.9 - 0.895), "shown", True),
        (compared(0.002, -0.006, 0.011), "open", True),
        (compared(0.008, -0.006, 0.022), "open", False),
        (compared(0.002, groups=7), "open", True),
        (compared(0.008, groups=7), "open", False),
        (compared(0.05, 0.03, 0.07), "refuted", False),
        (compared(0.002, 0.001, 0.004, agreement=0.94), "refuted", False),
        (compared(0.002, agreement=0.94, groups=7), "refuted", False),
        (compared(0.004, 0.006, 0.009), "refuted", False),
        (compared(0.006, 0.001, 0.004), "open", False),
    ],
    ids=[
        "the whole interval is within",
        "a gain",
        "a drop as large as allowed, in floating point",
        "the interval ends beyond",
        "the drop is beyond and the interval starts within",
        "no interval",
        "no interval, and the drop is beyond",
        "the whole interval is beyond",
        "too few agree",
        "too few agree, and no interval",
        "the whole interval is beyond, the drop is not in it",
        "the whole interval is within, the drop is not in it",
    ],
)
def test_the_interval_decides_and_the_drop_where_the_interval_cannot(
    found: Comparison, verdict: Verdict, passes: bool
) -> None:
    assert (LIMITS.verdict(found), LIMITS.passes(found)) == (verdict, passes)


def test_what_is_refuted_never_passes_and_its_drop_is_beyond_the_limit() -> None:
    """Of all drops and intervals that hold them."""
    steps = [k / 1000 for k in range(-4, 15, 2)]
    cases = [compared(d, low, high) for low in steps for d in steps for high in steps if low <= d <= high]
    refuted = [found for found in cases if LIMITS.verdict(found) == "refuted"]
    assert refuted
    assert not any(map(LIMITS.passes, refuted))
    assert all(found.drop > LIMITS.max_drop for found in refuted)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            compared(*OPEN),
            "On 82 images of 60 groups the drop of AUC is 0.002 (95 % interval -0.006 to 0.011): a drop of up to "
            f"0.011, more than the 0.005 allowed, cannot be excluded; {MORE}",
        ),
        (
            compared(-0.0002, -0.004, 0.00504),
            "On 82 images of 60 groups the drop of AUC is 0.000 (95 % interval -0.004 to 0.00504): a drop of up to "
            f"0.00504, more than the 0.005 allowed, cannot be excluded; {MORE}",
        ),
        (
            compared(0.008, -0.006, 0.022),
            "On 82 images of 60 groups the drop of AUC is 0.008 (95 % interval -0.006 to 0.022), more than the 0.005 "
            f"allowed, but a drop within that cannot be excluded either; {MORE}",
        ),
        (
            compared(0.002, images=20, groups=7),
            "On 20 images of 7 groups the drop of AUC is 0.002 (no interval: the images are of 7 groups and an "
            f"interval needs 10): a drop of more than the 0.005 allowed cannot be excluded; {MORE}",
        ),
        (
            compared(0.002),
            "On 82 images of 60 groups the drop of AUC is 0.002 (no interval: auc is undefined in more than a tenth "
            f"of the resamples): a drop of more than the 0.005 allowed cannot be excluded; {MORE}",
        ),
        (compared(*SHOWN), ""),
        (compared(*LOST), ""),
    ],
)
def test_one_sentence_says_what_is_not_excluded(found: Comparison, sentence: str) -> None:
    assert LIMITS.not_excluded(found, "AUC") == sentence


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (compared(*SHOWN), "shown: drop within 0.005"),
        (compared(*OPEN), "open: drop measured within 0.005, but up to 0.011 is not excluded"),
        (compared(0.008, -0.006, 0.022), "open: drop measured above 0.005, but one within it is not excluded"),
        (compared(0.0), "open: drop measured within 0.005, but without an interval a larger one is not excluded"),
        (compared(*LOST), "refuted: drop above 0.005"),
        (compared(*SHOWN, agreement=0.9), "refuted: agreement below 95 %"),
    ],
)
def test_the_verdict_in_words(found: Comparison, words: str) -> None:
    assert LIMITS.in_words(found) == words


def test_what_is_shown_is_chosen_before_what_is_open_and_that_before_what_failed() -> None:
    shown, louder = attempt(compared(*SHOWN), 0.2), attempt(compared(*SHOWN), 0.3)
    unsure, lost = attempt(compared(*OPEN), 0.1), attempt(compared(*LOST), 0.05)
    failed = attempt(compared(0.008, -0.006, 0.022), 0.07)  # open too, but of no use
    assert chosen([lost, unsure, louder, shown, failed]) is shown
    assert chosen([lost, unsure, failed]) is unsure
    assert chosen([failed, lost]) is lost


def test_lines_and_json_say_what_is_not_excluded() -> None:
    found = outcome(attempt(compared(*OPEN)))
    plain = json.loads(json.dumps(found.as_json()))
    assert "a drop of up to 0.011" in found.not_excluded
    assert found.not_excluded in found.lines()
    assert plain["not_excluded"] == found.not_excluded
    assert plain["attempts"][0]["verdict"] == "open"
    quiet = outcome(attempt(compared(*SHOWN)))
    assert quiet.as_json()["not_excluded"] == ""
    assert not any("cannot be excluded" in line for line in quiet.lines())


def test_nothing_is_said_to_be_open_where_too_few_answers_agree() -> None:
    assert outcome(attempt(compared(*OPEN, agreement=0.9))).not_excluded == ""


def test_the_manifest_and_the_card_say_what_is_not_excluded() -> None:
    artifact, found = made_artifact(), outcome(attempt(compared(*OPEN)))
    manifest = describe(artifact, found, [])
    assert manifest.quantization["verdict"] == "open"
    assert manifest.quantization["not_excluded"] == found.not_excluded
    assert found.not_excluded in card(artifact, found)
    assert "cannot be excluded" not in card(artifact, outcome(attempt(compared(*SHOWN))))


def test_the_card_tells_of_the_new_images_where_there_are_any() -> None:
    """Its figures are theirs."""
    judged = attempt(compared(*OPEN))
    settled = card(made_artifact(), outcome(judged, tested=compared(*SHOWN, images=800, groups=600)))
    assert "cannot be excluded" not in settled
    lost = card(made_artifact(), outcome(judged, tested=compared(*LOST, images=800, groups=600)))
    assert "On 800 images of 600 groups new to the artifact the drop of auc is 0.050" in lost


@pytest.mark.parametrize(
    ("tested", "said"),
    [
        (compared(*SHOWN), []),
        (
            compared(*OPEN),
            [
                "On 82 images of 60 groups new to the artifact the drop of auc is 0.002 (95 % interval -0.006 to "
                f"0.011): a drop of up to 0.011, more than the 0.005 allowed, cannot be excluded; {MORE}"
            ],
        ),
        (
            compared(0.008, -0.006, 0.022),
            [
                "On 82 images of 60 groups new to the artifact the drop of auc is 0.008 (95 % interval -0.006 to "
                "0.022), more than the 0.005 that the gate allows."
            ],
        ),
        (
            compared(*SHOWN, agreement=0.93),
            [
                "On 82 images of 60 groups new to the artifact 93.0 % of the answers are those of the float model, "
                "fewer than the 95 % that the gate asks for."
            ],
        ),
    ],
    ids=["within", "the interval ends beyond", "the drop is beyond", "too few agree"],
)
def test_new_images_are_held_against_the_same_limits(tested: Comparison, said: list[str]) -> None:
    assert _beyond(tested, outcome(attempt(compared(*SHOWN)))) == said


def raised(found: Comparison) -> None:
    raise GateError(outcome(attempt(found)))


def test_a_refusal_tells_the_interval_and_asks_for_more_images_where_they_could_help(
    refused: Callable[..., Any],
) -> None:
    with refused(GateError, "gptq: -0.0080 (95 % interval -0.0220 to +0.0060), 100.0 %", "measure on more images"):
        raised(compared(0.008, -0.006, 0.022))
    with refused(GateError, "gptq: -0.0080 (no interval: the images are of 7 groups and an interval needs 10)"):
        raised(compared(0.008, groups=7))
    with pytest.raises(GateError) as caught:
        raised(compared(*LOST))
    assert "-0.0500 (95 % interval -0.0700 to -0.0300)" in str(caught.value)
    assert "more images" not in str(caught.value)
