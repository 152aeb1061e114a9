"""What commands share on the screen."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import typer

from leanmed.console import STOPPED, now_and_then, progress_bar, stages, stoppable, tracked


def interrupted() -> None:
    raise KeyboardInterrupt


def as_lightning_does() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("stop", [interrupted, as_lightning_does])
@pytest.mark.parametrize("given", [[], ["--resume"], ["--overwrite"]])
def test_what_ctrl_c_stops_says_how_to_go_on(
    stop: object, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leanmed", "train", "folder", "--out", "my run", *given])
    with pytest.raises(typer.Exit) as caught, stoppable("--resume"):
        stop()  # type: ignore[operator]
    assert caught.value.exit_code == STOPPED
    assert capsys.readouterr().err.endswith("go on with:\nleanmed train folder --out 'my run' --resume\n")


def test_an_audit_goes_on_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leanmed", "audit", "images", "--out", "audit", "--overwrite"])
    with pytest.raises(typer.Exit), stoppable():
        interrupted()
    assert capsys.readouterr().err.endswith("go on with:\nleanmed audit images --out audit --overwrite\n")


def test_another_exit_stays_one() -> None:
    with pytest.raises(SystemExit) as caught, stoppable("--resume"):
        sys.exit(3)
    assert caught.value.code == 3


def test_progress_is_told_in_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image a second for 100 s, a line every 30 s; the first second is before the first image."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("leanmed.console.time.monotonic", lambda: clock.now)
    lines: list[str] = []
    advance = now_and_then(lines.append, every=30)
    for number in range(1, 101):
        clock.now += 1
        advance("read", number, 100)
    assert lines == [
        "read: 30 of 100, about 68 s left",
        "read: 60 of 100, about 39 s left",
        "read: 90 of 100, about 10 s left",
    ]
    clock.now += 200
    advance("search", 5, 0)
    assert lines[3:] == ["search: 5 done"]


def test_a_log_gets_lines_of_long_work_and_none_of_quick_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("leanmed.console.time.monotonic", lambda: clock.now)
    with progress_bar("images", 3) as step:
        step(1)
        clock.now = 40.0
        step(2)
    with stages() as advance:
        advance("read", 1, 2)
        clock.now = 90.0
        advance("read", 2, 2)
        advance("compare", 1, 1)
    assert capsys.readouterr() == ("", "images: 2 of 3, about 20 s left\nread: 2 of 2\n")


def test_a_stage_that_comes_again_has_the_total_of_its_own_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("leanmed.console.time.monotonic", lambda: clock.now)
    with stages() as advance:
        for total in (2, 300, 300):
            advance("images", 1, total)
            clock.now += 40
            advance("images", 2, total)
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["images: 2 of 2", "images: 2 of 300", "images: 2 of 300"]


def test_items_are_told_when_they_are_through() -> None:
    told: list[tuple[int, int]] = []
    for item in tracked("ab", lambda done, total: told.append((done, total)), 6, before=3):
        assert len(told) == "ab".index(item)
    assert told == [(4, 6), (5, 6)]
