"""What docs/other-hospitals.md tells a reader to type works."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from leanmed.cli import main
from leanmed.runtime.artifact import read_artifact

PAGE = (Path(__file__).parents[1] / "docs" / "other-hospitals.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run_one_after_the_other(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leanmed-demo").mkdir()
    Path("leanmed-demo/artifact").symlink_to(tiny_artifact)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    (block,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, line
    report = json.loads(Path("report/report.json").read_text())
    assert [one["name"] for one in report["data_sets"]] == ["new-patients", "north"]
    assert read_artifact(Path("artifact-north")).manifest.recalibration["images"] == 80
    assert "recalibrat" in Path("artifact-north/CARD.md").read_text().lower()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([\w./-]+)\)", PAGE))))
def test_a_link_of_the_page_leads_somewhere(link: str) -> None:
    assert (Path(__file__).parents[1] / "docs" / link).is_file()


def test_figures_of_the_page_are_those_of_the_file() -> None:
    """The table's changes, and the sentences' numbers on Bono and on the arm without a prior."""
    found = json.loads((Path(__file__).parents[1] / "docs" / "results" / "recalibration.json").read_text())
    for name, network in found["networks"].items():
        for n in (20, 50):
            change = network[f"{n} new groups"]["all regions"]["change"]["by the rule"]["log loss"]
            value, low, high = (f"{change[key]:.3f}".replace("-", "−") for key in ("value", "low", "high"))
            assert re.search(rf"\| {name} \| {n} \| [\d.]+ \| {value} \({low} to {high}\) \|", PAGE)
        few = network["20 new groups"]
        for row in (
            few["Bono"]["change"]["by the rule"],
            few["all regions"]["change"]["intercept alone, without a prior"],
        ):
            value, low, high = (f"{row['log loss'][key]:.3f}".replace("0.", ".", 1) for key in ("value", "low", "high"))
            assert f"{value} ({low} to {high})".replace("-", "−") in PAGE
