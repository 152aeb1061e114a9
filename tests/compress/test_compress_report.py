"""The report of a quantization, on figures worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leanmed.compress.outcome import Attempt, Comparison, LayerRow, Outcome, chosen
from leanmed.compress.report import points, render, write_quantization_report
from leanmed.figures.bootstrap import Figure
from leanmed.papers.published import BESIDE, PAPER, paper_points
from leanmed.tasks.classification import judge


def compared(auc: float, agreement: float = 1.0, images: int = 20) -> Comparison:
    figures = [{name: Figure(value, 0.1, 0.9, images) for name in ("accuracy", "auc")} for value in (0.8, auc)]
    change = {name: Figure(auc - 0.8, -0.1, 0.1, images) for name in ("accuracy", "auc")}
    return Comparison(images, 7, "auc", *figures, change | {"agreement": Figure(agreement, math.nan, math.nan, images)})


def attempt(auc: float, *techniques: str, noise: float = 0.1, passed: bool = True) -> Attempt:
    names = ("float", "compressed", "float network", "compressed network")
    return Attempt(techniques, compared(auc), noise, 250, dict(zip(names, (8.0, 5.0, 6.0, 3.0), strict=True)), passed)


LAYERS = (
    LayerRow("stem<1>", "Conv", (8, 3, 3, 3), 32, 32, why="rounding it would add noise"),
    LayerRow("head", "Conv", (64, 16, 1, 1), 4, 8, -1.0, 4.1, 21.5),
)
OUTCOME = Outcome("int4", 0.005, 0.95, 30, 1000, (attempt(0.79, "gptq"), attempt(0.798, "gptq", "equalize")), LAYERS)


def test_the_least_noisy_attempt_that_passed_is_chosen_or_the_least_noisy_of_all() -> None:
    loud, quiet = attempt(0.9, noise=0.2), attempt(0.8, noise=0.1)
    failed = attempt(0.75, noise=0.05, passed=False)
    assert chosen([loud, quiet, failed]) is quiet
    assert chosen([failed, replace(loud, passed=False)]) is failed


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
    assert 'INT4: <span class="pass">passed' in page
    assert "50 images of 7 groups that are new to the artifact" in page
    assert "stem&lt;1&gt;" in page
    assert "mind &lt;this&gt;" in page
    assert "rounding it would add noise" in page
    assert page.count("Research use only. Not a medical device.") == 2
    assert page.count("data:image/svg+xml;base64,") == 2


def test_a_refused_attempt_says_why() -> None:
    failed = replace(OUTCOME, attempts=(attempt(0.7, "gptq", passed=False),))
    page = render("made", [failed], judge)
    assert "refused" in page
    assert "drop above 0.005" in page
    assert "so nothing was written" in page


def test_a_leak_is_the_first_line() -> None:
    page = render("made", [OUTCOME], judge, leak="This result LEAKS.")
    assert page.index("This result LEAKS.") < page.index("Research use only")


def test_the_json_holds_everything_with_null_for_what_is_undefined(tmp_path: Path) -> None:
    write_quantization_report(tmp_path, "made", [OUTCOME], judge, beside=BESIDE, command="leanmed quantize")
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    (outcome,) = found["outcomes"]
    assert (outcome["to"], outcome["passed"], outcome["final"]) == ("int4", True, 0)
    assert outcome["attempts"][0]["judged"]["change"]["agreement"]["low"] is None
    assert outcome["layers"][0]["low"] is None
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
