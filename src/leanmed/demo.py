"""`leanmed demo`: every step on made data, in the order a user takes them on his own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leanmed.config import load_recipe
from leanmed.data.phantoms import PHANTOMS
from leanmed.errors import DataError
from leanmed.evaluation import evaluate_run
from leanmed.export import export
from leanmed.files import whole_folder
from leanmed.report import write_report
from leanmed.runtime.batch import predict_file
from leanmed.runtime.input import find_inputs, read_image
from leanmed.runtime.predictor import load
from leanmed.training import train

COUNT = 360
SIGNAL = 3.0  # distance between the classes' mean colours in standard deviations: an easy task, learnt in a minute
MARK = "phantoms/phantoms.json"


def run_demo(out: Path, *, overwrite: bool = False, tell: Callable[[str], None] = print) -> None:
    """Make data, train, evaluate, export, predict; everything lands in `out`, whole or not at all.

    Raises:
        DataError: `out` holds something that is no demo, or a demo and `overwrite` is false.
    """
    is_demo = (out / MARK).is_file()
    if is_demo and not overwrite:
        raise DataError(f"{out} holds a demo already; add --overwrite, or choose another --out")
    with whole_folder(out, replace=is_demo) as folder:
        tell(f"1  making {COUNT} photographs of eyelids: made data, no patients")
        data = PHANTOMS["eyelids"](folder / "phantoms", count=COUNT, signal=SIGNAL, sites=3, copies=0.2, seed=0)
        tell("2  training")
        run = train(load_recipe("demo"), data, folder / "run", tell=tell)
        tell("3  evaluating on images no fold has seen")
        report = evaluate_run(run, command="leanmed demo")
        write_report(folder / "report", report, read=read_image)
        tell("4  exporting")
        export(run, folder / "artifact")
        tell("5  predicting without torch")
        predictor = load(folder / "artifact")
        predict_file(predictor, list(find_inputs([str(data / "images")])), folder / "predictions.jsonl", workers=2)
    figure = report.figures["auc"]
    tell(f"ROC-AUC {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}) on made data\nopen {out / 'report' / 'report.html'}")
