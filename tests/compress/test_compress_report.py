"""The report of a quantization, on figures worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leanmed.compress.outcome import Attempt, Comparison, LayerRow, Outcome, Verdict
from leanmed.compress.report import points, render, write_quantization_report
from leanmed.figures.bootstrap import Figure
from leanmed.papers.published import BESIDE, PAPER, paper_points
from leanmed.tasks.classification import judge


def compared(auc: float, agreement: float = 1.0, images: int = 20) -> Comparison:
    figures = [{name: Figure(value, 0.1, 0.9, images) for name in ("accuracy", "auc")} for value in (0.8, auc)]
    change = {name: Figure(auc - 0.8, -0.1, 0.1, images) for name in ("accuracy", "auc")}
    return Comparison(images, 7, "auc", *figures, change | {"agreement": Figure(agreement, math.nan, math.nan, images)})


def attempt(auc: float, *techniques: str, verdict: Verdict = "open", passed: bool = True) -> Attempt:
    names = ("float", "compressed", "float network", "compressed network")
    times = dict(zip(names, (8.0, 5.0, 6.0, 3.0), strict=True))
    return Attempt(techniques, compared(auc), 0.1, 250, times, verdict, passed)


def known(drop: float, least: float, most: float) -> Comparison:
    """A drop of the AUC and the ends of its interval, on 82 images of 60 groups."""
    found = compared(0.8 - drop)
    change = {**found.change, "auc": Figure(-drop, -most, -least, 82)}
    return replace(found, images=82, groups=60, change=change)


LAYERS = (
    LayerRow("stem<1>", "Conv", (8, 3, 3, 3), 32, 32, why="rounding it would add noise"),
    LayerRow("head", "Conv", (64, 16, 1, 1), 4, 8, -1.0, 4.1, 21.5),
)
OUTCOME = Outcome("int4", 0.005, 0.95, 30, 1000, (attempt(0.79, "gptq"), attempt(0.798, "gptq", "equalize")), LAYERS)


def test_images_that_had_no_say_give_the_figures_where_there_are_any() -> None:
    assert OUTCOME.measured is OUTCOME.final.judged
    tested = compared(0.75, images=50)
    assert replace(OUTCOME, tested=tested).measured is tested


def test_speed_is_float_time_over_compressed_time() -> None:
    assert (OUTCOME.final.speedup(), OUTCOME.final.speedup("network")) == (1.6, 2.0)


def test_a_rounded_inputs_step_is_its_range_over_255() -> None:
    assert LAYERS[1].step == pytest.approx(0.02)
    assert math.isnan(LAYERS[0].step)


def test_points_stand_beside_the_papers_own() -> None:
    (base, ours), theirs = points([OUTCOME], "auc"), paper_points("auc")
    assert (base.size, base.speed, base.change) == (1.0, 1.0, 0.0)
    assert (ours.name, ours.size, ours.speed, ours.change) == ("int4", 0.25, 2.0, pytest.approx(-0.01))
    assert [point.name for point in theirs] == list(PAPER)
    assert theirs[3].size == pytest.approx(17.75 / 9.13)


def test_the_page_tells_figures_attempts_and_layers_and_escapes_them() -> None:
    page = render("made", [replace(OUTCOME, tested=compared(0.75, images=50), warnings=("mind <this>",))], judge)
    assert 'INT4: <span class="open">passed, but a larger drop is not excluded' in page
    assert "50 images of 7 groups that are new to the artifact" in page
    assert "stem&lt;1&gt;" in page
    assert "mind &lt;this&gt;" in page
    assert "rounding it would add noise" in page
    assert page.count("Research use only. Not a medical device.") == 2
    assert page.count("data:image/svg+xml;base64,") == 2


def test_a_refused_attempt_says_why() -> None:
    lost = replace(attempt(0.7, "gptq", verdict="refuted", passed=False), judged=known(0.1, 0.08, 0.12))
    page = render("made", [replace(OUTCOME, attempts=(lost,))], judge)
    assert "refused" in page
    assert '<span class="fail">refuted: drop above 0.005</span>' in page
    assert "so nothing was written" in page
    assert "cannot be excluded" not in page


def test_an_attempt_whose_verdict_is_open_says_what_is_not_excluded() -> None:
    unsure = replace(attempt(0.798, "gptq"), judged=known(0.002, -0.006, 0.011))
    page = render("made", [replace(OUTCOME, attempts=(unsure,))], judge)
    assert '<span class="open">open: drop measured within 0.005, but up to 0.011 is not excluded</span>' in page
    assert (
        "On 82 images of 60 groups the drop of ROC-AUC is 0.002 (95 % interval -0.006 to 0.011): a drop of up to "
        "0.011, more than the 0.005 allowed, cannot be excluded; measure on more images."
    ) in page
    assert "−0.011 to 0.006" in page  # of the change


def test_an_attempt_that_is_shown_to_keep_within_the_limits_has_nothing_to_add() -> None:
    sure = replace(attempt(0.798, "gptq", verdict="shown"), judged=known(0.002, 0.001, 0.004))
    page = render("made", [replace(OUTCOME, attempts=(sure,))], judge)
    assert 'INT4: <span class="pass">passed</span>' in page
    assert '<span class="pass">shown: drop within 0.005</span>' in page
    assert "cannot be excluded" not in page


def test_a_leak_is_the_first_line() -> None:
    page = render("made", [OUTCOME], judge, leak="This result LEAKS.")
    assert page.index("This result LEAKS.") < page.index("Research use only")


def test_the_json_holds_everything_with_null_for_what_is_undefined(tmp_path: Path) -> None:
    write_quantization_report(tmp_path, "made", [OUTCOME], judge, beside=BESIDE["anemia"], command="leanmed quantize")
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    (outcome,) = found["outcomes"]
    assert (outcome["to"], outcome["passed"], outcome["final"]) == ("int4", True, 0)
    assert [tried["verdict"] for tried in outcome["attempts"]] == ["open", "open"]
    assert outcome["not_excluded"] == OUTCOME.not_excluded != ""
    assert outcome["attempts"][0]["judged"]["change"]["agreement"]["low"] is None
    assert outcome["layers"][0]["low"] is None
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
