"""One rule for every `--out`: refused when it holds something, and `--overwrite` replaces what leanmed wrote there."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from leanmed.benchmark import benchmark
from leanmed.cli import app, main
from leanmed.errors import OutputError
from leanmed.files import write_json, write_text
from leanmed.outputs import Output
from leanmed.runs import RUN, Run

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WRITING = sorted(name for name, command in COMMANDS.items() if any(o.name == "out" for o in command.params))
PLACES = {
    "demo": (),
    "audit": ("PHOTOGRAPHS", "--dataset", "images", "--workers", "1"),
    "audit --split": ("--split", "PHOTOGRAPHS", "PHOTOGRAPHS", "--workers", "1"),
    "train": ("folder", "--data", "EYELIDS"),
    "evaluate": ("RUN", "--data", "EYELIDS"),
    "export": ("RUN",),
    "predict": ("ARTIFACT", "PHOTOGRAPHS"),
    "quantize": ("ARTIFACT", "--to", "int8", "--data", "EYELIDS"),
    "recalibrate": ("ARTIFACT", "--data", "EYELIDS"),
    "compare": ("ARTIFACT", "OTHER", "--data", "EYELIDS", "--seconds", "1"),
    "benchmark": ("ARTIFACT", "--images", "PHOTOGRAPHS", "--seconds", "1", "--repeats", "3"),
    "benchmark --device-table": ("ARTIFACT", "--seconds", "1", "--repeats", "3"),
    "profile": ("ARTIFACT", "--repeats", "3"),
    "compress": ("RUN", "--data", "EYELIDS", "--budget", "size=1MB", "--no-students", "--minutes", "0"),
    "web": ("ARTIFACT",),
    "web --single-file": ("ARTIFACT", "--single-file"),
    "reproduce": ("anemia", "--data", "EYELIDS"),
}
LONG = (
    "demo",
    "train",
    "export",
    "quantize",
    "recalibrate",
    "reproduce",
    "compress",
)  # their outputs are planted here, and replaced elsewhere
FILES = ("web --single-file", "predict", "benchmark", "benchmark --device-table", "profile")
OPTIONS = {"benchmark --device-table": "--device-table"}  # that say where it goes, of others --out


@pytest.fixture
def run(
    tiny_artifact: Path,
    finished_run: Run,
    photographs: list[Path],
    made_eyelids: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> Callable[..., tuple[int, str]]:
    """`run("audit --split", out, ...)`: exit status and standard error of the command on small inputs."""
    other = shutil.copytree(tiny_artifact, tmp_path_factory.mktemp("other") / "artifact")
    places = {
        "ARTIFACT": tiny_artifact,
        "OTHER": other,
        "RUN": finished_run.path,
        "PHOTOGRAPHS": photographs[0].parent,
        "EYELIDS": made_eyelids,
    }
    monkeypatch.setattr(benchmark, "_photograph", lambda path: photographs[0])

    def command(name: str, out: Path, *more: str) -> tuple[int, str]:
        arguments = [str(places.get(word, word)) for word in PLACES[name]]
        monkeypatch.setattr(
            sys, "argv", ["leanmed", name.split()[0], *arguments, OPTIONS.get(name, "--out"), str(out), *more]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return command


@pytest.fixture
def plant(tiny_artifact: Path, finished_run: Run) -> Callable[[str, Path], None]:
    """`plant("train", out)`: what the command leaves behind, as far as it takes to recognise it."""

    def planted(name: str, out: Path) -> None:
        if name in ("export", "quantize", "recalibrate"):
            shutil.copytree(tiny_artifact, out)
        elif name == "train":
            shutil.copytree(finished_run.path, out)
        elif name == "compress":
            write_json(out / "report.json", {"notice": "", "budget": {}, "candidates": []})
        elif name == "demo":
            write_json(out / "phantoms" / "phantoms.json", {"note": "made data, no patients"})
        else:
            (out / "runs" / "paper-0").mkdir(parents=True)
            shutil.copy(finished_run.path / RUN, out / "runs" / "paper-0")

    return planted


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name -> content and time of change, of every file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_every_command_that_writes_is_tried_here() -> None:
    assert sorted({name.split()[0] for name in PLACES}) == WRITING
    flags = {name: {flag for option in COMMANDS[name].params for flag in option.opts} for name in WRITING}
    assert [name for name, found in flags.items() if "--overwrite" not in found] == []


@pytest.mark.parametrize("name", PLACES)
def test_what_somebody_else_wrote_is_refused_with_and_without_overwrite(
    name: str, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    out = tmp_path / "work" / "out"
    write_text(out if name in FILES else out / "thesis.txt", "years of work")
    before = contents(tmp_path)
    for more in ((), ("--overwrite",)):
        status, err = run(name, out, *more)
        assert status == 2
        option = OPTIONS.get(name, "--out")
        assert re.fullmatch(rf"leanmed: expected {option} .* to be new.*, but .*; choose another {option}\n", err)
    assert contents(tmp_path) == before
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["out"]


@pytest.mark.parametrize("name", PLACES)
def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_refused(
    name: str, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    write_text(tmp_path / "out" / "a" if name in FILES else tmp_path / "out", "mine")
    before = contents(tmp_path)
    status, err = run(name, tmp_path / "out", "--overwrite")
    assert status == 2
    assert f"; choose another {OPTIONS.get(name, '--out')}\n" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in PLACES if name not in LONG])
def test_what_the_command_wrote_stays_until_overwrite_replaces_it_whole(
    name: str, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    out = tmp_path / "work" / "out"
    assert run(name, out)[0] in (0, 1)  # an audit of copies exits with 1
    before = contents(tmp_path)
    status, err = run(name, out)
    assert (status, contents(tmp_path)) == (2, before)
    option = OPTIONS.get(name, "--out")
    assert re.search(
        rf"to be new.*, but it holds .*; add .*--overwrite to replace \w+, or choose another {option}\n", err
    )
    assert run(name, out, "--overwrite")[0] in (0, 1)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    written = [path for path in after if path.startswith("work/out") and "/.cache/" not in path]
    assert [path for path in written if after[path][1] == before[path][1]] == [], "written anew, every file of it"
    if name not in FILES:
        write_text(out / "thesis.txt", "years of work")
        mixed = contents(tmp_path)
        status, err = run(name, out, "--overwrite")
        assert (status, contents(tmp_path)) == (2, mixed)
        assert "but it holds thesis.txt; choose another --out" in err


@pytest.mark.parametrize("name", LONG)
def test_what_took_long_stays_without_overwrite_or_with_anything_else_beside_it(
    name: str, run: Callable[..., tuple[int, str]], plant: Callable[[str, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plant(name, out)
    before = contents(tmp_path)
    status, err = run(name, out)
    assert (status, contents(tmp_path)) == (2, before)
    resumed = "--resume to go on with it, or " if name in ("train", "reproduce", "compress") else ""
    assert f"; add {resumed}--overwrite to replace it, or choose another --out\n" in err
    write_text(out / "thesis.txt", "years of work")
    status, err = run(name, out, "--overwrite")
    assert status == 2
    assert "but it holds thesis.txt; choose another --out" in err
    (out / "thesis.txt").unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["train", "predict", "reproduce", "compress"])
def test_nothing_is_resumed_and_replaced_at_once(
    name: str, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, err = run(name, tmp_path / "out", "--resume", "--overwrite")
    assert (status, err) == (2, "leanmed: expected --resume or --overwrite, got both; leave one out\n")
    assert list(tmp_path.iterdir()) == []


ALBUM = Output("an album", ("pictures",), "album.json", ("album.json", "*.jpg"), kept=(".cache",))


def test_an_output_is_known_by_its_marker_and_by_what_else_it_may_hold(tmp_path: Path, refused: Any) -> None:
    out = tmp_path / "out"
    for harmless in ("new", "empty", ".cache/a", ".a.jpg.1-2.part", ".DS_Store"):
        if harmless != "new":
            out.mkdir(exist_ok=True)
        if harmless not in ("new", "empty"):
            write_text(out / harmless, "")
        ALBUM.check(out)
    write_text(out / "a.jpg", "")
    with refused(OutputError, "to be new or empty, or to hold nothing but an album, but it holds a.jpg"):
        ALBUM.check(out, overwrite=True)
    for marker in ("[]", "{", '{"photographs": 1}'):
        write_text(out / "album.json", marker)
        with refused(OutputError, "to hold nothing but an album"):
            ALBUM.check(out, overwrite=True)
    write_json(out / "album.json", {"pictures": 1})
    ALBUM.check(out, overwrite=True)
    with refused(OutputError, "but it holds an album; add --overwrite to replace it"):
        ALBUM.check(out)
    write_text(out / "b.png", "")
    with refused(OutputError, "but it holds b.png; choose another"):
        ALBUM.check(out, overwrite=True)


def test_a_new_folder_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_json(out / "album.json", {"pictures": 1})
    write_text(out / "old.jpg", "")
    write_text(out / ".cache" / "a", "")

    def write(*, fail: bool) -> None:
        with ALBUM.folder(out, overwrite=True) as folder:
            write_json(folder / "album.json", {"pictures": 2})
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert set(contents(out)) == {"album.json", "old.jpg", ".cache/a"}
    write(fail=False)
    assert set(contents(out)) == {"album.json", ".cache/a"}


def test_the_page_lists_every_command_and_its_python_runs(tmp_path: Path, capsys: Any) -> None:
    page = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert sorted(name for cell in first_cells for name in re.findall("`(.*?)`", cell)) == sorted(PLACES)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write_text(tmp_path / "thesis.txt", "years of work")
    exec(code, {"folder": tmp_path})
    said = f"expected --out {tmp_path} to be new or empty, or to hold nothing but an artifact, but it holds thesis.txt;"
    assert capsys.readouterr().out.startswith(said)
