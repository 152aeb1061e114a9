"""`leanmed demo`: every step on made data, in the order a user takes them on his own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmed.cores import available_cores
from leanmed.errors import DataError
from leanmed.evaluation import evaluate_run
from leanmed.export.export import export
from leanmed.files import check_free, whole_folder, write_json
from leanmed.phantoms.chest import write_slices
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.phantoms.scans import write_luna16
from leanmed.reading.images import find_inputs, read_image
from leanmed.recipe.recipe import load_recipe
from leanmed.report.glossary import GLOSSARY
from leanmed.report.report import write_report
from leanmed.runtime.batch import predict_file
from leanmed.runtime.predictor import load
from leanmed.tasks.detection.luna16_rules import Points, match_scans, read_points
from leanmed.tasks.detection.scan_report import points
from leanmed.train.train import train

COUNT = 360  # photographs, or slices
SIGNAL = 3.0  # standard deviations between the classes' mean colours: easy, learnt in a minute
SCANS, FIRST_SCAN = 2, 10_000  # seeds from here on: chests that no slice was cut from
MARK = "phantoms/phantoms.json"
OWN = ("phantoms", "run", "report", "artifact", "answers", "predictions", "leanmed-audit")  # how its files begin


@dataclass(frozen=True)
class Kind:
    """What sets one demo apart from the other.

    Args:
        command: that starts it.
        recipe: what is trained.
        things: what is made, after their number.
        make: writes them to a new folder, `phantoms`.
        data, inputs, answers: what is learnt from, what is predicted, and the file of the answers, below the demo's
            folder.
    """

    command: str
    recipe: str
    things: str
    make: Callable[[Path], None]
    data: str
    inputs: str
    answers: str


def _make_eyelids(root: Path) -> None:
    PHANTOMS["eyelids"](root, count=COUNT, signal=SIGNAL, sites=3, copies=0.2, seed=0)


def _make_ct(root: Path) -> None:
    with whole_folder(root) as folder:
        write_slices(folder / "slices", COUNT)
        write_luna16(folder / "scans", SCANS, FIRST_SCAN, spacing=(1.0, 1.0, 2.5))
        write_json(folder / Path(MARK).name, {"note": "made data, no patients", "slices": COUNT, "scans": SCANS})


EYELIDS = Kind(
    command="leanmed demo",
    recipe="demo",
    things="photographs of eyelids",
    make=_make_eyelids,
    data="phantoms",
    inputs="phantoms/images",
    answers="predictions.jsonl",
)
NODULES = Kind(
    command="leanmed demo --nodules",
    recipe="demo-nodules",
    things=f"slices of chest CT and {SCANS} whole scans",
    make=_make_ct,
    data="phantoms/slices",
    inputs="phantoms/scans",
    answers="answers.jsonl",
)


def run_demo(out: Path, kind: Kind = EYELIDS, *, overwrite: bool = False, tell: Callable[[str], None] = print) -> None:
    """Make data, train, evaluate, export, predict; everything lands in `out`.

    Raises:
        DataError: `out` holds something that is no demo, or a demo and `overwrite` is false.
    """
    _make_room(out, overwrite)
    tell(f"1  making {COUNT} {kind.things}: made data, no patients")
    kind.make(out / "phantoms")
    tell("2  training")
    run = train(load_recipe(kind.recipe), out / kind.data, out / "run", tell=tell)
    tell("3  evaluating, each fold on images it has not seen")
    report = evaluate_run(run, command=kind.command)
    write_report(out / "report", report, read=read_image)
    tell("4  exporting")
    export(run, out / "artifact")
    tell("5  predicting without torch")
    predictor = load(out / "artifact")
    inputs = list(find_inputs([str(out / kind.inputs)], scans=predictor.takes_scans))
    predict_file(predictor, inputs, out / kind.answers, workers=available_cores())
    figure = report.figures[report.main_score]
    name = GLOSSARY[report.main_score].title
    tell(f"{name} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}) on made data")
    if kind is NODULES:
        tell(found_in_scans(out / kind.answers, out / kind.inputs))
        tell(f"open {out / 'answers-montages'}: the best candidates of each scan")
    tell(f"open {out / 'report' / 'report.html'}")


def found_in_scans(answers: Path, scans: Path) -> str:
    """How many of the nodules planted in scans are among the candidates, by LUNA16's rule.

    Args:
        answers: a file of `predict_file`, of scans.
        scans: their folder, in LUNA16's layout.
    """
    lines = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    found = {Path(line["input"]).stem: line["candidates"] for line in lines}
    sure = {uid: [candidate for candidate in of if candidate["answered"]] for uid, of in found.items()}
    nodules = read_points(scans / "annotations.csv", "diameter_mm")
    (hits, marks), (sure_hits, sure_marks) = (_hits(candidates, nodules) for candidates in (found, sure))
    return (
        f"{hits} of {len(nodules.scan)} planted nodules are among the {marks} candidates in the scans, "
        f"{sure_hits} among the {sure_marks} that reach the threshold"
    )


def _hits(found: Mapping[str, list[Any]], nodules: Points) -> tuple[int, int]:
    """How many nodules the candidates of the scans hit, and how many candidates there are."""
    candidates = points({uid: [(*c["world_mm_xyz"], c["score"]) for c in of] for uid, of in found.items()})
    return int(match_scans(list(found), candidates, nodules).hit.sum()), len(candidates.scan)


def _make_room(out: Path, overwrite: bool) -> None:
    is_demo = (out / MARK).is_file()
    if is_demo and not overwrite:
        raise DataError(f"{out} holds a demo already; add --overwrite, or choose another --out")
    if is_demo:
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith(OWN) and p.suffix != ".part")
        if others:
            raise DataError(f"expected nothing but a demo in {out}, got also {', '.join(others)}; move that elsewhere")
        shutil.rmtree(out)
    else:
        check_free(out)
