"""What commands share on the screen."""

from __future__ import annotations

import sys

import pytest
import typer

from leanmed.console import STOPPED, stoppable


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
