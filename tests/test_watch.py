"""The live page of a run."""

from __future__ import annotations

import http.client
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from leanmed.errors import RunError
from leanmed.files import write_json
from leanmed.runs import FOLD, HISTORY, PROGRESS, RECIPE, RUN, Run, write_csv
from leanmed.tasks.recipes import open_run
from leanmed.watch import Server, page_of, trainings_of, watch

EPOCHS = 12


@pytest.fixture
def going(finished_run: Run, tmp_path: Path) -> Path:
    """A run whose first fold is done, while the second is after its third epoch of 12, trained by this process."""
    path = Path(shutil.copytree(finished_run.path, tmp_path / "<run>"))
    (path / "fold-1" / FOLD).unlink()
    scores = (0.5, 0.75, 0.625)
    rows = [{"epoch": k, "train_loss": 0.5, "val_loss": 0.25, "val_f1": f1} for k, f1 in enumerate(scores)]
    write_csv(path / "fold-1" / HISTORY, rows)
    tell(path)
    return path


def tell(path: Path, **changes: Any) -> None:
    """What the training of fold 1 says of itself."""
    about = {"epoch": 3, "epochs": EPOCHS, "images_per_second": 40.0, "seconds_an_epoch": 20.0}
    process = {"written": time.time(), "process": os.getpid(), "host": platform.node()}
    write_json(path / "fold-1" / PROGRESS, about | process | changes)


def state(path: Path) -> list[tuple[str, str, int, int]]:
    return [(t.name, t.state, t.epoch, t.epochs) for t in trainings_of(open_run(path))]


def cells(page: str) -> list[list[str]]:
    """The texts of the table, row by row."""
    rows = re.findall(r"<tr>(<td>.*?)</tr>", page)
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_a_training_that_runs_shows_epochs_scores_pace_and_the_time_left(going: Path) -> None:
    """Nine more epochs of 20 s are 3 minutes."""
    page = page_of(going)
    assert state(going) == [("fold 0", "done", 2, 2), ("fold 1", "training", 3, EPOCHS)]
    assert "Fold 1 is training: epoch 3 of 12 is over. At most 3 min left in all." in page
    first, second = cells(page)
    assert first == ["fold 0", "done", "2 of 2", "0.600", "0.700", "0.900", "2", "0.900", "–", "–"]
    assert second == ["fold 1", "training", "3 of 12", "0.500", "0.250", "0.625", "2", "0.750", "40", "3 min"]
    assert page.count("data:image/svg+xml;base64,") == 1
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "Research use only. Not a medical device." in page
    assert "&lt;run&gt;" in page
    assert not re.search(r"<run>|<script|https?://", page.replace("http-equiv", ""))


def test_folds_that_wait_are_counted_in_the_time_left(going: Path) -> None:
    facts = open_run(going).facts
    write_json(going / RUN, {**facts, "folds": 3})
    epochs = open_run(going).recipe.training.epochs
    assert state(going)[2] == ("fold 2", "waiting", 0, epochs)
    minutes = round((9 + epochs) * 20 / 60)
    assert f"At most {minutes} min left in all." in page_of(going)


def test_before_the_training_begins_the_page_waits(finished_run: Run, tmp_path: Path) -> None:
    assert f"No training has begun in {tmp_path / 'later'} yet." in page_of(tmp_path / "later")
    for name in (RECIPE, RUN):
        shutil.copy(finished_run.path / name, tmp_path / name)
    assert state(tmp_path) == [(f"fold {k}", "waiting", 0, finished_run.recipe.training.epochs) for k in (0, 1)]
    page = page_of(tmp_path)
    assert "is being prepared" in page
    assert "data:image" not in page
    tell(tmp_path, epoch=0, images_per_second=None, seconds_an_epoch=None)
    page = page_of(tmp_path)
    assert "Fold 1 is training: epoch 0 of 12 is over.</b>" in page
    assert cells(page)[1] == ["fold 1", "training", "0 of 12", *["–"] * 7]


