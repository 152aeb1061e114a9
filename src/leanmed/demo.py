"""`leanmed demo`: every step on made data, in the order a user takes them on his own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from leanmed.config import load_recipe
from leanmed.data.phantoms import PHANTOMS
from leanmed.errors import DataError
from leanmed.evaluation import evaluate_run
from leanmed.export import export
from leanmed.report import write_report
from leanmed.runtime.batch import predict_file
from leanmed.runtime.input import find_inputs, read_image
from leanmed.runtime.predictor import load
from leanmed.training import train

COUNT = 360
SIGNAL = 3.0  # standard deviations between the classes' mean colours: easy, learnt in a minute
MARK = "phantoms/phantoms.json"


def run_demo(out: Path, *, overwrite: bool = False, tell: Callable[[str], None] = print) -> None:
    """Make data, train, evaluate, export, predict; everything lands in `out`.

    Raises:
        DataError: `out` holds something that is no demo, or a demo and `overwrite` is false.
    """
    _make_room(out, overwrite)
    tell(f"1  making {COUNT} photographs of eyelids: made data, no patients")
    made = {"count": COUNT, "signal": SIGNAL, "sites": 3, "copies": 0.2, "seed": 0}
    data = PHANTOMS["eyelids"](out / "phantoms", **made)
    tell("2  training")
    run = train(load_recipe("demo"), data, out / "run", tell=tell)
    tell("3  evaluating, each fold on images it has not seen")
    report = evaluate_run(run, command="leanmed demo")
    write_report(out / "report", report, read=read_image)
    tell("4  exporting")
    export(run, out / "artifact")
    tell("5  predicting without torch")
    images = list(find_inputs([str(data / "images")]))
    predict_file(load(out / "artifact"), images, out / "predictions.jsonl", workers=2)
    figure = report.figures["auc"]
    tell(f"ROC-AUC {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}) on made data")
    tell(f"open {out / 'report' / 'report.html'}")


def _make_room(out: Path, overwrite: bool) -> None:
    is_demo = (out / MARK).is_file()
    if is_demo and not overwrite:
        raise DataError(f"{out} holds a demo already; add --overwrite, or choose another --out")
    if is_demo:
        shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(p.suffix != ".part" for p in out.iterdir())):
        raise DataError(f"expected {out} to be new or empty, but it holds something; choose another --out")