def test_a_killed_training_is_told_from_one_that_runs(going: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tell(going, process=killed.pid)
    assert state(going)[1][1] == "training"
    killed.kill()
    killed.communicate()
    tell(going, process=killed.pid, written=time.time() - 301)
    assert state(going)[1] == ("fold 1", "stopped", 3, EPOCHS)
    page = page_of(going)
    assert "The training was stopped in fold 1, after epoch 3. The last news is 5 min old. Go on with: leanmed" in page
    assert 'http-equiv="refresh"' in page  # it may go on


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"host": "elsewhere", "process": 1 << 22}, "training"),
        ({"written": 1.0}, "stopped"),
        ({"host": "elsewhere", "written": 1.0}, "stopped"),
        ({"written": time.time() + 3600}, "training"),  # clocks of two machines differ
    ],
)
def test_what_cannot_be_asked_of_a_process_its_last_news_tells(
    changes: dict[str, Any], expected: str, going: Path
) -> None:
    tell(going, **changes)
    assert state(going)[1][1] == expected


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"written": "now", "process": 1, "epochs": 2}', b"\xff"])
def test_a_progress_file_that_says_nothing_is_none(content: bytes, going: Path) -> None:
    (going / "fold-1" / PROGRESS).write_bytes(content)
    assert state(going)[1][1] == "stopped"


def test_a_finished_training_says_what_comes_next_and_does_not_load_itself_anew(finished_run: Run) -> None:
    page = page_of(finished_run.path)
    assert f"The training is finished. Now: leanmed evaluate {finished_run.path} --data" in page
    assert 'http-equiv="refresh"' not in page


def test_the_model_of_all_images_has_a_row_when_its_training_has_begun(finished_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(finished_run.path, tmp_path / "run"))
    write_csv(path / "refit" / HISTORY, [{"epoch": 0, "train_loss": 0.5}])
    shutil.copy(path / "fold-0" / FOLD, path / "refit" / FOLD)
    assert state(path)[2] == ("all images", "done", 1, 1)
    (path / "refit" / FOLD).unlink()
    page = page_of(path)
    assert "The training was stopped in all images, after epoch 1. Go on with: leanmed export" in page
    assert cells(page)[2][3:8] == ["0.500", "–", "–", "–", "–"]


def test_a_run_that_cannot_be_read_is_said_to_be_so_and_asked_again(going: Path) -> None:
    (going / RUN).write_text("{")
    page = page_of(going)
    assert "cannot be read at the moment" in page
    assert 'http-equiv="refresh"' in page


def test_a_run_that_leaks_says_so_first(going: Path) -> None:
    write_json(going / RUN, {**open_run(going).facts, "leak": "This result LEAKS."})
    assert page_of(going).index("This result LEAKS.") < page_of(going).index("<h1>")


@pytest.fixture
def server(going: Path) -> Iterator[Server]:
    with Server(going) as made:
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_the_page_is_served_to_this_machine_and_cannot_load_anything_else(server: Server, going: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, headers, page = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Fold 1 is training: epoch 3 of 12 is over." in page
    write_json(going / "fold-1" / FOLD, {"best_epoch": 1})
    assert "The training is finished." in ask(server, Host=f"localhost:{server.server_port}")[2]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost.:PORT"])
def test_a_page_of_another_site_that_points_here_is_refused(host: str, server: Server) -> None:
    """DNS rebinding: a name that its owner has pointed to 127.0.0.1 would let the owner's page read this one."""
    status, _, text = ask(server, Host=host.replace("PORT", str(server.server_port)))
    assert status == 403
    assert "fold" not in text.lower()


@pytest.mark.parametrize("path", ["/run.json", "/../run.json", "/%2e%2e/run.json", "//run.json", "/?a"])
def test_nothing_but_the_page_is_served(path: str, server: Server) -> None:
    status, _, text = ask(server, path)
    assert status == 404
    assert text.startswith("There is one page: ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_reading_is_answered(method: str, server: Server) -> None:
    assert ask(server, method=method)[0] == 501


def test_a_port_that_is_taken_is_named(server: Server, going: Path, refused: Any) -> None:
    with refused(RunError, f"expected port {server.server_port} of this machine to be free", "another --port"):
        Server(going, server.server_port)


def test_ctrl_c_ends_it_after_the_address_was_told(going: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    told: list[str] = []
    shown: list[str] = []

    def stop(self: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", stop)
    watch(going, show=shown.append, tell=told.append)
    assert told[0].startswith(f"{shown[0]} shows {going}; Ctrl-C ends this")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", shown[0])
    with refused(RunError, "expected a run folder, got the file", "--out of leanmed train"):
        watch(going / RUN, tell=told.append)
